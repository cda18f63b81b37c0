"""Says what it inherited; as a worker it serves then. `inherits.py mask|ignore COMMAND...` blocks or ignores every signal and runs a command."""

import os
import resource
import signal
import sys

if len(sys.argv) > 1:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if sys.argv[1] == "mask":
            signal.pthread_sigmask(signal.SIG_BLOCK, {number})
        else:
            signal.signal(number, signal.SIG_IGN)
    os.execvp(sys.argv[2], sys.argv[2:])

from rcstub import Channel, say

umask = os.umask(0)
os.umask(umask)
masks = dict(line.split(":\t") for line in open("/proc/self/status").read().splitlines() if line.startswith("Sig"))
# 32 and 33 are the C library's own.
ignored = f"{int(masks['SigIgn'], 16) & ~(3 << 31):016x}"
limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}
say(
    "inherited", umask=oct(umask), limits=limits, blocked=masks["SigBlk"], ignored=ignored, session=os.getsid(0) == os.getpid(),
    group=os.getpgid(0) == os.getpid(), descriptors=sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")),
)
if "NODE_CHANNEL_FD" in os.environ:
    channel = Channel()
    listener = channel.serve(address="127.0.0.1")
    channel.forever(listener)

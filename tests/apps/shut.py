"""shut.py PID PORT NTH: shuts down the NTH socket of process PID that listens on PORT, as any worker that holds it could.

Prints how many there are. Needs the right to look into PID (pidfd_getfd(2))."""
import ctypes
import os
import socket
import sys

pid, port, nth = map(int, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
process = os.pidfd_open(pid)
found = []
for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
    if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
        continue
    copy = libc.syscall(438, process, int(name), 0)  # pidfd_getfd
    if copy < 0:
        sys.exit(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    one = socket.socket(fileno=copy)
    if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
        continue
    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and one.getsockname()[1] == port:
        if all(not os.path.sameopenfile(one.fileno(), other.fileno()) for other in found):
            found.append(one)
print(len(found))
if nth < len(found):
    found[nth].shutdown(socket.SHUT_RDWR)

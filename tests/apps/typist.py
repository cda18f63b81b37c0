"""A worker that types into the terminal that its master was started in (TIOCSTI, ioctl_tty(2)), by each descriptor that it can get of it."""

import errno
import fcntl
import os
import termios

from rcstub import Channel, say

MARK = b"typed-by-the-worker"


def typed(fd):
    """`typed`, or the name of the error."""
    try:
        for byte in MARK:
            fcntl.ioctl(fd, termios.TIOCSTI, bytes([byte]))
        return "typed"
    except OSError as error:
        return errno.errorcode[error.errno]


def attempts():
    """What came of each way."""
    results = {"standard error": typed(2)}
    ways = {
        "/dev/tty": "/dev/tty",
        "again": "/proc/self/fd/2",
        # A session without a terminal gets the one that it opens, unless another session has it.
        "by name": os.ttyname(2),
    }
    for name, path in ways.items():
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError as error:
            results[name] = errno.errorcode[error.errno]
            continue
        try:
            fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
        except OSError:
            pass
        results[name] = typed(fd)
        os.close(fd)
    return results


channel = Channel()
listener = channel.serve(address="127.0.0.1")
say("attempts", results=attempts(), isatty=os.isatty(2))
channel.forever(listener)

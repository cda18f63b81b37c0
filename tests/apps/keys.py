"""Keys of the kernel (keyctl(2)). `keys.py COMMAND...` runs a command in a session key ring that holds a secret; as a worker it tries to
read that secret."""

import ctypes
import os
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
ADD_KEY, KEYCTL = (248, 250) if os.uname().machine == "x86_64" else (217, 219)
JOIN, SEARCH, READ, SESSION = 1, 10, 11, -3


def call(number, *words):
    result = LIBC.syscall(number, *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


if len(sys.argv) > 1:
    call(KEYCTL, JOIN, None)
    call(ADD_KEY, b"user", b"of-root", b"the-secret", 10, SESSION)
    os.execvp(sys.argv[1], sys.argv[1:])

from rcstub import Channel, say

try:
    key = call(KEYCTL, SEARCH, SESSION, b"user", b"of-root", 0)
    text = ctypes.create_string_buffer(64)
    size = call(KEYCTL, READ, key, text, 64)
    found = text.raw[:size].decode()
except OSError as error:
    found = error.strerror
channel = Channel()
listener = channel.serve(address="127.0.0.1")
say("key", found=found)
channel.forever(listener)

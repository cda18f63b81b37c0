#!/usr/bin/env python3
"""Swaps two names for ever, until nobody holds its stdin any more. Nothing here knows of rcluster."""
import ctypes
import os
import select
import sys

libc = ctypes.CDLL(None, use_errno=True)
one, other = (os.fsencode(name) for name in sys.argv[1:3])
print('swaps', flush=True)
while True:
    for _ in range(1000):
        if libc.renameat2(-100, one, -100, other, 2):  # AT_FDCWD, RENAME_EXCHANGE
            sys.exit(os.strerror(ctypes.get_errno()))
    if select.select([0], [], [], 0)[0]:
        break

"""Slot 0 dies at once, the others serve."""

import sys

from rcstub import SLOT, Channel

if SLOT == "0":
    sys.exit(1)
channel = Channel()
channel.forever(channel.serve(address="127.0.0.1"))

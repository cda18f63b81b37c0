"""A worker whose fate the test writes into files of the folder FATE: it notes every start in `starts` (one line: time in
milliseconds, slot), dies at once while `bad` exists, and serves otherwise."""

import os
import sys
import time

from rcstub import SLOT, Channel

folder = os.environ["FATE"]
with open(os.path.join(folder, "starts"), "a") as starts:
    starts.write(f"{time.monotonic_ns() // 1_000_000} {SLOT}\n")
if os.path.exists(os.path.join(folder, "bad")):
    print("the database of today is gone", file=sys.stderr, flush=True)
    sys.exit(7)
channel = Channel()
channel.forever(channel.serve(address="127.0.0.1"))

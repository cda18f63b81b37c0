"""A worker that serves and ignores everything that asks it to end: TERM, INT, `disconnect`, even the end of its channel."""

import signal

from rcstub import Channel, say

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
channel = Channel()
listener = channel.serve(address="127.0.0.1")
say("listening")
channel.forever(listener, ignore_disconnect=True)

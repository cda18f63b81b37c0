"""A worker that does everything right, and starts faster than Node."""

from rcstub import Channel

channel = Channel()
channel.forever(channel.serve(address="127.0.0.1"))

"""A worker that asks, reports and counts without measure: `greedy.py DEED N`, in the slot of RCLUSTER_SLOT that BAD names."""

import os
import sys
import time

from rcstub import SLOT, Channel, say

deed, times = sys.argv[1], int(sys.argv[2])
channel = Channel()


def gate():
    """Queries that the gate holds; then more, which must be answered."""
    channel.online()
    data = {"filler": "y" * 900}
    for n in range(64):
        channel.send(channel.query_message(address="127.0.0.1", index=n, data=data))
    refused = 0
    for n in range(times):
        message, _ = channel.query(address="127.0.0.1", index=100 + n, data=data)
        refused += message["errno"] == -24
    say("held", refused=refused)
    time.sleep(3600)


def long_keys():
    """Addresses of 900 KB, and others that are as long as a path may be."""
    errnos = set()
    for n in range(times):
        message, _ = channel.query(address=f"{n:06}" + "x" * 900_000)
        errnos.add(message["errno"])
    for n in range(times * 10):
        message, _ = channel.query(address=f"{n:06}" + "x" * 4000)
        errnos.add(message["errno"])
    say("answered", errnos=sorted(errnos))


def aliases():
    """One declared address under ever new keys."""
    granted = 0
    for n in range(times):
        message, fd = channel.query(address="127.0.0.1%" + str(n), port=int(os.environ["DECLARED"]))
        if fd is not None:
            granted += 1
            os.close(fd)
    say("answered", granted=granted, errno=message["errno"])


def errors():
    """Uncaught errors that the app handles."""
    text = "x" * 20_000
    for n in range(times):
        channel.send({"cmd": "NODE_RCLUSTER", "act": "error", "name": "Error", "message": text, "handled": True})
    for n in range(times):
        channel.send({"cmd": "NODE_RCLUSTER", "act": "draining", "connections": n})
        channel.send({"cmd": "NODE_RCLUSTER", "act": "drained", "cut": 1})
    message, fd = channel.query(address="127.0.0.1", index=77)
    os.close(fd)
    say("answered", errno=message["errno"])


def counters():
    """The largest numbers that a message can hold, in every count."""
    most = 2**64 - 1
    beat = {name: most for name in [
        "requests", "accepted", "duration_us", "connections", "heap_used", "heap_limit", "delay_us", "delay_p50_us", "delay_p99_us"]}
    channel.send({"cmd": "NODE_RCLUSTER", "act": "hello", "node": "x" * 100_000, "queues": False})
    for n in range(times):
        channel.send({"cmd": "NODE_RCLUSTER", "act": "beat", **beat, "classes": [most] * 1000, "durations": [most] * 1000, "busy": 2**32 - 1})
        channel.send({"cmd": "NODE_RCLUSTER", "act": "load", "accepted": 0, "connections": 0})
        channel.send({"cmd": "NODE_RCLUSTER", "act": "load", "accepted": most, "connections": most})
    channel.send({"cmd": "NODE_RCLUSTER", "act": "left", "connections": most})
    message, fd = channel.query(address="127.0.0.1", index=77)
    os.close(fd)
    say("answered", errno=message["errno"])


bad = SLOT in os.environ["BAD"].split(",")
act = {"gate": gate, "long_keys": long_keys, "aliases": aliases, "errors": errors, "counters": counters}[deed]
if bad and deed == "gate":
    gate()
listener = channel.serve(address="127.0.0.1", port=int(os.environ.get("DECLARED", "0")))
if bad:
    act()
channel.forever(listener)

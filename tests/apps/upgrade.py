"""A worker that is caught by an upgrade of the master in the middle of everything, step by step: it says a step's name and
goes on when the file GO-name appears. (1) half of a line is sent, (2) a handle is not acknowledged and another answer waits
behind it, (3) answers that are more than the socket's buffer are not read."""

import json
import os
import time

from rcstub import Channel, say


def step(name):
    say(name)
    while not os.path.exists(os.environ["GO"] + "-" + name):
        time.sleep(0.005)


channel = Channel()
listener = channel.serve(address="127.0.0.1")

query = channel.query_message(address="127.0.0.1", index=71, data="x" * 1000, unknown="z" * 50_000)
line = json.dumps(query).encode() + b"\n"
channel.raw(line[:25_000])
step("half")
channel.raw(line[25_000:])
message, fd = channel.answer(query["seq"])
say("whole", handle=fd is not None, data=len(message["data"]))

first = channel.query_message(address="127.0.0.1", index=72)
second = channel.query_message(address="127.0.0.1", index=73)
channel.send(first)
channel.send(second)
held = channel.receive()
assert held["cmd"] == "NODE_HANDLE" and held["msg"]["ack"] == first["seq"], held
os.close(channel.fds.pop(0))
step("held")
channel.send({"cmd": "NODE_HANDLE_ACK"})
message, fd = channel.answer(second["seq"])
say("acknowledged", handle=fd is not None)

queries = [channel.query_message(address="127.0.0.1", index=74, data="y" * 1000) for _ in range(600)]
for query in queries:
    channel.send(query)
step("full")
answers = [channel.answer(query["seq"]) for query in queries]
# Of one key the first alone gets a handle.
say("drained", handle=answers[0][1] is not None, data=sum(len(message["data"]) for message, _ in answers))
channel.forever(listener)

"""Serves connections that it is handed. The worker of slot 0 takes no handle any more once it listens."""

import os
import socket

from rcstub import SLOT, Channel, reply, say

channel = Channel()
channel.online()
answer, _ = channel.query(address="127.0.0.1")
# The master accepts, and hands over what comes.
where = answer["sockname"]
channel.cluster("listening", seq=channel.next(), address=where["address"], port=where["port"], addressType=4)
while True:
    message = channel.receive(600)
    if message is None or message.get("act") == "disconnect":
        break
    if message.get("cmd") != "NODE_HANDLE":
        continue
    fd = channel.fds.pop(0)
    if SLOT == "0":
        # As Node without a free descriptor.
        say("refused")
        os.close(fd)
        channel.send({"cmd": "NODE_HANDLE_NACK"})
        continue
    channel.send({"cmd": "NODE_HANDLE_ACK"})
    channel.send({"cmd": "NODE_CLUSTER", "ack": message["msg"]["seq"], "accepted": True})
    reply(socket.socket(fileno=fd))

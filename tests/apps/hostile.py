"""A worker that becomes ready, then misbehaves on the channel: `hostile.py DEED [ARG]`. Only slot 0 does; the others serve."""

import json
import os
import signal
import socket
import sys
import time

from rcstub import SLOT, Channel, say

deed = sys.argv[1]
arg = sys.argv[2] if len(sys.argv) > 2 else None
channel = Channel()


def again():
    """Was slot 0 already bad once? Its replacement behaves."""
    mark = os.environ.get("ONCE")
    if mark is None:
        return False
    if os.path.exists(mark):
        return True
    open(mark, "w").close()
    return False


def proves_alive(port=0):
    """A query that has to be answered: what came before it did no harm to the channel."""
    message, fd = channel.query(address="127.0.0.1", port=port, index=77)
    say("alive", errno=message.get("errno"), handle=fd is not None)
    if fd is not None:
        os.close(fd)
        channel.cluster("close", key=message["key"], seq=channel.next())


def malformed():
    for n in range(int(arg)):
        channel.raw([b"{no json\n", b"\xff\xfe\xfd\n", b"[" * 20000 + b"\n", b"\n", b'"text"\n', b"null\n", b"[1,2]\n", b'{"cmd":\n'][n % 8])
    proves_alive()


def nested():
    """Deep nesting that would overflow a recursive parser's stack, in a value that is otherwise fine."""
    channel.raw(b'{"cmd":"NODE_CLUSTER","act":"online","x":' + b"[" * 300000 + b"]" * 300000 + b"}\n")
    channel.raw(b'{"a":' * 100000 + b"1" + b"}" * 100000 + b"\n")
    proves_alive()


def long_line():
    """One line of ARG MiB, then a good one."""
    chunk = b"x" * (1 << 20)
    channel.raw(b'{"text":"')
    for _ in range(int(arg)):
        channel.raw(chunk)
    channel.raw(b'"}\n')
    proves_alive()


def endless_line():
    """ARG MiB with no end of line, then the end of the process."""
    chunk = b"x" * (1 << 20)
    for _ in range(int(arg)):
        channel.raw(chunk)
    say("sent")
    os._exit(0)


def split():
    """A query byte by byte."""
    message = channel.query_message(address="127.0.0.1", index=5)
    for byte in json.dumps(message).encode() + b"\n":
        channel.raw(bytes([byte]))
        time.sleep(0.001)
    answer, fd = channel.answer(message["seq"])
    say("alive", errno=answer.get("errno"), handle=fd is not None)


def half_line():
    channel.raw(b'{"cmd":"NODE_CLUSTER","act":"onl')
    os._exit(0)


def flood():
    """for (;;) process.send(x), as fast as the master takes it."""
    lines = b'{"x":"0123456789"}\n' * 4000
    say("flooding")
    while True:
        channel.raw(lines)


def chatter():
    """Messages that a master at --log-level trace tells of, one line each, as fast as it takes them."""
    line = json.dumps({"cmd": "NODE_FUTURE", "text": "x" * 100}).encode() + b"\n"
    channel.raw(line * 20000)
    proves_alive()
    say("chattered")


def unknown():
    """Acts, numbers and types that nobody agreed on. None may harm the master or end this worker's channel."""
    cluster = {"cmd": "NODE_CLUSTER"}
    for message in [
        {**cluster, "act": "newact", "seq": channel.next()},
        {**cluster, "act": 7, "seq": "seven"},
        {**cluster, "act": "online", "seq": -1},
        {**cluster, "act": "online", "seq": 1e300},
        {**cluster, "act": "online", "seq": 18446744073709551615},
        {**cluster, "ack": 123456, "accepted": True},
        {**cluster, "ack": 1},
        {**cluster},
        {**cluster, "act": "listening"},
        {**cluster, "act": "listening", "address": "127.0.0.1", "port": 4, "addressType": 4, "seq": channel.next()},
        {**cluster, "act": "listening", "address": ["x"], "port": {}, "addressType": "no", "seq": channel.next()},
        {**cluster, "act": "close", "key": "nobody:1:4:undefined", "seq": channel.next()},
        {**cluster, "act": "close", "key": 99},
        {**cluster, "act": "close"},
        {"cmd": "NODE_HANDLE_ACK"}, {"cmd": "NODE_HANDLE_ACK"}, {"cmd": "NODE_HANDLE_NACK"},
        {"cmd": "NODE_HANDLE", "type": "net.Native", "msg": {}},
        {"cmd": "NODE_HANDLE", "type": "what.Ever"},
        {"cmd": "NODE_SOMETHING", "x": 1}, {"cmd": "NODE_RCLUSTER"}, {"cmd": "NODE_RCLUSTER", "act": "sing"},
        {"cmd": "NODE_RCLUSTER", "act": "hello", "v": 99999, "node": 3}, {"cmd": "NODE_RCLUSTER", "act": "drained", "cut": -5},
        {"cmd": "NODE_RCLUSTER", "act": "draining", "connections": "many"},
        {"cmd": 5}, {"cmd": None}, {"cmd": ""}, 5, "ready?", [], True, None,
    ]:
        channel.send(message)
    # Queries that cannot be served: each must be answered with an errno or not at all, never with a crash.
    for how in [
        {"port": 70000, "address": "127.0.0.1"}, {"port": -1, "address": "127.0.0.1"}, {"port": "http", "address": "127.0.0.1"},
        {"port": 0, "address": "not an address"}, {"port": 0, "address": 7}, {"port": 0, "address": "127.0.0.1", "kind": 5},
        {"port": 0, "address": "127.0.0.1", "kind": "udp9"}, {"port": -1, "address": "x" * 500, "kind": -1},
        {"port": -1, "address": "/tmp/" + "y" * 300, "kind": -1}, {"port": -1, "address": "", "kind": -1},
        {"port": 0, "address": "127.0.0.1", "flags": "x"}, {"port": 0, "address": "127.0.0.1", "backlog": "deep"},
        {"port": 0, "address": "127.0.0.1", "backlog": -1}, {"port": 0, "address": "127.0.0.1", "index": -4},
        {"port": 0, "address": "::1", "kind": 4}, {"port": 0, "address": "127.0.0.1", "kind": 6},
    ]:
        channel.send(channel.query_message(**how))
    channel.send({"cmd": "NODE_CLUSTER", "act": "queryServer"})
    channel.send({"cmd": "NODE_CLUSTER", "act": "queryServer", "seq": channel.next()})
    proves_alive()


def same_key():
    """The same query twice with no close between: EADDRINUSE and no handle; after a close the handle again."""
    def ask():
        message, fd = channel.query(address="127.0.0.1", index=9)
        say("asked", errno=message.get("errno"), handle=fd is not None)
        return message
    first = ask()
    ask()
    channel.cluster("close", key=first["key"], seq=channel.next())
    ask()
    say("alive", errno=0, handle=True)


def handles():
    """Sends the master 300 sockets, with and without the message that announces one."""
    pairs = []
    for n in range(300):
        left, right = socket.socketpair()
        kinds = [
            {"cmd": "NODE_HANDLE", "type": "net.Native", "msg": {"n": n}},
            {"cmd": "NODE_HANDLE", "type": "net.Socket", "msg": {"n": n}, "key": "x"},
            {"cmd": "NODE_CLUSTER", "act": "online", "seq": channel.next()},
            {"just": "a message"},
        ]
        socket.send_fds(channel.sock, [json.dumps(kinds[n % 4]).encode() + b"\n"], [left.fileno()])
        left.close()
        pairs.append(right)
    proves_alive()
    for right in pairs:
        right.settimeout(10)
        if right.recv(1) != b"":
            raise SystemExit("the master kept a socket")
    say("closed", acks=channel.acks)


def many_fds():
    """Many descriptors on one byte, and in the middle of a line."""
    for _ in range(20):
        pairs = [socket.socketpair() for _ in range(50)]
        fds = [end.fileno() for pair in pairs for end in pair]
        socket.send_fds(channel.sock, [b'{"half":'], fds)
        channel.raw(b"1}\n")
        for pair in pairs:
            for end in pair:
                end.close()
    proves_alive()


def both_ways():
    """More than the socket takes, both ways at once: ARG queries are written before one answer is read. Of one key only
    the first gets a handle; every answer carries its asker's data."""
    data = "d" * 900
    seqs = []
    for n in range(int(arg)):
        message = channel.query_message(address="127.0.0.1", index=100, data={"blob": data})
        seqs.append(message["seq"])
        channel.send(message)
    for n in range(16):
        channel.send({"n": n, "blob": data * 550})
    for seq in seqs:
        message, fd = channel.answer(seq)
        if (fd is None) == (seq == seqs[0]) or message["data"]["blob"] != data:
            raise SystemExit(f"another answer: {message.get('errno')}")
        if fd is not None:
            os.close(fd)
    say("alive", errno=0, handle=True)


def deaf():
    """Asks and asks, and reads none of the answers."""
    channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    message = channel.query_message(address="127.0.0.1", port=1, data=None)
    message["key"] = "k" * 1000
    line = json.dumps(message).encode() + b"\n"
    say("deaf")
    while True:
        channel.raw(line * 50)


def dies_asking():
    """Ends in the middle of its questions, so that the master writes to nobody (EPIPE, SIGPIPE)."""
    for n in range(20):
        channel.send(channel.query_message(address="127.0.0.1", index=n))
    os._exit(0)


def lowers_backlog():
    listener.listen(3)
    channel.listening(listener)
    say("lowered")


def shuts_down():
    """Shuts the shared listener down, ARG times: it is down for everybody who holds it."""
    for _ in range(int(arg)):
        try:
            listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is down already
        time.sleep(0.002)
    say("shut")


def shuts_a_path_down():
    """The same to a Unix socket at the path ARG, which the kernel does not open again."""
    message, fd = channel.query(address=arg, port=-1, kind=-1)
    socket.socket(fileno=fd).shutdown(socket.SHUT_RDWR)
    say("shut")


def close_channel():
    channel.sock.close()
    say("closed")
    while True:
        try:
            conn, _ = listener.accept()
        except BlockingIOError:
            time.sleep(0.01)
            continue
        conn.close()


def greedy():
    """Asks for ARG listeners."""
    granted = errors = 0
    for n in range(int(arg)):
        message, fd = channel.query(address="127.0.0.1", index=1000 + n)
        if fd is None:
            errors += 1
        else:
            granted += 1
            os.close(fd)
    say("greedy", granted=granted, errors=errors, errno=message.get("errno"))


def privileged():
    message, fd = channel.query(address="127.0.0.1", port=int(arg))
    say("privileged", errno=message.get("errno"), handle=fd is not None)


listener = channel.serve(address="127.0.0.1")
if SLOT == "0" and not again():
    # Until the test says go the worker is a good one.
    go = os.environ.get("GO")
    while go and not os.path.exists(go):
        time.sleep(0.01)
    {name: deed_ for name, deed_ in globals().items() if callable(deed_)}[deed]()
channel.forever(listener)

"""The worker's side of Node's cluster channel, by hand, so that a test controls every byte."""

import json
import os
import select
import socket
import sys
import time

SLOT = os.environ.get("RCLUSTER_SLOT")


def say(event, **more):
    """One JSON line a fact; the tests read them."""
    os.write(1, (json.dumps({"event": event, "pid": os.getpid(), "slot": SLOT, **more}) + "\n").encode())


class Channel:
    """Blocking channel; a handle that arrives is acknowledged at once."""

    def __init__(self):
        self.sock = socket.socket(fileno=int(os.environ["NODE_CHANNEL_FD"]))
        self.sock.setblocking(True)
        self.id = os.environ["NODE_UNIQUE_ID"]
        self.seq = 0
        self.buffer = b""
        self.fds = []
        self.acks = 0

    def raw(self, data):
        self.sock.sendall(data)

    def send(self, message):
        self.raw(json.dumps(message).encode() + b"\n")

    def cluster(self, act, **more):
        self.send({"cmd": "NODE_CLUSTER", "act": act, **more})

    def online(self):
        self.cluster("online", seq=self.next())

    def next(self):
        self.seq += 1
        return self.seq

    def receive(self, timeout=30):
        """The next message, or None at the end of the channel."""
        end = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError("the master says nothing")
            data, fds, _, _ = socket.recv_fds(self.sock, 65536, 8)
            self.fds.extend(fds)
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def answer(self, seq, timeout=30):
        """The answer to the query `seq`: (message, fd or None). Others are dropped, handles among them closed."""
        while True:
            message = self.receive(timeout)
            if message is None:
                raise EOFError("the channel ended")
            fd = None
            if message.get("cmd") == "NODE_HANDLE":
                fd = self.fds.pop(0)
                self.send({"cmd": "NODE_HANDLE_ACK"})
                message = message["msg"]
            elif message.get("cmd") == "NODE_HANDLE_ACK":
                self.acks += 1
                continue
            if message.get("ack") == seq:
                return message, fd
            if fd is not None:
                os.close(fd)

    def query_message(self, port=0, address=None, kind=4, index=0, data=None, **more):
        return {
            "cmd": "NODE_CLUSTER", "act": "queryServer", "seq": self.next(), "address": address, "port": port,
            "addressType": kind, "fd": None, "index": index, "data": data, "flags": 0, "backlog": 511, **more,
        }

    def query(self, **how):
        message = self.query_message(**how)
        self.send(message)
        return self.answer(message["seq"])

    def listening(self, sock, kind=4):
        host, port = sock.getsockname()[:2]
        self.cluster("listening", seq=self.next(), address=host, port=port, addressType=kind)

    def serve(self, **how):
        """Queries, listens, and gives the listening socket."""
        self.online()
        message, fd = self.query(**how)
        if fd is None:
            raise OSError(f"no listener: {message}")
        listener = socket.socket(fileno=fd)
        self.listening(listener)
        return listener

    def forever(self, listener, ignore_disconnect=False, read=True):
        """Answers every connection with one HTTP answer; ends with the channel or on `disconnect`."""
        listener.setblocking(False)
        watched = [listener, self.sock] if read else [listener]
        while True:
            for ready in select.select(watched, [], [])[0]:
                if ready is listener:
                    try:
                        conn, _ = listener.accept()
                    except OSError:
                        continue
                    reply(conn)
                elif not self.one(ignore_disconnect):
                    watched.remove(self.sock)

    def one(self, ignore_disconnect):
        """Takes one chunk off the channel; False at its end when the end is to be ignored."""
        data, fds, _, _ = socket.recv_fds(self.sock, 65536, 8)
        for fd in fds:
            os.close(fd)
        stop = not data or b'"disconnect"' in data or b'"drain"' in data
        if stop and not ignore_disconnect:
            sys.exit(0)
        return bool(data)


def reply(conn):
    """One HTTP answer with our pid."""
    try:
        conn.setblocking(True)
        conn.settimeout(5)
        conn.recv(65536)
        body = json.dumps({"pid": os.getpid(), "slot": SLOT}).encode()
        conn.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    except OSError:
        pass
    finally:
        conn.close()

"""Connections to a port of this host, more than a shell may have open; open until standard input ends.

Usage: crowd.py PORT COUNT. Prints how many there are.
"""

import resource
import socket
import sys

port, count = int(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
crowd = []
try:
    while len(crowd) < count:
        client = socket.socket()
        client.setblocking(False)
        # It has not come about yet.
        client.connect_ex(("127.0.0.1", port))
        crowd.append(client)
except OSError:
    pass
print(len(crowd), flush=True)
sys.stdin.read()

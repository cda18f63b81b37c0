"""Runs a command in a pseudo-terminal of its own: `terminal.py GO COMMAND...` types Ctrl-C when the file GO appears, or closes the
terminal if it says so, copies what the terminal shows to stdout, and ends with the command's exit code (128 + signal after a death by one)."""

import os
import pty
import select
import sys

go, command = sys.argv[1], sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
typed = False
while True:
    if not typed and os.path.exists(go):
        if open(go).read() == "close":
            os.close(terminal)
            break
        os.write(terminal, b"\x03")
        typed = True
    if not select.select([terminal], [], [], 0.02)[0]:
        continue
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    if not data:
        break
    os.write(1, data)
status = os.waitpid(pid, 0)[1]
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))

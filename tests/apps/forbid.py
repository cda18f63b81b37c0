"""A sandbox: forbid.py WHAT[,WHAT...] COMMAND... runs COMMAND in a seccomp filter by which some calls fail with EPERM.

reuseport: setsockopt(SO_REUSEPORT); attach: setsockopt(SO_ATTACH_REUSEPORT_CBPF and _EBPF); bpf: bpf(2)."""
import ctypes
import os
import platform
import struct
import sys

SETSOCKOPT, BPF = {"x86_64": (54, 321), "aarch64": (208, 280)}[platform.machine()]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000 | 1  # EPERM

forbidden = sys.argv[1].split(",")
options = [15] if "reuseport" in forbidden else []
options += [51, 52] if "attach" in forbidden else []

code = [(LOAD, 0, 0, 0)]
if "bpf" in forbidden:
    code += [(EQUAL, 0, 1, BPF), (RETURN, 0, 0, FAIL)]
code += [(EQUAL, 0, 2 + 2 * len(options) + 1, SETSOCKOPT)]
code += [(LOAD, 0, 0, 24), (EQUAL, 0, 2 * len(options) + 1, 1), (LOAD, 0, 0, 32)]
for option in options:
    code += [(EQUAL, 0, 1, option), (RETURN, 0, 0, FAIL)]
code += [(RETURN, 0, 0, ALLOW)]

raw = b"".join(struct.pack("HBBI", *one) for one in code)
buffer = ctypes.create_string_buffer(raw, len(raw))
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, ctypes.create_string_buffer(program, 16), 0, 0) != 0:
    sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[2], sys.argv[2:])

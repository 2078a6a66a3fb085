#!/usr/bin/python3
"""Runs a program on a system without io_uring: no_uring.py PROGRAM ARGS.

io_uring_setup(2) fails with ENOSYS, as where the kernel was built without it.
"""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
IO_URING_SETUP, ENOSYS = 425, 38
# Classic BPF (linux/filter.h): load the number, compare, return.
FILTER = [(0x20, 0, 0, 0), (0x15, 0, 1, IO_URING_SETUP), (0x06, 0, 0, 0x00050000 | ENOSYS), (0x06, 0, 0, 0x7FFF0000)]


class Prog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("HBBI", *x) for x in FILTER)
    prog = Prog(len(FILTER), code)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(prog), 0, 0):
        sys.exit("no_uring.py: %s" % os.strerror(ctypes.get_errno()))
    os.execv(sys.argv[1], sys.argv[1:])


main()

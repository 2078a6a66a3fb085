#!/usr/bin/env python3
# timeout: 120
"""Snapshots on a file system without unnamed files: thawd dies at every step, and the next one leaves the old file or
the new one and nothing else. Where no such file system is to be had, a system call filter makes one of the one there
is: it refuses O_TMPFILE, and it ends thawd (as kill -9 does, at once) in front of the call that is the next step."""

import ctypes
import os
import signal
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import thawtest
from thawtest import Skip, wait_for

# linux/seccomp.h, linux/filter.h, fcntl.h and the numbers of x86_64
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, KILL, NOT_SUPPORTED = 0x7FFF0000, 0x80000000, 0x00050000 | 95
NR_OPENAT, NR_RENAMEAT, NR_RENAMEAT2 = 257, 264, 316
TMPFILE_BIT = 0o20000000
NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

# what comes next when thawd ends: system call, and the flags of an openat()
STEPS = {
    "none": None,
    "file": (NR_OPENAT, NEW_FILE),
    "rename": (NR_RENAMEAT2, None),
    "replace": (NR_RENAMEAT, None),
}


def confine(step):
    """In this process and those that it becomes and makes."""
    code = [(LOAD, 0, 0, 0), (EQUAL, 0, 3, NR_OPENAT), (LOAD, 0, 0, 32), (ANY_BIT, 0, 1, TMPFILE_BIT),
            (RETURN, 0, 0, NOT_SUPPORTED)]
    if STEPS[step]:
        nr, flags = STEPS[step]
        code += [(LOAD, 0, 0, 0), (EQUAL, 0, 3 if flags else 1, nr)]
        if flags:
            code += [(LOAD, 0, 0, 32), (EQUAL, 0, 1, flags)]
        code += [(RETURN, 0, 0, KILL)]
    code += [(RETURN, 0, 0, ALLOW)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
    prog = struct.pack("HP", len(code), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, prog, 0, 0):
        sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))


def launcher(step):
    return [sys.executable, os.path.abspath(__file__), "--confine", step]


def machine(c):
    return c.call("machine.create", {"config": {"memory": "32M"}, "ready": "agent"})["id"]


def verify(path):
    p = subprocess.run([thawtest.program("thaw"), "verify", path], capture_output=True, text=True)
    assert p.returncode == 0, p


def unfinished(d):
    place = d.state + "/unfinished"
    return os.listdir(place) if os.path.isdir(place) else []


def after(d, place, names):
    """What the next thawd leaves."""
    d.proc.wait()
    d.prefix = []
    d.start()
    with d.client() as c:
        # It listens, and works through its state directory; then it answers.
        c.call("server.info")
        assert sorted(os.listdir(place)) == sorted(names), (os.listdir(place), names)
        assert unfinished(d) == [], unfinished(d)
        m = machine(c)
        c.call("machine.snapshot", {"id": m, "path": place + "/again"})
        verify(place + "/again")
        os.unlink(place + "/again")
        c.call("machine.stop", {"id": m})


def put(path, data):
    if data:
        with open(path, "wb") as f:
            f.write(data)
    elif os.path.exists(path):
        os.unlink(path)


def same(path, data):
    with open(path, "rb") as f:
        return f.read() == data


def restart(d, step):
    d.kill()
    d.prefix = launcher(step) if step else []
    d.start()


def dies(d, place, step, force):
    """A snapshot to place/new by a thawd that does not live to take this step."""
    restart(d, step)
    with d.client() as c:
        m = machine(c)
        c.send("machine.snapshot", {"id": m, "path": place + "/new", "force": force})
        assert d.proc.wait(20) == -signal.SIGSYS, d.proc.returncode


def begun(place, old):
    """The file that will be there is being written."""
    return any(n.startswith(".thaw-") for n in os.listdir(place))


def named(place, old):
    """It has its name; what comes after that may be done or not."""
    return os.path.exists(place + "/new") and not (old and same(place + "/new", old))


def killed(d, place, simulated, moment, old):
    new = place + "/new"
    put(new, old)
    restart(d, "none" if simulated else None)
    with d.client() as c:
        m = machine(c)
        c.send("machine.snapshot", {"id": m, "path": new, "force": old is not None})
        wait_for(lambda: moment(place, old), 10, 0)
        d.proc.send_signal(signal.SIGKILL)
    d.proc.wait()
    # A thawd that was faster than the signal has made the new file.
    made = named(place, old)
    assert made or moment == begun
    after(d, place, ["new"] if made or old else [])
    if made:
        verify(new)


def steps(d, place, simulated):
    new = place + "/new"
    restart(d, "none" if simulated else None)
    with d.client() as c:
        m = machine(c)
        c.call("machine.snapshot", {"id": m, "path": new})
        verify(new)
        c.fails("exists", "machine.snapshot", {"id": m, "path": new})
        with open(new, "rb") as f:
            old = f.read()
        c.call("machine.snapshot", {"id": m, "path": new, "force": True})
        assert not same(new, old)
        verify(new)
        assert os.listdir(place) == ["new"] and unfinished(d) == []
    for force in (False, True):
        for moment in (begun, named):
            killed(d, place, simulated, moment, old if force else None)
    last = (("file", 0, False), ("rename", 1, False), ("file", 1, True), ("replace", 2, True))
    for step, left, force in last if simulated else ():
        put(new, old if force else None)
        dies(d, place, step, force)
        assert len(os.listdir(place)) == left, os.listdir(place)
        assert len(unfinished(d)) == 1
        after(d, place, ["new"] if force else [])
        assert not force or same(new, old)
    put(new, None)


def test_filter(d):
    place = d.dir + "/place"
    os.mkdir(place)
    steps(d, place, True)
    os.rmdir(place)


def fat(path, size=32 << 20):
    """An empty FAT16 file system of 2 KiB clusters."""
    sectors, fat_sectors = size // 512, 64
    boot = bytearray(512)
    boot[0:3] = b"\xeb\x3c\x90"
    struct.pack_into("<8sHBHBHHBHHHII", boot, 3, b"THAWTEST", 512, 4, 4, 2, 512, 0, 0xF8, fat_sectors, 32, 2, 0, sectors)
    struct.pack_into("<BBBI11s8s", boot, 36, 0x80, 0, 0x29, 1, b"NO NAME    ", b"FAT16   ")
    boot[510:512] = b"\x55\xaa"
    with open(path, "wb") as f:
        f.truncate(size)
        f.write(boot)
        for n in range(2):
            f.seek((4 + n * fat_sectors) * 512)
            f.write(b"\xf8\xff\xff\xff")


def mount_overlay(d, place):
    """Before Linux 6.3 or so these have none."""
    for name in ("lower", "upper", "work"):
        os.makedirs(d.dir + "/layers/" + name, exist_ok=True)
    return ["-t", "overlay", "-o", "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work".format(d.dir + "/layers"),
            "overlay", place]


def mount_fat(d, place):
    fat(d.dir + "/image")
    return ["-t", "vfat", "-o", "loop", d.dir + "/image", place]


def has_unnamed(place):
    try:
        os.close(os.open(place, os.O_TMPFILE | os.O_RDWR))
    except OSError:
        return False
    return True


def test_real(d):
    """A file system that has no unnamed files, if this kernel has one; the test machine's (tests/vmhost/run) has."""
    place, why = d.dir + "/mnt", []
    os.mkdir(place)
    for kind in (mount_fat, mount_overlay):
        p = subprocess.run(["mount"] + kind(d, place), capture_output=True, text=True)
        if p.returncode:
            why.append("%s: %s" % (kind.__name__, p.stderr.strip().split("\n")[0]))
            continue
        try:
            if not has_unnamed(place):
                steps(d, place, False)
                return
            why.append("%s: has unnamed files" % kind.__name__)
        finally:
            d.kill()
            wait_for(lambda: subprocess.run(["umount", place], capture_output=True).returncode == 0)
            d.start()
    raise Skip("; ".join(why))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--confine"]:
        confine(sys.argv[2])
        os.execv(sys.argv[3], sys.argv[3:])
    thawtest.main(globals())

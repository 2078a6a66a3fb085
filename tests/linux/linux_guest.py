"""A small Linux guest for tests: a stock kernel's modules, busybox and an init
that runs what comes over the serial console, one line at a time.

    make_initrd(path, kernel, ...)      on the host
    Guest(client, machine_id, log)      where the machine runs
"""

import gzip
import os
import re
import shutil
import stat
import subprocess
import time

# They and what they need are loaded before anything else.
MODULES = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "vmw_vsock_virtio_transport"]

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
for m in $(cat /m/list); do insmod /m/$m || echo "insmod $m failed"; done
stty -echo < /dev/console
[ -f /start ] && . /start
echo "=up="
while read -r line; do
	eval "$line" < /dev/null
	echo "=rc $?="
done
poweroff -f
"""


class Archive:
    """A cpio archive in the kernel's format ("newc")."""

    def __init__(self):
        self.data, self.ino, self.dirs = bytearray(), 0, set()

    def entry(self, name, mode, content=b"", rdev=(0, 0)):
        self.ino += 1
        name = name.encode() + b"\0"
        fields = (self.ino, mode, 0, 0, 1, 0, len(content), 0, 0) + rdev + (len(name), 0)
        self.data += b"070701" + b"".join(b"%08X" % f for f in fields) + name
        self.data += b"\0" * (-len(self.data) % 4)
        self.data += content + b"\0" * (-len(content) % 4)

    def parents(self, name):
        at = os.path.dirname(name)
        if at and at not in self.dirs:
            self.parents(at)
            self.dirs.add(at)
            self.entry(at, stat.S_IFDIR | 0o755)

    def file(self, name, content, mode=0o755):
        self.parents(name)
        self.entry(name, stat.S_IFREG | mode, content)

    def program(self, path):
        """A program and the libraries it needs, where they are here."""
        for f in [path] + re.findall(r"(/\S+) \(0x", subprocess.run(
                ["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout):
            if f.lstrip("/") not in self.dirs:
                self.dirs.add(f.lstrip("/"))
                with open(f, "rb") as src:
                    self.file(f.lstrip("/"), src.read())

    def done(self):
        self.entry("TRAILER!!!", 0)
        return bytes(self.data) + b"\0" * (-len(self.data) % 512)


def make_initrd(path, kernel, programs=(), files=()):
    """kernel: tests/vmhost/kernel_cache.py's Kernel; programs: names on PATH;
    files: (name, content)."""
    a = Archive()
    a.file("init", INIT.encode())
    with open(shutil.which("busybox"), "rb") as f:
        a.file("bin/busybox", f.read())
    a.parents("dev/x")
    a.entry("dev/console", stat.S_IFCHR | 0o600, rdev=(5, 1))
    modules = kernel.load_order(MODULES)
    for name, data in modules:
        a.file("m/%s.ko" % name, data)
    a.file("m/list", "\n".join("%s.ko" % name for name, _ in modules).encode())
    for p in programs:
        a.program(shutil.which(p, path="/usr/sbin:/usr/bin:/sbin:/bin"))
    for name, content in files:
        a.file(name, content)
    with gzip.open(path, "wb", 1) as f:
        f.write(a.done())


class Guest:
    """The console of a machine whose init is INIT."""

    def __init__(self, client, machine, console):
        self.c, self.id = client, machine
        self.console = console  # a descriptor: the read end of its console
        self.text = ""

    def expect(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text, re.S)
            if found:
                self.text = self.text[found.end():]
                return found
            if time.monotonic() > end:
                raise AssertionError("no %r on the console:\n%s" % (pattern, self.text[-3000:]))
            try:
                self.text += os.read(self.console, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.01)

    def boot(self, seconds=120):
        self.expect("=up=", seconds)
        return self

    def run(self, line, rc=0, seconds=60):
        """Run a line of shell; its output. rc None: any exit code."""
        self.c.call("machine.input", {"id": self.id, "data": line.encode() + b"\n"})
        found = self.expect(r"(.*?)=rc (\d+)=", seconds)
        out = found[1].replace("\r", "").strip("\n")
        assert rc is None or int(found[2]) == rc, "%s: rc %s\n%s" % (line, found[2], out)
        return out

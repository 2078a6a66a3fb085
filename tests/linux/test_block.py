#!/usr/bin/python3
# timeout: 600
"""What a Linux guest writes to its disks is there: fio verifies it in the guest,
over a freeze too and without io_uring; what was flushed survives a machine that
is killed; clones' writes meet neither each other nor the base image.
"""

import hashlib
import os
import random
import signal
import struct
import sys
import time

import linuxtest
import thawtest

KERNEL = "6.1-cloud"
MIB = 1 << 20
SIZE = 48 * MIB
# Debian's fio with its own loader and libraries, from the tools' disk.
FIO = "/mnt/ld.so --library-path /mnt /mnt/fio "
VERIFY = FIO + "--name=v --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=16 --thread --size=20M"
VERIFY += " --numjobs=2 --offset_increment=24M --bsrange=4k-128k --verify=crc32c --verify_fatal=1 --minimal "


def guests(directory):
    linuxtest.make_guests(directory, [KERNEL])
    linuxtest.make_tools(os.path.join(directory, "tools.img"), "fio")


def tools():
    return {"type": "block", "id": "tools", "path": os.path.join(os.environ["THAW_LINUX_GUESTS"], "tools.img"), "read_only": True}


def data_disk(d, name="data"):
    path = os.path.join(d.dir, name)
    with open(path, "wb") as f:
        f.truncate(SIZE)
    return path


def boot(c, name, data, **more):
    disk = dict({"type": "block", "id": "data", "path": data}, **more)
    g = linuxtest.start(c, name, linuxtest.guest_config(KERNEL, cpus=2, memory="192M", devices=[tools(), disk]))
    g.sh("mkdir -p /mnt; mount -o ro /dev/vda /mnt")
    return g


def verify(d):
    """Random writes of all sizes by two jobs, read back and checked."""
    data = data_disk(d)
    with d.client(timeout=300) as c:
        g = boot(c, "fio", data, queues=2, serial="a-serial-number")
        assert g.sh("cat /sys/block/vdb/serial") == "a-serial-number"
        assert g.sh("ls /sys/block/vdb/mq | wc -l").strip() == "2"
        g.sh(VERIFY + "--rw=randwrite", timeout=200)
        # A hole stays a hole only if the request was carried out.
        before = os.stat(data).st_blocks
        g.sh(FIO + "--name=t --filename=/dev/vdb --rw=trim --bs=1M --offset=8M --size=8M --direct=1 --thread --minimal")
        assert os.stat(data).st_blocks < before
        # The tools' disk cannot be written, whoever tries.
        g.sh("! dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2>/dev/null")
        g.healthy()
        g.stop()
    with open(data, "rb") as f:
        f.seek(8 * MIB)
        assert f.read(8 * MIB) == bytes(8 * MIB)
        f.seek(0)
        assert len(set(f.read(MIB))) > 200  # and that the rest is no zeros
    os.unlink(data)


def test_fio_verifies(d):
    verify(d)


def test_fio_verifies_without_io_uring(_):
    d = thawtest.Daemon(prefix=[sys.executable, os.path.join(linuxtest.HERE, "no_uring.py")])
    try:
        verify(d)
    finally:
        d.close()


def test_fio_over_a_freeze(d):
    """Frozen with requests in flight, four times; the same file afterwards."""
    data, snap = data_disk(d), os.path.join(d.dir, "snap")
    disks = {"data": data, "tools": tools()["path"]}
    with d.client(timeout=300) as c:
        g = boot(c, "freeze", data)
        g.sh("(%s --rw=randrw --loops=6 >/tmp/fio 2>&1; echo $? >/tmp/end) >/dev/null 2>&1 &" % VERIFY)
        for turn in range(4):
            time.sleep(random.uniform(0.5, 2))
            assert turn or g.sh("test -e /tmp/end || echo runs") == "runs\n"
            c.call("machine.pause", {"id": g.id})
            c.call("machine.snapshot", {"id": g.id, "path": snap})
            g.stop()
            r = c.call("machine.create", {"snapshot": snap, "disks": disks, "ready": "agent"})
            g = linuxtest.Guest(c, r["id"])
            os.unlink(snap)
        thawtest.wait_for(lambda: g.sh("cat /tmp/end 2>/dev/null || true"), 200, 1)
        assert g.sh("cat /tmp/end") == "0\n", g.sh("tail -c 2000 /tmp/fio")
        g.healthy()
        g.stop()
    os.unlink(data)


RECORDS = r"""
i=0
while :; do
	dd if=/dev/urandom bs=4084 count=1 2>/dev/null >/tmp/body
	{ printf 'rec%08d ' $i; cat /tmp/body; } | dd of=/dev/vdb bs=4096 seek=$i conv=notrunc,fsync iflag=fullblock 2>/dev/null
	echo "done $i $(md5sum </tmp/body | cut -c1-32)" >/dev/ttyS0
	i=$((i + 1))
done
"""


def reported(g):
    """Of the records that the guest says are flushed: number -> checksum."""
    found = {}
    for line in g.console().splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "done" and len(words[2]) == 32:
            found[int(words[1])] = words[2]
    return found


def test_power_cut(d):
    """Killed at any moment: every record that was reported is in the file."""
    for _ in range(4):
        data = data_disk(d)
        with d.client(timeout=200) as c:
            g = boot(c, "cut", data)
            pid = c.call("machine.show", {"id": g.id})["pids"]["machine"]
            g.sh("cat >/tmp/r <<'END'\n%s\nEND\n(sh /tmp/r >/dev/null 2>&1 </dev/null) &" % RECORDS)
            thawtest.wait_for(lambda: len(reported(g)) > 5, 60)
            time.sleep(random.uniform(0, 1.5))
            before = reported(g)
            os.kill(pid, signal.SIGKILL)
            thawtest.wait_for(lambda: c.call("machine.show", {"id": g.id})["state"] == "ended", 20)
            g.stop()
        with open(data, "rb") as f:
            for number, md5 in before.items():
                f.seek(number * 4096)
                block = f.read(4096)
                assert block[:12] == b"rec%08d " % number, (number, block[:12])
                assert hashlib.md5(block[12:]).hexdigest() == md5, number
        os.unlink(data)


def test_clones_write_for_themselves(d):
    """Two clones write all of the disk at once: neither sees the other's bytes,
    and the image they share is the same as before, bit by bit."""
    data = data_disk(d)
    with open(data, "r+b") as f:
        f.write(random.randbytes(SIZE))
    with open(data, "rb") as f:
        was = hashlib.sha256(f.read()).hexdigest()
    disk = {"type": "block", "id": "data", "path": data, "overlay": True}
    config = linuxtest.guest_config(KERNEL, memory="128M", devices=[disk])
    with d.client(timeout=300) as c:
        c.call("template.create", {"name": "t", "config": config, "ready": "agent", "timeout_ms": 120000})
        made = c.call("clone", {"template": "t", "count": 2})["clones"]
        clones = [linuxtest.Guest(c, x["id"]) for x in made]
        want = []
        for i, g in enumerate(clones):
            assert g.sh("md5sum </dev/vda | cut -c1-32") == md5_of(data) + "\n"
            block = struct.pack("<Q", 0x1234567 + i) * 8192
            want.append(hashlib.md5(block * (SIZE // len(block))).hexdigest())
            octal = "".join("\\%03o" % b for b in block[:8])
            g.sh("printf '%s' >/tmp/b; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do cat /tmp/b /tmp/b >/tmp/c; mv /tmp/c /tmp/b; done" % octal)
        ids = [c.send("machine.invoke", {"id": g.id, "timeout_ms": 120000, "payload":
                      b"while cat /tmp/b; do :; done 2>/dev/null | dd of=/dev/vda bs=65536 iflag=fullblock count=%d conv=notrunc,fsync 2>/dev/null"
                      % (SIZE // 65536)}) for g in clones]
        for i in ids:
            assert c.wait(i)["payload"].endswith(b"rc 0\n")
        for g, md5 in zip(clones, want):
            assert g.sh("echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vda | cut -c1-32") == md5 + "\n"
            g.healthy()
            g.stop()
        c.call("template.remove", {"name": "t"})
    with open(data, "rb") as f:
        assert hashlib.sha256(f.read()).hexdigest() == was, "the base image was written to"
    os.unlink(data)


def md5_of(path):
    with open(path, "rb") as f:
        return hashlib.md5(f.read()).hexdigest()


linuxtest.main(globals(), guests=guests, timeout=590)

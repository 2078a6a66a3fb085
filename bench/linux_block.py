#!/usr/bin/python3
"""Random reads of a Linux guest, for linux.py: thaw with io_uring, thaw without,
and QEMU's virtio-blk with io_uring; one machine each, in turns.

fio in the guest reads 4 KiB blocks with O_DIRECT, 32 at a time, for some seconds.
The image is in the host's memory: what is compared is the way there.
"""

import json
import os
import shutil
import socket
import sys
import tempfile
import time

import linux_inside as li
from linux_inside import Bad, kernel_cache, linuxtest, msgpack, thawtest

SIZE = 128 << 20
SECONDS = 4
# Which of the two disks is which is found out by mounting.
RUN = """mkdir -p /mnt
[ -e /mnt/fio ] || mount -o ro /dev/vda /mnt 2>/dev/null || mount -o ro /dev/vdb /mnt || exit 1
data=vda
grep -q '^/dev/vda /mnt' /proc/mounts && data=vdb
exec /mnt/ld.so --library-path /mnt /mnt/fio --name=r --filename=/dev/$data --rw=randread --bs=4k --direct=1 \\
	--ioengine=libaio --iodepth=32 --thread --time_based --runtime=%d --output-format=json""" % SECONDS


def call(sock, method, params, seconds):
    """One request of an agent."""
    sock.settimeout(seconds)
    sock.sendall(msgpack.packb([0, 2, method, [params]]))
    up = msgpack.Unpacker(raw=False, strict_map_key=False, unicode_errors="replace")
    while True:
        data = sock.recv(1 << 20)
        if not data:
            raise Bad("the agent hung up")
        up.feed(data)
        for answer in up:
            if answer[:2] == [1, 2]:
                if answer[2]:
                    raise Bad("%s: %r" % (method, answer[2]))
                return answer[3]


def fio(sock):
    """Requests a second."""
    r = call(sock, "exec", {"argv": ["/bin/sh", "-c", RUN], "timeout_ms": 60000}, 90)
    out = r["stdout"] if isinstance(r["stdout"], str) else r["stdout"].decode()
    if r["exit"]:
        raise Bad("fio in the guest: %r" % r)
    job = json.loads(out[out.index("{"):])["jobs"][0]
    if job["error"] or not job["read"]["total_ios"]:
        raise Bad("fio in the guest: %r" % job["error"])
    return job["read"]["iops"]


class Thaw:
    def __init__(self, guest, disks, prefix=()):
        self.d = thawtest.Daemon(prefix=prefix)
        try:
            self.c = self.d.client(timeout=180)
            config = li.thaw_config(guest)
            config["devices"] += [{"type": "block", "path": p, "read_only": ro} for p, ro in disks]
            self.id = self.c.call("machine.create", {"config": config, "ready": "agent", "timeout_ms": 120000})["id"]
        except BaseException:
            self.d.close()
            raise

    def iops(self):
        with li.thaw_connect(self.c, self.id) as s:
            return fio(s)

    def close(self):
        self.c.close()
        self.d.close()


class Qemu:
    def __init__(self, guest, disks):
        more = []
        for i, (path, ro) in enumerate(disks):
            more += ["-drive", "if=none,id=d%d,format=raw,aio=io_uring,file=%s%s" % (i, path, ",readonly=on" if ro else "")]
            more += ["-device", "virtio-blk-device,drive=d%d" % i]
        self.q = li.Agent(guest, *more)
        try:
            self.q.answer(120)
        except BaseException:
            self.q.close()
            raise

    def iops(self):
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as s:
            s.connect((li.CID, li.PORT))
            return fio(s)

    def close(self):
        self.q.close()


def inside(n):
    top = os.environ["THAW_LINUX_GUESTS"]
    name = os.environ["BENCH_KERNEL"]
    guest = {"kernel": kernel_cache.get(name).vmlinux, "initrd": os.path.join(top, name + ".initrd"), "cmdline": li.CMDLINE}
    work = tempfile.mkdtemp(prefix="bench-linux-")
    disks = [(os.path.join(work, "tools"), True), (os.path.join(work, "data"), False)]
    no_uring = [sys.executable, os.path.join(linuxtest.HERE, "no_uring.py")]
    out, machines = {"iops_thaw": [], "iops_thaw_sync": [], "iops_qemu": []}, {}
    try:
        shutil.copy(os.path.join(top, "tools.img"), disks[0][0])
        with open(disks[1][0], "wb") as f:
            f.write(os.urandom(SIZE))
        machines["iops_thaw"] = Thaw(guest, disks)
        machines["iops_thaw_sync"] = Thaw(guest, disks, no_uring)
        machines["iops_qemu"] = Qemu(guest, disks)
        for _ in range(n):
            for name, m in machines.items():
                out[name].append(m.iops())
                print("%s %.0f" % (name, out[name][-1]), file=sys.stderr, flush=True)
                time.sleep(0.2)
    finally:
        for m in machines.values():
            m.close()
        shutil.rmtree(work, ignore_errors=True)
    json.dump({"samples": out, "host": li.host()}, sys.stdout)


if __name__ == "__main__":
    inside(int(sys.argv[1]))

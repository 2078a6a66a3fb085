#!/usr/bin/python3
# timeout: 1800
"""Stock Debian kernels on 1 and 2 vCPUs with an initrd and with a disk as root:
boot, work, snapshot, restore, clone, work on. All in one test machine.
"""

import itertools
import os

import linuxtest
from linuxtest import Guest

KERNELS = ("6.1-cloud", "6.1", "6.12-cloud")


def work(g, disk, round):
    """Something that uses processors, memory, timers and the disk."""
    where = "/root" if disk else "/tmp"
    g.sh("dd if=/dev/urandom of=%s/f%d bs=64k count=24 2>/dev/null && md5sum %s/f* > %s/sums && sync" % (where, round, where, where))
    assert g.sh("seq 2000 | awk '{ s += $1 } END { print s }'").strip() == "2001000"
    g.sh("i=0; while [ $i -lt 10 ]; do /bin/true & i=$((i + 1)); done; wait; usleep 10000")


def check(g, disk, cpus, dirty=True):
    if dirty:
        where = "/root" if disk else "/tmp"
        g.sh("md5sum -c %s/sums > /dev/null" % where)
    assert int(g.sh("nproc")) == cpus
    root = g.sh("grep ' / ' /proc/mounts | tail -n 1")
    assert ("ext4" in root) == bool(disk), root
    return g.healthy()


def case(d, kernel, cpus, disk):
    disk = linuxtest.disk_image(d) if disk else None
    config = linuxtest.guest_config(kernel, disk=disk, cpus=cpus)
    path = os.path.join(d.dir, "snap-%s-%d-%d.thaw" % (kernel, cpus, bool(disk)))
    with d.client(timeout=300) as c:
        g = linuxtest.start(c, "boot", config)
        try:
            work(g, disk, 1)
            log = check(g, disk, cpus)
            assert "kvm-clock" in log, "no kvm-clock"
            up = float(g.sh("cut -d' ' -f1 /proc/uptime"))
            c.call("machine.snapshot", {"id": g.id, "path": path})
            work(g, disk, 2)
            check(g, disk, cpus)
        finally:
            g.stop()
        g = linuxtest.restore(c, "again", path, disk)
        try:
            assert float(g.sh("cut -d' ' -f1 /proc/uptime")) >= up, "time went backwards"
            check(g, disk, cpus)
            work(g, disk, 3)
            check(g, disk, cpus)
        finally:
            g.stop()
        disks = {"disk0": disk} if disk else {}
        c.call("template.create", {"name": "t", "snapshot": path, "disks": disks})
        try:
            made = c.call("clone", {"template": "t", "count": 2})
            clones = [Guest(c, x["id"] if isinstance(x, dict) else x) for x in made["clones"]]
            ids = []
            for g in clones:
                check(g, disk, cpus)
                work(g, disk, 4)
                ids.append(g.sh("cat /etc/machine-id /proc/sys/kernel/hostname; head -c 16 /dev/urandom | od -An -tx1").split("\n"))
            for a, b in zip(*ids):
                assert a != b or not a, "clones have the same: %r" % (a,)
            for g in clones:
                check(g, disk, cpus)
                g.stop()
        finally:
            c.call("template.remove", {"name": "t", "force": True})
        os.unlink(path)


def add_cases():
    for kernel, cpus, disk in itertools.product(KERNELS, (1, 2), (False, True)):
        name = "test_%s_%dcpu_%s" % (kernel.replace(".", "_").replace("-", "_"), cpus, "disk" if disk else "initrd")
        globals()[name] = lambda d, k=kernel, n=cpus, b=disk: case(d, k, n, b)


add_cases()
if __name__ == "__main__":
    linuxtest.main(globals(), kernels=KERNELS, timeout=1700)

#!/usr/bin/python3
# timeout: 900
"""How stock Linux boots, ends, and hears that it is another machine now; and
kernels, initrds and command lines that cannot be.
"""

import os
import time

import linuxtest
from linuxtest import kernel_cache, thawtest

KERNELS = ("6.1-cloud", "6.12-cloud")


def end_of(d, line):
    """How a guest ends after this line of shell."""
    with d.client(timeout=120) as c:
        g = linuxtest.start(c, "ends", linuxtest.guest_config("6.1-cloud"))
        try:
            c.send("machine.invoke", {"id": g.id, "payload": line.encode(), "timeout_ms": 30000})
            thawtest.wait_for(lambda: c.call("machine.show", {"id": g.id})["state"] == "ended", 60)
            return c.call("machine.show", {"id": g.id})["end"]
        finally:
            g.stop()


def test_poweroff(d):
    assert end_of(d, "busybox poweroff -f")["kind"] == "poweroff"


def test_reboot(d):
    assert end_of(d, "reboot -f")["kind"] == "reboot"


def test_panic(d):
    end = end_of(d, "echo c >/proc/sysrq-trigger")
    assert end["kind"] == "crash" and "panicked" in end["text"], end


def test_panic_before_the_driver(d):
    """Nobody tells of it, the kernel starts again: panic=-1."""
    with d.client(timeout=120) as c:
        config = linuxtest.guest_config("6.1-cloud", cmdline="rdinit=/none init=/none")
        m = c.call("machine.create", {"config": config, "ready": {"text": "Kernel panic"}, "timeout_ms": 60000})["id"]
        thawtest.wait_for(lambda: c.call("machine.show", {"id": m})["state"] == "ended", 60)
        end = c.call("machine.show", {"id": m})["end"]
        c.call("machine.stop", {"id": m})
    assert end["kind"] == "reboot", end


def test_bzimage_acpi_and_two_regions_of_memory(d):
    """4 GiB: below and above the hole; what is in both survives a restore."""
    config = linuxtest.guest_config("6.1-cloud", cpus=4, memory="4G")
    config["kernel"] = kernel_cache.get("6.1-cloud").vmlinuz
    path = os.path.join(d.dir, "big.thaw")
    with d.client(timeout=200) as c:
        g = linuxtest.start(c, "big", config, timeout=150)
        try:
            assert int(g.sh("nproc")) == 4
            assert int(g.sh("awk '/^MemTotal/ { print $2 }' /proc/meminfo")) > 3900 * 1024
            ram = [x.split(" : ")[0].split("-") for x in g.sh("cat /proc/iomem").splitlines() if x.endswith("System RAM") and x[0] != " "]
            assert any(int(start, 16) >= 1 << 32 for start, _ in ram), ram
            assert not [r for r in ram if int(r[0], 16) < 1 << 32 <= int(r[1], 16)], ram
            have = g.sh("ls /sys/bus/acpi/devices").split()
            for name in ("PNP0501:00", "LNRO0005:00", "THAW0001:00", "AMZNC10C:00", "ACPI0013:00", "QEMU0001:00"):
                assert name in have, (name, have)
            assert g.sh("cat /sys/devices/system/cpu/cpu3/topology/core_id").strip() == "3"
            log = g.healthy()
            assert "x2apic" in log and "kvm-clock" in log, log
            # Linux fills memory from its upper end.
            g.sh("dd if=/dev/urandom of=/tmp/f bs=1M count=40 2>/dev/null && md5sum /tmp/f >/tmp/sum")
            c.call("machine.snapshot", {"id": g.id, "path": path})
        finally:
            g.stop()
        g = linuxtest.restore(c, "again", path)
        try:
            g.sh("md5sum -c /tmp/sum >/dev/null && dd if=/dev/urandom of=/tmp/g bs=1M count=10 2>/dev/null")
            g.healthy()
        finally:
            g.stop()
            os.unlink(path)


def test_32_cpus(d):
    """The most there can be: each comes up, and goes on after a restore."""
    cpus = 32
    path = os.path.join(d.dir, "many.thaw")
    run = "for i in $(seq 0 %d); do busybox taskset -c $i awk '{ print $39 }' /proc/self/stat; done" % (cpus - 1)
    with d.client(timeout=400) as c:
        g = linuxtest.start(c, "many", linuxtest.guest_config("6.1-cloud", cpus=cpus), timeout=300)
        try:
            assert int(g.sh("nproc")) == cpus
            c.call("machine.snapshot", {"id": g.id, "path": path})
        finally:
            g.stop()
        g = linuxtest.restore(c, "again", path, timeout=200)
        try:
            assert [int(x) for x in g.sh(run, timeout=200).split()] == list(range(cpus))
            g.healthy()
        finally:
            g.stop()
            os.unlink(path)


def test_generation(d):
    """A restored guest stirs its random state, once each time."""
    path = os.path.join(d.dir, "gen.thaw")
    count = "dmesg | grep -c 'crng reseeded due to virtual machine fork' || true"
    with d.client(timeout=200) as c:
        g = linuxtest.start(c, "first", linuxtest.guest_config("6.12-cloud"))
        try:
            before = int(g.sh(count))
            c.call("machine.snapshot", {"id": g.id, "path": path})
            time.sleep(0.5)
            assert int(g.sh(count)) == before, "a snapshot is no new machine"
        finally:
            g.stop()
        g = linuxtest.restore(c, "second", path)
        try:
            thawtest.wait_for(lambda: int(g.sh(count)) == before + 1)
            g.healthy()
        finally:
            g.stop()


def test_bad(d):
    good = linuxtest.guest_config("6.1-cloud")
    vmlinuz = kernel_cache.get("6.1-cloud").vmlinuz

    def file(name, data=b"", size=None):
        path = os.path.join(d.dir, name)
        with open(path, "wb") as f:
            f.write(data)
            if size:
                f.truncate(size)
        return path

    with open(vmlinuz, "rb") as f:
        image = f.read()
    old = bytearray(image)
    old[0x236] &= ~1  # no 64-bit entry
    cases = [
        ({"kernel": good["initrd"]}, ("kernel", "cpio")),
        ({"kernel": file("cut", image[: len(image) // 2])}, ("kernel", "truncated")),
        ({"kernel": file("old", old)}, ("kernel", "32-bit")),
        ({"kernel": vmlinuz, "memory": "32M"}, ("kernel", "MiB")),
        ({"memory": "32M"}, ("memory",)),
        ({"initrd": file("big", size=200 << 20)}, ("initrd", "200 MiB")),
        ({"initrd": file("empty")}, ("initrd", "empty")),
        ({"cmdline": "x" * 2040}, ("cmdline", "2040")),
        ({"kernel": "builtin"}, ("initrd", "built-in")),
    ]
    with d.client(timeout=120) as c:
        for change, words in cases:
            text = c.fails(("invalid", "unsupported"), "machine.create", {"config": dict(good, **change)})
            for w in words:
                assert w in text, (change, text)


if __name__ == "__main__":
    linuxtest.main(globals(), kernels=KERNELS)

#!/usr/bin/python3
# timeout: 900
"""A Debian with systemd as docs/linux.md makes it: the agent is a service.

Two minutes for each kernel in the test machine and as much for debootstrap, so
only with THAW_LINUX_FULL=1.
"""

import os
import subprocess
import sys

import linuxtest
from linuxtest import kernel_cache, thawtest

KERNELS = ("6.1-cloud", "6.12-cloud")


def debian_root():
    root = os.path.join(kernel_cache.cache_dir(), "debian-systemd")
    if not os.path.exists(root + "/usr/bin/python3"):
        cmd = ["debootstrap", "--variant=minbase", "--include=systemd-sysv,python3-minimal", "bookworm", root]
        subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL)
    return root


def make_guests(d):
    def build(source, out, *more):
        subprocess.run([thawtest.program("thaw"), "image", "build", source, "-o", os.path.join(d, out), *more], check=True)

    handler = os.path.join(linuxtest.TOP, "docs", "handler.py")
    build(debian_root(), "system.img", "--init", "own", "--handler", handler)
    os.mkdir(d + "/empty")
    for k in KERNELS:
        build(d + "/empty", k + ".initrd", "--initrd", "--modules", os.path.dirname(kernel_cache.get(k).modules))


def case(d, kernel):
    disk = {"type": "block", "path": os.path.join(os.environ["THAW_LINUX_GUESTS"], "system.img"), "overlay": True}
    config = linuxtest.guest_config(kernel, memory="512M", cmdline="thaw.root=/dev/vda thaw.init=/sbin/init", devices=[disk])
    with d.client(timeout=300) as c:
        c.call("template.create", {"name": "sys", "config": config, "timeout_ms": 280000})
        made = c.call("clone", {"template": "sys", "count": 2, "timeout_ms": 60000})
        assert not made["errors"], made
        said = []
        for m in made["clones"]:

            def run(line, m=m):
                r = c.call("machine.exec", {"id": m["id"], "argv": ["sh", "-c", line], "timeout_ms": 60000})
                assert r["exit"] == 0, r
                return r["stdout"].decode()

            assert run("cat /proc/1/comm; systemctl is-active thaw-agent") == "systemd\nactive\n"
            assert run("systemctl --failed --no-legend") == ""
            assert run("uname -n").strip() == m["id"]
            assert c.call("machine.invoke", {"id": m["id"], "payload": b"shout"})["payload"] == b"SHOUT"
            said.append(run("cat /etc/machine-id /proc/sys/kernel/random/boot_id").split())
        assert not set(said[0]) & set(said[1]), said
        # The agent ends with its system, and that with its own order.
        run("systemctl --no-block poweroff")
        thawtest.wait_for(lambda: c.call("machine.show", {"id": m["id"]})["state"] == "ended", 120)
        assert c.call("machine.show", {"id": m["id"]})["end"]["kind"] == "poweroff"
        c.call("template.remove", {"name": "sys", "force": True})


def test_6_1(d):
    case(d, "6.1-cloud")


def test_6_12(d):
    case(d, "6.12-cloud")


if __name__ == "__main__":
    if os.environ.get("THAW_LINUX_FULL") != "1":
        print("1..0 # SKIP only with THAW_LINUX_FULL=1")
        sys.exit(77)
    linuxtest.main(globals(), guests=make_guests)

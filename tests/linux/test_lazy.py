#!/usr/bin/python3
# timeout: 400
"""Linux guests whose memory comes when it is touched: a template's clones and a
restored machine have all of their files, work on, and find nothing wrong.
"""

import os

import linuxtest
import thawtest

KERNEL = "6.12-cloud"
FILL = "mkdir -p /run/s; for i in 1 2 3 4 5 6; do head -c 4000000 /dev/urandom >/run/s/$i; done; cd /run/s; md5sum *"
WORK = "head -c 3000000 /dev/urandom >/run/new; md5sum </run/new >/run/sum; for i in 1 2 3; do sh -c 'true'; done;"
WORK += " [ \"$(md5sum </run/new)\" = \"$(cat /run/sum)\" ]"


def made(d, c):
    """A snapshot of a guest of two vCPUs with 24 MB in files; their checksums."""
    path = os.path.join(d.dir, "snap")
    g = linuxtest.start(c, "made", linuxtest.guest_config(KERNEL, cpus=2, memory="192M"))
    sums = g.sh(FILL)
    c.call("machine.snapshot", {"id": g.id, "path": path})
    g.stop()
    return path, sums


def check(g, sums):
    assert g.sh("cd /run/s; md5sum *") == sums
    g.sh(WORK)
    g.healthy()


def test_lazy_guests(d):
    with d.client(timeout=200) as c:
        path, sums = made(d, c)
        for fill in ("none", "background"):
            c.call("template.create", {"name": "t", "snapshot": path, "lazy": True, "fill": fill, "timeout_ms": 100000})
            ids = [x["id"] for x in c.call("clone", {"template": "t", "count": 2, "timeout_ms": 60000})["clones"]]
            assert fill != "none" or c.call("template.show", {"name": "t"})["pager"]["pages_absent"] > 1000
            for i in ids:
                check(linuxtest.Guest(c, i), sums)
            p = c.call("template.show", {"name": "t"})["pager"]
            assert p["faults"] > 0 and p["machines_failed"] == 0, p
            for i in ids:
                c.call("machine.stop", {"id": i})
            if fill == "background":
                thawtest.wait_for(lambda: c.call("template.show", {"name": "t"})["pager"]["state"] == "complete", 60, 0.5)
                g = linuxtest.Guest(c, c.call("clone", {"template": "t", "timeout_ms": 60000})["clones"][0]["id"])
                check(g, sums)
                g.stop()
            c.call("template.remove", {"name": "t", "force": True})
        g = linuxtest.restore(c, "one", path, lazy=True)
        check(g, sums)
        assert c.call("machine.show", {"id": g.id})["pager"]["faults"] > 0
        g.stop()
        os.unlink(path)


linuxtest.main(globals(), kernels=(KERNEL,), timeout=390)

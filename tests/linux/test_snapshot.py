#!/usr/bin/python3
# timeout: 900
"""Snapshots of a Linux guest in every shape: what is restored has the files the
guest had at that moment, answers, works on, and finds nothing wrong in its log.

The guest's files are in its memory. mark() changes them before each snapshot
and says what they are; the load writes files all the time and checks them.
"""

import os
import subprocess
import time

import linuxtest
import thawtest

LOAD = r"""
mkdir -p /run/l
n=0
while [ -e /run/go ]; do
	n=$((n + 1))
	head -c 200000 /dev/urandom >/run/l/a
	sum=$(md5sum </run/l/a)
	cat /run/l/a >/run/l/b
	[ "$sum" = "$(md5sum </run/l/b)" ] || echo "round $n" >>/run/wrong
	echo $n >/run/l/n.new
	mv /run/l/n.new /run/l/n
done
"""


def mark(g):
    """Change the guest's files; their names and checksums."""
    g.sh("mkdir -p /run/s; n=$(ls /run/s | wc -l); head -c 1500000 /dev/urandom >/run/s/f$n;"
         " head -c 700000 /dev/urandom >/run/s/f0; rm -f /run/s/f$((n - 3))")
    return files(g)


def files(g):
    return g.sh("cd /run/s && md5sum *")


def check(g, want):
    """It is the guest whose files these were, and it works on."""
    have = files(g)
    assert have == want, "files:\n%s\nbut were:\n%s" % (have, want)
    assert mark(g) != want
    g.sh("test ! -e /run/wrong")
    g.healthy()


def tool(*args):
    p = subprocess.run([thawtest.program("thaw")] + list(args), capture_output=True, text=True)
    assert p.returncode == 0, (args, p.stderr)


class Shapes:
    def __init__(self, d, c):
        self.d, self.c = d, c
        self.began, self.restored = time.monotonic(), 0

    def path(self, name):
        return os.path.join(self.d.dir, name + ".thaw")

    def take(self, g, name, **how):
        r = self.c.call("machine.snapshot", dict({"id": g.id, "path": self.path(name)}, **how))
        print("# %5.1f s: %s: %d pages, %.1f MiB, pause %.1f ms" % (time.monotonic() - self.began, name, r["pages"],
              r["bytes"] / 1048576, r["pause_us"] / 1000), flush=True)
        return r

    def back(self, name, want, load=False, **how):
        """Restore it, look, throw it away."""
        assert self.c.call("snapshot.verify", {"path": self.path(name)})["ok"]
        self.restored += 1
        g = linuxtest.restore(self.c, "r%d" % self.restored, self.path(name), **how)
        if load:
            self.loaded(g)
        check(g, want)
        g.stop()

    def loaded(self, g):
        """The load goes on and has found nothing."""
        n = int(g.sh("cat /run/l/n"))
        thawtest.wait_for(lambda: int(g.sh("cat /run/l/n")) > n + 1, 60)


def test_chain(d):
    """Full, and three diffs against the last: live under load, zstd, raw."""
    with d.client(timeout=300) as c:
        s = Shapes(d, c)
        g = linuxtest.start(c, "g", linuxtest.guest_config("6.1-cloud", memory="96M"), track_dirty=True)
        want = [mark(g)]
        s.take(g, "full")
        s.back("full", want[0])
        want.append(mark(g))
        g.sh("cat >/run/load <<'EOT'\n%sEOT\ntouch /run/go; setsid sh /run/load </dev/null >/dev/null 2>&1 &" % LOAD)
        thawtest.wait_for(lambda: g.sh("cat /run/l/n 2>/dev/null; true"), 60)
        r = s.take(g, "d1", type="diff", live=True)
        assert 300 < r["pages"] < 20000, r
        s.loaded(g)
        s.back("d1", want[1], load=True)
        g.sh("rm /run/go; sleep 0.5")
        want.append(mark(g))
        s.take(g, "d2", type="diff", codec="zstd")
        want.append(mark(g))
        s.take(g, "d3", type="diff")
        check(g, want[3])
        g.stop()
        assert c.call("snapshot.verify", {"path": s.path("d3")})["files"] == 4
        s.back("d2", want[2])
        s.back("d3", want[3])
        s.back("d3", want[3], lazy=True)
        tool("merge", s.path("d3"), "-o", s.path("merged"))
        tool("convert", s.path("d3"), "-o", s.path("packed"), "--zstd", "1")
        tool("diff", s.path("d3"), s.path("merged"))
        tool("diff", s.path("d3"), s.path("packed"))
        s.back("packed", want[3])
        for name in ("full", "d1", "d2", "d3", "packed"):
            os.unlink(s.path(name))
        s.back("merged", want[3])
        os.unlink(s.path("merged"))


def test_template(d):
    """A template of a running machine, a clone of it, and that one's diff; zstd."""
    with d.client(timeout=300) as c:
        s = Shapes(d, c)
        g = linuxtest.start(c, "h", linuxtest.guest_config("6.1-cloud", memory="96M"))
        want = mark(g)
        r = c.call("template.create", {"name": "t", "machine": g.id, "timeout_ms": 120000})
        print("# %5.1f s: template: pause %.1f ms" % (time.monotonic() - s.began, r["us"]["pause"] / 1000), flush=True)
        check(g, want)
        clone = linuxtest.Guest(c, c.call("clone", {"template": "t", "timeout_ms": 60000})["clones"][0]["id"])
        check(clone, want)
        mine = mark(clone)
        r = s.take(clone, "own", type="diff", against="template")
        assert r["pages"] < 20000, r
        s.back("own", mine)
        check(clone, mine)
        clone.stop()
        c.call("template.remove", {"name": "t", "force": True})
        want = mark(g)
        r = s.take(g, "zstd", codec="zstd", level=3, live=True)
        assert r["bytes"] < r["pages"] * 4096
        check(g, want)
        g.stop()
        s.back("zstd", want)
        os.unlink(s.path("zstd"))


if __name__ == "__main__":
    linuxtest.main(globals(), kernels=("6.1-cloud",))

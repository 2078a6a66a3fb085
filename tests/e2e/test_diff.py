#!/usr/bin/env python3
# timeout: 240
"""Diff snapshots: chains through the daemon, clones against their template, no
page lost by a snapshot that failed, parents that are missing or wrong."""

import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import thawtest
from thawtest import wait_for

MIB = 1 << 20


def invoke(c, m, text):
    return c.call("machine.invoke", {"id": m, "payload": text})["payload"]


def machine(c, **more):
    params = {"config": {"memory": "128M"}, "ready": "agent"}
    if "snapshot" in more:
        params.pop("config")
    params.update(more)
    return c.call("machine.create", params)["id"]


def stop(c, *ids):
    for m in ids:
        c.call("machine.stop", {"id": m})


def snap(c, m, path, **more):
    return c.call("machine.snapshot", dict({"id": m, "path": path}, **more))


def memory(d, path, name="memory"):
    """All bytes of guest memory of a snapshot, diff or not: by a machine that is
    restored and written as a full snapshot before its guest runs again."""
    with d.client() as c:
        c.call("template.create", {"name": "memory", "snapshot": path})
        stored = d.state + "/templates/memory/snapshot.thaw"
        out = d.dir + "/" + name + ".raw"
        subprocess.run([sys.executable, os.path.join(thawtest.TOP, "tests", "snapshot_reader.py"), "-m", out, stored],
                       check=True)
        c.call("template.remove", {"name": "memory"})
    with open(out, "rb") as f:
        data = f.read()
    os.unlink(out)
    return data


def same_memory(d, a, b, but=()):
    """Same bytes of guest memory, but for these pages; how many differ."""
    x, y = memory(d, a, "a"), memory(d, b, "b")
    assert len(x) == len(y)
    differ = [i for i in range(0, len(x), 4096) if x[i : i + 4096] != y[i : i + 4096]]
    return differ


def clean(d):
    for f in os.listdir(d.dir):
        p = d.dir + "/" + f
        if f.endswith(".thaw"):
            os.unlink(p)
        elif f.startswith("dir"):
            shutil.rmtree(p)


def test_zstd(d):
    """Compressed, full and diff: the same memory, in less room."""
    with d.client() as c:
        m = machine(c, track_dirty=True)
        c.call("machine.pause", {"id": m})
        raw = snap(c, m, d.dir + "/raw.thaw")
        full = snap(c, m, d.dir + "/zstd.thaw", codec="zstd", level=3)
        assert full["bytes"] < raw["bytes"] * 0.8, (full, raw)
        assert same_memory(d, d.dir + "/raw.thaw", d.dir + "/zstd.thaw") == []
        c.call("machine.resume", {"id": m})
        c.call("machine.invoke", {"id": m, "payload": b"touch 4"})
        c.call("machine.pause", {"id": m})
        diff = snap(c, m, d.dir + "/diff.thaw", type="diff", codec="zstd")
        assert diff["pages"] >= 1024, diff
        snap(c, m, d.dir + "/now.thaw")
        assert same_memory(d, d.dir + "/now.thaw", d.dir + "/diff.thaw") == []
        c.call("snapshot.verify", {"path": d.dir + "/zstd.thaw"})
        n = machine(c, snapshot=d.dir + "/diff.thaw")
        assert c.call("machine.invoke", {"id": n, "payload": b"echo packed"})["payload"] == b"packed"
        stop(c, m, n)
    clean(d)


def test_chain(d):
    """A paused machine: a full snapshot and a chain say the same, page by page."""
    with d.client() as c:
        m = machine(c, track_dirty=True)
        c.fails("invalid", "machine.snapshot", {"id": m, "path": d.dir + "/x.thaw", "type": "diff"})
        full = snap(c, m, d.dir + "/0.thaw")
        for i in range(1, 5):
            invoke(c, m, b"touch %d" % i)
            invoke(c, m, b"zero 1")
            live = bool(i % 2)
            if i == 4:
                c.call("machine.pause", {"id": m})
            r = snap(c, m, d.dir + "/%d.thaw" % i, type="diff", live=live)
            assert r["bytes"] == os.path.getsize(d.dir + "/%d.thaw" % i)
            assert r["pages"] < 3000, r
            assert r["pause"]["dirty"] > 0, r
        snap(c, m, d.dir + "/whole.thaw")
        assert same_memory(d, d.dir + "/4.thaw", d.dir + "/whole.thaw") == []
        assert same_memory(d, d.dir + "/3.thaw", d.dir + "/whole.thaw") != []
        # A diff of nothing, and one that is restored, goes on and is built upon.
        r = snap(c, m, d.dir + "/5.thaw", type="diff")
        assert r["pages"] < 20, r
        stop(c, m)
        n = machine(c, snapshot=d.dir + "/4.thaw", track_dirty=True)
        assert invoke(c, n, b"echo on") == b"on"
        invoke(c, n, b"touch 2")
        snap(c, n, d.dir + "/6.thaw", type="diff")
        c.call("machine.pause", {"id": n})
        snap(c, n, d.dir + "/7.thaw", type="diff")
        snap(c, n, d.dir + "/w7.thaw")
        assert same_memory(d, d.dir + "/7.thaw", d.dir + "/w7.thaw") == []
        stop(c, n)
    clean(d)


def test_deep(d):
    """64 diffs on top of each other start a machine and make a template; not 65."""
    with d.client() as c:
        m = machine(c, track_dirty=True)
        snap(c, m, d.dir + "/0.thaw")
        for i in range(1, 65):
            snap(c, m, d.dir + "/%d.thaw" % i, type="diff", live=True)
        c.fails("unsupported", "machine.snapshot", {"id": m, "path": d.dir + "/65.thaw", "type": "diff"})
        assert not os.path.exists(d.dir + "/65.thaw")
        n = machine(c, snapshot=d.dir + "/64.thaw")
        assert invoke(c, n, b"echo deep") == b"deep"
        r = c.call("snapshot.verify", {"path": d.dir + "/64.thaw"})
        assert r["ok"] and r["files"] == 65, r
        links = c.call("snapshot.inspect", {"path": d.dir + "/64.thaw"})["chain"]
        assert [x["path"] for x in links] == [d.dir + "/%d.thaw" % i for i in range(63, -1, -1)], links
        assert all(x["ok"] for x in links)
        c.call("template.create", {"name": "deep", "snapshot": d.dir + "/64.thaw"})
        clean(d)
        i = c.call("clone", {"template": "deep"})["clones"][0]["id"]
        assert invoke(c, i, b"echo deeper") == b"deeper"
        stop(c, m, n)
    d.kill()
    d.start()
    # The template has everything in one file.
    with d.client() as c:
        i = wait_for(lambda: c.call("clone", {"template": "deep"}))["clones"][0]["id"]
        assert invoke(c, i, b"echo again") == b"again"
        c.call("template.remove", {"name": "deep", "force": True})


def test_clones(d):
    """What a clone changed of its template; it was never tracked."""
    d.template("t")
    with d.client() as c:
        m = c.call("clone", {"template": "t"})["clones"][0]["id"]
        invoke(c, m, b"touch 8")
        c.call("machine.pause", {"id": m})
        r = snap(c, m, d.dir + "/d.thaw", type="diff")
        assert 2048 <= r["pages"] < 3500, r
        assert r["bytes"] < 1.05 * r["pages"] * 4096 + 65536, r
        snap(c, m, d.dir + "/w.thaw")
        assert same_memory(d, d.dir + "/d.thaw", d.dir + "/w.thaw") == []
        # Again against the template: not against what was just written.
        again = snap(c, m, d.dir + "/e.thaw", type="diff", against="template")
        assert again["pages"] == r["pages"], (r, again)
        e = c.fails("unsupported", "machine.snapshot",
                    {"id": m, "path": d.dir + "/f.thaw", "type": "diff", "against": "last"})
        assert "against its template" in e, e
        c.fails("invalid", "machine.snapshot", {"id": m, "path": d.dir + "/f.thaw", "against": "last"})
        n = machine(c, snapshot=d.dir + "/d.thaw")
        assert invoke(c, n, b"echo x") == b"x"
        c.fails("invalid", "machine.snapshot",
                {"id": n, "path": d.dir + "/f.thaw", "type": "diff", "against": "template"})
        e = c.fails("unsupported", "machine.snapshot", {"id": n, "path": d.dir + "/f.thaw", "type": "diff"})
        assert "track_dirty" in e, e
        # A live diff of a clone that works.
        c.call("machine.resume", {"id": m})
        snap(c, m, d.dir + "/l.thaw", type="diff", live=True)
        stop(c, n)
        n = machine(c, snapshot=d.dir + "/l.thaw")
        assert invoke(c, n, b"echo y") == b"y"
        stop(c, n, m)
        # Without its template it is of no use, and says so.
        c.call("template.remove", {"name": "t", "force": True})
        e = c.fails("not_found", "machine.create", {"snapshot": d.dir + "/d.thaw"})
        assert "builds on" in e, e
    clean(d)


def read_chain(d, *names):
    """Guest memory by the reader in Python, newest file first."""
    out = d.dir + "/chain.raw"
    reader = os.path.join(thawtest.TOP, "tests", "snapshot_reader.py")
    subprocess.run([sys.executable, reader, "-m", out] + [d.dir + "/" + n for n in names], check=True)
    with open(out, "rb") as f:
        data = f.read()
    os.unlink(out)
    return data


def run_thaw(d, *args, codes=(0,)):
    p = subprocess.run([thawtest.program("thaw")] + list(args), capture_output=True, text=True, cwd=d.dir)
    assert p.returncode in codes, (args, p)
    return p.stdout


def same_pages(d, a, b):
    return json.loads(run_thaw(d, "diff", "--json", a, b, codes=(0, 1)))["pages"] == 0


def deduplicated(d, path):
    shown = json.loads(run_thaw(d, "inspect", "--json", path))
    return sum(r["pages_deduplicated"] for r in shown["memory"]["regions"])


# 8 MiB in the same place, of which all but so many windows of 64 KiB were elsewhere in it.
def moved(windows):
    return b"touch 8\n" + b"." * windows


def test_shared(d):
    """What an ancestor holds already, in its place or elsewhere, is not written
    again; every tool and a restore understand the file."""
    with d.client() as c:
        m = machine(c, track_dirty=True)
        invoke(c, m, b"touch 8")
        full = snap(c, m, d.dir + "/0.thaw")
        assert full["pages"] >= 2048, full
        for i, (what, more) in enumerate(
            [(b"touch 8", {}), (moved(1), {"live": True}), (b"zero 8", {}), (moved(3), {"codec": "zstd"})], 1
        ):
            invoke(c, m, what)
            c.call("machine.pause", {"id": m})
            r = snap(c, m, d.dir + "/%d.thaw" % i, type="diff", **more)
            assert r["bytes"] == os.path.getsize(d.dir + "/%d.thaw" % i) < MIB // 2, r
            if i != 3:
                assert r["pages"] >= 2048, r
                assert deduplicated(d, "%d.thaw" % i) > 1900
            c.call("machine.resume", {"id": m})
        c.call("machine.pause", {"id": m})
        assert snap(c, m, d.dir + "/5.thaw", type="diff")["pages"] < 50
        snap(c, m, d.dir + "/whole.thaw")
        names = ["%d.thaw" % i for i in range(5, -1, -1)]
        assert read_chain(d, *names) == read_chain(d, "whole.thaw")
        run_thaw(d, "verify", "5.thaw")
        assert same_pages(d, "5.thaw", "whole.thaw") and not same_pages(d, "3.thaw", "whole.thaw")
        run_thaw(d, "merge", "-o", "merged.thaw", "5.thaw")
        assert same_pages(d, "merged.thaw", "whole.thaw")
        # Written anew it shares as much.
        for how in ("--raw", "--zstd=3"):
            run_thaw(d, "convert", "--force", how, "-o", "again.thaw", "4.thaw")
            assert os.path.getsize(d.dir + "/again.thaw") < MIB // 2
            assert same_pages(d, "again.thaw", "4.thaw")
        # It restores, at once and lazily, and goes on.
        for lazy in (False, True):
            n = machine(c, snapshot=d.dir + "/4.thaw", track_dirty=True, lazy=lazy)
            assert invoke(c, n, b"echo on") == b"on"
            wait_for(lambda: c.call("machine.show", {"id": n}).get("pager", {}).get("state", "complete") == "complete")
            invoke(c, n, moved(1))
            assert snap(c, n, d.dir + "/n.thaw", type="diff", force=True)["bytes"] < MIB // 2
            run_thaw(d, "verify", "n.thaw")
            stop(c, n)
        stop(c, m)
    clean(d)


def test_shared_with_template(d):
    with d.client() as c:
        m = machine(c)
        invoke(c, m, b"touch 8")
        c.call("template.create", {"name": "t", "machine": m})
        stop(c, m)
        m = c.call("clone", {"template": "t"})["clones"][0]["id"]
        invoke(c, m, moved(2))
        c.call("machine.pause", {"id": m})
        r = snap(c, m, d.dir + "/d.thaw", type="diff")
        assert r["pages"] >= 2048 and r["bytes"] < MIB // 2, r
        snap(c, m, d.dir + "/w.thaw")
        shutil.copy(d.state + "/templates/t/snapshot.thaw", d.dir + "/snapshot.thaw")
        assert same_pages(d, "d.thaw", "w.thaw")
        stop(c, m)
        c.call("template.remove", {"name": "t", "force": True})
    clean(d)


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def test_not_shared(d):
    """Ancestors that are not there or are other files: a diff with everything,
    which is right as soon as its parents are back."""
    with d.client() as c:
        m = machine(c, track_dirty=True)
        invoke(c, m, b"touch 8")
        parent, away = d.dir + "/0.thaw", d.dir + "/away"
        snap(c, m, parent)
        snap(c, m, d.dir + "/0b.thaw", type="diff", live=True)
        os.rename(parent, away)
        invoke(c, m, moved(1))
        assert snap(c, m, d.dir + "/1.thaw", type="diff", live=True)["bytes"] > 8 * MIB
        # The same bytes, but not the file that the machine wrote; the nearest one is.
        shutil.copy(away, parent)
        invoke(c, m, moved(2))
        assert snap(c, m, d.dir + "/2.thaw", type="diff", live=True)["bytes"] < MIB // 2
        snap(c, m, d.dir + "/2b.thaw", type="diff", live=True)
        os.rename(d.dir + "/2.thaw", away + "2")
        shutil.copy(away + "2", d.dir + "/2.thaw")
        invoke(c, m, moved(3))
        c.call("machine.pause", {"id": m})
        assert snap(c, m, d.dir + "/3.thaw", type="diff")["bytes"] > 8 * MIB
        # A damaged chunk is not shared, its neighbours are.
        flip(d.dir + "/3.thaw", 4 * MIB)
        c.call("machine.resume", {"id": m})
        invoke(c, m, b"touch 8")
        c.call("machine.pause", {"id": m})
        r = snap(c, m, d.dir + "/4.thaw", type="diff")
        assert 65536 < r["bytes"] < MIB // 2, r
        flip(d.dir + "/3.thaw", 4 * MIB)
        snap(c, m, d.dir + "/whole.thaw")
        assert same_pages(d, "4.thaw", "whole.thaw")
        run_thaw(d, "verify", "4.thaw")
        stop(c, m)
    os.unlink(away)
    os.unlink(away + "2")
    clean(d)


def test_parent_is_gone(d):
    """No diff on top of a file that is gone or was replaced; nothing is lost, and a full snapshot begins anew."""
    with d.client() as c, thawtest.Quiet(d):
        m = machine(c, track_dirty=True)
        a, b, away = d.dir + "/a.thaw", d.dir + "/b.thaw", d.dir + "/away.thaw"

        def refused(word):
            for live in (True, False):
                e = c.fails("not_found", "machine.snapshot", {"id": m, "path": b, "type": "diff", "live": live})
                assert "parent, " + a in e and word in e, e
                assert not os.path.exists(b)
            run = [thawtest.program("thaw"), "snapshot", m, b, "--diff"]
            p = subprocess.run(run, env=dict(os.environ, THAW_SOCKET=d.sock), capture_output=True, text=True, check=False)
            assert p.returncode == 3 and word in p.stderr, p

        snap(c, m, a)
        invoke(c, m, b"touch 4")
        os.rename(a, away)
        refused("is missing")
        os.mkfifo(a)
        refused("another file")
        os.unlink(a)
        # by a tool that knows nothing of the machine
        os.link(away, a)
        run_thaw(d, "convert", "--force", "away.thaw", "-o", "new.thaw")
        os.rename(d.dir + "/new.thaw", a)
        refused("another file")
        os.rename(away, a)
        assert snap(c, m, b, type="diff")["pages"] >= 1024
        os.unlink(b)
        c.fails("not_found", "machine.snapshot", {"id": m, "path": b, "type": "diff"})
        snap(c, m, d.dir + "/new.thaw")
        invoke(c, m, b"touch 1")
        snap(c, m, b, type="diff")
        run_thaw(d, "verify", "b.thaw")
        # one that was restored, too
        n = machine(c, snapshot=b, track_dirty=True)
        os.unlink(b)
        c.fails("not_found", "machine.snapshot", {"id": n, "path": d.dir + "/c.thaw", "type": "diff"})
        snap(c, n, d.dir + "/c.thaw")
        stop(c, m, n)
    clean(d)


def test_where_parents_are(d):
    with d.client() as c:
        m = machine(c, track_dirty=True)
        os.mkdir(d.dir + "/dir1")
        os.mkdir(d.dir + "/dir2")
        snap(c, m, d.dir + "/dir1/a.thaw")
        snap(c, m, d.dir + "/dir1/b.thaw", type="diff")
        snap(c, m, d.dir + "/dir2/c.thaw", type="diff")
        for f in ("dir1/b.thaw", "dir2/c.thaw"):
            stop(c, machine(c, snapshot=d.dir + "/" + f))
        # Moved together: the name alone is enough.
        shutil.copytree(d.dir + "/dir1", d.dir + "/dir3")
        stop(c, machine(c, snapshot=d.dir + "/dir3/b.thaw"))
        # Moved beside it.
        shutil.copy(d.dir + "/dir2/c.thaw", d.dir + "/dir3/c.thaw")
        shutil.rmtree(d.dir + "/dir1")
        stop(c, machine(c, snapshot=d.dir + "/dir3/c.thaw"))
        # Gone.
        e = c.fails("not_found", "machine.create", {"snapshot": d.dir + "/dir2/c.thaw"})
        assert "b.thaw" in e and "builds on" in e, e
        with thawtest.Quiet(d):
            # Another snapshot, another file, a part of it, the same one changed.
            b, a = d.dir + "/dir3/b.thaw", d.dir + "/dir3/a.thaw"
            good = open(a, "rb").read()
            shutil.copy(b, a)
            e = c.fails("corrupt", "machine.create", {"snapshot": b})
            assert "builds on" in e and a + " is snapshot" in e, e
            e = c.fails("corrupt", "template.create", {"name": "x", "snapshot": b})
            with open(a, "wb") as f:
                f.write(b"something else" * 1000)
            e = c.fails("corrupt", "machine.create", {"snapshot": b})
            assert a + ": bytes 0-7: not a thaw snapshot" in e, e
            with open(a, "wb") as f:
                f.write(good[: len(good) // 2])
            e = c.fails("corrupt", "machine.create", {"snapshot": b})
            assert a in e and "cut short" in e, e
            os.unlink(a)
            snap(c, m, a)
            e = c.fails("corrupt", "machine.create", {"snapshot": b})
            os.unlink(a)
            for make in (os.mkdir, os.mkfifo, lambda x: os.symlink("/etc/passwd", x)):
                make(a)
                e = c.fails("corrupt", "machine.create", {"snapshot": b})
                assert a + ": bytes 0-7: not a thaw snapshot" in e, e
                os.rmdir(a) if os.path.isdir(a) else os.unlink(a)
        # A damaged byte of the parent's memory is found before the guest runs.
        with open(a, "wb") as f:
            f.write(good[:-8000] + bytes([good[-8000] ^ 1]) + good[-7999:])
        c.fails("corrupt", "machine.create", {"snapshot": b})
        stop(c, m)
    clean(d)


def test_nothing_lost(d):
    """Snapshots that fail, are cancelled or whose writer dies: the next diff has
    all of it."""
    mnt = d.dir + "/mnt"
    os.mkdir(mnt)
    r = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mnt], capture_output=True)
    try:
        with d.client() as c:
            m = machine(c, track_dirty=True)
            snap(c, m, d.dir + "/0.thaw")
            invoke(c, m, b"touch 16")
            if not r.returncode:
                for live in (True, False):
                    c.fails("exhausted", "machine.snapshot", {"id": m, "path": mnt + "/x", "type": "diff", "live": live})
                c.fails("exhausted", "machine.snapshot", {"id": m, "path": mnt + "/x"})
            c.fails("exists", "machine.snapshot", {"id": m, "path": d.dir + "/0.thaw", "type": "diff"})
            for i in range(4):
                other = d.client()
                other.send("machine.snapshot", {"id": m, "path": d.dir + "/c%d.thaw" % i, "type": "diff"})
                other.close()
            c.call("server.info")
            wait_for(lambda: invoke(c, m, b"echo on") == b"on")
            done = sorted(f for f in os.listdir(d.dir) if f.startswith("c"))
            while True:
                try:
                    c.call("template.create", {"name": "between", "machine": m})
                    break
                except thawtest.RpcError as e:
                    # The last of those cancelled may have been the slowest.
                    assert e.code == "busy", e.error
            c.call("template.remove", {"name": "between"})
            c.call("machine.pause", {"id": m})
            r1 = snap(c, m, d.dir + "/1.thaw", type="diff")
            assert done or r1["pages"] >= 4096, r1
            snap(c, m, d.dir + "/w.thaw")
            assert same_memory(d, d.dir + "/1.thaw", d.dir + "/w.thaw") == []
            stop(c, m)
    finally:
        if not r.returncode:
            wait_for(lambda: subprocess.run(["umount", mnt], capture_output=True).returncode == 0)
        os.rmdir(mnt)
    clean(d)


def test_force(d):
    """--force replaces a file, but none that somebody builds on."""
    with d.client() as c:
        m = machine(c, track_dirty=True)
        a, b, x = d.dir + "/a.thaw", d.dir + "/b.thaw", d.dir + "/x.thaw"
        snap(c, m, a)
        snap(c, m, a, force=True)
        e = c.fails("busy", "machine.snapshot", {"id": m, "path": a, "type": "diff", "force": True})
        assert "builds on" in e or "build on" in e, e
        snap(c, m, b, type="diff")
        for kind in ("full", "diff"):
            for f in (a, b):
                c.fails("busy", "machine.snapshot", {"id": m, "path": f, "type": kind, "force": True})
        n = machine(c)
        c.fails("busy", "machine.snapshot", {"id": n, "path": a, "force": True})
        os.link(a, d.dir + "/hard.thaw")
        c.fails("busy", "machine.snapshot", {"id": n, "path": d.dir + "/hard.thaw", "force": True})
        snap(c, n, x)
        stop(c, n)
        k = machine(c, snapshot=b)
        stop(c, m)
        # Restored from b, which builds on a.
        n = machine(c)
        c.fails("busy", "machine.snapshot", {"id": n, "path": a, "force": True})
        snap(c, n, x, force=True)
        stop(c, k)
        snap(c, n, a, force=True)
        stop(c, n)
    clean(d)


def test_cli(d):
    env = dict(os.environ, THAW_SOCKET=d.sock)
    thaw = thawtest.program("thaw")

    def run(*args, code=0):
        p = subprocess.run([thaw] + list(args), env=env, capture_output=True, text=True, cwd=d.dir)
        assert p.returncode == code, (args, p)
        return p.stdout + p.stderr

    with d.client() as c:
        m = machine(c, track_dirty=True)
        run("snapshot", m, "a.thaw", "--live")
        run("snapshot", m, "b.thaw", "--diff")
        run("snapshot", m, "c.thaw", "--diff", "--against", "last")
        run("snapshot", m, "x.thaw", "--against", "last", code=2)
        run("snapshot", m, "x.thaw", "--diff", "--against", "template", code=1)
        n = run("restore", "c.thaw", "--track-dirty", "--ready", "agent").strip()
        run("snapshot", n, "d.thaw", "--diff")
        run("template", "create", "t", "--snapshot", "d.thaw")
        assert run("invoke", "t", "--data", "echo chain").startswith("chain")
        os.unlink(d.dir + "/b.thaw")
        assert "builds on" in run("restore", "c.thaw", code=3)
        run("template", "rm", "t")
        stop(c, m, n)
    clean(d)


if __name__ == "__main__":
    thawtest.main(globals())

#!/usr/bin/python3
"""Memory that is brought in when it is touched: templates and machines from
snapshots, on demand, from a working set, in the background; and everything
that can die, stall or lie on the way.
"""
# timeout: 240

import ctypes
import os
import shutil
import signal
import sys
import time

import thawtest
from thawtest import Daemon, Quiet, alive, wait_for

MIB = 1 << 20
TOUCHED = 48  # MiB that are not zeros


def snapshot(d):
    """A snapshot with memory in it, made once per daemon."""
    path = os.path.join(d.dir, "s.thaw")
    if os.path.exists(path):
        return path
    d.template("source")
    with d.client() as c:
        i = c.call("clone", {"template": "source"})["clones"][0]["id"]
        answer = c.call("machine.invoke", {"id": i, "payload": b"touch %d" % TOUCHED})["payload"]
        assert answer == b"touched %d MiB" % TOUCHED, answer
        c.call("machine.snapshot", {"id": i, "path": path})
        c.call("machine.stop", {"id": i})
        c.call("template.remove", {"name": "source"})
    return path


def lazy(c, d, name, **more):
    params = {"name": name, "snapshot": snapshot(d), "lazy": True}
    params.update(more)
    return c.call("template.create", params)


def pager(c, name):
    return c.call("template.show", {"name": name})["pager"]


def check(c, name, mib=8, **more):
    r = c.call("invoke", {"template": name, "payload": b"check %d" % mib, **more})
    assert r["payload"] == b"right %d MiB" % mib, r
    return r


def complete(c, name):
    return pager(c, name)["state"] == "complete"


def remove(c, name):
    c.call("template.remove", {"name": name, "force": True})


def test_on_demand(d):
    snapshot(d)
    with Quiet(d), d.client() as c:
        histograms = c.call("metrics")["histograms"]
        answers = {what: histograms["lazy_%s_first_answer" % what]["count"] for what in ("template", "machine")}
        lazy(c, d, "od", fill="none")
        before = pager(c, "od")
        assert before["faults"] < 40 and before["pages_absent"] > 8000, before
        check(c, "od", 8)
        first = pager(c, "od")
        # 8 MiB came because they were touched, little else did
        assert 0 < first["windows_demand"] < 128, first  # most windows before they were touched
        assert 2048 <= first["pages_demand"] + first["pages_ahead"] < 4096, first
        assert first["pages_absent"] > 40 * 256 - 512, first
        assert first["bytes_read"] < 16 * MIB, first
        # once for all clones
        for _ in range(3):
            check(c, "od", 8)
        again = pager(c, "od")
        assert again["pages_demand"] - first["pages_demand"] < 64, (first, again)
        assert again["state"] == "on demand", again
        assert c.call("template.show", {"name": "od"})["first_answer_us"] > 0
        metrics = c.call("metrics")
        counters = metrics["counters"]
        assert metrics["gauges"]["pager_pages_absent"] == again["pages_absent"], metrics["gauges"]
        for what in ("template", "machine"):
            h = metrics["histograms"]["lazy_%s_first_answer" % what]
            assert h["count"] > answers[what] and h["p99"] > 0, h
        assert counters["pager_faults"] >= again["faults"]
        assert counters["pager_pages_demand"] >= again["pages_demand"]
        # it stays like that
        time.sleep(2.5)
        assert pager(c, "od")["pages_prefetched"] == 0
        remove(c, "od")


def test_background(d):
    snapshot(d)
    with Quiet(d), d.client() as c:
        lazy(c, d, "bg", pool=2)
        i = c.call("clone", {"template": "bg"})["clones"][0]["id"]
        check(c, "bg", 1)
        wait_for(lambda: complete(c, "bg"))
        p = pager(c, "bg")
        assert p["pages_absent"] == 0 and p["pages_prefetched"] > 8000, p
        wait_for(lambda: not alive(p["pid"]))
        # the clone from before, and new ones, which are not registered at all
        r = c.call("machine.invoke", {"id": i, "payload": b"check %d" % TOUCHED})
        assert r["payload"] == b"right %d MiB" % TOUCHED
        check(c, "bg", TOUCHED)
        assert pager(c, "bg")["faults"] == p["faults"]
        # a diff or a live snapshot is possible now
        path = os.path.join(d.dir, "after.thaw")
        c.call("machine.snapshot", {"id": i, "path": path})
        assert c.call("snapshot.verify", {"path": path})["pages"] > 8000
        os.unlink(path)
        c.call("machine.stop", {"id": i})
        remove(c, "bg")


def test_rate(d):
    with d.client() as c:
        lazy(c, d, "slow", fill_rate=4)
        check(c, "slow", 1)
        time.sleep(1)
        p = pager(c, "slow")
        # 1 s of 4 MiB a second, with room for a late start and a full pipe
        assert p["pages_prefetched"] * 4096 < 16 * MIB, p
        assert p["state"] == "filling", p
        remove(c, "slow")


def test_base_is_shared(d):
    with d.client() as c:
        lazy(c, d, "sh", fill="none")
        made = c.call("clone", {"template": "sh", "count": 8})["clones"]
        ids = [x["id"] for x in made]
        for i in ids:
            r = c.call("machine.invoke", {"id": i, "payload": b"check 4"})
            assert r["payload"] == b"right 4 MiB"
        shows = [c.call("machine.show", {"id": i}) for i in ids]
        # only the first one had to ask
        assert shows[0]["pager"]["faults"] > max(s["pager"]["faults"] for s in shows[1:]), shows
        assert pager(c, "sh")["pages_demand"] + pager(c, "sh")["pages_ahead"] < 2048, pager(c, "sh")
        assert all(s["memory"]["shared"] >= 4 * MIB for s in shows), shows
        assert all(s["first_answer_us"] > 0 for s in shows)
        # what one writes nobody else sees
        c.call("machine.invoke", {"id": ids[0], "payload": b"zero 4"})
        r = c.call("machine.invoke", {"id": ids[1], "payload": b"check 4"})
        assert r["payload"] == b"right 4 MiB"
        remove(c, "sh")


def test_restore(d):
    path = snapshot(d)
    with Quiet(d), d.client() as c:
        i = c.call("machine.create", {"snapshot": path, "lazy": True, "ready": "agent"})["id"]
        text = c.fails("busy", "machine.snapshot", {"id": i, "path": path + ".no"})
        assert "brought in" in text, text
        r = c.call("machine.invoke", {"id": i, "payload": b"check 8"})
        assert r["payload"] == b"right 8 MiB"
        c.call("machine.stop", {"id": i})
        # the answer of a request lies behind what it looked at: another one
        i = c.call("machine.create", {"snapshot": path, "lazy": True, "ready": "agent"})["id"]
        c.call("machine.invoke", {"id": i, "payload": b"echo"})
        wait_for(lambda: c.call("machine.show", {"id": i})["pager"]["state"] == "complete")
        r = c.call("machine.invoke", {"id": i, "payload": b"check %d" % TOUCHED})
        assert r["payload"] == b"right %d MiB" % TOUCHED
        c.call("machine.snapshot", {"id": i, "path": path + ".yes"})
        os.unlink(path + ".yes")
        c.call("machine.stop", {"id": i})


def test_compressed(d):
    """Unpacked on the way, on demand and in the background."""
    path = os.path.join(d.dir, "packed.thaw")
    with Quiet(d), d.client() as c:
        i = c.call("machine.create", {"snapshot": snapshot(d), "ready": "agent"})["id"]
        c.call("machine.snapshot", {"id": i, "path": path, "codec": "zstd"})
        c.call("machine.stop", {"id": i})
        c.call("template.create", {"name": "z", "snapshot": path, "lazy": True})
        check(c, "z", 8)
        wait_for(lambda: complete(c, "z"), 30)
        check(c, "z", TOUCHED)
        remove(c, "z")
    os.unlink(path)


def test_chain(d):
    """A diff: its machine takes pages from the whole chain."""
    path = snapshot(d)
    diff = os.path.join(d.dir, "diff.thaw")
    with Quiet(d), d.client() as c:
        i = c.call("machine.create", {"snapshot": path, "track_dirty": True, "ready": "agent"})["id"]
        c.call("machine.invoke", {"id": i, "payload": b"zero 1"})
        c.call("machine.snapshot", {"id": i, "path": diff, "type": "diff"})
        c.call("machine.stop", {"id": i})
        i = c.call("machine.create", {"snapshot": diff, "lazy": True, "ready": "agent"})["id"]
        # the first MiB is the diff's, which has zeros there
        text = c.fails("internal", "machine.invoke", {"id": i, "payload": b"check 1"})
        assert "wrong" in text, text
        # written again, and the rest is as the full one has it, but for the answers in between
        c.call("machine.stop", {"id": i})
        i = c.call("machine.create", {"snapshot": diff, "lazy": True, "ready": "agent"})["id"]
        c.call("machine.invoke", {"id": i, "payload": b"echo"})
        wait_for(lambda: c.call("machine.show", {"id": i})["pager"]["state"] == "complete")
        c.call("machine.snapshot", {"id": i, "path": diff + ".full"})
        pages = c.call("snapshot.verify", {"path": diff + ".full"})["pages"]
        assert pages > (TOUCHED - 2) * 256, pages
        c.call("machine.stop", {"id": i})
        os.unlink(diff + ".full")
        # a template of it has all in one file
        c.call("template.create", {"name": "ch", "snapshot": diff, "lazy": True, "fill": "none"})
        text = c.fails("internal", "invoke", {"template": "ch", "payload": b"check 1"})
        assert "wrong" in text, text
        remove(c, "ch")
    os.unlink(diff)


def test_parameters(d):
    path = snapshot(d)
    with d.client() as c:
        c.fails("invalid", "template.create", {"name": "x", "config": {}, "lazy": True})
        c.fails("invalid", "machine.create", {"config": {}, "lazy": True})
        c.fails("invalid", "template.create", {"name": "x", "snapshot": path, "fill": "none"})
        c.fails("invalid", "template.create", {"name": "x", "snapshot": path, "lazy": True, "fill": "some"})
        c.fails("invalid", "template.create", {"name": "x", "snapshot": path, "lazy": True, "stall_ms": 1})
        with open(os.path.join(d.dir, "no.thaw"), "wb") as f:
            f.write(b"x" * 8192)
        c.fails("corrupt", "template.create", {"name": "x", "snapshot": f.name, "lazy": True})
        c.fails("corrupt", "machine.create", {"snapshot": f.name, "lazy": True})
        assert "x" not in [t["name"] for t in c.call("template.list")["templates"]]


def test_recording(d):
    """The set of a request, beside the file; the next cold start reads it first."""
    path = snapshot(d)
    ws = path + ".ws"
    with d.client() as c:
        with Quiet(d):
            lazy(c, d, "rec", fill="none")
            check(c, "rec", 8)
            without = pager(c, "rec")["windows_demand"]
            r = c.call("template.record", {"name": "rec", "payload": b"check 8", "path": ws})
            assert 2048 <= r["set"] < 2500 and r["recordings"] == 1, r
            # another one is added, or takes its place
            more = c.call("template.record", {"name": "rec", "payload": b"check 16", "path": ws})
            assert more["recordings"] == 2 and more["set"] >= 4096, more
            r = c.call("template.record", {"name": "rec", "payload": b"check 8", "path": ws, "replace": True})
            assert r["recordings"] == 1 and r["set"] < 2500, r
            text = c.fails("internal", "template.record", {"name": "rec", "payload": b"nothing"})
            assert "function" in text, text
            remove(c, "rec")
        lazy(c, d, "rec", fill="none")
        wait_for(lambda: pager(c, "rec")["pages_prefetched"] >= r["set"])
        before = pager(c, "rec")
        assert before["set_pages"] == r["set"], before
        check(c, "rec", 8)
        after = pager(c, "rec")
        assert after["windows_demand"] - before["windows_demand"] <= without * 2 // 100, (without, before, after)
        remove(c, "rec")
        # for a single machine, too
        i = c.call("machine.create", {"snapshot": path, "lazy": True, "fill": "none", "ready": "agent"})["id"]
        m = c.call("machine.show", {"id": i})["pager"]
        assert m["set_pages"] == r["set"], m
        c.call("machine.stop", {"id": i})
        # one that is damaged, or of another file, is not used
        with open(ws, "r+b") as f:
            f.seek(100)
            f.write(b"\xff")
        lazy(c, d, "rec", fill="none")
        check(c, "rec", 8)
        assert pager(c, "rec")["set_pages"] == 0
        remove(c, "rec")
    os.unlink(ws)


def recording(c, name, payload):
    """A recording under way: the request, its machine as the list has it."""
    before = [m["id"] for m in c.call("machine.list")["machines"]]
    n = c.send("template.record", {"name": name, "payload": payload})

    def machine():
        for m in c.call("machine.list")["machines"]:
            if m["id"] not in before and m["state"] == "running":
                m = c.call("machine.show", {"id": m["id"]})
                return m if m.get("pager", {}).get("faults", 0) > 20 else None
        return None

    return n, wait_for(machine)


def faults(c, i):
    return c.call("machine.show", {"id": i})["pager"]["faults"]


def settled(c, i):
    """It has answered: nothing is asked for any more."""
    before = faults(c, i)
    time.sleep(0.3)
    return before == faults(c, i)


def end_recorded(c, how, m):
    if how == "stop":
        c.call("machine.stop", {"id": m["id"]})
    else:
        os.kill(m["pids"]["machine"] if how == "machine" else m["pager"]["pid"], signal.SIGKILL)


def test_recorded_machine_ends(d):
    """By itself, by somebody else, without its pager: in the middle of the
    request, and when only the list of its pages is still owed.
    """
    with d.client() as c:
        lazy(c, d, "re", fill="none")
        for how in ("stop", "machine", "pager") * 2:
            n, m = recording(c, "re", b"check %d" % TOUCHED)
            end_recorded(c, how, m)
            try:
                c.wait(n)
                raise AssertionError("a recording of a machine that ended: " + how)
            except thawtest.RpcError as e:
                assert e.message, how
        for how in ("stop", "machine", "pager") * 2:
            n, m = recording(c, "re", b"check 1")
            # it goes on to answer faults, and nothing else
            with Held([m["pager"]["pid"]]) as held:
                if not held:
                    c.wait(n)
                    continue
                wait_for(lambda: settled(c, m["id"]))
                end_recorded(c, how, m)
                try:
                    c.wait(n)
                    raise AssertionError("a recording that nobody wrote: " + how)
                except thawtest.RpcError as e:
                    assert e.message, how
            # what was freed is not listed
            for left in c.call("machine.list")["machines"]:
                assert left["id"] != m["id"] or left["state"] == "ended", left
        r = c.call("template.record", {"name": "re", "payload": b"check 1"})
        assert r["pages"] >= 256, r
        remove(c, "re")


def test_daemon_restarts(d):
    with d.client() as c:
        lazy(c, d, "stay", fill="none")
    d.kill(signal.SIGKILL)
    d.start()
    with d.client() as c:
        wait_for(lambda: c.call("template.show", {"name": "stay"})["state"] == "ready")
        check(c, "stay", 8)
        assert pager(c, "stay")["state"] == "on demand"
        remove(c, "stay")


def test_pager_killed(d):
    """Its machines end by name, nothing is zero, the template comes back."""
    with d.client() as c, d.client() as other:
        lazy(c, d, "pk", fill="none")
        i = c.call("clone", {"template": "pk"})["clones"][0]["id"]
        pid = pager(c, "pk")["pid"]
        os.kill(pid, signal.SIGSTOP)
        n = c.send("machine.invoke", {"id": i, "payload": b"check 8", "timeout_ms": 60000})
        time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        try:
            c.wait(n)
            raise AssertionError("an answer from a machine whose pages are gone")
        except thawtest.RpcError as e:
            assert "pager" in e.message and "signal 9" in e.message, e.message
        assert time.monotonic() - start < 5
        m = other.call("machine.show", {"id": i})
        assert m["state"] == "ended" and "pager" in m["end"]["text"], m
        wait_for(lambda: other.call("template.show", {"name": "pk"})["state"] == "ready")
        check(other, "pk", 8)
        assert other.call("metrics")["counters"]["pagers_lost"] >= 1
        remove(other, "pk")


def test_pager_stalls(d):
    with d.client() as c:
        lazy(c, d, "ps", fill="none", stall_ms=700)
        i = c.call("clone", {"template": "ps"})["clones"][0]["id"]
        os.kill(pager(c, "ps")["pid"], signal.SIGSTOP)
        start = time.monotonic()
        text = c.fails("timeout", "machine.invoke", {"id": i, "payload": b"check 8", "timeout_ms": 60000})
        assert "pager" in text and "700 ms" in text, text
        assert time.monotonic() - start < 20
        wait_for(lambda: c.call("template.show", {"name": "ps"})["state"] == "ready")
        check(c, "ps", 8)
        remove(c, "ps")


def hold(tids, ready):
    """Stop single threads until they are killed: a debugger's work."""
    libc = ctypes.CDLL(None, use_errno=True)
    seize, interrupt, wall = 0x4206, 0x4207, 0x40000000
    ok = all(libc.ptrace(seize, t, None, None) == 0 and libc.ptrace(interrupt, t, None, None) == 0 for t in tids)
    os.write(ready, b"y" if ok else b"n")
    try:
        while ok:
            os.waitpid(-1, wall)
    except ChildProcessError:
        pass
    os._exit(0)


class Held:
    """Threads of a process that do not move."""

    def __init__(self, tids):
        r, w = os.pipe()
        self.child = os.fork()
        if not self.child:
            hold(tids, w)
        held = os.read(r, 1) == b"y"
        os.close(r)
        os.close(w)
        if not held:
            self.__exit__()
            raise thawtest.Skip("threads of another process cannot be stopped here")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)


def test_pager_threads_stall(d):
    """A pager that answers its daemon but no faults is no pager."""
    with d.client() as c:
        lazy(c, d, "pt", fill="none", stall_ms=700)
        i = c.call("clone", {"template": "pt"})["clones"][0]["id"]
        pid = pager(c, "pt")["pid"]
        with Held([int(t) for t in os.listdir("/proc/%d/task" % pid) if int(t) != pid]):
            start = time.monotonic()
            text = c.fails("timeout", "machine.invoke", {"id": i, "payload": b"check 8", "timeout_ms": 20000})
            assert "pager" in text and "700 ms" in text, text
            assert time.monotonic() - start < 10
        wait_for(lambda: c.call("template.show", {"name": "pt"})["state"] == "ready")
        check(c, "pt", 8)
        remove(c, "pt")


def test_complete_needs_no_pager(d):
    """Clones of a complete template live on, whatever dies."""
    with d.client() as c:
        lazy(c, d, "done")
        check(c, "done", 1)
        wait_for(lambda: complete(c, "done"))
        lazy(c, d, "half", fill="none")
        i = c.call("clone", {"template": "done"})["clones"][0]["id"]
        os.kill(pager(c, "half")["pid"], signal.SIGKILL)
        r = c.call("machine.invoke", {"id": i, "payload": b"check %d" % TOUCHED})
        assert r["payload"] == b"right %d MiB" % TOUCHED
        remove(c, "half")
        remove(c, "done")


def damage(path, needle):
    """Flip a bit in the page that holds these bytes; its offset."""
    with open(path, "r+b") as f:
        data = f.read()
        at = data.find(needle)
        assert at > 0
        f.seek(at)
        f.write(bytes([data[at] ^ 1]))
    return at


def word(i):
    return ((2 * i + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(8, "little")


def test_bad_chunk(d):
    """Who needs it ends, with its bytes; who does not goes on."""
    bad = os.path.join(d.dir, "bad.thaw")
    shutil.copy(snapshot(d), bad)
    at = damage(bad, word(6 * MIB // 8))
    with d.client() as c:
        c.call("template.create", {"name": "bad", "snapshot": bad, "lazy": True, "fill": "none"})
        check(c, "bad", 4)
        i = c.call("clone", {"template": "bad"})["clones"][0]["id"]
        text = c.fails(("corrupt", "internal"), "machine.invoke", {"id": i, "payload": b"check 8"})
        start, end = (int(x) for x in text.split("bytes ")[1].split(":")[0].split("-"))
        assert start <= at <= end, (text, at)
        check(c, "bad", 4)
        assert pager(c, "bad")["machines_failed"] == 1
        c.call("template.create", {"name": "bad2", "snapshot": bad, "lazy": True})
        check(c, "bad2", 1)
        wait_for(lambda: pager(c, "bad2")["state"] == "damaged")
        assert "bytes" in pager(c, "bad2")["damaged"]
        check(c, "bad2", 4)
        remove(c, "bad")
        remove(c, "bad2")
    os.unlink(bad)


def test_file_changes_below(d):
    """The store shares the client's file: what is written to it later is found
    out, and never reaches a guest."""
    path = os.path.join(d.dir, "own.thaw")
    shutil.copy(snapshot(d), path)
    with d.client() as c:
        c.call("template.create", {"name": "own", "snapshot": path, "lazy": True, "fill": "none"})
        with open(path, "r+b") as f:
            f.truncate(65536)
        text = c.fails("corrupt", "clone", {"template": "own"})
        assert "the file ends before" in text, text
        remove(c, "own")


def test_no_permission(d):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        raise thawtest.Skip("needs root and setpriv")
    cmd = (
        "mount --bind /dev/null /dev/userfaultfd 2>/dev/null; "
        'exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace "$0" "$@"'
    )
    try:
        with open("/proc/sys/vm/unprivileged_userfaultfd") as f:
            if f.read().strip() == "1":
                raise thawtest.Skip("userfaultfd is for everybody here")
    except FileNotFoundError:
        pass
    other = Daemon(prefix=["unshare", "-m", "sh", "-c", cmd])
    try:
        with other.client() as c:
            path = snapshot(other)
            text = c.fails("unsupported", "template.create", {"name": "z", "snapshot": path, "lazy": True})
            assert "/dev/userfaultfd" in text, text
            text = c.fails("unsupported", "machine.create", {"snapshot": path, "lazy": True})
            assert "unprivileged_userfaultfd" in text, text
            c.call("template.create", {"name": "z", "snapshot": path})
            check(c, "z", 8)
    finally:
        other.close()


def allowed():
    """May this process use userfaultfd for faults of the kernel?"""
    try:
        os.close(os.open("/dev/userfaultfd", os.O_RDWR))
        return True
    except OSError:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(323, os.O_CLOEXEC)  # userfaultfd() of x86_64
        if fd >= 0:
            os.close(fd)
        return fd >= 0


if __name__ == "__main__":
    if not allowed():
        print("1..0 # SKIP userfaultfd is not allowed here")
        sys.exit(77)
    thawtest.main(globals())

#!/usr/bin/env python3
# timeout: 240
"""Snapshots of machines: live, cancelled, with a disk that is full, with every
process killed that has a part in them."""

import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import thawtest
from thawtest import RpcError, alive, children_of, wait_for


def invoke(c, m, text):
    return c.call("machine.invoke", {"id": m, "payload": text})["payload"]


def machine(c, mib=40, **more):
    """A machine with so much memory that is not zero: a snapshot takes a while."""
    params = {"config": {"memory": "128M"}, "ready": "agent"}
    params.update(more)
    m = c.call("machine.create", params)["id"]
    if mib:
        invoke(c, m, b"touch %d" % mib)
    return m


def files(d):
    ours = ("log", "state", "thaw.sock", "thaw.sock.lock", "mnt")
    return sorted(f for f in os.listdir(d.dir) if f not in ours)


def has_begun(pid):
    """It has closed what it does not need, and so is tied to the daemon."""
    try:
        return len(os.listdir("/proc/%d/fd" % pid)) <= 6
    except OSError:
        return False


def caught(d, c, m, name, **more):
    """Begin a snapshot and stop the process that writes it in the middle:
    (request, pid). Tried again when it was done already."""
    path = d.dir + "/" + name
    for _ in range(50):
        before = set(children_of(d.proc.pid))
        req = c.send("machine.snapshot", dict({"id": m, "path": path}, **more))
        end = time.monotonic() + 20
        pid = None
        while not pid and not os.path.exists(path):
            assert time.monotonic() < end, "no process writes"
            pid = next((p for p in set(children_of(d.proc.pid)) - before if has_begun(p)), None)
        if pid:
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                pid = None
        time.sleep(0.005)
        if pid and not os.path.exists(path) and alive(pid):
            return req, pid
        if pid:
            os.kill(pid, signal.SIGCONT)
        c.wait(req)
        os.unlink(path)
    raise AssertionError("the writer is always too fast")


def failed(c, req, text):
    try:
        c.wait(req)
    except RpcError as e:
        assert text in e.message, e.message
        return e
    raise AssertionError("it succeeded")


def test_live(d):
    with d.client() as c:
        m = machine(c)
        for live in (True, False):
            path = d.dir + "/a.thaw"
            r = c.call("machine.snapshot", {"id": m, "path": path, "live": live})
            assert r["bytes"] == os.path.getsize(path), r
            assert 0 < r["pause_us"] <= r["total_us"], r
            parts = r["pause"]
            assert set(parts) == {"stop", "quiesce", "state", "dirty", "fork", "resume"}, r
            assert sum(parts.values()) <= r["pause_us"], r
            assert invoke(c, m, b"echo on") == b"on"
            n = c.call("machine.create", {"snapshot": path, "ready": "agent"})["id"]
            assert invoke(c, n, b"echo there") == b"there"
            c.call("machine.stop", {"id": n})
            os.unlink(path)
        k = c.call("metrics")
        assert k["counters"]["snapshots"] == 2, k
        assert k["histograms"]["snapshot_pause"]["count"] == 1, k
        c.call("machine.stop", {"id": m})


def clone_or_none(c):
    """While the daemon has not seen yet that the zygote is gone."""
    try:
        return clone(c)
    except RpcError:
        return None


def clone(c):
    m = c.call("clone", {"template": "t"})["clones"][0]["id"]
    invoke(c, m, b"touch 40")
    return m


def test_clone(d):
    """A clone's writer is its zygote's child."""
    d.template("t")
    with d.client() as c:
        m = clone(c)
        path = d.dir + "/c.thaw"
        c.call("machine.snapshot", {"id": m, "path": path, "live": True})
        n = c.call("machine.create", {"snapshot": path, "ready": "agent"})["id"]
        assert invoke(c, n, b"echo x") == b"x"
        os.unlink(path)
        # The writer outlives its clone ...
        req, pid = caught(d, c, m, "c.thaw", live=True)
        c.call("machine.stop", {"id": m})
        os.kill(pid, signal.SIGCONT)
        c.wait(req)
        os.unlink(path)
        # ... and not its zygote; the zygote is well after both.
        m = clone(c)
        req, pid = caught(d, c, m, "c.thaw", live=True)
        c.call("template.remove", {"name": "t", "force": True})
        failed(c, req, "")
        wait_for(lambda: not alive(pid))
        assert files(d) == [], files(d)


def watched(d, c, path, **more):
    """A snapshot: how many threads wrote it, and how nice they were."""
    before = set(children_of(d.proc.pid))
    req = c.send("machine.snapshot", dict({"path": path}, **more))
    threads, nice = 0, None
    while not os.path.exists(path):
        for pid in set(children_of(d.proc.pid)) - before:
            try:
                tasks = os.listdir("/proc/%d/task" % pid)
                if len(tasks) > threads:
                    threads = len(tasks)
                    nice = os.getpriority(os.PRIO_PROCESS, int(tasks[-1]))
            except OSError:
                pass
        time.sleep(0.001)
    c.wait(req)
    return threads, nice


def test_threads(d):
    """A thread for each processor, of a machine and of a clone, while the guest
    writes on; what comes out is a snapshot."""
    path = d.dir + "/a.thaw"
    want = min(4, len(os.sched_getaffinity(0)))
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    d.template("t")
    with d.client() as c, d.client() as other:
        for m in (machine(c), clone(c)):
            for live in (False, True):
                busy = other.send("machine.invoke", {"id": m, "payload": b"touch 40"}) if live else None
                got = watched(d, c, path, id=m, codec="zstd", level=5, live=live)
                assert got == (want, min(19, mine + 5 * live)), got
                if busy is not None:
                    other.wait(busy)
                r = subprocess.run([thawtest.program("thaw"), "verify", path], stdout=subprocess.PIPE, check=False)
                assert r.returncode == 0, r
                n = c.call("machine.create", {"snapshot": path, "ready": "agent"})["id"]
                assert invoke(c, n, b"check 40") == b"right 40 MiB"
                c.call("machine.stop", {"id": n})
                os.unlink(path)
            c.call("machine.stop", {"id": m})
        c.call("template.remove", {"name": "t"})


def test_paused(d):
    """Live or not, what was paused stays paused."""
    with d.client() as c:
        m = machine(c)
        c.call("machine.pause", {"id": m})
        for live in (True, False):
            r = c.call("machine.snapshot", {"id": m, "path": d.dir + "/p%d" % live, "live": live})
            assert r["pause_us"] == 0, r
            assert c.call("machine.show", {"id": m})["state"] == "paused"
            os.unlink(d.dir + "/p%d" % live)
        c.call("machine.resume", {"id": m})
        assert invoke(c, m, b"echo y") == b"y"
        # Paused while it is held for its snapshot: it stays so afterwards.
        req, pid = caught(d, c, m, "held")
        c.call("machine.pause", {"id": m})
        os.kill(pid, signal.SIGCONT)
        c.wait(req)
        c.fails("busy", "machine.invoke", {"id": m, "payload": b"echo z"})
        c.call("machine.resume", {"id": m})
        assert invoke(c, m, b"echo z") == b"z"
        os.unlink(d.dir + "/held")
        c.call("machine.stop", {"id": m})


def test_two_at_once(d):
    with d.client() as c:
        m = machine(c)
        req, pid = caught(d, c, m, "one", live=True)
        c.fails("busy", "machine.snapshot", {"id": m, "path": d.dir + "/two"})
        # The machine works meanwhile.
        assert invoke(c, m, b"echo busy") == b"busy"
        os.kill(pid, signal.SIGCONT)
        c.wait(req)
        c.call("machine.snapshot", {"id": m, "path": d.dir + "/two"})
        assert files(d) == ["one", "two"]
        for f in files(d):
            os.unlink(d.dir + "/" + f)
        c.call("machine.stop", {"id": m})


def test_cancel(d):
    with d.client() as c:
        m = machine(c)
        c.fails("not_found", "machine.snapshot_cancel", {"id": m})
        for live in (True, False):
            with thawtest.Quiet(d):
                req, pid = caught(d, c, m, "x", live=live)
                c.call("machine.snapshot_cancel", {"id": m})
                assert failed(c, req, "cancelled").code == "busy"
                assert invoke(c, m, b"echo on") == b"on"
            with thawtest.Quiet(d):
                other = d.client()
                req, pid = caught(d, other, m, "x", live=live)
                other.close()
                wait_for(lambda: not alive(pid))
                assert invoke(c, m, b"echo on") == b"on"
            assert files(d) == [], files(d)
        # At once, before the machine was even asked.
        with thawtest.Quiet(d):
            for i in range(20):
                other = d.client()
                other.send("machine.snapshot", {"id": m, "path": d.dir + "/x"})
                other.close()
            wait_for(lambda: c.call("metrics")["counters"]["snapshots_failed"] >= 5)
            assert invoke(c, m, b"echo on") == b"on"
        for f in files(d):
            os.unlink(d.dir + "/" + f)
        c.call("machine.stop", {"id": m})


def test_cli(d):
    env = dict(os.environ, THAW_SOCKET=d.sock)
    thaw = thawtest.program("thaw")
    with d.client() as c:
        m = machine(c)
        path = d.dir + "/f"
        r = subprocess.run([thaw, "snapshot", "--live", m, path], env=env, capture_output=True, text=True)
        assert r.returncode == 0 and "paused" in r.stdout, r
        os.unlink(path)
        # Ctrl-C: whenever it comes, there is a whole file or none.
        cancelled = 0
        for i in range(12):
            p = subprocess.Popen([thaw, "snapshot", "--live", m, path], env=env, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True)
            time.sleep(0.01 * (i % 6))
            p.send_signal(signal.SIGINT)
            err = p.communicate(timeout=20)[1]
            if p.returncode == 1:
                # the one before may not be quite gone
                assert "interrupted" in err or "in progress" in err, err
                cancelled += "interrupted" in err
            if os.path.exists(path):
                # the one before may still have come
                assert p.returncode == 0 or "in progress" in err, (p.returncode, err)
                os.unlink(path)
        assert cancelled, "never in time"
        assert invoke(c, m, b"echo on") == b"on"
        c.call("machine.stop", {"id": m})


def test_killed(d):
    """The writer, the machine, the client: what is left is a whole file or none."""
    with d.client() as c:
        m = machine(c)
        with thawtest.Quiet(d):
            req, pid = caught(d, c, m, "x", live=True)
            os.kill(pid, signal.SIGKILL)
            failed(c, req, "signal 9")
            assert invoke(c, m, b"echo on") == b"on"
            assert files(d) == [], files(d)
        # The machine is killed: its writer goes on.
        req, pid = caught(d, c, m, "x", live=True)
        victim = c.call("machine.show", {"id": m})["pids"]["machine"]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: not alive(victim))
        os.kill(pid, signal.SIGCONT)
        c.wait(req)
        n = c.call("machine.create", {"snapshot": d.dir + "/x", "ready": "agent"})["id"]
        assert invoke(c, n, b"echo on") == b"on"
        os.unlink(d.dir + "/x")
        # Held, and killed.
        req, pid = caught(d, c, n, "x")
        os.kill(c.call("machine.show", {"id": n})["pids"]["machine"], signal.SIGKILL)
        os.kill(pid, signal.SIGCONT)
        c.wait(req)
        os.unlink(d.dir + "/x")
        # At any moment, and an existing file stays what it was.
        for i in range(6):
            m = machine(c)
            with open(d.dir + "/old", "w") as f:
                f.write("old")
            req = c.send("machine.snapshot", {"id": m, "path": d.dir + "/old", "force": True, "live": True})
            victim = c.call("machine.show", {"id": m})["pids"]["machine"]
            time.sleep(0.008 * i)
            os.kill(victim, signal.SIGKILL)
            try:
                c.wait(req)
                c.call("snapshot.verify", {"path": d.dir + "/old"})
            except RpcError:
                with open(d.dir + "/old") as f:
                    assert f.read() == "old"
            assert files(d) == ["old"], files(d)
        os.unlink(d.dir + "/old")


def test_stopped_and_crashed(d):
    with d.client() as c:
        m = machine(c)
        req, pid = caught(d, c, m, "x")
        c.call("machine.stop", {"id": m})
        os.kill(pid, signal.SIGCONT)
        c.wait(req)
        c.call("snapshot.verify", {"path": d.dir + "/x"})
        os.unlink(d.dir + "/x")
        for how in (b"crash", b"poweroff", b"reboot"):
            m = machine(c)
            other = d.client()
            other.send("machine.invoke", {"id": m, "payload": how})
            for i in range(4):
                try:
                    c.call("machine.snapshot", {"id": m, "path": d.dir + "/x", "live": True})
                    c.call("snapshot.verify", {"path": d.dir + "/x"})
                    os.unlink(d.dir + "/x")
                except RpcError as e:
                    assert e.code in ("busy", "internal", "not_found"), e.error
            other.close()
            assert files(d) == [], files(d)
            try:
                c.call("machine.stop", {"id": m})
            except RpcError:
                pass


def zombies(d):
    """Children of the daemon that nobody waited for."""
    n = 0
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % p) as f:
                rest = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        n += rest[0] == "Z" and int(rest[1]) == d.proc.pid
    return n


def test_stopped_at_once(d):
    """In the middle of the freeze: no process is left, not even a dead one."""
    with d.client() as c, d.client() as other:
        for i in range(20):
            m = machine(c, 0)
            req = c.send("machine.snapshot", {"id": m, "path": d.dir + "/x%d" % i, "live": True})
            time.sleep(0.0002 * i)
            other.call("machine.stop", {"id": m})
            try:
                c.wait(req)
                os.unlink(d.dir + "/x%d" % i)
            except RpcError:
                pass
        wait_for(lambda: not zombies(d), 30)
        assert files(d) == [], files(d)


def test_zygote_killed(d):
    """It takes its clones along, and who writes for them."""
    d.template("t")
    with d.client() as c:
        m = clone(c)
        zygote = c.call("template.show", {"name": "t"})["pid"]
        req, pid = caught(d, c, m, "x", live=True)
        os.kill(zygote, signal.SIGKILL)
        failed(c, req, "")
        wait_for(lambda: not alive(pid))
        assert files(d) == [], files(d)
        m = wait_for(lambda: clone_or_none(c))
        c.call("machine.snapshot", {"id": m, "path": d.dir + "/x", "type": "diff"})
        os.unlink(d.dir + "/x")
        c.call("template.remove", {"name": "t", "force": True})


def test_daemon_killed(d):
    """Nothing is left of a snapshot whose daemon was killed."""
    with d.client() as c:
        m = machine(c)
        req, pid = caught(d, c, m, "x", live=True)
        d.kill()
        wait_for(lambda: not alive(pid))
    assert files(d) == [], files(d)
    d.start()


def old_or_whole(c, d, path):
    """What a snapshot that was broken off left: the file as it was, or a whole one."""
    assert files(d) == [os.path.basename(path)], files(d)
    with open(path, "rb") as f:
        if f.read(4) == b"old\n":
            return "old"
    assert c.call("snapshot.verify", {"path": path})["ok"]
    return "whole"


def test_killed_at_any_time(d):
    """The daemon, and the process that writes, are killed somewhere between the
    request and the answer; a file that is to be replaced is there."""
    path = d.dir + "/f"
    seen = {"daemon": [], "writer": []}
    with d.client() as c:
        m = machine(c, 24)
        start = time.monotonic()
        c.call("machine.snapshot", {"id": m, "path": path, "live": True})
        took = time.monotonic() - start
    rounds = 12
    for who in seen:
        m = None
        for i in range(rounds):
            with open(path, "w") as f:
                f.write("old\n" * 1000)
            c = d.client()
            if who == "daemon" or not m:
                m = machine(c, 24)
            before = set(children_of(d.proc.pid))
            req = c.send("machine.snapshot", {"id": m, "path": path, "force": True, "live": bool(i % 2)})
            time.sleep(took * 1.2 * i / rounds)
            if who == "daemon":
                d.kill()
                d.start()
            else:
                for pid in set(children_of(d.proc.pid)) - before:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                try:
                    c.wait(req)
                except RpcError:
                    pass
                assert invoke(c, m, b"echo on") == b"on"
            c.close()
            with d.client() as other:
                seen[who].append(old_or_whole(other, d, path))
    print("# left: %s" % {k: "%d old, %d whole" % (v.count("old"), v.count("whole")) for k, v in seen.items()}, flush=True)
    for v in seen.values():
        assert "old" in v, "never in time"
    os.unlink(path)
    with d.client() as c:
        c.call("machine.stop", {"id": m})


def test_no_o_direct(d):
    """A file system that knows no O_DIRECT: written, read, restored, also lazily."""
    mnt = d.dir + "/mnt"
    os.mkdir(mnt)
    r = subprocess.run(["mount", "-t", "ramfs", "ramfs", mnt], capture_output=True)
    try:
        if r.returncode:
            raise thawtest.Skip("may not mount")
        with open(mnt + "/probe", "w"):
            pass
        try:
            os.close(os.open(mnt + "/probe", os.O_RDWR | os.O_DIRECT))
            raise thawtest.Skip("ramfs has O_DIRECT here")
        except OSError:
            os.unlink(mnt + "/probe")
        with d.client() as c:
            m = machine(c, track_dirty=True)
            for name, how in (("full", {}), ("diff", {"type": "diff", "live": True}), ("zstd", {"codec": "zstd"})):
                c.call("machine.snapshot", dict({"id": m, "path": mnt + "/" + name}, **how))
                assert c.call("snapshot.verify", {"path": mnt + "/" + name})["ok"]
                for lazy in (False, True):
                    n = c.call("machine.create", {"snapshot": mnt + "/" + name, "ready": "agent", "lazy": lazy})["id"]
                    assert invoke(c, n, b"echo on") == b"on"
                    c.call("machine.stop", {"id": n})
            assert sorted(os.listdir(mnt)) == ["diff", "full", "zstd"]
            c.call("machine.stop", {"id": m})
    finally:
        if not r.returncode:
            wait_for(lambda: subprocess.run(["umount", mnt], capture_output=True).returncode == 0)
        os.rmdir(mnt)


def test_full_disk(d):
    """A small tmpfs."""
    mnt = d.dir + "/mnt"
    os.mkdir(mnt)
    r = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mnt], capture_output=True)
    try:
        if r.returncode:
            raise thawtest.Skip("may not mount")
        with d.client() as c:
            m = machine(c)
            for size in (4, 1000, 30000):
                subprocess.run(["mount", "-o", "remount,size=%dk" % size, mnt], check=True)
                for live in (True, False):
                    with thawtest.Quiet(d):
                        e = c.fails("exhausted", "machine.snapshot", {"id": m, "path": mnt + "/f", "live": live})
                        assert "space" in e, e
                        assert os.listdir(mnt) == []
                        assert invoke(c, m, b"echo on") == b"on"
            subprocess.run(["mount", "-o", "remount,size=200m", mnt], check=True)
            c.call("machine.snapshot", {"id": m, "path": mnt + "/f"})
            c.call("snapshot.verify", {"path": mnt + "/f"})
            c.call("machine.stop", {"id": m})
    finally:
        if not r.returncode:
            # who verified may not be quite gone
            wait_for(lambda: subprocess.run(["umount", mnt], capture_output=True).returncode == 0)
        os.rmdir(mnt)


def test_events(d):
    with d.client() as c, d.client() as ev:
        ev.call("events")
        m = machine(c)
        c.call("machine.snapshot", {"id": m, "path": d.dir + "/f", "progress": True})
        c.fails("exists", "machine.snapshot", {"id": m, "path": d.dir + "/f"})
        os.unlink(d.dir + "/f")
        c.call("machine.stop", {"id": m})
        ev.call("server.info")
        types = [n[2][0]["type"] for n in ev.notes]
        assert "snapshot.frozen" in types and "snapshot.written" in types, types


def test_shown_while_written(d):
    """A snapshot that is not live holds the machine, and that is seen; a live one does not."""
    with d.client() as c, d.client() as other:
        m = machine(c)
        for live, state in ((False, "paused"), (True, "running")):
            before = set(children_of(d.proc.pid))
            req = c.send("machine.snapshot", {"id": m, "path": d.dir + "/held", "force": True, "live": live})
            pid = wait_for(lambda: next(iter(set(children_of(d.proc.pid)) - before), None), step=0.0001)
            os.kill(pid, signal.SIGSTOP)
            wait_for(lambda: other.call("machine.show", {"id": m})["state"] == state)
            os.kill(pid, signal.SIGCONT)
            c.wait(req)
            assert other.call("machine.show", {"id": m})["state"] == "running"
        os.unlink(d.dir + "/held")
        c.call("machine.stop", {"id": m})


def test_template_of_machine(d):
    """A machine as it is, without its going away; the template comes back."""
    with d.client() as c:
        m = machine(c)
        r = c.call("template.create", {"name": "live", "machine": m})
        assert 0 < r["us"]["pause"] < r["us"]["total"], r
        assert invoke(c, m, b"echo on") == b"on"
        n = c.call("clone", {"template": "live", "count": 3})["clones"]
        assert len(n) == 3
        ids = {invoke(c, i["id"], b"identity") for i in n} | {invoke(c, m, b"identity")}
        assert len(ids) == 4
        # A template of a clone of it, whose template goes.
        r = c.call("template.create", {"name": "second", "machine": n[0]["id"]})
        c.call("template.remove", {"name": "live", "force": True})
        i = c.call("clone", {"template": "second"})["clones"][0]["id"]
        assert invoke(c, i, b"echo deep") == b"deep"
        c.call("machine.stop", {"id": i})
        c.fails("not_found", "template.create", {"name": "x", "machine": "m-99"})
        c.fails("invalid", "template.create", {"name": "x", "machine": m, "config": {}})
        c.fails("invalid", "template.create", {"name": "x", "machine": m, "ready": "agent"})
        # The writer dies: nothing is left, the name is free.
        with thawtest.Quiet(d):
            before = set(children_of(d.proc.pid))
            req = c.send("template.create", {"name": "x", "machine": m})
            pid = wait_for(lambda: next(iter(set(children_of(d.proc.pid)) - before), None), step=0.0001)
            os.kill(pid, signal.SIGKILL)
            failed(c, req, "")
            assert os.listdir(d.state + "/templates") == ["second"]
        c.call("machine.stop", {"id": m})
    d.kill()
    d.start()
    with d.client() as c:
        i = wait_for(lambda: c.call("clone", {"template": "second"}))["clones"][0]["id"]
        assert invoke(c, i, b"echo again") == b"again"
        c.call("template.remove", {"name": "second", "force": True})


if __name__ == "__main__":
    thawtest.main(globals())

#!/usr/bin/python3
"""Guests that misbehave, processes that die, limits that are reached. Nothing
is left behind, the daemon goes on serving.
"""

import os
import random
import resource
import signal
import time

import thawtest
from thawtest import Daemon, Quiet, RpcError, alive, wait_for


def template(d, name="t", **more):
    with d.client() as c:
        if name not in [t["name"] for t in c.call("template.list")["templates"]]:
            d.template(name, **more)


def works(d, name="t"):
    with d.client() as c:
        assert c.call("invoke", {"template": name, "payload": b"echo ok"})["payload"] == b"ok"


def test_guest_crashes(d):
    template(d)
    with Quiet(d), d.client() as c:
        for kind, word in (("badaccess", "fault"), ("invalidop", "opcode"), ("triplefault", "triple")):
            text = c.fails("internal", "invoke", {"template": "t", "payload": b"crash " + kind.encode()})
            assert word in text, text
        works(d)


def test_guest_spins_or_hangs(d):
    template(d)
    with Quiet(d), d.client() as c:
        for kind in (b"loop", b"hang"):
            start = time.monotonic()
            c.fails("timeout", "invoke", {"template": "t", "payload": b"crash " + kind, "timeout_ms": 500})
            assert time.monotonic() - start < 5
        # a machine that spins can still be paused, resumed, stopped
        i = c.call("clone", {"template": "t"})["clones"][0]["id"]
        c.send("machine.invoke", {"id": i, "payload": b"crash loop", "timeout_ms": 20000})
        time.sleep(0.1)
        assert c.call("machine.pause", {"id": i})["state"] == "paused"
        assert c.call("machine.resume", {"id": i})["state"] == "running"
        c.call("machine.stop", {"id": i})


def test_guest_ends_by_itself(d):
    template(d)
    with Quiet(d), d.client() as c:
        for what in (b"poweroff", b"reboot"):
            text = c.fails("internal", "invoke", {"template": "t", "payload": what})
            assert "guest" in text, text
        i = c.call("clone", {"template": "t"})["clones"][0]["id"]
        c.fails("internal", "machine.invoke", {"id": i, "payload": b"poweroff"})
        wait_for(lambda: c.call("machine.show", {"id": i})["state"] == "ended")
        assert c.call("machine.show", {"id": i})["end"]["kind"] == "poweroff"
        c.call("machine.stop", {"id": i})


def test_guest_floods_vsock(d):
    template(d)
    with Quiet(d), d.client() as c:
        try:
            c.call("invoke", {"template": "t", "payload": b"flood", "timeout_ms": 3000})
        except RpcError as e:
            assert e.code in ("timeout", "internal", "corrupt"), e.error
        works(d)


def test_base_does_not_grow(d):
    template(d, "big")
    with Quiet(d), d.client() as c:
        before = c.call("template.show", {"name": "big"})["base_bytes"]
        zygote = c.call("template.show", {"name": "big"})["pid"]
        assert zygote
        for what in (b"touch 100", b"zero 100"):
            i = c.call("clone", {"template": "big"})["clones"][0]["id"]
            c.call("machine.invoke", {"id": i, "payload": what, "timeout_ms": 60000})
            c.call("machine.stop", {"id": i})
        assert base_size(d) == before, (base_size(d), before)
        c.call("template.remove", {"name": "big"})


def base_size(d):
    """What the memfds of all bases take, as the kernel counts them."""
    sizes = {}
    for pid in [d.proc.pid] + d.machines():
        try:
            for fd in os.listdir("/proc/%d/fd" % pid):
                p = "/proc/%d/fd/%s" % (pid, fd)
                if "memfd:thaw-base" in os.readlink(p):
                    st = os.stat(p)
                    sizes[st.st_ino] = st.st_blocks * 512
        except (FileNotFoundError, ProcessLookupError):
            pass
    assert sizes, "no base found"
    return max(sizes.values())


def pid_of(c, i):
    return c.call("machine.show", {"id": i})["pids"]["machine"]


def test_clone_killed(d):
    template(d)
    with Quiet(d), d.client() as c:
        i = c.call("clone", {"template": "t"})["clones"][0]["id"]
        req = c.send("machine.invoke", {"id": i, "payload": b"sleep 20000"})
        time.sleep(0.05)
        os.kill(pid_of_other(d, i), signal.SIGKILL)
        try:
            c.wait(req)
            raise AssertionError("answered by a dead machine")
        except RpcError as e:
            assert e.code == "internal" and "killed" in e.message, e.error
        works(d)
        c.call("machine.stop", {"id": i})


def pid_of_other(d, i):
    with d.client() as c:
        return pid_of(c, i)


def test_clones_killed_at_any_moment(d):
    template(d)
    rnd = random.Random(3)
    with Quiet(d), d.client(120) as c:
        t = c.call("template.show", {"name": "t"})
        zygote = t["pid"]
        for _ in range(15):
            req = c.send("clone", {"template": "t", "count": 10, "mode": "fresh"})
            time.sleep(rnd.random() * 0.03)
            for p in [p for p in d.machines() if p != zygote]:
                if rnd.random() < 0.5:
                    try:
                        os.kill(p, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            try:
                r = c.wait(req)
            except RpcError as e:
                assert e.code in ("internal", "timeout"), e.error
                continue
            assert len(r["clones"]) + len(r["errors"]) == 10, r
            for x in r["clones"]:
                try:
                    c.call("machine.stop", {"id": x["id"]})
                except RpcError as e:
                    assert e.code == "not_found", e.error
        stop_all(c)
        works(d)


def stop_all(c):
    for m in c.call("machine.list")["machines"]:
        if m["kind"] != "pooled" and m["state"] != "parked":
            try:
                c.call("machine.stop", {"id": m["id"]})
            except RpcError as e:
                assert e.code == "not_found", e.error


def test_zygote_killed(d):
    template(d, "z")
    with d.client(120) as c:
        for moment in (0, 0.005, 0.02):
            r = c.call("clone", {"template": "z", "count": 5, "mode": "fresh"})
            pids = [pid_of_other(d, x["id"]) for x in r["clones"]]
            zygote = c.call("template.show", {"name": "z"})["pid"]
            req = c.send("clone", {"template": "z", "count": 20, "mode": "fresh"})
            time.sleep(moment)
            os.kill(zygote, signal.SIGKILL)
            try:
                c.wait(req)
            except RpcError as e:
                assert e.code in ("internal", "busy"), e.error
            # its clones end with it
            wait_for(lambda: not [p for p in pids if alive(p)])
            # and the template comes back by itself
            def back():
                t = c.call("template.show", {"name": "z"})
                return t["state"] == "ready" and t["pid"] and t["pid"] != zygote
            wait_for(back, 20)
            works(d, "z")
            stop_all(c)
        c.call("template.remove", {"name": "z", "force": True})


def test_daemon_killed(_):
    d = Daemon()
    try:
        template(d, pool=3)
        with d.client() as c:
            c.call("clone", {"template": "t", "count": 20})
            c.call("machine.create", {"config": {"memory": "64M"}})
            c.send("template.create", {"name": "late", "config": {"memory": "64M"}})
            time.sleep(0.01)
        d.kill(signal.SIGKILL)  # waits until every process is gone
        # and a new one starts over the leftovers, with the template
        d.start()
        def loaded():
            with d.client() as c:
                return [t for t in c.call("template.list")["templates"] if t["name"] == "t" and t["state"] == "ready"]
        wait_for(loaded, 20)
        works(d)
    finally:
        d.close()


def test_restart_brings_templates_back(_):
    d = Daemon()
    try:
        template(d, "keep", pool=2)
        with d.client() as c:
            uuid = c.call("template.show", {"name": "keep"})["uuid"]
        d.kill(signal.SIGTERM)
        d.start()
        works(d, "keep")  # waits for the load
        with d.client() as c:
            t = c.call("template.show", {"name": "keep"})
            assert t["uuid"] == uuid and t["pool"]["target"] == 2
            c.call("template.remove", {"name": "keep"})
        d.kill(signal.SIGTERM)
        d.start()
        with d.client() as c:
            assert not c.call("template.list")["templates"]
    finally:
        d.close()


def test_two_daemons(d):
    import subprocess

    r = subprocess.run(
        [thawtest.program("thawd"), "--socket", d.sock, "--state-dir", d.dir + "/other"],
        capture_output=True, text=True, timeout=10,
    )
    assert r.returncode == 1 and d.sock in r.stderr, r
    r = subprocess.run(
        [thawtest.program("thawd"), "--socket", d.dir + "/other.sock", "--state-dir", d.state],
        capture_output=True, text=True, timeout=10,
    )
    assert r.returncode == 1 and d.state in r.stderr, r
    assert not os.path.exists(d.dir + "/other.sock")
    works_or_template(d)


def works_or_template(d):
    template(d)
    works(d)


def test_limits(_):
    d = Daemon("--max-machines", "10")
    try:
        template(d)
        with Quiet(d), d.client() as c:
            try:
                r = c.call("clone", {"template": "t", "count": 30, "mode": "fresh"})
                assert len(r["clones"]) <= 10 and all(e["code"] == "exhausted" for e in r["errors"]), r
            except RpcError as e:
                assert e.code == "exhausted", e.error
            stop_all(c)
            r = c.call("clone", {"template": "t", "count": 5, "mode": "fresh"})
            assert len(r["clones"]) == 5
            stop_all(c)
    finally:
        d.close()


def test_memory_limit(_):
    with open("/proc/meminfo") as f:
        avail = int([l for l in f if l.startswith("MemAvailable")][0].split()[1])
    # Leave room for about ten clones above what must stay free.
    d = Daemon("--min-available", "%dM" % (avail // 1024 - 150))
    try:
        template(d)
        with d.client() as c:
            before = len(d.machines())
            text = c.fails("exhausted", "clone", {"template": "t", "count": 2000, "mode": "fresh"})
            assert "memory" in text.lower(), text
            wait_for(lambda: len(d.machines()) <= before)
    finally:
        d.close()


def test_out_of_descriptors(_):
    """A client that finds no descriptor waits; the daemon does not spin."""
    d = Daemon()

    def ticks():
        with open("/proc/%d/stat" % d.proc.pid) as f:
            return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))

    try:
        resource.prlimit(d.proc.pid, resource.RLIMIT_NOFILE, (d.fds() + 8,) * 2)
        clients = []
        try:
            while len(clients) < 40:
                clients.append(d.client(0.5))
                clients[-1].call("server.info")
        except TimeoutError:
            pass
        assert len(clients) < 40
        before = ticks()
        time.sleep(1)
        assert ticks() - before < 20, "busy with a client it cannot serve"
        for c in clients:
            c.close()
        with d.client() as c:
            assert c.call("server.info")["pid"] == d.proc.pid
    finally:
        d.close()


def test_machines_out_of_descriptors(_):
    """Refused before it starts, and counted by what machines really have."""
    limit = 128 + 9 + 7 + 75
    d = Daemon(prefix=["prlimit", "--nofile=%d:%d" % (limit, limit)])
    path = os.path.join(d.dir, "fds.thaw")
    try:
        template(d)
        with d.client() as c:
            i = c.call("clone", {"template": "t"})["clones"][0]["id"]
            c.call("machine.snapshot", {"id": i, "path": path})
            c.call("machine.stop", {"id": i})
            made, before = [], d.fds()
            try:
                while len(made) < 75:
                    params = {"snapshot": path, "lazy": True, "fill": "none"}
                    made.append(c.call("machine.create", params)["id"])
            except RpcError as e:
                # a host that cannot do it lazily
                if e.code == "unsupported":
                    return
                assert e.code == "exhausted" and "descriptors" in e.message, e.error
            assert 5 < len(made) <= 75 and d.fds() - before <= 75, (len(made), d.fds() - before)
            for i in made:
                c.call("machine.stop", {"id": i})
            # of clones there may be more
            r = c.call("clone", {"template": "t", "count": 15, "mode": "fresh"})
            assert len(r["clones"]) == 15, r
            c.fails("exhausted", "clone", {"template": "t", "count": 5, "mode": "fresh"})
            stop_all(c)
        works(d)
    finally:
        d.close()


def test_pool_exhausted(d):
    template(d, "nopool")
    with Quiet(d), d.client() as c:
        c.fails("exhausted", "clone", {"template": "nopool", "mode": "pooled"})
        c.call("template.remove", {"name": "nopool"})


def test_remove_with_clones(d):
    template(d, "busy")
    with Quiet(d), d.client() as c:
        pass
    with d.client() as c:
        r = c.call("clone", {"template": "busy", "count": 3})
        pids = [pid_of_other(d, x["id"]) for x in r["clones"]]
        c.fails("busy", "template.remove", {"name": "busy"})
        c.call("template.remove", {"name": "busy", "force": True})
        wait_for(lambda: not [p for p in pids if alive(p)])


def test_nothing_open_in_a_clone(d):
    """A clone has the descriptors it needs, no privileges to gain, filters."""
    template(d)
    with d.client() as c:
        i = c.call("clone", {"template": "t"})["clones"][0]["id"]
        pid = pid_of(c, i)
        names = [os.readlink("/proc/%d/fd/%s" % (pid, f)) for f in os.listdir("/proc/%d/fd" % pid)]
        assert not [n for n in names if n == "/dev/kvm"], names
        assert len([n for n in names if n.startswith("socket:")]) == 1, names
        assert len(names) < 24, names
        with open("/proc/%d/status" % pid) as f:
            status = dict(l.split(":", 1) for l in f.read().splitlines() if ":" in l)
        assert status["NoNewPrivs"].strip() == "1"
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/status" % (pid, task)) as f:
                t = dict(l.split(":", 1) for l in f.read().splitlines() if ":" in l)
            assert t["Seccomp"].strip() == "2", t
        c.call("machine.stop", {"id": i})


def test_machines_without_privileges(_):
    """Filters need no-new-privs first, when nobody is allowed everything."""
    d = Daemon(prefix=["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
    try:
        template(d)
        works(d)
        with d.client() as c:
            i = c.call("machine.create", {"config": {"memory": "64M"}, "ready": "agent"})["id"]
            path = d.dir + "/m.thaw"
            c.call("machine.snapshot", {"id": i, "path": path})
            r = c.call("machine.create", {"snapshot": path, "ready": "agent"})["id"]
            for m in (i, r):
                pid = pid_of(c, m)
                for task in os.listdir("/proc/%d/task" % pid):
                    with open("/proc/%d/task/%s/status" % (pid, task)) as f:
                        t = dict(l.split(":", 1) for l in f.read().splitlines() if ":" in l)
                    assert t["Seccomp"].strip() == "2" and t["NoNewPrivs"].strip() == "1", t
                c.call("machine.stop", {"id": m})
    finally:
        d.close()


def test_many_that_cannot_be_asked_for(_):
    """A thousand failures in a row do not take a thousand stack frames."""
    d = Daemon(prefix=["prlimit", "--stack=1000000:1000000"])
    try:
        template(d)
        with d.client() as c:
            over = [{"vsock": "/nonexistent/x"}] * 1000
            c.fails("not_found", "clone", {"template": "t", "count": 1000, "mode": "fresh", "overrides": over})
        works(d)
    finally:
        d.close()


def test_daemon_ends_while_a_template_is_made(_):
    d = Daemon()
    with d.client() as c:
        c.send("template.create", {"name": "late", "ready": {"seconds": 60}})
        wait_for(lambda: [m for m in c.call("machine.list")["machines"] if m["state"] == "running"])
        d.kill(signal.SIGTERM)
        assert d.proc.returncode == 0, d.log_text()
        assert not os.listdir(d.state + "/templates")
    d.close()


if __name__ == "__main__":
    thawtest.main(globals())

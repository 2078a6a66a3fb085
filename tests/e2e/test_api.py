#!/usr/bin/python3
"""Every method, spoken by somebody else's msgpack."""

import hashlib
import os
import socket
import subprocess
import time

import msgpack

import thawtest
from thawtest import wait_for


def template(d, name="t", **more):
    with d.client() as c:
        if name in [t["name"] for t in c.call("template.list")["templates"]]:
            return
    d.template(name, **more)


def test_connect_reaches_the_agent(d):
    with d.client() as c:
        machine = c.call("machine.create", {"config": {"memory": "64M"}, "ready": "agent"})["id"]
        ours, theirs = socket.socketpair()
        c.wait(c.send("machine.connect", {"id": machine, "socket": {"fd": 0}}, fds=[theirs.fileno()]))
        theirs.close()
        ours.settimeout(20)
        ours.sendall(b"CONNECT 1024\n" + msgpack.packb([0, 5, "ping", [{}]]))
        unpacker = msgpack.Unpacker(raw=False)
        data = b""
        while not data.startswith(b"OK ") or b"\n" not in data:
            data += ours.recv(1)
        answers = []
        while not answers:
            unpacker.feed(ours.recv(4096))
            answers = list(unpacker)
        assert answers[0][:3] == [1, 5, None] and answers[0][3]["agent"] == "builtin", answers
        # Nobody listens there, and things that are no sockets.
        ours, theirs = socket.socketpair()
        c.wait(c.send("machine.connect", {"id": machine, "socket": {"fd": 0}}, fds=[theirs.fileno()]))
        theirs.close()
        ours.settimeout(20)
        ours.sendall(b"CONNECT 77\n")
        assert ours.recv(100) == b""
        with open("/dev/null", "rb") as f:
            c.fails("invalid", "machine.connect", {"id": machine, "socket": {"fd": 0}}, [f.fileno()])
        c.fails("invalid", "machine.connect", {"id": machine, "socket": {"fd": 3}})
        c.fails("not_found", "machine.connect", {"id": "none", "socket": {"fd": 0}}, [ours.fileno()])
        c.call("machine.stop", {"id": machine})


def test_commands_and_files(d):
    """Parameters, and a guest whose agent has none of this; the rest is tested
    with Linux."""
    with d.client() as c:
        machine = c.call("machine.create", {"config": {"memory": "64M"}, "ready": "agent"})["id"]
        for method, params in (
            ("machine.exec", {"argv": ["true"]}),
            ("machine.put", {"path": "/f", "data": b""}),
            ("machine.get", {"path": "/f"}),
        ):
            said = c.fails("unsupported", method, dict(params, id=machine))
            assert "thaw-agent" in said, said
            c.fails("not_found", method, dict(params, id="none"))
        for bad in (
            {"argv": []}, {"argv": "true"}, {"argv": [1]}, {"argv": ["x"] * 1025}, {"argv": ["true"], "env": {"A": 1}},
            {"argv": ["true"], "env": []}, {"argv": ["true"], "timeout_ms": 0}, {"argv": ["true"], "stdin": b"x" * ((4 << 20) + 1)}, {},
        ):
            c.fails("invalid", "machine.exec", dict(bad, id=machine))
        c.fails("invalid", "machine.put", {"id": machine, "path": "/f", "data": b"", "mode": 0o10000})
        c.fails("invalid", "machine.get", {"id": machine, "path": "/f", "length": (4 << 20) + 1})
        template(d, "wired", config={"memory": "64M", "devices": [{"type": "vsock"}, {"type": "net"}]})
        said = c.fails("unsupported", "clone", {"template": "wired", "overrides": {"ips": {"net0": "10.0.0.2/24"}}})
        assert "address" in said, said
        c.call("template.remove", {"name": "wired"})
        assert c.call("machine.invoke", {"id": machine, "payload": b"echo on"})["payload"] == b"on"
        c.call("machine.stop", {"id": machine})


def test_server_info(d):
    with d.client() as c:
        r = c.call("server.info")
        assert r["version"] and r["format"] == "1.0", r
        assert r["pid"] == d.proc.pid
        assert r["host"]["kind"] in ("hardware", "software"), r
        assert r["limits"]["max_request"] == 51200
        # no parameter at all, an empty array, an empty map
        i = c.next_id = 77
        c.send_bytes(thawtest.msgpack.packb([0, i, "server.info", [{}]]))
        assert c.wait(i)["pid"] == d.proc.pid


def test_template_life(d):
    with d.client() as c:
        r = c.call(
            "template.create",
            {"name": "life", "config": {"memory": "64M", "labels": {"a": "b"}}, "ready": "agent", "pool": 2},
        )
        assert len(r["uuid"]) == 36 and r["memory"] == 64 << 20, r
        for k in ("boot", "ready", "freeze", "zygote", "total"):
            assert r["us"][k] >= 0
        t = c.call("template.show", {"name": "life"})
        assert t["state"] == "ready" and t["uuid"] == r["uuid"]
        assert 0 < t["base_bytes"] < 16 << 20, t["base_bytes"]
        wait_for(lambda: c.call("template.show", {"name": "life"})["pool"]["parked"] == 2)
        assert "life" in [x["name"] for x in c.call("template.list")["templates"]]
        c.call("template.remove", {"name": "life"})
        c.fails("not_found", "template.show", {"name": "life"})


def test_invoke_real_input(d):
    template(d)
    text = b"one two\nthree\n" * 1000
    with d.client() as c:
        r = c.call("invoke", {"template": "t", "payload": b"echo hello"})
        assert r["payload"] == b"hello", r
        for k in ("take", "go", "ready", "answer", "total"):
            assert isinstance(r["us"][k], int), r["us"]
        r = c.call("invoke", {"template": "t", "payload": b"sha256\n" + text})
        assert r["payload"].strip().decode() == hashlib.sha256(text).hexdigest()
        r = c.call("invoke", {"template": "t", "payload": b"wordcount\n" + text})
        assert r["payload"].split() == [b"2000", b"3000", str(len(text)).encode()], r["payload"]
        r = c.call("invoke", {"template": "t", "payload": b"sort\nb\nc\na\n"})
        assert r["payload"] == b"a\nb\nc\n", r["payload"]


def test_invoke_big_payload(d):
    template(d)
    big = os.urandom(3 << 20).hex().encode()[: (6 << 20) - 64]
    with d.client() as c:
        r = c.call("invoke", {"template": "t", "payload": b"sha256\n" + big, "timeout_ms": 60000})
        assert r["payload"].strip().decode() == hashlib.sha256(big).hexdigest()
        r = c.call("invoke", {"template": "t", "payload": b"echo " + big, "timeout_ms": 60000})
        assert r["payload"] == big


def identity(c, i):
    r = c.call("machine.invoke", {"id": i, "payload": b"identity"})
    return dict(l.split(b"=", 1) for l in r["payload"].split(b"\n") if b"=" in l)


def test_clones_are_different_machines(d):
    template(d)
    with d.client() as c:
        r = c.call("clone", {"template": "t", "count": 50, "mode": "fresh"})
        assert len(r["clones"]) == 50 and not r["errors"], r["errors"]
        ids = [x["id"] for x in r["clones"]]
        assert len(set(ids)) == 50
        facts = [identity(c, i) for i in ids]
        for key in (b"hostname", b"machine_id", b"generation", b"random"):
            assert len({f[key] for f in facts}) == 50, key
        now = time.time_ns()
        for f in facts:
            assert abs(int(f[b"wall_ns"]) - now) < 2_000_000_000, (int(f[b"wall_ns"]) - now)
        shown = c.call("machine.show", {"id": ids[0]})
        assert shown["generation"] == facts[0][b"generation"].decode()
        for i in ids:
            c.call("machine.stop", {"id": i})


def test_pooled_clock_is_right_at_go(d):
    template(d, "clock", pool=1)
    with d.client() as c:
        wait_for(lambda: c.call("template.show", {"name": "clock"})["pool"]["parked"] >= 1)
        time.sleep(1.5)
        r = c.call("clone", {"template": "clock", "mode": "pooled"})
        i = r["clones"][0]["id"]
        before = time.time_ns()
        wall = int(identity(c, i)[b"wall_ns"])
        after = time.time_ns()
        assert before - 50_000_000 < wall < after + 50_000_000, (wall - before) / 1e6
        c.call("machine.stop", {"id": i})
        c.call("template.remove", {"name": "clock", "force": True})


def test_clone_overrides_and_stream(d):
    template(d)
    with d.client() as c:
        i = c.send(
            "clone",
            {
                "template": "t",
                "count": 2,
                "mode": "fresh",
                "stream": True,
                "overrides": [{"name": "one", "hostname": "h-one"}, {"hostname": "h-two", "cid": 77}],
            },
        )
        r = c.wait(i)
        assert not r["errors"], r
        assert len([n for n in c.notes if n[1] == "clone"]) == 2, c.notes
        names = [identity(c, x["id"])[b"hostname"] for x in r["clones"]]
        assert names == [b"h-one", b"h-two"], names
        assert c.call("machine.show", {"id": r["clones"][0]["id"]})["name"] == "one"
        for x in r["clones"]:
            c.call("machine.stop", {"id": x["id"]})


def test_machine_life(d):
    with d.client() as c:
        m = c.call("machine.create", {"config": {"memory": "64M"}, "ready": "agent", "hostname": "solo"})["id"]
        assert c.call("machine.show", {"id": m})["state"] == "running"
        assert identity(c, m)[b"hostname"] == b"solo"
        assert c.call("machine.pause", {"id": m})["state"] == "paused"
        c.fails("busy", "machine.invoke", {"id": m, "payload": b"echo x", "timeout_ms": 2000})
        assert c.call("machine.resume", {"id": m})["state"] == "running"
        assert c.call("machine.invoke", {"id": m, "payload": b"echo x"})["payload"] == b"x"
        c.call("machine.invoke", {"id": m, "payload": b"console hello from inside"})
        wait_for(lambda: b"hello from inside" in c.call("machine.logs", {"id": m})["data"])
        assert m in [x["id"] for x in c.call("machine.list")["machines"]]
        c.call("machine.stop", {"id": m})
        c.fails("not_found", "machine.pause", {"id": m})


def test_snapshot_restore_clone(d):
    path = os.path.join(d.dir, "snap.thaw")
    with d.client() as c:
        m = c.call("machine.create", {"config": {"memory": "64M"}, "ready": "agent"})["id"]
        r = c.call("machine.snapshot", {"id": m, "path": path})
        assert r["bytes"] == os.path.getsize(path) and r["pages"] > 0
        assert c.call("machine.invoke", {"id": m, "payload": b"echo still here"})["payload"] == b"still here"
        v = c.call("snapshot.verify", {"path": path})
        assert v["uuid"] == r["uuid"]
        shown = c.call("snapshot.inspect", {"path": path})
        assert r["uuid"] in str(shown)
        m2 = c.call("machine.create", {"snapshot": path})["id"]
        assert c.call("machine.invoke", {"id": m2, "payload": b"echo restored"})["payload"] == b"restored"
        assert identity(c, m2)[b"generation"] != identity(c, m)[b"generation"]
        c.call("template.create", {"name": "from-file", "snapshot": path})
        r = c.call("invoke", {"template": "from-file", "payload": b"echo cloned"})
        assert r["payload"] == b"cloned"
        c.call("template.remove", {"name": "from-file"})
        for x in (m, m2):
            c.call("machine.stop", {"id": x})


def test_snapshot_of_a_clone(d):
    template(d)
    path = os.path.join(d.dir, "clone.thaw")
    with d.client() as c:
        i = c.call("clone", {"template": "t", "mode": "fresh"})["clones"][0]["id"]
        c.call("machine.invoke", {"id": i, "payload": b"touch 8"})
        c.call("machine.snapshot", {"id": i, "path": path})
        m = c.call("machine.create", {"snapshot": path})["id"]
        assert c.call("machine.invoke", {"id": m, "payload": b"echo again"})["payload"] == b"again"
        for x in (i, m):
            c.call("machine.stop", {"id": x})


def test_events_and_metrics(d):
    template(d)
    with d.client() as c, d.client() as listener:
        listener.call("events")
        i = c.call("clone", {"template": "t"})["clones"][0]["id"]
        c.call("machine.stop", {"id": i})
        seen = set()

        while not {"machine.created", "machine.ended"} <= seen:
            m = listener.read()
            assert m[0] == 2 and m[1] == "event", m
            e = m[2][0]
            if e.get("id") == i:
                seen.add(e["type"])
                assert e["time_ns"] > 0
        r = c.call("metrics")
        assert r["counters"] and "histograms" in r


def test_bound_machines_end_with_the_connection(d):
    template(d)
    c = d.client()
    i = c.call("clone", {"template": "t", "bind": True})["clones"][0]["id"]
    j = c.call("clone", {"template": "t"})["clones"][0]["id"]
    c.close()
    with d.client() as c:
        def gone():
            return c.call("machine.list")["machines"]
        wait_for(lambda: [m for m in gone() if m["id"] == i and m["state"] != "ended"] == [])
        assert c.call("machine.show", {"id": j})["state"] == "running"
        c.call("machine.stop", {"id": j})


def test_many_requests_on_one_connection(d):
    template(d)
    with d.client() as c:
        ids = [c.send("invoke", {"template": "t", "payload": b"echo %d" % n}) for n in range(60)]
        for n, i in enumerate(ids):
            assert c.wait(i)["payload"] == b"%d" % n


def test_pool_refills_while_a_request_runs(d):
    template(d, "refill", pool=2)
    with d.client() as c:
        full = lambda: c.call("template.show", {"name": "refill"})["pool"]["parked"] == 2
        wait_for(full)
        long = c.send("invoke", {"template": "refill", "payload": b"sleep 3000"})
        wait_for(full, 2)
        assert long not in c.answers
        c.wait(long)
        c.call("template.remove", {"name": "refill", "force": True})


def test_vsock_socket(d):
    """Host-side vsock: CONNECT port, OK port, then the agent's own protocol."""
    import msgpack
    import socket

    path = os.path.join(d.dir, "v.sock")
    with d.client() as c:
        m = c.call("machine.create", {"config": {"memory": "64M"}, "ready": "agent", "vsock": path})["id"]
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(10)
        s.connect(path)
        s.sendall(b"CONNECT 1024\n")
        line = s.recv(64)
        assert line.startswith(b"OK ") and line.endswith(b"\n"), line
        s.sendall(msgpack.packb([0, 9, "invoke", [{"payload": b"echo via vsock"}]], use_bin_type=True))
        u = msgpack.Unpacker(raw=False)
        got = None
        while got is None:
            u.feed(s.recv(4096))
            for got in u:
                break
        assert got[1] == 9 and got[2] is None and got[3]["payload"] == b"via vsock", got
        s.close()
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(10)
        s.connect(path)
        s.sendall(b"CONNECT 4321\n")  # nobody listens in the guest
        assert s.recv(64) == b""
        s.close()
        # the guest connects to PATH_port
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path + "_99")
        listener.listen(1)
        listener.settimeout(10)
        i = c.send("machine.invoke", {"id": m, "payload": b"connect 99 ping"})
        peer, _ = listener.accept()
        peer.settimeout(10)
        data = b""
        while True:
            b = peer.recv(100)
            if not b:
                break
            data += b
        assert data == b"ping", data
        peer.sendall(b"pong")
        peer.close()
        assert c.wait(i)["payload"] == b"pong"
        c.call("machine.stop", {"id": m})


if __name__ == "__main__":
    thawtest.main(globals())

#!/usr/bin/python3
"""What clients do wrong: each mistake gets a clear error and costs nobody else
anything. After each test the daemon has the processes and descriptors it had.
"""

import os
import random
import socket
import struct
import subprocess
import time

import msgpack
import thawtest
from thawtest import Quiet, Skip, wait_for


def template(d, name="t", **more):
    with d.client() as c:
        if name not in [t["name"] for t in c.call("template.list")["templates"]]:
            d.template(name, **more)


def still_fine(d):
    with d.client() as c:
        assert c.call("server.info")["pid"] == d.proc.pid


def test_unknown_names(d):
    template(d)
    with Quiet(d), d.client() as c:
        assert "nope" in c.fails("not_found", "invoke", {"template": "nope", "payload": b""})
        assert "nope" in c.fails("not_found", "clone", {"template": "nope"})
        c.fails("not_found", "template.show", {"name": "nope"})
        c.fails("not_found", "template.remove", {"name": "nope"})
        for m in ("show", "pause", "resume", "stop", "logs"):
            assert "m-999" in c.fails("not_found", "machine." + m, {"id": "m-999"})
        c.fails("not_found", "machine.snapshot", {"id": "m-999", "path": d.dir + "/x"})
        c.fails("not_found", "machine.invoke", {"id": "m-999", "payload": b""})
        c.fails(("invalid", "unsupported", "not_found"), "no.such.method", {})


def test_second_template_of_a_name(d):
    template(d)
    with Quiet(d), d.client() as c:
        c.fails("exists", "template.create", {"name": "t", "config": {}})
    # two at once: one wins
    with d.client() as c:
        a = c.send("template.create", {"name": "twice", "config": {"memory": "64M"}})
        b = c.send("template.create", {"name": "twice", "config": {"memory": "64M"}})
        won = 0
        for i in (a, b):
            try:
                c.wait(i)
                won += 1
            except thawtest.RpcError as e:
                assert e.code in ("exists", "busy"), e.error
        assert won == 1
        c.call("template.remove", {"name": "twice"})


def test_parameters(d):
    template(d)
    with Quiet(d), d.client() as c:
        assert "colour" in c.fails("invalid", "clone", {"template": "t", "colour": 1})
        assert "template" in c.fails("invalid", "clone", {})
        assert "count" in c.fails("invalid", "clone", {"template": "t", "count": "three"})
        assert "count" in c.fails("invalid", "clone", {"template": "t", "count": 0})
        assert "count" in c.fails("invalid", "clone", {"template": "t", "count": -1})
        c.fails(("invalid", "exhausted"), "clone", {"template": "t", "count": 2**40})
        assert "mode" in c.fails("invalid", "clone", {"template": "t", "mode": "warm"})
        c.fails("invalid", "clone", {"template": 7})
        c.fails("invalid", "clone", {"template": "t", "overrides": {"colour": 1}})
        c.fails("invalid", "clone", {"template": "t", "count": 1, "overrides": [{}, {}]})
        for name in ("", "a/b", "..", "x" * 300, "a\0b", "-x y"):
            c.fails("invalid", "template.create", {"name": name, "config": {}})
        c.fails("invalid", "template.create", {"name": "q", "config": {}, "snapshot": "/x"})


def test_configuration(d):
    with Quiet(d), d.client() as c:
        def bad(code, config, word):
            text = c.fails(code, "template.create", {"name": "q", "config": config})
            assert word in text, text

        bad("invalid", {"memry": "1M"}, "memry")
        bad("invalid", {"memory": "0"}, "memory")
        bad("invalid", {"memory": "1X"}, "memory")
        bad("invalid", {"memory": 12345}, "memory")
        bad("invalid", {"memory": "1000000G"}, "memory")
        bad("invalid", {"cpus": 0}, "cpus")
        bad("invalid", {"cpus": 33}, "cpus")
        bad("invalid", {"cmdline": "x" * 5000}, "cmdline")
        bad("invalid", {"devices": [{"type": "teapot"}]}, "devices[0].type")
        bad("invalid", {"devices": [{"type": "block"}]}, "devices[0].path")
        bad("invalid", {"devices": [{"type": "vsock", "cid": 1}]}, "devices[0].cid")
        bad("invalid", {"initrd": "/x"}, "initrd")
        bad(("not_found", "invalid"), {"kernel": "/no/such/kernel"}, "/no/such/kernel")
        c.fails(("invalid", "corrupt", "unsupported"), "template.create", {"name": "q", "config": {"kernel": "/etc/passwd"}})


def raw(d):
    s = socket.socket(socket.AF_UNIX)
    s.connect(d.sock)
    s.settimeout(10)
    return s


def answers(s):
    """All messages until the daemon closes."""
    u = msgpack.Unpacker(raw=False, strict_map_key=False)
    out = []
    while True:
        try:
            b = s.recv(1 << 16)
        except ConnectionResetError:
            b = b""
        if not b:
            return out
        u.feed(b)
        out += list(u)


def refused_and_closed(d, data):
    with raw(d) as s:
        s.sendall(data)
        got = answers(s)
        assert len(got) == 1 and got[0][0] == 1 and got[0][1] is None and got[0][2]["code"] == "invalid", got
    still_fine(d)


def test_malformed(d):
    with Quiet(d):
        refused_and_closed(d, b"\xc1")
        refused_and_closed(d, msgpack.packb({"a": 1}))
        refused_and_closed(d, msgpack.packb([0, 1]))
        refused_and_closed(d, msgpack.packb([0, 1, "server.info", [], 5]))
        refused_and_closed(d, msgpack.packb([7, 1, "server.info", []]))
        refused_and_closed(d, msgpack.packb([0, "x", "server.info", []]))
        refused_and_closed(d, msgpack.packb("GET / HTTP/1.1"))
        refused_and_closed(d, b"GET / HTTP/1.1\r\n\r\n")
        refused_and_closed(d, b"\x91" * 200 + b"\xc0")  # deeply nested
        refused_and_closed(d, b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100)
        refused_and_closed(d, b"\x94\x00\x01\xa1x\xdd\xff\xff\xff\xff")
        with d.client() as c:
            c.fails("invalid", "server.info", 7)
            deep = 0
            for _ in range(40):
                deep = [deep]
            c.sock.settimeout(10)
            c.send("server.info", {"x": deep})
            m = c.read()
            assert m[2]["code"] == "invalid", m


def test_oversized(d):
    template(d)
    with Quiet(d), d.client() as c:
        # well-formed but too long: an error with its id, the connection lives
        text = c.fails("invalid", "machine.show", {"id": "x" * 60000})
        assert "51200" in text or "51,200" in text, text
        assert c.call("server.info")
        c.fails(("invalid",), "invoke", {"template": "t", "payload": b"x" * (7 << 20)})
        assert c.call("server.info")
        # one that claims more than anybody may send
    with raw(d) as s:
        s.sendall(b"\x94\x00\x01\xa6invoke\x91\x82\xa8template\xa1t\xa7payload\xc6\xff\xff\xff\xff")
        s.sendall(b"x" * 65536)
        s.shutdown(socket.SHUT_WR)
        answers(s)
    still_fine(d)


def test_truncated(d):
    template(d)
    whole = msgpack.packb([0, 1, "invoke", [{"template": "t", "payload": b"echo hi"}]], use_bin_type=True)
    with Quiet(d):
        for n in range(len(whole)):
            with raw(d) as s:
                s.sendall(whole[:n])
        still_fine(d)
        with raw(d) as s:  # byte by byte is fine
            for b in whole:
                s.sendall(bytes([b]))
            m = msgpack.unpackb(s.recv(4096))
            assert m[3]["payload"] == b"hi"


def test_random_bytes(d):
    rnd = random.Random(1)
    whole = msgpack.packb([0, 1, "clone", [{"template": "none", "count": 3}]], use_bin_type=True)
    with Quiet(d):
        for n in range(300):
            data = bytearray(whole)
            for _ in range(rnd.randrange(1, 6)):
                data[rnd.randrange(len(data))] = rnd.randrange(256)
            with raw(d) as s:
                s.sendall(data)
        still_fine(d)


def test_client_leaves_early(d):
    template(d)
    with Quiet(d):
        for n in range(20):
            c = d.client()
            c.send("invoke", {"template": "t", "payload": b"spin 1000000"})
            if n % 2:
                time.sleep(0.002 * n)
            c.close()
        wait_for(lambda: not [m for m in machines(d) if m["state"] != "ended"])
        still_fine(d)


def machines(d):
    with d.client() as c:
        return c.call("machine.list")["machines"]


def test_client_that_never_reads(d):
    template(d)
    with Quiet(d):
        s = raw(d)
        s.settimeout(5)
        one = msgpack.packb([0, 1, "invoke", [{"template": "t", "payload": b"echo " + b"x" * 500000}]], use_bin_type=True)
        try:
            for _ in range(100):
                s.sendall(one)
        except (socket.timeout, ConnectionError):
            pass
        still_fine(d)
        with open("/proc/%d/status" % d.proc.pid) as f:
            rss = int([l for l in f if l.startswith("VmRSS")][0].split()[1])
        assert rss < 200 * 1024, "thawd grew to %d KiB" % rss
        s.close()
        wait_for(lambda: not [m for m in machines(d) if m["state"] != "ended"], 30)


def test_too_many_in_flight(d):
    template(d)
    with Quiet(d), d.client(120) as c:
        ids = [c.send("invoke", {"template": "t", "payload": b"sleep 300"}) for _ in range(2000)]
        codes = {}
        for i in ids:
            try:
                c.wait(i)
                codes["ok"] = codes.get("ok", 0) + 1
            except thawtest.RpcError as e:
                codes[e.code] = codes.get(e.code, 0) + 1
        assert codes.get("ok", 0) > 0 and codes.get("busy", 0) > 0, codes
        # A slow host does not get through those that wait in their time.
        assert set(codes) <= {"ok", "busy", "exhausted", "timeout"}, codes


def test_descriptors_that_nobody_asked_for(d):
    with Quiet(d):
        r, w = os.pipe()
        with d.client() as c:
            for _ in range(20):
                assert c.call("server.info", {}, fds=[r, w])
            c.fails("invalid", "machine.create", {"config": {}, "vsock": {"fd": 3}})
        os.close(r)
        os.close(w)


def test_snapshot_paths(d):
    template(d)
    with Quiet(d), d.client() as c:
        i = c.call("clone", {"template": "t"})["clones"][0]["id"]
        taken = os.path.join(d.dir, "taken")
        with open(taken, "w") as f:
            f.write("mine")
        c.fails("exists", "machine.snapshot", {"id": i, "path": taken})
        assert open(taken).read() == "mine"
        c.fails(("exists", "invalid"), "machine.snapshot", {"id": i, "path": d.dir})
        c.fails("not_found", "machine.snapshot", {"id": i, "path": d.dir + "/no/such/dir/x"})
        c.fails(("invalid", "not_found"), "machine.snapshot", {"id": i, "path": ""})
        c.fails("invalid", "machine.snapshot", {"id": i, "path": d.dir + "/x", "codec": "lz4"})
        c.fails("invalid", "machine.snapshot", {"id": i, "path": d.dir + "/x", "codec": "zstd", "level": 20})
        c.fails("invalid", "machine.snapshot", {"id": i, "path": d.dir + "/x", "level": 3})
        c.call("machine.snapshot", {"id": i, "path": taken, "force": True})
        c.call("snapshot.verify", {"path": taken})
        c.call("machine.stop", {"id": i})
        left = [n for n in os.listdir(d.dir) if n not in ("taken", "log", "state", "thaw.sock", "thaw.sock.lock")]
        left = [n for n in left if not n.startswith("snap") and not n.endswith(".thaw")]
        assert not left, left


def test_snapshot_on_a_full_disk(d):
    template(d)
    small = os.path.join(d.dir, "small")
    os.makedirs(small, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True).returncode:
        raise Skip("may not mount a tmpfs")
    try:
        with Quiet(d), d.client() as c:
            i = c.call("clone", {"template": "t"})["clones"][0]["id"]
            c.call("machine.invoke", {"id": i, "payload": b"touch 4"})
            c.fails("exhausted", "machine.snapshot", {"id": i, "path": small + "/x.thaw"})
            assert os.listdir(small) == [], os.listdir(small)
            # the machine goes on, and a second try elsewhere works
            assert c.call("machine.invoke", {"id": i, "payload": b"echo y"})["payload"] == b"y"
            c.call("machine.snapshot", {"id": i, "path": d.dir + "/full.thaw"})
            c.call("snapshot.verify", {"path": d.dir + "/full.thaw"})
            os.unlink(d.dir + "/full.thaw")
            c.call("machine.stop", {"id": i})
    finally:
        subprocess.run(["umount", small])


def test_damaged_snapshots(d):
    path = os.path.join(d.dir, "good.thaw")
    bad = os.path.join(d.dir, "bad.thaw")
    with d.client() as c:
        m = c.call("machine.create", {"config": {"memory": "64M"}, "ready": "agent"})["id"]
        c.call("machine.snapshot", {"id": m, "path": path})
        c.call("machine.stop", {"id": m})
    good = open(path, "rb").read()
    rnd = random.Random(2)
    # three quarters of the hits where the structure is
    spots = [rnd.randrange(8192) for _ in range(60)] + [rnd.randrange(len(good)) for _ in range(20)]
    with Quiet(d), d.client() as c:
        for at in spots:
            data = bytearray(good)
            data[at] ^= 1 << rnd.randrange(8)
            with open(bad, "wb") as f:
                f.write(data)
            text = c.fails(("corrupt", "unsupported"), "snapshot.verify", {"path": bad})
            assert text
        for n in [0, 1, 100, 4095, 4096, 5000, 8192, len(good) // 2, len(good) - 1]:
            with open(bad, "wb") as f:
                f.write(good[:n])
            c.fails("corrupt", "snapshot.verify", {"path": bad})
            c.fails("corrupt", "machine.create", {"snapshot": bad})
            c.fails("corrupt", "template.create", {"name": "bad", "snapshot": bad})
        for path2 in ("/etc/passwd", "/bin/ls", "/dev/null", d.dir):
            c.fails(("corrupt", "invalid"), "machine.create", {"snapshot": path2})
        c.fails("not_found", "machine.create", {"snapshot": "/no/such"})
        assert "bad" not in [t["name"] for t in c.call("template.list")["templates"]]
    os.unlink(bad)
    os.unlink(path)


def test_other_users_rights(d):
    """A path is opened with the rights of the one who asks."""
    template(d)
    secret = os.path.join(d.dir, "secret")
    os.makedirs(secret, mode=0o700, exist_ok=True)
    os.chmod(d.dir, 0o755)
    os.chmod(d.sock, 0o666)
    # a diff that everybody may read, of a parent that not everybody may
    diff = os.path.join(d.dir, "diff")
    with d.client() as c:
        m = c.call("machine.create", {"config": {"memory": "64M"}, "ready": "agent", "track_dirty": True})["id"]
        c.call("machine.snapshot", {"id": m, "path": secret + "/full"})
        c.call("machine.snapshot", {"id": m, "path": diff, "type": "diff"})
        c.call("machine.stop", {"id": m})
        assert c.call("snapshot.verify", {"path": diff})["files"] == 2
    os.chmod(diff, 0o644)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with d.client() as c:
                i = c.call("clone", {"template": "t"})["clones"][0]["id"]
                c.fails("denied", "machine.snapshot", {"id": i, "path": secret + "/x"})
                c.fails("denied", "snapshot.verify", {"path": "/etc/shadow"})
                e = c.fails("corrupt", "snapshot.verify", {"path": diff})
                assert secret + "/full: Permission denied" in e, e
                shown = c.call("snapshot.inspect", {"path": diff})["chain"]
                assert [x["ok"] for x in shown] == [False], shown
                assert secret + "/full: Permission denied" in shown[0]["error"], shown
                c.call("machine.stop", {"id": i})
            code = 0
        except BaseException as e:
            print("# as nobody: %r" % e, flush=True)
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_somebody_elses_socket(d):
    """What stands where a machine's vsock socket was made is not removed."""
    path = d.dir + "/v"
    other = socket.socket(socket.AF_UNIX)
    with d.client() as c:
        i = c.call("machine.create", {"config": {"memory": "64M"}, "vsock": path})["id"]
        os.rename(path, path + ".old")
        other.bind(path)
        c.call("machine.stop", {"id": i})
        assert os.path.exists(path)
        os.unlink(path)
        i = c.call("machine.create", {"config": {"memory": "64M"}, "vsock": path})["id"]
        c.call("machine.stop", {"id": i})
        assert not os.path.exists(path)
    other.close()


if __name__ == "__main__":
    thawtest.main(globals())

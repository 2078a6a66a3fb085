#!/usr/bin/python3
"""Snapshots of another host: "thaw pager" serves them in a network namespace of
its own, and this side has no file but what it fetches.
"""
# timeout: 240

import atexit
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import thawtest
from test_lazy import TOUCHED, allowed, check, complete, pager, remove, word
from thawtest import Quiet, program, wait_for

MIB = 1 << 20


class Net:
    """A namespace with one end of a pair of interfaces."""

    def __init__(self):
        self.ns = "thaw-test-%d" % os.getpid()
        a, b = "tht%da" % (os.getpid() % 100000), "tht%db" % (os.getpid() % 100000)
        net = "10.213.%d." % (os.getpid() % 250)
        self.dev = a
        self.here, self.there = net + "1", net + "2"
        atexit.register(self.close)
        for cmd in (
            "ip netns add " + self.ns,
            "ip link add %s type veth peer name %s netns %s" % (a, b, self.ns),
            "ip addr add %s/30 dev %s" % (self.here, a),
            "ip link set %s up" % a,
            "ip -n %s addr add %s/30 dev %s" % (self.ns, self.there, b),
            "ip -n %s link set %s up" % (self.ns, b),
            "ip -n %s link set lo up" % self.ns,
        ):
            try:
                r = subprocess.run(cmd.split(), capture_output=True, text=True)
            except FileNotFoundError:
                raise thawtest.Skip("ip(8) is not installed")
            if r.returncode:
                raise thawtest.Skip("no network namespace: " + r.stderr.strip())

    def blackhole(self, address):
        """What is sent there is lost on the way."""
        for cmd in ("ip route replace %s/32 dev %s" % (address, self.dev), "ip neigh replace %s lladdr 02:00:00:00:00:99 nud permanent dev %s" % (address, self.dev)):
            subprocess.run(cmd.split(), check=True)

    def reachable(self, address):
        for cmd in ("ip neigh del %s dev %s" % (address, self.dev), "ip route del %s/32 dev %s" % (address, self.dev)):
            subprocess.run(cmd.split(), check=True)

    def close(self):
        # takes both interfaces along
        subprocess.run(["ip", "netns", "del", self.ns], stderr=subprocess.DEVNULL)


class Server:
    """thaw pager in the namespace."""

    def __init__(self, net, directory, port=0):
        self.proc = subprocess.Popen(
            ["ip", "netns", "exec", net.ns, program("thaw"), "pager", "--listen", "%s:%d" % (net.there, port), directory],
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.proc.stdout.readline()
        assert line.startswith("listening at "), line
        self.port = int(line.split(",")[0].rsplit(":", 1)[1])
        self.url = {}
        for _ in range(int(line.rsplit(":", 1)[1])):
            url, name = self.proc.stdout.readline().split()
            self.url[name] = url

    def send(self, sig):
        self.proc.send_signal(sig)

    def close(self, sig=signal.SIGTERM):
        self.proc.send_signal(sig)
        self.proc.wait(20)
        self.proc.stdout.close()
        return self.proc.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.proc.poll() is None:
            self.send(signal.SIGCONT)
            self.close(signal.SIGKILL)


class World:
    """What all tests share: a namespace and a directory of snapshots."""

    net = None


def world(d):
    if not World.net:
        World.net = Net()
    World.dir = os.path.join(d.dir, "served")
    if os.path.exists(World.dir):
        return World
    os.mkdir(World.dir)
    full, diff, packed = (os.path.join(World.dir, n) for n in ("full.thaw", "diff.thaw", "packed.thaw"))
    d.template("source")
    with d.client() as c:
        i = c.call("clone", {"template": "source"})["clones"][0]["id"]
        c.call("machine.invoke", {"id": i, "payload": b"touch %d" % TOUCHED})
        c.call("machine.snapshot", {"id": i, "path": full})
        c.call("machine.snapshot", {"id": i, "path": packed, "codec": "zstd"})
        c.call("machine.stop", {"id": i})
        i = c.call("machine.create", {"snapshot": full, "track_dirty": True, "ready": "agent"})["id"]
        # a part of it is in the full one, too, and is not stored again
        c.call("machine.invoke", {"id": i, "payload": b"touch %d" % (TOUCHED + 8)})
        c.call("machine.snapshot", {"id": i, "path": diff, "type": "diff"})
        c.call("machine.stop", {"id": i})
        c.call("template.remove", {"name": "source"})
    return World


def cache(d):
    return os.path.join(d.state, "cache")


def empty_cache(d):
    shutil.rmtree(cache(d), ignore_errors=True)


def create(c, name, url, **more):
    return c.call("template.create", {"name": name, "snapshot": url, "lazy": True, **more})


def show(c, i):
    return c.call("machine.show", {"id": i})["pager"]


def cached(d):
    """The one snapshot in the cache."""
    (name,) = [n for n in os.listdir(cache(d)) if n.endswith(".thaw")]
    return os.path.join(cache(d), name)


def same_file(a, b):
    with open(a, "rb") as x, open(b, "rb") as y:
        return x.read() == y.read()


class Relay:
    """Between a server and a client: what the server says may be changed. The
    n-th byte from the server, over all connections, is byte n.
    """

    def __init__(self, to, change=None):
        self.to = to
        self.change = change  # (relay, bytes) -> bytes, or None: hang up
        self.count = 0
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.socks = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                a, _ = self.sock.accept()
                b = socket.create_connection(self.to)
            except OSError:
                return
            self.socks += [a, b]
            for x, y, back in ((a, b, False), (b, a, True)):
                threading.Thread(target=self.pump, args=(x, y, back), daemon=True).start()

    def pump(self, x, y, back):
        try:
            while True:
                data = x.recv(1 << 16)
                if back and self.change:
                    with self.lock:
                        data = self.change(self, data)
                        self.count += len(data or b"")
                if not data:
                    break
                y.sendall(data)
        except OSError:
            pass
        for s in (x, y):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def url(self, url):
        return "tcp://127.0.0.1:%d/%s" % (self.port, url.split("/", 3)[3])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop.set()
        for s in [self.sock] + self.socks:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()


def flip(at):
    """Byte number at is another one."""

    def change(r, data):
        i = at - r.count
        if 0 <= i < len(data):
            data = data[:i] + bytes([data[i] ^ 0x40]) + data[i + 1 :]
        return data

    return change


def cut(at):
    """Nothing comes from byte number at on; connections break."""
    return lambda r, data: data[: at - r.count] if r.count < at else None


def stall(at):
    """The same, but they stay."""

    def change(r, data):
        if r.count + len(data) > at:
            r.stop.wait(60)
            return None
        return data

    return change


def garbage(at):
    return lambda r, data: data if r.count + len(data) <= at else os.urandom(len(data) or 1)


def trickle(at):
    """A byte now and then."""

    def change(r, data):
        if r.count + len(data) > at:
            r.stop.wait(0.1)
            return data[:1]
        return data

    return change


def test_template(d):
    """One clone after the other answers, and what came is in the cache."""
    w = world(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        create(c, "r", s.url["full.thaw"], fill="none")
        check(c, "r", 8)
        assert c.call("template.show", {"name": "r"})["remote"] == s.url["full.thaw"]
        first = pager(c, "r")
        assert 8 * MIB <= first["bytes_fetched"] < 16 * MIB, first
        check(c, "r", 8)
        again = pager(c, "r")
        assert again["bytes_fetched"] - first["bytes_fetched"] < MIB, (first, again)
        counters = c.call("metrics")["counters"]
        assert counters["pager_bytes_fetched"] >= again["bytes_fetched"], counters
        remove(c, "r")
        assert s.close() == 0


def test_restore(d):
    w = world(d)
    empty_cache(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        url = s.url["full.thaw"]
        text = c.fails("invalid", "machine.create", {"snapshot": url})
        assert "lazy" in text, text
        text = c.fails("invalid", "template.create", {"name": "x", "snapshot": url})
        assert "lazy" in text, text
        i = c.call("machine.create", {"snapshot": url, "lazy": True, "ready": "agent"})["id"]
        c.call("machine.invoke", {"id": i, "payload": b"echo"})
        wait_for(lambda: show(c, i)["state"] == "complete", 30)
        r = c.call("machine.invoke", {"id": i, "payload": b"check %d" % TOUCHED})
        assert r["payload"] == b"right %d MiB" % TOUCHED
        c.call("machine.stop", {"id": i})
        # what the command line says is the same
        thaw = [program("thaw"), "restore", "--socket", d.sock, "--ready", "agent", "--lazy", url]
        r = subprocess.run(thaw, capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        c.call("machine.stop", {"id": r.stdout.strip()})


def test_complete_cache(d):
    """The file that grows is the file; once it is there nobody is asked."""
    w = world(d)
    empty_cache(d)
    with Quiet(d), d.client() as c:
        with Server(w.net, w.dir) as s:
            url = s.url["full.thaw"]
            create(c, "full", url)
            check(c, "full", 1)
            wait_for(lambda: complete(c, "full"), 30)
            fetched = pager(c, "full")["bytes_fetched"]
            assert fetched >= TOUCHED * MIB, fetched
        r = subprocess.run([program("thaw"), "verify", cached(d)], capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        assert same_file(cached(d), os.path.join(w.dir, "full.thaw"))
        check(c, "full", TOUCHED)
        # with the server dead: another one
        create(c, "again", url)
        check(c, "again", TOUCHED)
        assert pager(c, "again")["bytes_fetched"] == 0
        i = c.call("machine.create", {"snapshot": url, "lazy": True, "ready": "agent"})["id"]
        assert c.call("machine.invoke", {"id": i, "payload": b"check 8"})["payload"] == b"right 8 MiB"
        assert show(c, i)["bytes_fetched"] == 0
        c.call("machine.stop", {"id": i})
        remove(c, "full")
        remove(c, "again")


def test_compressed(d):
    w = world(d)
    empty_cache(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        create(c, "z", s.url["packed.thaw"])
        check(c, "z", 8)
        wait_for(lambda: complete(c, "z"), 30)
        check(c, "z", TOUCHED)
        assert same_file(cached(d), os.path.join(w.dir, "packed.thaw"))
        remove(c, "z")


def test_chain(d):
    """A diff, and with it what it builds on."""
    w = world(d)
    empty_cache(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        url = s.url["diff.thaw"]
        i = c.call("machine.create", {"snapshot": url, "lazy": True, "fill": "none", "ready": "agent"})["id"]
        full = TOUCHED + 8
        r = c.call("machine.invoke", {"id": i, "payload": b"check %d" % full})
        assert r["payload"] == b"right %d MiB" % full
        c.call("machine.stop", {"id": i})
        assert len([n for n in os.listdir(cache(d)) if n.endswith(".thaw")]) == 2
        create(c, "ch", url)
        check(c, "ch", 8)
        wait_for(lambda: complete(c, "ch"), 30)
        check(c, "ch", full)
        remove(c, "ch")
    # a parent that is not served
    empty_cache(d)
    alone = os.path.join(d.dir, "alone")
    os.mkdir(alone)
    shutil.copy(os.path.join(w.dir, "diff.thaw"), alone)
    with d.client() as c, Server(w.net, alone) as s:
        text = c.fails("not_found", "template.create", {"name": "al", "snapshot": s.url["diff.thaw"], "lazy": True})
        assert w.net.there in text, text
    shutil.rmtree(alone)


def test_cache_is_cleaned(d):
    """By somebody, while it is in use: who uses it goes on."""
    w = world(d)
    empty_cache(d)
    clean = ["find", cache(d), "-type", "f", "-links", "1", "-delete"]
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        create(c, "cl", s.url["full.thaw"], fill="none")
        i = c.call("machine.create", {"snapshot": s.url["packed.thaw"], "lazy": True, "fill": "none", "ready": "agent"})["id"]
        assert len(os.listdir(cache(d))) == 2, os.listdir(cache(d))
        subprocess.run(clean, check=True)
        assert len(os.listdir(cache(d))) == 1, os.listdir(cache(d))
        r = c.call("machine.invoke", {"id": i, "payload": b"check 8"})
        assert r["payload"] == b"right 8 MiB"
        check(c, "cl", 8)
        c.call("machine.stop", {"id": i})
        remove(c, "cl")
        subprocess.run(clean, check=True)
        assert not os.listdir(cache(d)), os.listdir(cache(d))


def test_names(d):
    """What is asked for is what is pinned, or nothing."""
    w = world(d)
    empty_cache(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        url = s.url["full.thaw"]
        peer, uuid, digest = url.split("/")[2], url.split("/")[3].split("?")[0], url.split("=")[1]
        full = os.path.join(w.dir, "full.thaw")
        r = subprocess.run([program("thaw"), "inspect", "--json", full], capture_output=True, text=True)
        assert digest in r.stdout and uuid in r.stdout, r.stdout
        other = s.url["packed.thaw"].split("=")[1]
        for bad, code in (
            ("tcp://%s/%s?digest=%s" % (peer, uuid, other), "not_found"),
            ("tcp://%s/%s?digest=%s" % (peer, uuid[:-1] + ("0" if uuid[-1] != "0" else "1"), digest), "not_found"),
            ("tcp://%s/%s" % (peer, uuid), "invalid"),
            ("tcp://%s/%s?digest=" % (peer, uuid), "invalid"),
            ("tcp://%s/%s?digest=%s0" % (peer, uuid, digest), "invalid"),
            ("tcp://%s/?digest=%s" % (peer, digest), "invalid"),
            ("tcp:///%s?digest=%s" % (uuid, digest), "invalid"),
            ("tcp://a b:1/%s?digest=%s" % (uuid, digest), "invalid"),
            ("tcp://a:70000/%s?digest=%s" % (uuid, digest), "invalid"),
        ):
            for method in ("template.create", "machine.create"):
                text = c.fails(code, method, {"name": "x", "snapshot": bad, "lazy": True})
                assert code == "invalid" or w.net.there in text, text
        # by name, which somebody else looks up
        for host in ("localhost", "no-such-host.invalid"):
            bad = "tcp://%s:1/%s?digest=%s" % (host, uuid, digest)
            start = time.monotonic()
            text = c.fails(
                ("timeout", "internal"), "machine.create", {"snapshot": bad, "lazy": True, "stall_ms": 500}
            )
            assert host + ":1" in text, text
            assert time.monotonic() - start < 20
        assert not os.listdir(cache(d)), os.listdir(cache(d))
        assert "x" not in [t["name"] for t in c.call("template.list")["templates"]]


def test_server_dies(d):
    """Who waits for a page hears of it in time; when it is back all goes on."""
    w = world(d)
    empty_cache(d)
    with Quiet(d), d.client() as c:
        with Server(w.net, w.dir) as s:
            create(c, "sd", s.url["full.thaw"], fill="none", stall_ms=2000)
            check(c, "sd", 4)
            idle = c.call("clone", {"template": "sd"})["clones"][0]["id"]
            s.close(signal.SIGKILL)
            i = c.call("clone", {"template": "sd"})["clones"][0]["id"]
            start = time.monotonic()
            text = c.fails("timeout", "machine.invoke", {"id": i, "payload": b"check 8", "timeout_ms": 60000})
            assert w.net.there in text, text
            assert time.monotonic() - start < 15
            # what is here needs nobody
            check(c, "sd", 4)
            assert pager(c, "sd")["machines_failed"] == 1
            port = s.port
        with Server(w.net, w.dir, port) as s:
            r = c.call("machine.invoke", {"id": idle, "payload": b"check 8"})
            assert r["payload"] == b"right 8 MiB"
            check(c, "sd", 16)
            remove(c, "sd")
            # it goes and comes while somebody waits
            create(c, "sd", s.url["full.thaw"], fill="none")
            s.close()
            n = c.send("invoke", {"template": "sd", "payload": b"check 20", "timeout_ms": 60000})
            time.sleep(0.3)
            with Server(w.net, w.dir, port):
                assert c.wait(n)["payload"] == b"right 20 MiB"
        remove(c, "sd")


def test_server_stalls(d):
    w = world(d)
    empty_cache(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        create(c, "ss", s.url["full.thaw"], fill="none", stall_ms=1500)
        check(c, "ss", 4)
        s.send(signal.SIGSTOP)
        start = time.monotonic()
        text = c.fails("timeout", "invoke", {"template": "ss", "payload": b"check 8", "timeout_ms": 60000})
        assert w.net.there in text and "1500 ms" in text, text
        packed = s.url["packed.thaw"]
        text = c.fails("timeout", "machine.create", {"snapshot": packed, "lazy": True, "stall_ms": 700})
        assert w.net.there in text, text
        assert time.monotonic() - start < 20
        s.send(signal.SIGCONT)
        check(c, "ss", 8)
        remove(c, "ss")


def test_silent_server(d):
    """One that accepts and never speaks, and one that does not even accept."""
    w = world(d)
    empty_cache(d)
    nobody = w.net.here.rsplit(".", 1)[0] + ".200"
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s, socket.create_server(("127.0.0.1", 0)) as silent:
        w.net.blackhole(nobody)
        for peer in ("127.0.0.1:%d" % silent.getsockname()[1], nobody + ":7070"):
            url = "tcp://%s/%s" % (peer, s.url["full.thaw"].split("/", 3)[3])
            start = time.monotonic()
            text = c.fails("timeout", "template.create", {"name": "si", "snapshot": url, "lazy": True, "stall_ms": 700})
            assert peer in text and "700 ms" in text and "timed out" in text, text
            assert 0.6 < time.monotonic() - start < 5, text
        # later on: what comes from it, and what goes to it, is lost
        create(c, "si", s.url["full.thaw"], fill="none", stall_ms=1500)
        check(c, "si", 4)
        w.net.blackhole(w.net.there)
        start = time.monotonic()
        text = c.fails("timeout", "invoke", {"template": "si", "payload": b"check 8", "timeout_ms": 60000})
        assert w.net.there in text and "1500 ms" in text, text
        assert time.monotonic() - start < 10
        check(c, "si", 4)
        w.net.reachable(w.net.there)
        check(c, "si", 8)
        remove(c, "si")


def test_dialer(d):
    """The process that connects: one that hangs is late, one that is gone takes
    its pager along, and the template starts again.
    """
    w = world(d)
    empty_cache(d)

    def is_dialer(pid):
        try:
            return os.readlink("/proc/%d/exe" % pid).endswith("/thawd")
        except OSError:
            return False

    with Quiet(d), d.client() as c:
        with Server(w.net, w.dir) as s:
            create(c, "di", s.url["full.thaw"], fill="none", stall_ms=1500)
            check(c, "di", 2)
            (dialer,) = filter(is_dialer, d.machines())
            port = s.port
        with Server(w.net, w.dir, port):
            # all connections are dead, and there will be no new one
            os.kill(dialer, signal.SIGSTOP)
            start = time.monotonic()
            text = c.fails("timeout", "invoke", {"template": "di", "payload": b"check 8", "timeout_ms": 60000})
            assert w.net.there in text and "1500 ms" in text, text
            assert time.monotonic() - start < 10
            check(c, "di", 2)
            i = c.call("clone", {"template": "di"})["clones"][0]["id"]
            os.kill(dialer, signal.SIGKILL)
            wait_for(lambda: c.call("machine.show", {"id": i})["state"] == "ended")
            wait_for(lambda: c.call("template.show", {"name": "di"})["state"] == "ready")
            check(c, "di", 8)
        remove(c, "di")


ANY = ("corrupt", "internal", "timeout", "unsupported", "not_found")


def test_lies_at_the_start(d):
    """Wherever what it says is wrong before anything runs, nothing is made."""
    w = world(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        to = (w.net.there, s.port)
        # how much comes in all
        empty_cache(d)
        with Relay(to, lambda r, data: data) as r:
            i = c.call("machine.create", {"snapshot": r.url(s.url["full.thaw"]), "lazy": True, "fill": "none"})["id"]
            c.call("machine.stop", {"id": i})
            time.sleep(0.1)
            total = r.count
        points = (0, 8, 12, 20, 24, 28, 40, 48, 56, 100, 600, 3000, total // 2)
        for kind, codes in ((flip, ANY), (cut, ("internal", "timeout")), (garbage, ANY), (stall, ("timeout",)), (trickle, ("timeout",))):
            for at in points if kind in (flip, cut) else points[::5]:
                empty_cache(d)
                with Relay(to, kind(at)) as r:
                    params = {"name": "li", "snapshot": r.url(s.url["full.thaw"]), "lazy": True, "stall_ms": 400}
                    made = False
                    try:
                        c.call("template.create", params)
                        made = True
                        check(c, "li", 1)
                    except thawtest.RpcError as e:
                        assert e.code in codes, (kind.__name__, at, e.message)
                        assert "127.0.0.1" in e.message, (kind.__name__, at, e.message)
                    if made:
                        remove(c, "li")
                    else:
                        assert not os.listdir(cache(d)), (kind.__name__, at)


def test_lies_later(d):
    """Chunks that are wrong, cut off or late: the machine ends by name, and
    nobody sees a wrong page; what is wrong is not kept.
    """
    w = world(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        to = (w.net.there, s.port)
        for kind, codes in ((flip, ANY), (cut, ("timeout", "internal")), (garbage, ANY), (stall, ("timeout",)), (trickle, ("timeout",))):
            for name in ("full.thaw", "packed.thaw"):
                empty_cache(d)
                with Relay(to, lambda r, data: data) as r:
                    create(c, "la", r.url(s.url[name]), fill="none", stall_ms=1500)
                    check(c, "la", 2)
                    # somewhere in the next chunks
                    r.change = kind(r.count + 1000)
                    text = c.fails(codes, "invoke", {"template": "la", "payload": b"check 8", "timeout_ms": 60000})
                    assert "127.0.0.1" in text, (kind.__name__, text)
                    check(c, "la", 2)
                    remove(c, "la")
                # the truth is still to be had
                create(c, "la", s.url[name], fill="none")
                check(c, "la", 8)
                remove(c, "la")


def test_damaged_cache(d):
    """Wrong bytes in the cache are fetched again; a wrong front, too."""
    w = world(d)
    empty_cache(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        url = s.url["full.thaw"]
        create(c, "dc", url, fill="none")
        check(c, "dc", 8)
        remove(c, "dc")
        path = cached(d)
        with open(path, "r+b") as f:
            at = f.read().find(word(5 * MIB // 8))
            assert at > 0
            f.seek(at)
            f.write(b"wrong")
        create(c, "dc", url, fill="none")
        check(c, "dc", 8)
        check(c, "dc", 8)
        remove(c, "dc")
        with open(path, "rb") as f:
            f.seek(at)
            assert f.read(5) == word(5 * MIB // 8)[:5]
        with open(path, "r+b") as f:
            f.seek(200)
            f.write(b"wrong")
        create(c, "dc", url, fill="none")
        check(c, "dc", 8)
        remove(c, "dc")


def test_working_set(d):
    """The set that stands beside the file comes along."""
    w = world(d)
    empty_cache(d)
    full = os.path.join(w.dir, "full.thaw")
    with d.client() as c:
        c.call("template.create", {"name": "rec", "snapshot": full, "lazy": True, "fill": "none"})
        c.call("template.record", {"name": "rec", "payload": b"check 8", "path": full + ".ws"})
        remove(c, "rec")
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        create(c, "ws", s.url["full.thaw"], fill="none")
        n = pager(c, "ws")["set_pages"]
        assert n >= 2048, n
        wait_for(lambda: pager(c, "ws")["pages_prefetched"] >= n)
        before = pager(c, "ws")["windows_demand"]
        check(c, "ws", 8)
        assert pager(c, "ws")["windows_demand"] - before < 10
        # recorded here, with what is there
        r = c.call("template.record", {"name": "ws", "payload": b"check 10"})
        assert r["set"] >= 2560, r
        remove(c, "ws")
        # one that is no good is not used
        empty_cache(d)
        with open(full + ".ws", "r+b") as f:
            f.seek(100)
            f.write(b"\xff")
        create(c, "ws", s.url["full.thaw"], fill="none")
        check(c, "ws", 8)
        assert pager(c, "ws")["set_pages"] == 0
        remove(c, "ws")
    os.unlink(full + ".ws")


def test_daemon_restarts(d):
    """It comes back from what is here; what is not here is named."""
    w = world(d)
    empty_cache(d)
    with d.client() as c, Server(w.net, w.dir) as s:
        port = s.port
        create(c, "stay", s.url["diff.thaw"], fill="none", stall_ms=2000)
        check(c, "stay", 8)
    d.kill(signal.SIGKILL)
    # what a fetch had not finished goes, all else stays
    names = sorted(os.listdir(cache(d)))
    for i in (1, 77):
        with open(os.path.join(cache(d), ".new-%d" % i), "wb") as f:
            f.write(b"half")
    d.start()
    assert sorted(os.listdir(cache(d))) == names, os.listdir(cache(d))
    with d.client() as c:
        wait_for(lambda: c.call("template.show", {"name": "stay"})["state"] == "ready")
        check(c, "stay", 8)
        assert pager(c, "stay")["bytes_fetched"] == 0
        text = c.fails("timeout", "invoke", {"template": "stay", "payload": b"check 16", "timeout_ms": 60000})
        assert w.net.there in text, text
        with Server(w.net, w.dir, port):
            check(c, "stay", 16)
        remove(c, "stay")


def test_parent_gone(d):
    """A template of a diff whose parents are not in the cache any more."""
    w = world(d)
    empty_cache(d)
    with d.client() as c, Server(w.net, w.dir) as s:
        create(c, "pg", s.url["diff.thaw"], fill="none")
        check(c, "pg", 2)
    d.kill(signal.SIGKILL)
    empty_cache(d)
    d.start()
    with d.client() as c:
        wait_for(lambda: c.call("template.show", {"name": "pg"})["state"] == "failed", 30)
        text = c.fails("not_found", "clone", {"template": "pg"})
        assert "builds on" in text, text
        remove(c, "pg")


def test_server(d):
    """It gives what it serves to those who ask properly, and nothing else."""
    w = world(d)
    here = os.path.join(d.dir, "odd")
    os.mkdir(here)
    shutil.copy(os.path.join(w.dir, "full.thaw"), os.path.join(here, "a"))
    os.symlink(os.path.join(w.dir, "packed.thaw"), os.path.join(here, "link"))
    os.mkfifo(os.path.join(here, "fifo"))
    os.mkdir(os.path.join(here, "dir"))
    with open(os.path.join(here, "text"), "w") as f:
        f.write("no snapshot\n" * 1000)
    with Server(w.net, here) as s:
        assert list(s.url) == ["a"], s.url
        hello = b"\x89thawpg\n" + struct.pack("<HHI", 1, 0, 1 << 19)

        def key_of(url):
            return bytes.fromhex(url.split("/")[3].split("?")[0].replace("-", "") + url.split("=")[1])

        key = key_of(s.url["a"])

        def ask(data, n):
            with socket.create_connection((w.net.there, s.port), 10) as k:
                k.sendall(data)
                got = b""
                while len(got) < n:
                    try:
                        more = k.recv(n - len(got))
                    except ConnectionResetError:
                        break
                    if not more:
                        break
                    got += more
                return got

        def request(kind, ident, k=key, offset=0, length=0, part=0, rest=0):
            return struct.pack("<II32sQIIQ", kind, ident, k, offset, length, part, rest)

        def status(got):
            return struct.unpack("<I", got[24:28])[0]

        size = os.path.getsize(os.path.join(here, "a"))
        got = ask(hello + request(1, 7), 48)
        assert struct.unpack("<IIIIQQ", got[16:]) == (1, 7, 0, 0, size, 0), got
        got = ask(hello + request(2, 1, offset=4096, length=100) + request(2, 2, length=16), 16 + 132 + 48)
        with open(os.path.join(here, "a"), "rb") as f:
            data = f.read(5000)
        assert got[48:148] == data[4096:4196] and got[-16:] == data[:16], got
        # a file that is not there leaves the connection as it is; nonsense ends it
        n = struct.unpack("<I", ask(hello + request(1, 1, k=b"x" * 32), 48)[28:32])[0]
        got = ask(hello + request(1, 1, k=b"x" * 32) + request(1, 2), 48 + n + 32)
        assert status(got) == 1 and got[48 + n : 56 + n] == struct.pack("<II", 1, 2), got
        for bad in (
            request(3, 1),
            request(2, 1, length=0),
            request(2, 1, length=(1 << 19) + 1),
            request(2, 1, offset=size - 10, length=11),
            request(2, 1, offset=(1 << 64) - 5, length=10),
            request(2, 1, length=4, part=2),
            request(2, 1, length=4, rest=1),
            request(1, 1, length=4),
        ):
            got = ask(hello + bad, 400)
            assert status(got) == 2 and len(got) < 16 + 32 + 201, (bad, got)
        assert status(ask(hello + request(2, 1, length=4, part=1), 48)) == 1
        assert ask(b"GET / HTTP/1.1\r\n\r\n" * 10, 10) == b""
        # a file that comes later
        time.sleep(1.1)
        shutil.copy(os.path.join(w.dir, "diff.thaw"), os.path.join(here, "b"))
        with Server(w.net, here) as t:
            later = key_of(t.url["b"])
        assert status(ask(hello + request(1, 1, k=later), 48)) == 0
        # those beyond the limit are sent away, and leave no trace
        many = [socket.create_connection((w.net.there, s.port), 10) for _ in range(300)]
        for k in many:
            k.close()
        wait_for(lambda: len(ask(hello + request(1, 7), 48)) == 48)
        assert s.close(signal.SIGINT) == 0
    r = subprocess.run([program("thaw"), "pager", here], capture_output=True, text=True)
    assert r.returncode == 2 and "--listen" in r.stderr, r
    r = subprocess.run(
        [program("thaw"), "pager", "--listen", "127.0.0.1:0", here + "no"], capture_output=True, text=True
    )
    assert r.returncode == 3, r
    shutil.rmtree(here)


if __name__ == "__main__":
    if not allowed():
        print("1..0 # SKIP userfaultfd is not allowed here")
        sys.exit(77)
    thawtest.main(globals())

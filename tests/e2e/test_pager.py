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
        c.call("machine.invoke", {"id": i, "payload": b"zero 1"})
        c.call("machine.invoke", {"id": i, "payload": b"touch 2"})
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


def test_template(d):
    """One clone after the other answers, and what came is in the cache."""
    w = world(d)
    with Quiet(d), d.client() as c, Server(w.net, w.dir) as s:
        create(c, "r", s.url["full.thaw"], fill="none")
        check(c, "r", 8)
        first = pager(c, "r")
        assert 8 * MIB <= first["bytes_fetched"] < 16 * MIB, first
        check(c, "r", 8)
        again = pager(c, "r")
        assert again["bytes_fetched"] - first["bytes_fetched"] < MIB, (first, again)
        counters = c.call("metrics")["counters"]
        assert counters["pager_bytes_fetched"] >= again["bytes_fetched"], counters
        remove(c, "r")
        assert s.close() == 0


if __name__ == "__main__":
    if not allowed():
        print("1..0 # SKIP userfaultfd is not allowed here")
        sys.exit(77)
    thawtest.main(globals())

#!/usr/bin/python3
# timeout: 500
"""The network of Linux guests: iperf3 and ping over taps on a bridge in a network
namespace, both ways and with large frames, after a restore, and by two clones at
once, each with a MAC and an address of its own.
"""

import json
import os
import subprocess
import time

import linuxtest
import thawtest

KERNEL = "6.1-cloud"
NS = "thaw-net"
IN = ["ip", "netns", "exec", NS]
IPERF = "/mnt/ld.so --library-path /mnt /mnt/iperf3 "
MTU = 4000


# Sends what nobody can guess to who comes, until told to end. Answers each line
# with how much it has sent, the last one with the checksum.
STREAM = """
import hashlib, os, select, socket, sys
s = socket.create_server(("10.9.0.1", 7000))
print("listens", flush=True)
c, sent, sum = s.accept()[0], 0, hashlib.md5()
while True:
    if select.select([sys.stdin], [], [], 0.005)[0]:
        if sys.stdin.readline() != "how much\\n":
            break
        print(sent, flush=True)
    data = os.urandom(32768)
    c.sendall(data)
    sum.update(data)
    sent += len(data)
c.close()
print(sum.hexdigest(), flush=True)
"""


def sh(*cmd):
    return subprocess.run(cmd, check=True, capture_output=True, text=True).stdout


def guests(directory):
    linuxtest.make_guests(directory, [KERNEL])
    linuxtest.make_tools(os.path.join(directory, "tools.img"), "iperf3")


class Net:
    """A bridge 10.9.0.1 with three taps, a server on it, and a daemon beside it."""

    def __init__(self):
        self.server = self.stream = self.d = None
        if os.geteuid() != 0 or subprocess.run(["ip", "netns", "add", NS], capture_output=True).returncode:
            raise thawtest.Skip("no network namespace can be made here")
        try:
            sh(*IN, "ip", "link", "set", "lo", "up")
            sh(*IN, "ip", "link", "add", "br0", "type", "bridge")
            for i in range(3):
                sh(*IN, "ip", "tuntap", "add", "tap%d" % i, "mode", "tap")
                sh(*IN, "ip", "link", "set", "tap%d" % i, "mtu", str(MTU), "master", "br0", "up")
            sh(*IN, "ip", "addr", "add", "10.9.0.1/24", "dev", "br0")
            sh(*IN, "ip", "link", "set", "br0", "up")
            self.serve()
            self.d = thawtest.Daemon(prefix=IN)
        except BaseException:
            self.close()
            raise

    def serve(self):
        """A new server: one that had a client which went away may wait for it."""
        if self.server:
            self.server.kill()
            self.server.wait()
        self.server = subprocess.Popen(IN + ["iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        thawtest.wait_for(lambda: ":5201" in sh(*IN, "ss", "-Hltn"), 30, 0.1)

    def close(self):
        if self.d:
            self.d.close()
        if self.stream:
            self.stream.close()
        if self.server:
            self.server.kill()
            self.server.wait()
        subprocess.run(["ip", "netns", "del", NS], check=True)


def config():
    tools = {"type": "block", "id": "tools", "path": os.path.join(os.environ["THAW_LINUX_GUESTS"], "tools.img"), "read_only": True}
    net = {"type": "net", "id": "lan", "tap": "tap0", "mac": "02:00:00:09:00:02", "mtu": MTU}
    return linuxtest.guest_config(KERNEL, cpus=2, memory="160M", devices=[tools, net])


def set_up(g, last):
    g.sh("ip link set eth0 up; ip addr flush dev eth0; ip addr add 10.9.0.%d/24 dev eth0" % last)


def iperf(g, *options):
    """4 MiB are sent, at whatever speed; how much of it the receiver has counted
    when the sender says that it was all."""
    out = g.sh(IPERF + "-c 10.9.0.1 -n 4M -J " + " ".join(options), timeout=100)
    r = json.loads(out)
    assert "error" not in r, r
    end = r["end"]
    if "sum_received" in end:
        return end["sum_received"]["bytes"]
    return end["sum"]["bytes"] * (end["sum"]["packets"] - end["sum"]["lost_packets"]) // end["sum"]["packets"]


def works(g, last):
    """Ping both ways, TCP both ways, several streams, and UDP."""
    for to in (lambda: sh(*IN, "ping", "-c", "2", "-W", "10", "10.9.0.%d" % last) if has_ping() else ""), \
              (lambda: g.sh("ping -c 2 -W 10 10.9.0.1")):
        out = to()
        assert not out or " 0% packet loss" in out, out
    # A frame of the whole MTU, which must not be cut.
    g.sh("ping -c 1 -W 10 -s %d 10.9.0.1" % (MTU - 28))
    assert iperf(g) > 1 << 17
    assert iperf(g, "-R") > 1 << 17
    assert iperf(g, "-P", "4") > 1 << 17
    assert iperf(g, "-u", "-b", "8M") > 1 << 17


class Stream:
    """One connection of the guest's, which a freeze must not break."""

    def __init__(self, g):
        cmd = IN + ["/usr/bin/python3", "-u", "-c", STREAM]
        self.process = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "listens\n"
        g.sh("(busybox nc 10.9.0.1 7000 </dev/null | md5sum | cut -c1-32 >/tmp/stream) >/dev/null 2>&1 &")

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def passes(self, amount):
        """Goes on by so many bytes."""
        start = int(self.say("how much"))
        thawtest.wait_for(lambda: int(self.say("how much")) - start > amount, 60, 0.1)

    def end(self, g):
        want = self.say("end")
        thawtest.wait_for(lambda: g.sh("cat /tmp/stream 2>/dev/null || true"), 60, 0.1)
        assert g.sh("cat /tmp/stream").strip() == want

    def close(self):
        self.process.kill()
        self.process.wait()


def has_ping():
    return any(os.access(os.path.join(p, "ping"), os.X_OK) for p in ("/bin", "/usr/bin"))


def test_traffic_restore_and_clones(_):
    n = Net()
    try:
        traffic(n, n.d)
    except Exception:
        print("# " + n.d.told().replace("\n", "\n# "))
        raise
    finally:
        n.close()


def restore(c, params):
    """The kernel frees a tap a moment after the process that had it has ended."""
    end = time.monotonic() + 20
    while True:
        try:
            return c.call("machine.create", params)["id"]
        except thawtest.RpcError as e:
            if e.code != "busy" or time.monotonic() > end:
                raise
        time.sleep(0.1)


def traffic(n, d):
    with d.client(timeout=300) as c:
        g = linuxtest.start(c, "net", config())
        g.sh("mkdir -p /mnt; mount -o ro /dev/vda /mnt")
        set_up(g, 2)
        assert g.sh("cat /sys/class/net/eth0/mtu") == "%d\n" % MTU
        works(g, 2)
        # Frozen with a connection in full flow, which goes on afterwards.
        stream = n.stream = Stream(g)
        stream.passes(1 << 20)
        c.call("machine.pause", {"id": g.id})
        snap = os.path.join(d.dir, "snap")
        c.call("machine.snapshot", {"id": g.id, "path": snap})
        g.stop()
        disks = {"tools": config()["devices"][1]["path"]}
        g = linuxtest.Guest(c, restore(c, {"snapshot": snap, "ready": "agent", "taps": {"lan": "tap0"}, "disks": disks}))
        stream.passes(1 << 20)
        stream.end(g)
        works(g, 2)
        g.healthy()
        c.call("template.create", {"name": "t", "machine": g.id, "disks": disks, "timeout_ms": 120000})
        g.stop()
        over = [{"taps": {"lan": "tap%d" % i}, "macs": {"lan": "02:00:00:09:01:%02x" % i}} for i in (1, 2)]
        made = c.call("clone", {"template": "t", "count": 2, "overrides": over})
        assert not made["errors"], made
        clones = [linuxtest.Guest(c, x["id"]) for x in made["clones"]]
        for i, g in enumerate(clones):
            assert g.sh("cat /sys/class/net/eth0/address") == "02:00:00:09:01:%02x\n" % (i + 1)
            set_up(g, 11 + i)
        # To each other, and to the host, which sees two of them.
        clones[0].sh("ping -c 2 -W 10 10.9.0.12")
        clones[1].sh("ping -c 2 -W 10 10.9.0.1")
        clones[0].sh("ping -c 2 -W 10 10.9.0.1")
        seen = sh(*IN, "ip", "neigh", "show", "dev", "br0")
        for i in (0, 1):
            line = next(x for x in seen.splitlines() if x.startswith("10.9.0.%d " % (11 + i)))
            assert "02:00:00:09:01:%02x" % (i + 1) in line, seen
        for g in clones:
            n.serve()
            assert iperf(g) > 1 << 17
            g.healthy()
            g.stop()
        c.call("template.remove", {"name": "t"})


linuxtest.main(globals(), guests=guests, timeout=490)

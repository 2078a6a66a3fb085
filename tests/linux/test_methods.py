#!/usr/bin/python3
# timeout: 600
"""What the API does with a Linux guest: commands, files, and clones with
overrides of every kind."""

import os
import re
import socket
import subprocess
import time

import linuxtest
import thawtest

KERNEL = "6.1-cloud"


def test_exec_put_get(d):
    with d.client(timeout=300) as c:
        g = linuxtest.start(c, "m", linuxtest.guest_config(KERNEL))

        def run(*argv, **more):
            return c.call("machine.exec", dict({"id": g.id, "argv": list(argv)}, **more))

        r = run("sh", "-c", "cat; echo $A; pwd; echo bad >&2; exit 3", stdin=b"in\0\n", env={"A": "b c"}, cwd="/root")
        want = {"exit": 3, "signal": 0, "timed_out": False, "stdout": b"in\0\nb c\n/root\n", "stderr": b"bad\n", "truncated": False}
        assert r == want, r
        r = run("sh", "-c", "kill -9 $$")
        assert (r["exit"], r["signal"]) == (137, 9), r
        r = run("sh", "-c", "echo early; exec sleep 1000", timeout_ms=1500)
        assert (r["exit"], r["timed_out"], r["stdout"]) == (137, True, b"early\n"), r
        r = run("sh", "-c", "yes | head -c 3000000")
        assert len(r["stdout"]) == 2 << 20 and r["truncated"], (len(r["stdout"]), r["truncated"])
        big = os.urandom(4 << 20)
        r = run("md5sum", stdin=big)
        assert r["stdout"] == run("sh", "-c", "cat > /tmp/in; md5sum < /tmp/in", stdin=big)["stdout"], r
        c.fails("not_found", "machine.exec", {"id": g.id, "argv": ["no-such-command"]})
        c.fails("invalid", "machine.exec", {"id": g.id, "argv": [""]})
        # Several at once, and the machine is as good as before.
        sent = [c.send("machine.exec", {"id": g.id, "argv": ["echo", str(i)]}) for i in range(20)]
        assert [c.wait(i)["stdout"] for i in sent] == [b"%d\n" % i for i in range(20)]
        files(c, g, big)
        c.call("machine.pause", {"id": g.id})
        c.fails("busy", "machine.exec", {"id": g.id, "argv": ["true"]})
        c.call("machine.resume", {"id": g.id})
        g.healthy()
        g.stop()
        c.fails("not_found", "machine.get", {"id": g.id, "path": "/etc/passwd"})


def files(c, g, big):
    def put(data, **more):
        return c.call("machine.put", dict({"id": g.id, "path": "/root/f", "data": data}, **more))["size"]

    assert put(b"small", mode=0o751) == 5
    r = c.call("machine.get", {"id": g.id, "path": "/root/f"})
    assert r == {"data": b"small", "eof": True, "size": 5, "mode": 0o751}, r
    # Two pieces: there is nothing new until the last one.
    put(big, eof=False)
    assert g.sh("cat /root/f") == "small"
    c.fails("invalid", "machine.put", {"id": g.id, "path": "/root/f", "data": b"x", "offset": 7})
    assert put(b"the end", offset=len(big)) == len(big) + 7
    r = c.call("machine.get", {"id": g.id, "path": "/root/f"})
    assert r["data"] == big and not r["eof"] and r["size"] == len(big) + 7, (len(r["data"]), r["eof"], r["size"])
    r = c.call("machine.get", {"id": g.id, "path": "/root/f", "offset": len(big) - 1, "length": 5})
    assert r["data"] == big[-1:] + b"the ", r
    c.fails("not_found", "machine.get", {"id": g.id, "path": "/root/none"})
    c.fails("invalid", "machine.get", {"id": g.id, "path": "root"})
    c.fails("invalid", "machine.put", {"id": g.id, "path": "/root", "data": b""})


def host(line):
    return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout


def reaches(g, address, seconds=20):
    end = time.monotonic() + seconds
    while " 0% packet loss" not in g.sh("ping -c 2 -W 1 %s || true" % address):
        assert time.monotonic() < end, "no answer from %s: %s" % (address, g.sh("ip addr; ip route; ip neigh"))


def make_template(c, d, image):
    """Of a machine with an address and routes of its own."""
    net = [{"type": "net", "id": "net0", "mac": "02:00:00:00:09:02"}]
    g = linuxtest.start(c, "origin", linuxtest.guest_config(KERNEL, devices=net + [{"type": "block", "id": "data", "path": image}]))
    g.sh("ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.9.0.1; ip -6 addr add fd00:8::2/64 dev eth0")
    g.sh("head -c 512 /dev/vda")
    c.call("template.create", {"name": "over", "machine": g.id, "disks": {"data": image}})
    return g


def test_overrides(d):
    if os.geteuid():
        raise linuxtest.Skip("taps need root")
    images = [os.path.join(d.dir, "image%d" % i) for i in range(3)]
    for i, path in enumerate(images):
        with open(path, "wb") as f:
            f.write(b"image %d\n" % i + bytes((1 << 20) - 8))
    over = [
        {
            "name": "one", "hostname": "host-1", "cid": 5001, "macs": {"net0": "02:00:00:00:09:11"}, "taps": {"net0": "thaw-t1"},
            "ips": {"net0": "10.9.1.2/24,10.9.1.1"}, "disks": {"data": images[1]},
        },
        {
            "name": "two", "hostname": "host-2", "cid": 5002, "taps": {"net0": "thaw-t2"},
            "ips": {"net0": "fd00:9::2/64,fd00:9::1"}, "disks": {"data": images[2]},
        },
    ]
    for i in (1, 2):
        host("ip tuntap add thaw-t%d mode tap && ip addr add 10.9.%d.1/24 dev thaw-t%d && ip link set thaw-t%d up" % (i, i, i, i))
    try:
        with d.client(timeout=300) as c:
            origin = make_template(c, d, images[0])
            made = c.call("clone", {"template": "over", "count": 2, "overrides": over})
            assert not made["errors"], made
            one, two = [linuxtest.Guest(c, x["id"]) for x in made["clones"]]
            check_one(one)
            check_two(two)
            for i, g in enumerate((one, two), 1):
                assert g.sh("hostname").strip() == "host-%d" % i
                assert c.call("machine.show", {"id": g.id})["name"] == ("one", "two")[i - 1]
                # Each has its own image, and writes to neither.
                assert g.sh("head -n 1 /dev/vda") == "image %d\n" % i
                g.sh("echo changed > /dev/vda; sync")
                with open(images[i], "rb") as f:
                    assert f.read(8) == b"image %d\n" % i
                g.healthy()
            assert origin.sh("ip addr show eth0").count("10.9.0.2/24") == 1
            check_restore(c, d, origin, images[0])
            refusals(c, origin, images)
            origin.stop()
    finally:
        for i in (1, 2):
            host("ip link del thaw-t%d" % i)


def check_one(g):
    text = g.sh("ip addr show eth0")
    assert "02:00:00:00:09:11" in text and "inet 10.9.1.2/24" in text, text
    assert "10.9.0.2" not in text and "brd 10.9.1.255" in text, text
    routes = g.sh("ip route").splitlines()
    assert [r.split()[:3] for r in routes if "default" in r] == [["default", "via", "10.9.1.1"]], routes
    assert not [r for r in routes if "10.9.0." in r], routes
    reaches(g, "10.9.1.1")
    assert "02:00:00:00:09:11" in host("ip neigh show 10.9.1.2")


def check_two(g):
    text = g.sh("ip addr show eth0")
    mac = re.search("link/ether (\\S+)", text)[1]
    assert mac not in ("02:00:00:00:09:02", "02:00:00:00:09:11") and "inet6 fd00:9::2/64" in text, text
    assert "fd00:8::2" not in text and "10.9.0.2/24" in text, text
    routes = g.sh("ip -6 route")
    assert "default via fd00:9::1" in routes, routes


def check_restore(c, d, origin, image):
    path = os.path.join(d.dir, "over.thaw")
    c.call("machine.snapshot", {"id": origin.id, "path": path})
    p = {"snapshot": path, "ready": "agent", "timeout_ms": 60000, "disks": {"data": image}, "ips": {"net0": "10.9.7.7/16"}}
    g = linuxtest.Guest(c, c.call("machine.create", p)["id"])
    text = g.sh("ip addr show eth0")
    assert "inet 10.9.7.7/16" in text and "10.9.0.2" not in text and "02:00:00:00:09:02" in text, text
    g.stop()


def refusals(c, origin, images):
    def no(code, said, *overrides):
        text = c.fails(code, "clone", {"template": "over", "count": len(overrides), "overrides": list(overrides)})
        assert said in text, text

    for bad in ("10.9.1.2", "10.9.1.2/33", "10.9.1.2/", "10.9.1/24", "fd00::1/129", "10.9.1.2/24,", "10.9.1.2/24,fd00::1", "x/24", "10.9.1.2/0"):
        no("invalid", "ips", {"ips": {"net0": bad}})
    no("invalid", "no network interface", {"ips": {"net7": "10.9.1.2/24"}})
    no("invalid", "same ip", {"ips": {"net0": "10.9.1.2/24"}}, {"ips": {"net0": "10.9.1.2/16"}})
    no("invalid", "same mac", {"macs": {"net0": "02:00:00:00:00:01"}}, {"macs": {"net0": "02:00:00:00:00:01"}})
    no("invalid", "no disk", {"disks": {"disk9": images[1]}})
    no(("not_found", "invalid"), "thaw-none", {"taps": {"net0": "thaw-none"}})
    no("busy", "thaw-t1", {"taps": {"net0": "thaw-t1"}})
    # A gateway that cannot be reached, and a guest without the driver: the clone is not handed over.
    no("internal", "gateway", {"ips": {"net0": "10.9.1.2/24,10.77.0.1"}})
    c.call("template.remove", {"name": "over", "force": True})  # and the clones
    origin.sh("echo $(basename $(readlink /sys/class/net/eth0/device)) > /sys/bus/virtio/drivers/virtio_net/unbind")
    c.call("template.create", {"name": "over", "machine": origin.id, "disks": {"data": images[0]}})
    no("internal", "no network interface", {"ips": {"net0": "10.9.1.2/24"}})
    c.call("template.remove", {"name": "over", "force": True})


class Wire:
    """What guests send to a tap, from now on."""

    def __init__(self, tap):
        self.s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self.s.bind((tap, 0))
        self.s.setblocking(False)
        self.seen = []

    def senders(self):
        """Their addresses so far, each as often as it was seen."""
        try:
            while True:
                data, where = self.s.recvfrom(2048)
                if where[2] != socket.PACKET_OUTGOING:
                    self.seen.append(data[6:12].hex(":"))
        except BlockingIOError:
            return self.seen

    def only(self, mac):
        """Nobody but mac, who announces itself, has sent anything."""
        end = time.monotonic() + 20
        while mac not in self.senders():
            assert time.monotonic() < end, "%s is not heard: %s" % (mac, self.seen)
            time.sleep(0.1)
        assert set(self.seen) == {mac}, self.seen
        self.s.close()


def test_nobody_speaks_as_the_template(d):
    """The template's guest sends all the time, from an address that it has given
    to itself. Clones and restored machines do not, until they are themselves."""
    if os.geteuid():
        raise linuxtest.Skip("taps need root")
    own = "02:00:00:00:0a:77"
    macs = {"net0": "02:00:00:00:0a:02", "net1": "02:00:00:00:0a:03"}
    nets = [{"type": "net", "id": "net0", "mac": "02:00:00:00:0a:01", "tap": "thaw-s0"},
            {"type": "net", "id": "net1", "mac": "02:00:00:00:0a:02"}]
    for i in (0, 1):
        host("ip tuntap add thaw-s%d mode tap && ip link set thaw-s%d up" % (i, i))
    host("ip addr add 10.8.0.1/24 dev thaw-s0")
    try:
        with d.client(timeout=300) as c:
            g = linuxtest.start(c, "speaks", linuxtest.guest_config(KERNEL, devices=nets))
            g.sh("ip link set eth0 address %s; ip addr add 10.8.0.2/24 dev eth0; ip link set eth0 up" % own)
            reaches(g, "10.8.0.1")
            g.sh("(ping -i 0.01 10.8.0.1 >/dev/null 2>&1 </dev/null &)")
            wire = Wire("thaw-s0")
            time.sleep(1)
            assert wire.senders().count(own) > 20, wire.seen
            c.call("template.create", {"name": "speaks", "machine": g.id})
            snap = os.path.join(d.dir, "speaks.thaw")
            c.call("machine.snapshot", {"id": g.id, "path": snap})
            # One of its addresses will be a clone's.
            c.fails("busy", "clone", {"template": "speaks", "overrides": {"macs": macs}})
            g.stop()
            over = {"macs": macs, "taps": {"net0": "thaw-s1"}}
            for make in (lambda: c.call("clone", {"template": "speaks", "overrides": over})["clones"][0]["id"],
                         lambda: c.call("machine.create", dict(over, snapshot=snap, ready="agent"))["id"]):
                wire = Wire("thaw-s1")
                m = linuxtest.Guest(c, thawtest.wait_for(lambda: free(make), 30, 0.2))
                assert [m.sh("cat /sys/class/net/eth%d/address" % i).strip() for i in (0, 1)] == list(macs.values())
                wire.only(macs["net0"])
                m.healthy()
                m.stop()
            c.call("template.remove", {"name": "speaks", "force": True})
    finally:
        for i in (0, 1):
            host("ip link del thaw-s%d" % i)


def free(make):
    """Its tap is freed a moment after a machine was stopped."""
    try:
        return make()
    except thawtest.RpcError as e:
        if e.code != "busy":
            raise
    return None


def test_overlay_goes_on(d):
    """What was written to a private overlay is there after a restore, of a
    machine and of a clone, and the image stays as it was."""
    disk = linuxtest.disk_image(d)
    with open(disk, "rb") as f:
        before = f.read()
    config = linuxtest.guest_config(KERNEL)
    config["cmdline"] += " thaw.root=/dev/vda rw"
    config["devices"].append({"type": "block", "path": disk, "overlay": True})

    def write(g, n):
        g.sh("dd if=/dev/urandom of=/root/f%d bs=64k count=24 2>/dev/null && md5sum /root/f* > /root/sums && sync" % n)

    def check(g, n):
        g.sh("echo 3 > /proc/sys/vm/drop_caches; md5sum -c /root/sums > /dev/null; test $(ls /root | grep -c ^f) = %d" % n)
        g.healthy()

    def move(g, name, **more):
        """Snapshot, end, restore."""
        path = os.path.join(d.dir, name)
        open(path + ".disk0", "w").close()
        c.call("machine.snapshot", dict({"id": g.id, "path": path, "overlays": {"disk0": path + ".disk0"}}, **more))
        # Not of that moment, must not be there later.
        g.sh("dd if=/dev/zero of=/root/f1 bs=64k count=24 conv=notrunc,fsync 2>/dev/null; echo x > /root/f99; sync")
        g.stop()
        p = {"snapshot": path, "ready": "agent", "disks": {"disk0": disk}, "overlays": {"disk0": path + ".disk0"}}
        return linuxtest.Guest(c, c.call("machine.create", p)["id"])

    with d.client(timeout=300) as c:
        g = linuxtest.start(c, "over", config)
        write(g, 1)
        for i in (1, 2, 3):
            g = move(g, "over%d.thaw" % i, live=i == 2)
            check(g, i)
            write(g, i + 1)
            check(g, i + 1)
        g.stop()
        # A clone has its template's layer under its own.
        c.call("template.create", {"name": "layers", "config": config, "ready": "agent", "timeout_ms": 120000})
        g = linuxtest.Guest(c, c.call("clone", {"template": "layers"})["clones"][0]["id"])
        write(g, 1)
        g = move(g, "clone.thaw")
        check(g, 1)
        g.stop()
        c.call("template.remove", {"name": "layers", "force": True})
    with open(disk, "rb") as f:
        assert f.read() == before, "the image has changed"


if __name__ == "__main__":
    linuxtest.main(globals(), kernels=(KERNEL,))

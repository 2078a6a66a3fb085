#!/usr/bin/python3
# timeout: 400
"""Every virtio device with a stock Debian kernel's own driver: disks, network,
vsock, entropy and the console, before and after a snapshot and in clones.

Runs itself in the test machine (tests/vmhost), where KVM is hardware-style.
"""

import hashlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), d) for d in ("e2e", "vmhost")]
import thawtest
from linux_guest import Guest, make_initrd

WORK = "/tmp/linux-devices"
MIB = 1 << 20
CMDLINE = "console=ttyS0 quiet reboot=t panic=-1"
# A connection to the host's port 5000: what it sends comes back, then both ends
# are shut one after the other. And an echo server on port 6000.
DIAL = r"""
socket(S, 40, 1, 0) or die "socket $!";
connect(S, pack("S S L L x4", 40, 0, 5000, 2)) or die "connect $!";
my $n = 0; my $data = join("", map { chr($_ & 255) } 1 .. 65536);
my $pid = fork;
if (!$pid) { for (1 .. 16) { syswrite(S, $data) == 65536 or die "write $!" } shutdown(S, 1); exit 0 }
while (my $k = sysread(S, my $b, 65536)) { $n += $k }
waitpid($pid, 0); print "echoed $n\n";
"""
SERVE = r"""
socket(L, 40, 1, 0) or die; bind(L, pack("S S L L x4", 40, 0, 6000, 0xffffffff)) or die "bind $!";
listen(L, 64) or die; print "listens\n"; $SIG{CHLD} = "IGNORE"; $| = 1;
while (accept(C, L)) { if (!fork) { while (my $k = sysread(C, my $b, 65536)) { my $o = 0;
while ($o < $k) { $o += syswrite(C, $b, $k - $o, $o) } } exit 0 } close(C) }
"""
ZERO = r"""open(F, "+<", "/dev/vda") or die; my $r = pack("QQ", 1 << 20, 1 << 20); ioctl(F, 0x127f, $r) or die "zeroout $!";"""


def note(text):
    print("# " + text, flush=True)


def sh(line):
    subprocess.run(line, shell=True, check=True)


def image(name, size, random=True):
    path = os.path.join(WORK, name)
    with open(path, "wb") as f:
        f.write(os.urandom(size) if random else b"")
        f.truncate(size)
    return path


def digest(path, size=None):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read(size) if size else f.read()).hexdigest()


def tap(name, address):
    if not os.path.exists("/sys/class/net/" + name):
        sh("ip tuntap add %s mode tap && ip addr add %s/24 dev %s && ip link set %s up" % (name, address, name, name))


def config(*devices, cpus=1):
    return {"kernel": "/host/vmlinuz", "initrd": "/host/initrd", "memory": "160M", "cpus": cpus,
            "cmdline": CMDLINE, "devices": [{"type": "vsock"}, {"type": "rng"}] + list(devices)}


def start(c, params):
    r, w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(w, True)

    def create():
        try:
            return c.call("machine.create", dict(params, console={"fd": 0}), fds=[w])["id"]
        except thawtest.RpcError as e:
            # its tap is freed a moment after a machine was stopped
            if e.code == "busy":
                return None
            raise

    m = thawtest.wait_for(create, 30, 0.2)
    os.close(w)
    return Guest(c, m, r)


def quiet(g):
    """The guest's kernel complains of nothing."""
    bad = g.run("dmesg | grep -E 'WARNING|BUG:|I/O error|soft lockup|rcu.*stall|Call Trace|timed out'", None)
    assert not bad, bad


# ---- disks ----

def check_disk(g, host):
    """Written data is the host's after a flush, and is read back around the
    guest's cache."""
    note("disk")
    out = g.run("dd if=/dev/urandom of=/tmp/x bs=64k count=32 2>/dev/null; "
                "dd if=/tmp/x of=/dev/vda bs=64k conv=fsync 2>/dev/null && sha256sum < /tmp/x")
    want = out.split()[0]
    if host:
        assert digest(host, 2 * MIB) == want
    g.run("echo 3 > /proc/sys/vm/drop_caches")
    assert g.run("dd if=/dev/vda bs=64k count=32 iflag=direct 2>/dev/null | sha256sum").split()[0] == want


def check_disk_features(g, disk):
    note("disk features")
    assert g.run("cat /sys/block/vda/serial /sys/block/vdb/serial") == "disk0ABC-123"
    assert g.run("cat /sys/block/vda/ro /sys/block/vdb/ro").split() == ["0", "1"]
    assert g.run("cat /sys/block/vda/size") == str(8 * MIB // 512)
    assert g.run("cat /sys/block/vda/queue/write_cache") == "write back"
    g.run("echo 'write through' > /sys/block/vda/cache_type; dd if=/tmp/x of=/dev/vda bs=4k count=3 oflag=direct 2>/dev/null")
    assert g.run("cat /sys/block/vda/cache_type") == "write through"
    g.run("echo 'write back' > /sys/block/vda/cache_type")
    assert g.run("dd if=/tmp/x of=/dev/vdb bs=4k count=1 2>&1", None)
    before = os.stat(disk).st_blocks
    g.run("dd if=/dev/urandom of=/dev/vda bs=64k seek=64 count=32 conv=fsync 2>/dev/null")
    g.run("blkdiscard -o %d -l %d /dev/vda" % (4 * MIB, 2 * MIB))
    with open(disk, "rb") as f:
        f.seek(4 * MIB)
        assert f.read(2 * MIB) == bytes(2 * MIB), "discarded and not empty"
    assert os.stat(disk).st_blocks <= before
    g.run("perl /zero.pl")
    with open(disk, "rb") as f:
        f.seek(MIB)
        assert f.read(MIB) == bytes(MIB), "zeroed and not zero"
    # a driver that goes and comes: reset, negotiation, queues anew
    dev = g.run("basename $(readlink /sys/block/vda/device)")
    for _ in range(3):
        g.run("echo %s > /sys/bus/virtio/drivers/virtio_blk/unbind" % dev)
        g.run("echo %s > /sys/bus/virtio/drivers/virtio_blk/bind" % dev)
    check_disk(g, disk)


# ---- network ----

def check_net(g, mine, mac):
    note("net")
    assert mac in g.run("cat /sys/class/net/eth0/address")
    g.run("ping -c 2 -W 5 %s > /dev/null" % mine)
    data = os.urandom(3 * MIB)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((mine, 7000))
        s.listen()
        got = []

        def serve():
            conn, _ = s.accept()
            with conn:
                conn.sendall(data)
                conn.shutdown(socket.SHUT_WR)
            conn, _ = s.accept()
            with conn:
                h = hashlib.sha256()
                while True:
                    b = conn.recv(1 << 16)
                    if not b:
                        break
                    h.update(b)
                got.append(h.hexdigest())

        t = threading.Thread(target=serve, daemon=True)
        t.start()
        want = hashlib.sha256(data).hexdigest()
        assert g.run("nc %s 7000 > /tmp/net; sha256sum < /tmp/net" % mine).split()[0] == want
        g.run("nc %s 7000 < /tmp/net > /dev/null" % mine)
        t.join(30)
        assert got == [want], "what the guest sent did not arrive whole"


def check_net_driver(g):
    note("net driver")
    g.run("ip link set eth0 down; ip link set eth0 address 02:00:00:00:77:77; ip link set eth0 up")
    g.run("ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:05; ip link set eth0 up")
    g.run("rmmod virtio_net && insmod /m/virtio_net.ko")
    g.run("ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up")


# ---- vsock ----

def host_echo(path):
    """A host port's unix socket that gives back what it gets."""
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen()

    def serve():
        while True:
            try:
                conn, _ = s.accept()
            except OSError:
                return
            with conn:
                while True:
                    b = conn.recv(1 << 16)
                    if not b:
                        break
                    conn.sendall(b)

    threading.Thread(target=serve, daemon=True).start()
    return s


def to_guest(path, port):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    s.sendall(b"CONNECT %d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        b = s.recv(1)
        assert b, "refused: %r" % line
        line += b
    assert line.startswith(b"OK "), line
    return s


def echo(s, data):
    """Send all while what comes back is read; then the half-close."""
    back, at = bytearray(), 0
    s.setblocking(False)
    while len(back) < len(data):
        r, w, _ = select.select([s], [s] if at < len(data) else [], [], 60)
        assert r or w, "no progress after %d of %d" % (len(back), len(data))
        if w:
            at += s.send(data[at:at + 65536])
        if r:
            b = s.recv(1 << 16)
            assert b, "closed early"
            back += b
    assert bytes(back) == data
    s.setblocking(True)
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b""
    s.close()


def check_vsock(g, path):
    note("vsock")
    assert "echoed 1048576" in g.run("perl /dial.pl")
    echo(to_guest(path, 6000), os.urandom(MIB))
    many = [to_guest(path, 6000) for _ in range(24)]
    for i, s in enumerate(many):
        s.sendall(b"stream %d" % i)
    for i, s in enumerate(many):
        want, got = b"stream %d" % i, b""
        while len(got) < len(want):
            got += s.recv(100)
        assert got == want
        s.close()
    try:
        to_guest(path, 6001)
    except (AssertionError, OSError):
        return
    raise AssertionError("a port where nobody listens")


# ---- rng, console ----

def check_rng(g):
    note("rng")
    assert g.run("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    a, b = (g.run("dd if=/dev/hwrng bs=512 count=1 2>/dev/null | sha256sum") for _ in range(2))
    assert a != b


def check_console(g):
    """Much output loses nothing, and neither does a long line of input."""
    note("console")
    out = g.run("seq 1 3000 | tr '\\n' ' '; seq 3001 3100", seconds=120).split()
    assert out == [str(i) for i in range(1, 3101)], "%d numbers" % len(out)
    word = "x" * 3000
    assert g.run("echo %s | wc -c" % word) == "3001"


# ---- tests ----

def test_drivers_and_restore(d):
    disk = image("disk0", 8 * MIB)
    other = image("disk1", 4 * MIB)
    before = digest(other)
    path = d.dir + "/vsock"
    tap("tap0", "10.9.0.1")
    net = {"type": "net", "tap": "tap0", "mac": "02:00:00:00:00:05", "id": "lan"}
    with d.client(200) as c:
        g = start(c, {"vsock": path, "config": config(
            {"type": "block", "path": disk},
            {"type": "block", "path": other, "read_only": True, "serial": "ABC-123"}, net)}).boot()
        g.run("ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up")
        check_disk(g, disk)
        check_disk_features(g, disk)
        check_net(g, "10.9.0.1", "02:00:00:00:00:05")
        check_net_driver(g)
        check_net(g, "10.9.0.1", "02:00:00:00:00:05")
        server = host_echo(path + "_5000")
        g.run("perl /serve.pl > /tmp/serve 2>&1 & sleep 1; cat /tmp/serve")
        check_vsock(g, path)
        check_rng(g)
        check_console(g)
        quiet(g)
        # frozen with requests in flight
        g.run("(while true; do dd if=/dev/vda of=/dev/null bs=64k count=32 iflag=direct 2>/dev/null; "
              "dd if=/tmp/x of=/dev/vda bs=16k seek=256 oflag=direct 2>/dev/null; done) & echo $! > /tmp/load")
        snap = d.dir + "/linux.thaw"
        c.call("machine.snapshot", {"id": g.id, "path": snap})
        c.call("machine.stop", {"id": g.id})
        server.close()
        os.unlink(path + "_5000")
        g = start(c, {"snapshot": snap, "vsock": path, "disks": {"disk0": disk, "disk1": other},
                      "taps": {"lan": "tap0"}})
        g.run("true")
        g.run("kill $(cat /tmp/load); sleep 0.2")
        check_disk(g, disk)
        check_net(g, "10.9.0.1", "02:00:00:00:00:05")
        server = host_echo(path + "_5000")
        check_vsock(g, path)
        check_rng(g)
        quiet(g)
        c.call("machine.stop", {"id": g.id})
        server.close()
    assert digest(other) == before


def test_clones_with_disks_of_their_own(d):
    disk = image("base", 8 * MIB)
    before = digest(disk)
    for i in range(2):
        tap("tap%d" % (i + 1), "10.9.%d.1" % (i + 1))
    with d.client(200) as c:
        c.call("template.create", {"name": "linux", "timeout_ms": 200000, "ready": "agent", "config": config(
            {"type": "block", "path": disk, "id": "root", "queues": 2}, {"type": "net", "id": "lan"})})
        assert digest(disk) == before, "the builder wrote to the image"
        over = [{"taps": {"lan": "tap%d" % (i + 1)}, "macs": {"lan": "02:00:00:00:01:%02x" % i}} for i in range(2)]
        ids = [m["id"] for m in c.call("clone", {"template": "linux", "count": 2, "overrides": over})["clones"]]
        seen = []
        for i, m in enumerate(ids):
            g = Shell(c, m)
            # what the builder wrote, from the frozen layer
            assert g.run("dd if=/dev/vda bs=512 count=1 skip=40 iflag=direct 2>/dev/null | head -c 14") == "builder's mark"
            check_disk(g, None)
            seen.append(g.run("sha256sum < /dev/vda"))
            g.run("ip link set eth0 down; ip link set eth0 address 02:00:00:00:01:%02x; "
                  "ip addr add 10.9.%d.2/24 dev eth0; ip link set eth0 up" % (i, i + 1))
            check_net(g, "10.9.%d.1" % (i + 1), "02:00:00:00:01:%02x" % i)
            check_rng(g)
            quiet(g)
        assert seen[0] != seen[1]
        for m, want in zip(ids, seen):
            g = Shell(c, m)
            g.run("echo 3 > /proc/sys/vm/drop_caches")
            assert g.run("sha256sum < /dev/vda") == want, "clones' writes meet"
        c.call("template.remove", {"name": "linux", "force": True})
    assert digest(disk) == before, "a clone wrote to the image"


class Shell:
    """As Guest, where the console is kept by the daemon: machine.logs."""

    def __init__(self, c, m):
        self.c, self.id, self.n = c, m, 0

    def run(self, line, rc=0, seconds=60):
        self.n += 1
        mark = "mark-%s-%d" % (os.urandom(4).hex(), self.n)
        self.c.call("machine.input", {"id": self.id, "data": ("echo %s; %s\n" % (mark, line)).encode()})

        def done():
            text = self.c.call("machine.logs", {"id": self.id})
            text = text["data"] if isinstance(text, dict) and "data" in text else str(text)
            text = text.decode(errors="replace") if isinstance(text, bytes) else text
            return re.search(re.escape(mark) + r"\r?\n(.*?)=rc (\d+)=", text, re.S)

        found = thawtest.wait_for(done, seconds)
        out = found[1].replace("\r", "").strip("\n")
        assert rc is None or int(found[2]) == rc, "%s: rc %s\n%s" % (line, found[2], out)
        return out


# ---- outside ----

def outside():
    import kernel_cache
    import vmhost

    try:
        kernel = kernel_cache.get(os.environ.get("THAW_TEST_KERNEL", "6.1-cloud"))
    except Exception as e:
        print("1..0 # SKIP no kernel: %s" % e)
        return 77
    with tempfile.TemporaryDirectory() as tmp:
        initrd = os.path.join(tmp, "initrd")
        agent = thawtest.program("thaw-agent")
        make_initrd(initrd, kernel, ["perl"], [
            ("dial.pl", DIAL.encode()), ("serve.pl", SERVE.encode()), ("zero.pl", ZERO.encode()),
            ("agent", open(agent, "rb").read()),
            ("start", b"printf \"builder's mark\" | dd of=/dev/vda bs=512 seek=40 conv=sync,fsync 2>/dev/null\n"
                      b"/agent > /dev/null 2>&1 &\ndmesg -c > /dev/null\n")])
        with vmhost.Machine(files=[initrd, kernel.vmlinuz]) as vm:
            done = vm.run(["/usr/bin/python3", "-B", vmhost.inside(__file__)] + sys.argv[1:], timeout=380, to=(sys.stdout.buffer, sys.stderr.buffer))
    return done.rc


if os.environ.get("THAW_TEST_MACHINE"):
    os.makedirs(WORK, exist_ok=True)
    thawtest.main(globals())
else:
    sys.exit(outside())

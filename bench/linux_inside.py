#!/usr/bin/python3
"""The measurements of linux.py, in the machine whose KVM is used.

Prints one JSON object: the samples, in seconds or KiB, and the host they are of.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
sys.path[:0] = [os.path.join(TOP, "tests", d) for d in ("linux", "e2e", "vmhost")]

import kernel_cache  # noqa: E402
import linuxtest  # noqa: E402
import thawtest  # noqa: E402
from thawtest import msgpack  # noqa: E402

MEM = 256  # MiB
CID = 77
PORT = 1024  # the agent's
MARK = b"init is up"
CMDLINE = linuxtest.CMDLINE + " console=ttyS0"


class Bad(Exception):
    """A machine did not answer, or not right."""


# ---- what both have in common ----


def ping(sock, deadline):
    """One ping of the agent on a connected socket."""
    sock.settimeout(max(0.01, deadline - time.monotonic()))
    sock.sendall(msgpack.packb([0, 1, "ping", [{}]]))
    up = msgpack.Unpacker(raw=False, strict_map_key=False)
    while True:
        data = sock.recv(65536)
        if not data:
            raise OSError("the agent hung up")
        up.feed(data)
        for answer in up:
            if answer[:3] != [1, 1, None]:
                raise Bad("ping: %r" % (answer,))
            return


def read_until(pipe, mark, seconds, who):
    """Bytes of a pipe until the mark is among them."""
    got, end = b"", time.monotonic() + seconds
    os.set_blocking(pipe.fileno(), False)
    while mark not in got:
        data = pipe.read(65536)
        if data == b"":
            raise Bad("%s ended before its guest's init ran: %r" % (who, got[-500:]))
        if data is None:
            if time.monotonic() > end:
                raise Bad("%s: nothing of its guest's init: %r" % (who, got[-500:]))
            time.sleep(0.0005)
            continue
        got += data


def end(process):
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def available():
    """MemAvailable in KiB, when it has come to rest."""
    last = None
    for _ in range(40):
        with open("/proc/meminfo") as f:
            now = int(next(x for x in f if x.startswith("MemAvailable")).split()[1])
        if last is not None and abs(now - last) < 64:
            return now
        last = now
        time.sleep(0.25)
    return last


def resident(pid, at_least):
    """KiB of a process in mappings that are the guest's memory by their size."""
    total = 0
    with open("/proc/%d/smaps" % pid) as f:
        for line in f:
            key, _, rest = line.partition(":")
            if key == "Size":
                counts = int(rest.split()[0]) >= at_least
            elif key == "Rss" and counts:
                total += int(rest.split()[0])
    return total


# ---- QEMU ----


def microvm(guest, *more):
    """QEMU's machine for this purpose, with all it does not need left out."""
    cmd = ["qemu-system-x86_64", "-M", "microvm,acpi=on", "-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", "%dM" % MEM]
    cmd += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-global", "virtio-mmio.force-legacy=false"]
    cmd += ["-kernel", guest["kernel"], "-initrd", guest["initrd"], "-append", guest["cmdline"]]
    return subprocess.Popen(cmd + list(more), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Agent:
    """QEMU with a guest whose agent is reached over vsock."""

    def __init__(self, guest, *more):
        self.p = microvm(guest, "-monitor", "stdio", "-serial", "null", "-device", "vhost-vsock-device,guest-cid=%d" % CID, *more)

    def answer(self, seconds):
        """Wait for the agent's answer."""
        deadline = time.monotonic() + seconds
        while True:
            if self.p.poll() is not None:
                raise Bad("QEMU ended: %r" % self.p.stdout.read()[-800:])
            s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            try:
                s.settimeout(2)
                s.connect((CID, PORT))
                ping(s, deadline)
                return
            except OSError as e:
                if time.monotonic() > deadline:
                    raise Bad("no answer from the guest in QEMU: %s" % e)
                time.sleep(0.001)
            finally:
                s.close()

    def monitor(self, line):
        self.p.stdin.write(line.encode() + b"\n")
        self.p.stdin.flush()

    def save(self, path):
        self.monitor("migrate_set_parameter max-bandwidth 100G")
        self.monitor("migrate \"exec:cat >%s\"" % path)
        self.monitor("quit")
        if self.p.wait(120):
            raise Bad("QEMU could not save: %r" % self.p.stdout.read()[-800:])

    def close(self):
        end(self.p)


# ---- the measurements, in the machine whose KVM is used ----


def boot_qemu(g):
    p = microvm(g, "-serial", "stdio")
    try:
        read_until(p.stdout, MARK, 120, "QEMU")
        return p
    except BaseException:
        end(p)
        raise


def start_qemu(g):
    t = time.monotonic()
    p = boot_qemu(g)
    t = time.monotonic() - t
    end(p)
    return t


def start_thaw(g):
    cmd = [thawtest.program("thaw"), "run", "--kernel", g["kernel"], "--initrd", g["initrd"], "--cmdline", g["cmdline"]]
    cmd += ["--mem", "%dM" % MEM]
    t = time.monotonic()
    p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        read_until(p.stdout, MARK, 120, "thaw run")
        return time.monotonic() - t
    finally:
        p.stdin.close()
        p.terminate()
        p.wait(30)
        p.stdout.close()


def thaw_config(g):
    return {"memory": "%dM" % MEM, "cpus": 1, "kernel": g["kernel"], "initrd": g["initrd"], "cmdline": g["cmdline"],
            "devices": [{"type": "vsock"}]}


def thaw_connect(c, ident):
    """A socket to the agent of a machine."""
    ours, theirs = socket.socketpair()
    with theirs:
        c.call("machine.connect", {"id": ident, "socket": {"fd": 0}}, fds=[theirs.fileno()])
    ours.settimeout(60)
    ours.sendall(b"CONNECT %d\n" % PORT)
    said = b""
    while not said.endswith(b"\n"):
        got = ours.recv(1)
        if not got:
            raise Bad("the machine's vsock hung up")
        said += got
    if not said.startswith(b"OK "):
        raise Bad("vsock: %r" % said)
    return ours


def thaw_ping(c, ident):
    with thaw_connect(c, ident) as s:
        ping(s, time.monotonic() + 60)


def restore_qemu(g, path):
    t = time.monotonic()
    q = Agent(g, "-incoming", "exec:cat " + path)
    try:
        q.answer(120)
        return time.monotonic() - t
    finally:
        q.close()


def restore_thaw(c, path, lazy):
    t = time.monotonic()
    ident = c.call("machine.create", {"snapshot": path, "lazy": lazy, "ready": "agent", "timeout_ms": 60000})["id"]
    thaw_ping(c, ident)
    t = time.monotonic() - t
    c.call("machine.stop", {"id": ident})
    return t


def clone_thaw(c):
    t = time.monotonic()
    ident = c.call("clone", {"template": "t", "count": 1, "mode": "fresh"})["clones"][0]["id"]
    thaw_ping(c, ident)
    t = time.monotonic() - t
    c.call("machine.stop", {"id": ident})
    return t


def overhead_thaw(c, g, n):
    """KiB of a machine beyond its guest's pages."""
    ids = [c.call("machine.create", {"config": thaw_config(g), "ready": "agent", "timeout_ms": 120000})["id"]]
    before = available()
    guest = 0
    for _ in range(n):
        ids.append(c.call("machine.create", {"config": thaw_config(g), "ready": "agent", "timeout_ms": 120000})["id"])
    taken = before - available()
    for i in ids[1:]:
        guest += resident(c.call("machine.show", {"id": i})["pids"]["machine"], 64 << 10)
        thaw_ping(c, i)
    for i in ids:
        c.call("machine.stop", {"id": i})
    return (taken - guest) / n


def overhead_qemu(g, n):
    """The same for QEMU; only one can have the vsock, so it is seen by the console."""
    first = boot_qemu(g)
    before = available()
    rest = [boot_qemu(g) for _ in range(n)]
    taken = before - available()
    guest = sum(resident(p.pid, 64 << 10) for p in rest)
    for p in rest + [first]:
        end(p)
    return (taken - guest) / n


def host():
    with open("/proc/cpuinfo") as f:
        cpu = next((x.split(":")[1].strip() for x in f if x.startswith("model name")), "?")
    return {"kernel": os.uname().release, "cpu": cpu, "cpus": os.cpu_count(),
            "memory_total": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")}


def inside(n):
    """All of it; prints the results as lists of samples."""
    top = os.environ["THAW_LINUX_GUESTS"]
    kernel = kernel_cache.get(os.environ["BENCH_KERNEL"]).vmlinux
    g = {"kernel": kernel, "initrd": os.path.join(top, "bench.initrd"), "cmdline": CMDLINE}
    agent = {"kernel": kernel, "initrd": os.path.join(top, os.environ["BENCH_KERNEL"] + ".initrd"), "cmdline": CMDLINE}
    out = {k: [] for k in ("start_thaw", "start_qemu", "restore_thaw", "restore_thaw_lazy", "restore_qemu", "clone_thaw", "overhead_thaw", "overhead_qemu")}
    work = tempfile.mkdtemp(prefix="bench-linux-")

    def add(name, fn, *args):
        t = fn(*args)
        out[name].append(t)
        print("%s %.4g" % (name, t), file=sys.stderr, flush=True)

    d = thawtest.Daemon()
    try:
        for _ in range(n):
            add("start_thaw", start_thaw, g)
            add("start_qemu", start_qemu, g)
        q = Agent(agent)
        q.answer(120)
        q.save(work + "/qemu")
        with d.client(timeout=180) as c:
            r = c.call("machine.create", {"config": thaw_config(agent), "name": "m", "ready": "agent", "timeout_ms": 120000})
            c.call("machine.snapshot", {"id": r["id"], "path": work + "/thaw"})
            c.call("machine.stop", {"id": r["id"]})
            c.call("template.create", {"name": "t", "snapshot": work + "/thaw", "timeout_ms": 120000})
            for _ in range(2 * n):
                add("restore_thaw", restore_thaw, c, work + "/thaw", False)
                add("restore_thaw_lazy", restore_thaw, c, work + "/thaw", True)
                add("clone_thaw", clone_thaw, c)
                add("restore_qemu", restore_qemu, agent, work + "/qemu")
            c.call("template.remove", {"name": "t"})
            for _ in range(n):
                add("overhead_thaw", overhead_thaw, c, agent, 4)
                add("overhead_qemu", overhead_qemu, g, 4)
    finally:
        d.close()
        shutil.rmtree(work, ignore_errors=True)
    json.dump({"samples": out, "host": host()}, sys.stdout)


if __name__ == "__main__":
    inside(int(sys.argv[1]))

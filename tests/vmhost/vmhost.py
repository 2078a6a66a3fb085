#!/usr/bin/python3
"""The test machine: a Linux with hardware-style KVM on any host.

    tests/vmhost/run [--file PATH]... [--cpus N] [--mem SIZE] [--timeout S]
                     [--env NAME=VALUE]... -- CMD ARGS

runs CMD in it and returns its output and exit code: 124 when it took too long
(--timeout, 600 s), 125 when the machine itself failed. In Python, one boot
serves several commands:

    with vmhost.Machine(files=[kernel]) as vm:
        done = vm.run(["thaw", "doctor"])       # .rc .out .err

How it works. QEMU emulates (TCG) an AMD processor with SVM and nested paging;
in it runs a stock Debian kernel (kernel_cache.py) with kvm-amd. Booting takes
seconds, so it is done once: the machine is saved with its memory in a file, and
every run maps that file privately and goes on from there, any number at once.
Keyed by all it was made of, in the cache directory. How fast the time-stamp
counter runs is told to its kernel: on a busy host it would measure nonsense, and
keep that.

One processor is the default for a reason. Linux patches its own code while it
runs (static keys, for instance whenever a guest turns its APIC on), and of
several processors that QEMU 7.2 runs as threads one may miss that and go on with
the old code: the kernel then stops at a breakpoint that is no more, in the
machine or in a guest. On one, threads of all vCPUs take turns.

Inside, / is the host's own file system (9p, read only, with a tmpfs over it), so
that all programs of the host are there under their names. /tmp, /var/tmp and
/run are empty and /.hostfs is the host's / as it is. Files given with --file are
in /host/ under their base names, links to the read-only originals. Our
executables are first in PATH. Nothing written inside reaches the host.
"""

import argparse
import base64
import ctypes
import glob
import hashlib
import io
import json
import mmap
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import kernel_cache

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
KERNEL = "6.1"  # the generic one: it has 9p
CPU = "EPYC,+svm,+npt"
CMDLINE = "console=ttyS0 panic=-1 mitigations=off nokaslr quiet tsc=reliable no_timer_check apparmor=0 audit=0"
MODULES = "kvm_amd virtio_pci virtio_console virtio_blk virtio_rng 9p 9pnet_virtio overlay tun bridge veth loop ext4 vsock vhost_vsock"
# What has a file system of its own inside, so that a file of the host which lies
# there is found below /.hostfs only.
HIDDEN = ("/tmp", "/var/tmp", "/run", "/dev", "/proc", "/sys")
KEEP = 4 * 24 * 3600  # seconds that an unused saved machine stays in the cache


class Failed(Exception):
    """The machine, not the command in it, failed."""


class Timeout(Failed):
    """The command took too long; the machine is gone."""


def inside(path):
    """Name inside the machine of a path of the host."""
    path = os.path.realpath(path)
    if any(path == h or path.startswith(h + "/") for h in HIDDEN):
        return "/.hostfs" + path
    return path


def build_dir():
    for d in (os.environ.get("THAW_BUILD"), os.path.join(TOP, os.environ.get("BUILD", "build"))):
        if d and os.path.isdir(d):
            return os.path.abspath(d)
    return None


def program(name, package):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")
    if not found:
        raise Failed("%s is missing (package %s)" % (name, package))
    return found


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Qemu:
    """A QEMU process, its control channels and its end."""

    def __init__(self, state, cpus, mem, extra):
        ours, theirs = {}, {}
        for name in ("mon", "ctl", "out", "err"):
            ours[name], theirs[name] = socket.socketpair()
        self.ours = ours
        self.mon_file = ours["mon"].makefile("r")
        self.log = tempfile.TemporaryFile()
        cmd = [program("qemu-system-x86_64", "qemu-system-x86"), "-M", "q35,memory-backend=ram"]
        cmd += ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", CPU, "-smp", str(cpus), "-m", "%dM" % mem]
        cmd += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        cmd += ["-serial", "stdio", "-mon", "chardev=mon,mode=control", "-device", "virtio-serial-pci"]
        for name, s in theirs.items():
            cmd += ["-chardev", "socket,id=%s,fd=%d" % (name, s.fileno())]
        for name in ("ctl", "out", "err"):
            cmd += ["-device", "virtserialport,chardev=%s,name=%s" % (name, name)]
        cmd += ["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]
        cmd += ["-device", "virtio-9p-pci,fsdev=host,mount_tag=host", "-object", "rng-random,id=rng,filename=/dev/urandom"]
        cmd += ["-device", "virtio-rng-pci,rng=rng"] + extra
        self.process = subprocess.Popen(
            cmd,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            pass_fds=[s.fileno() for s in theirs.values()],
            preexec_fn=die_with_parent,
            start_new_session=True,  # a Ctrl-C is for us; we then end it
        )
        for s in theirs.values():
            s.close()
        self.qmp("qmp_capabilities")
        # Memory is a file of its own and not part of the state.
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})

    def qmp(self, command, **arguments):
        try:
            self.ours["mon"].sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        except OSError:
            pass  # what it said is still to be read
        while True:
            try:
                line = self.mon_file.readline()
            except OSError:
                line = ""
            if not line:
                self.process.wait()
                raise Failed("QEMU ended: " + self.words())
            answer = json.loads(line)
            if "error" in answer:
                raise Failed("QEMU: %s: %s" % (command, answer["error"].get("desc")))
            if "return" in answer:
                return answer["return"]

    def words(self):
        """The end of what it and its console said."""
        self.log.seek(0, io.SEEK_SET)
        return self.log.read().decode("utf8", "replace")[-2000:].strip()

    def registers(self):
        """Where its processors are and what they wait for, of a machine that hangs."""
        text = ""
        for command in ("info cpus", "info registers -a", "info lapic"):
            text += self.qmp("human-monitor-command", **{"command-line": command}).replace("\r", "")
        return "\n".join(x for x in text.splitlines() if not x.startswith(("FPR", "XMM", "YMM")))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.mon_file.close()
        for s in self.ours.values():
            s.close()
        self.log.close()


def cpio_entry(name, mode, data, number, rdev=(0, 0)):
    """One entry of an initrd (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def write_initrd(path, files, devices=()):
    """An uncompressed initrd of {name: (mode, bytes)}, without compressing: the
    host is fast, the machine is not."""
    entries, made = [], set()

    def add(name, mode, data, rdev=(0, 0)):
        parts = name.split("/")
        for i in range(1, len(parts)):
            d = "/".join(parts[:i])
            if d not in made:
                made.add(d)
                entries.append(cpio_entry(d, 0o40755, b"", len(entries) + 1))
        entries.append(cpio_entry(name, mode, data, len(entries) + 1, rdev))

    add("dev/console", 0o20600, b"", (5, 1))
    for name, (mode, data) in files.items():
        add(name, 0o100000 | mode, data)
    entries.append(cpio_entry("TRAILER!!!", 0, b"", 0))
    with open(path, "wb") as f:
        f.write(b"".join(entries))


def read(path):
    with open(path, "rb") as f:
        return f.read()


def prepare(directory, kernel, cpus, mem, khz):
    """Boot the machine once and save it: ram (its memory) and state."""
    files = {"init": (0o755, read(os.path.join(HERE, "outer-init")))}
    files["bin/busybox"] = (0o755, read(program("busybox", "busybox-static")))
    order = kernel.load_order(MODULES.split())
    files["mod/order"] = (0o644, "".join(n + "\n" for n, _ in order).encode())
    for name, data in order:
        files["mod/%s.ko" % name] = (0o644, data)
    initrd = os.path.join(directory, "initrd")
    ram = os.path.join(directory, "ram")
    write_initrd(initrd, files)
    with open(ram, "wb") as f:
        f.truncate(mem << 20)
    q = Qemu(
        directory,
        cpus,
        mem,
        ["-object", "memory-backend-file,id=ram,size=%dM,mem-path=%s,share=on" % (mem, ram)]
        + ["-kernel", kernel.vmlinuz, "-initrd", initrd, "-append", "%s tsc_early_khz=%d" % (CMDLINE, khz)],
    )
    try:
        q.ours["ctl"].settimeout(240)
        try:
            said = q.ours["ctl"].recv(64)
        except socket.timeout:
            said = b""
        if not said.startswith(b"READY"):
            raise Failed("the test machine did not boot:\n" + q.words())
        time.sleep(0.3)  # let the kernel become idle
        q.qmp("stop")
        q.qmp("migrate", uri="exec:cat >" + shlex.quote(os.path.join(directory, "state")))
        while True:
            status = q.qmp("query-migrate").get("status")
            if status == "completed":
                break
            if status == "failed":
                raise Failed("QEMU could not save the machine: " + q.words())
            time.sleep(0.02)
    finally:
        q.close()
    os.unlink(initrd)


def tsc_khz():
    """The speed of the host's time-stamp counter, which is the machine's too."""
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(bytes.fromhex("0f31 48c1e220 4809d0 c3"))  # rdtsc; rax |= rdx << 32; ret
        where = ctypes.c_char.from_buffer(code)
        rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(where))

        def now():
            """Both clocks at one moment: of several tries the quickest."""
            tries = [(time.monotonic_ns(), rdtsc(), time.monotonic_ns()) for _ in range(10)]
            return min(tries, key=lambda t: t[2] - t[0])

        start = now()
        time.sleep(0.1)
        end = now()
        del where
    return (end[1] - start[1]) * 1000000 // (end[0] - start[0])


def saved(cpus, mem):
    """Directory of the saved machine of this size, made when it is not there."""
    kernel = kernel_cache.get(KERNEL)
    version = subprocess.run([program("qemu-system-x86_64", "qemu-system-x86"), "--version"], capture_output=True).stdout
    busybox = program("busybox", "busybox-static")
    h = hashlib.sha256()
    for part in (version, kernel.package.encode(), read(__file__), read(os.path.join(HERE, "outer-init"))):
        h.update(hashlib.sha256(part).digest())
    khz = tsc_khz()
    h.update(("%d %d %d %r %.2g" % (cpus, mem, os.stat(busybox).st_mtime_ns, KERNEL, khz)).encode())
    top = os.path.join(kernel_cache.cache_dir(), "machines")
    final = os.path.join(top, "%dcpu-%dM-%s" % (cpus, mem, h.hexdigest()[:16]))
    os.makedirs(top, exist_ok=True)
    with kernel_cache.locked("machines"):
        if not os.path.isdir(final):
            for old in glob.glob(os.path.join(top, "*")):
                if time.time() - os.stat(old).st_mtime > KEEP:
                    shutil.rmtree(old, ignore_errors=True)
            tmp = tempfile.mkdtemp(dir=top, prefix=".new-")
            try:
                prepare(tmp, kernel, cpus, mem, khz)
                os.rename(tmp, final)
            except BaseException:
                shutil.rmtree(tmp, ignore_errors=True)
                raise
        os.utime(final)
    return final


class Done:
    """What a command left: rc, out, err (bytes)."""

    def __init__(self, rc, out, err):
        self.rc, self.out, self.err = rc, out, err

    def __repr__(self):
        return "Done(rc=%d, out=%r, err=%r)" % (self.rc, self.out[-2000:], self.err[-2000:])


# After the state was loaded: the time and the host's files.
SETUP = """
date -u -s @%(now)d >/dev/null
head -c 64 /dev/hwrng >/dev/urandom
mkdir -p /n/host /n/up /n/root
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288,cache=loose host /n/host || echo 9p
mount -t tmpfs -o size=90%%,mode=755 up /n/up
mkdir /n/up/u /n/up/w
mount -t overlay -o lowerdir=/n/host,upperdir=/n/up/u,workdir=/n/up/w root /n/root || echo overlay
cd /n/root
for d in .hostfs host proc sys dev tmp var/tmp run root; do [ -d $d ] || mkdir -p $d; done
mount --bind /n/host .hostfs
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts -o ptmxmode=666 pts dev/pts
for d in tmp var/tmp dev/shm; do mount -t tmpfs -o mode=1777 t $d; done
mount -t tmpfs -o mode=755 t run
mkdir run/lock
mount -t cgroup2 cgroup sys/fs/cgroup
ln -snf /proc/self/fd dev/fd
ln -snf /proc/self/fd/0 dev/stdin
ln -snf /proc/self/fd/1 dev/stdout
ln -snf /proc/self/fd/2 dev/stderr
%(links)s
mkfifo /tmp/o /tmp/e
"""

# One command. What it leaves running may hold its pipes: they get a moment.
COMMAND = """
cat /tmp/o >&4 3>&- & co=$!
cat /tmp/e >&5 3>&- & ce=$!
chroot /n/root /usr/bin/env -i %(env)s /bin/sh -c %(cmd)s </dev/null >/tmp/o 2>/tmp/e 3>&- 4>&- 5>&-
rc=$?
i=0
while [ -e /proc/$co/exe ] || [ -e /proc/$ce/exe ]; do
	i=$((i + 1))
	if [ $i -gt 20 ]; then kill $co $ce; break; fi
	sleep 0.05
done
wait
printf '%%s %%d\\n' %(mark)s $rc >&4
printf '%%s %%d\\n' %(mark)s $rc >&5
"""


class Machine:
    """A running test machine; a context manager. files: what appears in /host."""

    def __init__(self, cpus=1, mem=2048, files=(), timeout=600):
        self.timeout = timeout
        self.qemu = None
        links = ""
        for f in files:
            if not os.path.exists(f):
                raise Failed("no such file: " + f)
            links += "ln -s %s host/%s\n" % (shlex.quote("/.hostfs" + os.path.realpath(f)), shlex.quote(os.path.basename(f)))
        d = saved(cpus, mem)
        ram = "memory-backend-file,id=ram,size=%dM,mem-path=%s,share=off" % (mem, os.path.join(d, "ram"))
        self.qemu = Qemu(d, cpus, mem, ["-object", ram, "-incoming", "defer"])
        try:
            self.qemu.qmp("migrate-incoming", uri="exec:cat " + shlex.quote(os.path.join(d, "state")))
            # A saved machine starts in the state it had: stopped.
            while self.qemu.qmp("query-status")["status"] == "inmigrate":
                time.sleep(0.01)
            self.qemu.qmp("cont")
            self._script(SETUP % {"now": int(time.time() + 0.5), "links": links})
            done = self.run(["true"], timeout=60)
            if done.rc:
                raise Failed("the host's files cannot be reached inside: %r\n%s" % (done, self.qemu.words()))
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.qemu:
            self.qemu.close()
            self.qemu = None

    def console(self):
        """What the machine's kernel and QEMU said."""
        return self.qemu.words()

    def _script(self, text):
        self.qemu.ours["ctl"].sendall(base64.b64encode(text.encode()) + b"\n")

    def run(self, cmd, env=None, cwd=None, timeout=None, to=(None, None)):
        """Run cmd (a list, or a line for sh) there. `to` gets stdout and stderr as
        they come (binary files) beside what Done holds."""
        line = cmd if isinstance(cmd, str) else " ".join(shlex.quote(c) for c in cmd)
        build = build_dir()
        vars = {"HOME": "/tmp", "USER": "root", "LANG": "C.UTF-8", "THAW_TEST_MACHINE": "1"}
        vars["PATH"] = (inside(build) + ":" if build else "") + "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        if build:
            vars["THAW_BUILD"] = inside(build)
        vars.update(env or {})
        mark = "mark-" + os.urandom(12).hex()
        go = "cd %s && %s" % (shlex.quote(inside(cwd) if cwd else "/tmp"), line)
        words = " ".join(shlex.quote("%s=%s" % kv) for kv in vars.items())
        self._script(COMMAND % {"env": words, "cmd": shlex.quote(go), "mark": mark})
        return self._collect(mark.encode(), time.monotonic() + (timeout or self.timeout), to)

    def _collect(self, mark, deadline, to):
        socks = {self.qemu.ours["out"]: 0, self.qemu.ours["err"]: 1}
        got, passed, rc = [b"", b""], [0, 0], None
        end = re.compile(re.escape(mark) + rb" (\d+)\n")
        while socks:
            ready = select.select(list(socks), [], [], max(0, deadline - time.monotonic()))[0]
            if not ready:
                said = self.qemu.words() + "\n" + self.qemu.registers()
                self.close()
                raise Timeout("no end of the command in time; the machine's console and processors:\n" + said)
            for s in ready:
                i = socks[s]
                data = s.recv(1 << 16)
                if not data:
                    raise Failed("the machine ended: " + self.qemu.words())
                got[i] += data
                m = end.search(got[i], max(0, passed[i] - 64))
                if m:
                    got[i], rc = got[i][: m.start()], int(m[1])
                    del socks[s]
                # What might be the beginning of the mark waits for its rest.
                ready_to = len(got[i]) if m else max(passed[i], len(got[i]) - len(mark) - 8, got[i].rfind(b"\n") + 1)
                if to[i] and ready_to > passed[i]:
                    to[i].write(got[i][passed[i] : ready_to])
                    to[i].flush()
                passed[i] = max(passed[i], ready_to)
        return Done(rc, got[0], got[1])


def size_mib(text):
    m = re.fullmatch(r"(\d+)([MG]?)", text.upper())
    if not m:
        raise argparse.ArgumentTypeError("a size is a number with M or G")
    return int(m[1]) * (1024 if m[2] == "G" else 1)


def main():
    usage = argparse.ArgumentParser(prog="tests/vmhost/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usage.add_argument("--file", action="append", default=[], metavar="PATH", help="make PATH appear in /host/")
    usage.add_argument("--cpus", type=int, default=1, help="processors, default 1; see above")
    usage.add_argument("--mem", type=size_mib, default=2048, metavar="SIZE", help="memory, such as 2G")
    usage.add_argument("--timeout", type=float, default=600, metavar="S", help="for the command, in seconds")
    usage.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="environment of the command")
    usage.add_argument("cmd", nargs="+", metavar="CMD", help="after --")
    a = usage.parse_args()

    def ended(number, _):
        sys.exit(128 + number)

    for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(s, ended)
    env = dict(e.split("=", 1) if "=" in e else (e, "") for e in a.env)
    try:
        with Machine(a.cpus, a.mem, a.file, a.timeout) as vm:
            done = vm.run(a.cmd, env, os.getcwd(), to=(sys.stdout.buffer, sys.stderr.buffer))
    except Timeout as e:
        print("vmhost: %s" % e, file=sys.stderr)
        return 124
    except (Failed, kernel_cache.Missing, OSError) as e:
        print("vmhost: %s" % e, file=sys.stderr)
        return 125
    return done.rc


if __name__ == "__main__":
    sys.exit(main())

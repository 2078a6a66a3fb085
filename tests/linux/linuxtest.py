"""What the tests with stock Linux guests share.

A test file in tests/linux defines functions test_* that take a Daemon, like
those in tests/e2e, and ends with linuxtest.main(globals()). It runs where KVM
runs any guest: on this host if its KVM is hardware's, else in the test machine
(tests/vmhost), for which main() starts itself again inside.

The guest is busybox with thaw-agent as init and a handler that runs shell
lines, as an initrd or as a disk, made by "thaw image build" for each kernel.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(TOP, "tests", "e2e"), os.path.join(TOP, "tests", "vmhost")]

import kernel_cache  # noqa: E402
import thawtest  # noqa: E402
import vmhost  # noqa: E402
from thawtest import Skip  # noqa: E402

# The emulated processor does not trap XSETBV: KVM inside does not see it, and
# Linux would warn about the size of the XSAVE area.
CMDLINE = "quiet noxsave mitigations=off"
APPLETS = "awk base64 basename cat cmp cp cut date dd dmesg echo env false find fold grep head hostname id insmod ip kill ls md5sum "
APPLETS += "mkdir mkfifo mount mv nproc od ping ps readlink reboot rm sed seq setsid sh sleep sort stat sync tail tee test time touch tr true uname "
APPLETS += "uniq uptime usleep wc xargs yes"
# What must not be in a guest's log. That the TSC is unstable is not among it: so
# it is in an emulated machine, and guests use kvm-clock.
BAD = re.compile(
    r"WARNING: (CPU|possible|suspicious)|BUG:|Oops|soft lockup|hard LOCKUP|rcu.*(stall|detected)|I/O error|Call Trace|ACPI.*(Error|Exception|Warning)"
    r"|blocked for more than|general protection|Buffer I/O|EXT4-fs error|hung_task|NETDEV WATCHDOG",
    re.I,
)


def host_can():
    """The KVM of this host runs stock Linux."""
    r = subprocess.run([thawtest.program("thaw"), "doctor"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return r.returncode != 4 and "hardware (" in r.stdout


def make_tree(top):
    """The guest's files, but for the agent and the modules."""
    for d in "bin sbin etc proc sys dev tmp run root mnt".split():
        os.mkdir(os.path.join(top, d))
    shutil.copy(vmhost.program("busybox", "busybox-static"), os.path.join(top, "bin", "busybox"))
    for a in APPLETS.split():
        os.symlink("busybox", os.path.join(top, "bin", a))
    with open(os.path.join(top, "etc", "passwd"), "w") as f:
        f.write("root:x:0:0:root:/root:/bin/sh\n")


def make_guests(directory, kernels):
    """directory/NAME.initrd and one disk.img for all."""
    tree = os.path.join(directory, "tree")
    os.mkdir(tree)
    make_tree(tree)
    thaw = thawtest.program("thaw")
    handler = ["--handler", os.path.join(HERE, "handler.sh"), "--owner", "0:0"]
    for name in kernels:
        k = kernel_cache.get(name)
        out = os.path.join(directory, name + ".initrd")
        cmd = [thaw, "image", "build", tree, "--initrd", "-o", out, "--modules", os.path.dirname(k.modules)]
        subprocess.run(cmd + handler, check=True)
    cmd = [thaw, "image", "build", tree, "--ext4", "--size", "48M", "-o", os.path.join(directory, "disk.img")]
    subprocess.run(cmd + handler, check=True)
    shutil.rmtree(tree)


def make_tools(path, name):
    """A disk with a program of the host's and what it is linked with."""
    top = path + ".d"
    os.mkdir(top)
    program = vmhost.program(name, name)
    shutil.copy(program, top)
    for line in subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.splitlines():
        words = [w for w in line.split() if w.startswith("/")]
        if words:
            name = "ld.so" if "ld-linux" in words[0] else os.path.basename(words[0])
            shutil.copy(words[0], os.path.join(top, name))
    subprocess.run([thawtest.program("thaw"), "image", "build", top, "--ext4", "-o", path], check=True)
    shutil.rmtree(top)


def guest_config(kernel, disk=None, cpus=1, memory="128M", cmdline="", devices=()):
    """The configuration of a guest of ours; disk: the file its root is on."""
    d = os.environ["THAW_LINUX_GUESTS"]
    c = {"memory": memory, "cpus": cpus, "kernel": kernel_cache.get(kernel).vmlinux, "devices": [{"type": "vsock"}]}
    c["initrd"] = os.path.join(d, kernel + ".initrd")
    c["cmdline"] = CMDLINE + " " + cmdline
    if disk:
        c["cmdline"] += " thaw.root=/dev/vda rw"
        c["devices"].append({"type": "block", "path": disk})
    c["devices"] += list(devices)
    return c


class Guest:
    """A machine of ours with our handler in it."""

    def __init__(self, client, ident):
        self.c, self.id = client, ident

    def sh(self, line, timeout=60):
        """Run a line of shell in the guest; its output. Must exit with 0."""
        r = self.c.call("machine.invoke", {"id": self.id, "payload": line.encode(), "timeout_ms": timeout * 1000})
        payload = r["payload"]
        text = payload if isinstance(payload, str) else payload.decode("utf8", "replace")
        out, _, rc = text.rpartition("rc ")
        assert rc == "0\n", "%s: exit code %s, output %r" % (line, rc.strip(), out)
        return out

    def stop(self):
        self.c.call("machine.stop", {"id": self.id})

    def console(self):
        data = self.c.call("machine.logs", {"id": self.id})["data"]
        return data if isinstance(data, str) else data.decode("utf8", "replace")

    def healthy(self):
        """Nothing in its log that must not be there."""
        log = self.sh("dmesg")
        bad = [x for x in log.splitlines() if BAD.search(x)]
        assert not bad, "in the guest's log:\n" + "\n".join(bad)
        return log


def start(client, name, config, timeout=90, **more):
    """Boot a guest until its agent answers."""
    p = dict({"config": config, "name": name, "ready": "agent", "timeout_ms": timeout * 1000}, **more)
    r = client.call("machine.create", p)
    return Guest(client, r["id"])


def disk_image(d, name="disk.img"):
    """A root disk of its own, in the directory of a Daemon."""
    path = os.path.join(d.dir, name)
    shutil.copy(os.path.join(os.environ["THAW_LINUX_GUESTS"], "disk.img"), path)
    return path


def restore(client, name, path, disk=None, timeout=60, **more):
    """A machine of a snapshot; disk: of its root."""
    p = dict({"snapshot": path, "name": name, "ready": "agent", "timeout_ms": timeout * 1000}, **more)
    if disk:
        p["disks"] = {"disk0": disk}
    r = client.call("machine.create", p)
    return Guest(client, r["id"])


def outside(script, guests, cpus, mem, timeout):
    """Run the script again where it can work; its exit code."""
    with tempfile.TemporaryDirectory(prefix="thaw-linux-") as d:
        try:
            guests(d)
            if host_can():
                env = dict(os.environ, THAW_LINUX_GUESTS=d)
                return subprocess.run([sys.executable, script] + sys.argv[1:], env=env).returncode
            env = {"THAW_LINUX_GUESTS": vmhost.inside(d)}
            env["THAW_TEST_CACHE"] = vmhost.inside(kernel_cache.cache_dir())
            env.update({k: v for k, v in os.environ.items() if k.startswith("THAW_LINUX_")})
            with vmhost.Machine(cpus, mem, timeout=timeout) as vm:
                cmd = ["/usr/bin/python3", "-B", vmhost.inside(script)] + sys.argv[1:]
                return vm.run(cmd, env, to=(sys.stdout.buffer, sys.stderr.buffer)).rc
        except kernel_cache.Missing as e:
            print("1..0 # SKIP %s" % e)
            return 77
        except vmhost.Failed as e:
            print("1..1\nnot ok 1 - the test machine\n# %s" % str(e).replace("\n", "\n# "))
            return 1


def main(names, kernels=tuple(kernel_cache.KERNELS), guests=None, cpus=1, mem=3072, timeout=900):
    """kernels: those the tests need; guests(directory) makes other guests than
    ours; cpus, mem: of the test machine."""
    if "THAW_LINUX_GUESTS" in os.environ:
        thawtest.main(names)
    sys.exit(outside(os.path.abspath(sys.argv[0]), guests or (lambda d: make_guests(d, kernels)), cpus, mem, timeout))

#!/usr/bin/python3
"""A stock Linux guest under thaw and under QEMU's microvm, side by side.

    bench/linux.py [-n N] [--json FILE] [--kernel NAME]

Both run on the same KVM, one after the other in turns: this host's if it runs
stock Linux, else that of the test machine (tests/vmhost), where only the ratios
say something. Kernel, initrd, command line, memory and agent are the same for
both, and a machine counts only when its init, or its agent, has answered.

start     from exec of the program to the first line of the guest's init
restore   from a 256 MiB snapshot (QEMU: a migration file) to the agent's answer
          to a ping over vsock. QEMU: from exec of the program. thaw: from the
          request to a running daemon.
clone     from the request for a clone of a template to the same answer
overhead  MemAvailable that a booted machine takes, less the pages of its guest
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

import linux_inside  # finds the tests' modules
from linux_inside import Bad, MARK, MEM, kernel_cache, linuxtest, thawtest

import vmhost


def make_guests(directory, kernel):
    """The agent's initrd as the tests have it, and one whose init says one line."""
    linuxtest.make_guests(directory, [kernel])
    init = "#!/bin/busybox sh\necho %s\nexec /bin/busybox sleep 100000\n" % MARK.decode()
    busybox = vmhost.read(vmhost.program("busybox", "busybox-static"))
    files = {"init": (0o755, init.encode()), "bin/busybox": (0o755, busybox)}
    vmhost.write_initrd(os.path.join(directory, "bench.initrd"), files)


def parse(rc, out):
    if rc:
        raise Bad("exit code %d" % rc)
    data = json.loads(out)
    return data["samples"], data["host"]


def sample(kernel, n):
    """The samples of a run and the host of it, here or in the test machine."""
    with tempfile.TemporaryDirectory(prefix="bench-linux-") as d:
        make_guests(d, kernel)
        me = ["/usr/bin/python3", "-B", linux_inside.__file__, str(n)]
        if linuxtest.host_can():
            env = dict(os.environ, THAW_LINUX_GUESTS=d, BENCH_KERNEL=kernel)
            done = subprocess.run(me, env=env, stdout=subprocess.PIPE)
            return parse(done.returncode, done.stdout) + (True,)
        env = {"THAW_LINUX_GUESTS": vmhost.inside(d), "THAW_TEST_CACHE": vmhost.inside(kernel_cache.cache_dir())}
        env["BENCH_KERNEL"] = kernel
        with vmhost.Machine(cpus=2, mem=3072, timeout=3600) as vm:
            me[2] = vmhost.inside(me[2])
            done = vm.run(me, env, to=(open(os.devnull, "wb"), sys.stderr.buffer))
            return parse(done.rc, done.out) + (False,)


NOTES = {
    "linux_start_thaw": "thaw run, which starts a daemon of its own, to the first line of the guest's init",
    "linux_start_qemu": "QEMU microvm, the same",
    "linux_restore_thaw": "machine.create of a snapshot, eager, to the agent's answer",
    "linux_restore_thaw_lazy": "the same, lazy",
    "linux_restore_qemu": "QEMU microvm from a migration file to the agent's answer",
    "linux_clone_thaw": "fresh clone of a template to the agent's answer",
    "linux_overhead_thaw": "MemAvailable taken by a booted machine, less its guest's pages; mean of 4",
    "linux_overhead_qemu": "the same for QEMU microvm",
}


def quantile(sorted_values, q):
    return sorted_values[max(0, math.ceil(q * len(sorted_values)) - 1)]


def result(name, samples):
    time = "overhead" not in name
    v = sorted(x * 1e6 if time else x for x in samples)
    q = {p: quantile(v, float(p[1:]) / 100) for p in ("p50", "p90", "p99")}
    return {"name": name, "unit": "us" if time else "KiB", "n": len(v), "ok": len(v), **q, "max": v[-1], "note": NOTES[name]}


def version():
    out = subprocess.run([thawtest.program("thaw"), "--version"], capture_output=True, text=True, check=True).stdout
    return out.split()[1]


def report(kernel, samples, host, hardware):
    rows = [result("linux_" + k, v) for k, v in samples.items()]
    for r in rows:
        unit = 1000 if r["unit"] == "us" else 1
        print("%-26s %3d  p50 %9.1f  max %9.1f %s" % (r["name"], r["n"], r["p50"] / unit, r["max"] / unit, "ms" if unit > 1 else "KiB"))
    host["kind"] = "hardware" if hardware else "nested, emulated"
    host["guest"] = "Debian's %s kernel, %d MiB, 1 vCPU" % (kernel, MEM)
    return {"thaw": version(), "host": host, "bench": "linux", "results": rows}


def main():
    p = argparse.ArgumentParser(description="Stock Linux under thaw and under QEMU's microvm.")
    p.add_argument("-n", type=int, default=5, metavar="N", help="rounds (default 5)")
    p.add_argument("--kernel", default="6.1-cloud", choices=sorted(kernel_cache.KERNELS))
    p.add_argument("--json", metavar="FILE", help="write the results there")
    a = p.parse_args()
    try:
        data = report(a.kernel, *sample(a.kernel, a.n))
    except (Bad, vmhost.Failed, kernel_cache.Missing) as e:
        print("bench/linux.py: %s" % e, file=sys.stderr)
        return 1
    if a.json:
        with open(a.json, "w") as f:
            json.dump(data, f, indent=2)
    return 0


sys.exit(main())

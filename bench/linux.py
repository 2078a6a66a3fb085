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
iops      random reads of fio in the guest (linux_block.py)
overhead  MemAvailable that a booted machine takes, less the pages of its guest
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

import linux_block
import linux_inside  # finds the tests' modules
from linux_inside import Bad, MARK, MEM, kernel_cache, linuxtest, thawtest

import vmhost


def make_guests(directory, kernel):
    """The agent's initrd as the tests have it, and one whose init says one line."""
    linuxtest.make_guests(directory, [kernel])
    linuxtest.make_tools(os.path.join(directory, "tools.img"), "fio")
    init = "#!/bin/busybox sh\necho %s\nexec /bin/busybox sleep 100000\n" % MARK.decode()
    busybox = vmhost.read(vmhost.program("busybox", "busybox-static"))
    files = {"init": (0o755, init.encode()), "bin/busybox": (0o755, busybox)}
    vmhost.write_initrd(os.path.join(directory, "bench.initrd"), files)


def sample(kernel, n):
    """The samples of a run, the host of it, and whether that is this one or the
    test machine."""
    samples, host = {}, {}
    with tempfile.TemporaryDirectory(prefix="bench-linux-") as d:
        make_guests(d, kernel)
        run = here if linuxtest.host_can() else in_test_machine
        for script in (linux_inside.__file__, linux_block.__file__):
            rc, out = run(script, n, d, kernel)
            if rc:
                raise Bad("%s: exit code %d" % (os.path.basename(script), rc))
            data = json.loads(out)
            samples.update(data["samples"])
            host = data["host"]
    return samples, host, run is here


def here(script, n, guests, kernel):
    env = dict(os.environ, THAW_LINUX_GUESTS=guests, BENCH_KERNEL=kernel)
    done = subprocess.run(["/usr/bin/python3", "-B", script, str(n)], env=env, stdout=subprocess.PIPE)
    return done.returncode, done.stdout


def in_test_machine(script, n, guests, kernel):
    env = {"THAW_LINUX_GUESTS": vmhost.inside(guests), "THAW_TEST_CACHE": vmhost.inside(kernel_cache.cache_dir())}
    env["BENCH_KERNEL"] = kernel
    with vmhost.Machine(mem=3072, timeout=3600) as vm, open(os.devnull, "wb") as null:
        done = vm.run(["/usr/bin/python3", "-B", vmhost.inside(script), str(n)], env, to=(null, sys.stderr.buffer))
        return done.rc, done.out


NOTES = {
    "linux_start_thaw": "thaw run, which starts a daemon of its own, to the first line of the guest's init",
    "linux_start_qemu": "QEMU microvm, the same",
    "linux_restore_thaw": "machine.create of a snapshot, eager, to the agent's answer",
    "linux_restore_thaw_lazy": "the same, lazy",
    "linux_restore_qemu": "QEMU microvm from a migration file to the agent's answer",
    "linux_clone_thaw": "fresh clone of a template to the agent's answer",
    "linux_iops_thaw": "4 KiB random reads in the guest, 32 at a time, image in the host's memory; io_uring",
    "linux_iops_thaw_sync": "the same on a host without io_uring",
    "linux_iops_qemu": "the same, QEMU microvm, virtio-blk with io_uring",
    "linux_overhead_thaw": "MemAvailable taken by a booted machine, less its guest's pages; mean of 4",
    "linux_overhead_qemu": "the same for QEMU microvm",
}


def quantile(sorted_values, q):
    return sorted_values[max(0, math.ceil(q * len(sorted_values)) - 1)]


def result(name, samples):
    unit = "KiB" if "overhead" in name else "IOPS" if "iops" in name else "us"
    v = sorted(x * 1e6 if unit == "us" else x for x in samples)
    q = {p: quantile(v, float(p[1:]) / 100) for p in ("p50", "p90", "p99")}
    return {"name": name, "unit": unit, "n": len(v), "ok": len(v), **q, "max": v[-1], "note": NOTES[name]}


def version():
    out = subprocess.run([thawtest.program("thaw"), "--version"], capture_output=True, text=True, check=True).stdout
    return out.split()[1]


def report(kernel, samples, host, hardware):
    rows = [result("linux_" + k, v) for k, v in samples.items()]
    for r in rows:
        by, unit = (1000, "ms") if r["unit"] == "us" else (1, r["unit"])
        print("%-26s %3d  p50 %9.1f  max %9.1f %s" % (r["name"], r["n"], r["p50"] / by, r["max"] / by, unit))
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

#!/usr/bin/python3
# timeout: 400
"""Linux guests with thaw-agent by the command line: thaw run --exec, exec, cp,
and clones of a Python guest."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

# Where the guests are: in the test machine, or where main() made them.
GUESTS = os.environ.get("THAW_AGENT_GUESTS", "/host")
WORK = tempfile.mkdtemp(prefix="agent-test") if "--inside" in sys.argv else None


# ---- in the test machine ----

def thaw(*args, code=0, data=None):
    p = subprocess.run(["thaw"] + list(args), input=data, timeout=200, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.returncode == code, "thaw %s: %d, not %d: %s" % (" ".join(args), p.returncode, code, p.stderr.decode())
    return p.stdout, p.stderr


LINUX = ["--kernel", GUESTS + "/vmlinux", "--mem", "160M", "--cmdline", "quiet mitigations=off noxsave"]


def test_run_exec():
    out, err = thaw("run", *LINUX, "--initrd", GUESTS + "/busybox.cpio", "-i", "--exec",
                    "cat; echo problem >&2; cat /proc/1/comm; exit 42", data=b"what came in\n", code=42)
    assert out.startswith(b"what came in\n") and b"\n" == out[-1:], out
    assert err == b"problem\n", err


def test_template():
    thaw("template", "create", "py", *LINUX, "--initrd", GUESTS + "/python.cpio", "--pool", "2")
    out, _ = thaw("invoke", "py", "--data", "shout")
    assert out == b"SHOUT", out


def test_exec_and_cp():
    machine = thaw("clone", "py")[0].split()[0].decode()
    out, err = thaw("exec", machine, "-e", "A=b c", "--", "sh", "-c", "echo $A; echo err >&2; exit 3", code=3)
    assert (out, err) == (b"b c\n", b"err\n"), (out, err)
    big = os.urandom(3000000)
    out, _ = thaw("exec", machine, "-i", "--", "cat", data=big)
    assert out == big, "%d bytes of %d came back" % (len(out), len(big))
    thaw("exec", machine, "--", "no-such-command", code=3)
    assert thaw("exec", machine, "-t", "0.3", "--", "sleep", "1000", code=137)[1].endswith(b"time was over\n")
    with open(WORK + "/in", "wb") as f:
        f.write(big)
    os.chmod(WORK + "/in", 0o751)
    thaw("cp", WORK + "/in", machine + ":/opt-file")
    thaw("cp", machine + ":/opt-file", WORK + "/out")
    with open(WORK + "/out", "rb") as f:
        assert f.read() == big
    assert os.stat(WORK + "/out").st_mode & 0o777 == 0o751
    # Into directories, as docs/linux.md has it; a slash may follow.
    for there in ("/tmp", "/tmp/"):
        thaw("cp", WORK + "/in", machine + ":" + there)
        thaw("exec", machine, "--", "sh", "-c", "test $(cat /tmp/in | wc -c) = 3000000 && rm /tmp/in")
    os.mkdir(WORK + "/into")
    thaw("cp", machine + ":/opt-file", WORK + "/into")
    assert os.path.getsize(WORK + "/into/opt-file") == 3000000
    thaw("cp", machine + ":/none", WORK + "/none", code=3)
    thaw("stop", machine)


def check_clock(machine):
    """Its clock is the host's."""
    before = time.time()
    clock = float(thaw("invoke", machine, "--data", "clock")[0])
    after = time.time()
    assert before - 0.05 <= clock <= after + 0.05, "%s: clock is off by %.3f s" % (
        machine, max(before - clock, clock - after))


def test_pooled_clock():
    deadline = time.time() + 60
    while json.loads(thaw("template", "show", "py", "--json")[0]).get("parked", 1) < 1 and time.time() < deadline:
        time.sleep(0.2)
    time.sleep(2)  # asleep in the pool
    machine = json.loads(thaw("clone", "py", "--pooled", "--json")[0])["clones"][0]["id"]
    check_clock(machine)


def inside():
    os.environ["THAW_SOCKET"] = WORK + "/s"
    os.mkdir(WORK + "/state")
    with open(WORK + "/log", "wb") as log:
        d = subprocess.Popen(["thawd", "--socket", WORK + "/s", "--state-dir", WORK + "/state"], stdout=log, stderr=log)
    while not os.path.exists(WORK + "/s"):
        time.sleep(0.02)
    tests = [(n, f) for n, f in globals().items() if n.startswith("test_")]
    print("1..%d" % len(tests))
    bad = 0
    for i, (name, f) in enumerate(tests, 1):
        start = time.time()
        try:
            f()
            print("ok %d - %s (%.1f s)" % (i, name, time.time() - start), flush=True)
        except Exception as e:  # pylint: disable=broad-except
            bad += 1
            print("not ok %d - %s\n# %s: %s" % (i, name, type(e).__name__, str(e).replace("\n", "\n# ")), flush=True)
    d.terminate()
    d.wait()
    if bad:
        with open(WORK + "/log") as log:
            print("# " + log.read()[-3000:].replace("\n", "\n# "))
    shutil.rmtree(WORK, ignore_errors=True)
    return 1 if bad else 0


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    top = os.path.dirname(os.path.dirname(here))
    sys.path[:0] = [here, os.path.join(top, "tests", "e2e"), os.path.join(top, "tests", "vmhost")]
    import kernel_cache
    import linuxtest
    import pyguest
    import thawtest
    import vmhost

    try:
        kernel = kernel_cache.get("6.1-cloud")
        busybox = vmhost.program("busybox", "busybox-static")
        pyguest.python_packages(kernel_cache.cache_dir())
    except (kernel_cache.Missing, vmhost.Failed, OSError, subprocess.CalledProcessError) as e:
        print("1..0 # SKIP %s" % e)
        return 77
    with tempfile.TemporaryDirectory() as d:
        program = thawtest.program("thaw")
        pyguest.busybox_root(d + "/busybox", busybox)
        pyguest.python_root(d + "/python", kernel_cache.cache_dir(), busybox)
        pyguest.build(program, d + "/busybox", d + "/busybox.cpio", kernel, top + "/docs/handler.sh")
        pyguest.build(program, d + "/python", d + "/python.cpio", kernel, top + "/docs/handler.py")
        shutil.copy(kernel.vmlinux, d + "/vmlinux")
        shutil.copy(__file__, d + "/agent_test.py")
        files = [d + "/" + f for f in ("busybox.cpio", "python.cpio", "vmlinux", "agent_test.py")]
        if linuxtest.host_can():
            env = dict(os.environ, THAW_AGENT_GUESTS=d)
            return subprocess.run([sys.executable, "-B", __file__, "--inside"], env=env, check=False).returncode
        with vmhost.Machine(mem=2048, files=files, timeout=380) as vm:
            done = vm.run(["/usr/bin/python3", "-B", "/host/agent_test.py", "--inside"])
    sys.stdout.write(done.out.decode() if isinstance(done.out, bytes) else done.out)
    sys.stdout.write(done.err.decode() if isinstance(done.err, bytes) else done.err)
    return done.rc


if __name__ == "__main__":
    sys.exit(inside() if "--inside" in sys.argv else main())

#!/usr/bin/python3
# timeout: 900
"""Fifty clones of one Python template: each answers, and no two of them have
anything alike that must differ. THAW_CLONES=N makes another number."""

import ast
import itertools
import os
import time

import linuxtest
import pyguest
from linuxtest import kernel_cache, thawtest, vmhost

CLONES = int(os.environ.get("THAW_CLONES", "50"))
POOL = 4
# So many are started at a time: their clocks drift apart by about a millisecond
# in a second on the emulated processor, so each is asked soon.
BATCH = 10

# What a clone tells about itself, in place of the function of docs/handler.py.
WHO = """
    import fcntl
    def text(path):
        with open(path) as f:
            return f.read().strip()
    with open("/dev/vsock", "rb") as f:
        # IOCTL_VM_SOCKETS_GET_LOCAL_CID of linux/vm_sockets.h
        cid = int.from_bytes(fcntl.ioctl(f, 0x7b9, bytes(4)), "little")
    return repr({
        "hostname": os.uname().nodename, "machine_id": text("/etc/machine-id"), "cid": cid,
        "boot_id": text("/proc/sys/kernel/random/boot_id"), "getrandom": os.getrandom(16).hex(),
        "random": random.getrandbits(64), "mac": text("/sys/class/net/eth0/address"),
    }).encode()
"""


def make_guest(d):
    kernel = kernel_cache.get("6.1-cloud")
    with open(os.path.join(linuxtest.TOP, "docs", "handler.py")) as f:
        before, line, after = f.read().partition("    return request.upper()\n")
    assert line, "docs/handler.py has another function"
    with open(d + "/handler.py", "w") as f:
        f.write(before + WHO.lstrip("\n") + after)
    os.chmod(d + "/handler.py", 0o755)
    pyguest.python_root(d + "/python", kernel_cache.cache_dir(), vmhost.program("busybox", "busybox-static"))
    pyguest.build(thawtest.program("thaw"), d + "/python", d + "/python.cpio", kernel, d + "/handler.py")


def invoke(c, ident, payload):
    return c.call("machine.invoke", {"id": ident, "payload": payload, "timeout_ms": 60000})["payload"].decode()


def ask(c, ident):
    return ast.literal_eval(invoke(c, ident, b"tell"))


def clock_error(c, ident):
    """How far its clock is off at least and at most, by the quickest of a few answers."""
    best = None
    for _ in range(10):
        before = time.time()
        clock = float(invoke(c, ident, b"clock"))
        after = time.time()
        if not best or after - before < best[2]:
            best = (max(before - clock, clock - after, 0), max(after - clock, clock - before), after - before)
        if best[2] < 0.03:
            break
    return best[:2]


def test_fifty_clones(d):
    config = linuxtest.guest_config("6.1-cloud", memory="160M", devices=[{"type": "net", "id": "net0"}])
    config["initrd"] = os.path.join(os.environ["THAW_LINUX_GUESTS"], "python.cpio")
    d.template("py", config=config, pool=POOL, timeout_ms=120000)
    with d.client(timeout=300) as c:
        thawtest.wait_for(lambda: c.call("template.show", {"name": "py"})["pool"]["parked"] == POOL, 60)
        ids, answers, offs, pooled = [], [], [], 0
        start = time.monotonic()
        while len(ids) < CLONES:
            n = min(BATCH, CLONES - len(ids))
            made = c.call("clone", {"template": "py", "count": n, "timeout_ms": 60000})
            assert not made["errors"], made
            pooled += sum(x["pooled"] for x in made["clones"])
            new = [x["id"] for x in made["clones"]]
            for ident in new:
                offs.append(clock_error(c, ident))
                assert offs[-1][0] < 0.05, "%s: the clock is off by %.3f s" % (ident, offs[-1][0])
                answers.append(ask(c, ident))
            ids += new
        took = time.monotonic() - start
        assert len(ids) == len(set(ids)) == CLONES and pooled, (ids, pooled)
        differ(answers)
        # All of them live on together, each as itself.
        for ident, r in zip(ids, answers):
            again = ask(c, ident)
            assert [again[k] for k in ("hostname", "machine_id", "cid", "boot_id", "mac")] == [
                r[k] for k in ("hostname", "machine_id", "cid", "boot_id", "mac")], (r, again)
            answers = answers + [again]
        for key in ("getrandom", "random"):
            assert len({a[key] for a in answers}) == 2 * CLONES, key
        sure = sum(most < 0.05 for _, most in offs)
        print("# %d clones in %.1f s, %d of the pool; clocks off by less than 50 ms for sure: %d" % (CLONES, took, pooled, sure))
        c.call("template.remove", {"name": "py", "force": True})


def differ(answers):
    for a, b in itertools.combinations(answers, 2):
        same = [k for k in a if a[k] == b[k]]
        assert not same, "%s are alike in %s and %s" % (same, a, b)


if __name__ == "__main__":
    linuxtest.main(globals(), guests=make_guest, mem=4096)

#!/usr/bin/python3
# timeout: 600
"""What the API does with a Linux guest: commands and files."""

import os

import linuxtest

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


if __name__ == "__main__":
    linuxtest.main(globals(), kernels=(KERNEL,))

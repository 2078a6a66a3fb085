#!/usr/bin/python3
# timeout: 240
"""Tools that read snapshot files: what they say about good files, damaged ones,
and ones that are not for this host."""

import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time

import msgpack

import thawtest
from test_cli import thaw, tidy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from snapshot_reader import Bad, VCPU, crc32c, open_chain  # noqa: E402


def snapshot(d):
    """A snapshot of a clone that has run; its path."""
    path = os.path.join(d.dir, "s.thaw")
    thaw(d, "template", "create", "t", "--mem", "32M")
    i = thaw(d, "clone", "t")[0].strip()
    thaw(d, "snapshot", i, path, "--force")
    thaw(d, "stop", i)
    return path


def flipped(data, bit):
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return out


def store(path, data):
    with open(path, "wb") as f:
        f.write(data)


def test_single_bits(d):
    """No command takes a file with one wrong bit, wherever it is."""
    path = snapshot(d)
    bad = path + ".bad"
    with open(path, "rb") as f:
        data = f.read()
    whole = json.loads(thaw(None, "inspect", path, "--json")[0])
    rnd = random.Random(4)
    # one in the header, the table, each section, and some among the data
    places = [100, 4096 + 20] + [s["offset"] + 1 for s in whole["sections"]]
    places += [rnd.randrange(whole["memory"]["data_offset"], len(data)) for _ in range(6)]
    for at in places:
        store(bad, flipped(data, at * 8 + rnd.randrange(8)))
        out, err = thaw(None, "verify", bad, code=5)
        assert "bytes " in err or "header" in err, err
        if at < whole["memory"]["data_offset"]:
            # inspect shows the rest, says what is wrong
            name = [s["name"] for s in whole["sections"] if s["offset"] <= at < s["offset"] + s["stored_bytes"]]
            out, err = thaw(None, "inspect", bad, "--json", code=5)
            shown = json.loads(out)
            assert shown["errors"], at
            for s in shown.get("sections", []):
                assert s["ok"] == (s["name"] not in name), (at, s)
            assert at == 4096 + 20 or shown.get("header"), shown.keys()
        # a restore reads everything but the metadata, which is for people
        meta = [s for s in whole["sections"] if s["name"] == "metadata"][0]
        if not meta["offset"] <= at < meta["offset"] + meta["stored_bytes"]:
            thaw(d, "restore", bad, code=5)
    assert json.loads(thaw(d, "ps", "--json")[0])["machines"] == []


def test_several_devices(d):
    """A second disk and a second interface are parts like the first; all readers agree on it, and on one that is missing."""
    devices = [{"type": "vsock"}, {"type": "rng"}]
    for n in (1, 2):
        disk = os.path.join(d.dir, "disk%d" % n)
        store(disk, os.urandom(65536))
        devices += [{"type": "block", "id": "d%d" % n, "path": disk}, {"type": "net", "id": "n%d" % n}]
    path, bad = os.path.join(d.dir, "devs.thaw"), os.path.join(d.dir, "devs-bad.thaw")
    with d.client() as api, thawtest.Quiet(d):
        m = api.call("machine.create", {"config": {"memory": "32M", "devices": devices}, "ready": "agent"})["id"]
        api.call("machine.snapshot", {"id": m, "path": path})
        api.call("machine.stop", {"id": m})
        thaw(None, "verify", path)
        assert api.call("snapshot.verify", {"path": path})["ok"]
        open_chain([path])
        with open(path, "rb") as f:
            data = f.read()
        table, count = struct.unpack_from("<Q", data, 120)[0], struct.unpack_from("<I", data, 112)[0]
        names = {data[table + 64 * i + 44:table + 64 * i + 60].rstrip(b"\0").decode(): i for i in range(count)}
        for name in ("block1", "net1", "rng", "serial"):
            changed = bytearray(data)
            struct.pack_into("<QHH", changed, table + 64 * names[name], 0x1234, 1, 0)
            reseal(changed, names[name])
            store(bad, changed)
            assert "there is no section for " + name[:3] in thaw(None, "verify", bad, code=5)[1]
            assert "there is no section for " + name[:3] in api.fails("corrupt", "snapshot.verify", {"path": bad})
            try:
                open_chain([bad])
                raise AssertionError("the second reader takes it")
            except Bad:
                pass


def test_newer_format(d):
    """A file of a later version is not damaged: this thaw cannot read it (1)."""
    path = snapshot(d)
    with open(path, "rb") as f:
        data = bytearray(f.read())
    for major, minor, least in ((1, 77, 77), (2, 0, 0)):
        struct.pack_into("<HHH", data, 8, major, minor, least)
        struct.pack_into("<I", data, 4092, crc32c(data[:4092]))
        store(path, data)
        says = "version %d.%d" % (major, minor)
        for args in (["verify", path], ["inspect", path], ["inspect", path, "--json"], ["inspect", path, "--section", "vcpu0"],
                     ["diff", path, path], ["convert", path, "-o", path + "2"]):
            err = thaw(None, *args, code=1)[1]
            assert says in err, (args, err)
        shown = json.loads(thaw(None, "inspect", path, "--json", code=1)[0])
        assert shown["unsupported"] and says in shown["errors"][0], shown
        assert says in thaw(d, "restore", path, code=1)[1]
        with thawtest.Client(d.sock) as c:
            assert says in c.fails("unsupported", "snapshot.verify", {"path": path})
            same(c.call("snapshot.inspect", {"path": path}), shown)


def test_cut_short(d):
    path = snapshot(d)
    with open(path, "rb") as f:
        data = f.read()
    cut = path + ".cut"
    for n in (0, 1, 4095, 4096, 5000, 16384, len(data) - 4096):
        store(cut, data[:n])
        thaw(None, "verify", cut, code=5)
        err = thaw(None, "inspect", cut, code=5)[1]
        assert n < 4096 or "cut short" in err, err
        thaw(d, "restore", cut, code=5)
    out = thaw(None, "inspect", cut, code=5)[0]
    assert "rip " in out and "pages stored" in out


def reseal(data, section):
    """Make the checksums of one section, the table and the header right."""
    table, count = struct.unpack_from("<Q", data, 120)[0], struct.unpack_from("<I", data, 112)[0]
    at = table + 64 * section
    offset, length = struct.unpack_from("<QQ", data, at + 16)
    struct.pack_into("<I", data, at + 40, crc32c(data[offset:offset + length]))
    struct.pack_into("<I", data, 116, crc32c(data[table:table + 64 * count]))
    struct.pack_into("<I", data, 4092, crc32c(data[:4092]))


def for_another_host(path, out):
    """The same snapshot from a host of another maker with more features."""
    with open(path, "rb") as f:
        data = bytearray(f.read())
    table, count = struct.unpack_from("<Q", data, 120)[0], struct.unpack_from("<I", data, 112)[0]
    n = [i for i in range(count) if struct.unpack_from("<Q", data, table + 64 * i)[0] == VCPU][0]
    offset, length = struct.unpack_from("<QQ", data, table + 64 * n + 16)
    cpuid = msgpack.unpackb(bytes(data[offset:offset + length]))["cpuid"]
    start = data.index(cpuid, offset)
    for at in range(start, start + len(cpuid), 40):
        function, index = struct.unpack_from("<II", data, at)
        if function == 0:
            data[at + 16:at + 28] = b"CentaulsaurH"
        if function == 1:
            data[at + 20] |= 1 << 5  # vmx; nobody gives both this and svm
        if (function, index) == (0x80000001, 0):
            data[at + 21] |= 1 << 3 | 1 << 7  # xop lwp, gone since 2017
    reseal(data, n)
    store(out, data)


def test_other_host(d):
    path = snapshot(d)
    other = path + ".other"
    for_another_host(path, other)
    shown = json.loads(thaw(None, "inspect", path, "--json")[0])["compatible"]
    assert shown == {"checked": True, "ok": True, "differences": []}, shown
    shown = json.loads(thaw(None, "inspect", other, "--json")[0])["compatible"]
    assert shown["checked"] and not shown["ok"], shown
    assert "a processor of Centaur" in shown["differences"][0], shown
    assert "xop" in shown["differences"][1] and "lwp" in shown["differences"][1], shown
    out = thaw(None, "inspect", other)[0]
    assert "NOT COMPATIBLE" in out, out
    with thawtest.Client(d.sock) as c:
        assert c.call("snapshot.inspect", {"path": other})["compatible"] == shown
    thaw(None, "verify", other)
    for args in (["restore", other], ["template", "create", "x", "--snapshot", other]):
        err = thaw(d, *args, code=4)[1]
        assert "Centaur" in err and " xop" in err, err
    with thawtest.Client(d.sock) as c:
        try:
            c.call("machine.create", {"snapshot": other})
            raise AssertionError("it runs here")
        except thawtest.RpcError as e:
            assert e.error["code"] == "unsupported" and e.error["detail"] == "host", e.error
    assert json.loads(thaw(d, "ps", "--json")[0])["machines"] == []


def chain(d):
    """Full, diff, diff of one machine, in a folder each; their paths."""
    base = os.path.join(d.dir, "c0.thaw")
    thaw(d, "template", "create", "t", "--mem", "32M")
    i = thaw(d, "clone", "t")[0].strip()
    thaw(d, "snapshot", i, base, "--force")
    m = thaw(d, "restore", base, "--track-dirty")[0].strip()
    paths = [base]
    for n in (1, 2):
        thaw(d, "invoke", m, "--data", "touch 2")
        paths.append(os.path.join(d.dir, "c%d.thaw" % n))
        thaw(d, "snapshot", m, paths[-1], "--diff", "--force")
    thaw(d, "stop", m)
    thaw(d, "stop", i)
    return paths


def test_chain(d):
    """The whole chain is verified, shown, compared, merged and converted."""
    a, b, c = chain(d)
    row = json.loads(thaw(None, "verify", c, "--json")[0])
    assert row["file"] == c and row["files"] == 3, row
    shown = json.loads(thaw(None, "inspect", c, "--json", "--map")[0])
    assert [x["path"] for x in shown["chain"]] == [b, a] and all(x["ok"] for x in shown["chain"]), shown["chain"]
    assert shown["map"]["diff"] and shown["memory"]["regions"][0]["pages_inherited"] > 1000
    assert "builds on" in thaw(None, "inspect", c)[0]

    assert thaw(None, "diff", c, c) == ("", "")
    seen = json.loads(thaw(None, "diff", b, c, "--json", code=1)[0])
    assert not seen["same"] and seen["same_layout"]
    assert sum(r["pages"] for r in seen["ranges"]) == seen["pages"] > 0, seen
    more = json.loads(thaw(None, "diff", a, c, "--json", code=1)[0])
    assert more["pages"] >= 512, more["pages"]
    assert {f["field"] for f in seen["state"]} >= {"machine.clock_ns"}, seen["state"]
    assert any(f["field"].startswith("vcpu0.") for f in seen["state"]), seen["state"]
    assert "pages differ" in thaw(None, "diff", b, c, code=1)[0]

    merged = os.path.join(d.dir, "merged.thaw")
    thaw(None, "merge", a, c, b, "-o", merged)
    thaw(None, "merge", c, "-o", merged, code=1)
    thaw(None, "merge", c, "-o", merged, "--force")
    assert thaw(None, "diff", c, merged) == ("", "")
    shown = json.loads(thaw(None, "inspect", merged, "--json")[0])
    assert not shown["header"]["diff"] and "chain" not in shown
    thaw(None, "verify", merged)
    m = thaw(d, "restore", merged)[0].strip()
    assert thaw(d, "invoke", m, "--data", "echo merged")[0].strip() == "merged"
    thaw(None, "merge", a, c, "-o", a, "--force", code=1)
    thaw(None, "verify", a)

    again = os.path.join(d.dir, "again.thaw")
    thaw(None, "convert", c, "-o", again)
    shown = json.loads(thaw(None, "inspect", again, "--json")[0])
    assert shown["header"]["diff"] and [x["path"] for x in shown["chain"]] == [b, a], shown["chain"]
    assert shown["header"]["uuid"] != json.loads(thaw(None, "inspect", c, "--json")[0])["header"]["uuid"]
    assert thaw(None, "diff", c, again) == ("", "")
    for zstd in ("1", "19"):
        thaw(None, "convert", merged, "-o", again, "--force", "--zstd", zstd)
        assert thaw(None, "diff", c, again) == ("", "")
        assert "zstd" in thaw(None, "inspect", again)[0]
        thaw(None, "verify", again)
        assert os.path.getsize(again) < os.path.getsize(merged)
    raw = again + ".raw"
    thaw(None, "convert", again, "-o", raw, "--raw")
    assert thaw(None, "diff", raw, merged) == ("", "")
    thaw(None, "convert", c, "-o", again, "--zstd", "20", code=2)
    thaw(None, "convert", c, code=2)
    thaw(None, "convert", c, "-o", "/nonexistent/x", code=3)
    thaw(None, "merge", a, merged, "-o", again + "2", code=1)
    assert not [x for x in os.listdir(d.dir) if x.startswith(".")], "something is left"


def test_broken_chain(d):
    """Parents that are missing, another file, or changed are named."""
    a, b, c = chain(d)
    away = b + ".away"
    os.rename(b, away)
    for args in (["verify", c], ["diff", c, a], ["merge", c, "-o", c + ".m"]):
        err = thaw(None, *args, code=3)[1]
        assert 'neither at "c1.thaw" nor beside' in err, err
    assert "neither at" in thaw(None, "inspect", c)[0]
    # given by name it is found
    thaw(None, "verify", c, away)
    thaw(None, "merge", c, away, "-o", c + ".m")
    os.symlink(a, b)
    err = thaw(None, "verify", c, code=5)[1]
    assert "builds on snapshot" in err and "is snapshot" in err, err
    os.unlink(b)
    with open(away, "rb") as f:
        data = f.read()
    store(b, flipped(data, (len(data) - 100) * 8))
    err = thaw(None, "verify", c, code=5)[1]
    assert b in err, err
    err = thaw(None, "merge", c, "-o", c + ".m2", code=5)[1]
    assert not os.path.exists(c + ".m2")


def test_ended_from_outside(d):
    """A limit on file sizes, or a signal, says nothing about the file that was read: 1, not 5."""
    path = os.path.join(d.dir, "long.thaw")
    out = path + ".out"
    with d.client() as api:
        m = api.call("machine.create", {"config": {"memory": "128M"}, "ready": "agent"})["id"]
        api.call("machine.invoke", {"id": m, "payload": b"touch 64"})
        api.call("machine.snapshot", {"id": m, "path": path})
        api.call("machine.stop", {"id": m})
    p = subprocess.run([thawtest.program("thaw"), "convert", path, "-o", out], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)), check=False)
    assert p.returncode == 1 and b"File too large" in p.stderr, p
    assert not os.path.exists(out)
    for sig, code in ((signal.SIGKILL, 1), (signal.SIGTERM, 1), (signal.SIGSEGV, 5)):
        p = subprocess.Popen([thawtest.program("thaw"), "convert", path, "-o", out, "--zstd", "19"], stdin=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
        children = "/proc/%d/task/%d/children" % (p.pid, p.pid)
        thawtest.wait_for(lambda: open(children, encoding="ascii").read())
        child = int(open(children, encoding="ascii").read())
        os.kill(child, signal.SIGSTOP)
        os.kill(child, sig)
        os.kill(child, signal.SIGCONT)
        err = p.communicate()[1].decode()
        assert p.returncode == code and "signal %d" % sig in err, (p.returncode, err)
        assert not os.path.exists(out)
    os.unlink(path)


def test_no_regular_file(d):
    """What is no regular file is not even opened: neither the file itself nor what a diff names as its parent."""
    a, _, c = chain(d)
    fifo, seen = os.path.join(d.dir, "fifo"), os.path.join(d.dir, "seen")
    os.mkfifo(fifo)
    os.rename(a, a + ".away")
    os.rename(fifo, a)
    # whoever opens it lets this one go on
    p = subprocess.Popen(["sh", "-c", 'exec 3>"$1"; : >"$2"', "sh", a, seen])
    try:
        for args in (["inspect", a], ["verify", a], ["convert", a, "-o", c + ".x"], ["merge", a, "-o", c + ".x"], ["diff", a, c]):
            assert "not a regular file" in thaw(None, *args, code=1)[1], args
        for args in (["verify", c], ["merge", c, "-o", c + ".x"], ["diff", c, c]):
            assert "not a regular file" in thaw(None, *args, code=5)[1], args
        assert "not a regular file" in thaw(None, "inspect", c)[0]
        assert p.poll() is None and not os.path.exists(seen), "it was opened"
    finally:
        p.kill()
        p.wait()
        os.unlink(a)


def same(shown, printed):
    """What the API gives and what the tool prints of it as JSON."""
    if isinstance(shown, dict):
        assert list(shown) == list(printed), (list(shown), list(printed))
        for k in shown:
            same(shown[k], printed[k])
    elif isinstance(shown, list):
        assert len(shown) == len(printed)
        for x, y in zip(shown, printed):
            same(x, y)
    elif isinstance(shown, bytes):
        assert isinstance(printed, str)
    elif isinstance(shown, float):
        assert abs(shown - printed) < 1e-6
    else:
        assert shown == printed or str(shown) == printed, (shown, printed)


def test_over_the_api(d):
    """snapshot.inspect and snapshot.verify say what the tools do, of whole chains."""
    a, b, c = chain(d)
    with d.client() as api:

        def both(path, code=0, error=None):
            """verify and inspect, both ways; inspect's answer."""
            out, err = thaw(None, "verify", path, "--json", code=code)
            if error:
                text = api.fails(error, "snapshot.verify", {"path": path})
                assert text == json.loads(out)["error"].removeprefix(path + ": "), (text, out)
            else:
                same(api.call("snapshot.verify", {"path": path}), json.loads(out))
            shown = api.call("snapshot.inspect", {"path": path})
            same(shown, json.loads(thaw(None, "inspect", path, "--json", code=5 if shown["errors"] else 0)[0]))
            return shown

        for path in (a, b, c):
            both(path)
        shown = api.call("snapshot.inspect", {"path": c, "map": True})
        same(shown, json.loads(thaw(None, "inspect", c, "--json", "--map")[0]))
        assert shown["map"]["diff"]
        for section in ("vcpu0", "memory"):
            shown = api.call("snapshot.inspect", {"path": c, "section": section})
            same(shown, json.loads(thaw(None, "inspect", c, "--json", "--section", section)[0]))
        api.fails("not_found", "snapshot.inspect", {"path": c, "section": "none"})
        api.fails("invalid", "snapshot.inspect", {"path": c, "section": "vcpu0", "map": True})
        # by descriptor there is no name to look beside
        fd = os.open(c, os.O_RDONLY)
        text = api.fails("not_found", "snapshot.verify", {"path": {"fd": 0}}, [fd])
        assert "builds on" in text, text
        os.close(fd)
        # progress, of all files
        req = api.send("snapshot.verify", {"path": c, "progress": True})
        total = api.wait(req)["bytes"]
        notes = [n[2][0] for n in api.notes if n[1] == "verify"]
        assert notes and all(n["req"] == req and n["done"] <= n["total"] == total for n in notes), notes

        with thawtest.Quiet(d):
            away = b + ".away"
            os.rename(b, away)
            shown = both(c, 3, "not_found")
            assert len(shown["chain"]) == 1 and 'neither at "c1.thaw"' in shown["chain"][0]["error"], shown["chain"]
            with open(away, "rb") as f:
                data = f.read()
            for wrong in (data[:9000], b"other" * 2000, flipped(data, 600), flipped(data, (4096 + 45) * 8), open(a, "rb").read()):
                store(b, wrong)
                shown = both(c, 5, "corrupt")
                assert len(shown["chain"]) == 1 and b in shown["chain"][0]["error"], shown["chain"]
            os.unlink(b)
            os.mkfifo(b)
            api.fails("corrupt", "snapshot.verify", {"path": c})
            os.unlink(b)
            # sound outside, damaged inside: the whole chain is there
            store(b, flipped(data, (len(data) - 100) * 8))
            assert [x["ok"] for x in both(c, 5, "corrupt")["chain"]] == [True, True]
            os.rename(away, b)
            # the file itself
            with open(c, "rb") as f:
                data = f.read()
            for bit in (600, (4096 + 20) * 8, (len(data) - 100) * 8):
                store(c, flipped(data, bit))
                both(c, 5, "corrupt")


def test_verify_is_cancelled(d):
    """A client that goes away ends the look at its file."""
    path = os.path.join(d.dir, "big.thaw")
    with d.client() as api, thawtest.Quiet(d):
        m = api.call("machine.create", {"config": {"memory": "320M"}, "ready": "agent"})["id"]
        api.call("machine.invoke", {"id": m, "payload": b"touch 256"})
        api.call("machine.snapshot", {"id": m, "path": path})
        api.call("machine.stop", {"id": m})
        for _ in range(50):
            thawtest.wait_for(lambda: not d.machines())
            other = d.client()
            other.send("snapshot.verify", {"path": path})
            new = []
            end = time.monotonic() + 1
            while not new and time.monotonic() < end:
                new = d.machines()
            for pid in new:
                os.kill(pid, signal.SIGSTOP)
            other.sock.setblocking(False)
            try:
                other.sock.recv(1)
            except BlockingIOError:
                other.close()
                if new:
                    break
            other.close()
            for pid in new:
                os.kill(pid, signal.SIGCONT)
        else:
            raise AssertionError("always done already")
        thawtest.wait_for(lambda: not [p for p in new if thawtest.alive(p)])
        assert api.call("snapshot.verify", {"path": path})["ok"]
    os.unlink(path)


if __name__ == "__main__":
    thawtest.main({n: tidy(f) if n.startswith("test_") else f for n, f in list(globals().items())})

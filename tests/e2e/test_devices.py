#!/usr/bin/python3
# timeout: 120
"""Disks, network interfaces and their overrides: what is wrong is refused by
name before anything starts, what is right reaches the machine. The built-in
guest has no driver for them; tests/linux/test_devices.py has."""

import hashlib
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import thawtest
from thawtest import Quiet, RpcError, Skip, wait_for


def image(d, name, size=1 << 20):
    path = os.path.join(d.dir, name)
    if not os.path.exists(path):
        with open(path, "wb") as f:
            f.write(os.urandom(4096) * (size // 4096) + b"x" * (size % 4096))
    return path


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


VSOCK = {"type": "vsock"}


def config(*devices):
    return {"memory": "64M", "devices": [VSOCK] + list(devices)}


def test_bad_devices(d):
    """Each mistake names the key or the device; nothing is started."""
    disk = image(d, "disk")
    block = {"type": "block", "path": disk}
    with Quiet(d), d.client() as c:
        def bad(code, devices, word):
            for method, more in (("machine.create", {}), ("template.create", {"name": "bad"})):
                params = dict({"config": config(*devices)}, **more)
                text = c.fails(code, method, params)
                assert word in text, (text, word)

        bad("invalid", [{"type": "block"}], "devices[1].path: is missing")
        bad("not_found", [{"type": "block", "path": d.dir + "/none"}], "disk0")
        bad("invalid", [dict(block, mac="02:00:00:00:00:01")], "not of its type")
        bad("invalid", [dict(block, queues=5)], "queues")
        bad("invalid", [dict(block, serial="x" * 21)], "serial")
        bad("invalid", [dict(block, read_only=1)], "read_only")
        bad("invalid", [dict(block, id="a"), dict(block, id="a")], '"a"')
        bad("invalid", [dict(block, id="/a")], "id")
        bad("invalid", [dict(block, read_only=True, overlay=True)], "overlay")
        bad("invalid", [block] * 9, "8 disks")
        bad("invalid", [{"type": "rng"}, {"type": "rng"}], "one rng")
        bad("invalid", [{"type": "net", "mac": "01:00:00:00:00:01"}], "mac")
        for mac in ("02:00:00:00:00", "02: 1:00:00:00:01", "02:00:00:00:00:+1",
                    "02:00:00:00:00-01", "02:00:00:00:00:0g", "02:00:00:00:00:0\0"):
            bad("invalid", [{"type": "net", "mac": mac}], "mac")
        bad("invalid", [{"type": "net", "mtu": 67}], "mtu")
        bad("not_found", [{"type": "net", "tap": "thaw-none"}], "thaw-none")
        bad("invalid", [{"type": "net", "tap": "lo"}], "not a tap")
        bad("not_found", [{"type": "net", "tap": "../x"}], "../x")
        mac = {"type": "net", "mac": "02:00:00:00:00:01"}
        bad("invalid", [mac, mac], "same mac")
        bad("invalid", [dict(mac, id="n"), dict(block, id="n")], '"n"')
        short = image(d, "short", 100)
        assert "shorter than a sector" in c.fails("invalid", "machine.create", {
            "config": config({"type": "block", "path": short, "id": "tiny"})})


def test_read_only_image(d):
    """An image that may only be read is no disk to write to."""
    if os.geteuid() == 0:
        raise Skip("root may write everything")
    disk = image(d, "ro-image")
    os.chmod(disk, 0o444)
    with Quiet(d), d.client() as c:
        c.fails("denied", "machine.create", {"config": config({"type": "block", "path": disk})})
        m = c.call("machine.create", {"config": config(
            {"type": "block", "path": disk, "read_only": True}), "ready": "agent"})["id"]
        c.call("machine.stop", {"id": m})


def test_descriptor_of_the_wrong_kind(d):
    disk = image(d, "disk")
    fd = os.open(disk, os.O_RDONLY)
    with Quiet(d), d.client() as c:
        text = c.fails("denied", "machine.create", {"config": config(
            {"type": "block", "path": {"fd": 0}})}, fds=[fd])
        assert "not open for writing" in text
        m = c.call("machine.create", {"config": config(
            {"type": "block", "path": {"fd": 0}, "read_only": True}), "ready": "agent"}, fds=[fd])["id"]
        c.call("machine.stop", {"id": m})
        text = c.fails("invalid", "machine.create", {"config": config(
            {"type": "net", "tap": 0})}, fds=[fd])
        assert "not a tap" in text
    os.close(fd)


def test_machine_and_restore(d):
    """A snapshot's disks are given again, by id; a smaller one is refused."""
    disk, before = image(d, "disk"), digest(image(d, "disk"))
    snap = d.dir + "/with-disk.thaw"
    with d.client() as c:
        m = c.call("machine.create", {"config": config(
            {"type": "block", "id": "root", "path": disk, "queues": 2},
            {"type": "block", "id": "ro", "path": disk, "read_only": True},
            {"type": "rng"}, {"type": "net", "id": "lan"}), "ready": "agent"})["id"]
        c.call("machine.snapshot", {"id": m, "path": snap})
        c.call("machine.stop", {"id": m})
        text = c.fails("invalid", "machine.create", {"snapshot": snap})
        assert 'disk "root"' in text and "was not given" in text, text
        small = image(d, "small", 65536)
        text = c.fails("invalid", "machine.create", {"snapshot": snap, "disks": {"root": small, "ro": disk}})
        assert 'disk "root"' in text and "65536" in text, text
        text = c.fails("invalid", "machine.create", {"snapshot": snap, "disks": {"rot": disk}})
        assert '"rot"' in text, text
        text = c.fails("invalid", "machine.create", {"snapshot": snap, "disks": {"root": disk, "ro": disk},
                                                     "macs": {"wan": "02:00:00:00:00:09"}})
        assert '"wan"' in text, text
        c.fails("invalid", "machine.create", {"config": {}, "disks": {"root": disk}})
        m = c.call("machine.create", {"snapshot": snap, "disks": {"root": disk, "ro": disk},
                                      "macs": {"lan": "02:00:00:00:00:09"}, "ready": "agent"})["id"]
        assert c.call("machine.invoke", {"id": m, "payload": b"echo x"})
        text = c.fails("busy", "machine.create", {"snapshot": snap, "disks": {"root": disk, "ro": disk},
                                                  "macs": {"lan": "02:00:00:00:00:09"}})
        assert "02:00:00:00:00:09 is the address of machine " + m in text, text
        c.call("machine.stop", {"id": m})
        # a template of it
        tried = d.log_text().count("starting it again")
        text = c.fails("invalid", "template.create", {"name": "again", "snapshot": snap})
        assert d.log_text().count("starting it again") == tried, "tried again what cannot go better"
        assert "was not given" in text, text
        c.call("template.create", {"name": "again", "snapshot": snap, "disks": {"root": disk, "ro": disk}})
        made = c.call("clone", {"template": "again", "count": 3})
        assert len(made["clones"]) == 3, made
        c.call("template.remove", {"name": "again", "force": True})
    assert digest(disk) == before


def test_overlay_is_not_in_a_snapshot(d):
    disk = image(d, "disk")
    snap = d.dir + "/overlay.thaw"
    with d.client() as c:
        m = c.call("machine.create", {"config": config(
            {"type": "block", "id": "root", "path": disk, "overlay": True}), "ready": "agent"})["id"]
        c.call("machine.snapshot", {"id": m, "path": snap})
        c.call("machine.stop", {"id": m})
        text = c.fails("invalid", "machine.create", {"snapshot": snap, "disks": {"root": disk}})
        assert "overlay" in text and '"root"' in text, text
        text = c.fails("invalid", "template.create", {"name": "o", "snapshot": snap, "disks": {"root": disk}})
        assert "overlay" in text, text


def test_overlay_is_kept_beside_a_snapshot(d):
    disk, before = image(d, "disk"), digest(image(d, "disk"))
    plain = image(d, "plain")
    snaps = [d.dir + "/kept%d.thaw" % i for i in range(2)]
    kept = [s + ".root" for s in snaps]
    with d.client() as c:
        m = c.call("machine.create", {"config": config(
            {"type": "block", "id": "root", "path": disk, "overlay": True},
            {"type": "block", "id": "plain", "path": plain}), "ready": "agent"})["id"]
        for bad, text in (({"none": kept[0]}, '"none"'), ({"plain": kept[0]}, "has no overlay"), ({"root": disk}, "must be empty")):
            open(kept[0], "w").close()
            said = c.fails("invalid", "machine.snapshot", {"id": m, "path": snaps[0], "overlays": bad})
            assert text in said and not os.path.exists(snaps[0]), said
        for i in range(2):
            open(kept[i], "w").close()
            c.call("machine.snapshot", {"id": m, "path": snaps[i], "overlays": {"root": kept[i]}, "live": i == 1})
        c.call("machine.stop", {"id": m})
        disks = {"root": disk, "plain": plain}
        p = {"snapshot": snaps[0], "disks": disks, "ready": "agent"}
        said = c.fails("invalid", "machine.create", p)
        assert "in a file of its own" in said and '"root"' in said, said
        said = c.fails("invalid", "machine.create", dict(p, overlays={"root": kept[1]}))
        assert "another snapshot" in said, said
        c.fails(("invalid", "corrupt"), "machine.create", dict(p, overlays={"root": disk}))
        said = c.fails("invalid", "machine.create", dict(p, overlays={"other": kept[0]}))
        assert '"other"' in said, said
        for i in range(2):
            with Quiet(d):
                m = c.call("machine.create", dict(p, snapshot=snaps[i], overlays={"root": kept[i]}))["id"]
                assert c.call("machine.invoke", {"id": m, "payload": b"echo x"})["payload"] == b"x"
                # A snapshot without it is one that cannot be restored.
                c.call("machine.snapshot", {"id": m, "path": d.dir + "/lost.thaw", "force": True})
                c.call("machine.stop", {"id": m})
        said = c.fails("invalid", "machine.create", dict(p, snapshot=d.dir + "/lost.thaw", overlays={"root": kept[1]}))
        assert "another snapshot" in said, said
        # By the command line, which makes the file and leaves none that is of no use.
        m = c.call("machine.create", dict(p, overlays={"root": kept[0]}))["id"]

        def thaw(*args):
            return subprocess.run([thawtest.program("thaw"), *args], env=dict(os.environ, THAW_SOCKET=d.sock), capture_output=True,
                                  text=True, check=False)

        again = d.dir + "/again"
        assert thaw("snapshot", m, snaps[0], "--overlay", "root=" + again).returncode == 1
        assert not os.path.exists(again)
        assert thaw("snapshot", m, again + ".thaw", "--overlay", "root=" + again).returncode == 0
        c.call("machine.stop", {"id": m})
        r = thaw("restore", again + ".thaw", "--disk", "root=" + disk, "--disk", "plain=" + plain, "--overlay", "root=" + again)
        assert r.returncode == 0, r.stderr
        c.call("machine.stop", {"id": r.stdout.strip()})
    assert digest(disk) == before


def test_template_and_clones(d):
    disk, before = image(d, "disk"), digest(image(d, "disk"))
    with d.client() as c:
        c.call("template.create", {"name": "disks", "pool": 2, "config": config(
            {"type": "block", "id": "root", "path": disk}, {"type": "net", "id": "lan"}, {"type": "rng"})})
        assert "disks" in [t["name"] for t in c.call("template.list")["templates"]]

        def bad(overrides, word, count=1):
            text = c.fails("invalid", "clone", {"template": "disks", "count": count, "overrides": overrides})
            assert word in text, (text, word)

        bad({"disks": {"none": disk}}, '"none"')
        bad({"macs": {"none": "02:00:00:00:00:01"}}, '"none"')
        bad({"macs": {"lan": "zz"}}, "macs")
        one = {"macs": {"lan": "02:00:00:00:00:01"}}
        bad([one, one], "same mac", 2)
        bad([{"cid": 77}, {"cid": 77}], "77", 2)
        text = c.fails("not_found", "clone", {"template": "disks", "overrides": {"taps": {"lan": "thaw-none"}}})
        assert "thaw-none" in text
        made = c.call("clone", {"template": "disks", "count": 8})
        assert len(made["clones"]) == 8, made
        made = c.call("clone", {"template": "disks", "overrides": one})
        assert len(made["clones"]) == 1, made
        macs_of_others(c, made["clones"][0]["id"], one)
    # a new daemon finds image and overlay again
    d.kill(signal.SIGTERM)
    d.start()
    with d.client() as c:
        made = c.call("clone", {"template": "disks", "count": 2})
        assert len(made["clones"]) == 2, made
        c.call("template.remove", {"name": "disks", "force": True})
    assert digest(disk) == before


def macs_of_others(c, has, one):
    """An address that a living machine has, by its configuration or since, is
    given to no other one."""
    def taken(overrides, who, count=1):
        text = c.fails("busy", "clone", {"template": "disks", "count": count, "overrides": overrides})
        assert "is the address of machine %s" % who in text and "02:00:00:00:00" in text, text

    taken(one, has)
    taken([{"macs": {"lan": "02:00:00:00:00:02"}}, one], has, 2)
    m = c.call("machine.create", {"config": config({"type": "net", "mac": "02:00:00:00:00:03"})})["id"]
    taken({"macs": {"lan": "02:00:00:00:00:03"}}, m)
    for ident in (has, m):
        c.call("machine.stop", {"id": ident})
    # Both are free, also the one that was asked for and not given.
    again = [dict(one), {"macs": {"lan": "02:00:00:00:00:02"}}, {"macs": {"lan": "02:00:00:00:00:03"}}]
    made = c.call("clone", {"template": "disks", "count": 3, "overrides": again})
    assert len(made["clones"]) == 3, made
    # Requests that come at once: one of them gets it.
    four = {"template": "disks", "overrides": {"macs": {"lan": "02:00:00:00:00:04"}}}
    sent = [c.send("clone", four) for _ in range(4)]
    got = []
    for i in sent:
        try:
            got += c.wait(i)["clones"]
        except RpcError as e:
            assert e.code == "busy" and "02:00:00:00:00:04" in str(e), e
    assert len(got) == 1, got


def test_tap_in_use(d):
    if os.geteuid() or not os.path.exists("/dev/net/tun") or subprocess.run(
            ["ip", "tuntap", "add", "thaw-t0", "mode", "tap"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("cannot make a tap")
    try:
        with d.client() as c:
            net = {"type": "net", "id": "lan", "tap": "thaw-t0"}
            m = c.call("machine.create", {"config": config(net), "ready": "agent"})["id"]
            text = c.fails("busy", "machine.create", {"config": config(net)})
            assert "thaw-t0 is in use" in text, text
            c.call("machine.stop", {"id": m})
            wait_for(lambda: starts(c, net))
    finally:
        subprocess.run(["ip", "link", "del", "thaw-t0"], check=True)


def starts(c, net):
    try:
        m = c.call("machine.create", {"config": config(net)})["id"]
    except RpcError as e:
        assert e.code == "busy", e.error
        return False
    c.call("machine.stop", {"id": m})
    return True


thawtest.main(globals())

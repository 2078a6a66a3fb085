#!/usr/bin/python3
# timeout: 200
"""thaw image build: what goes in comes out in the image, on a disk and in an
initrd; a hostile tar is refused; errors name what is wrong. Needs no KVM."""

import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile

from thawtest import program

DEBUGFS = shutil.which("debugfs") or "/sbin/debugfs"
E2FSCK = shutil.which("e2fsck") or "/sbin/e2fsck"


def build(d, source, out, *more, code=0):
    p = subprocess.run([program("thaw"), "image", "build", source, "-o", out, *more], cwd=d, timeout=60,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.returncode == code, "exit %d, not %d: %s" % (p.returncode, code, p.stderr)
    if code:
        assert p.stderr.count("\n") == 1 and p.stderr.startswith("thaw: image build: "), p.stderr
        assert not os.path.exists(os.path.join(d, out)), "something was left at the name"
        left = [f for f in os.listdir(d) if f.startswith(".thaw")]
        assert not left, left
    return p.stdout + p.stderr


def entry(name, kind=tarfile.REGTYPE, data=b"", mode=0o644, link="", uid=0, gid=0, dev=(0, 0), xattr=None):
    t = tarfile.TarInfo(name)
    t.type, t.mode, t.linkname, t.uid, t.gid, t.size = kind, mode, link, uid, gid, len(data)
    t.devmajor, t.devminor = dev
    t.mtime = 1000000000
    for k, v in (xattr or {}).items():
        t.pax_headers["SCHILY.xattr." + k] = v
    return t, data


def tar(path, entries):
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as f:
        for t, data in entries:
            f.addfile(t, io.BytesIO(data))


BIG = os.urandom(1 << 20) * 3

GOOD = [
    entry("./", tarfile.DIRTYPE, mode=0o755),
    entry("./usr/sbin/", tarfile.DIRTYPE, mode=0o750, uid=7, gid=8),
    entry("sbin", tarfile.SYMTYPE, link="usr/sbin", mode=0o777),
    entry("etc/secret", data=b"x" * 5000, mode=0o4640, uid=1234, gid=70000, xattr={"user.colour": "blue"}),
    entry("etc/again", tarfile.LNKTYPE, link="./etc/secret"),
    entry("dev/null", tarfile.CHRTYPE, dev=(1, 3), mode=0o666),
    entry("dev/vda", tarfile.BLKTYPE, dev=(259, 300), mode=0o600),
    entry("run/pipe", tarfile.FIFOTYPE, mode=0o622),
    entry("opt/long", tarfile.SYMTYPE, link="/x" * 100, mode=0o777),
    entry("opt/out", tarfile.SYMTYPE, link="../../../etc/passwd", mode=0o777),
    entry("opt/big", data=BIG),
    entry("opt/empty"),
] + [entry("many/%d-%s" % (i, "n" * 60), data=b"%d" % i) for i in range(300)]


def debugfs(image, *commands):
    p = subprocess.run([DEBUGFS, "-f", "-", image], input="\n".join(commands) + "\n", timeout=60,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return p.stdout


def inode(image, path):
    """mode, uid, gid, links, size of a path as debugfs tells them."""
    s = debugfs(image, "stat " + path)
    m = re.search(r"Type: (\S+(?: special)?)\s+Mode:\s+(\d+)", s)
    assert m, "%s: %s" % (path, s)
    num = {k: int(v) for k, v in reversed(re.findall(r"(User|Group|Links|Size):\s+(\d+)", s))}
    return m[1], int(m[2], 8), num["User"], num["Group"], num["Links"], num["Size"], s


def test_disk_keeps_all():
    with tempfile.TemporaryDirectory() as d:
        tar(d + "/in.tgz", GOOD)
        build(d, "in.tgz", "out.img")
        img = d + "/out.img"
        subprocess.run([E2FSCK, "-fn", img], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert inode(img, "/etc/secret")[:6] == ("regular", 0o4640, 1234, 70000, 2, 5000)
        assert "blue" in debugfs(img, "ea_list /etc/secret")
        assert inode(img, "/usr/sbin")[1:4] == (0o750, 7, 8)
        assert "Device major/minor number: 01:03" in inode(img, "/dev/null")[6]
        assert "Device major/minor number: 259:300" in inode(img, "/dev/vda")[6]
        assert inode(img, "/run/pipe")[0] == "FIFO"
        assert "../../../etc/passwd" in inode(img, "/opt/out")[6]
        assert inode(img, "/opt/long")[5] == 200
        debugfs(img, "dump /opt/big %s/big" % d, "dump /usr/sbin/thaw-agent %s/agent" % d)
        with open(d + "/big", "rb") as f:
            assert hashlib.sha256(f.read()).digest() == hashlib.sha256(BIG).digest()
        with open(d + "/agent", "rb") as f, open(program("thaw-agent"), "rb") as g:
            assert f.read() == g.read()
        assert inode(img, "/usr/sbin/init")[0] == "symlink"
        assert debugfs(img, "ls /many").count("-nnn") == 300


def cpio(path):
    """name -> (mode, uid, gid, nlink, ino, rdev, data) of a newc archive."""
    out = {}
    with open(path, "rb") as f:
        raw = f.read()
    at = 0
    while True:
        assert raw[at:at + 6] == b"070701", raw[at:at + 6]
        h = [int(raw[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        name = raw[at + 110:at + 110 + h[11] - 1].decode()
        data = (at + 110 + h[11] + 3) & ~3
        if name == "TRAILER!!!":
            return out
        assert name not in out
        parent = os.path.dirname(name)
        assert not parent or stat.S_ISDIR(out[parent][0]), "no directory for " + name
        out[name] = (h[1], h[2], h[3], h[4], h[0], (h[9], h[10]), raw[data:data + h[6]])
        at = (data + h[6] + 3) & ~3


def test_initrd_keeps_all():
    with tempfile.TemporaryDirectory() as d:
        tar(d + "/in.tgz", GOOD)
        build(d, "in.tgz", "out.cpio", "--initrd")
        c = cpio(d + "/out.cpio")
        assert c["etc/secret"][:3] == (stat.S_IFREG | 0o4640, 1234, 70000)
        assert c["etc/secret"][6] == b"x" * 5000 and c["etc/secret"][3] >= 2
        assert c["etc/again"][4] == c["etc/secret"][4]
        assert c["opt/empty"][4] != c["opt/big"][4]
        assert c["dev/null"][5] == (1, 3) and c["dev/console"][5] == (5, 1)
        assert c["opt/big"][6] == BIG
        assert c["sbin"][6] == b"usr/sbin" and c["init"][6] == b"sbin/thaw-agent"
        assert "usr/sbin/thaw-agent" in c and "many/299-" + "n" * 60 in c


def test_directory_and_options():
    with tempfile.TemporaryDirectory() as d:
        os.makedirs(d + "/root/bin")
        with open(d + "/root/bin/a", "w") as f:
            f.write("a")
        os.link(d + "/root/bin/a", d + "/root/bin/b")
        os.symlink("a", d + "/root/bin/c")
        with open(d + "/handler", "w") as f:
            f.write("#!/bin/sh\n")
        mods = d + "/lib/modules/1.2.3/kernel/drivers"
        os.makedirs(mods)
        for name, needs in ("virtio_blk", "virtio"), ("virtio", "virtio-ring"), ("virtio-ring", ""), ("other", ""):
            with open("%s/%s.ko" % (mods, name), "wb") as f:
                f.write(b"\x7fELF\0license=GPL\0depends=%s\0" % needs.encode())
        with open(mods + "/virtio.ko", "rb") as f, lzma.open(mods + "/virtio.ko.xz", "wb") as g:
            g.write(f.read())
        os.unlink(mods + "/virtio.ko")
        build(d, "root", "out.cpio", "--initrd", "--handler", "handler", "--owner", "5:6",
              "--modules", "lib/modules/1.2.3")
        c = cpio(d + "/out.cpio")
        assert c["bin/a"][1:3] == (5, 6) and c["bin/a"][4] == c["bin/b"][4] and c["bin/c"][6] == b"a"
        assert c["etc/thaw/handler"][0] == stat.S_IFREG | 0o755
        assert c["lib/modules/1.2.3/virtio.ko"][6].startswith(b"\x7fELF")
        assert "lib/modules/1.2.3/other.ko" not in c
        dep = c["lib/modules/1.2.3/modules.dep"][6].decode().splitlines()
        assert "virtio_blk.ko: virtio.ko virtio-ring.ko" in dep, dep
        build(d, "root", "out2.img", "--size", "40M")
        assert os.path.getsize(d + "/out2.img") == 40 << 20


def test_init():
    """The agent instead of the source's init, or as its service."""
    system = [
        entry("lib", tarfile.SYMTYPE, link="usr/lib"), entry("sbin", tarfile.SYMTYPE, link="usr/sbin"),
        entry("usr/lib/systemd/systemd", data=b"systemd", mode=0o755),
        entry("usr/sbin/init", tarfile.SYMTYPE, link="/lib/systemd/systemd"), entry("init", data=b"old", mode=0o755),
    ]
    unit = "etc/systemd/system/thaw-agent.service"
    wanted = "etc/systemd/system/multi-user.target.wants/thaw-agent.service"
    with tempfile.TemporaryDirectory() as d:
        tar(d + "/system.tgz", system)
        tar(d + "/bare.tgz", [entry("etc/x", data=b"x")])
        tar(d + "/other.tgz", [entry("sbin/init", data=b"other", mode=0o755)])

        def made(source, *more):
            build(d, source, "out.cpio", "--initrd", "--force", *more)
            return cpio(d + "/out.cpio")

        c = made("system.tgz", "--init", "own")
        assert c["usr/sbin/init"][6] == b"/lib/systemd/systemd" and c["init"][6] == b"old"
        assert b"ExecStart=/sbin/thaw-agent\n" in c[unit][6] and c[wanted][6] == b"/" + unit.encode()
        c = made("system.tgz", "--init", "agent")
        assert c["init"][6] == b"sbin/thaw-agent" and unit not in c
        c = made("system.tgz")
        assert c["init"][6] == b"old" and unit not in c
        # Without an /init of its own the initrd starts the system's.
        tar(d + "/system2.tgz", system[:-1])
        assert made("system2.tgz", "--init", "own")["init"][6] == b"sbin/init"
        # On a disk it is /sbin/init that counts.
        for how, target in (("agent", "thaw-agent"), ("own", "/lib/systemd/systemd")):
            build(d, "system.tgz", "out.img", "--force", "--init", how)
            stat = subprocess.run([DEBUGFS, "-R", "stat /usr/sbin/init", d + "/out.img"], stdout=subprocess.PIPE, text=True,
                                  stderr=subprocess.DEVNULL, check=True).stdout
            assert '"%s"' % target in stat, stat
        for source, text in (("bare.tgz", "no /sbin/init"), ("other.tgz", "no systemd")):
            assert text in build(d, source, "none", "--init", "own", code=1)
        build(d, "bare.tgz", "none", "--init", "systemd", code=2)


HOSTILE = {
    "up": [entry("../evil", data=b"x")],
    "deep up": [entry("a/../../evil", data=b"x")],
    "below a link": [entry("a", tarfile.SYMTYPE, link="/tmp"), entry("a/evil", data=b"x")],
    "below a file": [entry("a", data=b"x"), entry("a/evil", data=b"x")],
    "twice": [entry("a", data=b"x"), entry("a", tarfile.SYMTYPE, link="/etc")],
    "link to nothing": [entry("a", tarfile.LNKTYPE, link="/etc/passwd")],
    "link up": [entry("a", tarfile.LNKTYPE, link="../../etc/passwd")],
    "link to a directory": [entry("d", tarfile.DIRTYPE), entry("a", tarfile.LNKTYPE, link="d")],
}


def test_hostile_tars_are_refused():
    with tempfile.TemporaryDirectory() as d:
        os.mkdir(d + "/work")
        for name, entries in HOSTILE.items():
            tar(d + "/work/in.tgz", entries)
            for kind in ((), ("--initrd",)):
                text = build(d + "/work", "in.tgz", "out", *kind, code=5)
                assert '"' in text, "%s: %s" % (name, text)
        assert os.listdir(d) == ["work"]
        assert not os.path.exists("/tmp/evil")


def test_bad_input_has_a_name():
    with tempfile.TemporaryDirectory() as d:
        tar(d + "/in.tgz", GOOD)
        assert "no/such" in build(d, "no/such", "out", code=3)
        with open(d + "/junk", "wb") as f:
            f.write(os.urandom(4096))
        assert "neither a directory nor a tar" in build(d, "junk", "out", code=5)
        with open(d + "/in.tgz", "rb") as f, open(d + "/cut.tgz", "wb") as g:
            g.write(f.read()[:20000])
        build(d, "cut.tgz", "out", code=5)
        assert "--size" in build(d, "in.tgz", "out", "--size", "8M", code=1)
        assert "thaw-agent" in build(d, "in.tgz", "out", "--agent", "/none/thaw-agent", code=3)
        assert "lib/modules/VERSION" in build(d, "in.tgz", "out", "--modules", d, code=1)
        assert "UID:GID" in build(d, "in.tgz", "out", "--owner", "root", code=2)
        p = subprocess.run([program("thaw"), "image", "build", "in.tgz"], cwd=d, stderr=subprocess.PIPE)
        assert p.returncode == 2
        build(d, "in.tgz", "out", "--initrd")
        p = subprocess.run([program("thaw"), "image", "build", "in.tgz", "--initrd", "-o", "out"], cwd=d,
                           stderr=subprocess.PIPE, text=True)
        assert p.returncode == 1 and "exists" in p.stderr, p.stderr
        build(d, "in.tgz", "out", "--initrd", "--force")


def main():
    tests = [(n, f) for n, f in globals().items() if n.startswith("test_")]
    print("1..%d" % len(tests))
    bad = 0
    for i, (name, f) in enumerate(tests, 1):
        try:
            f()
            print("ok %d - %s" % (i, name), flush=True)
        except Exception as e:  # pylint: disable=broad-except
            bad += 1
            print("not ok %d - %s\n# %s: %s" % (i, name, type(e).__name__, str(e).replace("\n", "\n# ")), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

#!/usr/bin/python3
"""A host without KVM, or without the right to use it: said clearly, with what
to do about it; the daemon runs and serves what needs no KVM. The device is
hidden or replaced in a mount namespace of our own.
"""

import os
import subprocess
import sys
import tempfile
import traceback

import thawtest
from thawtest import Daemon, Skip

CLONE_NEWNS = 0x20000


def in_namespace(prepare, body):
    """Fork, make /dev/kvm what prepare wants, run body; its exit code is 0."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            import ctypes

            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNS):
                os._exit(77)
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            prepare()
            body()
            code = 0
        except BaseException:
            print("".join("# %s\n" % x for x in traceback.format_exc().splitlines()), flush=True)
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 77:
        raise Skip("may not make a mount namespace")
    assert code == 0


def hide():
    """A /dev without kvm."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev"], check=True)
    subprocess.run("mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && mkdir /dev/shm", shell=True, check=True)


def not_kvm():
    """Something else under its name."""
    subprocess.run(["mount", "--bind", "/dev/null", "/dev/kvm"], check=True)


def tell_tale(words):
    def body():
        d = Daemon()
        try:
            with d.client() as c:
                assert c.call("server.info")["host"]["kind"] == "none"
                for method, params in (
                    ("template.create", {"name": "x", "config": {}}),
                    ("machine.create", {"config": {}}),
                ):
                    text = c.fails(("unsupported", "denied", "not_found"), method, params)
                    assert any(w in text for w in words), text
                assert not c.call("template.list")["templates"]
                assert not [m for m in c.call("machine.list")["machines"] if m["state"] != "ended"]
        finally:
            d.close()
        r = subprocess.run([thawtest.program("thaw"), "doctor"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert r.returncode == 4, r
        assert any(w in r.stdout + r.stderr for w in words), r

    return body


def test_no_device(_):
    in_namespace(hide, tell_tale(["/dev/kvm"]))


def test_device_is_not_kvm(_):
    in_namespace(not_kvm, tell_tale(["/dev/kvm"]))


def test_no_permission(d):
    """As somebody who may not open it."""
    machine = thawtest.program("thaw-machine")
    sys.stdout.flush()
    if not os.stat("/dev/kvm").st_mode & 0o006 == 0:
        raise Skip("everybody may open /dev/kvm here")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            tempfile.tempdir = "/tmp"  # the runner's own is not for everybody
            if not os.access(machine, os.X_OK):
                os._exit(77)
            r = subprocess.run([machine, "--probe"], capture_output=True, text=True)
            assert r.returncode == 4 and "ermission" in r.stdout, r
            d = Daemon()
            try:
                with d.client() as c:
                    text = c.fails(("denied", "unsupported"), "template.create", {"name": "x", "config": {}})
                    assert "/dev/kvm" in text, text
            finally:
                d.close()
            code = 0
        except BaseException as e:
            print("# %r" % e, flush=True)
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 77:
        raise Skip("others may not execute what was built here")
    assert code == 0


def test_what_needs_no_kvm_works(d):
    """inspect and verify never open the device."""
    path = os.path.join(d.dir, "s.thaw")
    with d.client() as c:
        m = c.call("machine.create", {"config": {"memory": "64M"}, "ready": "agent"})["id"]
        c.call("machine.snapshot", {"id": m, "path": path})
        c.call("machine.stop", {"id": m})

    def body():
        for cmd in ("inspect", "verify"):
            r = subprocess.run([thawtest.program("thaw"), cmd, path], capture_output=True, text=True)
            assert r.returncode == 0 and r.stdout, r
        e = Daemon()
        try:
            with e.client() as c:
                assert c.call("snapshot.verify", {"path": path})["pages"] > 0
                assert c.call("snapshot.inspect", {"path": path})
                c.fails(("unsupported", "not_found"), "machine.create", {"snapshot": path})
        finally:
            e.close()

    in_namespace(hide, body)


if __name__ == "__main__":
    thawtest.main(globals())

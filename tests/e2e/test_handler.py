#!/usr/bin/python3
"""Machines whose memory comes from a handler of somebody else, by the
handshake of Firecracker's (restore --pager): this one reads the file that
thaw convert --memory writes. And handlers that fail.
"""
# timeout: 120

import array
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

import thawtest
from test_lazy import TOUCHED, allowed, snapshot
from thawtest import Quiet, alive, program, wait_for

PAGE = 4096
UFFDIO_COPY = 0xC028AA03
EVENT_PAGEFAULT = 0x12


def memory_file(d):
    path = os.path.join(d.dir, "s.mem")
    if not os.path.exists(path):
        subprocess.run(
            [program("thaw"), "convert", snapshot(d), "--memory", "-o", path],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return path


class Handler:
    """A process that serves one machine. pages: how many it brings before it
    does what `then` says: "stall", "close" or "die"; None: no end."""

    def __init__(self, d, pages=None, then=None, accept=True):
        self.path = os.path.join(d.dir, "handler.sock")
        self.said = os.path.join(d.dir, "handler.json")
        for p in (self.path, self.said):
            if os.path.exists(p):
                os.unlink(p)
        memory = memory_file(d)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen(1)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if accept:
                    self.serve(listener, memory, pages, then)
                else:
                    signal.pause()
            finally:
                os._exit(0)
        listener.close()

    def serve(self, listener, memory, pages, then):
        conn, _ = listener.accept()
        text, fds, _, _ = socket.recv_fds(conn, 65536, 8)
        pid = struct.unpack("iII", conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        regions = json.loads(text)
        with open(self.said + ".new", "w") as f:
            json.dump({"regions": regions, "fds": len(fds), "peer": pid}, f)
        os.rename(self.said + ".new", self.said)
        uffd = fds[0]
        source = open(memory, "rb")
        buf = ctypes.create_string_buffer(PAGE)
        poll = select.poll()
        poll.register(uffd, select.POLLIN)
        poll.register(conn, select.POLLRDHUP)
        while True:
            for fd, what in poll.poll():
                if fd == conn.fileno():
                    os._exit(0)
                try:
                    events = os.read(uffd, 32 * 16)
                except BlockingIOError:
                    continue
                for at in range(0, len(events), 32):
                    kind, addr = struct.unpack_from("B15xQ", events, at)
                    assert kind == EVENT_PAGEFAULT, kind
                    if pages is not None:
                        if not pages:
                            self.end(conn, then)
                        pages -= 1
                    self.bring(uffd, regions, source, buf, addr & ~(PAGE - 1))

    @staticmethod
    def bring(uffd, regions, source, buf, addr):
        for r in regions:
            base = r["base_host_virt_addr"]
            if base <= addr < base + r["size"]:
                source.seek(addr - base + r["offset"])
                buf.raw = source.read(PAGE)
        copy = struct.pack("QQQQq", addr, ctypes.addressof(buf), PAGE, 0, 0)
        try:
            fcntl.ioctl(uffd, UFFDIO_COPY, copy)
        except FileExistsError:
            pass

    @staticmethod
    def end(conn, then):
        if then == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if then == "close":
            conn.shutdown(socket.SHUT_RDWR)
            conn.close()
        while True:
            signal.pause()

    def heard(self):
        with open(self.said) as f:
            return json.load(f)

    def close(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def restore(c, d, h, **more):
    params = {"snapshot": snapshot(d), "pager": "unix:" + h.path, "ready": "agent"}
    params.update(more)
    return c.call("machine.create", params)["id"]


def test_answers(d):
    memory_file(d)
    with Quiet(d), d.client() as c, Handler(d) as h:
        i = restore(c, d, h)
        r = c.call("machine.invoke", {"id": i, "payload": b"check %d" % TOUCHED})
        assert r["payload"] == b"right %d MiB" % TOUCHED, r
        m = c.call("machine.show", {"id": i})
        assert m["pager"] == {"state": "on demand", "path": h.path}, m["pager"]
        said = h.heard()
        assert said["fds"] == 1 and said["peer"] == m["pids"]["machine"], said
        assert len(said["regions"]) == 1, said
        reg = said["regions"][0]
        assert reg["offset"] == 0 and reg["size"] == m["memory"]["size"], reg
        assert reg["page_size"] == reg["page_size_kib"] == PAGE, reg
        assert reg["base_host_virt_addr"] % PAGE == 0, reg
        assert set(reg) == {"base_host_virt_addr", "size", "offset", "page_size", "page_size_kib"}
        text = c.fails("unsupported", "machine.snapshot", {"id": i, "path": h.path + ".no"})
        assert "external pager" in text, text
        text = c.fails("unsupported", "template.create", {"name": "no", "machine": i})
        assert "external pager" in text, text
        c.call("machine.stop", {"id": i})
        # it hears of the end
        wait_for(lambda: not alive(h.pid))


def test_command_line(d):
    with Quiet(d), Handler(d) as h:
        thaw = [program("thaw"), "restore", snapshot(d), "--socket", d.sock]
        r = subprocess.run(
            thaw + ["--pager", "unix:" + os.path.relpath(h.path), "--ready", "agent"],
            capture_output=True,
            text=True,
        )
        assert r.returncode == 0, r.stderr
        with d.client() as c:
            i = r.stdout.strip()
            assert c.call("machine.invoke", {"id": i, "payload": b"check 4"})["payload"] == b"right 4 MiB"
            c.call("machine.stop", {"id": i})
        for more in (["--lazy"], ["--eager"]):
            r = subprocess.run(thaw + ["--pager", "unix:/x"] + more, capture_output=True, text=True)
            assert r.returncode == 2 and "--pager" in r.stderr, r
        r = subprocess.run(thaw + ["--pager", h.path], capture_output=True, text=True)
        assert r.returncode == 2 and "unix:PATH" in r.stderr, r


def fails_when(d, pages, then, code, words):
    """A machine whose handler fails: after the restore, and during it."""
    with Quiet(d), d.client() as c:
        with Handler(d, pages, then) as h:
            start = time.monotonic()
            if pages < 100:
                text = c.fails(code, "machine.create", {
                    "snapshot": snapshot(d), "pager": "unix:" + h.path, "ready": "agent", "stall_ms": 600})
            else:
                i = restore(c, d, h, stall_ms=600)
                text = c.fails(code, "machine.invoke", {"id": i, "payload": b"check 8"})
                m = c.call("machine.show", {"id": i})
                assert m["state"] == "ended" and m["end"]["text"] == text, (m, text)
                c.call("machine.stop", {"id": i})
            assert words in text and h.path in text, text
            assert time.monotonic() - start < 30
        c.call("server.info")


def test_handler_stalls(d):
    for pages in (0, 5, 700):
        fails_when(d, pages, "stall", "timeout", "no page for 600 ms")


def test_handler_closes(d):
    for pages in (0, 5, 700):
        fails_when(d, pages, "close", "internal", "is gone")


def test_handler_dies(d):
    for pages in (0, 5, 700):
        fails_when(d, pages, "die", "internal", "is gone")


def test_handler_never_accepts(d):
    """The kernel takes the connection and the message; nobody reads them."""
    memory_file(d)
    with Quiet(d), d.client() as c, Handler(d, accept=False) as h:
        params = {"snapshot": snapshot(d), "pager": "unix:" + h.path, "stall_ms": 500}
        text = c.fails("timeout", "machine.create", params)
        assert "no page for 500 ms" in text, text
        # its backlog is full now
        held = []
        for _ in range(4):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            s.setblocking(False)
            held.append(s)
            if s.connect_ex(h.path):
                break
        text = c.fails("timeout", "machine.create", params)
        assert "accept" in text and "500 ms" in text, text
        for s in held:
            s.close()


def test_slow_is_not_dead(d):
    """One page now and then, and somebody waits all the time."""
    memory_file(d)
    bring = Handler.bring
    count = [0]

    def slowly(*args):
        # the agent is ready by then
        count[0] += 1
        if count[0] > 700:
            time.sleep(0.3)
        bring(*args)

    with Quiet(d), d.client() as c:
        Handler.bring = staticmethod(slowly)
        try:
            h = Handler(d)
        finally:
            Handler.bring = staticmethod(bring)
        with h:
            i = restore(c, d, h, stall_ms=700)
            n = c.send("machine.invoke", {"id": i, "payload": b"check 8"})
            time.sleep(4)
            with d.client() as other:
                m = other.call("machine.show", {"id": i})
                assert m["state"] == "running", m
                assert m["pager"]["state"] == "waited for", m
                other.call("machine.stop", {"id": i})
            try:
                c.wait(n)
                raise AssertionError("too fast to say anything")
            except thawtest.RpcError:
                pass


def test_refused(d):
    path = snapshot(d)
    sock = os.path.join(d.dir, "none.sock")
    with Quiet(d), d.client() as c:
        ask = {"snapshot": path, "pager": "unix:" + sock}
        c.fails("not_found", "machine.create", ask)
        with open(sock, "w"):
            pass
        text = c.fails("invalid", "machine.create", ask)
        assert "not a socket" in text, text
        os.unlink(sock)
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.bind(sock)
        # nobody listens
        text = c.fails("internal", "machine.create", ask)
        assert "refused" in text, text
        for bad in ("unix:", "unix:x", "/x", "tcp://a:1"):
            text = c.fails("invalid", "machine.create", {"snapshot": path, "pager": bad})
            assert "unix:/PATH" in text, text
        c.fails("invalid", "machine.create", {"config": {}, "pager": "unix:" + sock})
        for more in ({"lazy": True}, {"fill": "none"}, {"fill_rate": 3}, {"track_dirty": True}):
            text = c.fails("invalid", "machine.create", {**ask, **more})
            assert "pager" in text, text
        c.fails("invalid", "template.create", {"name": "x", **ask})
        # a datagram socket is not one to connect to
        s.close()
        os.unlink(sock)
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        s.bind(sock)
        c.fails("internal", "machine.create", ask)
        s.close()


def test_rights_of_the_client(d):
    """The daemon's own rights do not count."""
    if os.geteuid() != 0:
        raise thawtest.Skip("needs root")
    with Quiet(d), Handler(d) as h:
        os.chmod(h.path, 0o600)
        code = (
            "import sys; sys.path.insert(0, %r); import thawtest\n"
            "c = thawtest.Client(%r)\n"
            "print(c.fails('denied', 'machine.create', {'snapshot': %r, 'pager': %r}))\n"
        )
        os.chmod(d.dir, 0o755)
        os.chmod(d.sock, 0o666)
        os.chmod(snapshot(d), 0o644)
        code %= (thawtest.HERE, d.sock, snapshot(d), "unix:" + h.path)
        r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, user=65534, group=65534, extra_groups=[])
        assert r.returncode == 0 and h.path in r.stdout, r


if __name__ == "__main__":
    if not allowed():
        print("1..0 # SKIP userfaultfd is not allowed here")
        sys.exit(77)
    thawtest.main(globals())

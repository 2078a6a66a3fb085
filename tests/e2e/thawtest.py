"""What the end-to-end tests share: a client that speaks the public msgpack-rpc
spec with nothing but a socket and Python's msgpack, a daemon of our own in a
temporary directory, a check that nothing is left behind, and TAP output.

A test file defines functions named test_*, each taking a Daemon, and ends with
thawtest.main(globals()).
"""

import array
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

try:
    import msgpack
except ImportError:
    print("1..0 # SKIP python3-msgpack is not installed")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))


def program(name):
    """Path of one of our executables: $THAW_BUILD, build/, or PATH."""
    for d in (os.environ.get("THAW_BUILD"), os.path.join(TOP, "build")):
        if d and os.access(os.path.join(d, name), os.X_OK):
            return os.path.abspath(os.path.join(d, name))
    found = shutil.which(name)
    if not found:
        raise RuntimeError("no executable " + name)
    return found


class Skip(Exception):
    pass


class RpcError(Exception):
    def __init__(self, error):
        super().__init__(str(error))
        self.error = error
        self.code = error.get("code") if isinstance(error, dict) else None
        self.message = error.get("message", "") if isinstance(error, dict) else str(error)


class Client:
    """One connection. Requests may overlap: send() now, wait() later."""

    def __init__(self, path, timeout=60):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)  # while it blocks: a full backlog waits
        self.sock.settimeout(timeout)
        self.unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=64 << 20)
        self.next_id = 1
        self.answers = {}
        self.notes = []

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send_bytes(self, data, fds=()):
        if fds:
            n = self.sock.sendmsg(
                [data],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))],
            )
            data = data[n:]
        self.sock.sendall(data)

    def send(self, method, params=None, fds=(), msgid=None):
        if msgid is None:
            msgid = self.next_id
            self.next_id += 1
        args = [] if params is None else [params]
        self.send_bytes(msgpack.packb([0, msgid, method, args], use_bin_type=True), fds)
        return msgid

    def read(self):
        """Next message of any kind; None at the end of the stream."""
        while True:
            for m in self.unpacker:
                return m
            data = self.sock.recv(1 << 20)
            if not data:
                return None
            self.unpacker.feed(data)

    def wait(self, msgid):
        while msgid not in self.answers:
            m = self.read()
            if m is None:
                raise ConnectionError("the daemon closed the connection")
            if m[0] == 1:
                self.answers[m[1]] = m
            elif m[0] == 2:
                self.notes.append(m)
            else:
                raise AssertionError("unexpected message %r" % (m,))
        _, _, error, result = self.answers.pop(msgid)
        if error is not None:
            raise RpcError(error)
        return result

    def call(self, method, params=None, fds=()):
        return self.wait(self.send(method, params, fds))

    def fails(self, code, method, params=None, fds=()):
        """The call must fail with this code; returns the message."""
        try:
            r = self.call(method, params, fds)
        except RpcError as e:
            codes = code if isinstance(code, tuple) else (code,)
            assert e.code in codes, "%s: expected %s, got %r" % (method, code, e.error)
            assert e.message, "an error without a message"
            return e.message
        raise AssertionError("%s succeeded: %r" % (method, r))


def children_of(pid):
    """All living descendants of a process."""
    parents = {}
    for d in os.listdir("/proc"):
        if not d.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % d) as f:
                rest = f.read().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if rest[0] not in "ZX":
            parents.setdefault(int(rest[1]), []).append(int(d))
    out, todo = [], [pid]
    while todo:
        for c in parents.get(todo.pop(), []):
            out.append(c)
            todo.append(c)
    return out


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(what, seconds=10.0, step=0.02):
    """Poll until what() is true; its value, or an AssertionError."""
    end = time.monotonic() + seconds
    while True:
        v = what()
        if v:
            return v
        if time.monotonic() > end:
            raise AssertionError("did not happen in %g s: %s" % (seconds, getattr(what, "__name__", what)))
        time.sleep(step)


class Daemon:
    """A thawd in a directory of its own."""

    def __init__(self, *options, prefix=()):
        self.dir = tempfile.mkdtemp(prefix="thaw-test-")
        self.options = list(options)
        self.prefix = list(prefix)  # a command that execs the daemon
        self.sock = os.path.join(self.dir, "thaw.sock")
        self.state = os.path.join(self.dir, "state")
        self.log = open(os.path.join(self.dir, "log"), "ab")
        self.proc = None
        self.start()

    def start(self):
        self.proc = subprocess.Popen(
            self.prefix + [program("thawd"), "--socket", self.sock, "--state-dir", self.state] + self.options,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        end = time.monotonic() + 20
        while True:
            try:
                self.client().close()
                return
            except (FileNotFoundError, ConnectionRefusedError):
                if self.proc.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("thawd did not start:\n" + self.log_text())
                time.sleep(0.01)

    def client(self, timeout=60):
        return Client(self.sock, timeout)

    def log_text(self):
        self.log.flush()
        with open(os.path.join(self.dir, "log"), errors="replace") as f:
            return f.read()

    def told(self):
        """What it and its machines said last, for the report of a failure."""
        text = "thawd's log:\n" + self.log_text()[-4000:]
        try:
            with self.client(timeout=10) as c:
                for m in c.call("machine.list")["machines"]:
                    data = c.call("machine.logs", {"id": m["id"]})["data"]
                    said = data if isinstance(data, str) else data.decode("utf8", "replace")
                    text += "\nmachine %s, %s, said last:\n%s" % (m["id"], m["state"], said[-3000:])
        except Exception as e:
            text += "\nand no more: %r" % e
        return text

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.proc.pid))

    def machines(self):
        return children_of(self.proc.pid)

    def kill(self, sig=signal.SIGKILL):
        """End the daemon; every process it had must end too."""
        left = self.machines()
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        self.proc.wait(30)
        wait_for(lambda: not [p for p in left if alive(p)], 20)

    def close(self):
        try:
            self.kill(signal.SIGTERM)
            assert self.proc.returncode == 0, "thawd exited with %r:\n%s" % (
                self.proc.returncode,
                self.log_text(),
            )
            assert not os.path.exists(self.sock), "the socket is left behind"
        finally:
            if self.proc.poll() is None:
                self.proc.kill()
                self.proc.wait()
            self.log.close()
            shutil.rmtree(self.dir, ignore_errors=True)

    def template(self, name="t", **more):
        with self.client() as c:
            params = {"name": name, "config": {"memory": "128M"}, "ready": "agent"}
            params.update(more)
            return c.call("template.create", params)


class Quiet:
    """The daemon is back to what it was: processes, descriptors, state."""

    def __init__(self, daemon):
        self.d = daemon

    def __enter__(self):
        wait_for(self.settled, 20)
        self.procs = len(self.d.machines())
        self.fds = self.d.fds()
        return self

    def settled(self):
        with self.d.client() as c:
            g = c.call("metrics")["gauges"]
        return not g.get("pool_filling", 0)

    def same(self):
        return len(self.d.machines()) <= self.procs and self.d.fds() <= self.fds

    def __exit__(self, kind, *_):
        if kind:
            return
        try:
            wait_for(self.same, 20)
        except AssertionError:
            raise AssertionError(
                "left behind: %d processes (were %d), %d descriptors (were %d)"
                % (len(self.d.machines()), self.procs, self.d.fds(), self.fds)
            )


def kvm_or_skip():
    r = subprocess.run([program("thaw-machine"), "--probe"], capture_output=True, text=True)
    if r.returncode:
        raise Skip("no usable KVM: " + r.stdout.strip().replace("\n", "; "))


def main(names, options=(), needs_kvm=True):
    tests = [(n, f) for n, f in names.items() if n.startswith("test_") and callable(f)]
    only = sys.argv[1:]
    if only:
        tests = [t for t in tests if t[0] in only]
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda *_: sys.exit(130))
    try:
        if needs_kvm:
            kvm_or_skip()
    except Skip as e:
        print("1..0 # SKIP %s" % e)
        sys.exit(77)
    print("1..%d" % len(tests), flush=True)
    failed = 0
    daemon = None
    try:
        for i, (name, f) in enumerate(tests, 1):
            note, ok = "", "ok"
            start = time.monotonic()
            try:
                if daemon is None or daemon.proc.poll() is not None:
                    daemon = Daemon(*options)
                f(daemon)
            except Skip as e:
                note = " # SKIP %s" % e
            except Exception:
                ok = "not ok"
                failed += 1
                text = traceback.format_exc()
                if daemon:
                    text += daemon.told()
                print("".join("# %s\n" % line for line in text.splitlines()), end="")
            print("%s %d - %s (%.1f s)%s" % (ok, i, name, time.monotonic() - start, note), flush=True)
            if ok != "ok" and daemon:
                try:
                    daemon.close()
                except Exception:
                    pass
                daemon = None
    finally:
        if daemon:
            try:
                daemon.close()
            except Exception as e:
                print("# closing the daemon: %s" % e)
                failed += 1
    sys.exit(1 if failed else 0)

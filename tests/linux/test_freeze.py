#!/usr/bin/python3
# timeout: 1800
"""Freeze anywhere: a guest with two processors under load is paused, saved,
destroyed and restored at random moments and never notices.

The load: writers that check their checksums on the disk, a stream of requests
over vsock, timers that look for lost time, a fork storm. THAW_LINUX_FREEZES says
how many rounds; THAW_LINUX_SEED repeats a run.

Time. The guest's clock stands still while it is not there: in a freeze it must
not go back, nor forward by more than its machine can have run. And no 20 ms of a
timer may take more than a second, but for what the host itself did not run
anything: on each of its processors a ticker tells when that was.
"""

import bisect
import os
import random
import subprocess
import sys
import threading
import time

import linuxtest
import thawtest

ROUNDS = int(os.environ.get("THAW_LINUX_FREEZES", "100"))

LOAD = r"""
mkdir -p /root/w /tmp/w
# Files are written, synced, read again from the disk and compared, for ever.
disk() {
	n=0
	while [ -e /tmp/go ]; do
		n=$((n + 1))
		head -c 65536 /dev/urandom >/root/w/a$1
		sum=$(md5sum </root/w/a$1)
		cp /root/w/a$1 /root/w/b$1
		sync
		echo 1 >/proc/sys/vm/drop_caches
		[ "$sum" = "$(md5sum </root/w/b$1)" ] || echo "disk $1 round $n" >>/tmp/w/wrong
		echo $n >/tmp/w/disk$1
	done
}
# Each step waits 20 ms by timer; how long it took by the guest's clock. One for
# each processor, before all others, without a process of its own for anything.
timers() {
	n=0
	worst=0
	mkfifo /tmp/w/fifo$1
	exec 3<>/tmp/w/fifo$1
	read -r last rest </proc/uptime
	last=${last%.*}${last#*.}
	while [ -e /tmp/go ]; do
		read -r -t 0.02 rest <&3
		read -r now rest </proc/uptime
		now=${now%.*}${now#*.}
		d=$((now - last))
		last=$now
		[ $d -ge 0 ] || echo "time went back by $d" >>/tmp/w/wrong
		[ $d -le $worst ] || worst=$d
		[ $d -le 100 ] || echo "$now $d" >>/tmp/w/stalls
		n=$((n + 1))
		echo "$n $worst" >/tmp/w/timers$1
	done
}
storm() {
	n=0
	while [ -e /tmp/go ]; do
		for i in 1 2 3 4 5; do /bin/true & done
		wait
		r=$(seq 500 | awk '{ s += $1 } END { print s }')
		[ "$r" = 125250 ] || echo "storm got $r" >>/tmp/w/wrong
		n=$((n + 1))
		echo $n >/tmp/w/storm
	done
}
touch /tmp/go
rm -f /tmp/w/* /root/w/*
for i in 0 1; do
	timers $i &
	busybox taskset -p $((1 << i)) $!
	busybox renice -n -20 -p $!
done
disk 1 & disk 2 & storm &
"""


class Pinger:
    """Requests to the agent all the time, but for pauses around a freeze."""

    def __init__(self, d):
        self.d, self.ident, self.sent, self.wrong = d, None, 0, []
        self.lock = threading.Lock()
        self.over = False
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        with self.d.client() as c:
            while not self.over:
                with self.lock:
                    if self.ident:
                        want = os.urandom(8).hex()
                        try:
                            out = linuxtest.Guest(c, self.ident).sh("echo " + want)
                            if out.strip() != want:
                                self.wrong.append("%r for %r" % (out, want))
                        except Exception as e:
                            self.wrong.append(repr(e))
                        self.sent += 1
                time.sleep(0.005)

    def set(self, ident):
        with self.lock:
            self.ident = ident

    def close(self):
        self.over = True
        self.thread.join(60)


TICK = """
import os, sys, time
os.sched_setaffinity(0, [int(sys.argv[1])])
last = time.monotonic()
while True:
    time.sleep(0.02)
    now = time.monotonic()
    if now - last > 0.05:
        print(last, now, flush=True)
    last = now
"""


class Ticker:
    """When a processor of the host ran nobody, or others: (from, to) in seconds
    of its monotonic clock."""

    def __init__(self, path, cpu):
        self.path = path
        with open(path, "w") as f:
            self.process = subprocess.Popen([sys.executable, "-c", TICK, str(cpu)], stdout=f, stdin=subprocess.DEVNULL)

    def close(self):
        self.process.kill()
        self.process.wait()
        with open(self.path) as f:
            return [tuple(float(x) for x in line.split()) for line in f if line.endswith("\n")]


class Times:
    """The guest's clock against the host's: samples (guest, host before, host
    after) and the freezes between them."""

    def __init__(self):
        self.samples = []

    def sample(self, g):
        before = time.monotonic()
        guest = float(g.sh("cut -d' ' -f1 /proc/uptime"))
        self.samples.append((guest, before, time.monotonic()))

    def frozen(self, away):
        """Between the last two samples it was away for so long, at least."""
        (was, start, _), (now, _, end) = self.samples[-2:]
        ran = end - start - away
        assert now >= was, "the clock went back from %g to %g" % (was, now)
        # Hundredths of a second, and two clocks that differ a little.
        assert now - was <= ran * 1.01 + 0.05, "the clock went on by %g s, the machine ran for at most %g s" % (now - was, ran)

    def window(self, start, end):
        """Between which moments of the host these of the guest must lie."""
        guests = [s[0] for s in self.samples]
        i = max(0, bisect.bisect_right(guests, start) - 1)
        j = min(len(guests) - 1, bisect.bisect_left(guests, end))
        return self.samples[i][1] + start - guests[i], self.samples[j][2] - (guests[j] - end)


def stalls(text, times, gaps):
    """What is left of each long step without what the host was away: seconds."""
    out = []
    for line in text.splitlines():
        end, length = (int(x) / 100 for x in line.split())
        a, b = times.window(end - length, end)
        out.append(length - sum(max(0, min(b, y) - max(a, x)) for x, y in gaps))
    return out


def counters(g):
    """Of all that goes on there; one that is just being written is 0."""
    text = g.sh("cd /tmp/w; for f in disk1 disk2 timers0 timers1 storm; do n=; read -r n rest <$f; echo ${n:-0}; done; true")
    return [int(x) for x in text.splitlines() if x.isdigit()]


def freeze(d, c, g, disk, name, times, rnd):
    """One freeze at a random moment; the machine that goes on."""
    times.sample(g)
    # Not at the end of our own request, but anywhere.
    time.sleep(rnd.uniform(0, 0.05))
    path = os.path.join(d.dir, name + ".thaw")
    c.call("machine.pause", {"id": g.id})
    paused = time.monotonic()
    c.call("machine.snapshot", {"id": g.id, "path": path})
    g.stop()
    away = time.monotonic() - paused
    g = linuxtest.restore(c, name, path, disk)
    os.unlink(path)
    times.sample(g)
    times.frozen(away)
    return g


def check_end(g, d, times, tickers, pings):
    g.sh("rm /tmp/go")
    time.sleep(2)
    times.sample(g)
    gaps = [x for t in tickers for x in t.close()]
    timers = [[int(x) for x in line.split()] for line in g.sh("cat /tmp/w/timers?").splitlines()]
    text = g.sh("cat /tmp/w/stalls 2>/dev/null; true")
    print("# counters %s, %d requests" % (counters(g), pings.sent))
    longest = tuple(10 * w for _, w in timers) + (1000 * max([b - a for a, b in gaps], default=0),)
    print("# longest step of the timers %d and %d ms, longest gap of the host %d ms" % longest)
    assert not pings.wrong, pings.wrong[:5]
    g.sh("test ! -e /tmp/w/wrong || { cat /tmp/w/wrong; false; }")
    g.sh("cmp /root/w/a1 /root/w/b1 && cmp /root/w/a2 /root/w/b2")
    g.healthy()
    left = stalls(text, times, gaps)
    assert all(x <= 1 for x in left), "stalls of the guest, (guest's clock, length) %s: without the host's %s s" % (text, left)


def test_anywhere(d):
    seed = int(os.environ.get("THAW_LINUX_SEED", str(random.randrange(1 << 32))))
    print("# %d freezes, THAW_LINUX_SEED=%d" % (ROUNDS, seed), flush=True)
    rnd = random.Random(seed)
    disk = linuxtest.disk_image(d)
    times = Times()
    tickers = [Ticker(os.path.join(d.dir, "ticks%d" % n), n) for n in os.sched_getaffinity(0)]
    pings = Pinger(d)
    try:
        with d.client(timeout=300) as c:
            g = linuxtest.start(c, "load", linuxtest.guest_config("6.1-cloud", disk=disk, cpus=2))
            g.sh("cat >/tmp/load <<'EOT'\n%sEOT\nsetsid sh /tmp/load </dev/null >/dev/null 2>&1 &" % LOAD)
            thawtest.wait_for(lambda: len(counters(g)) == 5 and all(counters(g)), 60)
            began = time.monotonic()
            for i in range(ROUNDS):
                sent = pings.sent
                pings.set(g.id)
                thawtest.wait_for(lambda: pings.sent > sent, 60)
                time.sleep(rnd.uniform(0.05, 1.0))
                pings.set(None)
                g = freeze(d, c, g, disk, "load%d" % i, times, rnd)
                # All of them go on.
                if i % 5 == 4 or i == ROUNDS - 1:
                    before = counters(g)
                    thawtest.wait_for(lambda: all(a > b for a, b in zip(counters(g), before)), 60, 0.1)
            print("# %.1f s a round" % ((time.monotonic() - began) / ROUNDS))
            pings.close()
            check_end(g, d, times, tickers, pings)
            g.stop()
    finally:
        pings.close()
        for t in tickers:
            t.close()


if __name__ == "__main__":
    linuxtest.main(globals(), kernels=("6.1-cloud",), mem=2048, timeout=1000 + 30 * ROUNDS)

#!/usr/bin/python3
# timeout: 1800
"""Freeze anywhere: a guest with two processors under load is paused, saved,
destroyed and restored at random moments and never notices.

The load: writers that check their checksums on the disk, a stream of requests
over vsock, timers that look for lost time, a fork storm. Six rounds by default,
THAW_LINUX_FREEZES says how many; THAW_LINUX_SEED repeats a run.
"""

import os
import random
import threading
import time

import linuxtest
import thawtest

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
# Each step sleeps 20 ms by timer; how long it took by the guest's clock.
timers() {
	n=0
	worst=0
	last=$(cut -d' ' -f1 /proc/uptime | tr -d .)
	while [ -e /tmp/go ]; do
		usleep 20000
		now=$(cut -d' ' -f1 /proc/uptime | tr -d .)
		d=$((now - last))
		last=$now
		[ $d -ge 0 ] || echo "time went back by $d" >>/tmp/w/wrong
		[ $d -le $worst ] || worst=$d
		n=$((n + 1))
		echo "$n $worst" >/tmp/w/timers.new
		mv /tmp/w/timers.new /tmp/w/timers
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
rm -f /tmp/w/*
disk 1 & disk 2 & timers & storm &
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


def counters(g):
    text = g.sh("for f in disk1 disk2 timers storm; do cat /tmp/w/$f; done 2>/dev/null; true")
    return [int(x.split()[0]) for x in text.splitlines()]


def test_anywhere(d):
    rounds = int(os.environ.get("THAW_LINUX_FREEZES", "6"))
    seed = int(os.environ.get("THAW_LINUX_SEED", str(random.randrange(1 << 32))))
    print("# %d freezes, THAW_LINUX_SEED=%d" % (rounds, seed), flush=True)
    rnd = random.Random(seed)
    disk = linuxtest.disk_image(d)
    with d.client(timeout=300) as c:
        g = linuxtest.start(c, "load", linuxtest.guest_config("6.1-cloud", disk=disk, cpus=2))
        g.sh("cat >/tmp/load <<'EOT'\n%sEOT\nsetsid sh /tmp/load </dev/null >/dev/null 2>&1 &" % LOAD)
        thawtest.wait_for(lambda: len(counters(g)) == 4, 60)
        pings = Pinger(d)
        pings.set(g.id)
        for i in range(rounds):
            time.sleep(rnd.uniform(0.05, 1.0))
            pings.set(None)
            before = counters(g)
            # Not at the end of our own request, but anywhere.
            time.sleep(rnd.uniform(0, 0.05))
            path = os.path.join(d.dir, "freeze%d.thaw" % i)
            c.call("machine.pause", {"id": g.id})
            c.call("machine.snapshot", {"id": g.id, "path": path})
            g.stop()
            g = linuxtest.restore(c, "load%d" % i, path, disk)
            os.unlink(path)
            pings.set(g.id)
            # All of them go on.
            thawtest.wait_for(lambda: all(a > b for a, b in zip(counters(g), before)), 60, 0.1)
        pings.close()
        g.sh("rm /tmp/go")
        time.sleep(2)
        steps, worst = g.sh("cat /tmp/w/timers").split()
        print("# counters %s, %d requests, longest step of the timers %s ms" % (counters(g), pings.sent, int(worst) * 10))
        assert not pings.wrong, pings.wrong[:5]
        assert pings.sent > rounds
        g.sh("test ! -e /tmp/w/wrong || { cat /tmp/w/wrong; false; }")
        g.sh("cmp /root/w/a1 /root/w/b1 && cmp /root/w/a2 /root/w/b2")
        g.healthy()
        g.stop()


if __name__ == "__main__":
    linuxtest.main(globals(), kernels=("6.1-cloud",), mem=2048, timeout=1700)

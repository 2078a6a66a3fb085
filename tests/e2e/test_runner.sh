#!/bin/bash
# timeout: 60
# The runner itself. Ctrl-C ends the running test with all that it started, and
# removes its directory; a process left behind makes a test fail.
set -m # what runs in the background takes SIGINT

fail() {
	echo "test_runner: $*"
	cat "$TMPDIR/out"
	exit 1
}

# Not one that only waits to be reaped.
runs() { ps -o stat= -p "$(cat "$1")" | grep -qv Z; }

cat >"$TMPDIR/slow.sh" <<'END'
echo "$TMPDIR" >"$MARKS/dir"
sleep 300 &
echo $! >"$MARKS/pid"
wait
END
cat >"$TMPDIR/leaver.sh" <<'END'
sleep 300 &
echo $! >"$MARKS/left"
END
cat >"$TMPDIR/fine.sh" <<'END'
exit 0
END

export MARKS=$TMPDIR TEST_LOGS=$TMPDIR/logs
# Whoever runs all this in the background may have SIGINT ignored.
env --default-signal=INT tests/run.sh "$TMPDIR/slow.sh" "$TMPDIR/fine.sh" >"$TMPDIR/out" 2>&1 &
runner=$!
trap 'kill -TERM -- -$runner 2>/dev/null' EXIT
for ((i = 0; i < 100; i++)); do
	[ -s "$MARKS/pid" ] && break
	sleep 0.1
done
[ -s "$MARKS/pid" ] || fail "the test did not start"
kill -INT -- "-$runner"
wait "$runner"
rc=$?
[ $rc -eq 130 ] || fail "exit $rc after Ctrl-C, not 130"
! runs "$MARKS/pid" || fail "a process is left"
[ ! -e "$(cat "$MARKS/dir")" ] || fail "its directory is left"
! grep -q fine.sh "$TMPDIR/out" || fail "the next test ran"

# At a terminal, and between tests: Ctrl-C goes to whoever has the terminal then.
quick=()
for ((i = 0; i < 300; i++)); do
	quick+=("$TMPDIR/quick$i.sh")
	echo "exit 0" >"${quick[-1]}"
done
for ((i = 0; i < 4; i++)); do
	/usr/bin/python3 - "${quick[@]}" >"$TMPDIR/out" <<'END' || fail "Ctrl-C was lost"
import os, pty, select, signal, sys, time

pid, fd = pty.fork()
if pid == 0:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv("tests/run.sh", ["tests/run.sh"] + sys.argv[1:])
out, start, sent = b"", time.monotonic(), False
while time.monotonic() - start < 30:
    if select.select([fd], [], [], 0.05)[0]:
        try:
            out += os.read(fd, 65536)
        except OSError:
            break
    if not sent and out.count(b"\n") > 8:
        sent = os.write(fd, b"\x03") == 1
text = out.decode(errors="replace")
print(text[-2000:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 130 or "interrupted" not in text)
END
done

tests/run.sh "$TMPDIR/leaver.sh" "$TMPDIR/fine.sh" >"$TMPDIR/out" 2>&1 &&
	fail "what was left behind did not count"
! runs "$MARKS/left" || fail "what was left still runs"
grep -q "left behind" "$TMPDIR/out" || fail "what was left is not said"
tail -n 1 "$TMPDIR/out" | grep -qx "1 passed, 1 failed, 0 skipped" ||
	fail "wrong counts"
exit 0

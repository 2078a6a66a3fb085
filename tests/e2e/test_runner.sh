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
tests/run.sh "$TMPDIR/slow.sh" "$TMPDIR/fine.sh" >"$TMPDIR/out" 2>&1 &
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

tests/run.sh "$TMPDIR/leaver.sh" "$TMPDIR/fine.sh" >"$TMPDIR/out" 2>&1 &&
	fail "what was left behind did not count"
! runs "$MARKS/left" || fail "what was left still runs"
grep -q "left behind" "$TMPDIR/out" || fail "what was left is not said"
tail -n 1 "$TMPDIR/out" | grep -qx "1 passed, 1 failed, 0 skipped" ||
	fail "wrong counts"
exit 0

#!/bin/bash
# Runs tests one after the other: tests/run.sh FILE...
#
# A test is an executable or a script. Exit 0 passed, 77 skipped (its last line
# says why), else failed. When it prints TAP (as cmocka does here) its cases
# are counted one by one. Each test runs in a process group and a temporary
# directory of its own (TMPDIR, XDG_RUNTIME_DIR); processes it leaves behind
# are killed and make it fail. "timeout: SECONDS" in the first ten lines of a
# script changes the limit of TEST_TIMEOUT (120); TEST_PATIENCE multiplies both.
#
# The programs are copied to a place that every user can reach (a checkout below
# /root is not) and that no build changes meanwhile: THAW_BUILD, first in PATH.
# The last line is "N passed, N failed, N skipped".

cd "$(dirname "$0")/.." || exit 1

build=$PWD/${BUILD:-build}
logs=${TEST_LOGS:-$build/test-logs}
limit=${TEST_TIMEOUT:-120}
passed=0 failed=0 skipped=0
pid='' tmp='' left=''
failures=()

mkdir -p "$logs" || exit 1
bin=$(mktemp -d /tmp/tb.XXXXXX) && chmod 755 "$bin" || exit 1
for program in thaw thawd thaw-machine thaw-agent; do
	[ ! -e "$build/$program" ] || cp "$build/$program" "$bin" || exit 1
done
export THAW_BUILD=$bin PATH=$bin:$PATH CMOCKA_MESSAGE_OUTPUT=TAP
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0}
export PYTHONDONTWRITEBYTECODE=1
unset THAW_SOCKET

# Processes of the running test, but for those that only wait to be reaped.
group_list() {
	ps -e -o pgid=,stat=,pid=,etime=,args= |
		awk -v g="$pid" '$1 == g && $2 !~ /^Z/'
}

group_alive() { kill -0 -- "-$pid" 2>/dev/null && [ -n "$(group_list)" ]; }

# Ends the process group of the running test; true when there was anything,
# which is then named in $left.
group_end() {
	local i
	[ -n "$pid" ] || return 1
	# A process that is on its way out gets a moment.
	for ((i = 0; i < 10; i++)); do
		group_alive || return 1
		[ "${1:-}" = now ] && break
		sleep 0.1
	done
	left=$(group_list)
	kill -TERM -- "-$pid" 2>/dev/null
	for ((i = 0; i < 5; i++)); do
		group_alive || return 0
		sleep 0.1
	done
	kill -KILL -- "-$pid" 2>/dev/null
	return 0
}

tmp_end() {
	[ -z "$tmp" ] || rm -rf "$tmp"
	tmp=''
}

interrupted() {
	trap '' INT TERM HUP
	group_end now
	tmp_end
	rm -rf "$bin"
	echo
	echo "interrupted"
	echo "$passed passed, $((failed + 1)) failed, $skipped skipped"
	exit 130
}
trap interrupted INT TERM HUP

# bash forgets a Ctrl-C that arrives while a command of its own ends normally:
# it takes it for that command's affair. SIGTERM it does not forget.
/usr/bin/python3 -c '
import os, signal, time
runner = os.getppid()
signal.signal(signal.SIGINT, lambda *_: os.kill(runner, signal.SIGTERM))
while os.getppid() == runner:
    time.sleep(1)' </dev/null >/dev/null 2>&1 &
watcher=$!
disown

trap 'group_end now; tmp_end; rm -rf "$bin"; kill "$watcher" 2>/dev/null' EXIT

# Counts TAP lines of a log into p, f and s; false when it has no plan.
count_tap() {
	local plan
	plan=$(sed -n 's/^1\.\.\([0-9]*\).*/\1/p' "$1" | head -n 1)
	[ -n "$plan" ] || return 1
	s=$(grep -cE '^(not )?ok .*# ?SKIP' "$1")
	f=$(grep -E '^not ok' "$1" | grep -vcE '# ?SKIP')
	p=$(grep -E '^ok' "$1" | grep -vcE '# ?SKIP')
	# A plan that was not kept: it ended early without saying so.
	[ $((p + f + s)) -ge "$plan" ] || f=$((f + 1))
}

run_one() {
	local test=$1 name log rc start took t=$limit p=0 f=0 s=0 why='' word=ok
	local -a cmd
	name=${test#"$PWD"/}
	log=$logs/${name//\//_}.log
	# A short name, for sockets; open to other users, whose rights some tests try.
	tmp=$(mktemp -d /tmp/tt.XXXXXX) && chmod 755 "$tmp" || exit 1
	[ "$name" != "${name#/}" ] || test=$PWD/$name
	cmd=("$test")
	case $name in
	*.py) cmd=(/usr/bin/python3 "$test") ;;
	*.sh) cmd=(bash "$test") ;;
	# ThreadSanitizer needs addresses where it expects them.
	*build-thread/*) cmd=(setarch -R "$test") ;;
	esac
	case $name in
	*.py | *.sh)
		why=$(head -n 10 "$name" | sed -n 's/.*timeout: \([0-9]*\).*/\1/p')
		t=${why:-$t} why=''
		;;
	esac
	t=$((t * ${TEST_PATIENCE:-1}))

	start=$EPOCHREALTIME
	# A process group for the test, and only for it: with job control on, what
	# we run ourselves gets the terminal, and a Ctrl-C then is not for us.
	set -m
	TMPDIR=$tmp XDG_RUNTIME_DIR=$tmp timeout -k 5 "$t" "${cmd[@]}" \
		>"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	wait "$pid" 2>/dev/null
	rc=$?
	took=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }')
	case $rc in
	124) why="no end after $t s" ;;
	12[89] | 1[3-9]?) why="signal $((rc - 128))" ;;
	esac

	if ! count_tap "$log"; then
		case $rc in
		0) p=1 ;;
		77) s=1 why=$(tail -n 1 "$log") ;;
		*) f=1 ;;
		esac
	elif [ "$rc" -eq 77 ] && [ $((p + f + s)) -eq 0 ]; then
		s=1 why=$(grep -m 1 '^1\.\.0' "$log")
	elif [ "$rc" -ne 0 ] && [ "$rc" -ne 77 ] && [ "$f" -eq 0 ]; then
		f=1
	fi
	if group_end && [ "$rc" -ne 124 ]; then
		printf 'processes left behind:\n%s\n' "$left" >>"$log"
		[ "$f" -gt 0 ] || p=0 f=1 why="processes left behind"
	fi
	pid=''
	tmp_end

	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	if [ "$f" -gt 0 ]; then
		word=FAIL
		failures+=("$name")
		[ -n "$why" ] || why="exit $rc"
	elif [ "$p" -eq 0 ]; then
		word=skip
	fi
	if [ "$s" -gt 0 ] && [ -z "$why" ]; then
		why="$s skipped"
	fi
	printf '%-4s %-52s %4d %7s s%s\n' "$word" "$name" $((p + f + s)) \
		"$took" "${why:+  $why}"
}

for test; do
	if [ ! -e "$test" ]; then
		printf 'FAIL %s: no such test\n' "$test"
		failed=$((failed + 1))
		continue
	fi
	run_one "$test"
done

for name in "${failures[@]}"; do
	printf '\n--- %s\n' "$name"
	tail -n 60 "$logs/${name//\//_}.log"
done
[ ${#failures[@]} -eq 0 ] || printf '\nwhole output: %s\n' "$logs"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

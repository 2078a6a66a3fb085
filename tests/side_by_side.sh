#!/bin/bash
# Runs tests as tests/run.sh does, two at a time: tests/side_by_side.sh FILE...
# For tests that have one processor's worth of work each, such as those in an
# emulated machine. Each has a runner of its own; the last line is
# "N passed, N failed, N skipped".
cd "$(dirname "$0")/.." || exit 1

passed=0 failed=0 skipped=0
declare -A running=() # pid of a runner -> file of its output
failures=()
dir=$(mktemp -d /tmp/ts.XXXXXX) || exit 1

interrupted() {
	trap '' INT TERM HUP
	kill -TERM "${!running[@]}" 2>/dev/null
	wait
	rm -rf "$dir"
	echo "interrupted"
	echo "$passed passed, $((failed + 1)) failed, $skipped skipped"
	exit 130
}
trap interrupted INT TERM HUP
trap 'rm -rf "$dir"' EXIT

# Waits until one of them ends, shows its line and counts it.
reap() {
	local pid out p f s
	wait -n -p pid
	out=${running[$pid]}
	unset "running[$pid]"
	read -r p f s < <(tail -n 1 "$out" | sed -n \
		's/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p')
	passed=$((passed + ${p:-0})) failed=$((failed + ${f:-1})) skipped=$((skipped + ${s:-0}))
	head -n 1 "$out"
	[ "${f:-1}" -eq 0 ] || failures+=("$out")
}

number=0
for test; do
	[ ${#running[@]} -lt 2 ] || reap
	number=$((number + 1))
	tests/run.sh "$test" >"$dir/$number" 2>&1 &
	running[$!]=$dir/$number
done
while [ ${#running[@]} -gt 0 ]; do
	reap
done

for out in "${failures[@]}"; do
	sed '1d;$d' "$out"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

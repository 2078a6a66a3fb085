#!/bin/bash
# Runs all tests: tests/check.sh NO-KVM-TEST... -- KVM-TEST... -- LINUX-TEST...
#
# Where this host has no usable /dev/kvm, those that need it run in the test
# machine (tests/vmhost), with more patience. The third kind sees to that by
# itself, and runs two at a time. The last line is
# "N passed, N failed, N skipped".
cd "$(dirname "$0")/.." || exit 1

group=0
plain=() kvm=() linux=()
for arg; do
	case $arg,$group in
	--,*) group=$((group + 1)) ;;
	*,0) plain+=("$arg") ;;
	*,1) kvm+=("$arg") ;;
	*,2) linux+=("$arg") ;;
	esac
done

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
# Whoever runs then cleans up and says what it has; nothing is begun after it.
trap 'exit 130' INT TERM HUP
passed=0 failed=0 skipped=0

# Adds the counts that a run ends with; a run without them failed.
add() {
	local p f s
	read -r p f s < <(tail -n 3 "$log" | tr -d '\r' | sed -n \
		's/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p')
	passed=$((passed + ${p:-0})) failed=$((failed + ${f:-1})) skipped=$((skipped + ${s:-0}))
}

"${BUILD:-build}/thaw" doctor >/dev/null 2>&1
if [ $? -ne 4 ] || [ -n "${THAW_TEST_MACHINE:-}" ]; then
	tests/run.sh "${plain[@]}" "${kvm[@]}" | tee -i "$log"
	add
else
	tests/run.sh "${plain[@]}" | tee -i "$log"
	add
	echo
	echo "no usable /dev/kvm here: these run in an emulated machine that has one"
	# Paths of the checkout are the same inside, but where the host has a /tmp.
	tests/vmhost/run --mem 4G --timeout "${CHECK_TIMEOUT:-5400}" \
		--env TEST_PATIENCE=5 --env TEST_LOGS=/tmp/test-logs \
		-- tests/run.sh "${kvm[@]#"$PWD"/}" | tee -i "$log"
	add
fi
if [ ${#linux[@]} -gt 0 ]; then
	echo
	tests/side_by_side.sh "${linux[@]}" | tee -i "$log"
	add
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

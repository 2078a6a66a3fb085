#!/bin/sh
# make bench: every benchmark; results and plots below bench/, RESULTS.md made
# of them. Options are passed on: bench/run.sh -n 100 for a quick look.
set -u

here=$(cd "$(dirname "$0")" && pwd)
PATH=$(dirname "$here")/build:$PATH
export PATH
out=${BENCH_OUT:-$here/results}
mkdir -p "$out" || exit 1

thaw doctor >/dev/null 2>&1
if [ $? -eq 4 ]; then
	thaw doctor
	exit 4
fi
rc=0
for name in boot clone invoke burst density snapshot restore; do
	echo "== $name"
	thaw bench $name --json "$out/$name.json" --plot "$out/$name.svg" "$@" || rc=1
	[ $rc -eq 0 ] || [ -s "$out/$name.json" ] || exit 1
done
# Stock Linux beside QEMU, where there is a QEMU to compare with.
if command -v qemu-system-x86_64 >/dev/null; then
	echo "== linux"
	"$here/linux.py" --json "$out/linux.json" || rc=1
fi
/usr/bin/python3 "$here/results.py" "$out" >"$here/RESULTS.md" || exit 1
echo "wrote bench/RESULTS.md"
exit $rc

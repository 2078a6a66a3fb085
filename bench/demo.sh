#!/bin/sh
# make demo: what thaw does, on this host, in a few minutes. Exits 0 when all of
# it worked, 4 when the host has no usable KVM, 1 otherwise.
set -u

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
PATH=$top/build:$PATH
export PATH
CLONES=${CLONES:-1000}
SAMPLES=${SAMPLES:-300}
dir=
thawd_pid=
failed=0

cleanup() {
	trap '' INT TERM
	if [ -n "$thawd_pid" ]; then
		kill "$thawd_pid" 2>/dev/null
		wait "$thawd_pid" 2>/dev/null
	fi
	[ -z "$dir" ] || rm -rf "$dir"
}
trap 'cleanup' EXIT
trap 'echo; echo "demo: interrupted"; exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }
fail() {
	printf 'FAILED: %s\n' "$*"
	failed=1
}
now_ms() { echo $(($(date +%s%N) / 1000000)); }
need() {
	"$@" && return 0
	echo "FAILED: $*"
	exit 1
}

say "Host"
thaw doctor >/dev/null 2>&1
if [ $? -eq 4 ]; then
	# In an emulated machine, so much slower; with fewer clones.
	if [ -z "${THAW_TEST_MACHINE:-}" ] && command -v qemu-system-x86_64 >/dev/null; then
		thaw doctor | sed -n '/^[^ ]* *kvm /p'
		cat <<-TEXT

		No usable /dev/kvm here: the demo runs inside an emulated machine that has
		one (tests/vmhost). It shows that everything works; the figures are those
		of the emulation, tens of times slower than hardware.
		TEXT
		# Not exec: its end and a Ctrl-C are told here.
		"$top/tests/vmhost/run" --cpus 2 --mem 4G --timeout 3600 \
			--env "CLONES=${DEMO_CLONES:-100}" --env "SAMPLES=${DEMO_SAMPLES:-30}" \
			-- "$top/bench/demo.sh"
		rc=$?
		[ $rc -ne 125 ] || echo "demo: the emulated machine does not work here either"
		exit $rc
	fi
	thaw doctor
	cat <<-TEXT

	The demo needs a usable /dev/kvm: a machine with VT-x or AMD-V turned on
	(or a VM with nested virtualization), the kvm module loaded, and read
	and write permission on /dev/kvm (root, or membership in group kvm); or
	qemu-system-x86_64, to run in an emulated machine.
	TEXT
	exit 4
fi
thaw doctor | sed -n 's/^[a-z]* *\(kvm\|host\|memory\) */  \1: /p'

dir=$(mktemp -d "${TMPDIR:-/tmp}/thaw-demo-XXXXXX") || exit 1
THAW_SOCKET=$dir/thaw.sock
export THAW_SOCKET
thawd --socket "$THAW_SOCKET" --state-dir "$dir/state" 2>"$dir/log" &
thawd_pid=$!
i=0
until grep -q 'listening on' "$dir/log"; do
	i=$((i + 1))
	if [ $i -gt 100 ] || ! kill -0 $thawd_pid 2>/dev/null; then
		echo "FAILED: thawd did not start:"
		cat "$dir/log"
		exit 1
	fi
	sleep 0.1
done

say "Cold boot of the built-in guest, until its agent answers"
thaw bench boot -n 20 >"$dir/boot" || fail "cold boot"
grep -E '^ +answered|^cold_boot' "$dir/boot"

say "Template: booted once, frozen, held ready"
need thaw template create demo --mem 128M

say "$CLONES clones by one request"
start=$(now_ms)
thaw clone demo -n "$CLONES" --fresh >"$dir/ids" || fail "thaw clone"
end=$(now_ms)
made=$(wc -l <"$dir/ids")
echo "  $made clones alive after $((end - start)) ms"
[ "$made" -eq "$CLONES" ] || fail "$made clones of $CLONES"
start=$(now_ms)
: >"$dir/said"
answered=0
while read -r id; do
	if thaw invoke "$id" --data identity >"$dir/one" && [ -s "$dir/one" ]; then
		answered=$((answered + 1))
		tr '\n' ' ' <"$dir/one" >>"$dir/said"
		echo >>"$dir/said"
	fi
done <"$dir/ids"
end=$(now_ms)
generations=$(thaw ps --json | grep -o '"generation": "[0-9a-f-]*"' | sort -u | wc -l)
echo "  $answered answered (one thaw process per answer: $((end - start)) ms);" \
	"distinct ones of each:"
for key in hostname machine_id generation random; do
	distinct=$(grep -o "$key=[^ ]*" "$dir/said" | sort -u | wc -l)
	printf '    %-11s %d\n' $key "$distinct"
	[ "$distinct" -eq "$CLONES" ] || fail "only $distinct distinct values of $key"
done
echo "  one of them: $(sed -n 's/ wall_ns.*//;1p' "$dir/said")"
[ "$answered" -eq "$CLONES" ] || fail "$answered of $CLONES answered"
[ "$generations" -eq "$CLONES" ] ||
	fail "the daemon knows $generations distinct generations"

say "wordcount of README.md in a clone, and wc here"
guest=$(thaw invoke demo --data wordcount --file "$top/README.md")
host=$(wc "$top/README.md" | awk '{print $1, $2, $3}')
echo "  clone: $guest"
echo "  wc:    $host"
[ "$(echo $guest)" = "$host" ] || fail "the counts differ"

say "Snapshot: written, verified, restored, answering"
id=$(head -n 1 "$dir/ids")
if thaw snapshot "$id" "$dir/one.thaw" >"$dir/snap"; then
	echo "  $(sed "s|$dir/||" "$dir/snap")"
	thaw verify "$dir/one.thaw" >"$dir/verified" || fail "verify"
	echo "  $(sed "s|$dir/||" "$dir/verified")"
	back=$(thaw restore "$dir/one.thaw") || fail "restore"
	answer=$(thaw invoke "$back" --data "echo back again")
	echo "  restored as $back, which says: $answer"
	[ "$answer" = "back again" ] || fail "the restored machine's answer"
else
	fail "snapshot"
fi

say "The same with one bit flipped in a copy"
if [ -s "$dir/one.thaw" ]; then
	cp "$dir/one.thaw" "$dir/bad.thaw"
	at=$(($(wc -c <"$dir/bad.thaw") / 2))
	byte=$(od -An -tu1 -j $at -N 1 "$dir/bad.thaw")
	printf "\\$(printf %03o $((byte ^ 4)))" |
		dd of="$dir/bad.thaw" bs=1 seek=$at conv=notrunc 2>/dev/null
	echo "  flipped bit 2 of byte $at"
	thaw verify "$dir/bad.thaw" 2>"$dir/err"
	rc=$?
	echo "  $(sed "s|$dir/||g" "$dir/err") (exit $rc)"
	[ $rc -eq 5 ] || fail "verify exited with $rc, not 5"
	grep -q '[0-9]' "$dir/err" || fail "no byte range named"
	thaw restore "$dir/bad.thaw" >/dev/null 2>"$dir/err"
	rc=$?
	echo "  $(sed "s|$dir/||g" "$dir/err") (exit $rc)"
	[ $rc -eq 5 ] || fail "restore of the damaged copy exited with $rc, not 5"
fi

say "Create and answer, pooled and fresh, $SAMPLES each (us and ms)"
thaw template rm demo --force || fail "template rm"
thaw bench clone -n "$SAMPLES" >"$dir/clone" || fail "bench clone"
thaw bench invoke -n "$SAMPLES" >"$dir/invoke" || fail "bench invoke"
grep -E '^ +answered' "$dir/clone"
grep -hE '^(create|answer|api)_' "$dir/clone" "$dir/invoke"

say "Memory per live clone, $CLONES alive, all answered"
thaw bench density -n "$CLONES" >"$dir/density" || fail "bench density"
grep -A1 '^memory_per_clone' "$dir/density"

echo
if [ $failed -ne 0 ]; then
	echo "demo: something FAILED, see above"
	exit 1
fi
echo "demo: everything worked"

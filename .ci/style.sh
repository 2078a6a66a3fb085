#!/bin/bash
# House rules that need no compiler: .ci/style.sh length|words|top|guestcopy
cd "$(dirname "$0")/.." || exit 1
bad=0
sources() { find core uffd snapshot api bench tests -name '*.[chS]' 2>/dev/null; }
complain() {
	[ -z "$2" ] && return
	echo "$1:"
	echo "$2"
	bad=1
}
case $1 in
length)
	complain "more than 600 lines" "$(sources | xargs wc -l |
		awk '$1 > 600 && $2 != "total"')"
	complain "an empty line at the end" "$(for f in $(sources); do
		[ -z "$(tail -c 2 "$f" | tr -d '\n')" ] && echo "$f"; done)"
	;;
words)
	complain "unfinished business" "$({ sources; echo Makefile
		find .ci docs tests bench -name '*.sh' -o -name '*.py' -o \
			-name '*.md' -o -name '*.mk'; } | grep -v '^\.ci/style\.sh$' |
		sort -u | xargs grep -nwE 'TODO|FIXME|XXX|HACK')"
	;;
top)
	allowed='^(Makefile|README\.md|LICENSE|core|uffd|snapshot|api|bench|tests|docs|build.*|\..*)$'
	complain "not a place at the top" "$(
		{ git ls-files 2>/dev/null || ls; } | cut -d/ -f1 | sort -u |
			grep -vE "$allowed")"
	;;
guestcopy)
	# Copies into guest memory go through mem_write() or virtq_chain_write().
	complain "copies into memory from mem_at()" "$(
		sources | grep -vE '/(mem|virtq)\.c$|^core/guest/|^tests/|^bench/' |
			while read -r f; do
			awk -v f="$f" '
			/mem(cpy|move) *\( *mem_at *\(/ { print f ":" FNR ": " $0 }
			/^}/ { split("", from) }
			match($0, /[a-z_]+ = mem_at\(/) {
				v = substr($0, RSTART, RLENGTH); sub(/ =.*/, "", v); from[v] = 1 }
			match($0, /mem(cpy|move) *\( *[a-z_]+/) {
				v = substr($0, RSTART, RLENGTH); sub(/.*\( */, "", v)
				if (v in from) print f ":" FNR ": " $0 }' "$f"
		done)"
	;;
*)
	echo "usage: .ci/style.sh length|words|top|guestcopy" >&2
	exit 2
	;;
esac
exit $bad

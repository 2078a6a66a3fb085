#!/bin/bash
# Mutable data with static storage needs a comment "/* global: why */" at most
# eight lines above its definition. Looks into the objects of a build, so
# that no way of writing it escapes: .ci/globals.sh [BUILD]
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
bad=0
while read -r o; do
	src=${o#"$build"/}
	src=${src%.o}.c
	[ -e "$src" ] || continue
	# .data.rel.ro is constant after relocation.
	# Not section symbols (d); thread-local ones have no type here.
	names=$(objdump -t "$o" | awk '
		/ (\.data|\.bss|\.tdata|\.tbss|\*COM\*)[.\t]/ &&
		!/ d / && !/\.data\.rel\.ro/ { print $NF }' |
		sed 's/\.[0-9]*$//' | sort -u)
	for n in $names; do
		awk -v n="$n" '
			/global: / { seen = NR }
			{ if (!ok && $0 ~ ("(^|[^A-Za-z0-9_])" n "([^A-Za-z0-9_]|$)")) {
				if (seen && NR - seen <= 8) ok = 1 } }
			END { exit !ok }' "$src" ||
			{ echo "$src: $n is mutable and says not why"; bad=1; }
	done
done < <(find "$build"/{core,uffd,snapshot,api,bench} -name '*.o' 2>/dev/null)
exit $bad

#!/bin/bash
# core <- uffd <- snapshot <- api: a folder includes itself and those left of
# it. bench and tests may include all.
all='core|uffd|snapshot|api|bench|tests'
bad=0
check() { # folder, regular expression of what it may include
	local hits
	# Angle brackets reach the same files.
	hits=$(grep -rnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*(\"|<($all)/)" \
		--include='*.[chS]' "$1" | grep -vE "include[[:space:]]*[\"<]($2)/")
	[ -z "$hits" ] && return
	echo "$1/ may include only ($2)/:"
	echo "$hits"
	bad=1
}
cd "$(dirname "$0")/.." || exit 1
check core 'core'
check uffd 'core|uffd'
check snapshot 'core|uffd|snapshot'
check api 'core|uffd|snapshot|api'
check bench 'core|uffd|snapshot|api|bench'
# Programs are separate: what they share is api/*.h.
for p in daemon machine cli client; do
	hits=$(grep -rnE '#include "api/[a-z]+/' --include='*.[ch]' "api/$p" |
		grep -v "\"api/$p/")
	[ -z "$hits" ] || { echo "api/$p/ includes another program:"; echo "$hits"; bad=1; }
done
exit $bad

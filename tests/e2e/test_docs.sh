#!/bin/bash
# docs/api.md and docs/config.md are what the daemon's tables say.
cd "$(dirname "$0")/../.." || exit 1
thawd=${THAW_BUILD:-build}/thawd
echo "1..2"
n=0 code=0
for page in api config; do
	n=$((n + 1))
	if "$thawd" --print-docs $page | diff -u docs/$page.md - >&2; then
		echo "ok $n - docs/$page.md"
	else
		echo "not ok $n - docs/$page.md: thawd --print-docs $page >docs/$page.md"
		code=1
	fi
done
exit $code

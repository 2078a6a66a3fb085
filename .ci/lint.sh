#!/bin/bash
# All lint steps, each with its time; the last line is
# "N passed, N failed, N skipped".
cd "$(dirname "$0")/.." || exit 1
jobs=$(nproc)
passed=0 failed=0
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT

step() {
	local name=$1 start=$EPOCHREALTIME word=ok
	shift
	if "$@" >"$out" 2>&1 </dev/null; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1)) word=FAIL
	fi
	awk -v w="$word" -v n="lint: $name" -v a="$start" -v b="$EPOCHREALTIME" \
		'BEGIN { printf "%-4s %-57s %7.2f s\n", w, n, b - a }'
	[ $word = ok ] || grep -vE '^  (CC|LD|AR|GEN|OBJ) ' "$out" | head -n 80
}

format() {
	find core uffd snapshot api bench tests -name '*.[ch]' -print0 |
		xargs -0 -P "$jobs" -n 20 clang-format --dry-run -Werror
}

quiet_make() { make --no-print-directory -k -j"$jobs" "$@"; }

step "build, gcc" quiet_make CC=gcc tests
step "build, clang" quiet_make CC=clang BUILD=build-clang tests
step "format" format
step "layers" .ci/layers.sh
step "headers compile alone" .ci/headers.sh
step "mutable data" .ci/globals.sh build
step "length of files" .ci/style.sh length
step "words" .ci/style.sh words
step "top level" .ci/style.sh top
step "copies into guest memory" .ci/style.sh guestcopy
step "shellcheck" shellcheck -S warning .ci/*.sh .ci/run tests/*.sh tests/vmhost/run tests/vmhost/kernels
step "cppcheck" quiet_make -f .ci/lint.mk cppcheck
step "clang-tidy" quiet_make -f .ci/lint.mk tidy

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]

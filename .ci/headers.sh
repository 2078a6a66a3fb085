#!/bin/bash
# Does every header compile alone? Headers of the built-in guest are the
# guest's own affair, but for what it shares with the machine.
cd "$(dirname "$0")/.." || exit 1
find core uffd snapshot api bench tests -name '*.h' 2>/dev/null |
	grep -vE '^core/guest/.*/|^core/guest/[^a]' | sort |
	xargs -P "$(nproc)" -I{} sh -c '
		echo "#include \"{}\"" | ${CC:-gcc} -I. -D_GNU_SOURCE -std=gnu17 \
		-Wall -Wextra -Werror -fsyntax-only -x c - || { echo "{}"; exit 1; }'

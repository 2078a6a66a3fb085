#!/bin/sh
# A handler for Linux guests in nothing but a shell and head(1); see linux.md.
# A shell's variables hold no zero bytes: for binary data take a file.

say() { # WORD TEXT
	LC_ALL=C
	printf '%s %d\n%s' "$1" ${#2} "$2"
}

say ready ''
while read -r kind length; do
	body=$(head -c "$length")
	case $kind in
	identity) say ok '' ;;
	invoke) say ok "$(uname -n): $body" ;;
	esac
done

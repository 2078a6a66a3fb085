#!/bin/sh
# The test guest's handler: a request is a line for sh, the answer is what it
# printed, the last line being "rc N".
printf 'ready 0\n'
while read -r word n; do
	if [ "$word" = identity ]; then
		dd bs=1 count="$n" of=/tmp/identity 2>/dev/null
		printf 'ok 0\n'
		continue
	fi
	dd bs=1 count="$n" of=/tmp/request 2>/dev/null
	sh /tmp/request >/tmp/answer 2>&1 </dev/null
	echo "rc $?" >>/tmp/answer
	printf 'ok %d\n' "$(stat -c %s /tmp/answer)"
	cat /tmp/answer
done

#!/usr/bin/python3
"""A handler for Linux guests: answers invokes and stays warm between them.

Its place in the guest is /etc/thaw/handler; docs/linux.md has the protocol.
What takes long (imports, models, connections to nobody) is done before "ready":
a template is frozen after it, and every clone begins there.
"""

import os
import random
import sys
import time
import traceback

# print() of any library must not get into the protocol: it goes to the log.
requests = os.fdopen(os.dup(0), "rb")
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)


def handle(request):
    """The function itself: bytes to bytes."""
    if request == b"who":
        return ("%s %d" % (os.uname().nodename, random.getrandbits(64))).encode()
    if request == b"clock":
        return repr(time.time()).encode()
    return request.upper()


def say(word, data=b""):
    answers.write(b"%s %d\n" % (word, len(data)) + data)
    answers.flush()


def main():
    say(b"ready")
    for line in iter(requests.readline, b""):
        kind, length = line.split()
        body = requests.read(int(length))
        if kind == b"identity":
            # Another machine now: what was random for all is drawn anew.
            random.seed()
            say(b"ok")
            continue
        try:
            answer = handle(body)
        except Exception as e:
            traceback.print_exc()
            say(b"error", ("%s: %s" % (type(e).__name__, e)).encode())
        else:
            say(b"ok", answer)


if __name__ == "__main__":
    sys.exit(main())

/*
 * Clients of a fake guest's vsock socket: an abstract unix socket, non-blocking
 * so that a test never hangs.
 */
#ifndef THAW_TESTS_UNIT_VSOCK_CLIENT_H
#define THAW_TESTS_UNIT_VSOCK_CLIENT_H

#include "tests/unit/fake_guest.h"

#include <sys/types.h>

#define CLIENT_GUEST_PORT 5000u

/* Let the device listen; once per guest. */
void client_listen(struct fake_guest *g);
int client_new(void);
/* Send text, then let the loop run. */
void client_say(struct fake_guest *g, int fd, const char *text);
/* What is there to read: length, 0 at the end, -EAGAIN. Ends with NUL. */
ssize_t client_hear(int fd, char *buf, size_t size);
void client_must_hear(int fd, const char *text);
/* The other side has hung up; closes fd. */
void client_must_be_closed(struct fake_guest *g, int fd);
/* A client whose stream to CLIENT_GUEST_PORT the guest accepted. */
int client_open(struct fake_guest *g, uint32_t *port);
/* Let every deadline be over. */
void client_time_passes(struct fake_guest *g);

#endif

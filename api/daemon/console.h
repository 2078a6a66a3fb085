/*
 * A machine's serial output: kept in a ring of the last bytes, or handed on to
 * a descriptor that the client gave. Input goes the other way by control
 * message. Output that nobody takes is dropped and counted.
 */
#ifndef THAW_API_DAEMON_CONSOLE_H
#define THAW_API_DAEMON_CONSOLE_H

#include "api/daemon/machine.h"

#define CONSOLE_RING (16 * KIB)

/* Hand output on to fd (owned by the machine on success). */
int console_attach(struct machine_entry *m, int fd, struct err *e) MUST_USE;
/* The machine has ended: who reads from the descriptor sees the end. */
void console_end(struct console *c);
void console_free(struct daemon *d, struct console *c);
/* CTL_CONSOLE. */
void console_bytes(
	struct daemon *d, struct machine_entry *m, struct ctl_packet *p);
/* {data, dropped} */
void console_pack(const struct machine_entry *m, msgpack_packer *p);

#endif

/* thaw-agent on the host: its methods run in the test's process, with a
 * directory as root, a system that only notes what it is asked, and a
 * socketpair instead of vsock. */
#ifndef THAW_TESTS_UNIT_TA_RIG_H
#define THAW_TESTS_UNIT_TA_RIG_H

#include "core/guest/linux/agent.h"

struct ta_rig {
	struct ta t;
	char dir[64];
	char handler[128];
	int fd; /* the host's end */
	uint64_t id;
	struct buf out, in;
	msgpack_packer pk;
	msgpack_unpacked up;
	struct buf seen; /* bytes of .up */
};

/* What the system was asked to do. */
struct ta_fake {
	int entropy, clock, hostname, bind, netif, poweroff;
	uint8_t seed[64];
	uint64_t wall;
	char name[65], bound[200];
	struct ta_netif n;
	/* Interfaces eth0 and so on: the last byte of their address
	 * 02:00:00:00:00:xx, which .netif changes; 0: none. */
	uint8_t eth[4];
	int fail; /* -errno of the next calls */
};
extern struct ta_fake ta_fake;

void tr_init(struct ta_rig *r);
void tr_fini(struct ta_rig *r);
/* A request with n parameters to be packed into r->pk, then tr_send(). */
void tr_begin(struct ta_rig *r, const char *method, uint32_t n);
void tr_send(struct ta_rig *r);
void tr_bytes(struct ta_rig *r, const void *p, size_t n);
/* The next message from the agent, or NULL when it hung up. */
const msgpack_object *tr_next(struct ta_rig *r);
/* The result of the last request, which must be no error. */
const msgpack_object *tr_result(struct ta_rig *r);
/* The error of the last request: its code must be this. Its text. */
const char *tr_error(struct ta_rig *r, const char *code);
/* The result's value as a string. */
const char *tr_text(const msgpack_object *result, const char *key);
size_t tr_size(const msgpack_object *result, const char *key);
uint64_t tr_u64(const msgpack_object *result, const char *key);
/* Write an executable file below dir and start it as the handler. */
void tr_handler(struct ta_rig *r, const char *script);
void tr_file(struct ta_rig *r, const char *name, const char *text, int mode);

#endif

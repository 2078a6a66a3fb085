/*
 * thaw-agent: the agent for Linux guests. See docs/linux.md for what it does
 * and for the protocols it speaks.
 *
 * How it works. One thread, one event loop. Connections (vsock port 1024, or a
 * unix socket) carry msgpack-rpc requests; a method answers at once or keeps
 * the request's struct ta_req and answers later: exec when the command has
 * ended, invoke when the handler has answered, identity when the handler knows.
 * A request is answered exactly once. Whoever is at the other end is trusted
 * (it is the machine's owner), but its bytes are bounded and checked, and so is
 * all that comes from commands and from the handler.
 *
 * What touches the running system (clock, hostname, mounts, entropy, network)
 * goes through struct ta_sys, and every path is taken below .root, so that the
 * methods run in a test on the host.
 */
#ifndef THAW_CORE_GUEST_LINUX_AGENT_H
#define THAW_CORE_GUEST_LINUX_AGENT_H

#include "core/buf.h"
#include "core/err.h"
#include "core/guest/abi.h"
#include "core/loop.h"
#include "core/mp.h"

#include <sys/types.h>

#define TA_VERSION     "1"
#define TA_MAX_PAYLOAD (6 * MIB)
#define TA_MAX_MESSAGE (TA_MAX_PAYLOAD + 64 * KIB)
/* Of each stream of a command whose output comes with the result. */
#define TA_MAX_OUTPUT (2 * MIB)
/* One piece of a file, or of streamed output. */
#define TA_MAX_CHUNK  (4 * MIB)
#define TA_PIPE_CHUNK (64 * KIB)

#define TA_CONNS   32
#define TA_EXECS   32
#define TA_INVOKES 64
#define TA_WAITERS 16

enum {
	TA_EV_LISTEN = 1,
	TA_EV_SIGNAL,
	TA_EV_CONN,    /* index: slot */
	TA_EV_EXEC,    /* index: slot << 2 | stream */
	TA_EV_HANDLER, /* index: stream */
};

/* Streams of a child. */
enum {
	TA_IN,
	TA_OUT,
	TA_ERR
};

struct ta;

/* Who waits for an answer. */
struct ta_req {
	uint32_t conn, serial; /* the connection may be gone: ta_conn_of() */
	uint64_t id;
	bool notify; /* nobody does */
};

struct ta_conn {
	int fd; /* owned; -1: free slot */
	uint32_t serial;
	unsigned pending; /* requests not yet answered */
	bool eof;         /* the peer will ask no more */
	uint32_t events;  /* what the loop watches */
	struct buf in, out;
	struct mp_walk walk;
};

/* A command started by exec. */
struct ta_exec {
	bool used;
	struct ta_req req;
	pid_t pid;        /* 0: reaped */
	int fd[3];        /* owned, our ends; -1: closed */
	bool watched[3];  /* on the loop */
	struct buf in;    /* stdin to be written */
	bool in_open;     /* more may come by "input" */
	bool input_waits; /* .input is to be answered */
	struct ta_req input;
	bool stream;
	struct buf out[2];
	bool truncated;
	bool timed_out;
	int status; /* of waitpid() */
	uint64_t deadline;
};

enum ta_handler_state {
	TA_H_NONE,     /* none is configured */
	TA_H_STARTING, /* runs, has not said "ready" */
	TA_H_IDLE,
	TA_H_BUSY,     /* with an invoke */
	TA_H_IDENTITY, /* with the news of an identity */
	TA_H_DEAD,     /* to be started again at .at */
};

struct ta_invoke {
	struct ta_invoke *next;
	struct ta_req req;
	uint64_t deadline;
	struct buf payload;
};

struct ta_handler {
	const char *path; /* borrowed; NULL: none */
	enum ta_handler_state state;
	pid_t pid;
	int fd[3];
	bool watched_in;
	struct buf in;  /* to its stdin */
	struct buf out; /* from its stdout */
	char said[200]; /* the end of its stderr, for error texts */
	char last[320]; /* why it ended last */
	uint64_t at;    /* start again, or it must have answered */
	unsigned failures;
	bool news; /* an identity it has not heard of */
	struct ta_invoke *queue;
	unsigned nqueue;
	struct ta_invoke *now;          /* owned; NULL when its time was over */
	struct ta_req wait[TA_WAITERS]; /* pings that wait for ready */
	unsigned nwait;
	bool id_waits; /* .id_req is answered when the news is out */
	struct ta_req id_req;
	uint64_t id_deadline;
};

/* Network interface, as identity wants it. Empty and zero: leave alone. */
struct ta_netif {
	char name[16];
	uint8_t match[6]; /* the interface with this address, not by name */
	bool has_match;
	uint8_t mac[6];
	bool has_mac;
	uint32_t mtu;
	char ip[64];      /* "10.0.0.2/24", "fd00::2/64" */
	char gateway[48]; /* of the default route */
};

/* What the running system is asked to do. 0 or -errno. */
struct ta_sys {
	int (*entropy)(const void *p, size_t n); /* credited, and reseeded */
	int (*set_clock)(uint64_t wall_ns);
	int (*set_hostname)(const char *name);
	int (*bind)(const char *from, const char *to);
	/* The interface with this address: its name, or -ENODEV. */
	int (*find_netif)(const uint8_t mac[6], char name[16]);
	/* Change the one of n->name. */
	int (*netif)(const struct ta_netif *n, struct err *e);
	int (*poweroff)(struct ta *t);
};
extern const struct ta_sys ta_sys_linux;

struct ta {
	const struct ta_sys *sys;
	const char *root; /* "" or a directory for tests */
	bool init;        /* we are process 1 */
	bool done;        /* leave ta_run() */
	pid_t main;       /* init: the machine ends with it; 0: none */
	struct loop loop;
	int listen, signals; /* owned, -1: none */
	uint32_t serial;
	struct ta_conn conn[TA_CONNS];
	struct ta_exec exec[TA_EXECS];
	struct ta_handler h;
	char hostname[65];
	unsigned addresses; /* IP addresses that the last identity set */
	char machine_id[33], boot_id[37]; /* as text; empty: none given */
};

/* serve.c: the loop and its connections */
int ta_init(struct ta *t, struct err *e) MUST_USE;
void ta_fini(struct ta *t);
int ta_listen(struct ta *t, int fd) MUST_USE;
/* Serve this connected socket; owned from here. */
int ta_add_conn(struct ta *t, int fd) MUST_USE;
/* One turn of the loop; timeout in ms, -1: as long as nothing is due. */
int ta_step(struct ta *t, int timeout_ms);
int ta_run(struct ta *t);
/* The connection of a request, or NULL. */
struct ta_conn *ta_conn_of(struct ta *t, const struct ta_req *q);
/* Send what waits in c->out. */
void ta_conn_flush(struct ta *t, struct ta_conn *c);
/* Output that waits to be read by the peer. */
size_t ta_backlog(struct ta *t, const struct ta_req *q);

/* rpc.c: requests and answers */
void ta_message(struct ta *t, struct ta_conn *c, const msgpack_object *o);
void ta_bad_message(struct ta *t, struct ta_conn *c, const char *why);
/* A result is begun with its map of n pairs, packed into *pk, and sent. Begun
 * returns false when nobody waits any more: then there is nothing to send. */
bool ta_result(
	struct ta *t, const struct ta_req *q, uint32_t n, msgpack_packer *pk);
void ta_result_end(struct ta *t, const struct ta_req *q);
void ta_fail(struct ta *t, const struct ta_req *q, const struct err *e);
/* [2, method, [map of n]] on the connection of q; false: it is gone. */
bool ta_notify(struct ta *t, const struct ta_req *q, const char *method,
	uint32_t n, msgpack_packer *pk);
/* Parameters. Absent: the default, and 0; wrong: -EINVAL with e set. */
int ta_get_u64(const msgpack_object *params, const char *key, uint64_t max,
	uint64_t *v, struct err *e) MUST_USE;
int ta_get_bool(const msgpack_object *params, const char *key, bool *v,
	struct err *e) MUST_USE;
/* str or bin; *p NULL when absent */
int ta_get_bytes(const msgpack_object *params, const char *key, const void **p,
	size_t *n, struct err *e) MUST_USE;
/* As a C string of size bytes, without a zero byte inside; "" when absent. */
int ta_get_text(const msgpack_object *params, const char *key, char *out,
	size_t size, struct err *e) MUST_USE;

/* Methods: 0 when answered or to be answered, or -errno with e set. */
typedef int ta_method(struct ta *t, const struct ta_req *q,
	const msgpack_object *params, struct err *e);
ta_method ta_ping, ta_invoke;                           /* handler.c */
ta_method ta_identity, ta_clock;                        /* identity.c */
ta_method ta_exec_start, ta_exec_input, ta_exec_signal; /* exec.c */
ta_method ta_put, ta_get;                               /* files.c */

/* exec.c */
void ta_exec_event(struct ta *t, uint32_t index, uint32_t events);
bool ta_exec_reaped(struct ta *t, pid_t pid, int status);
void ta_exec_conn_gone(struct ta *t, const struct ta_conn *c);
/* The connection has room again. */
void ta_exec_room(struct ta *t, const struct ta_conn *c);
uint64_t ta_exec_deadline(const struct ta *t);
void ta_exec_tick(struct ta *t, uint64_t now);
void ta_exec_fini(struct ta *t);

/* handler.c */
void ta_handler_start(struct ta *t, const char *path);
void ta_handler_event(struct ta *t, uint32_t stream, uint32_t events);
bool ta_handler_reaped(struct ta *t, pid_t pid, int status);
uint64_t ta_handler_deadline(const struct ta *t);
void ta_handler_tick(struct ta *t, uint64_t now);
/* It has a new identity; q is answered when the handler knows. */
void ta_handler_identity(struct ta *t, const struct ta_req *q);
void ta_handler_fini(struct ta *t);
/* identity.c: the answer to identity. */
void ta_identity_done(struct ta *t, const struct ta_req *q);

/* proc.c: children */
struct ta_spawn {
	char *const *argv;
	char *const *env; /* NULL: ours */
	const char *cwd;  /* NULL: / */
	int out_fd;       /* stdin..stderr all here when >= 0: no pipes */
};
/* Starts a child in a session of its own, with pipes (our ends non-blocking)
 * in fd[]. Its pid, or -errno with e set. */
pid_t ta_spawn(const struct ta_spawn *s, int fd[3], struct err *e) MUST_USE;
void ta_close_pipes(int fd[3]);
/* "exited with code 3", "was killed by signal 9" */
void ta_describe_status(int status, char *out, size_t size);
/* Read once from a pipe: bytes, 0 at the end, -EAGAIN, -errno. */
ssize_t ta_pipe_read(int fd, void *buf, size_t n);
/* Write what goes of b: 0, or -EPIPE and other errors. */
int ta_pipe_write(int fd, struct buf *b) MUST_USE;

/* netif.c */
int ta_netif_find(const uint8_t mac[6], char name[16]) MUST_USE;
int ta_netif_set(const struct ta_netif *n, struct err *e) MUST_USE;
int ta_netif_up(const char *name) MUST_USE;
/* What identity says of "interfaces". */
int ta_netifs(
	struct ta *t, const msgpack_object *params, struct err *e) MUST_USE;

/* init.c: process 1 */
struct ta_boot {
	char root[128];    /* thaw.root=: disk to switch to */
	char fstype[32];   /* thaw.rootfstype= */
	char flags[128];   /* thaw.rootflags= */
	char init[256];    /* thaw.init=: becomes process 1 after the switch */
	char start[256];   /* thaw.start=: main command */
	char handler[256]; /* thaw.handler= */
	char modules[256]; /* thaw.modules=a,b,c: more of them */
	bool read_only;    /* "ro" among the kernel's own */
};
/* Parse a kernel command line. What it does not know it leaves to others. */
void ta_boot_parse(struct ta_boot *b, const char *cmdline);
void ta_init_mounts(void);
int ta_init_switch_root(const struct ta_boot *b, struct err *e) MUST_USE;
/* Stop everything, unmount, power off. Does not return. */
_Noreturn void ta_init_poweroff(void);

/* modules.c: loads names (and what they need) from root/lib/modules. Those
 * that are not there, or built in, are passed over. The number loaded. */
int ta_modules_load(const char *dir, const char *const names[], size_t n);

#endif

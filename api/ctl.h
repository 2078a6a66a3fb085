/*
 * Control protocol between thawd and its thaw-machine processes.
 *
 * One SOCK_SEQPACKET socket per process, inherited as fd CTL_FD. A message is
 * one struct ctl_msg, then .len bytes of payload, then up to CTL_MAX_FDS
 * descriptors (SCM_RIGHTS, close-on-exec). Each descriptor has a tag in the
 * message that says what it is (enum ctl_fd_kind and an index): their order
 * means nothing, and one that is not there is simply not there. Both sides
 * come from one build, so structs travel as they are; the first message
 * carries CTL_VERSION.
 *
 * Trust: the daemon does not trust what a machine sends (its guest may have
 * taken it over): sizes and types are checked by ctl_recv(), every value by
 * the reader. A machine trusts the daemon.
 *
 * A request has a .req that the answer repeats; the answer has the same .type
 * and CTL_F_REPLY. A negative .status means failure, and the payload is then
 * one line of text. Messages of a machine on its own initiative have .req 0.
 *
 * Payloads up to CTL_INLINE bytes stand in the message; a larger one comes as
 * a memfd, the last descriptor, with CTL_F_MEMFD and its length in .len.
 */
#ifndef THAW_API_CTL_H
#define THAW_API_CTL_H

#include "core/freeze.h"
#include "core/machine.h"
#include "snapshot/snap.h"

#define CTL_FD      3
#define CTL_VERSION 1
#define CTL_INLINE  (64 * 1024)
#define CTL_MAX_FDS 32

enum ctl_type {
	/* daemon -> process, answered */
	CTL_SETUP = 1,  /* role and what it needs; the first message */
	CTL_WAIT_READY, /* answered when the guest is ready (builder, machine);
			 * CTL_READY_AGENT gives a machine its identity too */
	CTL_PAUSE,
	CTL_RESUME,
	CTL_STOP,     /* end the machine; answered, then the process exits */
	CTL_SNAPSHOT, /* socket: control socket of the process that is forked
		       * and holds the machine as it is now. Answer: pidfd */
	CTL_SETTLE,   /* what became of that snapshot. A machine that stayed
		       * paused for it goes on; answered then */
	CTL_WRITE,    /* to that process: output, an empty file; pagemap, if
		       * there is one. Answer: base if wanted; it exits */
	CTL_FREEZE,   /* builder; output: empty file. Answer: base; exits */
	CTL_CLONE,    /* zygote: fork n clones; answered after the last
		       * CTL_CLONED of the batch, or when a fork failed */
	CTL_GO,       /* parked clone: start */
	CTL_INVOKE,   /* payload to the agent; a parked clone starts first */
	CTL_AGENT,    /* another method of the agent's, of a running machine */
	CTL_INPUT,    /* payload to the serial console; not answered */
	CTL_DIALED,   /* answer to CTL_DIAL; stream unless refused; not answered
		       */
	CTL_CONNECT,  /* stream: a client of the vsock device, as if it had come
		       * through the listener */
	CTL_INSPECT,  /* offline process; snapshot, perhaps set. Answer: msgpack
		       */
	CTL_ATTACH,   /* pager: a machine that registered; uffd; not answered */
	CTL_DETACH,   /* pager: it is dead; not answered */
	CTL_FILL,     /* pager: the background may begin; not answered */
	CTL_RECORDED, /* pager: write what was asked for; output: empty file;
		       * set: merge with this one */
	CTL_ALIVE,    /* pager: answer, if you can */
	CTL_PAGED,    /* machine: all of its memory is there; not answered */

	/* process -> daemon, on its own initiative */
	CTL_CLONED = 64, /* zygote: a clone was forked; socket, pidfd */
	CTL_REAPED,      /* zygote: a clone's process was waited for */
	CTL_HATCHED, /* clone: acknowledged, now parked or running; or failed */
	CTL_ENDED,   /* the guest ended; payload: text. The process exits */
	CTL_CONSOLE, /* serial output; dropped when the socket is full */
	CTL_DIAL,    /* the guest connects to a host port */
	CTL_PROGRESS, /* of CTL_WRITE and CTL_INSPECT, now and then */
	CTL_PARENT,   /* during setup or CTL_INSPECT: which file is this
		       * snapshot? payload: the path that the file gives.
		       * Answered: parent; payload: its path. A status other
		       * than -ENOENT: something is at that path, but no
		       * snapshot */
	CTL_UFFD,     /* machine: its memory is registered; uffd, and pager if
		       * it is an external one. It waits for pages from now
		       * on */
	CTL_PAGER,    /* pager: something happened; payload: text */
};

/* What a descriptor is. Those of several (disks) are told apart by .index. */
enum ctl_fd_kind {
	CTL_FD_NONE, /* also one that was taken out of a packet */
	CTL_FD_KERNEL,
	CTL_FD_INITRD,
	CTL_FD_SNAPSHOT, /* to be read */
	CTL_FD_PARENT,   /* a snapshot that another one builds on */
	CTL_FD_BASE,     /* sealed memory of a template */
	CTL_FD_LISTENER, /* unix socket of the vsock device */
	CTL_FD_DISK,     /* index: disk of the configuration */
	CTL_FD_LAYER,    /* index: the same; a frozen overlay under it */
	CTL_FD_OVERLAY,  /* index: the same; a fresh private file */
	CTL_FD_TAP,      /* index: network interface */
	CTL_FD_PAGER,    /* socket of an external pager: SETUP: to connect to
			  * (O_PATH); UFFD: connected */
	CTL_FD_UFFD,
	CTL_FD_PAGEMAP,
	CTL_FD_OUTPUT,  /* a file to be written */
	CTL_FD_SOCKET,  /* control socket of a clone */
	CTL_FD_PIDFD,   /* of the same */
	CTL_FD_STREAM,  /* connected socket of a guest's dial */
	CTL_FD_SET,     /* working set of a snapshot */
	CTL_FD_STATS,   /* counters of a pager (uffd/pager.h) */
	CTL_FD_DIALER,  /* socket of a process that connects to the peer
			 * (snapshot/remote.h) */
	CTL_FD_PAYLOAD, /* CTL_F_MEMFD; ctl_recv() keeps it to itself */
};

/* A descriptor to send. */
struct ctl_fd {
	int fd;
	uint8_t kind; /* enum ctl_fd_kind */
	uint8_t index;
};

#define CTL_F_REPLY 1u
#define CTL_F_MEMFD 2u

enum ctl_role {
	CTL_ROLE_MACHINE = 1, /* cold boot; kernel unless builtin */
	CTL_ROLE_BUILDER,     /* the same, memory becomes a base */
	CTL_ROLE_RESTORE,     /* snapshot; a machine with private memory */
	CTL_ROLE_ZYGOTE,      /* snapshot; base when it exists */
	CTL_ROLE_INSPECT,     /* a helper that parses one snapshot and exits */
	CTL_ROLE_FLATTEN,     /* snapshot; output: an empty file, which becomes
			       * a full one if the snapshot is a diff */
	CTL_ROLE_PAGER,       /* snapshot, stats, perhaps set */
	CTL_ROLE_FETCH,       /* dialer; output: an empty file, which becomes a
			       * remote snapshot but for its chunks, unless snapshot,
			       * a cached one, is that; output 1: an empty file for
			       * its working set */
};

enum ctl_ready {
	CTL_READY_AGENT = 1,
	CTL_READY_TEXT,
	CTL_READY_AFTER
};
enum ctl_clone_mode {
	CTL_CLONE_PARK = 1, /* for the pool: acknowledged, then parked */
	CTL_CLONE_RUN,      /* fresh: acknowledged, running */
};
enum ctl_inspect {
	CTL_INSPECT_SHOW = 1,
	CTL_INSPECT_VERIFY
};

/* Microseconds of the steps of a start. */
struct ctl_times {
	uint32_t fork;  /* zygote: fork() itself */
	uint32_t build; /* process start or fork -> machine realized */
	uint32_t ack;   /* realized -> identity acknowledged */
	uint32_t go;    /* time set, vCPUs resumed */
};

struct ctl_setup {
	uint32_t version; /* CTL_VERSION */
	uint32_t role;
	uint32_t has_overrides; /* machine, restore: payload ends with them */
	uint32_t track_dirty;   /* machine, restore: for diffs */
	/* restore, zygote: memory comes from a pager. A zygote's base is then
	 * the pager's; a restored machine's memory is anonymous, and with a
	 * descriptor CTL_FD_PAGER filled by the external one there. */
	uint32_t lazy;
	struct ctl_pager_opts {
		uint32_t direct, record, fill, stall_ms; /* uffd/pager.h */
		uint64_t rate; /* bytes a second, 0: no limit */
	} pager;
	/* pager, fetch: the snapshot is on another host; payload: struct
	 * remote_name; dialer. A pager's files are open for writing. */
	uint32_t remote;
	/* payload: struct machine_config (machine, builder), else none; then
	 * struct ctl_overrides when has_overrides. After the answer a machine
	 * is built and paused: CTL_RESUME starts it. The first CTL_RESUME of a
	 * restored machine is answered when its agent has acknowledged the new
	 * identity (a machine without vsock: at once). */
};
struct ctl_setup_done {
	struct snap_uuid uuid; /* restore, zygote */
	uint64_t memory;       /* bytes of guest memory */
	uint64_t base_bytes;   /* zygote: memory the base takes */
	uint32_t depth;        /* restore, flatten: of the chain; 0: full */
	uint32_t fetched;      /* fetch: CTL_FETCHED_* */
	uint32_t total_us;
	uint32_t cpus;
	uint8_t digest[16]; /* fetch: with uuid, of the parent */
	/* zygote, restore: payload is struct machine_config */
	/* zygote: the base when it loaded one itself; pager: the base, unless
	 * it is direct */
};
#define CTL_FETCHED_CACHED 1u /* the cached file is right: output is empty */
#define CTL_FETCHED_SET    2u /* output 1 has a working set */
#define CTL_FETCHED_DIFF   4u /* it has a parent */
struct ctl_wait_ready {
	uint32_t kind; /* enum ctl_ready */
	uint32_t timeout_ms;
	uint32_t after_ms; /* CTL_READY_AFTER */
	/* CTL_READY_TEXT: payload is the text on the console */
};
struct ctl_frozen { /* answer to FREEZE */
	struct snap_uuid uuid;
	uint64_t bytes, pages;
	uint32_t total_us, reserved;
	uint64_t base_bytes;
};
enum ctl_against {
	CTL_AGAINST_ANY, /* the last one if changes are tracked */
	CTL_AGAINST_LAST,
	CTL_AGAINST_TEMPLATE
};
struct ctl_snapshot {
	uint32_t live;    /* else it stays paused until CTL_SETTLE */
	uint32_t diff;    /* else full */
	uint32_t against; /* diff: enum ctl_against */
	uint32_t reserved;
	/* Overlays that are to be kept: descriptors CTL_FD_OVERLAY; payload: a
	 * struct ctl_disk for each. */
};
struct ctl_split { /* answer to SNAPSHOT */
	struct freeze_us us;
	uint32_t against; /* diff: which one it is, not CTL_AGAINST_ANY */
	uint32_t was_paused;
};
struct ctl_settle {
	uint32_t kept, reserved;
	struct snap_uuid uuid; /* kept: of the snapshot that there is now */
	uint8_t digest[16];
};
struct ctl_settled {       /* answer to SETTLE */
	uint32_t pause_us; /* of a machine that stayed paused, in all */
	uint32_t resume_us;
};
struct ctl_write {
	uint32_t zstd_level; /* 0: raw */
	uint32_t want_base;  /* also make the base of a template */
	/* payload: path of the parent as the file is to name it */
};
struct ctl_written {
	struct snap_uuid uuid;
	uint8_t digest[16];
	uint64_t bytes, pages, zero;
	uint64_t base_bytes;
	uint32_t base_us, write_us;
};
struct ctl_parent {
	struct snap_uuid uuid;
	/* Where to look: 0 at first. The answer has the number to go on with
	 * if its file is not the right one; an error when there is no more. */
	uint32_t attempt;
	uint32_t reserved;
	uint8_t digest[16];
};
struct ctl_look {
	uint32_t what; /* enum ctl_inspect */
	uint32_t map;  /* draw one, too */
	uint32_t path_len;
	uint32_t reserved;
	/* payload: path of the snapshot, for messages; name of a section */
};
struct ctl_progress {
	uint64_t done, total; /* bytes: of guest memory; INSPECT: of files */
};
struct ctl_clone {
	uint32_t count;      /* 1..CTL_CLONE_BATCH */
	uint32_t mode;       /* enum ctl_clone_mode */
	uint64_t first;      /* number of the first clone: its default names */
	uint32_t timeout_ms; /* until acknowledged */
	uint32_t reserved;
	/* descriptors of a clone's own: count must be 1.
	 * payload: struct ctl_overrides, or none */
};
#define CTL_CLONE_BATCH 16
/* Files behind devices, by the device's id: entry i belongs to the descriptors
 * of index i. */
struct ctl_disk {
	char id[MACHINE_ID_MAX];
};
struct ctl_net {
	char id[MACHINE_ID_MAX];
	char tap[16]; /* name for people, "" without a descriptor */
	uint8_t mac[6];
	uint8_t has_mac, reserved;
	struct machine_ip ip;
};
struct ctl_overrides {
	char hostname[64];      /* empty: "TEMPLATE-NUMBER" */
	char template_name[64]; /* always set */
	uint32_t cid;           /* 0: as in the template; of several clones
				 * the first one's, the others count up */
	uint32_t ndisks, nnets;
	uint32_t reserved;
	struct ctl_disk disk[MACHINE_MAX_DISKS];
	struct ctl_net net[MACHINE_MAX_NETS];
};
struct ctl_cloned {
	uint64_t number; /* first + index */
	int32_t pid;     /* in the zygote's pid namespace */
	uint32_t fork_us;
};
struct ctl_reaped {
	uint64_t number;
	int32_t wait_status; /* as of waitpid() */
	uint32_t reserved;
};
struct ctl_hatched {
	struct ctl_times us;
	uint8_t generation[16];
	uint8_t machine_id[16];
};
struct ctl_invoke {
	uint32_t timeout_ms;
	uint32_t reserved;
	/* payload: the request; answer: payload */
};
struct ctl_invoked {
	uint32_t go_us, ready_us, answer_us;
	uint32_t reserved;
};
struct ctl_agent {
	uint32_t timeout_ms;
	uint32_t reserved;
	/* payload: name of the method, a zero byte, its parameters (a msgpack
	 * map); answer: payload: its result */
};
struct ctl_ended {
	uint32_t kind; /* enum machine_end_kind */
	uint32_t reserved;
};
struct ctl_console {
	uint64_t dropped; /* bytes lost before this message */
			  /* payload: bytes */
};
struct ctl_dial {
	uint64_t cookie;
	uint32_t port;
	uint32_t reserved;
};

struct ctl_uffd {
	uint64_t addr; /* of guest memory in the machine's process */
	uint64_t id;   /* ATTACH, DETACH: the daemon's number for it */
};
struct ctl_paged {
	uint32_t type; /* enum pager_event_type */
	uint32_t reserved;
	uint64_t id;  /* of the machine that is concerned */
	int64_t code; /* negative errno, or 0 */
};
struct ctl_recorded {        /* answer */
	uint64_t pages, set; /* of this run; in the file */
	uint32_t recordings, reserved;
};

struct ctl_msg {
	uint32_t type;  /* enum ctl_type */
	uint32_t flags; /* CTL_F_* */
	uint32_t req;
	int32_t status;
	uint32_t len;  /* payload bytes */
	uint32_t nfds; /* set by ctl_send() */
	struct {
		uint8_t kind, index;
	} fd[CTL_MAX_FDS]; /* tags of the descriptors; set by ctl_send() */
	union {
		struct ctl_setup setup;
		struct ctl_setup_done setup_done;
		struct ctl_wait_ready wait_ready;
		struct ctl_frozen frozen;
		struct ctl_snapshot snapshot;
		struct ctl_split split;
		struct ctl_settle settle;
		struct ctl_settled settled;
		struct ctl_write write;
		struct ctl_written written;
		struct ctl_progress progress;
		struct ctl_parent parent;
		struct ctl_clone clone;
		struct ctl_cloned cloned;
		struct ctl_reaped reaped;
		struct ctl_hatched hatched;
		struct ctl_invoke invoke;
		struct ctl_invoked invoked;
		struct ctl_agent agent;
		struct ctl_ended ended;
		struct ctl_console console;
		struct ctl_dial dial;
		struct ctl_uffd uffd;
		struct ctl_paged paged;
		struct ctl_recorded recorded;
		struct ctl_look look;
		uint8_t pad[96];
	};
};

/* A received message. Descriptors are owned by the receiver: ctl_take() those
 * it keeps, ctl_packet_free() closes the rest. */
struct ctl_packet {
	struct ctl_msg msg;
	unsigned nfds;
	int fd[CTL_MAX_FDS];
	/* Payload of msg.len bytes and a zero byte after it; points into the
	 * receiver's buffer, or to .big (owned) when it came as a memfd. */
	uint8_t *payload;
	uint8_t *big;
};

/* Send; payload may be NULL when m->len is 0; fds stay the caller's. Returns
 * 0, -EAGAIN when the socket is full (nothing was sent), or -errno. */
int ctl_send(int sock, struct ctl_msg *m, const void *payload,
	const struct ctl_fd *fds, unsigned nfds) MUST_USE;
/* Receive one into p; buf has CTL_INLINE + 1 bytes and keeps the payload.
 * 1: p is filled; 0: end of file; -EAGAIN; -EBADMSG: not a valid message. */
int ctl_recv(int sock, struct ctl_packet *p, uint8_t *buf) MUST_USE;
void ctl_packet_free(struct ctl_packet *p);
/* The descriptor with this tag, or -1. ctl_take(): it is the caller's now;
 * ctl_fd(): it stays the packet's. */
int ctl_take(struct ctl_packet *p, enum ctl_fd_kind kind, unsigned index);
int ctl_fd(const struct ctl_packet *p, enum ctl_fd_kind kind, unsigned index);
/* Make m the answer to a request: same type and req. One of an error has a
 * negative status and its message as payload. */
void ctl_make_reply(const struct ctl_msg *request, struct ctl_msg *m);

#endif

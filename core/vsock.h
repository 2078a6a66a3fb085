/*
 * Host side of the machine's vsock (device: devices/vsock.c, virtio 1.2
 * section 5.10). Streams come from three places: the machine itself (the
 * agent client), a unix socket that speaks "CONNECT port\n" / "OK port\n", and
 * the guest. All functions: loop thread.
 */
#ifndef THAW_CORE_VSOCK_H
#define THAW_CORE_VSOCK_H

#include "core/buf.h"
#include "core/machine.h"

struct vsock;
struct vsock_stream;

/* Callbacks of a stream opened by vsock_connect(). They run from the machine's
 * events and from vsock_reset(), never from inside the other functions here,
 * and may call those. p is valid during the call and cannot change under it.
 * After closed() the stream is gone; err is 0 (the guest closed),
 * -ECONNREFUSED, -ECONNRESET or -ENOMEM. */
struct vsock_stream_ops {
	void (*opened)(void *arg);
	void (*data)(void *arg, const void *p, size_t n);
	void (*closed)(void *arg, int err);
};

/* Connect to a port in the guest. Works before the machine runs: the request
 * waits in the ring, or for the guest's driver to come up. There is no time
 * limit here. NULL with errno ENOBUFS when there are too many streams. */
struct vsock_stream *vsock_connect(struct vsock *v, uint32_t port,
	const struct vsock_stream_ops *ops, void *arg);
/* Queue bytes (copied); sent as the guest's credit allows. -ENOBUFS when more
 * than VSOCK_MAX_QUEUED would wait. */
int vsock_send(struct vsock_stream *s, const void *p, size_t n) MUST_USE;
/* The same, emptying b: without a copy when nothing else waits. On error b is
 * as before. */
int vsock_send_buf(struct vsock_stream *s, struct buf *b) MUST_USE;
/* Close and forget; no callback follows. */
void vsock_close(struct vsock_stream *s);

#define VSOCK_MAX_QUEUED (8 * MIB)

/* Streams of all kinds per machine, half-open ones included. */
#define VSOCK_MAX_STREAMS 256

/* A listening unix socket for host clients. Owned by v from here, also when
 * this fails; one per machine. After machine_realize(). */
int vsock_listen(struct vsock *v, int listen_fd, struct err *e) MUST_USE;
/* A client that came by another way than the listener: a connected stream
 * socket, non-blocking, owned by v from here. It says "CONNECT port\n" as they
 * all do. */
void vsock_add_client(struct vsock *v, int fd);
/* Who connects the guest's streams to PATH_port: called with the port; answer
 * at once or within 10 s with vsock_accept(v, cookie, fd), fd -1 to refuse. fd
 * is a connected stream socket, owned by v from there. Without a dial function
 * every connection from the guest is refused. */
typedef void vsock_dial_fn(void *arg, uint32_t port, uint64_t cookie);
void vsock_set_dial(struct vsock *v, vsock_dial_fn *fn, void *arg);
void vsock_accept(struct vsock *v, uint64_t cookie, int fd);

/* After a restore, before the first run: all streams are gone (closed() with
 * -ECONNRESET); the guest is told by TRANSPORT_RESET, before it sees any new
 * connection. cid 0 keeps the old one; -EINVAL for a reserved one. */
int vsock_reset(struct vsock *v, uint32_t cid, struct err *e) MUST_USE;

struct vsock_stats {
	uint64_t rx_bytes, tx_bytes, streams, refused;
};
void vsock_get_stats(const struct vsock *v, struct vsock_stats *st);

#endif

/*
 * How it works: a request is packed straight into one buffer and leaves with
 * one sendmsg() that does not block. Only when the socket is full does it wait,
 * for room and for answers alike: a daemon that stops reading because its
 * answers are not taken would otherwise wait for us as we wait for it.
 */
#include "api/client/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

msgpack_packer *thaw_request(
	struct thaw *t, const char *method, uint32_t nparams)
{
	msgpack_packer *p = &t->packer;

	msgpack_sbuffer_clear(&t->out);
	t->nfds = 0;
	/* 0 is nobody's: thaw_next() uses it for "no answer". */
	if (++t->last_id == 0)
		t->last_id = 1;
	(void)msgpack_pack_array(p, 4);
	(void)msgpack_pack_int(p, 0);
	(void)msgpack_pack_uint32(p, t->last_id);
	mp_str(p, method);
	(void)msgpack_pack_array(p, 1);
	(void)msgpack_pack_map(p, nparams);
	return p;
}

void thaw_pack_str(msgpack_packer *p, const char *key, const char *value)
{
	mp_key_str(p, key, value);
}

void thaw_pack_u64(msgpack_packer *p, const char *key, uint64_t value)
{
	mp_key_u64(p, key, value);
}

void thaw_pack_bool(msgpack_packer *p, const char *key, int value)
{
	mp_key_bool(p, key, value != 0);
}

void thaw_pack_data(
	msgpack_packer *p, const char *key, const void *data, size_t len)
{
	mp_str(p, key);
	mp_bin(p, data, len);
}

void thaw_pack_fd(struct thaw *t, msgpack_packer *p, const char *key, int fd)
{
	mp_str(p, key);
	(void)msgpack_pack_map(p, 1);
	mp_key_u64(p, "fd", t->nfds);
	if (t->nfds < THAW_MAX_FDS)
		t->fds[t->nfds] = fd;
	t->nfds++;
}

/* Bytes sent, 0 when the socket is full, or -errno. Descriptors go with the
 * first bytes. */
static ssize_t send_some(struct thaw *t, size_t done)
{
	struct iovec iov = {t->out.data + done, t->out.size - done};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(t->fds))];
	} ctl;
	ssize_t n;

	if (done == 0 && t->nfds) {
		struct cmsghdr *c;

		memset(&ctl, 0, sizeof(ctl));
		mh.msg_control = ctl.buf;
		mh.msg_controllen = CMSG_SPACE(t->nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(t->nfds * sizeof(int));
		memcpy(CMSG_DATA(c), t->fds, t->nfds * sizeof(int));
	}
	n = sendmsg(t->fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

int thaw_send(struct thaw *t, uint32_t *id, struct thaw_error *e)
{
	size_t done = 0;

	if (t->broken.code) {
		if (e)
			*e = t->broken;
		return (int)t->broken.code;
	}
	if (t->nfds > THAW_MAX_FDS)
		return client_error(e, THAW_INVALID,
			"more than %d descriptors in one request",
			THAW_MAX_FDS);
	while (done < t->out.size) {
		ssize_t n = send_some(t, done);
		short got = 0;
		int rc;

		if (n < 0)
			return client_break(t, e, THAW_CLOSED,
				"the daemon closed the connection: %s",
				strerror((int)-n));
		done += (size_t)n;
		if (done == t->out.size)
			break;
		rc = client_poll(t, POLLIN | POLLOUT, 0, &got, e);
		/* Half a request is out: nothing else can follow it. */
		if (rc == THAW_INTERRUPTED && done)
			return client_break(t, e, THAW_INTERRUPTED,
				"interrupted while sending");
		if (!rc && (got & POLLIN))
			rc = client_receive(t, false, e);
		if (rc)
			return rc;
	}
	*id = t->last_id;
	return THAW_OK;
}

int thaw_call(struct thaw *t, int timeout_ms, struct thaw_result *r,
	struct thaw_error *e)
{
	struct thaw_result drop = {0};
	uint32_t id = 0;
	int rc;

	if (r)
		*r = drop;
	rc = thaw_send(t, &id, e);
	if (rc)
		return rc;
	rc = thaw_wait(t, id, timeout_ms, r ? r : &drop, e);
	thaw_result_free(&drop);
	return rc;
}

/* Six words of a request and where the answer goes: a struct for them would
 * only move the list. NOLINTNEXTLINE(readability-function-size) */
int thaw_invoke(struct thaw *t, const char *template_name, const void *payload,
	size_t len, uint32_t timeout_ms, struct thaw_result *r,
	struct thaw_error *e)
{
	msgpack_packer *p = thaw_request(t, "invoke", timeout_ms ? 3 : 2);

	mp_key_str(p, "template", template_name);
	thaw_pack_data(p, "payload", payload, len);
	if (timeout_ms)
		mp_key_u64(p, "timeout_ms", timeout_ms);
	return thaw_call(t, -1, r, e);
}

/* NOLINTNEXTLINE(readability-function-size): as above */
int thaw_machine_invoke(struct thaw *t, const char *id, const void *payload,
	size_t len, uint32_t timeout_ms, struct thaw_result *r,
	struct thaw_error *e)
{
	msgpack_packer *p =
		thaw_request(t, "machine.invoke", timeout_ms ? 3 : 2);

	mp_key_str(p, "id", id);
	thaw_pack_data(p, "payload", payload, len);
	if (timeout_ms)
		mp_key_u64(p, "timeout_ms", timeout_ms);
	return thaw_call(t, -1, r, e);
}

int thaw_clone(struct thaw *t, const char *template_name, uint32_t count,
	const char *mode, struct thaw_result *r, struct thaw_error *e)
{
	msgpack_packer *p = thaw_request(t, "clone", 3);

	mp_key_str(p, "template", template_name);
	mp_key_u64(p, "count", count);
	mp_key_str(p, "mode", mode);
	return thaw_call(t, -1, r, e);
}

int thaw_machine_stop(struct thaw *t, const char *id, struct thaw_error *e)
{
	mp_key_str(thaw_request(t, "machine.stop", 1), "id", id);
	return thaw_call(t, -1, NULL, e);
}

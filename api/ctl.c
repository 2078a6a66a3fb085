#include "api/ctl.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* Longest payload that may come as a memfd. */
#define CTL_MAX_BIG (8 * MIB)

union cmsg_space {
	char buf[CMSG_SPACE(sizeof(int) * CTL_MAX_FDS)];
	struct cmsghdr align;
};

static int send_packet(int sock, struct ctl_msg *m, const void *payload,
	const struct ctl_fd *fds, unsigned nfds)
{
	int raw[CTL_MAX_FDS];
	union cmsg_space space = {0};
	struct iovec iov[2] = {{m, sizeof(*m)}, {NULL, 0}};
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 1};
	ssize_t n;

	memset(m->fd, 0, sizeof(m->fd));
	m->nfds = nfds;
	for (unsigned i = 0; i < nfds; i++) {
		raw[i] = fds[i].fd;
		m->fd[i].kind = fds[i].kind;
		m->fd[i].index = fds[i].index;
	}
	if (payload) {
		/* sendmsg() does not write: the cast only drops const */
		memcpy(&iov[1].iov_base, &payload, sizeof(payload));
		iov[1].iov_len = m->len;
		mh.msg_iovlen = 2;
	}
	if (nfds) {
		struct cmsghdr *c;

		mh.msg_control = space.buf;
		mh.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), raw, sizeof(int) * nfds);
	}
	do
		n = sendmsg(sock, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* A payload too long for a packet: into a memfd, which goes last. */
static int send_big(int sock, struct ctl_msg *m, const void *payload,
	const struct ctl_fd *fds, unsigned nfds)
{
	AUTO_FD memfd = -1;
	struct ctl_fd all[CTL_MAX_FDS];
	int r;

	if (nfds >= CTL_MAX_FDS || m->len > CTL_MAX_BIG)
		return -EMSGSIZE;
	memfd = memfd_create("thaw-payload", MFD_CLOEXEC);
	if (memfd < 0)
		return -errno;
	r = write_full(memfd, payload, m->len);
	if (r)
		return r;
	for (unsigned i = 0; i < nfds; i++)
		all[i] = fds[i];
	all[nfds] = (struct ctl_fd){memfd, CTL_FD_PAYLOAD, 0};
	m->flags |= CTL_F_MEMFD;
	return send_packet(sock, m, NULL, all, nfds + 1);
}

int ctl_send(int sock, struct ctl_msg *m, const void *payload,
	const struct ctl_fd *fds, unsigned nfds)
{
	if (nfds > CTL_MAX_FDS || (m->len && !payload))
		return -EINVAL;
	if (m->len > CTL_INLINE)
		return send_big(sock, m, payload, fds, nfds);
	return send_packet(sock, m, m->len ? payload : NULL, fds, nfds);
}

static void take_fds(struct ctl_packet *p, struct msghdr *mh)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		p->nfds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(p->fd, CMSG_DATA(c), p->nfds * sizeof(int));
	}
}

/* The sender may change a memfd under us: read a private copy, never map. */
static int read_big(struct ctl_packet *p)
{
	AUTO_FD fd = -1;
	struct stat st;
	int r;

	if (!p->nfds || p->msg.len > CTL_MAX_BIG)
		return -EBADMSG;
	fd = p->fd[--p->nfds];
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size < p->msg.len)
		return -EBADMSG;
	p->big = malloc((size_t)p->msg.len + 1);
	if (!p->big)
		return -ENOMEM;
	r = pread_full(fd, p->big, p->msg.len, 0);
	p->big[p->msg.len] = 0;
	p->payload = p->big;
	return r ? -EBADMSG : 0;
}

int ctl_recv(int sock, struct ctl_packet *p, uint8_t *buf)
{
	union cmsg_space space;
	struct iovec iov[2] = {{&p->msg, sizeof(p->msg)}, {buf, CTL_INLINE}};
	struct msghdr mh = {.msg_iov = iov,
		.msg_iovlen = 2,
		.msg_control = space.buf,
		.msg_controllen = sizeof(space.buf)};
	ssize_t n;
	int r = 1;

	memset(p, 0, sizeof(*p));
	do
		n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	take_fds(p, &mh);
	if (n == 0) {
		/* An empty packet looks like the end, and may bring some. */
		ctl_packet_free(p);
		return 0;
	}
	if ((size_t)n < sizeof(p->msg) ||
		(mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ||
		p->msg.nfds != p->nfds)
		r = -EBADMSG;
	else if (p->msg.flags & CTL_F_MEMFD)
		r = read_big(p);
	else if (p->msg.len != (size_t)n - sizeof(p->msg))
		r = -EBADMSG;
	if (r < 0) {
		ctl_packet_free(p);
		return r;
	}
	if (!p->big) {
		buf[p->msg.len] = 0;
		p->payload = buf;
	}
	return 1;
}

void ctl_packet_free(struct ctl_packet *p)
{
	for (unsigned i = 0; i < p->nfds; i++) {
		if (p->fd[i] >= 0)
			(void)close(p->fd[i]);
	}
	p->nfds = 0;
	free(p->big);
	p->big = NULL;
	p->payload = NULL;
}

int ctl_fd(const struct ctl_packet *p, enum ctl_fd_kind kind, unsigned index)
{
	for (unsigned i = 0; i < p->nfds; i++) {
		if (p->fd[i] >= 0 && p->msg.fd[i].kind == kind &&
			p->msg.fd[i].index == index)
			return p->fd[i];
	}
	return -1;
}

int ctl_take(struct ctl_packet *p, enum ctl_fd_kind kind, unsigned index)
{
	int fd = ctl_fd(p, kind, index);

	for (unsigned i = 0; fd >= 0 && i < p->nfds; i++) {
		if (p->fd[i] == fd)
			p->fd[i] = -1;
	}
	return fd;
}

void ctl_make_reply(const struct ctl_msg *request, struct ctl_msg *m)
{
	m->type = request->type;
	m->req = request->req;
	m->flags |= CTL_F_REPLY;
}

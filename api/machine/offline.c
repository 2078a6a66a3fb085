#include "api/machine/offline.h"

#include "api/machine/worker.h"
#include "core/arch.h"
#include "core/mp.h"

#include <errno.h>
#include <poll.h>

static int verify(int fd, msgpack_packer *p, struct err *e)
{
	struct snap_verified v;
	char uuid[SNAP_UUID_STR];
	int r = snap_verify_fd(fd, &v, NULL, NULL, e);

	if (r)
		return r;
	snap_uuid_str(&v.uuid, uuid);
	msgpack_pack_map(p, 5);
	mp_key_str(p, "uuid", uuid);
	mp_key_u64(p, "bytes", v.file_bytes);
	mp_key_u64(p, "chunks", v.chunks);
	mp_key_u64(p, "pages", v.pages_present);
	mp_key_u64(p, "zero", v.pages_zero);
	return 0;
}

static int inspect(struct worker *w, const struct ctl_packet *q, int fd,
	msgpack_packer *p, struct err *e)
{
	struct snap_inspect_opts o = {
		.section = q->msg.len ? (const char *)q->payload : NULL};
	AUTO_FREE struct arch_compat *host = NULL;

	/* a host that cannot say is not compared */
	if (w->kvm.fd >= 0)
		(void)!arch_compat_host(w->kvm.fd, &host, e);
	o.host = host;
	return snap_inspect(fd, &o, p, e);
}

static void answer(struct worker *w, struct ctl_packet *p)
{
	int fd = ctl_fd(p, CTL_FD_SNAPSHOT, 0);
	struct ctl_msg m = {0};
	struct err e = {0};
	msgpack_sbuffer buf;
	msgpack_packer pk;
	int r;

	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&pk, &buf, msgpack_sbuffer_write);
	if (p->msg.type != CTL_INSPECT || fd < 0)
		r = err_set(&e, -EINVAL, "not a request for this process");
	else if (p->msg.inspect == CTL_INSPECT_VERIFY)
		r = verify(fd, &pk, &e);
	else
		r = inspect(w, p, fd, &pk, &e);
	m.len = (uint32_t)buf.size;
	if (r)
		worker_reply_error(w, &p->msg, &e);
	else
		worker_reply(w, &p->msg, &m, buf.data, NULL, 0);
	msgpack_sbuffer_destroy(&buf);
}

int offline_run(struct worker *w)
{
	struct pollfd pfd = {.fd = w->ctl, .events = POLLIN};
	struct ctl_packet p;

	while (!w->done) {
		int r = ctl_recv(w->ctl, &p, w->buf);

		if (r == 1) {
			answer(w, &p);
			ctl_packet_free(&p);
			return 0;
		} else if (r != -EAGAIN) {
			return r == 0 ? 0 : 1;
		} else if (poll(&pfd, 1, -1) < 0 && errno != EINTR) {
			return 1;
		}
	}
	return 0;
}

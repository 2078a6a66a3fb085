#include "api/daemon/helper.h"
#include "api/daemon/methods.h"
#include "api/daemon/peerfile.h"

#include <errno.h>
#include <string.h>

/* Methods "snapshot.inspect" and "snapshot.verify": a helper process looks at
 * the file, and what it says is checked before it is handed on. */

static void looked(
	struct daemon *d, void *arg, struct ctl_packet *pk, const struct err *e)
{
	struct request *r = arg;
	struct err why = {0};
	msgpack_packer *p;
	int64_t n;

	(void)d;
	if (!pk) {
		request_fail(r, e);
		return;
	}
	n = mp_check(pk->payload, pk->msg.len, pk->msg.len, &mp_default_limits);
	if (n <= 0 || n != pk->msg.len) {
		err_set(&why, -EIO, "the helper's answer is malformed");
		request_fail(r, &why);
		return;
	}
	p = request_begin(r);
	/* It is one msgpack object: copied as it is. */
	(void)p->callback(p->data, (const char *)pk->payload, pk->msg.len);
	request_end(r);
}

static int look(struct daemon *d, struct request *r, const struct args *a,
	uint32_t what, struct err *e)
{
	int fd = peerfile_read(d, r, "path", &a->path, e), rc;

	if (fd < 0)
		return fd;
	rc = helper_inspect(d,
		&(struct helper_question){.fd = fd,
			.what = what,
			.section = a->section.p,
			.section_len = a->section.n,
			.fn = looked,
			.arg = r},
		e);
	(void)close(fd);
	return rc;
}

int inspect_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	return look(d, r, a, CTL_INSPECT_SHOW, e);
}

int verify_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	return look(d, r, a, CTL_INSPECT_VERIFY, e);
}

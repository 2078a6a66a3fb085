/* The network device against a hostile driver, and packets of any size from the
 * other side: a socket pair in place of the tap. */
#include "tests/fuzz/device_steps.h"
#include "core/devices/net_dev.h"

#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In place of devices/net_tap.c. */
int net_tap_open(struct net *n, struct err *e)
{
	(void)n, (void)e;
	return 0;
}

void net_tap_offloads(struct net *n)
{
	n->new_offloads = false;
}

static void host(struct steps *s)
{
	static uint8_t bytes[70000];
	const int *far_end = s->arg;
	size_t n = steps_take(s, 2) % 66000;

	if (!(n & 7)) {
		/* Held when there is something to tell. */
		memset(s->r.m.net_was, n & 8 ? 2 : 0, sizeof(s->r.m.net_was));
		net_restored(&s->r.m, true);
		return;
	}
	if ((n & 7) == 1)
		net_identified(&s->r.m);
	/* full is as good as sent; and what the guest sent is read */
	if (send(*far_end, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		(void)!recv(*far_end, bytes, sizeof(bytes), MSG_DONTWAIT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine_config cfg = {.memory = RIG_MEMORY,
		.net[0] = {.id = "n", .mac = {2, 0, 0, 0, 0, 1}}};
	static struct steps s;
	struct machine_fds fds;
	int sv[2];

	memset(&fds, 0xff, sizeof(fds));
	memset(&s, 0, sizeof(s));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK,
		    0, sv))
		abort();
	fds.tap[0] = sv[0];
	s.p = data;
	s.n = size;
	s.host = host;
	s.arg = &sv[1];
	vrig_init(&s.r, &net_ops, &cfg, &fds);
	s.features = s.r.vd->features;
	steps_run(&s);
	vrig_fini(&s.r);
	(void)close(sv[0]);
	(void)close(sv[1]);
	return 0;
}

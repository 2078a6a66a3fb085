#include "api/machine/console.h"

#include "api/machine/worker.h"
#include "core/serial.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

/* vCPU thread. */
static void console_put(void *arg, const void *data, size_t len)
{
	struct console *c = arg;
	size_t room;

	pthread_mutex_lock(&c->lock);
	room = sizeof(c->buf) - c->n;
	if (len > room) {
		c->dropped += len - room;
		len = room;
	}
	memcpy(c->buf + c->n, data, len);
	c->n += len;
	pthread_mutex_unlock(&c->lock);
	eventfd_kick(c->event);
}

int console_open(
	struct console *c, struct machine *m, union ev_ref ref, struct err *e)
{
	int r;

	c->n = 0;
	c->dropped = 0;
	pthread_mutex_init(&c->lock, NULL);
	c->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->event < 0)
		return err_sys(e, -errno, "eventfd of the console");
	r = loop_add(m->loop, c->event, EPOLLIN, ref);
	if (r)
		return err_sys(e, r, "watching the console");
	serial_set_output(m, console_put, c);
	return 0;
}

void console_close(struct console *c)
{
	if (c->event >= 0)
		(void)close(c->event);
	c->event = -1;
	pthread_mutex_destroy(&c->lock);
}

void console_flush(struct worker *w)
{
	struct ctl_msg m = {.type = CTL_CONSOLE};
	struct console *c = &w->con;
	char text[CONSOLE_BUF];

	eventfd_drain(c->event);
	pthread_mutex_lock(&c->lock);
	m.len = (uint32_t)c->n;
	m.console.dropped = c->dropped;
	memcpy(text, c->buf, c->n);
	c->n = 0;
	c->dropped = 0;
	pthread_mutex_unlock(&c->lock);
	if (!m.len && !m.console.dropped)
		return;
	worker_ready_console(w, text, m.len);
	if (ctl_send(w->ctl, &m, text, NULL, 0) == -EAGAIN) {
		pthread_mutex_lock(&c->lock);
		c->dropped += m.console.dropped + m.len;
		pthread_mutex_unlock(&c->lock);
	}
}

/* What reaches a machine from outside its vCPUs' loops: events, its end. */
#include "core/arch.h"

#include <stdarg.h>
#include <stdio.h>

int machine_watch(struct device *d, int fd, uint32_t events, uint32_t what)
{
	union ev_ref ref = {
		.type = MACHINE_EV_DEVICE,
		.index = d->index << 16 | (what & 0xffff),
	};

	return loop_add(d->m->loop, fd, events, ref);
}

void machine_unwatch(struct device *d, int fd)
{
	if (d->m->loop)
		loop_del(d->m->loop, fd);
}

void machine_end(
	struct machine *m, enum machine_end_kind kind, const char *fmt, ...)
{
	bool first;
	va_list ap;

	pthread_mutex_lock(&m->lock);
	first = m->end.kind == MACHINE_END_NONE;
	if (first) {
		m->end.kind = kind;
		va_start(ap, fmt);
		(void)vsnprintf(m->end.text, sizeof(m->end.text), fmt, ap);
		va_end(ap);
	}
	pthread_mutex_unlock(&m->lock);
	if (first && m->end_event >= 0)
		eventfd_kick(m->end_event);
}

/* The vCPUs that did not end are stopped too; nobody waits for them. */
static void on_end(struct machine *m)
{
	struct vcpu *v;

	eventfd_drain(m->end_event);
	pthread_mutex_lock(&m->lock);
	m->state = MACHINE_DEAD;
	pthread_mutex_unlock(&m->lock);
	for (unsigned i = 0; i < m->ncpus; i++) {
		v = m->cpu[i];
		vcpu_ask_pause(v);
	}
}

static void on_door(struct machine *m)
{
	eventfd_drain(m->door_event);
	for (unsigned i = 0; i < m->ndevs; i++) {
		if (m->dev[i]->ops->kick)
			m->dev[i]->ops->kick(m->dev[i]);
	}
}

void machine_event(struct machine *m, union ev_ref ref, uint32_t events)
{
	struct device *d;

	switch (ref.type) {
	case MACHINE_EV_DOOR:
		on_door(m);
		break;
	case MACHINE_EV_END:
		on_end(m);
		break;
	case MACHINE_EV_DEVICE:
		if (ref.index >> 16 >= m->ndevs)
			break;
		d = m->dev[ref.index >> 16];
		if (d->ops->event)
			d->ops->event(d, ref.index & 0xffff, events);
		break;
	default:
		break;
	}
}

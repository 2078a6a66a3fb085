#include "api/daemon/machine.h"

#include "api/daemon/admit.h"
#include "api/daemon/birth.h"
#include "api/daemon/conn.h"
#include "api/daemon/console.h"
#include "api/daemon/events.h"
#include "api/daemon/feed.h"
#include "api/daemon/handler.h"
#include "api/daemon/listener.h"
#include "api/daemon/macs.h"
#include "api/daemon/template.h"
#include "api/daemon/writer.h"
#include "api/daemon/zygote.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct machine_entry *machine_create_entry(
	struct daemon *d, enum entry_kind kind, const char *id)
{
	struct machine_entry *m = calloc(1, sizeof(*m));
	struct machine_entry *old = machine_find(d, id);

	if (!m)
		return NULL;
	/* A template of the same name had a clone of this number: the id means
	 * the new one from now on. */
	if (old && old->kept)
		machine_forget(d, old);
	proc_init(&m->p, kind == ENTRY_CLONE ? PROC_CLONE : PROC_MACHINE);
	m->kind = kind;
	(void)snprintf(m->id, sizeof(m->id), "%s", id);
	list_init(&m->bound);
	list_init(&m->of_zygote);
	list_init(&m->of_pool);
	m->uffd = -1;
	m->born = now_ns();
	m->created = wall_ns();
	list_add(&d->machines, &m->all);
	strmap_add(&d->machine_by_id, &m->by_id, m->id);
	d->nmachines++;
	return m;
}

struct machine_entry *machine_find(struct daemon *d, const char *id)
{
	struct strmap_node *n = strmap_find(&d->machine_by_id, id);

	return n ? container_of(n, struct machine_entry, by_id) : NULL;
}

int machine_get(struct daemon *d, const char *id, struct machine_entry **m,
	struct err *e)
{
	*m = machine_find(d, id);
	if (*m)
		return 0;
	return err_set(e, -ENOENT, "no machine \"%s\"", id);
}

/* Out of everything that concerns living machines. */
static void leave(struct daemon *d, struct machine_entry *m)
{
	deadline_clear(&d->deadlines, &m->late);
	list_del(&m->bound);
	m->owner = NULL;
	feed_leave(d, m);
	handler_leave(d, m);
	if (m->t)
		template_leave(d, m);
	list_del(&m->of_zygote);
	m->z = NULL;
	m->t = NULL;
	admit_release(d, m);
	if (m->listener)
		listener_close(m->listener);
	m->listener = NULL;
	macs_release(d, m);
	if (m->writer)
		writer_machine_ended(m->writer);
	m->writer = NULL;
	if (m->state != ENTRY_ENDED) {
		list_del(&m->all);
		d->nmachines--;
	}
}

void machine_forget(struct daemon *d, struct machine_entry *m)
{
	struct err e = {.code = -ESRCH, .msg = "the machine is gone"};

	/* Ending its calls may bring their owners here, too. */
	if (m->forgotten)
		return;
	m->forgotten = true;
	if (m->kept) {
		list_del(&m->all);
		d->nended--;
	} else if (m->state != ENTRY_ENDED) {
		leave(d, m);
	}
	m->state = ENTRY_ENDED;
	strmap_del(&d->machine_by_id, &m->by_id);
	proc_release(d, &m->p, &e);
	if (m->console)
		console_free(d, m->console);
	m->console = NULL;
	free(m->name);
	free(m->end_text);
	daemon_bury(d, m);
}

void machine_set_end(struct machine_entry *m, uint32_t kind, const char *text)
{
	if (m->have_end)
		return;
	m->have_end = true;
	m->end_kind = kind;
	m->end_text = strdup(text);
}

/* Kinds of ends: those of the guest (core/machine.h), then the daemon's. */
const char *machine_end_name(uint32_t kind)
{
	switch (kind) {
	case MACHINE_END_POWEROFF:
		return "poweroff";
	case MACHINE_END_REBOOT:
		return "reboot";
	case MACHINE_END_CRASH:
		return "crash";
	case MACHINE_END_SHUTDOWN:
		return "shutdown";
	case MACHINE_END_ERROR:
		return "error";
	default:
		return "killed";
	}
}

void machine_ended(
	struct daemon *d, struct machine_entry *m, const struct err *why)
{
	if (m->state == ENTRY_ENDED || m->ending)
		return;
	m->ending = true;
	machine_set_end(m, MACHINE_NENDS_, why->msg);
	events_machine(d, "machine.ended", m);
	leave(d, m);
	/* Its pager may have owed an answer to somebody who forgot it now. */
	if (m->forgotten)
		return;
	m->state = ENTRY_ENDED;
	m->kept = true;
	list_add(&d->ended, &m->all);
	d->nended++;
	proc_release(d, &m->p, why);
	if (m->console)
		console_end(m->console);
	while (d->nended > MAX_ENDED)
		machine_forget(d,
			container_of(d->ended.next, struct machine_entry, all));
}

void machine_kill(
	struct daemon *d, struct machine_entry *m, const struct err *why)
{
	if (m->state == ENTRY_ENDED)
		return;
	/* Somebody waits for it, or the pool does. */
	if (m->kind == ENTRY_CLONE && m->state == ENTRY_STARTING) {
		birth_failed(d, m, why);
		return;
	}
	m->discarded = true;
	proc_kill(d, &m->p, why);
	machine_ended(d, m, why);
}

void machine_discard(struct daemon *d, struct machine_entry *m)
{
	struct err e = {.code = -ESRCH, .msg = "the machine was discarded"};

	m->discarded = true;
	proc_kill(d, &m->p, &e);
	machine_forget(d, m);
}

const char *machine_state(const struct machine_entry *m)
{
	static const char *const names[] = {
		[ENTRY_STARTING] = "starting",
		[ENTRY_RUNNING] = "running",
		[ENTRY_PAUSED] = "paused",
		[ENTRY_PARKED] = "parked",
		[ENTRY_DYING] = "ended",
		[ENTRY_ENDED] = "ended",
	};

	return names[m->state];
}

const char *machine_kind(const struct machine_entry *m)
{
	static const char *const names[] = {
		[ENTRY_MACHINE] = "machine",
		[ENTRY_CLONE] = "clone",
		[ENTRY_BUILDER] = "builder",
	};

	return names[m->kind];
}

void machine_bind(struct machine_entry *m, struct conn *c)
{
	m->owner = c;
	list_del(&m->bound);
	list_add(&c->bound, &m->bound);
}

void machines_unbind(struct daemon *d, struct conn *c)
{
	struct err e = {.code = -ECONNRESET,
		.msg = "the client that the machine was bound to has gone"};

	while (!list_empty(&c->bound)) {
		struct machine_entry *m = container_of(
			c->bound.next, struct machine_entry, bound);

		list_del(&m->bound);
		machine_kill(d, m, &e);
	}
}

#include "api/daemon/machine.h"

#include "api/daemon/birth.h"
#include "api/daemon/console.h"
#include "api/daemon/feed.h"
#include "api/daemon/handler.h"
#include "api/daemon/listener.h"
#include "api/daemon/template.h"
#include "api/daemon/zygote.h"
#include "core/log.h"

#include <errno.h>
#include <stdio.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

/*
 * What machines say on their own initiative, and how they end. The order of an
 * end: CTL_ENDED (the guest's own), then the socket closes, then somebody who
 * waited for the process knows its status. Whichever is missing is made up
 * from the next one.
 */

/* A zygote that does not say how its clone died. */
#define REAP_PATIENCE_NS 1000000000ULL

static void guest_end(struct machine_entry *m, struct ctl_packet *p)
{
	char text[300], line[340];
	uint32_t kind = p->msg.ended.kind;

	if (kind == MACHINE_END_NONE || kind >= MACHINE_NENDS_)
		kind = MACHINE_END_ERROR;
	proc_text(p, text, sizeof(text));
	if (kind == MACHINE_END_CRASH || kind == MACHINE_END_SHUTDOWN)
		(void)snprintf(line, sizeof(line), "guest crashed: %s", text);
	else
		(void)snprintf(line, sizeof(line), "guest ended: %s",
			text[0] ? text : machine_end_name(kind));
	machine_set_end(m, kind, line);
}

void machine_message(
	struct daemon *d, struct machine_entry *m, struct ctl_packet *p)
{
	switch ((enum ctl_type)p->msg.type) {
	case CTL_HATCHED:
		birth_hatched(d, m, p);
		break;
	case CTL_ENDED:
		guest_end(m, p);
		break;
	case CTL_CONSOLE:
		console_bytes(d, m, p);
		break;
	case CTL_DIAL:
		listener_dial(m, p);
		break;
	case CTL_UFFD:
		if (m->handler)
			handler_uffd(d, m, p);
		else
			feed_uffd(d, m, p);
		break;
	case CTL_ATTACH:
	case CTL_DETACH:
	case CTL_ALIVE:
	case CTL_FILL:
	case CTL_RECORDED:
	case CTL_PAGED:
	case CTL_PAGER:
	case CTL_SETUP:
	case CTL_WAIT_READY:
	case CTL_PAUSE:
	case CTL_RESUME:
	case CTL_STOP:
	case CTL_SNAPSHOT:
	case CTL_SETTLE:
	case CTL_WRITE:
	case CTL_PROGRESS:
	case CTL_PARENT:
	case CTL_FREEZE:
	case CTL_CLONE:
	case CTL_GO:
	case CTL_INVOKE:
	case CTL_INPUT:
	case CTL_AGENT:
	case CTL_DIALED:
	case CTL_CONNECT:
	case CTL_INSPECT:
	case CTL_CLONED:
	case CTL_REAPED:
	default:
		log_debug("machine %s sent control message %u", m->id,
			p->msg.type);
	}
}

static void finish(struct daemon *d, struct machine_entry *m, int status)
{
	struct err e = {.code = -EIO};

	if (m->have_end && m->end_text)
		(void)snprintf(e.msg, sizeof(e.msg), "%s", m->end_text);
	else if (status >= 0 && WIFSIGNALED(status))
		(void)snprintf(e.msg, sizeof(e.msg),
			"machine process was killed by signal %d",
			WTERMSIG(status));
	else if (status >= 0 && WIFEXITED(status))
		(void)snprintf(e.msg, sizeof(e.msg),
			"machine process ended with code %d",
			WEXITSTATUS(status));
	else
		(void)snprintf(e.msg, sizeof(e.msg), "machine process ended");
	if (!m->have_end)
		d->metrics.counter[COUNT_MACHINES_LOST]++;
	machine_set_end(m, MACHINE_NENDS_, e.msg);
	/* Nobody knew of it. */
	if (m->was_parked) {
		machine_discard(d, m);
		return;
	}
	/* A pending call's owner may forget the machine; then it is done. */
	if (m->kind == ENTRY_CLONE &&
		(m->state == ENTRY_STARTING || m->want || m->for_pool)) {
		birth_failed(d, m, &e);
		return;
	}
	proc_release(d, &m->p, &e);
	machine_ended(d, m, &e);
}

static void finish_late(struct daemon *d, struct deadline *dl)
{
	finish(d, container_of(dl, struct machine_entry, late), -1);
}

void machine_gone(struct daemon *d, struct machine_entry *m, int status)
{
	if (m->state == ENTRY_ENDED || m->state == ENTRY_DYING)
		return;
	if (m->kind != ENTRY_CLONE || !m->z) {
		finish(d, m, status);
		return;
	}
	m->was_parked = m->state == ENTRY_PARKED;
	template_unpark(m);
	if (m->state != ENTRY_STARTING)
		m->state = ENTRY_DYING;
	deadline_set(&d->deadlines, &m->late, now_ns() + REAP_PATIENCE_NS,
		finish_late);
}

void machine_not_ours(struct machine_entry *m)
{
	log_warning(
		"%s: the zygote named a process that is not its child", m->id);
	if (m->z)
		(void)proc_signal(&m->z->p, SIGKILL);
}

void machine_reaped(struct daemon *d, struct machine_entry *m, int status)
{
	/* The zygote may be heard before the clone itself. */
	proc_last_words(d, &m->p);
	if (m->state != ENTRY_ENDED)
		finish(d, m, status);
}

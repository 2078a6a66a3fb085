/*
 * The door (core/guest/abi.h): where a guest without interrupts sleeps.
 *
 * How it works
 *
 * m->door_seq counts "a device used a buffer". v->door_seen is its value when
 * this vCPU last left the door. A guest leaves the door, looks at its rings,
 * and comes back. Three cases for a buffer used meanwhile:
 *
 *   - published before the guest looked: it was seen; at worst the count has
 *     moved since door_seen and one wait ends early, which is legal;
 *   - published after the guest looked, counted before the vCPU waits: door_seq
 *     differs from door_seen, the wait does not begin;
 *   - counted while the vCPU waits: counting takes m->lock, which the waiter
 *     only gives up inside pthread_cond_wait(), so the broadcast reaches it.
 *
 * A device publishes first and counts afterwards; so no wake-up is lost. Only
 * leaving the door moves door_seen: a guest that writes to its serial port
 * between looking and coming here must not be taken to have looked again.
 *
 * Coming to the door also notifies every queue. That is an eventfd to the loop
 * thread, which calls every device's kick(). The eventfd is written before the
 * wait begins, so what the devices answer is one of the cases above.
 *
 * The wait itself is in vcpu.c with everything else that a vCPU thread waits
 * for. A pause interrupts it; the time that is left goes on after the resume.
 */
#include "core/machine.h"
#include "core/vcpu.h"

#include <stdio.h>
#include <string.h>

/* The guest wrote this text: printable ASCII only, always ended. */
static void copy_text(char *dst, size_t size, const char *src, size_t len)
{
	size_t i;

	for (i = 0; i < len && i + 1 < size && src[i]; i++)
		dst[i] = src[i] >= ' ' && src[i] <= '~' ? src[i] : '?';
	dst[i] = '\0';
}

static void door_crash(struct vcpu *v)
{
	char raw[sizeof(((struct ident *)0)->crash)];
	char text[sizeof(raw) + 1] = "";

	if (!mem_read(&v->m->mem, IDENT_GPA + offsetof(struct ident, crash),
		    raw, sizeof(raw)))
		copy_text(text, sizeof(text), raw, sizeof(raw));
	machine_end(v->m, MACHINE_END_CRASH, "%s",
		text[0] ? text : "the guest reported a crash without a text");
}

static void door_event(struct vcpu *v, uint32_t event)
{
	switch (event) {
	case DOOR_EV_POWEROFF:
		machine_end(v->m, MACHINE_END_POWEROFF, "power off");
		break;
	case DOOR_EV_REBOOT:
		machine_end(v->m, MACHINE_END_REBOOT, "reboot");
		break;
	case DOOR_EV_CRASH:
		door_crash(v);
		break;
	default:
		machine_end(v->m, MACHINE_END_CRASH,
			"the guest reported an unknown event %u", event);
		break;
	}
	v->ended = true;
}

void door_io(struct vcpu *v, uint16_t off, uint32_t len, uint32_t value)
{
	if (len != 4)
		return;
	if (off == DOOR_EVENT) {
		door_event(v, value);
		return;
	}
	if (off != DOOR_WAIT)
		return;
	eventfd_kick(v->m->door_event);
	v->door_waiting = true;
	v->door_until = 0;
	if (value != DOOR_FOREVER)
		v->door_until = now_ns() + value * 1000ULL;
}

bool door_is_open(const struct vcpu *v)
{
	if (v->m->door_seq != v->door_seen)
		return true;
	return v->door_until && now_ns() >= v->door_until;
}

void door_leave(struct vcpu *v)
{
	if (!v->door_waiting)
		return;
	v->door_waiting = false;
	v->door_seen = v->m->door_seq;
}

void machine_door_wake(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	m->door_seq++;
	pthread_mutex_unlock(&m->lock);
	pthread_cond_broadcast(&m->run_cond);
}

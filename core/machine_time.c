/* Identity and time: what is different in every clone. */
#include "core/arch.h"

#include <errno.h>
#include <string.h>

#define TIME_OFF_NS 1000000u
#define TIME_TRIES  10

static struct ident *ident_page(struct machine *m, struct err *e)
{
	struct ident *id =
		mem_at(&m->mem, IDENT_GPA, sizeof(struct ident), MEM_WRITE);

	if (!id)
		err_set(e, -EINVAL, "no memory at the identity page");
	return id;
}

int machine_set_identity(
	struct machine *m, const struct identity *id, struct err *e)
{
	struct ident *page = ident_page(m, e);
	struct ident now = {.magic = IDENT_MAGIC};

	if (!page)
		return -EINVAL;
	if (m->state == MACHINE_RUNNING)
		return err_set(e, -EBUSY,
			"cannot change the identity of a running machine");
	memcpy(now.generation, id->generation, sizeof(now.generation));
	memcpy(now.seed, id->seed, sizeof(now.seed));
	arch_time_now(m, &now);
	now.wall_ns = wall_ns();
	memcpy(page, &now, sizeof(now));
	return arch_new_generation(m, id->generation, e);
}

int machine_set_time(struct machine *m, struct err *e)
{
	struct ident *page = ident_page(m, e);
	struct ident now = {0};
	int r;

	if (!page)
		return -EINVAL;
	if (m->state != MACHINE_BUILT && m->state != MACHINE_PAUSED)
		return err_set(e, -EBUSY, "cannot set the time of a %s machine",
			machine_state_name(m->state));
	/* In BUILT machine_realize() has just set all this. */
	r = m->state == MACHINE_PAUSED ? arch_vm_set(m, e) : 0;
	for (unsigned i = 0; !r && m->state == MACHINE_PAUSED && i < m->ncpus;
		i++)
		r = vcpu_time_set(m->cpu[i], e);
	if (r < 0)
		return r;
	/* All of one moment: once more when we did not run in between. */
	for (int i = 0; i < TIME_TRIES; i++) {
		uint64_t before = wall_ns();

		arch_time_now(m, &now);
		page->wall_ns = wall_ns();
		if (page->wall_ns - before < TIME_OFF_NS)
			break;
	}
	page->clock_ns = now.clock_ns;
	page->tsc = now.tsc;
	page->tsc_khz = now.tsc_khz;
	m->told.wall_ns = page->wall_ns;
	m->told.tsc = now.tsc;
	m->told.tsc_khz = now.tsc_khz;
	return 0;
}

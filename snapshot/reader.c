/* Opening a snapshot and putting it into a machine. */
#include "snapshot/internal.h"
#include "core/vcpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int snap_open(int fd, struct snap **out, struct err *e)
{
	struct snap *s = calloc(1, sizeof(*s));
	int rc;

	*out = NULL;
	if (!s)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	s->fd = fd;
	rc = snap_read_header(s, e);
	if (!rc)
		rc = snap_read_table(s, e);
	if (!rc)
		rc = snap_read_index(s, e);
	if (rc) {
		snap_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

void snap_close(struct snap *s)
{
	if (!s)
		return;
	free(s->root);
	free(s->sec);
	free(s);
}

const struct snap_uuid *snap_get_uuid(const struct snap *s)
{
	return (const struct snap_uuid *)(const void *)s->h.uuid;
}

uint64_t snap_memory_size(const struct snap *s)
{
	return s->mem.memory_size;
}

int snap_read_config(struct snap *s, struct machine_config *cfg, struct err *e)
{
	const struct snap_section *sec = snap_find(s, SNAP_TAG_CONFIG, 0);
	int rc;

	if (!sec)
		return snap_bad(e, 0, 0, "there is no config section");
	rc = snap_load_section(s, sec, &machine_config_desc, cfg, e);
	if (rc)
		return rc;
	if (cfg->memory != s->mem.memory_size)
		return snap_bad(e, sec->offset, sec->stored_length,
			"config: %llu bytes of memory, the memory section has "
			"%llu",
			(unsigned long long)cfg->memory,
			(unsigned long long)s->mem.memory_size);
	return 0;
}

/* ---- state ---- */

/* Where a section's state goes in this machine; *d NULL: nowhere,
 * and snap_check_parts() knows that it need not. */
static void *place_of(struct machine *m, const struct snap_section *sec,
	const struct st_desc **d)
{
	*d = NULL;
	if (sec->tag == SNAP_TAG_VCPU && sec->index < m->ncpus) {
		*d = &vcpu_state_desc;
		return m->cpu[sec->index]->s;
	}
	if (sec->tag == SNAP_TAG_MACHINE) {
		*d = &machine_state_desc;
		return &m->saved;
	}
	for (unsigned i = 0; i < m->ndevs; i++) {
		const struct device_ops *ops = m->dev[i]->ops;

		if (ops->section != sec->tag ||
			m->dev[i]->instance != sec->index)
			continue;
		*d = ops->state;
		return ops->saved(m->dev[i]);
	}
	return NULL;
}

int snap_load_state(struct snap *s, struct machine *m, struct err *e)
{
	int rc;

	if (s->h.arch != SNAP_ARCH_HOST)
		return err_set(e, -EOPNOTSUPP,
			"the snapshot is of another processor architecture");
	rc = snap_check_parts(s, &m->cfg, e);
	for (uint32_t i = 0; i < s->h.section_count && !rc; i++) {
		const struct snap_section *sec = &s->sec[i];
		const struct st_desc *d;
		void *place = place_of(m, sec, &d);

		if (d)
			rc = snap_load_section(s, sec, d, place, e);
	}
	return rc;
}

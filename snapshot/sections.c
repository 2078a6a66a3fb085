/*
 * State sections: each is one msgpack map, written and read through a state
 * table. The tag says which table.
 */
#include "snapshot/internal.h"
#include "core/crc32c.h"
#include "core/vcpu.h"

#include <errno.h>
#include <stdlib.h>

const struct snap_section *snap_find(
	const struct snap *s, uint64_t tag, uint16_t index)
{
	for (uint32_t i = 0; i < s->h.section_count; i++) {
		if (s->sec[i].tag == tag && s->sec[i].index == index)
			return &s->sec[i];
	}
	return NULL;
}

const struct st_desc *snap_section_desc(uint64_t tag)
{
	if (tag == SNAP_TAG_CONFIG)
		return &machine_config_desc;
	if (tag == SNAP_TAG_MACHINE)
		return &machine_state_desc;
	if (tag == SNAP_TAG_VCPU)
		return &vcpu_state_desc;
	for (unsigned i = 0; device_types[i]; i++) {
		if (device_types[i]->section == tag)
			return device_types[i]->state;
	}
	return NULL;
}

int snap_check_codec(const struct snap_section *sec, struct err *e)
{
	if (sec->codec == SNAP_CODEC_RAW)
		return 0;
	return err_set(e, -EOPNOTSUPP,
		"section %.16s: codec %u is unsupported by this version",
		sec->name, sec->codec);
}

static int bad_checksum(const struct snap_section *sec, struct err *e)
{
	return snap_bad(e, sec->offset, sec->stored_length,
		"section %.16s: checksum mismatch", sec->name);
}

int snap_check_section(const struct snap *s, const struct snap_section *sec,
	uint8_t *buf, struct err *e)
{
	uint64_t at = sec->offset, end = at + sec->stored_length, len;
	int rc = snap_check_codec(sec, e);
	uint32_t crc = 0;

	for (; !rc && at < end; at += len) {
		len = min_u64(end - at, SNAP_CHUNK_SIZE);
		rc = snap_pread(s->fd, buf, len, at, e);
		if (!rc)
			crc = crc32c(crc, buf, len);
	}
	if (!rc && crc != sec->crc)
		rc = bad_checksum(sec, e);
	return rc;
}

int snap_read_section(const struct snap *s, const struct snap_section *sec,
	uint64_t max, uint8_t **out, struct err *e)
{
	uint8_t *buf;
	int rc = snap_check_codec(sec, e);

	*out = NULL;
	if (rc)
		return rc;
	if (sec->stored_length > max)
		return snap_bad(e, sec->offset, sec->stored_length,
			"section %.16s: too long", sec->name);
	buf = malloc(sec->stored_length);
	if (!buf)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	rc = snap_pread(s->fd, buf, sec->stored_length, sec->offset, e);
	if (!rc && crc32c(0, buf, sec->stored_length) != sec->crc)
		rc = bad_checksum(sec, e);
	if (rc) {
		free(buf);
		return rc;
	}
	*out = buf;
	return 0;
}

int snap_load_section(const struct snap *s, const struct snap_section *sec,
	const struct st_desc *d, void *state, struct err *e)
{
	AUTO_FREE uint8_t *buf = NULL;
	struct err why = {0};
	int rc;

	if (sec->version > d->version)
		return err_set(e, -EOPNOTSUPP,
			"section %.16s: version %u, this thaw reads up to %u",
			sec->name, sec->version, d->version);
	rc = snap_read_section(s, sec, SNAP_MAX_STATE, &buf, e);
	if (rc)
		return rc;
	rc = st_load(d, state, buf, sec->stored_length, &why);
	if (rc == -EBADMSG)
		return snap_bad(e, sec->offset, sec->stored_length,
			"section %.16s: %.250s", sec->name, why.msg);
	if (rc)
		return err_set(e, rc, "section %.16s: %s", sec->name, why.msg);
	return 0;
}

int snap_check_unknown(const struct snap_section *sec, struct err *e)
{
	if (!(sec->flags & SNAP_SECTION_REQUIRED))
		return 0;
	return err_set(e, -EOPNOTSUPP,
		"section %.16s (tag 0x%016llx) is required and unknown to this "
		"version",
		sec->name, (unsigned long long)sec->tag);
}

/* ---- what a configuration wants ---- */

bool snap_section_known(const struct snap_section *sec)
{
	return sec->tag == SNAP_TAG_MEMORY || sec->tag == SNAP_TAG_METADATA ||
	       snap_section_desc(sec->tag);
}

static bool is_wanted(
	const struct snap_section *sec, const struct machine_config *cfg)
{
	if (sec->tag == SNAP_TAG_VCPU)
		return sec->index < cfg->cpus;
	for (unsigned i = 0; device_types[i]; i++) {
		if (device_types[i]->section == sec->tag)
			return device_wanted(device_types[i], cfg, sec->index);
	}
	return !sec->index;
}

static int missing(const struct snap *s, uint64_t tag, uint32_t index,
	const char *what, struct err *e)
{
	if (snap_find(s, tag, (uint16_t)index))
		return 0;
	return snap_bad(e, 0, 0, "there is no section for %s %u", what, index);
}

static int check_devices(
	const struct snap *s, const struct machine_config *cfg, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; device_types[i]; i++) {
		const struct device_ops *ops = device_types[i];

		for (uint32_t k = 0; k < MACHINE_MAX_DEVICES && !rc; k++) {
			if (device_wanted(ops, cfg, k))
				rc = missing(s, ops->section, k, ops->name, e);
		}
	}
	return rc;
}

int snap_check_parts(
	const struct snap *s, const struct machine_config *cfg, struct err *e)
{
	int rc = missing(s, SNAP_TAG_MACHINE, 0, "machine", e);

	for (uint32_t i = 0; i < cfg->cpus && !rc; i++)
		rc = missing(s, SNAP_TAG_VCPU, i, "vcpu", e);
	/* another architecture has others besides */
	if (!rc && s->h.arch == SNAP_ARCH_HOST)
		rc = check_devices(s, cfg, e);
	for (uint32_t i = 0; i < s->h.section_count && !rc; i++) {
		const struct snap_section *sec = &s->sec[i];

		if (!snap_section_known(sec))
			rc = snap_check_unknown(sec, e);
		else if (!is_wanted(sec, cfg))
			rc = snap_bad(e, sec->offset, sec->stored_length,
				"section %.16s: the configuration has no such "
				"part",
				sec->name);
	}
	return rc;
}

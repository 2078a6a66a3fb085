/*
 * How it works: the parts of a snapshot are read one after the other as far as
 * they are sound; a part that is not adds a line to "errors". Sections are
 * printed from their msgpack alone, so those of unknown devices and of other
 * versions can be printed too.
 */
#include "snapshot/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MAX_ERRORS 32

struct inspect {
	struct snap s;
	msgpack_packer *out;
	struct err errors[MAX_ERRORS];
	unsigned nerrors;
	bool header, table, index; /* which parts are sound */
};

/* Note the error of a part, once; true when there was none. */
static bool sound(struct inspect *in, int rc, const struct err *e)
{
	if (!rc)
		return true;
	for (unsigned i = 0; i < in->nerrors; i++) {
		if (!strcmp(in->errors[i].msg, e->msg))
			return false;
	}
	if (in->nerrors < MAX_ERRORS)
		in->errors[in->nerrors++] = *e;
	return false;
}

static void key_hex(
	msgpack_packer *p, const char *key, const uint8_t *b, size_t n)
{
	char text[2 * 16 + 1] = "";

	for (size_t i = 0; i < n && i < 16; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", b[i]);
	mp_key_str(p, key, text);
}

static void key_text(
	msgpack_packer *p, const char *key, const char *s, size_t size)
{
	mp_str(p, key);
	mp_strn(p, s, strnlen(s, size));
}

/* ---- parts ---- */

static void pack_header(struct inspect *in)
{
	const struct snap_header *h = &in->s.h;
	char uuid[SNAP_UUID_STR], parent[SNAP_UUID_STR], version[16];
	msgpack_packer *p = in->out;
	struct snap_uuid u;

	memcpy(u.b, h->uuid, sizeof(u.b));
	snap_uuid_str(&u, uuid);
	memcpy(u.b, h->parent_uuid, sizeof(u.b));
	snap_uuid_str(&u, parent);
	(void)snprintf(version, sizeof(version), "%u.%u", h->major, h->minor);
	mp_str(p, "header");
	(void)msgpack_pack_map(p, h->flags & SNAP_FLAG_DIFF ? 12 : 9);
	mp_key_str(p, "format", version);
	mp_key_u64(p, "min_reader_minor", h->min_reader_minor);
	mp_key_str(
		p, "arch", h->arch == SNAP_ARCH_X86_64 ? "x86_64" : "aarch64");
	mp_key_str(p, "uuid", uuid);
	mp_key_bool(p, "diff", (h->flags & SNAP_FLAG_DIFF) != 0);
	mp_key_u64(p, "created_ns", h->created_ns);
	key_text(p, "writer", h->writer, sizeof(h->writer));
	mp_key_u64(p, "file_bytes", h->file_length);
	mp_key_u64(p, "sections", h->section_count);
	if (!(h->flags & SNAP_FLAG_DIFF))
		return;
	mp_key_str(p, "parent_uuid", parent);
	key_hex(p, "parent_digest", h->parent_digest, 16);
	key_text(p, "parent_path", h->parent_path, sizeof(h->parent_path));
}

/* The digest by which a diff names its parent. */
static void pack_digest(struct inspect *in)
{
	XXH3_state_t *x = XXH3_createState();
	XXH128_canonical_t digest;

	memset(&digest, 0, sizeof(digest));
	if (x && !XXH3_128bits_reset(x) &&
		!XXH3_128bits_update(x, &in->s.h, sizeof(in->s.h)) &&
		!XXH3_128bits_update(x, in->s.sec,
			in->s.h.section_count * sizeof(*in->s.sec)))
		XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(x));
	(void)XXH3_freeState(x);
	key_hex(in->out, "digest", digest.digest, sizeof(digest.digest));
}

static void pack_entry(
	msgpack_packer *p, const struct snap_section *sec, bool ok)
{
	char tag[24];

	(void)snprintf(
		tag, sizeof(tag), "0x%016llx", (unsigned long long)sec->tag);
	(void)msgpack_pack_map(p, 11);
	key_text(p, "name", sec->name, sizeof(sec->name));
	mp_key_str(p, "tag", tag);
	mp_key_u64(p, "index", sec->index);
	mp_key_u64(p, "version", sec->version);
	mp_key_bool(p, "required", (sec->flags & SNAP_SECTION_REQUIRED) != 0);
	mp_key_u64(p, "codec", sec->codec);
	mp_key_u64(p, "offset", sec->offset);
	mp_key_u64(p, "stored_bytes", sec->stored_length);
	mp_key_u64(p, "raw_bytes", sec->raw_length);
	mp_key_u64(p, "crc32c", sec->crc);
	mp_key_bool(p, "ok", ok);
}

static void pack_sections(struct inspect *in)
{
	const struct snap *s = &in->s;

	mp_str(in->out, "sections");
	(void)msgpack_pack_array(in->out, s->h.section_count);
	for (uint32_t i = 0; i < s->h.section_count; i++) {
		const struct snap_section *sec = &s->sec[i];
		AUTO_FREE uint8_t *buf = NULL;
		struct err e = {0};
		int rc = snap_read_section(s, sec, SNAP_MAX_STATE, &buf, &e);

		/* the index's own error is there already */
		if (sec->tag != SNAP_TAG_MEMORY)
			rc = sound(in, rc, &e) ? 0 : -EBADMSG;
		pack_entry(in->out, sec, !rc);
	}
}

/* The msgpack of a section as it is; nil when it is not sound. */
static void pack_content(struct inspect *in, const struct snap_section *sec)
{
	AUTO_FREE uint8_t *buf = NULL;
	struct err e = {0}, why = {0};
	msgpack_unpacked msg;
	int rc;

	rc = snap_read_section(&in->s, sec, SNAP_MAX_STATE, &buf, &e);
	if (rc) {
		(void)msgpack_pack_nil(in->out);
		return;
	}
	rc = mp_unpack(buf, sec->stored_length, &mp_default_limits, &msg, &why);
	if (rc) {
		rc = snap_bad(&e, sec->offset, sec->stored_length,
			"section %.16s: %.200s", sec->name, why.msg);
		(void)sound(in, rc, &e);
		(void)msgpack_pack_nil(in->out);
	} else {
		(void)msgpack_pack_object(in->out, msg.data);
	}
	msgpack_unpacked_destroy(&msg);
}

static void pack_config(struct inspect *in)
{
	const struct snap_section *sec = snap_find(&in->s, SNAP_TAG_CONFIG, 0);
	struct machine_config cfg = {0};
	struct err e = {0};
	msgpack_packer *p = in->out;
	int rc;

	mp_str(p, "config");
	if (sec)
		rc = snap_load_section(
			&in->s, sec, &machine_config_desc, &cfg, &e);
	else
		rc = snap_bad(&e, 0, 0, "there is no config section");
	if (!sound(in, rc, &e)) {
		(void)msgpack_pack_nil(p);
		return;
	}
	(void)msgpack_pack_map(p, 6);
	mp_key_u64(p, "memory", cfg.memory);
	mp_key_u64(p, "cpus", cfg.cpus);
	mp_key_u64(p, "vsock_cid", cfg.vsock_cid);
	mp_key_bool(p, "builtin", cfg.builtin != 0);
	key_text(p, "kernel", cfg.kernel, sizeof(cfg.kernel));
	key_text(p, "cmdline", cfg.cmdline, sizeof(cfg.cmdline));
}

static void pack_metadata(struct inspect *in)
{
	const struct snap_section *sec =
		snap_find(&in->s, SNAP_TAG_METADATA, 0);

	mp_str(in->out, "metadata");
	if (sec)
		pack_content(in, sec);
	else
		(void)msgpack_pack_nil(in->out);
}

static void pack_region(struct inspect *in, const struct snap_region *r)
{
	uint64_t present = 0;
	msgpack_packer *p = in->out;

	for (uint32_t i = 0; i < r->leaf_count; i++)
		present += in->s.root[r->first_leaf + i].pages_present;
	(void)msgpack_pack_map(p, 4);
	mp_key_u64(p, "gpa", r->gpa);
	mp_key_u64(p, "bytes", r->size);
	mp_key_u64(p, "pages", r->size / SNAP_PAGE_SIZE);
	mp_key_u64(p, "pages_present", present);
}

static void pack_memory(struct inspect *in)
{
	const struct snap_memory *m = &in->s.mem;
	msgpack_packer *p = in->out;

	mp_str(p, "memory");
	(void)msgpack_pack_map(p, 6);
	mp_key_u64(p, "bytes", m->memory_size);
	mp_key_u64(p, "pages_present", m->pages_present);
	mp_key_u64(p, "pages_zero", m->pages_zero);
	mp_key_u64(p, "chunk_bytes", m->chunk_size);
	mp_key_u64(p, "data_offset", m->data_offset);
	mp_str(p, "regions");
	(void)msgpack_pack_array(p, m->region_count);
	for (uint32_t i = 0; i < m->region_count; i++)
		pack_region(in, &in->s.region[i]);
}

/* Present pages of each 8 MiB, for a map. */
static void pack_leaves(struct inspect *in)
{
	const struct snap *s = &in->s;

	(void)msgpack_pack_array(in->out, s->mem.root_count);
	for (uint32_t i = 0; i < s->mem.root_count; i++) {
		struct snap_leaf_at at;

		snap_leaf_locate(s, i, &at);
		(void)msgpack_pack_map(in->out, 4);
		mp_key_u64(in->out, "gpa", at.gpa);
		mp_key_u64(in->out, "pages",
			(uint64_t)at.chunks * SNAP_CHUNK_PAGES);
		mp_key_u64(in->out, "pages_present", s->root[i].pages_present);
		mp_key_u64(in->out, "offset", s->root[i].offset);
	}
}

static void pack_errors(struct inspect *in)
{
	mp_str(in->out, "errors");
	(void)msgpack_pack_array(in->out, in->nerrors);
	for (unsigned i = 0; i < in->nerrors; i++)
		mp_str(in->out, in->errors[i].msg);
}

/* ---- the two answers ---- */

static void overview(struct inspect *in)
{
	unsigned n = 1;

	n += in->header ? 1 : 0;
	n += in->table ? 4 : 0;
	n += in->index ? 1 : 0;
	(void)msgpack_pack_map(in->out, n);
	if (in->header)
		pack_header(in);
	if (in->table) {
		pack_digest(in);
		pack_sections(in);
		pack_config(in);
		pack_metadata(in);
	}
	if (in->index)
		pack_memory(in);
	pack_errors(in);
}

static const struct snap_section *by_name(
	const struct snap *s, const char *name)
{
	for (uint32_t i = 0; i < s->h.section_count; i++) {
		const struct snap_section *sec = &s->sec[i];
		size_t n = strnlen(sec->name, sizeof(sec->name));

		if (strlen(name) == n && !memcmp(sec->name, name, n))
			return sec;
	}
	return NULL;
}

static int one_section(struct inspect *in, const char *name, struct err *e)
{
	const struct snap_section *sec;
	AUTO_FREE uint8_t *buf = NULL;
	struct err why = {0};
	int rc;

	if (!in->table)
		return err_set(e, in->errors[0].code, "%s", in->errors[0].msg);
	sec = by_name(&in->s, name);
	if (!sec)
		return err_set(
			e, -ENOENT, "there is no section named %s", name);
	rc = snap_read_section(&in->s, sec, SNAP_MAX_STATE, &buf, &why);
	(void)msgpack_pack_map(in->out, 3);
	mp_str(in->out, "section");
	pack_entry(in->out, sec, sound(in, rc, &why));
	mp_str(in->out, "content");
	if (sec->tag != SNAP_TAG_MEMORY)
		pack_content(in, sec);
	else if (in->index)
		pack_leaves(in);
	else
		(void)msgpack_pack_nil(in->out);
	pack_errors(in);
	return 0;
}

int snap_inspect(
	int fd, const char *section, msgpack_packer *out, struct err *e)
{
	struct inspect *in = calloc(1, sizeof(*in));
	struct err why = {0};
	int rc = 0;

	if (!in)
		return err_set(e, -ENOMEM, "inspect: out of memory");
	in->s.fd = fd;
	in->out = out;
	rc = snap_read_header(&in->s, &why);
	/* without a single sound byte there is nothing to show */
	if (rc && memcmp(in->s.h.magic, SNAP_MAGIC, SNAP_MAGIC_SIZE)) {
		rc = err_set(e, why.code, "%s", why.msg);
		goto out;
	}
	in->header = sound(in, rc, &why);
	if (in->header)
		in->table = sound(in, snap_read_table(&in->s, &why), &why);
	if (in->table)
		in->index = sound(in, snap_read_index(&in->s, &why), &why);
	rc = 0;
	if (section)
		rc = one_section(in, section, e);
	else
		overview(in);
out:
	free(in->s.root);
	free(in->s.sec);
	free(in);
	return rc;
}

/*
 * How it works: the parts of a snapshot are read one after the other as far as
 * they are sound; a part that is not adds a line to "errors". A header whose
 * checksum is wrong may still lead to a section table whose checksum is right,
 * so damage in one place does not hide the rest. Sections are printed from
 * their msgpack alone, so those of unknown devices and of other versions can
 * be printed too.
 */
#include "snapshot/inspect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

bool inspect_sound(struct inspect *in, int rc, const struct err *e)
{
	if (!rc)
		return true;
	for (unsigned i = 0; i < in->nerrors; i++) {
		if (!strcmp(in->errors[i].msg, e->msg))
			return false;
	}
	if (in->nerrors < INSPECT_MAX_ERRORS)
		in->errors[in->nerrors++] = *e;
	else
		in->more++;
	return false;
}

void inspect_key(struct inspect *in, const char *name)
{
	mp_str(in->out, name);
	in->keys++;
}

static void key_hex(
	msgpack_packer *p, const char *key, const uint8_t *b, size_t n)
{
	char text[2 * 16 + 1] = "";

	for (size_t i = 0; i < n && i < 16; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", b[i]);
	mp_key_str(p, key, text);
}

void inspect_key_text(
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
	inspect_key(in, "header");
	(void)msgpack_pack_map(p, h->flags & SNAP_FLAG_DIFF ? 13 : 10);
	mp_key_bool(p, "ok", in->header);
	mp_key_str(p, "format", version);
	mp_key_u64(p, "min_reader_minor", h->min_reader_minor);
	mp_key_str(p, "arch",
		h->arch == SNAP_ARCH_X86_64    ? "x86_64"
		: h->arch == SNAP_ARCH_AARCH64 ? "aarch64"
					       : "unknown");
	mp_key_str(p, "uuid", uuid);
	mp_key_bool(p, "diff", (h->flags & SNAP_FLAG_DIFF) != 0);
	mp_key_u64(p, "created_ns", h->created_ns);
	inspect_key_text(p, "writer", h->writer, sizeof(h->writer));
	mp_key_u64(p, "file_bytes", h->file_length);
	mp_key_u64(p, "sections", h->section_count);
	if (!(h->flags & SNAP_FLAG_DIFF))
		return;
	mp_key_str(p, "parent_uuid", parent);
	key_hex(p, "parent_digest", h->parent_digest, 16);
	inspect_key_text(
		p, "parent_path", h->parent_path, sizeof(h->parent_path));
}

/* The digest by which a diff names its parent. */
static void pack_digest(struct inspect *in)
{
	uint8_t digest[16];

	(void)!snap_digest(&in->s, digest);
	key_hex(in->out, "digest", digest, sizeof(digest));
	in->keys++;
}

static void pack_entry(
	msgpack_packer *p, const struct snap_section *sec, bool ok)
{
	char tag[24];

	(void)snprintf(
		tag, sizeof(tag), "0x%016llx", (unsigned long long)sec->tag);
	(void)msgpack_pack_map(p, 11);
	inspect_key_text(p, "name", sec->name, sizeof(sec->name));
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

/* Of a section that is not known only its checksum counts. */
static int check_content(
	struct inspect *in, const struct snap_section *sec, struct err *e)
{
	AUTO_FREE uint8_t *buf = NULL;

	if (!snap_section_known(sec))
		return snap_check_section(&in->s, sec, in->buf, e);
	return snap_read_section(&in->s, sec, SNAP_MAX_STATE, &buf, e);
}

static void pack_sections(struct inspect *in)
{
	const struct snap *s = &in->s;

	inspect_key(in, "sections");
	(void)msgpack_pack_array(in->out, s->h.section_count);
	for (uint32_t i = 0; i < s->h.section_count; i++) {
		const struct snap_section *sec = &s->sec[i];
		struct err e = {0};
		int rc = check_content(in, sec, &e);

		/* the index's own error is there already */
		if (sec->tag != SNAP_TAG_MEMORY)
			rc = inspect_sound(in, rc, &e) ? 0 : -EBADMSG;
		pack_entry(in->out, sec, !rc);
	}
}

/* What a diff builds on, as far as whoever asked has looked. */
static void pack_chain(struct inspect *in)
{
	msgpack_packer *p = in->out;

	inspect_key(in, "chain");
	(void)msgpack_pack_array(p, in->o->nchain);
	for (unsigned i = 0; i < in->o->nchain; i++) {
		const struct snap_link *l = &in->o->chain[i];
		char uuid[SNAP_UUID_STR];

		snap_uuid_str(&l->uuid, uuid);
		(void)msgpack_pack_map(p, l->error ? 4 : 3);
		mp_key_str(p, "uuid", uuid);
		mp_key_str(p, "path", l->path ? l->path : "");
		mp_key_bool(p, "ok", !l->error);
		if (l->error)
			mp_key_str(p, "error", l->error);
	}
}

static void pack_errors(struct inspect *in)
{
	inspect_key(in, "errors");
	(void)msgpack_pack_array(in->out, in->nerrors + (in->more ? 1 : 0));
	for (unsigned i = 0; i < in->nerrors; i++)
		mp_str(in->out, in->errors[i].msg);
	if (in->more) {
		char text[40];

		(void)snprintf(text, sizeof(text), "and %u more", in->more);
		mp_str(in->out, text);
	}
}

/* What is wrong first is not damage: the file is newer than this reader. */
static bool is_unsupported(const struct inspect *in)
{
	return in->nerrors && in->errors[0].code == -EOPNOTSUPP;
}

/* ---- the two answers ---- */

static void pack_parts(struct inspect *in)
{
	if (in->s.h.major == SNAP_MAJOR)
		pack_header(in);
	if (in->table) {
		pack_digest(in);
		pack_sections(in);
		inspect_states(in);
	}
	if (in->index)
		inspect_memory(in);
	if (in->o->nchain)
		pack_chain(in);
	pack_errors(in);
	if (is_unsupported(in)) {
		mp_key_bool(in->out, "unsupported", true);
		in->keys++;
	}
}

/* How many keys there are is known at the end and stands at the front. */
static int overview(struct inspect *in, struct err *e)
{
	msgpack_packer *out = in->out, p;
	msgpack_sbuffer buf;
	int rc;

	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
	in->out = &p;
	pack_parts(in);
	in->out = out;
	(void)msgpack_pack_map(out, in->keys);
	rc = out->callback(out->data, buf.data, buf.size);
	msgpack_sbuffer_destroy(&buf);
	return rc ? err_set(e, -ENOMEM, "inspect: out of memory") : 0;
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
	struct err why = {0};
	bool vcpu;
	int rc;

	if (!in->table)
		return err_set(e, in->errors[0].code, "%s", in->errors[0].msg);
	sec = by_name(&in->s, name);
	if (!sec)
		return err_set(
			e, -ENOENT, "there is no section named %s", name);
	vcpu = sec->tag == SNAP_TAG_VCPU;
	rc = check_content(in, sec, &why);
	(void)msgpack_pack_map(
		in->out, (vcpu ? 4U : 3U) + (is_unsupported(in) ? 1U : 0U));
	if (is_unsupported(in))
		mp_key_bool(in->out, "unsupported", true);
	mp_str(in->out, "section");
	pack_entry(in->out, sec, inspect_sound(in, rc, &why));
	mp_str(in->out, "content");
	if (sec->tag != SNAP_TAG_MEMORY)
		inspect_state(in, sec);
	else if (in->index)
		inspect_leaves(in);
	else
		(void)msgpack_pack_nil(in->out);
	if (vcpu) {
		mp_str(in->out, "registers");
		inspect_vcpu(in, sec);
	}
	pack_errors(in);
	return 0;
}

/* ---- opening what may be damaged ---- */

/* Is a header that is not sound good enough to look for the section table? Its
 * own checksum says then whether that was right. */
static bool may_go_on(struct inspect *in)
{
	struct snap_header *h = &in->s.h;
	uint64_t table =
		(uint64_t)h->section_count * sizeof(struct snap_section);

	if (in->real_size < sizeof(*h) || h->major != SNAP_MAJOR ||
		h->min_reader_minor > SNAP_MINOR || !h->section_count ||
		h->section_count > SNAP_MAX_SECTIONS)
		return false;
	if (h->file_length < in->real_size)
		h->file_length = in->real_size;
	return range_inside(h->section_table_offset, table, in->real_size);
}

static int open_parts(struct inspect *in, struct err *e)
{
	struct err why = {0};
	struct stat st;
	int rc;

	rc = snap_read_header(&in->s, &why);
	/* without a single sound byte there is nothing to show */
	if (rc && memcmp(in->s.h.magic, SNAP_MAGIC, SNAP_MAGIC_SIZE))
		return err_set(e, why.code, "%s", why.msg);
	if (!fstat(in->s.fd, &st))
		in->real_size = (uint64_t)st.st_size;
	in->header = inspect_sound(in, rc, &why);
	if (in->header || may_go_on(in))
		in->table =
			inspect_sound(in, snap_read_table(&in->s, &why), &why);
	if (in->table)
		in->index =
			inspect_sound(in, snap_read_index(&in->s, &why), &why);
	return 0;
}

int snap_inspect(int fd, const struct snap_inspect_opts *o, msgpack_packer *out,
	struct err *e)
{
	struct inspect *in = calloc(1, sizeof(*in));
	int rc;

	if (!in)
		return err_set(e, -ENOMEM, "inspect: out of memory");
	in->s.fd = fd;
	in->o = o;
	in->out = out;
	rc = open_parts(in, e);
	if (!rc && o->section)
		rc = one_section(in, o->section, e);
	else if (!rc)
		rc = overview(in, e);
	free(in->s.root);
	free(in->s.sec);
	free(in);
	return rc;
}

/*
 * State sections, from their msgpack: text as text, without the parts of fixed
 * tables that are not in use. No state table is asked, so the state of unknown
 * devices and of other versions is shown like any other.
 */
#include "snapshot/inspect.h"
#include "core/arch.h"
#include "core/vcpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The map of a section, unpacked; false: it is not sound, or not known and no
 * msgpack: *buf and *msg hold nothing. buf: free(), msg:
 * msgpack_unpacked_destroy(). */
static bool unpack(struct inspect *in, const struct snap_section *sec,
	uint8_t **buf, msgpack_unpacked *msg)
{
	struct err e = {0}, why = {0};

	/* a bad checksum is among the errors already */
	if (snap_read_section(&in->s, sec, SNAP_MAX_STATE, buf, &e))
		return false;
	if (mp_unpack(*buf, sec->raw_length, &mp_default_limits, msg, &why)) {
		(void)snap_bad(&e, sec->offset, sec->stored_length,
			"section %.16s: %.200s", sec->name, why.msg);
		if (snap_section_known(sec))
			(void)inspect_sound(in, -EBADMSG, &e);
		msgpack_unpacked_destroy(msg);
		free(*buf);
		return false;
	}
	return true;
}

/* Fixed-size byte arrays that hold text: printable, then zero bytes. */
static bool is_text(const msgpack_object_bin *b, uint32_t *n)
{
	*n = (uint32_t)strnlen(b->ptr, b->size);
	for (uint32_t i = 0; i < b->size; i++) {
		if (i < *n ? b->ptr[i] < ' ' || b->ptr[i] > '~' : b->ptr[i])
			return false;
	}
	return true;
}

static void pack_readable(msgpack_packer *p, const msgpack_object *o);

/* An entry of a fixed table that is not in use: its id is empty. */
static bool is_vacant(const msgpack_object *o)
{
	const msgpack_object *id = mp_get(o, "id");
	uint32_t n;

	return id && id->type == MSGPACK_OBJECT_BIN &&
	       is_text(&id->via.bin, &n) && !n;
}

static void pack_readable_list(msgpack_packer *p, const msgpack_object *o)
{
	const msgpack_object_array *a = &o->via.array;
	uint32_t n = 0;

	for (uint32_t i = 0; i < a->size; i++)
		n += is_vacant(&a->ptr[i]) ? 0 : 1;
	(void)msgpack_pack_array(p, n);
	for (uint32_t i = 0; i < a->size; i++) {
		if (!is_vacant(&a->ptr[i]))
			pack_readable(p, &a->ptr[i]);
	}
}

static bool is_reserved(const msgpack_object *name)
{
	return name->type == MSGPACK_OBJECT_STR && name->via.str.size >= 8 &&
	       !memcmp(name->via.str.ptr, "reserved", 8);
}

static void pack_readable_map(msgpack_packer *p, const msgpack_object *o)
{
	const msgpack_object_map *m = &o->via.map;
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->size; i++)
		n += is_reserved(&m->ptr[i].key) ? 0 : 1;
	(void)msgpack_pack_map(p, n);
	for (uint32_t i = 0; i < m->size; i++) {
		const msgpack_object_kv *kv = &m->ptr[i];

		if (is_reserved(&kv->key))
			continue;
		(void)msgpack_pack_object(p, kv->key);
		if (mp_str_eq(&kv->key, "mac") &&
			kv->val.type == MSGPACK_OBJECT_BIN)
			(void)msgpack_pack_object(p, kv->val);
		else
			pack_readable(p, &kv->val);
	}
}

/* A value of a state map: text as text, without vacant and reserved parts. */
static void pack_readable(msgpack_packer *p, const msgpack_object *o)
{
	uint32_t n;

	if (o->type == MSGPACK_OBJECT_MAP)
		pack_readable_map(p, o);
	else if (o->type == MSGPACK_OBJECT_ARRAY)
		pack_readable_list(p, o);
	else if (o->type == MSGPACK_OBJECT_BIN && is_text(&o->via.bin, &n))
		mp_strn(p, o->via.bin.ptr, n);
	else
		(void)msgpack_pack_object(p, *o);
}

void inspect_state(struct inspect *in, const struct snap_section *sec)
{
	msgpack_unpacked msg;
	uint8_t *buf;

	if (!unpack(in, sec, &buf, &msg)) {
		(void)msgpack_pack_nil(in->out);
		return;
	}
	pack_readable(in->out, &msg.data);
	msgpack_unpacked_destroy(&msg);
	free(buf);
}

static void pack_config(struct inspect *in)
{
	const struct snap_section *sec = snap_find(&in->s, SNAP_TAG_CONFIG, 0);
	struct err e = {0};

	inspect_key(in, "config");
	if (sec) {
		inspect_state(in, sec);
		return;
	}
	(void)snap_bad(&e, 0, 0, "there is no config section");
	(void)inspect_sound(in, -EBADMSG, &e);
	(void)msgpack_pack_nil(in->out);
}

/* Sections with state that are neither the configuration nor a vCPU. */
static bool is_device(const struct snap_section *sec)
{
	return sec->tag != SNAP_TAG_CONFIG && sec->tag != SNAP_TAG_VCPU &&
	       sec->tag != SNAP_TAG_MEMORY && sec->tag != SNAP_TAG_METADATA;
}

static void pack_devices(struct inspect *in)
{
	const struct snap *s = &in->s;
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->h.section_count; i++)
		n += is_device(&s->sec[i]) ? 1 : 0;
	inspect_key(in, "devices");
	(void)msgpack_pack_array(in->out, n);
	for (uint32_t i = 0; i < s->h.section_count; i++) {
		const struct snap_section *sec = &s->sec[i];

		if (!is_device(sec))
			continue;
		(void)msgpack_pack_map(in->out, 3);
		inspect_key_text(in->out, "name", sec->name, sizeof(sec->name));
		mp_key_u64(in->out, "index", sec->index);
		mp_str(in->out, "state");
		inspect_state(in, sec);
	}
}

void inspect_vcpu(struct inspect *in, const struct snap_section *sec)
{
	msgpack_unpacked msg;
	uint8_t *buf;

	if (in->s.h.arch != SNAP_ARCH_HOST || !unpack(in, sec, &buf, &msg)) {
		(void)msgpack_pack_nil(in->out);
		return;
	}
	arch_vcpu_describe(&msg.data, in->out);
	msgpack_unpacked_destroy(&msg);
	free(buf);
}

static void pack_vcpus(struct inspect *in)
{
	const struct snap *s = &in->s;
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->h.section_count; i++)
		n += s->sec[i].tag == SNAP_TAG_VCPU ? 1 : 0;
	inspect_key(in, "vcpus");
	(void)msgpack_pack_array(in->out, n);
	for (uint32_t i = 0; i < s->h.section_count; i++) {
		if (s->sec[i].tag == SNAP_TAG_VCPU)
			inspect_vcpu(in, &s->sec[i]);
	}
}

static void pack_metadata(struct inspect *in)
{
	const struct snap_section *sec =
		snap_find(&in->s, SNAP_TAG_METADATA, 0);

	inspect_key(in, "metadata");
	if (sec)
		inspect_state(in, sec);
	else
		(void)msgpack_pack_nil(in->out);
}

/* ---- would it run here? ---- */

struct differences {
	msgpack_sbuffer buf;
	msgpack_packer p;
	uint32_t n;
};

static void one_difference(void *arg, const char *text)
{
	struct differences *d = arg;

	mp_str(&d->p, text);
	d->n++;
}

/* The first vCPU's state, or NULL after a note of why not; free(). */
static struct vcpu_state *first_vcpu(struct inspect *in)
{
	const struct snap_section *sec = snap_find(&in->s, SNAP_TAG_VCPU, 0);
	struct vcpu_state *s = arch_vcpu_state_create();
	struct err e = {0};

	if (s && sec &&
		inspect_sound(in,
			snap_load_section(&in->s, sec, &vcpu_state_desc, s, &e),
			&e))
		return s;
	free(s);
	return NULL;
}

/* "checked" is false where nobody knows: no KVM here, or a damaged vCPU. */
static void pack_compatible(struct inspect *in)
{
	struct differences d = {.n = 0};
	struct vcpu_state *s = NULL;
	uint32_t cpus = 0;

	while (snap_find(&in->s, SNAP_TAG_VCPU, (uint16_t)cpus))
		cpus++;
	msgpack_sbuffer_init(&d.buf);
	msgpack_packer_init(&d.p, &d.buf, msgpack_sbuffer_write);
	if (in->s.h.arch != SNAP_ARCH_HOST)
		one_difference(&d, "another processor architecture");
	else if (in->o->host)
		s = first_vcpu(in);
	if (s)
		arch_compat_check(in->o->host, s, cpus, one_difference, &d);
	inspect_key(in, "compatible");
	(void)msgpack_pack_map(in->out, 3);
	mp_key_bool(in->out, "checked", s || d.n);
	mp_key_bool(in->out, "ok", s && !d.n);
	mp_str(in->out, "differences");
	(void)msgpack_pack_array(in->out, d.n);
	(void)in->out->callback(in->out->data, d.buf.data, d.buf.size);
	msgpack_sbuffer_destroy(&d.buf);
	free(s);
}

void inspect_states(struct inspect *in)
{
	pack_config(in);
	pack_devices(in);
	pack_vcpus(in);
	pack_metadata(in);
	pack_compatible(in);
}

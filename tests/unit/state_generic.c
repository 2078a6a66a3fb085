#include "tests/unit/test.h"
#include "tests/unit/state_generic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUTATIONS 3000

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

static void *must_alloc(size_t n)
{
	void *p = calloc(1, n ? n : 1);

	assert_non_null(p);
	return p;
}

static void must_save(
	const struct st_desc *d, const void *s, msgpack_sbuffer *buf)
{
	int rc;

	msgpack_sbuffer_init(buf);
	rc = st_save(d, s, buf);
	if (rc)
		fail_msg("%s: st_save: %d", d->name, rc);
}

static void must_load(
	const struct st_desc *d, void *s, const void *data, size_t len)
{
	struct err e = {0};

	if (st_load(d, s, data, len, &e))
		fail_msg("%s: st_load: %s", d->name, e.msg);
}

/* ---- the table itself ---- */

static void test_table(const struct st_desc *d)
{
	assert_true(d->version >= 1);
	for (uint32_t i = 0; i < d->nfields; i++) {
		const struct st_field *f = &d->fields[i];

		if (f->since < 1 || f->since > d->version)
			fail_msg("%s.%s: since %u", d->name, f->name, f->since);
		if (!strcmp(f->name, "v"))
			fail_msg("%s: a field may not be named v", d->name);
		if (f->kind == ST_SUB && f->sub->size != f->size)
			fail_msg("%s.%s: size", d->name, f->name);
		if (f->kind == ST_BLOB && f->count != 1)
			fail_msg("%s.%s: an array of blobs", d->name, f->name);
		if (f->kind == ST_SUB)
			test_table(f->sub);
		for (uint32_t j = 0; j < i; j++) {
			if (!strcmp(f->name, d->fields[j].name))
				fail_msg("%s: two fields %s", d->name, f->name);
		}
	}
}

static void test_coverage(const struct st_desc *d)
{
	uint8_t *hits = must_alloc(d->size);

	st_coverage(d, hits);
	for (uint32_t i = 0; i < d->size; i++) {
		if (hits[i] != 1)
			fail_msg("%s: byte %u of the struct is named %u times",
				d->name, i, hits[i]);
	}
	free(hits);
}

/* ---- round trip, truncation ---- */

static void test_round_trip(const struct st_desc *d, const void *sample)
{
	void *back = must_alloc(d->size);
	msgpack_sbuffer a, b;

	must_save(d, sample, &a);
	memset(back, 0xa5, d->size);
	must_load(d, back, a.data, a.size);
	must_save(d, back, &b);
	if (a.size != b.size || memcmp(a.data, b.data, a.size))
		fail_msg("%s: another save gives other bytes", d->name);
	msgpack_sbuffer_destroy(&a);
	msgpack_sbuffer_destroy(&b);
	free(back);
}

static void test_truncation(const struct st_desc *d, const msgpack_sbuffer *buf)
{
	void *back = must_alloc(d->size);
	size_t step = 1 + buf->size / 4096;

	for (size_t n = 0; n < buf->size; n += n < 512 ? 1 : step) {
		/* an exact copy, so that a sanitizer sees reads past it */
		char *cut = must_alloc(n);

		memcpy(cut, buf->data, n);
		if (st_load(d, back, cut, n, NULL) != -EBADMSG)
			fail_msg("%s: %zu of %zu bytes accepted", d->name, n,
				buf->size);
		free(cut);
	}
	free(back);
}

/* ---- rewriting a saved map ---- */

/* The same map with "v" replaced and one key left out. */
static void repack(const msgpack_object *map, uint64_t version,
	const char *drop, msgpack_sbuffer *out)
{
	uint32_t n = map->via.map.size;
	msgpack_packer p;

	msgpack_sbuffer_init(out);
	msgpack_packer_init(&p, out, msgpack_sbuffer_write);
	msgpack_pack_map(&p, drop ? n - 1 : n);
	for (uint32_t i = 0; i < n; i++) {
		const msgpack_object_kv *kv = &map->via.map.ptr[i];

		if (drop && mp_str_eq(&kv->key, drop))
			continue;
		msgpack_pack_object(&p, kv->key);
		if (mp_str_eq(&kv->key, "v"))
			msgpack_pack_uint64(&p, version);
		else
			msgpack_pack_object(&p, kv->val);
	}
}

static void test_versions(const struct st_desc *d, const msgpack_object *map)
{
	const uint64_t bad[] = {
		0, d->version + 1ULL, 0x10000ULL + d->version, UINT64_MAX};
	void *back = must_alloc(d->size);
	msgpack_sbuffer out;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		repack(map, bad[i], NULL, &out);
		if (st_load(d, back, out.data, out.size, NULL) != -EBADMSG)
			fail_msg("%s: version %llu accepted", d->name,
				(unsigned long long)bad[i]);
		msgpack_sbuffer_destroy(&out);
	}
	repack(map, d->version, "v", &out);
	if (st_load(d, back, out.data, out.size, NULL) != -EBADMSG)
		fail_msg("%s: a map without version accepted", d->name);
	msgpack_sbuffer_destroy(&out);
	free(back);
}

static bool value_equal(const msgpack_object *a, const msgpack_object *b);

/* Every key of a but "v" that b has too has the same value. */
static bool map_equal(const msgpack_object *a, const msgpack_object *b)
{
	for (uint32_t i = 0; i < a->via.map.size; i++) {
		const msgpack_object_kv *kv = &a->via.map.ptr[i];
		char key[64];
		const msgpack_object *other;

		(void)snprintf(key, sizeof(key), "%.*s",
			(int)kv->key.via.str.size, kv->key.via.str.ptr);
		other = mp_get(b, key);
		if (!strcmp(key, "v") || !other)
			continue;
		if (!value_equal(&kv->val, other))
			return false;
	}
	return true;
}

static bool value_equal(const msgpack_object *a, const msgpack_object *b)
{
	if (a->type == MSGPACK_OBJECT_MAP && b->type == MSGPACK_OBJECT_MAP)
		return map_equal(a, b);
	if (a->type != MSGPACK_OBJECT_ARRAY || b->type != MSGPACK_OBJECT_ARRAY)
		return msgpack_object_equal(*a, *b);
	if (a->via.array.size != b->via.array.size)
		return false;
	for (uint32_t i = 0; i < a->via.array.size; i++) {
		if (!value_equal(&a->via.array.ptr[i], &b->via.array.ptr[i]))
			return false;
	}
	return true;
}

static void is_default(const struct st_desc *d, const struct st_field *f,
	const msgpack_object *v)
{
	const msgpack_object *one = v;

	for (uint32_t i = 0; i < f->count; i++) {
		if (f->count != 1)
			one = &v->via.array.ptr[i];
		if (f->kind == ST_UINT && one->via.u64 != f->def)
			fail_msg("%s.%s: default", d->name, f->name);
		if (f->kind == ST_BLOB && one->via.bin.size != 0)
			fail_msg("%s.%s: default", d->name, f->name);
		for (uint32_t b = 0; f->kind == ST_BYTES && b < f->size; b++) {
			if (one->via.bin.ptr[b])
				fail_msg("%s.%s: default", d->name, f->name);
		}
		for (uint32_t n = 0; f->kind == ST_SUB && n < f->sub->nfields;
			n++)
			is_default(f->sub, &f->sub->fields[n],
				mp_get(one, f->sub->fields[n].name));
	}
}

static void test_missing(const struct st_desc *d, const msgpack_object *map)
{
	void *back = must_alloc(d->size);

	for (uint32_t i = 0; i < d->nfields; i++) {
		const char *name = d->fields[i].name;
		msgpack_sbuffer out, again;
		msgpack_unpacked msg;
		struct err e = {0};
		int rc;

		repack(map, d->version, name, &out);
		rc = st_load(d, back, out.data, out.size, &e);
		if (rc == -EBADMSG) {
			/* check() may need the field: then it says so */
			assert_non_null(strchr(e.msg, ':'));
			msgpack_sbuffer_destroy(&out);
			continue;
		}
		assert_int_equal(rc, 0);
		must_save(d, back, &again);
		assert_int_equal(mp_unpack(again.data, again.size,
					 &mp_default_limits, &msg, NULL),
			0);
		is_default(d, &d->fields[i], mp_get(&msg.data, name));
		for (uint32_t j = 0; j < d->nfields; j++) {
			const char *other = d->fields[j].name;

			if (j != i && !value_equal(mp_get(map, other),
					      mp_get(&msg.data, other)))
				fail_msg("%s: without %s, %s changed", d->name,
					name, other);
		}
		msgpack_unpacked_destroy(&msg);
		msgpack_sbuffer_destroy(&again);
		msgpack_sbuffer_destroy(&out);
	}
	free(back);
}

/* ---- mutations ---- */

/* It loaded: what it said about known fields is what a save says. */
static void accepted(
	const struct st_desc *d, void *state, const char *data, size_t len)
{
	msgpack_unpacked was, is;
	msgpack_sbuffer out;

	must_save(d, state, &out);
	assert_int_equal(
		mp_unpack(data, len, &mp_default_limits, &was, NULL), 0);
	assert_int_equal(
		mp_unpack(out.data, out.size, &mp_default_limits, &is, NULL),
		0);
	if (!value_equal(&is.data, &was.data))
		fail_msg("%s: loaded, but saved other values", d->name);
	msgpack_unpacked_destroy(&is);
	msgpack_unpacked_destroy(&was);
	msgpack_sbuffer_destroy(&out);
	test_round_trip(d, state);
}

static void mutate(char *data, size_t len, uint32_t *seed)
{
	static const uint8_t nasty[] = {0x00, 0x01, 0x7f, 0x80, 0x81, 0x90,
		0xa1, 0xc0, 0xc4, 0xc6, 0xcf, 0xd3, 0xdd, 0xdf, 0xff};
	uint32_t n = 1 + next_random(seed) % 3;

	while (n--) {
		/* half of the hits near the start, where the structure is */
		size_t range = next_random(seed) & 1 ? len : 1 + len % 200;
		size_t at = next_random(seed) % (range > len ? len : range);

		switch (next_random(seed) % 3) {
		case 0:
			data[at] ^= (char)(1 << (next_random(seed) % 8));
			break;
		case 1:
			data[at] =
				(char)nasty[next_random(seed) % sizeof(nasty)];
			break;
		default:
			data[at] = (char)next_random(seed);
			break;
		}
	}
}

static void test_mutations(const struct st_desc *d, const msgpack_sbuffer *buf)
{
	unsigned rounds = buf->size > 4096 ? MUTATIONS / 10 : MUTATIONS;
	void *back = must_alloc(d->size);
	uint32_t seed = 12345;

	for (unsigned i = 0; i < rounds; i++) {
		char *copy = must_alloc(buf->size);
		int rc;

		memcpy(copy, buf->data, buf->size);
		mutate(copy, buf->size, &seed);
		rc = st_load(d, back, copy, buf->size, NULL);
		if (!rc)
			accepted(d, back, copy, buf->size);
		else
			assert_int_equal(rc, -EBADMSG);
		free(copy);
	}
	free(back);
}

void st_test_generic(const struct st_desc *d, const void *sample)
{
	void *dflt = must_alloc(d->size);
	msgpack_unpacked msg;
	msgpack_sbuffer buf;

	test_table(d);
	test_coverage(d);
	if (!sample) {
		must_load(d, dflt, "\x81\xa1v\x01", 4);
		sample = dflt;
	}
	test_round_trip(d, sample);
	must_save(d, sample, &buf);
	test_truncation(d, &buf);
	assert_int_equal(
		mp_unpack(buf.data, buf.size, &mp_default_limits, &msg, NULL),
		0);
	test_versions(d, &msg.data);
	test_missing(d, &msg.data);
	msgpack_unpacked_destroy(&msg);
	test_mutations(d, &buf);
	msgpack_sbuffer_destroy(&buf);
	free(dflt);
}

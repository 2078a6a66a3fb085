#include "snapshot/render.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#define BIN_SHOWN 32 /* bytes */

static uint64_t u64_of(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = mp_get(map, key);

	return o && o->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? o->via.u64 : 0;
}

static bool bool_of(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = mp_get(map, key);

	return o && o->type == MSGPACK_OBJECT_BOOLEAN && o->via.boolean;
}

/* Text from a file may hold anything: a terminal gets printable ASCII. */
static void put_text(const char *s, uint32_t n, FILE *f)
{
	for (uint32_t i = 0; i < n; i++) {
		if (s[i] >= ' ' && s[i] <= '~')
			(void)fputc(s[i], f);
		else
			(void)fprintf(f, "\\x%02x", (uint8_t)s[i]);
	}
}

static void put_str(const msgpack_object *map, const char *key, FILE *f)
{
	const msgpack_object *o = mp_get(map, key);

	if (o && o->type == MSGPACK_OBJECT_STR)
		put_text(o->via.str.ptr, o->via.str.size, f);
}

static void put_bin(const char *p, uint32_t n, FILE *f)
{
	(void)fprintf(f, "%u bytes", n);
	for (uint32_t i = 0; i < n && i < BIN_SHOWN; i++)
		(void)fprintf(f, "%s%02x", i % 4 ? "" : " ", (uint8_t)p[i]);
	if (n > BIN_SHOWN)
		(void)fputs(" ...", f);
}

static void put_size(uint64_t bytes, FILE *f)
{
	static const char *const unit[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	double v = (double)bytes;
	unsigned u = 0;

	while (v >= 1024 && u + 1 < ARRAY_SIZE(unit)) {
		v /= 1024;
		u++;
	}
	(void)fprintf(f, u ? "%.1f %s" : "%.0f %s", v, unit[u]);
}

static bool is_container(const msgpack_object *o)
{
	return o->type == MSGPACK_OBJECT_MAP || o->type == MSGPACK_OBJECT_ARRAY;
}

static void put_scalar(const msgpack_object *o, FILE *f)
{
	switch (o->type) {
	case MSGPACK_OBJECT_BOOLEAN:
		(void)fputs(o->via.boolean ? "yes" : "no", f);
		break;
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		(void)fprintf(f, "%" PRIu64, o->via.u64);
		if (o->via.u64 > 9)
			(void)fprintf(f, " (0x%" PRIx64 ")", o->via.u64);
		break;
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		(void)fprintf(f, "%" PRId64, o->via.i64);
		break;
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		(void)fprintf(f, "%g", o->via.f64);
		break;
	case MSGPACK_OBJECT_STR:
		put_text(o->via.str.ptr, o->via.str.size, f);
		break;
	case MSGPACK_OBJECT_BIN:
		put_bin(o->via.bin.ptr, o->via.bin.size, f);
		break;
	case MSGPACK_OBJECT_EXT:
		put_bin(o->via.ext.ptr, o->via.ext.size, f);
		break;
	case MSGPACK_OBJECT_NIL:
	case MSGPACK_OBJECT_ARRAY:
	case MSGPACK_OBJECT_MAP:
	default:
		(void)fputc('-', f);
		break;
	}
}

static void put_list(const msgpack_object_array *a, unsigned indent, FILE *f)
{
	bool flat = true;

	for (uint32_t i = 0; i < a->size; i++)
		flat = flat && !is_container(&a->ptr[i]);
	for (uint32_t i = 0; i < a->size; i++) {
		if (flat) {
			(void)fputs(i ? ", " : " ", f);
			put_scalar(&a->ptr[i], f);
			continue;
		}
		(void)fprintf(f, "\n%*s[%u]", (int)indent, "", i);
		snap_render_value(&a->ptr[i], indent + 2, f);
	}
}

void snap_render_value(const msgpack_object *o, unsigned indent, FILE *f)
{
	if (o->type == MSGPACK_OBJECT_ARRAY) {
		put_list(&o->via.array, indent, f);
		return;
	}
	if (o->type != MSGPACK_OBJECT_MAP) {
		(void)fputc(' ', f);
		put_scalar(o, f);
		return;
	}
	for (uint32_t i = 0; i < o->via.map.size; i++) {
		const msgpack_object_kv *kv = &o->via.map.ptr[i];

		(void)fprintf(f, "\n%*s", (int)indent, "");
		put_scalar(&kv->key, f);
		(void)fputc(':', f);
		snap_render_value(&kv->val, indent + 2, f);
	}
}

/* ---- overview ---- */

static void render_header(const msgpack_object *h, FILE *f)
{
	time_t when = (time_t)(u64_of(h, "created_ns") / 1000000000U);
	char date[40] = "?";
	struct tm tm;

	if (gmtime_r(&when, &tm))
		(void)strftime(
			date, sizeof(date), "%Y-%m-%d %H:%M:%S UTC", &tm);
	(void)fputs("snapshot  ", f);
	put_str(h, "uuid", f);
	(void)fputs(
		bool_of(h, "diff") ? " (diff)\nformat    " : "\nformat    ", f);
	put_str(h, "format", f);
	(void)fputs(", ", f);
	put_str(h, "arch", f);
	(void)fputs(", written by ", f);
	put_str(h, "writer", f);
	(void)fprintf(f, " on %s\nfile      ", date);
	put_size(u64_of(h, "file_bytes"), f);
	(void)fputc('\n', f);
}

static void render_config(const msgpack_object *c, FILE *f)
{
	(void)fputs("machine   ", f);
	put_size(u64_of(c, "memory"), f);
	(void)fprintf(f, ", %" PRIu64 " vCPU, vsock cid %" PRIu64,
		u64_of(c, "cpus"), u64_of(c, "vsock_cid"));
	(void)fputs(
		bool_of(c, "builtin") ? ", built-in guest\n" : ", kernel ", f);
	if (!bool_of(c, "builtin")) {
		put_str(c, "kernel", f);
		(void)fputc('\n', f);
	}
}

static void render_memory(const msgpack_object *m, FILE *f)
{
	const msgpack_object *regions = mp_get(m, "regions");

	(void)fprintf(f,
		"memory    %" PRIu64 " pages stored, %" PRIu64 " zero\n",
		u64_of(m, "pages_present"), u64_of(m, "pages_zero"));
	if (!regions || regions->type != MSGPACK_OBJECT_ARRAY)
		return;
	for (uint32_t i = 0; i < regions->via.array.size; i++) {
		const msgpack_object *r = &regions->via.array.ptr[i];

		(void)fprintf(f, "  region  0x%" PRIx64 " ", u64_of(r, "gpa"));
		put_size(u64_of(r, "bytes"), f);
		(void)fprintf(f, ", %" PRIu64 " of %" PRIu64 " pages stored\n",
			u64_of(r, "pages_present"), u64_of(r, "pages"));
	}
}

static void render_sections(const msgpack_object *list, FILE *f)
{
	if (!list || list->type != MSGPACK_OBJECT_ARRAY)
		return;
	(void)fputs("section          version     offset      bytes\n", f);
	for (uint32_t i = 0; i < list->via.array.size; i++) {
		const msgpack_object *s = &list->via.array.ptr[i];
		const msgpack_object *name = mp_get(s, "name");
		int len = 0;

		if (name && name->type == MSGPACK_OBJECT_STR)
			len = (int)name->via.str.size;
		(void)fputs("  ", f);
		put_str(s, "name", f);
		(void)fprintf(f,
			"%*s %7" PRIu64 " %10" PRIu64 " %10" PRIu64 "%s\n",
			len < 14 ? 14 - len : 0, "", u64_of(s, "version"),
			u64_of(s, "offset"), u64_of(s, "stored_bytes"),
			bool_of(s, "ok") ? "" : "  DAMAGED");
	}
}

static void render_errors(const msgpack_object *list, FILE *f)
{
	if (!list || list->type != MSGPACK_OBJECT_ARRAY)
		return;
	for (uint32_t i = 0; i < list->via.array.size; i++) {
		(void)fputs("error     ", f);
		put_scalar(&list->via.array.ptr[i], f);
		(void)fputc('\n', f);
	}
}

static void render_overview(const msgpack_object *o, FILE *f)
{
	const msgpack_object *part = mp_get(o, "header");

	if (part && part->type == MSGPACK_OBJECT_MAP)
		render_header(part, f);
	part = mp_get(o, "config");
	if (part && part->type == MSGPACK_OBJECT_MAP)
		render_config(part, f);
	part = mp_get(o, "memory");
	if (part && part->type == MSGPACK_OBJECT_MAP)
		render_memory(part, f);
	render_sections(mp_get(o, "sections"), f);
	part = mp_get(o, "metadata");
	if (part && part->type == MSGPACK_OBJECT_MAP) {
		(void)fputs("metadata", f);
		snap_render_value(part, 2, f);
		(void)fputc('\n', f);
	}
}

int snap_render_text(const msgpack_object *o, FILE *f)
{
	const msgpack_object *section = mp_get(o, "section");
	const msgpack_object *content = mp_get(o, "content");

	if (o->type != MSGPACK_OBJECT_MAP || !mp_get(o, "errors"))
		return -EINVAL;
	if (section && content) {
		(void)fputs("section", f);
		snap_render_value(section, 2, f);
		(void)fputs("\ncontent", f);
		snap_render_value(content, 2, f);
		(void)fputc('\n', f);
	} else {
		render_overview(o, f);
	}
	render_errors(mp_get(o, "errors"), f);
	return ferror(f) ? -EIO : 0;
}

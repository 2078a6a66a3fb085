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

/* "id disk0, path /x, ..": the elements of the configuration's lists. */
static void render_parts(const char *what, const msgpack_object *list, FILE *f)
{
	if (!list || list->type != MSGPACK_OBJECT_ARRAY)
		return;
	for (uint32_t i = 0; i < list->via.array.size; i++) {
		const msgpack_object *o = &list->via.array.ptr[i];

		if (o->type != MSGPACK_OBJECT_MAP)
			continue;
		(void)fprintf(f, "  %-7s", what);
		for (uint32_t k = 0; k < o->via.map.size; k++) {
			const msgpack_object_kv *kv = &o->via.map.ptr[k];

			if (mp_str_eq(&kv->key, "v"))
				continue;
			(void)fputc(' ', f);
			put_scalar(&kv->key, f);
			(void)fputc(' ', f);
			put_scalar(&kv->val, f);
		}
		(void)fputc('\n', f);
	}
}

static void render_config(const msgpack_object *c, FILE *f)
{
	bool builtin = u64_of(c, "builtin") != 0;

	(void)fputs("machine   ", f);
	put_size(u64_of(c, "memory"), f);
	(void)fprintf(f, ", %" PRIu64 " vCPU, ", u64_of(c, "cpus"));
	if (u64_of(c, "vsock_cid"))
		(void)fprintf(
			f, "vsock cid %" PRIu64 ", ", u64_of(c, "vsock_cid"));
	(void)fputs(builtin ? "built-in guest\n" : "kernel ", f);
	if (!builtin) {
		put_str(c, "kernel", f);
		(void)fputs("\n  initrd ", f);
		put_str(c, "initrd", f);
		(void)fputs("\n  cmdline ", f);
		put_str(c, "cmdline", f);
		(void)fputc('\n', f);
	}
	render_parts("disk", mp_get(c, "disk"), f);
	render_parts("net", mp_get(c, "net"), f);
	if (u64_of(c, "rng"))
		(void)fputs("  rng\n", f);
}

/* "rax 0000000000000010", four to a line. */
static void render_registers(const msgpack_object *map, FILE *f)
{
	if (!map || map->type != MSGPACK_OBJECT_MAP)
		return;
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		const msgpack_object_kv *kv = &map->via.map.ptr[i];
		int len = kv->key.type == MSGPACK_OBJECT_STR
				  ? (int)kv->key.via.str.size
				  : 0;

		(void)fputs(i % 4 ? "  " : i ? "\n  " : "  ", f);
		put_scalar(&kv->key, f);
		(void)fprintf(f, "%*s ", len < 6 ? 6 - len : 0, "");
		if (kv->val.type == MSGPACK_OBJECT_POSITIVE_INTEGER)
			(void)fprintf(f, "%016" PRIx64, kv->val.via.u64);
		else
			(void)fputc('-', f);
	}
	(void)fputc('\n', f);
}

static void render_vcpus(const msgpack_object *list, FILE *f)
{
	if (!list || list->type != MSGPACK_OBJECT_ARRAY)
		return;
	for (uint32_t i = 0; i < list->via.array.size; i++) {
		const msgpack_object *v = &list->via.array.ptr[i];
		const msgpack_object *msrs = mp_get(v, "msrs");

		(void)fprintf(f, "vcpu%u     ", i);
		if (v->type != MSGPACK_OBJECT_MAP) {
			(void)fputs("not readable\n", f);
			continue;
		}
		put_str(v, "state", f);
		(void)fputs(", ", f);
		put_str(v, "mode", f);
		(void)fprintf(f,
			", TSC %" PRIu64 " at %" PRIu64 " kHz, %u MSRs",
			u64_of(v, "tsc"), u64_of(v, "tsc_khz"),
			msrs && msrs->type == MSGPACK_OBJECT_MAP
				? msrs->via.map.size
				: 0);
		(void)fprintf(f, " (all: --section vcpu%u)\n", i);
		render_registers(mp_get(v, "general"), f);
		render_registers(mp_get(v, "control"), f);
	}
}

static void render_region(const msgpack_object *r, FILE *f)
{
	static const struct {
		const char *key, *text;
	} more[] = {
		{"pages_zero", "zero"},
		{"pages_inherited", "inherited"},
		{"pages_deduplicated", "deduplicated"},
		{"pages_unreadable", "NOT READABLE"},
	};
	uint64_t raw = u64_of(r, "raw_bytes"), n;
	uint64_t stored = u64_of(r, "stored_bytes");

	(void)fprintf(f, "  region  0x%" PRIx64 " ", u64_of(r, "gpa"));
	put_size(u64_of(r, "bytes"), f);
	(void)fprintf(f, ", %" PRIu64 " of %" PRIu64 " pages stored",
		u64_of(r, "pages_present"), u64_of(r, "pages"));
	for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
		n = u64_of(r, more[i].key);
		if (n)
			(void)fprintf(f, ", %" PRIu64 " %s", n, more[i].text);
	}
	if (u64_of(r, "zstd_chunks") && stored) {
		(void)fputs(", zstd ", f);
		put_size(stored, f);
		(void)fprintf(f, " (%.2f:1)", (double)raw / (double)stored);
	}
	(void)fputc('\n', f);
}

static void render_memory(const msgpack_object *m, FILE *f)
{
	const msgpack_object *regions = mp_get(m, "regions");

	(void)fprintf(f,
		"memory    %" PRIu64 " pages stored, %" PRIu64 " zero\n",
		u64_of(m, "pages_present"), u64_of(m, "pages_zero"));
	if (!regions || regions->type != MSGPACK_OBJECT_ARRAY)
		return;
	for (uint32_t i = 0; i < regions->via.array.size; i++)
		render_region(&regions->via.array.ptr[i], f);
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

static void render_chain(const msgpack_object *list, FILE *f)
{
	if (!list || list->type != MSGPACK_OBJECT_ARRAY)
		return;
	for (uint32_t i = 0; i < list->via.array.size; i++) {
		const msgpack_object *l = &list->via.array.ptr[i];

		(void)fputs(i ? "          " : "builds on ", f);
		put_str(l, "uuid", f);
		(void)fputs("  ", f);
		put_str(l, bool_of(l, "ok") ? "path" : "error", f);
		(void)fputc('\n', f);
	}
}

static void render_compatible(const msgpack_object *o, FILE *f)
{
	const msgpack_object *list = mp_get(o, "differences");

	if (!bool_of(o, "checked")) {
		(void)fputs("this host not compared (no usable /dev/kvm)\n", f);
		return;
	}
	(void)fprintf(f, "this host %s\n",
		bool_of(o, "ok") ? "compatible" : "NOT COMPATIBLE");
	if (!list || list->type != MSGPACK_OBJECT_ARRAY)
		return;
	for (uint32_t i = 0; i < list->via.array.size; i++) {
		(void)fputs("  ", f);
		put_scalar(&list->via.array.ptr[i], f);
		(void)fputc('\n', f);
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
	render_chain(mp_get(o, "chain"), f);
	part = mp_get(o, "config");
	if (part && part->type == MSGPACK_OBJECT_MAP)
		render_config(part, f);
	part = mp_get(o, "memory");
	if (part && part->type == MSGPACK_OBJECT_MAP)
		render_memory(part, f);
	part = mp_get(o, "compatible");
	if (part && part->type == MSGPACK_OBJECT_MAP)
		render_compatible(part, f);
	render_vcpus(mp_get(o, "vcpus"), f);
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
	const msgpack_object *registers = mp_get(o, "registers");

	if (o->type != MSGPACK_OBJECT_MAP || !mp_get(o, "errors"))
		return -EINVAL;
	if (section && content) {
		(void)fputs("section", f);
		snap_render_value(section, 2, f);
		(void)fputs("\ncontent", f);
		snap_render_value(content, 2, f);
		(void)fputc('\n', f);
		if (registers) {
			(void)fputs("registers", f);
			snap_render_value(registers, 2, f);
			(void)fputc('\n', f);
		}
	} else {
		render_overview(o, f);
	}
	render_errors(mp_get(o, "errors"), f);
	return ferror(f) ? -EIO : 0;
}

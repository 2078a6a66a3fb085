/* Text for people. */
#include "api/cli/cli.h"
#include "core/mp_json.h"

#include <string.h>

const char *fmt_size(uint64_t bytes, char buf[16])
{
	static const char units[] = "BKMGT";
	double v = (double)bytes;
	unsigned u = 0;

	while (v >= 1024 && u + 2 < sizeof(units)) {
		v /= 1024;
		u++;
	}
	if (u == 0)
		(void)snprintf(buf, 16, "%llu B", (unsigned long long)bytes);
	else
		(void)snprintf(
			buf, 16, "%.*f %ciB", v < 10 ? 1 : 0, v, units[u]);
	return buf;
}

const char *fmt_us(double us, char buf[16])
{
	if (us < 1000)
		(void)snprintf(buf, 16, "%.0f us", us);
	else if (us < 10000)
		(void)snprintf(buf, 16, "%.2f ms", us / 1000);
	else if (us < 1000000)
		(void)snprintf(buf, 16, "%.1f ms", us / 1000);
	else
		(void)snprintf(buf, 16, "%.2f s", us / 1000000);
	return buf;
}

const char *fmt_age(uint64_t ms, char buf[16])
{
	uint64_t s = ms / 1000;

	if (s < 100)
		(void)snprintf(buf, 16, "%llu s", (unsigned long long)s);
	else if (s < 100 * 60)
		(void)snprintf(
			buf, 16, "%llu min", (unsigned long long)(s / 60));
	else
		(void)snprintf(
			buf, 16, "%llu h", (unsigned long long)(s / 3600));
	return buf;
}

void clean_text(char *s)
{
	for (; *s; s++) {
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			*s = *s == '\t' || *s == '\n' ? ' ' : '.';
	}
}

const char *get_text(
	const msgpack_object *map, const char *key, char buf[TEXT_MAX])
{
	if (thaw_get_str(map, key, buf, TEXT_MAX) || !*buf)
		(void)snprintf(buf, TEXT_MAX, "-");
	clean_text(buf);
	return buf;
}

/* Sizes and times are recognised by the names the API gives them. */
static void print_number(FILE *f, const char *key, uint64_t v)
{
	static const char *const sizes[] = {"memory", "bytes", "size", "shared",
		"private", "base_bytes", "memory_total", "memory_available",
		"min_available", "max_request", "max_payload", "file_bytes"};
	char buf[16];

	fprintf(f, "%llu", (unsigned long long)v);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (v >= 1024 && strcmp(key, sizes[i]) == 0)
			fprintf(f, " (%s)", fmt_size(v, buf));
	}
}

static void print_scalar(FILE *f, const char *key, const msgpack_object *o)
{
	if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
		print_number(f, key, o->via.u64);
	} else if (o->type == MSGPACK_OBJECT_STR) {
		for (uint32_t i = 0; i < o->via.str.size; i++) {
			unsigned char ch = (unsigned char)o->via.str.ptr[i];

			fputc(ch < 0x20 || ch == 0x7f ? '.' : ch, f);
		}
	} else {
		json_t *j = mp_to_json(o);

		if (j)
			(void)json_dumpf(
				j, f, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
		json_decref(j);
	}
	fputc('\n', f);
}

void print_map(FILE *f, const msgpack_object *map, int indent)
{
	if (!map || map->type != MSGPACK_OBJECT_MAP)
		return;
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		const msgpack_object *k = &map->via.map.ptr[i].key;
		const msgpack_object *v = &map->via.map.ptr[i].val;
		char key[64];
		size_t n;

		if (k->type != MSGPACK_OBJECT_STR)
			continue;
		n = min_u64(k->via.str.size, sizeof(key) - 1);
		memcpy(key, k->via.str.ptr, n);
		key[n] = 0;
		clean_text(key);
		if (v->type == MSGPACK_OBJECT_MAP && indent < 8) {
			fprintf(f, "%*s%s:\n", indent, "", key);
			print_map(f, v, indent + 2);
		} else {
			fprintf(f, "%*s%-*s ", indent, "", 18 - indent, key);
			print_scalar(f, key, v);
		}
	}
}

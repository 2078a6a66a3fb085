/*
 * The state tables against tests/golden/schema.txt, which says how every one
 * stood when it was last looked at: a table that changes without a new version
 * would give two formats one number.
 *
 * "test_schema --write FILE" ("make golden") writes the file anew, and refuses
 * when the rules of docs/snapshot-format.md, section 8, are broken.
 */
#include "tests/unit/test.h"
#include "core/machine.h"
#include "core/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA     "tests/golden/schema.txt"
#define MAX_TABLES 64

static const char how[] =
	"How to change a state table:\n"
	"  1. raise .version of its struct st_desc by one, and that of every\n"
	"     table that holds it with ST_SUBS;\n"
	"  2. append the new fields; their since is that new version, their\n"
	"     default is what older files mean by not having them;\n"
	"  3. leave the other fields as they are (a number or a blob may "
	"grow);\n"
	"  4. make golden; commit tests/golden/schema.txt with the change.\n";

/* ---- the tables there are ---- */

struct tables {
	const struct st_desc *d[MAX_TABLES];
	unsigned n;
};

static void add(struct tables *t, const struct st_desc *d)
{
	unsigned at = t->n;

	for (unsigned i = 0; i < t->n; i++) {
		if (t->d[i] == d)
			return;
	}
	assert_true(t->n < MAX_TABLES);
	/* sorted by name */
	while (at > 0 && strcmp(t->d[at - 1]->name, d->name) > 0) {
		t->d[at] = t->d[at - 1];
		at--;
	}
	t->d[at] = d;
	t->n++;
	for (unsigned i = 0; i < d->nfields; i++) {
		if (d->fields[i].kind == ST_SUB)
			add(t, d->fields[i].sub);
	}
}

static void all_tables(struct tables *t)
{
	t->n = 0;
	add(t, &machine_config_desc);
	add(t, &machine_state_desc);
	add(t, &vcpu_state_desc);
	for (unsigned i = 0; device_types[i]; i++)
		add(t, device_types[i]->state);
}

/* ---- as text ---- */

static void put_field(FILE *f, const struct st_field *x)
{
	static const char *const kinds[] = {
		[ST_UINT] = "uint",
		[ST_BYTES] = "bytes",
		[ST_BLOB] = "blob",
		[ST_SUB] = "table",
	};

	(void)fprintf(f, "  %s %s size %u", x->name, kinds[x->kind],
		x->kind == ST_SUB ? 0 : x->size);
	(void)fprintf(f, " count %u since %u default %" PRIu64, x->count,
		x->since, x->def);
	if (x->kind == ST_SUB)
		(void)fprintf(f, " of %s %u", x->sub->name, x->sub->version);
	(void)fputc('\n', f);
}

static void put_table(FILE *f, const struct st_desc *d)
{
	(void)fprintf(f, "%s version %u\n", d->name, d->version);
	for (unsigned i = 0; i < d->nfields; i++)
		put_field(f, &d->fields[i]);
}

/* malloc()ed. */
static char *table_text(const struct st_desc *d)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	assert_non_null(f);
	put_table(f, d);
	assert_int_equal(fclose(f), 0);
	return text;
}

/* ---- the old text ---- */

/* The lines of a table in the old schema: malloc()ed, NULL when it is new. */
static char *old_table(const char *schema, const char *name)
{
	char head[128];
	const char *at = schema, *end;

	(void)snprintf(head, sizeof(head), "%s version ", name);
	while (strncmp(at, head, strlen(head)) != 0) {
		at = strchr(at, '\n');
		if (!at || !*++at)
			return NULL;
	}
	end = strchr(at, '\n');
	while (end && end[1] == ' ')
		end = strchr(end + 1, '\n');
	return strndup(at, end ? (size_t)(end + 1 - at) : strlen(at));
}

struct old_field {
	char name[64], kind[16];
	unsigned size, count, since;
	uint64_t def;
};

/* The next field of an old table; *at moves on. False: no more. */
static bool next_field(const char **at, struct old_field *o)
{
	*at = strchr(*at, '\n');
	if (!*at || !*++*at)
		return false;
	return sscanf(*at,
		       "  %63s %15s size %u count %u since %u default %" SCNu64,
		       o->name, o->kind, &o->size, &o->count, &o->since,
		       &o->def) == 6;
}

static const struct st_field *field_of(
	const struct st_desc *d, const char *name)
{
	for (unsigned i = 0; i < d->nfields; i++) {
		if (!strcmp(d->fields[i].name, name))
			return &d->fields[i];
	}
	return NULL;
}

/* What is wrong with the new field for an old one, or NULL. */
static const char *against(const struct st_field *x, const struct old_field *o)
{
	struct old_field n = {.name = ""};
	const char *line;
	char *text = NULL;
	size_t size = 0;
	FILE *f;
	bool parsed;

	if (!x)
		return "is gone; old files have it";
	f = open_memstream(&text, &size);
	assert_non_null(f);
	(void)fputc('\n', f);
	put_field(f, x);
	assert_int_equal(fclose(f), 0);
	line = text;
	parsed = next_field(&line, &n);
	free(text);
	assert_true(parsed);
	if (strcmp(n.kind, o->kind) != 0 || n.count != o->count)
		return "is of another kind; give the new one another name";
	if (n.size < o->size || (n.size != o->size && !strcmp(n.kind, "bytes")))
		return "has another size; give the new one another name";
	if (n.since != o->since || n.def != o->def)
		return "has another since or default";
	return NULL;
}

/* Every rule for a table whose text differs from the old one. */
static bool change_is_right(const struct st_desc *d, const char *old)
{
	unsigned was = 0;
	struct old_field o;
	const char *at = old, *why;
	bool ok = true;

	(void)sscanf(old, "%*s version %u", &was);
	if (d->version != was + 1 && d->version != was + 2) {
		print_error("table \"%s\" changed, its version %s %u\n",
			d->name, d->version == was ? "is still" : "was", was);
		ok = false;
	}
	while (next_field(&at, &o)) {
		why = against(field_of(d, o.name), &o);
		if (why) {
			print_error("table \"%s\": field \"%s\" %s\n", d->name,
				o.name, why);
			ok = false;
		}
	}
	for (unsigned i = 0; i < d->nfields; i++) {
		char line[128];

		(void)snprintf(
			line, sizeof(line), "\n  %s ", d->fields[i].name);
		if (strstr(old, line) || d->fields[i].since > was)
			continue;
		print_error("table \"%s\": new field \"%s\" is since %u, files "
			    "of that version have been written without it\n",
			d->name, d->fields[i].name, d->fields[i].since);
		ok = false;
	}
	return ok;
}

/* Returns false when a rule is broken; *same: nothing changed at all. */
static bool check(const char *schema, bool *same)
{
	struct tables t;
	bool ok = true;
	size_t known = 0;

	*same = true;
	all_tables(&t);
	for (unsigned i = 0; i < t.n; i++) {
		AUTO_FREE char *now = table_text(t.d[i]);
		AUTO_FREE char *old = old_table(schema, t.d[i]->name);

		known += old ? strlen(old) : 0;
		if (old && !strcmp(old, now))
			continue;
		*same = false;
		if (old && !change_is_right(t.d[i], old))
			ok = false;
	}
	if (known != strlen(schema)) {
		print_error("%s has a table that is gone\n", SCHEMA);
		*same = false;
	}
	return ok;
}

static char *read_text(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = NULL;
	size_t n = 0;
	ssize_t got;

	if (!f)
		return NULL;
	got = getdelim(&text, &n, '\0', f);
	(void)fclose(f);
	if (got < 0 && text)
		text[0] = '\0';
	return text;
}

static void test_tables(void **state)
{
	AUTO_FREE char *schema = read_text(SCHEMA);
	bool same;

	(void)state;
	if (!schema) {
		print_message("skipped: no %s here\n", SCHEMA);
		skip();
	}
	if (!check(schema, &same))
		fail_msg("a state table breaks a rule.\n%s", how);
	if (!same)
		fail_msg("the state tables changed by the rules: \"make "
			 "golden\" and commit %s\n%s",
			SCHEMA, how);
}

/* The rules themselves: what is refused, and that a good change is not. */
static const struct st_field good_fields[] = {
	{.name = "a", .kind = ST_UINT, .since = 1, .size = 8, .count = 1},
	{.name = "b", .kind = ST_BYTES, .since = 2, .size = 16, .count = 1},
};
static const struct st_desc good = {
	.name = "t", .version = 2, .nfields = 2, .fields = good_fields};

static void test_rules(void **state)
{
	(void)state;
#define A(size, dflt)                                                          \
	"  a uint size " size " count 1 since 1 default " dflt "\n"
	assert_true(change_is_right(&good, "t version 1\n" A("8", "0")));
	assert_true(change_is_right(&good, "t version 1\n" A("4", "0")));
	/* no new version; default changed; gone; of another kind; late */
	assert_false(change_is_right(&good, "t version 2\n" A("4", "0")));
	assert_false(change_is_right(&good, "t version 1\n" A("8", "7")));
	assert_false(change_is_right(&good,
		"t version 1\n" A("8",
			"0") "  c uint size 8 count 1 since 1 default 0\n"));
	assert_false(change_is_right(&good,
		"t version 1\n  a blob size 8 count 1 since 1 default 0\n"));
	assert_false(change_is_right(&good,
		"t version 1\n" A("8",
			"0") "  b bytes size 8 count 1 since 2 default 0\n"));
	assert_false(change_is_right(&good, "t version 2\n" A("8", "0")));
#undef A
}

static int write_schema(const char *path)
{
	AUTO_FREE char *schema = read_text(path);
	struct tables t;
	bool same;
	FILE *f;

	if (schema && !check(schema, &same)) {
		(void)fputs(how, stderr);
		return 1;
	}
	f = fopen(path, "we");
	if (!f) {
		(void)fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return 1;
	}
	all_tables(&t);
	for (unsigned i = 0; i < t.n; i++)
		put_table(f, t.d[i]);
	return fclose(f) ? 1 : 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_tables),
	};

	if (argc == 3 && !strcmp(argv[1], "--write"))
		return write_schema(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

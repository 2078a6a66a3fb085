/* thaw diff */
#include "api/cli/chain.h"
#include "api/cli/offline.h"
#include "snapshot/render.h"

#include <errno.h>
#include <inttypes.h>

#define SHOWN 40 /* lines of each list, as text */

struct comparing {
	struct snap_files chain[2];
};

static int compare(void *arg, msgpack_packer *out, struct err *e)
{
	const struct comparing *k = arg;
	struct snap *s[2][SNAP_MAX_CHAIN + 1];
	bool same;
	int rc = 0;

	for (unsigned i = 0; i < 2 && !rc; i++)
		rc = snap_files_open(&k->chain[i], s[i], e);
	/* what is open is closed by the end of this process */
	return rc ? rc : snap_compare(s[0][0], s[1][0], out, &same, e);
}

static uint64_t u64_of(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = thaw_get(map, key);

	return o && o->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? o->via.u64 : 0;
}

static bool true_of(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = thaw_get(map, key);

	return o && o->type == MSGPACK_OBJECT_BOOLEAN && o->via.boolean;
}

static void print_field(FILE *f, const msgpack_object *o)
{
	const msgpack_object *a = thaw_get(o, "a"), *b = thaw_get(o, "b");
	char name[TEXT_MAX];

	fprintf(f, "  %s:", get_text(o, "field", name));
	if (a)
		snap_render_value(a, 4, f);
	fputs(" ->", f);
	if (b)
		snap_render_value(b, 4, f);
	fputc('\n', f);
}

static void print_range(FILE *f, const msgpack_object *o)
{
	fprintf(f, "  0x%" PRIx64 "  %" PRIu64 "\n", u64_of(o, "gpa"),
		u64_of(o, "pages"));
}

static void print_list(FILE *f, const msgpack_object *list,
	void (*print)(FILE *f, const msgpack_object *o))
{
	if (!list || list->type != MSGPACK_OBJECT_ARRAY)
		return;
	for (uint32_t i = 0; i < list->via.array.size && i < SHOWN; i++)
		print(f, &list->via.array.ptr[i]);
	if (list->via.array.size > SHOWN)
		fprintf(f, "  and %u more (--json has all)\n",
			list->via.array.size - SHOWN);
}

static void print_differences(struct cli *c, const msgpack_object *o)
{
	const msgpack_object *state = thaw_get(o, "state");

	if (state && state->type == MSGPACK_OBJECT_ARRAY &&
		state->via.array.size) {
		fprintf(c->out, "state     %u fields differ\n",
			state->via.array.size);
		print_list(c->out, state, print_field);
	}
	if (!true_of(o, "same_layout"))
		fputs("memory    other regions: not compared\n", c->out);
	if (!u64_of(o, "pages"))
		return;
	fprintf(c->out, "memory    %" PRIu64 " pages differ (address, pages)\n",
		u64_of(o, "pages"));
	print_list(c->out, thaw_get(o, "ranges"), print_range);
}

static int run_compare(struct cli *c, struct comparing *k)
{
	struct offline_answer a;
	struct err e = {0};
	int rc = offline_run(compare, k, &a, &e);

	if (rc)
		return cli_fail(c, offline_exit(rc), "%s", e.msg);
	if (c->json)
		rc = json_print(c, &a.msg.data);
	else
		print_differences(c, &a.msg.data);
	if (!rc && !true_of(&a.msg.data, "same"))
		rc = cli_fail(c, EXIT_FAILED, "%s and %s differ", c->arg[0],
			c->arg[1]);
	offline_free(&a);
	return rc;
}

static int run_diff(struct cli *c, void *values)
{
	struct comparing k = {0};
	struct err e = {0};
	int rc = EXIT_DONE;

	(void)values;
	for (unsigned i = 0; i < 2 && !rc; i++) {
		struct snap_files *chain = &k.chain[i];

		rc = file_chain_open(c->arg[i], c->arg, 2, chain, &e);
		if (!rc && chain->missing.code) {
			e = chain->missing;
			rc = e.code;
		}
		if (rc)
			rc = cli_fail(c, offline_exit(rc), "%s", e.msg);
	}
	if (!rc)
		rc = run_compare(c, &k);
	file_chain_close(&k.chain[0]);
	file_chain_close(&k.chain[1]);
	return rc;
}

const struct command diff_command = {"diff", "A B",
	"what differs between two snapshots",
	"State by section and field, vCPUs by register, and the pages of guest "
	"memory; metadata are not compared. A diff is taken with all that it "
	"builds on. Exit code 0: nothing differs, 1: something does.",
	NULL, 0, 2, 2, CMD_JSON, run_diff};

/*
 * thaw run --exec: boot a machine, run one command in it, power it off. The
 * guest's console is not shown, unless the machine does not get so far.
 */
#include "api/cli/guest.h"
#include "api/cli/run.h"
#include "core/mp_json.h"

#include <string.h>

#define BOOT_MS     120000
#define AGENT_MS    10000
#define POWEROFF_NS 5000000000ULL

/* The last the guest said, when it did not come up. */
static void show_console(struct cli *c, const char *id)
{
	struct thaw_result r;
	struct thaw_error e;
	const void *data;
	size_t n;
	msgpack_packer *p = thaw_request(c->t, "machine.logs", 1);

	mp_key_str(p, "id", id);
	if (thaw_call(c->t, -1, &r, &e))
		return;
	if (!thaw_get_data(r.value, "data", &data, &n) && n)
		(void)!write_full(STDERR_FILENO, data, n);
	thaw_result_free(&r);
}

static int create(struct cli *c, const struct run_exec *x, char id[TEXT_MAX])
{
	uint32_t n = 2U + (x->name != NULL) + (x->hostname != NULL);
	msgpack_packer *p = thaw_request(c->t, "machine.create", n);
	struct thaw_result r;
	int rc;

	mp_str(p, "config");
	if (mp_pack_json(p, x->cfg))
		(void)msgpack_pack_nil(p);
	mp_key_bool(p, "bind", true);
	if (x->name)
		mp_key_str(p, "name", x->name);
	if (x->hostname)
		mp_key_str(p, "hostname", x->hostname);
	rc = cli_call(c, "starting the machine", &r);
	if (!rc && thaw_get_str(r.value, "id", id, TEXT_MAX))
		rc = cli_fail(c, EXIT_FAILED, "the answer has no id");
	thaw_result_free(&r);
	return rc;
}

static bool has_ended(struct cli *c, const char *id)
{
	msgpack_packer *p = thaw_request(c->t, "machine.show", 1);
	const msgpack_object *state;
	struct thaw_result r;
	struct thaw_error e;
	bool ended;

	mp_key_str(p, "id", id);
	if (thaw_call(c->t, -1, &r, &e))
		return true;
	state = thaw_get(r.value, "state");
	ended = state && mp_str_eq(state, "ended");
	thaw_result_free(&r);
	return ended;
}

/* The agent, as soon as there is one; not for ever, and not when the guest
 * ends before. */
static int reach(struct cli *c, const char *id, struct thaw **g)
{
	uint64_t end = now_ns() + BOOT_MS * 1000000ULL;
	struct thaw_error e;

	for (;;) {
		int rc = thaw_machine_connect(
			c->t, id, THAW_AGENT_PORT, AGENT_MS, g, &e);

		if (!rc)
			return EXIT_DONE;
		if (has_ended(c, id)) {
			show_console(c, id);
			return cli_fail(c, EXIT_FAILED,
				"the guest ended before its agent answered; "
				"its console stands above");
		}
		if ((rc != THAW_CONNECT && rc != THAW_TIMEOUT) ||
			now_ns() > end) {
			show_console(c, id);
			return cli_error(c, &e);
		}
		(void)usleep(20000);
	}
}

/* Let the guest write back what it has to. */
static void power_off(struct cli *c, struct thaw *g, const char *id)
{
	uint64_t end = now_ns() + POWEROFF_NS;
	struct thaw_error e;

	(void)thaw_request(g, "poweroff", 0);
	if (thaw_call(g, 1000, NULL, &e))
		return;
	while (now_ns() < end && !has_ended(c, id))
		(void)usleep(10000);
}

int run_exec(struct cli *c, const struct run_exec *x)
{
	const char *argv[] = {"/bin/sh", "-c", x->command};
	const struct guest_exec ge = {
		.argv = argv, .nargs = 3, .in = x->in, .cwd = "/"};
	char id[TEXT_MAX] = "";
	struct thaw *g = NULL;
	struct thaw_error e;
	int code = 0;
	int rc = create(c, x, id);

	if (!rc)
		rc = reach(c, id, &g);
	if (!rc)
		rc = guest_exec(c, g, &ge, &code);
	if (g)
		power_off(c, g, id);
	thaw_close(g);
	if (id[0])
		(void)thaw_machine_stop(c->t, id, &e);
	return rc ? rc : code;
}

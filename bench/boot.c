/* Cold boot of the built-in guest until its agent is ready. */
#include "bench/bench.h"

static int boot_once(struct bench *b, struct result *r)
{
	uint64_t start = now_ns();
	msgpack_packer *p = thaw_request(b->t, "machine.create", 2);
	struct clones one = {.n = 1};
	char id[1][64];
	struct thaw_result res;
	struct thaw_error e;
	uint64_t ok = 0;
	double us, ask_us;
	int rc;

	mp_str(p, "config");
	(void)msgpack_pack_map(p, 1);
	mp_key_u64(p, "memory", b->o->mem);
	mp_key_str(p, "ready", "agent");
	if (thaw_call(b->t, -1, &res, &e))
		return bench_error(b, &e);
	us = (double)(now_ns() - start) / 1000;
	rc = thaw_get_str(res.value, "id", id[0], sizeof(id[0]));
	if (!rc)
		rc = step_add(r, thaw_get(res.value, "us"));
	thaw_result_free(&res);
	if (rc)
		return cli_fail(b->c, EXIT_FAILED, "an answer without an id");
	one.id = id;
	rc = bench_ask_all(b, &one, &ok, &ask_us);
	r->n++;
	if (!rc && ok && !series_add(&r->us, us))
		r->ok++;
	return rc ? rc : bench_stop_all(b, &one);
}

int bench_boot(struct bench *b)
{
	struct result *r = bench_result(b, "cold_boot_ready");
	uint64_t n = b->o->n ? b->o->n : 30;
	char size[16];
	int rc = EXIT_DONE;

	for (uint64_t i = 0; !rc && i < n; i++) {
		bench_progress(b, "boot", i, n);
		rc = boot_once(b, r);
	}
	bench_progress(b, "boot", n, n);
	(void)snprintf(r->note, sizeof(r->note),
		"machine.create to agent ready, %s guest, one at a time",
		fmt_size(b->o->mem, size));
	return rc;
}

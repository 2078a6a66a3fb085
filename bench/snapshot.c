/* thaw bench snapshot: what a snapshot costs, and what its guest notices. */
#include "bench/snapfile.h"

#include <string.h>

static int call(struct bench *b, struct thaw_result *res)
{
	struct thaw_error e;

	return thaw_call(b->t, -1, res, &e) ? bench_error(b, &e) : EXIT_DONE;
}

int bench_machine(struct bench *b, uint64_t memory, char id[64])
{
	msgpack_packer *p = thaw_request(b->t, "machine.create", 3);
	struct thaw_result res;
	int rc;

	mp_str(p, "config");
	(void)msgpack_pack_map(p, 1);
	mp_key_u64(p, "memory", memory);
	mp_key_str(p, "ready", "agent");
	mp_key_bool(p, "track_dirty", true);
	rc = call(b, &res);
	if (rc)
		return rc;
	rc = thaw_get_str(res.value, "id", id, 64);
	thaw_result_free(&res);
	return rc ? cli_fail(b->c, EXIT_FAILED, "an answer without an id")
		  : EXIT_DONE;
}

int bench_machine_stop(struct bench *b, const char *id)
{
	mp_key_str(thaw_request(b->t, "machine.stop", 1), "id", id);
	return call(b, NULL);
}

/* What is written depends on the length of the request's data (functions.md):
 * up to 64 MiB of kind 0 and 10 MiB of the others have nothing in common. */
static int touch(struct bench *b, const char *id, unsigned mib, unsigned kind)
{
	msgpack_packer *p = thaw_request(b->t, "machine.invoke", 2);
	char text[8192];
	int n = snprintf(text, sizeof(text), "touch %u\n%0*u", mib,
		kind ? (int)(64 * 16 + 10 * 16 * (kind % 32)) : 1, 0U);

	mp_key_str(p, "id", id);
	thaw_pack_data(p, "payload", text, (size_t)n);
	return call(b, NULL);
}

int bench_shoot(struct bench *b, const char *id, const char *type, bool live,
	struct shot *s, struct result *r)
{
	msgpack_packer *p =
		thaw_request(b->t, "machine.snapshot", s->level ? 7 : 5);
	struct thaw_result res;
	int rc;

	(void)snprintf(s->path, sizeof(s->path), "%s/%s%u.thaw",
		s->dir ? s->dir : b->dir, type, s->number);
	mp_key_str(p, "id", id);
	mp_key_str(p, "path", s->path);
	mp_key_str(p, "type", type);
	mp_key_bool(p, "live", live);
	mp_key_bool(p, "force", true);
	if (s->level) {
		mp_key_str(p, "codec", "zstd");
		mp_key_u64(p, "level", s->level);
	}
	rc = call(b, &res);
	if (rc)
		return rc;
	s->pause_us = (double)thaw_get_u64(res.value, "pause_us", 0);
	s->total_us = (double)thaw_get_u64(res.value, "total_us", 0);
	s->bytes = thaw_get_u64(res.value, "bytes", 0);
	if (r)
		rc = step_add(r, thaw_get(res.value, "pause"));
	thaw_result_free(&res);
	return rc ? cli_fail(b->c, EXIT_FAILED, "out of memory") : EXIT_DONE;
}

/* The pause of live snapshots of a machine of which so much is mapped. */
static int live(
	struct bench *b, const char *name, uint64_t memory, unsigned mapped)
{
	struct result *r = bench_result(b, name);
	uint64_t n = b->o->n ? b->o->n : 10;
	struct shot s = {.number = 0};
	char id[64], size[16];
	int rc = bench_machine(b, memory, id);

	if (rc)
		return rc;
	rc = touch(b, id, mapped, 0);
	for (uint64_t i = 0; i < n && !rc; i++) {
		bench_progress(b, name, i, n);
		rc = bench_shoot(b, id, "full", true, &s, r);
		if (!rc)
			rc = bench_count(b, r, s.pause_us);
	}
	bench_progress(b, name, n, n);
	(void)snprintf(r->note, sizeof(r->note),
		"pause of the guest, live snapshot of a %s guest after it "
		"wrote %u MiB",
		fmt_size(memory, size), mapped);
	return rc ? rc : bench_machine_stop(b, id);
}

/* What no file of the chain has; then what the last one has. */
static int diff_once(struct bench *b, const char *id, struct shot *s,
	struct result *r, struct result *dd, struct result *same)
{
	struct shot again = {.number = s->number + 1000};
	int rc = touch(b, id, 10, s->number);

	if (!rc)
		rc = bench_shoot(b, id, "diff", false, s, NULL);
	if (!rc)
		rc = bench_count(b, r, s->total_us);
	if (!rc)
		rc = bench_count(b, dd, bench_dd(b, s->bytes));
	if (!rc)
		rc = touch(b, id, 10, s->number);
	if (!rc)
		rc = bench_shoot(b, id, "diff", false, &again, NULL);
	if (!rc)
		rc = bench_count(b, same, again.total_us);
	(void)snprintf(same->note, sizeof(same->note),
		"the same, but all of it is in the parent already; %llu KiB",
		(unsigned long long)(again.bytes / KIB));
	return rc;
}

/* 10 MiB changed of 1 GiB: the whole diff, written and synced, against dd. */
static int diff(struct bench *b)
{
	struct result *r = bench_result(b, "diff_10m");
	struct result *dd = bench_result(b, "diff_10m_dd");
	struct result *same = bench_result(b, "diff_10m_shared");
	uint64_t n = b->o->n ? b->o->n : 10;
	struct shot s = {.bytes = 0};
	char id[64];
	int rc = bench_machine(b, GIB, id);

	if (rc)
		return rc;
	rc = touch(b, id, 64, 0);
	if (!rc)
		rc = bench_shoot(b, id, "full", false, &s, NULL);
	for (uint64_t i = 0; i < n && !rc; i++) {
		bench_progress(b, "diff", i, n);
		s.number = (unsigned)i + 1;
		/* a chain has an end */
		if (i % 16 == 15)
			rc = bench_shoot(b, id, "full", false, &s, NULL);
		if (!rc)
			rc = diff_once(b, id, &s, r, dd, same);
	}
	bench_progress(b, "diff", n, n);
	(void)snprintf(r->note, sizeof(r->note),
		"a diff of 10 MiB written since the last snapshot, 1 GiB "
		"guest, synced; %llu KiB",
		(unsigned long long)(s.bytes / KIB));
	(void)snprintf(dd->note, sizeof(dd->note),
		"as many bytes, O_DIRECT where it can be had, fsync");
	return rc ? rc : bench_machine_stop(b, id);
}

int bench_snapshot(struct bench *b)
{
	int rc;

	if (!b->dir[0])
		return cli_fail(b->c, EXIT_USAGE,
			"snapshot: this benchmark writes files of its own; run "
			"it without --socket");
	rc = bench_full(b);
	if (!rc)
		rc = bench_snapfile(b);
	if (!rc)
		rc = live(b, "live_pause_128m", 128 * MIB, 10);
	if (!rc)
		rc = live(b, "live_pause_1g", GIB, 64);
	if (!rc)
		rc = live(b, "live_pause_1g_full", GIB, 900);
	return rc ? rc : diff(b);
}

/*
 * The reader of requests against hostile bytes, fed in pieces. What comes out
 * must not depend on how the bytes were cut, every message that is given out
 * must be one whole msgpack object, and memory must follow what has arrived.
 * The first byte of the input says how the rest is cut.
 */
#include "api/rpc.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct mp_limits limits = {.max_depth = 12, .max_elements = 4096};

static uint64_t limit_of(const char *name, size_t len)
{
	return len && name[0] == 'b' ? 4096 : 512;
}

struct seen {
	unsigned messages;
	uint64_t ids, last_end;
	bool bad;
};

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void drain(struct rpc_reader *r, struct seen *s)
{
	struct rpc_msg m;
	int rc;

	while ((rc = rpc_next(r, &m)) == 1) {
		check(m.begin >= s->last_end && m.end > m.begin);
		s->last_end = m.end;
		s->messages++;
		s->ids = s->ids * 31 + m.id + (uint64_t)m.kind;
		if (m.kind == RPC_TOO_LONG)
			continue;
		check(mp_check(m.data, m.len, m.len, &limits) ==
			(int64_t)m.len);
		check(m.kind == RPC_RESPONSE ||
			(const char *)m.data < m.method);
	}
	s->bad = rc < 0;
}

static struct seen run(const uint8_t *p, size_t n, size_t piece)
{
	struct rpc_reader r;
	struct seen s = {0};

	rpc_reader_init(&r, limit_of, &limits);
	while (n && !s.bad) {
		uint8_t *room = NULL;
		int64_t have = rpc_space(&r, &room);
		size_t now = n < piece ? n : piece;

		check(have > 0);
		if (now > (size_t)have)
			now = (size_t)have;
		memcpy(room, p, now);
		rpc_filled(&r, now);
		p += now;
		n -= now;
		drain(&r, &s);
		check(r.cap <= 64 * KIB);
	}
	rpc_reader_fini(&r);
	return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct seen whole, cut;

	if (size < 2 || size > 20000)
		return 0;
	whole = run(data + 1, size - 1, SIZE_MAX);
	cut = run(data + 1, size - 1, 1U + data[0] % 16);
	check(whole.messages == cut.messages && whole.ids == cut.ids);
	check(whole.bad == cut.bad);
	return 0;
}

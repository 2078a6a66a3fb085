/*
 * How it works: mp_walk() says where the current message ends, as far as its
 * heads have arrived. As soon as the message's own head (kind, id, method) can
 * be read, the method's limit is known; before that the smallest limit holds.
 * A message that reaches over its limit is "skipping": its bytes are dropped
 * as they come, and rpc_next() reports it when it is over.
 */
#include "api/rpc.h"

#include <errno.h>
#include <string.h>

#define FIRST_BUFFER 4096
#define READ_AHEAD   4096
/* A buffer that grew for one long message is given back after it. */
#define KEEP_BUFFER (64 * KIB)

void rpc_reader_init(struct rpc_reader *r, rpc_limit_fn *limit_of,
	const struct mp_limits *limits)
{
	memset(r, 0, sizeof(*r));
	r->limit_of = limit_of;
	r->limits = limits;
	r->limit = RPC_MAX_REQUEST;
	mp_walk_init(&r->walk, limits);
}

void rpc_reader_fini(struct rpc_reader *r)
{
	free(r->buf);
	r->buf = NULL;
}

uint64_t rpc_position(const struct rpc_reader *r)
{
	return r->base + r->len;
}

static void drop_front(struct rpc_reader *r)
{
	if (!r->start)
		return;
	memmove(r->buf, r->buf + r->start, r->len - r->start);
	r->base += r->start;
	r->len -= r->start;
	r->start = 0;
}

int64_t rpc_space(struct rpc_reader *r, uint8_t **p)
{
	size_t cap = r->cap ? r->cap : FIRST_BUFFER;
	uint8_t *buf;

	drop_front(r);
	if (!r->len && r->cap > KEEP_BUFFER) {
		free(r->buf);
		r->buf = NULL;
		r->cap = 0;
		cap = FIRST_BUFFER;
	}
	/* Doubling: memory is at most twice what has really arrived. */
	if (cap - r->len < READ_AHEAD / 2)
		cap *= 2;
	if (cap != r->cap) {
		buf = realloc(r->buf, cap);
		if (!buf)
			return -ENOMEM;
		r->buf = buf;
		r->cap = cap;
	}
	*p = r->buf + r->len;
	return (int64_t)(r->cap - r->len);
}

void rpc_filled(struct rpc_reader *r, size_t n)
{
	r->len += n;
}

/* A cursor over the first bytes of a message; "more" once they do not suffice.
 */
struct cursor {
	const uint8_t *p;
	size_t n;
	bool more, bad;
};

static uint64_t take(struct cursor *c, size_t bytes)
{
	uint64_t v = 0;

	if (c->n < bytes) {
		c->more = true;
		c->n = 0;
		return 0;
	}
	for (size_t i = 0; i < bytes; i++)
		v = v << 8 | c->p[i];
	c->p += bytes;
	c->n -= bytes;
	return v;
}

static uint64_t take_array(struct cursor *c)
{
	uint64_t tag = take(c, 1);

	if (tag >= 0x90 && tag <= 0x9f)
		return tag & 15U;
	if (tag == 0xdc || tag == 0xdd)
		return take(c, tag == 0xdc ? 2 : 4);
	c->bad = !c->more;
	return 0;
}

static uint64_t take_uint(struct cursor *c)
{
	uint64_t tag = take(c, 1), v;

	if (tag < 0x80)
		return tag;
	if (tag >= 0xcc && tag <= 0xcf)
		return take(c, (size_t)1 << (tag - 0xcc));
	/* Signed encodings of a number that is not negative are legal. */
	if (tag >= 0xd0 && tag <= 0xd3) {
		static const uint64_t sign[] = {
			1ULL << 7, 1ULL << 15, 1ULL << 31, 1ULL << 63};

		v = take(c, (size_t)1 << (tag - 0xd0));
		c->bad = c->bad || (v & sign[tag - 0xd0]);
		return v;
	}
	c->bad = !c->more;
	return 0;
}

/* *s stays NULL while the string's bytes are not all there. */
static void take_str(struct cursor *c, const char **s, size_t *n)
{
	uint64_t tag = take(c, 1);

	*s = NULL;
	*n = 0;
	if (tag >= 0xa0 && tag <= 0xbf)
		*n = tag & 31U;
	else if (tag == 0xd9 || tag == 0xda || tag == 0xdb)
		*n = take(c, (size_t)1 << (tag - 0xd9));
	else
		c->bad = !c->more;
	if (c->n < *n)
		c->more = true;
	else if (!c->more)
		*s = (const char *)c->p;
}

/* 1: head is complete, 0: more bytes are needed, -EBADMSG: not an rpc message
 */
static int read_head(struct rpc_reader *r)
{
	struct cursor c = {.p = r->buf + r->start, .n = r->len - r->start};
	uint64_t items = take_array(&c);
	uint64_t kind = take_uint(&c);

	if (c.bad || (!c.more && kind > RPC_NOTIFICATION))
		return -EBADMSG;
	if (!c.more && items != (kind == RPC_NOTIFICATION ? 3 : 4) &&
		!(kind == RPC_REQUEST && items == 3))
		return -EBADMSG;
	if (c.more)
		return 0;
	r->head.kind = (enum rpc_kind)kind;
	if (kind != RPC_NOTIFICATION)
		r->head.id = take_uint(&c);
	if (kind != RPC_RESPONSE && !c.more && !c.bad)
		take_str(&c, &r->head.method, &r->head.method_len);
	if (c.bad)
		return -EBADMSG;
	return c.more ? 0 : 1;
}

static void drop_skipped(struct rpc_reader *r, uint64_t have)
{
	uint64_t n = min_u64(have, r->walk.pos);

	r->start += (size_t)n;
	r->walk.pos -= n;
	r->skipped += n;
}

/* The message is complete and len bytes long (of those still kept). */
static void deliver(struct rpc_reader *r, struct rpc_msg *m, size_t len)
{
	*m = r->head;
	m->data = r->buf + r->start;
	m->len = len;
	m->begin = r->base + r->start - r->skipped;
	m->end = r->base + r->start + len;
	/* The buffer may have moved since the head was read. */
	if (!r->skipping && m->kind != RPC_RESPONSE) {
		(void)read_head(r);
		m->method = r->head.method;
	}
	if (r->skipping) {
		if (m->kind != RPC_NOTIFICATION)
			m->kind = RPC_TOO_LONG;
		m->data = NULL;
		m->method = NULL;
		m->len = 0;
	}
	r->start += len;
	memset(&r->head, 0, sizeof(r->head));
	r->limit = RPC_MAX_REQUEST;
	r->skipped = 0;
	r->have_head = false;
	r->skipping = false;
	mp_walk_init(&r->walk, r->limits);
}

/* 1: a message is complete, 0: more bytes are needed */
static int step(struct rpc_reader *r, struct rpc_msg *m)
{
	size_t have = r->len - r->start;
	int64_t n = mp_walk(&r->walk, r->buf + r->start, have, INT64_MAX);

	if (n < 0)
		return -EBADMSG;
	if (!r->have_head && !r->skipping) {
		int h = read_head(r);

		if (h < 0 || (h == 0 && n > 0))
			return -EBADMSG;
		if (h == 1) {
			r->have_head = true;
			if (r->head.kind != RPC_RESPONSE)
				r->limit = r->limit_of(
					r->head.method, r->head.method_len);
			else
				r->limit = r->limit_of("", 0);
		}
	}
	if (r->walk.pos > r->limit)
		r->skipping = true;
	if (n == 0) {
		if (r->skipping)
			drop_skipped(r, have);
		return 0;
	}
	deliver(r, m, (size_t)n);
	return 1;
}

int rpc_next(struct rpc_reader *r, struct rpc_msg *m)
{
	for (;;) {
		int rc;

		if (r->len == r->start && !r->skipping)
			return 0;
		rc = step(r, m);
		if (rc <= 0)
			return rc;
		/* Nobody waits for an answer to a notification. */
		if (m->kind == RPC_NOTIFICATION && !m->data)
			continue;
		return 1;
	}
}

void rpc_pack_answer(msgpack_packer *p, uint64_t id)
{
	(void)msgpack_pack_array(p, 4);
	(void)msgpack_pack_uint64(p, RPC_RESPONSE);
	(void)msgpack_pack_uint64(p, id);
	(void)msgpack_pack_nil(p);
}

void rpc_pack_error(
	msgpack_packer *p, const uint64_t *id, int code, const char *text)
{
	(void)msgpack_pack_array(p, 4);
	(void)msgpack_pack_uint64(p, RPC_RESPONSE);
	if (id)
		(void)msgpack_pack_uint64(p, *id);
	else
		(void)msgpack_pack_nil(p);
	(void)msgpack_pack_map(p, code == -ENOEXEC ? 3 : 2);
	mp_key_str(p, "code", rpc_code(code));
	mp_key_str(p, "message", text);
	if (code == -ENOEXEC)
		mp_key_str(p, "detail", "host");
	(void)msgpack_pack_nil(p);
}

void rpc_pack_notification(msgpack_packer *p, const char *method)
{
	(void)msgpack_pack_array(p, 3);
	(void)msgpack_pack_uint64(p, RPC_NOTIFICATION);
	mp_str(p, method);
	(void)msgpack_pack_array(p, 1);
}

const char *rpc_code(int code)
{
	switch (-code) {
	case EINVAL:
	case ERANGE:
	case ENAMETOOLONG:
	case EISDIR:
	case ENOTDIR:
	case ELOOP:
		return "invalid";
	case ENOENT:
		return "not_found";
	case EEXIST:
		return "exists";
	case EBUSY:
	case ECANCELED:
		return "busy";
	case EACCES:
	case EPERM:
	case EROFS:
		return "denied";
	case EOPNOTSUPP:
	case ENOEXEC:
		return "unsupported";
	case EBADMSG:
	case ESTALE: /* the parent of a snapshot is another file */
		return "corrupt";
	case ETIMEDOUT:
		return "timeout";
	case ENOMEM:
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
	case EMFILE:
	case ENFILE:
	case EAGAIN:
		return "exhausted";
	default:
		return "internal";
	}
}

#include "tests/unit/test.h"
#include "tests/unit/ta_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define PATIENCE_NS 60000000000ULL

/* global: the one system of this test */
struct ta_fake ta_fake;

static int fake_entropy(const void *p, size_t n)
{
	ta_fake.entropy++;
	memcpy(ta_fake.seed, p, n < 64 ? n : 64);
	return ta_fake.fail;
}

static int fake_clock(uint64_t ns)
{
	ta_fake.clock++;
	ta_fake.wall = ns;
	return ta_fake.fail;
}

static int fake_hostname(const char *name)
{
	ta_fake.hostname++;
	(void)snprintf(ta_fake.name, sizeof(ta_fake.name), "%s", name);
	return ta_fake.fail;
}

static int fake_bind(const char *from, const char *to)
{
	(void)from;
	ta_fake.bind++;
	(void)snprintf(ta_fake.bound, sizeof(ta_fake.bound), "%s", to);
	return ta_fake.fail;
}

static int fake_find_netif(const uint8_t mac[6], char name[16])
{
	const uint8_t want[6] = {2, 0, 0, 0, 0, mac[5]};

	for (unsigned i = 0; i < sizeof(ta_fake.eth); i++) {
		if (!ta_fake.eth[i] || ta_fake.eth[i] != mac[5] ||
			memcmp(mac, want, 6) != 0)
			continue;
		(void)snprintf(name, 16, "eth%u", i);
		return 0;
	}
	return -ENODEV;
}

static int fake_netif(const struct ta_netif *n, struct err *e)
{
	ta_fake.netif++;
	ta_fake.n = *n;
	if (n->has_mac && !strncmp(n->name, "eth", 3))
		ta_fake.eth[(n->name[3] - '0') & 3] = n->mac[5];
	return ta_fake.fail ? err_sys(e, ta_fake.fail, "netif") : 0;
}

static int fake_poweroff(struct ta *t)
{
	(void)t;
	ta_fake.poweroff++;
	return ta_fake.fail;
}

static const struct ta_sys fake_sys = {
	.entropy = fake_entropy,
	.set_clock = fake_clock,
	.set_hostname = fake_hostname,
	.bind = fake_bind,
	.find_netif = fake_find_netif,
	.netif = fake_netif,
	.poweroff = fake_poweroff,
};

void tr_file(struct ta_rig *r, const char *name, const char *text, int mode)
{
	char path[256];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, (mode_t)mode), 0);
}

void tr_init(struct ta_rig *r)
{
	static const char *const dirs[] = {"etc", "run", "proc", "proc/sys",
		"proc/sys/kernel", "proc/sys/kernel/random"};
	const char *tmp = getenv("TMPDIR");
	struct err e = {0};
	char path[128];
	int p[2];

	memset(r, 0, sizeof(*r));
	memset(&ta_fake, 0, sizeof(ta_fake));
	msgpack_unpacked_init(&r->up);
	(void)snprintf(
		r->dir, sizeof(r->dir), "%.40s/ta.XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(r->dir));
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", r->dir, dirs[i]);
		assert_int_equal(mkdir(path, 0755), 0);
	}
	r->t.sys = &fake_sys;
	r->t.root = r->dir;
	if (ta_init(&r->t, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p), 0);
	r->fd = p[0];
	assert_int_equal(fcntl(p[1], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(ta_add_conn(&r->t, p[1]), 0);
}

void tr_fini(struct ta_rig *r)
{
	char cmd[128];

	ta_fini(&r->t);
	while (waitpid(-1, NULL, 0) > 0) {
	}
	if (r->fd >= 0)
		(void)close(r->fd);
	buf_free(&r->in);
	buf_free(&r->out);
	buf_free(&r->seen);
	msgpack_unpacked_destroy(&r->up);
	(void)snprintf(cmd, sizeof(cmd), "rm -rf '%s'", r->dir);
	assert_int_equal(system(cmd), 0); /* NOLINT(cert-env33-c) */
}

static int pack_write(void *data, const char *p, size_t n)
{
	return buf_append(data, p, n);
}

void tr_begin(struct ta_rig *r, const char *method, uint32_t n)
{
	msgpack_packer_init(&r->pk, &r->out, pack_write);
	msgpack_pack_array(&r->pk, 4);
	msgpack_pack_uint32(&r->pk, 0);
	msgpack_pack_uint64(&r->pk, ++r->id);
	mp_str(&r->pk, method);
	msgpack_pack_array(&r->pk, 1);
	msgpack_pack_map(&r->pk, n);
}

void tr_bytes(struct ta_rig *r, const void *p, size_t n)
{
	const char *b = p;

	while (n) {
		ssize_t w = send(r->fd, b, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (w > 0) {
			b += w;
			n -= (size_t)w;
		} else {
			assert_int_equal(errno, EAGAIN);
		}
		(void)ta_step(&r->t, 0);
	}
}

void tr_send(struct ta_rig *r)
{
	tr_bytes(r, buf_data(&r->out), r->out.len);
	buf_free(&r->out);
}

/* A whole message from .in into .up. */
static bool take(struct ta_rig *r)
{
	int64_t n = mp_check(
		buf_data(&r->in), r->in.len, 64 * MIB, &mp_default_limits);

	assert_true(n >= 0);
	if (!n)
		return false;
	msgpack_unpacked_destroy(&r->up);
	buf_free(&r->seen);
	assert_int_equal(buf_append(&r->seen, buf_data(&r->in), (size_t)n), 0);
	buf_consume(&r->in, (size_t)n);
	assert_int_equal(mp_unpack(buf_data(&r->seen), r->seen.len,
				 &mp_default_limits, &r->up, NULL),
		0);
	return true;
}

const msgpack_object *tr_next(struct ta_rig *r)
{
	uint64_t end = now_ns() + PATIENCE_NS;
	char chunk[65536];

	while (!take(r)) {
		ssize_t n = recv(r->fd, chunk, sizeof(chunk), MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return NULL;
		if (n > 0) {
			assert_int_equal(
				buf_append(&r->in, chunk, (size_t)n), 0);
			continue;
		}
		if (now_ns() > end)
			fail_msg("the agent does not answer");
		(void)ta_step(&r->t, 20);
	}
	return &r->up.data;
}

static const msgpack_object *answer(struct ta_rig *r)
{
	const msgpack_object *o = tr_next(r);

	assert_non_null(o);
	assert_int_equal(o->type, MSGPACK_OBJECT_ARRAY);
	assert_int_equal(o->via.array.size, 4);
	assert_int_equal(o->via.array.ptr[0].via.u64, 1);
	assert_int_equal(o->via.array.ptr[1].via.u64, r->id);
	return o->via.array.ptr;
}

const char *tr_text(const msgpack_object *result, const char *key)
{
	static char text[2048]; /* global: for one comparison */
	const msgpack_object *o = mp_get(result, key);
	size_t n;

	assert_non_null(o);
	n = o->via.bin.size < 2047 ? o->via.bin.size : 2047;
	memcpy(text, o->via.bin.ptr, n);
	text[n] = '\0';
	return text;
}

size_t tr_size(const msgpack_object *result, const char *key)
{
	const msgpack_object *o = mp_get(result, key);

	assert_non_null(o);
	assert_int_equal(o->type, MSGPACK_OBJECT_BIN);
	return o->via.bin.size;
}

uint64_t tr_u64(const msgpack_object *result, const char *key)
{
	const msgpack_object *o = mp_get(result, key);

	assert_non_null(o);
	return o->type == MSGPACK_OBJECT_BOOLEAN ? o->via.boolean : o->via.u64;
}

const msgpack_object *tr_result(struct ta_rig *r)
{
	const msgpack_object *o = answer(r);

	if (o[2].type != MSGPACK_OBJECT_NIL)
		fail_msg("error: %s", tr_text(&o[2], "message"));
	return &o[3];
}

const char *tr_error(struct ta_rig *r, const char *code)
{
	const msgpack_object *o = answer(r);

	assert_int_equal(o[2].type, MSGPACK_OBJECT_MAP);
	assert_string_equal(tr_text(&o[2], "code"), code);
	return tr_text(&o[2], "message");
}

void tr_handler(struct ta_rig *r, const char *script)
{
	tr_file(r, "handler", script, 0755);
	(void)snprintf(r->handler, sizeof(r->handler), "%s/handler", r->dir);
	ta_handler_start(&r->t, r->handler);
}

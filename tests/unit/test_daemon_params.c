/* Tables that check what clients say: parameters and configuration. */
#include "api/daemon/config.h"
#include "api/daemon/methods.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* A msgpack object from packed bytes, for as long as the test lives. */
struct object {
	msgpack_sbuffer buf;
	msgpack_packer p;
	msgpack_unpacked u;
};

static void begin(struct object *o)
{
	msgpack_sbuffer_init(&o->buf);
	msgpack_packer_init(&o->p, &o->buf, msgpack_sbuffer_write);
}

static const msgpack_object *end(struct object *o)
{
	size_t off = 0;

	msgpack_unpacked_init(&o->u);
	assert_int_equal(
		msgpack_unpack_next(&o->u, o->buf.data, o->buf.size, &off),
		MSGPACK_UNPACK_SUCCESS);
	return &o->u.data;
}

static void drop(struct object *o)
{
	msgpack_unpacked_destroy(&o->u);
	msgpack_sbuffer_destroy(&o->buf);
}

static const struct param *params_of(const char *method)
{
	const struct method *m = method_find(method, strlen(method));

	assert_non_null(m);
	return m->params;
}

static void expect_error(const struct param *table,
	const msgpack_object *params, const char *text)
{
	struct args a;
	struct err e = {0};

	assert_int_equal(params_parse(table, params, &a, &e), -EINVAL);
	if (!strstr(e.msg, text))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, text);
}

static void test_defaults(void **state)
{
	const struct param *t = params_of("clone");
	struct object o;
	struct err e = {0};
	struct args a;

	(void)state;
	begin(&o);
	msgpack_pack_array(&o.p, 1);
	msgpack_pack_map(&o.p, 1);
	mp_key_str(&o.p, "template", "web-1");
	assert_int_equal(params_parse(t, end(&o), &a, &e), 0);
	assert_string_equal(a.template, "web-1");
	assert_int_equal(a.count, 1);
	assert_int_equal(a.mode, MODE_ANY);
	assert_int_equal(a.timeout_ms, 10000);
	assert_int_equal(a.vsock.fd, -1);
	assert_null(a.overrides);
	drop(&o);
}

static void test_all_kinds(void **state)
{
	const struct param *t = params_of("machine.create");
	struct object o;
	struct err e = {0};
	struct args a;

	(void)state;
	begin(&o);
	msgpack_pack_array(&o.p, 1);
	msgpack_pack_map(&o.p, 5);
	mp_key_bool(&o.p, "bind", true);
	mp_key_str(&o.p, "vsock", "/tmp/x");
	mp_str(&o.p, "console");
	msgpack_pack_map(&o.p, 1);
	mp_key_u64(&o.p, "fd", 3);
	mp_str(&o.p, "config");
	msgpack_pack_map(&o.p, 0);
	mp_key_u64(&o.p, "timeout_ms", 5);
	assert_int_equal(params_parse(t, end(&o), &a, &e), 0);
	assert_int_equal(a.bind, 1);
	assert_int_equal(a.vsock.path.n, 6);
	assert_int_equal(a.console.fd, 3);
	assert_non_null(a.config);
	assert_int_equal(a.timeout_ms, 5);
	drop(&o);
}

static void one_pair(struct object *o, const char *key)
{
	begin(o);
	msgpack_pack_array(&o->p, 1);
	msgpack_pack_map(&o->p, 1);
	mp_str(&o->p, key);
}

static void test_refused_by_name(void **state)
{
	const struct param *t = params_of("clone");
	static const char *const names[] = {"", "-a", "a/b", "a b", ".."};
	struct object o;

	(void)state;
	expect_error(t, NULL, "\"template\" is missing");
	one_pair(&o, "bogus");
	msgpack_pack_nil(&o.p);
	expect_error(t, end(&o), "unknown parameter \"bogus\"");
	drop(&o);
	one_pair(&o, "count");
	mp_str(&o.p, "many");
	expect_error(t, end(&o), "count: must be a number, not a string");
	drop(&o);
	one_pair(&o, "count");
	msgpack_pack_int64(&o.p, -1);
	expect_error(t, end(&o), "count: -1 is out of range");
	drop(&o);
	one_pair(&o, "mode");
	mp_str(&o.p, "hot");
	expect_error(t, end(&o), "mode: must be one of \"any\"");
	drop(&o);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		one_pair(&o, "template");
		mp_str(&o.p, names[i]);
		expect_error(t, end(&o), "template: ");
		drop(&o);
	}
}

static void test_long_name(void **state)
{
	const struct param *t = params_of("clone");
	char name[64];
	struct object o;

	(void)state;
	memset(name, 'x', sizeof(name));
	name[NAME_LEN] = 0;
	one_pair(&o, "template");
	mp_str(&o.p, name);
	expect_error(t, end(&o), "template: 1 to 48");
	drop(&o);
}

static void test_twice(void **state)
{
	struct object o;

	(void)state;
	begin(&o);
	msgpack_pack_array(&o.p, 1);
	msgpack_pack_map(&o.p, 2);
	mp_key_u64(&o.p, "count", 1);
	mp_key_u64(&o.p, "count", 2);
	expect_error(params_of("clone"), end(&o), "count: given twice");
	drop(&o);
}

static void test_paths(void **state)
{
	const struct param *t = params_of("snapshot.verify");
	struct object o;

	(void)state;
	one_pair(&o, "path");
	mp_str(&o.p, "relative");
	expect_error(t, end(&o), "must begin with '/'");
	drop(&o);
	one_pair(&o, "path");
	mp_strn(&o.p, "/a\0b", 4);
	expect_error(t, end(&o), "zero byte");
	drop(&o);
	one_pair(&o, "path");
	msgpack_pack_map(&o.p, 1);
	mp_key_u64(&o.p, "fd", 65);
	expect_error(t, end(&o), "path: 65 is out of range");
	drop(&o);
}

static void test_params_shape(void **state)
{
	struct object o;

	(void)state;
	begin(&o);
	msgpack_pack_map(&o.p, 0);
	expect_error(NULL, end(&o), "params must be an array");
	drop(&o);
	begin(&o);
	msgpack_pack_array(&o.p, 2);
	msgpack_pack_nil(&o.p);
	msgpack_pack_nil(&o.p);
	expect_error(NULL, end(&o), "params must be an array");
	drop(&o);
	begin(&o);
	msgpack_pack_array(&o.p, 1);
	msgpack_pack_uint64(&o.p, 1);
	expect_error(NULL, end(&o), "not a number");
	drop(&o);
}

/* Every parameter has a name, help, and room for what it holds. */
static void test_tables(void **state)
{
	(void)state;
	for (unsigned i = 0; i < nmethods; i++) {
		const struct param *p = methods[i].params;

		assert_non_null(methods[i].fn);
		assert_non_null(methods[i].help);
		for (; p && p->type; p++) {
			assert_non_null(p->name);
			assert_non_null(p->help);
			assert_true(p->offset < sizeof(struct args));
			if (p->type == PARAM_UINT)
				assert_true(p->max && p->min <= p->max);
			if (p->type == PARAM_CHOICE)
				assert_non_null(p->choices);
		}
		assert_true(!p || p - methods[i].params <= 64);
	}
}

static int parse_config(struct object *o, struct config *c, struct err *e)
{
	memset(e, 0, sizeof(*e));
	return config_parse(end(o), c, e);
}

static void test_config_defaults(void **state)
{
	struct config c;
	struct err e = {0};

	(void)state;
	assert_int_equal(config_parse(NULL, &c, &e), 0);
	assert_int_equal(c.mc.memory, 128 * MIB);
	assert_int_equal(c.mc.cpus, 1);
	assert_int_equal(c.mc.builtin, 1);
	assert_int_equal(c.mc.vsock_cid, 3);
	assert_null(config_labels_json(&c));
}

static void test_config_full(void **state)
{
	struct object o;
	struct config c;
	struct err e;
	char *labels;

	(void)state;
	begin(&o);
	msgpack_pack_map(&o.p, 6);
	mp_key_str(&o.p, "kernel", "/boot/k");
	mp_key_str(&o.p, "cmdline", "console=ttyS0");
	mp_key_str(&o.p, "memory", "4G");
	mp_key_u64(&o.p, "cpus", 4);
	mp_str(&o.p, "devices");
	msgpack_pack_array(&o.p, 1);
	msgpack_pack_map(&o.p, 2);
	mp_key_str(&o.p, "type", "vsock");
	mp_key_u64(&o.p, "cid", 99);
	mp_str(&o.p, "labels");
	msgpack_pack_map(&o.p, 1);
	mp_key_str(&o.p, "app", "re\"size");
	assert_int_equal(parse_config(&o, &c, &e), 0);
	assert_int_equal(c.mc.memory, 4 * GIB);
	assert_int_equal(c.mc.builtin, 0);
	assert_string_equal(c.mc.kernel, "/boot/k");
	assert_string_equal(c.mc.cmdline, "console=ttyS0");
	assert_int_equal(c.mc.vsock_cid, 99);
	labels = config_labels_json(&c);
	assert_string_equal(labels, "{\"app\":\"re\\\"size\"}");
	free(labels);
	drop(&o);
}

static void expect_config(struct object *o, int code, const char *path)
{
	struct config c;
	struct err e;

	assert_int_equal(parse_config(o, &c, &e), code);
	if (strncmp(e.msg, path, strlen(path)) != 0)
		fail_msg("\"%s\" does not begin with \"%s\"", e.msg, path);
	drop(o);
}

static void test_config_refused(void **state)
{
	static const char *const sizes[] = {"1M", "33M", "x", "2048G", "-1",
		"128MB", "99999999999999999999"};
	struct object o;

	(void)state;
	begin(&o);
	msgpack_pack_map(&o.p, 1);
	mp_key_str(&o.p, "meory", "4G");
	expect_config(&o, -EINVAL, "meory: unknown key");
	begin(&o);
	msgpack_pack_map(&o.p, 1);
	mp_key_str(&o.p, "initrd", "/x");
	expect_config(&o, -EINVAL, "initrd: ");
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		begin(&o);
		msgpack_pack_map(&o.p, 1);
		mp_key_str(&o.p, "memory", sizes[i]);
		expect_config(&o, -EINVAL, "memory: ");
	}
	begin(&o);
	msgpack_pack_map(&o.p, 1);
	mp_key_u64(&o.p, "cpus", 33);
	expect_config(&o, -EINVAL, "cpus: 33 is out of range");
}

static void test_config_devices(void **state)
{
	static const struct {
		const char *type;
		int code;
		const char *path;
	} cases[] = {
		{"block", -EINVAL, "devices[1].path: is missing"},
		{"nothing", -EINVAL, "devices[1].type: no such device"},
		{"vsock", -EINVAL, "devices[1]: a machine has one"},
	};
	struct object o;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		begin(&o);
		msgpack_pack_map(&o.p, 1);
		mp_str(&o.p, "devices");
		msgpack_pack_array(&o.p, 2);
		msgpack_pack_map(&o.p, 1);
		mp_key_str(&o.p, "type", "vsock");
		msgpack_pack_map(&o.p, 1);
		mp_key_str(&o.p, "type", cases[i].type);
		expect_config(&o, cases[i].code, cases[i].path);
	}
	begin(&o);
	msgpack_pack_map(&o.p, 1);
	mp_str(&o.p, "devices");
	msgpack_pack_array(&o.p, 1);
	msgpack_pack_map(&o.p, 0);
	expect_config(&o, -EINVAL, "devices[0].type: is missing");
}

static void test_ready(void **state)
{
	struct object o;
	struct ready r;
	struct err e = {0};

	(void)state;
	assert_int_equal(ready_parse(NULL, &r, &e), 0);
	assert_int_equal(r.kind, 0);
	begin(&o);
	mp_str(&o.p, "agent");
	assert_int_equal(ready_parse(end(&o), &r, &e), 0);
	assert_int_equal(r.kind, CTL_READY_AGENT);
	drop(&o);
	begin(&o);
	msgpack_pack_map(&o.p, 1);
	mp_key_str(&o.p, "text", "login:");
	assert_int_equal(ready_parse(end(&o), &r, &e), 0);
	assert_int_equal(r.kind, CTL_READY_TEXT);
	assert_string_equal(r.text, "login:");
	drop(&o);
	begin(&o);
	msgpack_pack_map(&o.p, 1);
	mp_key_u64(&o.p, "seconds", 2);
	assert_int_equal(ready_parse(end(&o), &r, &e), 0);
	assert_int_equal(r.after_ms, 2000);
	drop(&o);
	begin(&o);
	msgpack_pack_map(&o.p, 1);
	mp_str(&o.p, "seconds");
	(void)msgpack_pack_double(&o.p, 0.25);
	assert_int_equal(ready_parse(end(&o), &r, &e), 0);
	assert_int_equal(r.after_ms, 250);
	drop(&o);
	begin(&o);
	msgpack_pack_map(&o.p, 1);
	mp_str(&o.p, "seconds");
	(void)msgpack_pack_double(&o.p, 3600.5);
	assert_int_equal(ready_parse(end(&o), &r, &e), -EINVAL);
	drop(&o);
	begin(&o);
	mp_str(&o.p, "soon");
	assert_int_equal(ready_parse(end(&o), &r, &e), -EINVAL);
	drop(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_all_kinds),
		cmocka_unit_test(test_refused_by_name),
		cmocka_unit_test(test_long_name),
		cmocka_unit_test(test_twice),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_params_shape),
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_config_defaults),
		cmocka_unit_test(test_config_full),
		cmocka_unit_test(test_config_refused),
		cmocka_unit_test(test_config_devices),
		cmocka_unit_test(test_ready),
	};

	return cmocka_run_group_tests_name("daemon_params", tests, NULL, NULL);
}

/* Files of the daemon: the store of templates, and what clients name. */
#include "api/daemon/peerfile.h"
#include "api/daemon/store.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct fixture {
	char dir[64];
	char path[256];
	int store;
};

static const char *in_dir(struct fixture *f, const char *name)
{
	(void)snprintf(f->path, sizeof(f->path), "%s/%s", f->dir, name);
	return f->path;
}

static bool exists(struct fixture *f, const char *name)
{
	return access(in_dir(f, name), F_OK) == 0;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err e = {0};

	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/thaw-store-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->store = store_open(f->dir, &e);
	*state = f;
	return f->store < 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	char cmd[100];

	(void)close(f->store);
	(void)snprintf(cmd, sizeof(cmd), "rm -rf %s", f->dir);
	free(f);
	return system(cmd);
}

static void count(void *arg, const char *name)
{
	(void)name;
	++*(unsigned *)arg;
}

static void make(struct fixture *f, const char *name, const char *text)
{
	char labels[] = "{\"a\":\"b\"}";
	struct store_meta meta = {.labels = labels, .pool = 7, .created = 12};
	struct store_new n;
	struct err e = {0};
	int fd;

	assert_int_equal(store_begin(f->store, name, &n, &fd, &e), 0);
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
	(void)close(fd);
	assert_int_equal(store_commit(f->store, &n, &meta, &e), 0);
	store_abort(f->store, &n);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	struct store_meta meta;
	struct err e = {0};
	char text[8] = "";
	unsigned n = 0;
	int fd;

	make(f, "web", "snap");
	assert_int_equal(store_list(f->store, count, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(store_load(f->store, "web", &meta, &fd, &e), 0);
	assert_int_equal(meta.pool, 7);
	assert_int_equal(meta.created, 12);
	assert_string_equal(meta.labels, "{\"a\":\"b\"}");
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	assert_string_equal(text, "snap");
	free(meta.labels);
	(void)close(fd);
	store_remove(f->store, "web");
	assert_false(exists(f, "templates/web"));
	assert_false(exists(f, "templates/.new-web"));
}

static void test_name_taken(void **state)
{
	struct fixture *f = *state;
	struct store_new n;
	struct err e = {0};
	int fd;

	make(f, "web", "snap");
	assert_int_equal(store_begin(f->store, "web", &n, &fd, &e), -EEXIST);
	store_abort(f->store, &n);
	assert_true(exists(f, "templates/web/snapshot.thaw"));
}

static void test_abort(void **state)
{
	struct fixture *f = *state;
	struct store_new n;
	struct err e = {0};
	int fd;

	assert_int_equal(store_begin(f->store, "web", &n, &fd, &e), 0);
	assert_true(exists(f, "templates/.new-web/snapshot.thaw"));
	(void)close(fd);
	store_abort(f->store, &n);
	assert_false(exists(f, "templates/.new-web"));
	store_abort(f->store, &n);
}

/* A daemon that died at any moment leaves ".new-" directories behind. */
static void test_leftovers(void **state)
{
	struct fixture *f = *state;
	struct store_new n;
	struct err e = {0};
	unsigned found = 0;
	int fd;

	make(f, "web", "snap");
	assert_int_equal(store_begin(f->store, "half", &n, &fd, &e), 0);
	(void)close(fd);
	(void)close(n.dir);
	(void)close(f->store);
	f->store = store_open(f->dir, &e);
	assert_true(f->store >= 0);
	assert_false(exists(f, "templates/.new-half"));
	assert_int_equal(store_list(f->store, count, &found), 0);
	assert_int_equal(found, 1);
}

/* Damage in one template is an error of that template. */
static void test_damaged(void **state)
{
	static const char *const bad[] = {"", "{", "[]", "\xff\xff"};
	struct fixture *f = *state;
	struct store_meta meta;
	struct err e = {0};
	int fd;

	make(f, "web", "snap");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		fd = open(in_dir(f, "templates/web/template.json"),
			O_WRONLY | O_TRUNC);
		assert_int_equal(write_full(fd, bad[i], strlen(bad[i])), 0);
		(void)close(fd);
		assert_int_equal(
			store_load(f->store, "web", &meta, &fd, &e), -EBADMSG);
	}
	assert_int_equal(unlink(f->path), 0);
	assert_int_equal(store_load(f->store, "web", &meta, &fd, &e), -ENOENT);
}

static void test_copy(void **state)
{
	struct fixture *f = *state;
	char *data = malloc(300000), *back = malloc(300000);
	struct err e = {0};
	int from, to;

	for (int i = 0; i < 300000; i++)
		data[i] = (char)(i * 7);
	from = open(in_dir(f, "from"), O_RDWR | O_CREAT, 0600);
	to = open(in_dir(f, "to"), O_RDWR | O_CREAT, 0600);
	assert_int_equal(write_full(from, data, 300000), 0);
	assert_int_equal(store_copy(from, to, &e), 0);
	assert_int_equal(pread_full(to, back, 300000, 0), 0);
	assert_memory_equal(data, back, 300000);
	(void)close(from);
	(void)close(to);
	free(data);
	free(back);
}

/* A request of a client that is this process, or of another uid. */
struct peer {
	struct daemon d;
	struct conn c;
	struct request r;
	int other;
};

static void peer_open(struct peer *p, uid_t uid)
{
	int pair[2];

	memset(p, 0, sizeof(*p));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	p->c.fd = pair[0];
	p->other = pair[1];
	p->c.peer = (struct ucred){.pid = 1, .uid = uid, .gid = uid};
	p->r.conn = &p->c;
	p->r.d = &p->d;
}

static void peer_close(struct peer *p)
{
	(void)close(p->c.fd);
	(void)close(p->other);
}

static int open_path(struct peer *p, const char *path, struct err *e)
{
	struct path_arg arg = {.path = {path, strlen(path)}, .fd = -1};

	return peerfile_read(&p->d, &p->r, "path", &arg, e);
}

static void write_file(struct fixture *f, const char *name, mode_t mode)
{
	int fd = open(in_dir(f, name), O_WRONLY | O_CREAT, 0600);

	assert_int_equal(write_full(fd, "x", 1), 0);
	assert_int_equal(fchmod(fd, mode), 0);
	(void)close(fd);
}

static void test_rights_of_the_client(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	struct peer p;
	int fd;

	if (geteuid() != 0)
		skip();
	assert_int_equal(chmod(f->dir, 0755), 0);
	write_file(f, "secret", 0600);
	peer_open(&p, 65534);
	assert_int_equal(open_path(&p, in_dir(f, "secret"), &e), -EACCES);
	/* And we have our own back. */
	fd = open(f->path, O_RDONLY);
	assert_true(fd >= 0);
	(void)close(fd);
	write_file(f, "public", 0644);
	fd = open_path(&p, in_dir(f, "public"), &e);
	assert_true(fd >= 0);
	(void)close(fd);
	peer_close(&p);
	peer_open(&p, 0);
	fd = open_path(&p, in_dir(f, "secret"), &e);
	assert_true(fd >= 0);
	(void)close(fd);
	peer_close(&p);
}

static void test_only_regular_files(void **state)
{
	struct fixture *f = *state;
	struct err e = {0};
	struct peer p;

	peer_open(&p, geteuid());
	assert_int_equal(open_path(&p, f->dir, &e), -EINVAL);
	assert_int_equal(open_path(&p, "/dev/null", &e), -EINVAL);
	assert_int_equal(mkfifo(in_dir(f, "fifo"), 0600), 0);
	assert_int_equal(open_path(&p, f->path, &e), -EINVAL);
	assert_int_equal(open_path(&p, in_dir(f, "none"), &e), -ENOENT);
	/* A magic link leads to files that the path does not name. */
	assert_int_equal(open_path(&p, "/proc/self/exe", &e), -ELOOP);
	peer_close(&p);
}

static void test_allowed_directories(void **state)
{
	struct fixture *f = *state;
	char allowed[256], link[300];
	char *list[1] = {allowed};
	struct err e = {0};
	struct peer p;
	int fd;

	(void)snprintf(allowed, sizeof(allowed), "%s/in", f->dir);
	assert_int_equal(mkdir(allowed, 0755), 0);
	write_file(f, "in/file", 0644);
	write_file(f, "out", 0644);
	(void)snprintf(link, sizeof(link), "%s/link", allowed);
	assert_int_equal(symlink("../out", link), 0);
	peer_open(&p, geteuid());
	p.d.opt.allow = list;
	p.d.opt.nallow = 1;
	fd = open_path(&p, in_dir(f, "in/file"), &e);
	assert_true(fd >= 0);
	(void)close(fd);
	assert_int_equal(open_path(&p, in_dir(f, "out"), &e), -EACCES);
	assert_int_equal(open_path(&p, in_dir(f, "in/link"), &e), -EACCES);
	assert_int_equal(open_path(&p, in_dir(f, "in/../out"), &e), -EACCES);
	/* "/x/inside" is not below "/x/in" */
	write_file(f, "inside", 0644);
	assert_int_equal(open_path(&p, in_dir(f, "inside"), &e), -EACCES);
	peer_close(&p);
}

static void test_descriptors(void **state)
{
	struct fixture *f = *state;
	struct path_arg arg = {.fd = 0};
	struct err e = {0};
	struct peer p;
	int fd;

	write_file(f, "file", 0600);
	peer_open(&p, geteuid());
	assert_int_equal(peerfile_read(&p.d, &p.r, "path", &arg, &e), -EINVAL);
	p.r.fds[0] = open(in_dir(f, "file"), O_WRONLY);
	p.r.nfds = 1;
	assert_int_equal(peerfile_read(&p.d, &p.r, "path", &arg, &e), -EACCES);
	p.r.fds[0] = open(in_dir(f, "file"), O_RDONLY);
	fd = peerfile_read(&p.d, &p.r, "path", &arg, &e);
	assert_true(fd >= 0);
	/* It is taken once. */
	assert_int_equal(peerfile_read(&p.d, &p.r, "path", &arg, &e), -EINVAL);
	(void)close(fd);
	peer_close(&p);
}

static void test_parent(void **state)
{
	struct fixture *f = *state;
	struct text t = {.p = in_dir(f, "new.thaw"), .n = strlen(f->path)};
	struct err e = {0};
	char name[256];
	struct peer p;
	int fd;

	peer_open(&p, geteuid());
	fd = peerfile_parent(&p.d, &p.c.peer, p.c.fd, &t, name, &e);
	assert_true(fd >= 0);
	assert_string_equal(name, "new.thaw");
	(void)close(fd);
	t = (struct text){"/tmp/", 5};
	assert_int_equal(peerfile_parent(&p.d, &p.c.peer, p.c.fd, &t, name, &e),
		-EINVAL);
	t = (struct text){"/tmp/..", 7};
	assert_int_equal(peerfile_parent(&p.d, &p.c.peer, p.c.fd, &t, name, &e),
		-EINVAL);
	peer_close(&p);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_round_trip),
		TEST(test_name_taken),
		TEST(test_abort),
		TEST(test_leftovers),
		TEST(test_damaged),
		TEST(test_copy),
		TEST(test_rights_of_the_client),
		TEST(test_only_regular_files),
		TEST(test_allowed_directories),
		TEST(test_descriptors),
		TEST(test_parent),
	};

	return cmocka_run_group_tests_name("daemon_store", tests, NULL, NULL);
}

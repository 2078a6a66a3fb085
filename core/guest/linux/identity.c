/*
 * identity: the machine becomes another one. Entropy first, because what
 * follows (boot_id, the handler's own generators) draws on it; acknowledged
 * when all of it is in place. Every step may be asked for alone, and none is
 * taken that was not asked for.
 */
#include "core/guest/linux/agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_SEED  512u
#define STATE_DIR "/run/thaw"
/* A message that is later than that is no message about this TSC. */
#define MAX_LATE_MS  3600000u
#define CLOCK_OFF_NS 2000000u
#define CLOCK_TRIES  10

/* ---- the running system ---- */

static int add_entropy(const void *p, size_t n)
{
	/* struct rand_pool_info: two ints, then the bytes */
	uint32_t pool[2 + MAX_SEED / 4];
	AUTO_FD fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	int r = 0;

	_Static_assert(sizeof(struct rand_pool_info) == 8, "head of the pool");
	if (fd < 0)
		return -errno;
	pool[0] = (uint32_t)n * 8; /* bits of entropy */
	pool[1] = (uint32_t)n;
	memcpy(pool + 2, p, n);
	if (ioctl(fd, RNDADDENTROPY, pool) || ioctl(fd, RNDRESEEDCRNG))
		r = -errno;
	explicit_bzero(pool, sizeof(pool));
	return r;
}

static int set_clock(uint64_t ns)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(ns / 1000000000ULL),
		.tv_nsec = (long)(ns % 1000000000ULL),
	};

	return clock_settime(CLOCK_REALTIME, &ts) ? -errno : 0;
}

static int set_hostname(const char *name)
{
	return sethostname(name, strlen(name)) ? -errno : 0;
}

static int bind_file(const char *from, const char *to)
{
	return mount(from, to, NULL, MS_BIND, NULL) ? -errno : 0;
}

/* As process 1 the loop's end is the machine's; else the system's own. */
static int poweroff(struct ta *t)
{
	static char *const argv[] = {(char *)(uintptr_t) "poweroff", NULL};
	const struct ta_spawn s = {.argv = argv, .out_fd = STDERR_FILENO};
	struct err e;
	int none[3];
	pid_t pid;

	if (t->init) {
		t->done = true;
		return 0;
	}
	pid = ta_spawn(&s, none, &e);
	return pid < 0 ? (int)pid : 0;
}

const struct ta_sys ta_sys_linux = {
	.entropy = add_entropy,
	.set_clock = set_clock,
	.set_hostname = set_hostname,
	.bind = bind_file,
	.find_netif = ta_netif_find,
	.netif = ta_netif_set,
	.poweroff = poweroff,
};

/* ---- files that say who the machine is ---- */

static int write_file(const char *path, const char *text, bool create)
{
	AUTO_FD fd = open(path,
		O_WRONLY | O_TRUNC | O_CLOEXEC | (create ? O_CREAT : 0), 0444);

	return fd < 0 ? -errno : write_full(fd, text, strlen(text));
}

/* Put text in our state directory, and the file over another one. */
static int write_over(
	struct ta *t, const char *name, const char *over, const char *text)
{
	char from[256];
	int r;

	(void)snprintf(from, sizeof(from), "%s" STATE_DIR, t->root);
	if (mkdir(from, 0755) && errno != EEXIST)
		return -errno;
	(void)snprintf(from, sizeof(from), "%s" STATE_DIR "/%s", t->root, name);
	r = write_file(from, text, true);
	return r ? r : t->sys->bind(from, over);
}

static int set_machine_id(struct ta *t, const uint8_t *id, struct err *e)
{
	char path[256], text[34];
	int r;

	for (int i = 0; i < 16; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", id[i]);
	memcpy(t->machine_id, text, 33);
	memcpy(text + 32, "\n", 2);
	(void)snprintf(path, sizeof(path), "%s/etc/machine-id", t->root);
	r = write_file(path, text, true);
	if (r == -EROFS || r == -EACCES || r == -EPERM || r == -ENOSPC)
		r = write_over(t, "machine-id", path, text);
	/* A read-only system without the file has nobody who reads it. */
	if (r == -ENOENT)
		r = 0;
	return r ? err_sys(e, r, "%s", path) : 0;
}

/* The kernel keeps its boot_id for ever, so ours stands in front of it; a
 * second identity finds ours in place and only rewrites it. */
static int set_boot_id(struct ta *t, struct err *e)
{
	uint8_t u[16];
	char path[256], text[40];
	bool bound = t->boot_id[0];
	int r;

	if (getrandom(u, sizeof(u), 0) != (ssize_t)sizeof(u))
		return err_sys(e, -errno, "getrandom");
	u[6] = (uint8_t)((u[6] & 0x0f) | 0x40);
	u[8] = (uint8_t)((u[8] & 0x3f) | 0x80);
	(void)snprintf(text, sizeof(text),
		"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
		"%02x%02x%02x%02x%02x%02x\n",
		u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9],
		u[10], u[11], u[12], u[13], u[14], u[15]);
	(void)snprintf(path, sizeof(path), "%s%s", t->root,
		bound ? STATE_DIR "/boot_id"
		      : "/proc/sys/kernel/random/boot_id");
	r = bound ? write_file(path, text, false)
		  : write_over(t, "boot_id", path, text);
	if (r)
		return err_sys(e, r, "%s", path);
	memcpy(t->boot_id, text, 36);
	return 0;
}

/* ---- parameters ---- */

static int set_entropy(
	struct ta *t, const msgpack_object *params, struct err *e)
{
	const void *p;
	size_t n;
	int r = ta_get_bytes(params, "seed", &p, &n, e);

	if (r || !p)
		return r;
	if (n > MAX_SEED)
		return err_set(
			e, -EINVAL, "seed has %u bytes at most", MAX_SEED);
	r = t->sys->entropy(p, n);
	/* Wiped where it lay, in the connection's buffer. */
	explicit_bzero((void *)(uintptr_t)p, n);
	return r ? err_sys(e, r, "seeding the kernel's generator") : 0;
}

/* With the TSC at the time that was sent, what has passed since is known. */
static uint64_t passed_ns(uint64_t tsc, uint64_t khz)
{
#ifdef __x86_64__
	uint64_t ticks = __builtin_ia32_rdtsc() - tsc;

	/* In two parts: ticks * 10^6 would overflow after two hours. */
	if (khz && ticks / khz < MAX_LATE_MS)
		return ticks / khz * 1000000 + ticks % khz * 1000000 / khz;
#else
	(void)tsc;
	(void)khz;
#endif
	return 0;
}

static int set_wall(struct ta *t, const msgpack_object *params, struct err *e)
{
	uint64_t wall = 0, tsc = 0, khz = 0;
	int r = ta_get_u64(params, "wall_ns", INT64_MAX, &wall, e);

	if (!r)
		r = ta_get_u64(params, "tsc", UINT64_MAX, &tsc, e);
	if (!r)
		r = ta_get_u64(params, "tsc_khz", UINT32_MAX, &khz, e);
	if (r || !wall)
		return r;
	/* Once more when we were not running between looking and setting. */
	for (int i = 0; i < CLOCK_TRIES && !r; i++) {
		uint64_t late = passed_ns(tsc, khz);

		r = t->sys->set_clock(wall + late);
		if (passed_ns(tsc, khz) - late < CLOCK_OFF_NS)
			break;
	}
	return r ? err_sys(e, r, "setting the clock") : 0;
}

static int set_name(struct ta *t, const msgpack_object *params, struct err *e)
{
	char name[sizeof(t->hostname)];
	int r = ta_get_text(params, "hostname", name, sizeof(name), e);

	if (r || !name[0])
		return r;
	r = t->sys->set_hostname(name);
	if (r)
		return err_sys(e, r, "setting the hostname");
	memcpy(t->hostname, name, sizeof(name));
	return 0;
}

/* ---- methods ---- */

void ta_identity_done(struct ta *t, const struct ta_req *q)
{
	msgpack_packer pk;

	if (!ta_result(t, q, 4, &pk))
		return;
	mp_key_str(&pk, "hostname", t->hostname);
	mp_key_str(&pk, "machine_id", t->machine_id);
	mp_key_str(&pk, "boot_id", t->boot_id);
	mp_key_u64(&pk, "addresses", t->addresses);
	ta_result_end(t, q);
}

int ta_identity(struct ta *t, const struct ta_req *q,
	const msgpack_object *params, struct err *e)
{
	const void *id = NULL;
	size_t n = 0;
	int r;

	if (t->h.id_waits)
		return err_set(e, -EBUSY, "an identity is being applied");
	r = ta_get_bytes(params, "machine_id", &id, &n, e);
	if (!r && id && n != 16)
		r = err_set(e, -EINVAL, "machine_id must be 16 bytes");
	if (!r)
		r = set_entropy(t, params, e);
	if (!r)
		r = set_wall(t, params, e);
	if (!r)
		r = set_name(t, params, e);
	if (!r && id)
		r = set_machine_id(t, id, e);
	if (!r && id)
		r = set_boot_id(t, e);
	if (!r)
		r = ta_netifs(t, params, e);
	if (!r)
		ta_handler_identity(t, q);
	return r;
}

/* Only the time, when a machine that was parked goes on: the host sends it
 * ahead of the first request, so that it is set before that is looked at. */
int ta_clock(struct ta *t, const struct ta_req *q, const msgpack_object *params,
	struct err *e)
{
	msgpack_packer pk;
	int r = set_wall(t, params, e);

	if (r)
		return r;
	if (ta_result(t, q, 0, &pk))
		ta_result_end(t, q);
	return 0;
}

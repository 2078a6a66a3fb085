#include "api/daemon/info.h"

#include "api/daemon/admit.h"
#include "api/daemon/methods.h"
#include "api/daemon/spawn.h"
#include "api/version.h"
#include "core/log.h"

#include <errno.h>
#include <poll.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>

/*
 * The daemon never opens /dev/kvm: "thaw-machine --probe" prints one line
 * "name: value" per fact.
 */

static void read_cpu(struct host *h)
{
	char buf[4096], *at, *end;
	int fd = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		(void)close(fd);
	(void)snprintf(h->cpu, sizeof(h->cpu), "unknown");
	if (n <= 0)
		return;
	buf[n] = 0;
	at = strstr(buf, "model name");
	at = at ? strchr(at, ':') : NULL;
	end = at ? strchr(at, '\n') : NULL;
	if (end)
		(void)snprintf(h->cpu, sizeof(h->cpu), "%.*s",
			(int)min_u64((uint64_t)(end - at - 2), 63), at + 2);
}

/* A probe that takes longer is answered for by "not probed yet". */
#define PROBE_NS 2000000000ULL

void info_init(struct daemon *d)
{
	char exe[] = "thaw-machine", arg[] = "--probe";
	char *const argv[] = {exe, arg, NULL};
	struct host *h = &d->host;
	struct sysinfo si;
	struct utsname u;
	int out[2], pidfd = -1;

	h->fd = -1;
	h->on.type = EV_PROBE;
	(void)snprintf(h->kind, sizeof(h->kind), "none");
	(void)snprintf(h->kvm, sizeof(h->kvm), "not probed yet");
	if (uname(&u) == 0)
		(void)snprintf(
			h->kernel, sizeof(h->kernel), "%.79s", u.release);
	if (sysinfo(&si) == 0)
		h->memory_total = (uint64_t)si.totalram * si.mem_unit;
	h->cpus = (unsigned)get_nprocs();
	read_cpu(h);
	if (pipe2(out, O_CLOEXEC | O_NONBLOCK))
		return;
	h->pid = spawn(d, argv, out[1], -1, false, &pidfd);
	(void)close(out[1]);
	if (pidfd >= 0)
		(void)close(pidfd);
	h->fd = out[0];
	if (h->pid < 0 || loop_add(&d->loop, h->fd, EPOLLIN,
				  (union ev_ref){.ptr = &h->on}))
		info_fini(d);
}

void info_fini(struct daemon *d)
{
	if (d->host.fd < 0)
		return;
	loop_del(&d->loop, d->host.fd);
	(void)close(d->host.fd);
	d->host.fd = -1;
	if (d->host.pid > 0)
		proc_remember(d, d->host.pid);
}

/* The value of "name: value", copied as printable text. */
static bool line_value(
	const char *text, const char *name, char *out, size_t size)
{
	size_t len = strlen(name), n = 0;

	for (const char *at = text; at && *at;) {
		const char *next = strchr(at, '\n');

		if (!strncmp(at, name, len) && at[len] == ':') {
			for (at += len + 2; *at >= 0x20 && n + 1 < size; at++)
				out[n++] = *at;
			out[n] = 0;
			return true;
		}
		at = next ? next + 1 : NULL;
	}
	return false;
}

static void probed(struct daemon *d)
{
	struct host *h = &d->host;
	char value[300];

	h->text[h->len] = 0;
	/* "software (kvm-pvm)": the first word is what clients are told. */
	if (line_value(h->text, "kind", value, sizeof(value)) &&
		(!strncmp(value, "hardware", 8) ||
			!strncmp(value, "software", 8)))
		(void)snprintf(h->kind, sizeof(h->kind), "%.8s", value);
	if (line_value(h->text, "reason", value, sizeof(value)))
		(void)snprintf(h->kvm, sizeof(h->kvm), "%.299s", value);
	else if (line_value(h->text, "usable", value, sizeof(value)) &&
		 !strcmp(value, "yes"))
		(void)snprintf(h->kvm, sizeof(h->kvm), "usable");
	else
		(void)snprintf(h->kvm, sizeof(h->kvm),
			"thaw-machine --probe said nothing");
	log_debug("host: %s KVM, %s", h->kind, h->kvm);
}

void info_event(struct daemon *d)
{
	struct host *h = &d->host;
	ssize_t n = 1;

	while (n > 0 && h->len < sizeof(h->text) - 1) {
		n = read(h->fd, h->text + h->len, sizeof(h->text) - 1 - h->len);
		if (n > 0)
			h->len += (size_t)n;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	probed(d);
	info_fini(d);
}

void info_wait(struct daemon *d)
{
	struct pollfd pfd = {.events = POLLIN};
	uint64_t until = now_ns() + PROBE_NS, now;

	while (d->host.fd >= 0 && (now = now_ns()) < until) {
		pfd.fd = d->host.fd;
		if (poll(&pfd, 1, (int)((until - now) / 1000000) + 1) < 0 &&
			errno != EINTR)
			return;
		info_event(d);
	}
}

static void pack_host(struct daemon *d, msgpack_packer *p)
{
	const struct host *h = &d->host;

	mp_str(p, "host");
	(void)msgpack_pack_map(p, 7);
	mp_key_str(p, "kind", h->kind);
	mp_key_str(p, "kernel", h->kernel);
	mp_key_str(p, "cpu", h->cpu);
	mp_key_u64(p, "cpus", h->cpus);
	mp_key_u64(p, "memory_total", h->memory_total);
	mp_key_u64(p, "memory_available", admit_available(d));
	mp_key_str(p, "kvm", h->kvm);
}

static void pack_limits(struct daemon *d, msgpack_packer *p)
{
	mp_str(p, "limits");
	(void)msgpack_pack_map(p, 6);
	mp_key_u64(p, "max_machines", d->opt.max_machines);
	mp_key_u64(p, "max_per_template", d->opt.max_per_template);
	mp_key_u64(p, "min_available", d->opt.min_available);
	mp_key_u64(p, "max_request", RPC_MAX_REQUEST);
	mp_key_u64(p, "max_payload", RPC_MAX_PAYLOAD);
	mp_key_u64(p, "max_inflight", CONN_MAX_INFLIGHT);
}

int info_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	msgpack_packer *p = request_begin(r);

	(void)a;
	(void)e;
	(void)msgpack_pack_map(p, 8);
	mp_key_str(p, "version", THAW_VERSION);
	mp_key_str(p, "format", "1.0");
	mp_key_u64(p, "pid", (uint64_t)getpid());
	mp_key_u64(p, "uptime_ms", (now_ns() - d->started) / 1000000);
	mp_key_str(p, "socket", d->opt.socket);
	mp_key_str(p, "state_dir", d->opt.state_dir);
	pack_host(d, p);
	pack_limits(d, p);
	request_end(r);
	return 0;
}

int metrics_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	msgpack_packer *p = request_begin(r);
	unsigned parked = 0;
	uint64_t absent;

	(void)a;
	(void)e;
	list_for_each(it, &d->templates) parked +=
		container_of(it, struct template, all)->nparked;
	(void)msgpack_pack_map(p, 3);
	absent = feed_count(d);
	metrics_pack_counters(&d->metrics, p);
	mp_str(p, "gauges");
	(void)msgpack_pack_map(p, 9);
	mp_key_u64(p, "machines", d->nmachines);
	mp_key_u64(p, "machines_ended", d->nended);
	mp_key_u64(p, "templates", d->ntemplates);
	mp_key_u64(p, "parked", parked);
	mp_key_u64(p, "connections", d->nconns);
	mp_key_u64(p, "active_requests", d->active);
	mp_key_u64(p, "memory_available", admit_available(d));
	mp_key_u64(p, "memory_reserved", d->adm.reserved);
	mp_key_u64(p, "pager_pages_absent", absent);
	metrics_pack_histograms(&d->metrics, p);
	request_end(r);
	return 0;
}

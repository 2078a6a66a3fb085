#include "api/machine/alone.h"

#include "api/machine/worker.h"
#include "core/serial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* vCPU thread; a terminal that is gone is no reason to stop the guest. */
static void to_stdout(void *arg, const void *data, size_t len)
{
	(void)arg;
	if (write(STDOUT_FILENO, data, len) < 0)
		return;
}

static void agent_ready(void *arg, int status, const msgpack_object *result,
	const struct err *e)
{
	const struct worker *w = arg;

	(void)result;
	if (status)
		fprintf(stderr, "thaw-machine: agent: %s\n", e->msg);
	else
		fprintf(stderr, "thaw-machine: agent ready after %llu us\n",
			(unsigned long long)((now_ns() - w->born) / 1000));
}

static int boot(
	struct worker *w, struct machine_config *cfg, int kernel, struct err *e)
{
	int r = kvm_open("/dev/kvm", &w->kvm, e);

	if (!r && kernel >= 0)
		r = machine_probe_kernel(cfg, kernel, e);
	if (!r)
		r = machine_init(&w->m, cfg, e);
	if (r)
		return r;
	w->have_machine = true;
	r = mem_create(&w->m.mem, cfg->memory, MEM_PRIVATE, -1, e);
	if (!r)
		r = machine_boot(&w->m, kernel, -1, e);
	if (!r)
		r = worker_new_identity(w, NULL, e);
	if (!r)
		r = worker_realize(w, e);
	if (r)
		return r;
	serial_set_output(&w->m, to_stdout, NULL);
	if (w->agent) {
		r = agent_ping(w->agent, 60000000000ULL, agent_ready, w);
		if (r)
			return err_sys(e, r, "calling the agent");
	}
	return machine_resume(&w->m, e);
}

int alone_run(const char *kernel_path, const char *cmdline)
{
	struct machine_config cfg = {.memory = 128 * MIB,
		.cpus = 1,
		.vsock_cid = 3,
		.builtin = !kernel_path};
	struct worker *w = malloc(sizeof(*w));
	AUTO_FD kernel = -1;
	struct err e = {0};
	int code = 1;

	if (!w)
		return 1;
	worker_init(w, -1);
	(void)snprintf(cfg.kernel, sizeof(cfg.kernel), "%s",
		kernel_path ? kernel_path : "builtin");
	(void)snprintf(cfg.cmdline, sizeof(cfg.cmdline), "%s", cmdline);
	if (kernel_path) {
		kernel = open(kernel_path, O_RDONLY | O_CLOEXEC);
		if (kernel < 0) {
			err_sys(&e, -errno, "opening %s", kernel_path);
			goto out;
		}
	}
	if (!boot(w, &cfg, kernel, &e))
		code = worker_run(w);
out:
	if (e.code)
		fprintf(stderr, "thaw-machine: %s\n", e.msg);
	else if (w->m.end.kind != MACHINE_END_NONE)
		fprintf(stderr, "thaw-machine: guest ended: %s\n",
			w->m.end.text);
	worker_fini(w);
	free(w);
	return code;
}

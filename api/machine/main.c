#include "api/machine/worker.h"

#include "api/machine/alone.h"
#include "api/version.h"
#include "core/kvm.h"
#include "core/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static const char usage[] =
	"usage: thaw-machine --ctl | --boot [KERNEL [CMDLINE]] | --probe |\n"
	"                    --version | --help\n"
	"\n"
	"One machine, or one zygote, of thaw. Started by thawd, which talks to "
	"it\n"
	"over a control socket.\n"
	"\n"
	"  --ctl      serve the control socket that is descriptor 3\n"
	"  --boot     boot KERNEL (default: the built-in guest) with its "
	"console\n"
	"             on stdout, for debugging\n"
	"  --probe    print what KVM on this host offers, one line each\n"
	"  --version  print the version\n";

static bool is_control_socket(int fd)
{
	socklen_t len = sizeof(int);
	int type = 0;

	return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) &&
	       type == SOCK_SEQPACKET;
}

/* One "name: value" per line; exit code 4 when the host cannot. */
static int probe(void)
{
	struct kvm_host h = {.fd = -1};
	struct err e = {0};
	int r = kvm_open("/dev/kvm", &h, &e);

	printf("kind: %s\n", kvm_kind_name(r ? KVM_KIND_NONE : h.kind));
	printf("usable: %s\n", r ? "no" : "yes");
	if (r)
		printf("reason: %s\n", e.msg);
	else
		printf("max_cpus: %u\n", h.max_cpus);
	for (unsigned i = 0; i < h.ncaps; i++)
		printf("cap %s: %d\n", h.caps[i].cap->name, h.caps[i].value);
	kvm_close(&h);
	return r ? 4 : 0;
}

static int serve(void)
{
	if (!is_control_socket(CTL_FD)) {
		fprintf(stderr,
			"thaw-machine: descriptor %d is not a control socket: "
			"--ctl is for thawd\n",
			CTL_FD);
		return 2;
	}
	/* A peer that went away is an error code, not a signal. */
	(void)signal(SIGPIPE, SIG_IGN);
	/* a limit on the length of files is an error like a full disk */
	(void)signal(SIGXFSZ, SIG_IGN);
	return setup_run(CTL_FD);
}

int main(int argc, char **argv)
{
	log_init("thaw-machine", LOG_INFO);
	if (argc == 2 && !strcmp(argv[1], "--ctl"))
		return serve();
	if (argc >= 2 && argc <= 4 && !strcmp(argv[1], "--boot"))
		return alone_run(
			argc > 2 ? argv[2] : NULL, argc > 3 ? argv[3] : "");
	if (argc == 2 && !strcmp(argv[1], "--probe"))
		return probe();
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("thaw-machine %s\n", THAW_VERSION);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "--help")) {
		fputs(usage, stdout);
		return 0;
	}
	fputs(usage, stderr);
	return 2;
}

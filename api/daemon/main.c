#include "api/daemon/daemon.h"

#include "api/daemon/options.h"
#include "core/log.h"

#define EXIT_FAILED 1
#define EXIT_USAGE  2

int main(int argc, char **argv)
{
	static struct daemon d; /* global: the daemon; too large for a stack */
	struct err e = {0};
	int code;

	code = options_parse(&d.opt, argc, argv);
	log_init("thawd", d.opt.verbose ? LOG_DEBUG : LOG_INFO);
	if (code) {
		options_fini(&d.opt);
		return code == 1 ? 0 : EXIT_USAGE;
	}
	daemon_prepare(&d);
	if (daemon_init(&d, &e)) {
		log_error("%s", e.msg);
		code = EXIT_FAILED;
	} else {
		log_info("listening on %s", d.opt.socket);
		code = daemon_run(&d);
	}
	daemon_fini(&d);
	options_fini(&d.opt);
	return code;
}

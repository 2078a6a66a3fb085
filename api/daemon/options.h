/* Command line and environment of thawd. */
#ifndef THAW_API_DAEMON_OPTIONS_H
#define THAW_API_DAEMON_OPTIONS_H

#include "api/daemon/daemon.h"

/* 0: go on; 1: everything was said, exit with 0; 2: usage was wrong. */
int options_parse(struct options *o, int argc, char **argv);
void options_fini(struct options *o);

#endif

/*
 * thaw doctor: checks, each a row of its table. A check looks at the host and
 * says one thing: how it is, and when it should be otherwise, what to do.
 */
#ifndef THAW_API_CLI_DOCTOR_H
#define THAW_API_CLI_DOCTOR_H

#include "core/kvm.h"

enum doctor_level {
	DOCTOR_OK,
	DOCTOR_HINT,  /* works; could be faster or better */
	DOCTOR_WARN,  /* some things will not work */
	DOCTOR_BROKEN /* thaw cannot run machines here */
};

struct finding {
	enum doctor_level level;
	char text[400];
	char advice[400]; /* empty: nothing to do */
};

struct doctor {
	struct kvm_host kvm;
	int kvm_rc; /* of kvm_open() */
	struct err kvm_err;
};

struct check {
	const char *name;
	void (*run)(const struct doctor *d, struct finding *f);
};

/* doctor_host.c */
extern const struct check doctor_host_checks[];
extern const size_t doctor_host_nchecks;

void finding_set(struct finding *f, enum doctor_level level, const char *advice,
	const char *fmt, ...) PRINTF(4, 5);
/* First line of a small file, without its newline; false when unreadable. */
bool doctor_read_line(const char *path, char *out, size_t size);

#endif

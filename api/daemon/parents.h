/*
 * The files that a snapshot builds on: finding them for a process that loads a
 * diff, and knowing which files a machine's next diff will need, so that nobody
 * replaces one of them.
 *
 * The daemon does not look into snapshots. Where a parent is comes from the
 * diff itself, by way of the process that reads it, and neither is trusted: a
 * path is opened with the rights of the client that named the diff, and only a
 * file that begins like a snapshot is handed out. What a process may ask for
 * ends with its setup; who writes a diff of a machine may ask for the files
 * that this one builds on, and for no others.
 */
#ifndef THAW_API_DAEMON_PARENTS_H
#define THAW_API_DAEMON_PARENTS_H

#include "api/daemon/proc.h"

#include <sys/socket.h>
#include <sys/stat.h>

struct parents {
	struct ucred peer; /* whose rights open files */
	char *last;        /* owned: path of the newest file; NULL: not known */
	/* While a chain is being opened, owned: the file whose parent is asked
	 * for, and the one handed out last; NULL: not known. */
	char *child, *given;
	bool closed; /* nothing is handed out any more */
	bool known;  /* nothing is handed out but .file[] */
	unsigned asked;
	struct parents_file {
		dev_t dev;
		ino_t ino;          /* 0: not known */
	} file[SNAP_MAX_CHAIN + 1]; /* in no order */
	unsigned n;
	struct parents_file newest; /* the one at .last */
};

/* For a process that will load the snapshot at path (may be NULL), fd. NULL: no
 * memory. */
struct parents *parents_create(
	const struct ucred *peer, const char *path, int fd);
void parents_free(struct parents *p);
/* For a process that writes a diff at path (may be NULL) which builds on these
 * (may be NULL), or on fd and nothing else. NULL: no memory. */
struct parents *parents_of_diff(const struct ucred *peer, const char *path,
	const struct parents *on, int fd);
/* The process has what it needs; p may be NULL. */
void parents_close(struct parents *p);
/* CTL_PARENT of a process with these parents (NULL: it has none to ask for). */
void parents_answer(struct daemon *d, struct proc *p, struct ctl_packet *pk);

/* A snapshot of the machine was published: on top of what there is, or (not
 * diff) as the first of a new chain. path NULL: not known. */
void parents_push(struct parents *p, const char *path, int fd, bool diff);
/* How the file at path should name the newest one, malloc()ed; NULL: it has no
 * name. Beside each other it is the name only, so that they may move. */
char *parents_hint(const char *last, const char *path);
/* Is the newest file still where it was, as far as that is known? -ENOENT, by
 * name: a diff on top of it would be of no use. p may be NULL. */
int parents_check_last(
	struct daemon *d, const struct parents *p, struct err *e) MUST_USE;
/* May dir/name be replaced by a snapshot of p (may be NULL)? -EBUSY when a
 * chain in use, or the new file itself, builds on it. diff: of the new one. */
int parents_check_replace(struct daemon *d, const struct parents *p, bool diff,
	int dir, const char *name, struct err *e) MUST_USE;

#endif

/*
 * Files that clients name: opened with the rights of the client (the uid, gid
 * and groups behind its socket), without magic links, below the directories of
 * --allow. Descriptors sent along with a request stand for a path that the
 * client opened itself.
 */
#ifndef THAW_API_DAEMON_PEERFILE_H
#define THAW_API_DAEMON_PEERFILE_H

#include "api/daemon/conn.h"
#include "api/daemon/params.h"

/* An existing regular file, for reading. key names it in messages. */
int peerfile_read(struct daemon *d, struct request *r, const char *key,
	const struct path_arg *arg, struct err *e) MUST_USE;
/* The same, for reading and writing. */
int peerfile_open(struct daemon *d, struct request *r, const char *key,
	const struct path_arg *arg, bool write, struct err *e) MUST_USE;
/* A unix socket that the client may connect to, as an O_PATH descriptor. */
int peerfile_socket(struct daemon *d, struct request *r, const char *path,
	struct err *e) MUST_USE;
/* A path that this user named before, when no request of theirs is there; the
 * user's supplementary groups do not count then. */
int peerfile_reopen(struct daemon *d, unsigned uid, unsigned gid,
	const char *path, struct err *e) MUST_USE;
/* The working set beside a snapshot that was named by its path, or -1. */
int peerfile_set(
	struct daemon *d, struct request *r, const struct path_arg *snapshot);
/* The directory in which path's last component is to be made; name gets that
 * component. The result is an O_PATH descriptor. */
int peerfile_parent(struct daemon *d, const struct ucred *peer, int sock,
	const struct text *path, char name[256], struct err *e) MUST_USE;

/* Act with the rights of a client from here on; ends with peer_leave(). */
struct peer_rights {
	bool switched;
	int ngroups;
	unsigned groups[64];
	unsigned uid, gid;
};
int peer_enter(struct peer_rights *p, const struct ucred *peer, int sock,
	struct err *e) MUST_USE;
void peer_leave(struct peer_rights *p);

#endif

/* The outside of a snapshot, and opening a chain of them. */
#include "snapshot/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int snap_peek(int fd, struct snap_peeked *out, struct err *e)
{
	struct snap *s = calloc(1, sizeof(*s));
	int rc;

	memset(out, 0, sizeof(*out));
	if (!s)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	s->fd = fd;
	rc = snap_read_header(s, e);
	if (!rc)
		rc = snap_read_table(s, e);
	if (!rc)
		rc = snap_digest(s, out->digest);
	if (!rc) {
		out->uuid = *snap_get_uuid(s);
		out->diff = (s->h.flags & SNAP_FLAG_DIFF) != 0;
		memcpy(out->parent_uuid.b, s->h.parent_uuid, 16);
		memcpy(out->parent_digest, s->h.parent_digest, 16);
		memcpy(out->parent_path, s->h.parent_path,
			sizeof(out->parent_path));
		out->parent_path[sizeof(out->parent_path) - 1] = '\0';
	}
	snap_close(s);
	return rc;
}

void snap_close_chain(struct snap **s, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		snap_close(s[i]);
		s[i] = NULL;
	}
}

int snap_open_chain(const int *fd, unsigned n, struct snap **s, struct err *e)
{
	int rc = 0;

	memset(s, 0, n * sizeof(struct snap *));
	for (unsigned i = 0; i < n && !rc; i++)
		rc = snap_open(fd[i], &s[i], e);
	if (!rc)
		rc = snap_attach_all(s, n, e);
	if (rc)
		snap_close_chain(s, n);
	return rc;
}

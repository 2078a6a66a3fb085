/*
 * put and get: files in bounded pieces, without state between requests.
 *
 * put writes to "PATH.thaw-part": the piece at offset 0 begins it, each next
 * one must begin where the file ends, and the one with eof gives it its mode
 * and renames it to PATH. So a file is there as a whole or not at all, and two
 * writers do not mix their pieces unnoticed.
 */
#include "core/guest/linux/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct place {
	char path[PATH_MAX]; /* below root */
	char part[PATH_MAX];
};

static int get_place(struct ta *t, const msgpack_object *params,
	struct place *p, struct err *e)
{
	char path[PATH_MAX - 512], name[256];
	struct stat st;
	int n, r = ta_get_text(params, "path", path, sizeof(path), e);

	if (!r)
		r = ta_get_text(params, "name", name, sizeof(name), e);
	if (r)
		return r;
	if (path[0] != '/' || strchr(name, '/'))
		return err_set(e, -EINVAL,
			path[0] != '/' ? "path must be absolute"
				       : "name must be without a slash");
	n = snprintf(p->path, sizeof(p->path), "%s%s", t->root, path);
	if (name[0] && n > 0 && (size_t)n < sizeof(p->path) &&
		!stat(p->path, &st) && S_ISDIR(st.st_mode))
		n = snprintf(p->path, sizeof(p->path), "%s%s/%s", t->root, path,
			name);
	if (n < 0 || (size_t)n >= sizeof(p->path) - 16)
		return err_set(e, -ENAMETOOLONG, "path is too long");
	memcpy(p->part, p->path, (size_t)n);
	memcpy(p->part + n, ".thaw-part", sizeof(".thaw-part"));
	return 0;
}

/* A link is followed, so that it goes on pointing to the file. */
static int put_target(struct place *p, struct err *e)
{
	struct stat st;
	char real[PATH_MAX];

	if (lstat(p->path, &st))
		return errno == ENOENT ? 0 : err_sys(e, -errno, "%s", p->path);
	if (S_ISLNK(st.st_mode) && realpath(p->path, real)) {
		if (strlen(real) >= sizeof(p->part) - 16)
			return err_set(e, -ENAMETOOLONG, "path is too long");
		memcpy(p->path, real, strlen(real) + 1);
		(void)snprintf(
			p->part, sizeof(p->part), "%.4070s.thaw-part", real);
		if (stat(p->path, &st))
			return err_sys(e, -errno, "%s", p->path);
	}
	if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return err_set(e, -EINVAL, "%s is not a regular file", p->path);
	return 0;
}

static int put_piece(const struct place *p, const void *data, size_t n,
	uint64_t offset, struct err *e)
{
	int flags = O_WRONLY | O_CLOEXEC | O_NOFOLLOW;
	struct stat st;
	AUTO_FD fd = -1;
	int r;

	if (!offset)
		flags |= O_CREAT | O_TRUNC;
	fd = open(p->part, flags, 0600);
	if (fd < 0)
		return err_sys(e, -errno, "%s", p->part);
	if (fstat(fd, &st))
		return err_sys(e, -errno, "%s", p->part);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%s is not a regular file", p->part);
	if ((uint64_t)st.st_size != offset)
		return err_set(e, -EINVAL,
			"offset is %llu, but %lld bytes have been put so far",
			(unsigned long long)offset, (long long)st.st_size);
	r = pwrite_full(fd, data, n, offset);
	return r ? err_sys(e, r, "writing %s", p->part) : 0;
}

static int put_end(const struct place *p, uint64_t mode, const uint64_t own[2],
	struct err *e)
{
	if ((own[0] != UINT32_MAX || own[1] != UINT32_MAX) &&
		chown(p->part, (uid_t)own[0], (gid_t)own[1]))
		return err_sys(e, -errno, "owner of %s", p->part);
	/* After the owner: chown clears set-id bits. */
	if (chmod(p->part, (mode_t)mode))
		return err_sys(e, -errno, "mode of %s", p->part);
	if (rename(p->part, p->path))
		return err_sys(e, -errno, "renaming to %s", p->path);
	return 0;
}

int ta_put(struct ta *t, const struct ta_req *q, const msgpack_object *params,
	struct err *e)
{
	uint64_t offset = 0, mode = 0644, own[2] = {UINT32_MAX, UINT32_MAX};
	struct place p;
	bool eof = true;
	const void *data = NULL;
	msgpack_packer pk;
	size_t n = 0;
	int r = get_place(t, params, &p, e);

	if (!r)
		r = ta_get_u64(params, "offset", INT64_MAX, &offset, e);
	if (!r)
		r = ta_get_u64(params, "mode", 07777, &mode, e);
	if (!r)
		r = ta_get_u64(params, "uid", UINT32_MAX, &own[0], e);
	if (!r)
		r = ta_get_u64(params, "gid", UINT32_MAX, &own[1], e);
	if (!r)
		r = ta_get_bool(params, "eof", &eof, e);
	if (!r)
		r = ta_get_bytes(params, "data", &data, &n, e);
	if (!r && n > TA_MAX_CHUNK)
		r = err_set(e, -E2BIG, "a piece has 4 MiB at most");
	if (!r)
		r = put_target(&p, e);
	if (!r)
		r = put_piece(&p, data, n, offset, e);
	if (!r && eof)
		r = put_end(&p, mode, own, e);
	if (r)
		return r;
	if (ta_result(t, q, 1, &pk)) {
		mp_key_u64(&pk, "size", offset + n);
		ta_result_end(t, q);
	}
	return 0;
}

/* Files of /proc say they are empty: the end is where no byte comes. */
static int get_piece(int fd, struct buf *b, uint64_t offset, size_t n,
	bool *eof, struct err *e)
{
	if (buf_reserve(b, n))
		return err_set(e, -ENOMEM, "no memory for the piece");
	*eof = false;
	while (b->len < n) {
		ssize_t got = pread(fd, b->p + b->off + b->len, n - b->len,
			(off_t)(offset + b->len));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		*eof = got == 0;
		if (*eof)
			break;
		b->len += (size_t)got;
	}
	return 0;
}

int ta_get(struct ta *t, const struct ta_req *q, const msgpack_object *params,
	struct err *e)
{
	uint64_t offset = 0, length = 1 * MIB;
	struct buf b = {0};
	struct place p;
	struct stat st;
	msgpack_packer pk;
	AUTO_FD fd = -1;
	bool eof = false;
	int r = get_place(t, params, &p, e);

	if (!r)
		r = ta_get_u64(params, "offset", INT64_MAX / 2, &offset, e);
	if (!r)
		r = ta_get_u64(params, "length", TA_MAX_CHUNK, &length, e);
	if (r)
		return r;
	fd = open(p.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st))
		return err_sys(e, -errno, "%s", p.path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%s is not a regular file", p.path);
	r = get_piece(fd, &b, offset, (size_t)length, &eof, e);
	if (r) {
		buf_free(&b);
		return err_sys(e, r, "reading %s", p.path);
	}
	if (ta_result(t, q, 4, &pk)) {
		mp_str(&pk, "data");
		mp_bin(&pk, buf_data(&b), b.len);
		mp_key_bool(&pk, "eof", eof);
		mp_key_u64(&pk, "size", (uint64_t)st.st_size);
		mp_key_u64(&pk, "mode", st.st_mode & 07777);
		ta_result_end(t, q);
	}
	buf_free(&b);
	return 0;
}

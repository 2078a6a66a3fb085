/*
 * The part of a remote file that is read before a machine runs: header, section
 * table, sections, index. The rest is a hole until its pages are touched.
 *
 * How it works: header and table come first and must have the digest; from then
 * on every length and place is what the writer of the snapshot wrote, and all
 * bytes have a checksum.
 */
#include "snapshot/internal.h"
#include "snapshot/remote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct front {
	struct remote_link *l;
	const struct remote_file *f;
	int fd;
	uint8_t *buf; /* owned; REMOTE_MAX_READ bytes */
};

static int get_range(
	const struct front *t, uint64_t offset, uint64_t length, struct err *e)
{
	int r = 0;

	while (length && !r) {
		struct remote_span s = {.offset = offset,
			.length = (uint32_t)min_u64(length, REMOTE_MAX_READ),
			.buf = t->buf};

		r = remote_read(t->l, t->f, REMOTE_PART_FILE, &s, 1, e);
		if (r)
			break;
		r = pwrite_full(t->fd, s.buf, s.length, offset);
		if (r)
			return err_sys(e, r, "writing a remote snapshot");
		offset += s.length;
		length -= s.length;
	}
	return r;
}

static int wrong_file(const struct front *t, struct err *e)
{
	char uuid[SNAP_UUID_STR];

	snap_uuid_str(&t->f->uuid, uuid);
	return err_set(e, -EBADMSG,
		"what %s sent is not snapshot %s with that digest",
		t->l ? t->l->peer : "the cache", uuid);
}

/* Is it the one? s->fd has header and table. */
static int check_pin(const struct front *t, struct snap *s, struct err *e)
{
	uint8_t digest[16];
	int r = snap_read_table(s, e);

	if (!r && snap_digest(s, digest))
		r = err_set(e, -ENOMEM, "snapshot: out of memory");
	if (!r && (memcmp(digest, t->f->digest, 16) != 0 ||
			  memcmp(s->h.uuid, t->f->uuid.b, 16) != 0))
		r = wrong_file(t, e);
	return r;
}

static int get_head(const struct front *t, struct snap *s, struct err *e)
{
	uint64_t length, set;
	int r = remote_stat(t->l, t->f, &length, &set, e);

	if (!r && ftruncate(t->fd, (off_t)length))
		r = err_sys(e, -errno, "room for a remote snapshot");
	if (!r)
		r = get_range(t, 0, sizeof(s->h), e);
	if (!r)
		r = snap_read_header(s, e);
	if (!r)
		r = get_range(t, s->h.section_table_offset,
			s->h.section_count * sizeof(struct snap_section), e);
	return r ? r : check_pin(t, s, e);
}

/* Leaves are small and lie far apart: many are asked for at once. */
static int get_leaves(
	const struct front *t, const struct snap *s, struct err *e)
{
	const uint32_t size = sizeof(struct snap_leaf);
	struct remote_span span[REMOTE_SPANS];
	uint32_t i = 0;
	int r = 0;

	while (i < s->mem.root_count && !r) {
		unsigned n = 0;

		for (; i < s->mem.root_count && n < REMOTE_SPANS; i++) {
			if (s->root[i].offset) {
				span[n] = (struct remote_span){
					s->root[i].offset, size,
					t->buf + (size_t)n * size};
				n++;
			}
		}
		if (n)
			r = remote_read(
				t->l, t->f, REMOTE_PART_FILE, span, n, e);
		for (unsigned k = 0; k < n && !r; k++) {
			r = pwrite_full(
				t->fd, span[k].buf, size, span[k].offset);
			if (r)
				err_sys(e, r, "writing a remote snapshot");
		}
	}
	return r;
}
_Static_assert(REMOTE_SPANS * sizeof(struct snap_leaf) <= REMOTE_MAX_READ,
	"leaves that are asked for at once fit into the buffer");

static int check_sections(const struct snap *s, uint8_t *buf, struct err *e)
{
	int r = 0;

	for (uint32_t i = 0; i < s->h.section_count && !r; i++)
		r = snap_check_section(s, &s->sec[i], buf, e);
	return r;
}

static int check_leaves(const struct snap *s, struct err *e)
{
	struct snap_leaf *leaf = malloc(sizeof(*leaf));
	int r = leaf ? 0 : err_set(e, -ENOMEM, "snapshot: out of memory");

	for (uint32_t i = 0; i < s->mem.root_count && !r; i++) {
		struct snap_leaf_at at;

		if (!s->root[i].offset)
			continue;
		snap_leaf_locate(s, i, &at);
		r = snap_read_leaf(s, &at, leaf, e);
	}
	free(leaf);
	return r;
}

/* NULL with e. */
static struct snap *begin(struct front *t, struct err *e)
{
	struct snap *s = calloc(1, sizeof(*s));

	t->buf = malloc(REMOTE_MAX_READ);
	if (t->buf && s) {
		s->fd = t->fd;
		return s;
	}
	free(t->buf);
	free(s);
	err_set(e, -ENOMEM, "snapshot: out of memory");
	return NULL;
}

int remote_front_get(struct remote_link *l, const struct remote_file *f, int fd,
	struct err *e)
{
	struct front t = {.l = l, .f = f, .fd = fd};
	struct snap *s = begin(&t, e);
	int r;

	if (!s)
		return -ENOMEM;
	r = get_head(&t, s, e);
	for (uint32_t i = 0; !r && i < s->h.section_count; i++)
		r = get_range(&t, s->sec[i].offset, s->sec[i].stored_length, e);
	if (!r)
		r = check_sections(s, t.buf, e);
	if (!r)
		r = snap_read_index(s, e);
	if (!r)
		r = get_leaves(&t, s, e);
	if (!r)
		r = check_leaves(s, e);
	if (r == -EBADMSG)
		r = err_wrap(e, "from the pager at %s", l->peer);
	snap_close(s);
	free(t.buf);
	return r;
}

int remote_front_check(int fd, const struct remote_file *f, struct err *e)
{
	struct front t = {.f = f, .fd = fd};
	struct snap *s = begin(&t, e);
	int r;

	if (!s)
		return -ENOMEM;
	r = snap_read_header(s, e);
	if (!r)
		r = check_pin(&t, s, e);
	if (!r)
		r = check_sections(s, t.buf, e);
	if (!r)
		r = snap_read_index(s, e);
	if (!r)
		r = check_leaves(s, e);
	snap_close(s);
	free(t.buf);
	return r;
}

int remote_set_get(struct remote_link *l, const struct remote_file *f, int fd,
	struct err *e)
{
	AUTO_FREE uint8_t *buf = malloc(REMOTE_MAX_READ);
	uint64_t length, set, at = 0;
	int r;

	if (!buf)
		return err_set(e, -ENOMEM, "no memory for a working set");
	r = remote_stat(l, f, &length, &set, e);
	if (!r && !set)
		return err_set(e, -ENOENT, "there is no working set");
	while (!r && at < set) {
		struct remote_span s = {.offset = at,
			.length = (uint32_t)min_u64(set - at, REMOTE_MAX_READ),
			.buf = buf};

		r = remote_read(l, f, REMOTE_PART_SET, &s, 1, e);
		if (!r && pwrite_full(fd, buf, s.length, at))
			r = err_set(e, -EIO, "writing a working set");
		at += s.length;
	}
	return r;
}

/*
 * Where pages come from: a snapshot and its ancestors on disk
 * (snapshot/source.h), a pager on another host, a test.
 *
 * Memory is cut into windows of 64 KiB, 16 pages. A window is made of pieces:
 * stored bytes that can be fetched and decoded by themselves and bring some of
 * its pages. The pager asks where the pieces are (map), gets their bytes (by
 * io_uring from one of .file, or by fetch) and has them checked and unpacked
 * (decode). Nothing is published before decode has said that all of it is
 * right, and only as whole pages.
 *
 * Threads: all functions may be called by several threads at once.
 * Errors: -EBADMSG when the bytes are not what they must be, -ETIMEDOUT when
 * they do not come, -EIO and others when the source is broken; the text names
 * the byte range, or the peer. A source bounds its own waiting where it can;
 * the pager also watches the clock and ends machines that have waited for too
 * long (pager_opts.stall_ms). cancel is called once, when the pager ends.
 */
#ifndef THAW_UFFD_SOURCE_H
#define THAW_UFFD_SOURCE_H

#include "core/err.h"

#define PSRC_WINDOW     (64 * KIB)
#define PSRC_PAGES      16
#define PSRC_MAX_STORED (68 * KIB) /* a piece; codecs may add a little */
#define PSRC_MAX_FILES  72

struct psrc_piece {
	int32_t file;    /* index in psrc.file[]; -1: only fetch() gets it */
	uint32_t length; /* stored bytes, 1 to PSRC_MAX_STORED */
	uint64_t offset; /* in the file; for errors when there is none */
	uint16_t pages;  /* of the window: those that this piece brings */
	uint16_t plain;  /* 1: the stored bytes are those pages, in order */
	uint32_t u32[4]; /* the source's own */
};

struct psrc_window {
	uint16_t zero; /* pages that are zeros; with all .pages: 0xffff */
	uint16_t n;
	struct psrc_piece piece[PSRC_PAGES];
};

struct psrc_buf {
	const void *stored; /* of the piece */
	void *scratch;      /* PSRC_WINDOW bytes for any use */
	uint8_t *win;       /* PSRC_WINDOW bytes, or NULL */
};

struct psrc;

struct psrc_ops {
	const char *name;
	/* What window w is made of. may_block false: -EAGAIN when that needs
	 * input; the pager then asks again from another thread. */
	int (*map)(struct psrc *s, uint64_t w, bool may_block,
		struct psrc_window *out, struct err *e);
	/* The stored bytes of a piece; NULL when all pieces are in files. */
	int (*fetch)(struct psrc *s, uint64_t w, const struct psrc_piece *p,
		void *stored, struct err *e);
	/* Check b->stored and put the piece's pages where they belong in
	 * b->win; nothing else is touched there. A plain piece may instead be
	 * checked only: win is then NULL. Never waits. -EAGAIN: what the file
	 * has is of no use, and fetch() is asked for the same piece. */
	int (*decode)(struct psrc *s, uint64_t w, const struct psrc_piece *p,
		const struct psrc_buf *b, struct err *e);
	/* Let fetches and maps that wait return with -ECANCELED, now and from
	 * now on. May be NULL. */
	void (*cancel)(struct psrc *s);
	void (*close)(struct psrc *s);
};

/* The first member of each kind of source. */
struct psrc {
	const struct psrc_ops *ops;
	uint64_t size;  /* bytes of guest memory, a multiple of PSRC_WINDOW */
	uint64_t pages; /* that are not zeros; 0: not known */
	unsigned nfiles;
	int file[PSRC_MAX_FILES]; /* borrowed or owned, as the source says */
	/* Bytes that came from another host are added here, atomically; set by
	 * the pager, may be NULL. */
	uint64_t *fetched;
};

#endif

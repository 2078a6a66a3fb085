#include "tests/unit/fake_source.h"

#include "tests/unit/test.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

bool fake_page_is_zero(uint64_t n)
{
	/* All of every eighth window, and some pages elsewhere. */
	return n / PSRC_PAGES % 8 == 7 || n % 5 == 0;
}

void fake_page_fill(uint64_t n, uint8_t *page)
{
	uint64_t word[PAGE_SIZE_4K / 8];

	for (unsigned i = 0; i < ARRAY_SIZE(word); i++)
		word[i] = fake_page_is_zero(n) ? 0 : n * 1000003 + i + 1;
	memcpy(page, word, sizeof(word));
}

bool fake_page_is_right(uint64_t n, const uint8_t *page)
{
	uint8_t want[PAGE_SIZE_4K];

	fake_page_fill(n, want);
	return memcmp(want, page, sizeof(want)) == 0;
}

/* The pages of a mask, packed. */
static uint32_t pack(uint64_t w, uint16_t pages, uint8_t *to)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < PSRC_PAGES; i++) {
		if (!(pages >> i & 1))
			continue;
		fake_page_fill(w * PSRC_PAGES + i, to + n);
		n += (uint32_t)PAGE_SIZE_4K;
	}
	return n;
}

static uint16_t zero_mask(uint64_t w)
{
	uint16_t zero = 0;

	for (unsigned i = 0; i < PSRC_PAGES; i++) {
		if (fake_page_is_zero(w * PSRC_PAGES + i))
			zero |= (uint16_t)(1U << i);
	}
	return zero;
}

/* What is to go wrong here. Stalls and slowness happen in here. */
static enum fake_fault happen(struct fake_source *s, uint64_t w, bool map)
{
	enum fake_fault f;

	(void)pthread_mutex_lock(&s->lock);
	if (map)
		s->maps++;
	else
		s->fetches++;
	f = s->at == w || s->at == UINT64_MAX ? s->fault : FAKE_FINE;
	if ((f == FAKE_STALL && !map) || (f == FAKE_MAP_STALL && map)) {
		while (!s->cancelled && s->fault == f)
			(void)pthread_cond_wait(&s->cond, &s->lock);
		f = s->cancelled ? FAKE_BROKEN : FAKE_FINE;
	}
	(void)pthread_mutex_unlock(&s->lock);
	if (f == FAKE_SLOW && !map) {
		struct timespec ts = {.tv_nsec = 20000000};

		(void)nanosleep(&ts, NULL);
	}
	return f;
}

static struct fake_source *of(struct psrc *s)
{
	return container_of(s, struct fake_source, src);
}

static int fake_map(struct psrc *src, uint64_t w, bool may_block,
	struct psrc_window *out, struct err *e)
{
	struct fake_source *s = of(src);
	uint16_t zero = zero_mask(w), here = (uint16_t)~zero, part;
	enum fake_fault f;
	bool first;

	(void)pthread_mutex_lock(&s->lock);
	first = !s->mapped[w];
	if (may_block)
		s->mapped[w] = 1;
	(void)pthread_mutex_unlock(&s->lock);
	if (s->lazy_map && first && !may_block)
		return -EAGAIN;
	f = happen(s, w, true);
	if (f == FAKE_MAP_LIE)
		return err_set(e, -EBADMSG, "the index lies about %llu",
			(unsigned long long)w);
	if (f == FAKE_BROKEN)
		return err_set(e, -EIO, "the index is broken");
	memset(out, 0, sizeof(*out));
	out->zero = f == FAKE_NONSENSE ? (uint16_t)~zero : zero;
	part = s->split ? here & 0x0ff0 : here;
	for (int i = 0; i < 2; i++, part = here & (uint16_t)~part) {
		struct psrc_piece *p = &out->piece[out->n];

		if (!part || (i && !s->split))
			continue;
		*p = (struct psrc_piece){
			.file = s->files && w < s->far ? 0 : -1,
			.length = (uint32_t)(__builtin_popcount(part) *
					     (int)PAGE_SIZE_4K),
			.offset = w * PSRC_WINDOW + (i ? PSRC_WINDOW / 2 : 0),
			.pages = part,
			.plain = !s->packed,
		};
		out->n++;
	}
	return 0;
}

static int fake_fetch(struct psrc *src, uint64_t w, const struct psrc_piece *p,
	void *stored, struct err *e)
{
	switch (happen(of(src), w, false)) {
	case FAKE_BROKEN:
		return err_set(e, -EIO, "the source is broken");
	case FAKE_LIE:
		memset(stored, 0, p->length);
		return 0;
	case FAKE_FINE:
	case FAKE_SLOW:
	case FAKE_STALL:
	case FAKE_NONSENSE:
	case FAKE_MAP_LIE:
	case FAKE_MAP_STALL:
	default:
		(void)pack(w, p->pages, stored);
		return 0;
	}
}

static int fake_decode(struct psrc *src, uint64_t w, const struct psrc_piece *p,
	const struct psrc_buf *b, struct err *e)
{
	struct fake_source *s = of(src);
	const uint8_t *raw = b->stored;
	bool lies;

	(void)pthread_mutex_lock(&s->lock);
	lies = (s->at == w || s->at == UINT64_MAX) && s->fault == FAKE_LIE;
	(void)pthread_mutex_unlock(&s->lock);
	if (p->file >= 0 && w >= s->stale)
		return -EAGAIN;
	/* In a file only the bytes themselves can lie. */
	if (s->files && lies)
		return err_set(e, -EBADMSG, "bytes %llu-%llu: wrong",
			(unsigned long long)p->offset,
			(unsigned long long)p->offset + p->length - 1);
	memcpy(b->scratch, b->stored, p->length);
	for (unsigned i = 0; i < PSRC_PAGES; i++) {
		if (!(p->pages >> i & 1))
			continue;
		if (!fake_page_is_right(w * PSRC_PAGES + i, raw))
			return err_set(e, -EBADMSG, "bytes %llu-%llu: wrong",
				(unsigned long long)p->offset,
				(unsigned long long)p->offset + p->length - 1);
		if (b->win)
			memcpy(b->win + i * PAGE_SIZE_4K, raw, PAGE_SIZE_4K);
		raw += PAGE_SIZE_4K;
	}
	return 0;
}

static void fake_cancel(struct psrc *src)
{
	struct fake_source *s = of(src);

	(void)pthread_mutex_lock(&s->lock);
	s->cancelled = true;
	pthread_cond_broadcast(&s->cond);
	(void)pthread_mutex_unlock(&s->lock);
}

static const struct psrc_ops fake_ops = {
	.name = "fake",
	.map = fake_map,
	.fetch = fake_fetch,
	.decode = fake_decode,
	.cancel = fake_cancel,
};

void fake_source_init(struct fake_source *s, uint64_t windows)
{
	memset(s, 0, sizeof(*s));
	s->src.ops = &fake_ops;
	s->src.size = windows * PSRC_WINDOW;
	s->windows = windows;
	s->memfd = -1;
	s->far = s->stale = windows;
	s->mapped = calloc(windows, 1);
	assert_non_null(s->mapped);
	assert_int_equal(pthread_mutex_init(&s->lock, NULL), 0);
	assert_int_equal(pthread_cond_init(&s->cond, NULL), 0);
}

void fake_source_store(struct fake_source *s)
{
	uint8_t buf[PSRC_WINDOW];

	if (!s->files)
		return;
	s->memfd = memfd_create("source", MFD_CLOEXEC);
	assert_true(s->memfd >= 0);
	assert_int_equal(ftruncate(s->memfd, (off_t)s->src.size), 0);
	s->src.file[0] = s->memfd;
	s->src.nfiles = 1;
	for (uint64_t w = 0; w < s->windows; w++) {
		struct psrc_window at = {.n = 0};

		assert_int_equal(fake_map(&s->src, w, true, &at, NULL), 0);
		s->mapped[w] = 0;
		for (unsigned i = 0; i < at.n; i++) {
			uint32_t n = pack(w, at.piece[i].pages, buf);

			assert_int_equal(pwrite(s->memfd, buf, n,
						 (off_t)at.piece[i].offset),
				n);
		}
	}
}

void fake_source_fault(
	struct fake_source *s, enum fake_fault fault, uint64_t at)
{
	(void)pthread_mutex_lock(&s->lock);
	s->fault = fault;
	s->at = at;
	pthread_cond_broadcast(&s->cond);
	(void)pthread_mutex_unlock(&s->lock);
}

void fake_source_fini(struct fake_source *s)
{
	if (s->memfd >= 0)
		(void)close(s->memfd);
	free(s->mapped);
	(void)pthread_mutex_destroy(&s->lock);
	(void)pthread_cond_destroy(&s->cond);
}

#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"
#include "core/crc32c.h"
#include "core/vcpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void must(int rc, const struct err *e, const char *what)
{
	if (rc)
		fail_msg("%s: %d: %s", what, rc, e->msg);
}

void fake_empty(struct machine *m, const struct machine_config *cfg)
{
	struct err e = {0};

	must(machine_init(m, cfg, &e), &e, "machine_init");
	for (unsigned i = 0; i < m->ncpus; i++)
		must(st_load(&vcpu_state_desc, m->cpu[i]->s, "\x81\xa1v\x01", 4,
			     &e),
			&e, "vcpu defaults");
}

static void make(
	struct machine *m, struct machine_config *cfg, enum mem_backing b)
{
	static const char vcpu[] = "\x83\xa1v\x01\xa3tsc\xcd\x12\x34\xa7"
				   "tsc_khz\xcd\x56\x78";
	struct err e = {0};

	cfg->cpus = 2;
	cfg->vsock_cid = 3;
	cfg->builtin = 1;
	(void)snprintf(cfg->cmdline, sizeof(cfg->cmdline), "quiet");
	fake_empty(m, cfg);
	m->saved.clock_ns = 123456789;
	must(st_load(&vcpu_state_desc, m->cpu[1]->s, vcpu, sizeof(vcpu) - 1,
		     &e),
		&e, "vcpu state");
	must(mem_create(&m->mem, cfg->memory, b, -1, &e), &e, "mem_create");
}

void fake_machine_1_0(struct machine *m, uint64_t memory)
{
	struct machine_config cfg = {.memory = memory};

	make(m, &cfg, MEM_PRIVATE);
}

void fake_machine(struct machine *m, uint64_t memory, enum mem_backing b)
{
	struct machine_config cfg = {
		.memory = memory,
		.disk[0] = {.id = "root", .path = "/x", .queues = 1},
		.disk[1] = {.id = "data", .path = "/y", .queues = 1},
		.net[0] = {.id = "net0", .mac = {2, 0, 0, 0, 0, 1}},
		.net[1] = {.id = "net1", .mac = {2, 0, 0, 0, 0, 2}},
		.rng = 1,
		.acpi = 1,
	};

	make(m, &cfg, b);
}

void fake_page(struct machine *m, gpa_t gpa)
{
	uint8_t *p = mem_at(&m->mem, gpa, PAGE_SIZE_4K, MEM_WRITE);

	assert_non_null(p);
	for (unsigned i = 0; i < PAGE_SIZE_4K; i++)
		p[i] = (uint8_t)((gpa >> 12) * 31 + i * 7 + (i >> 8));
}

bool fake_same_memory(const struct machine *a, const struct machine *b)
{
	if (a->mem.size != b->mem.size)
		return false;
	return memcmp(a->mem.map, b->mem.map, a->mem.size) == 0;
}

bool fake_same(const struct st_desc *d, const void *a, const void *b)
{
	msgpack_sbuffer x, y;
	bool equal;

	msgpack_sbuffer_init(&x);
	msgpack_sbuffer_init(&y);
	assert_int_equal(st_save(d, a, &x), 0);
	assert_int_equal(st_save(d, b, &y), 0);
	equal = x.size == y.size && !memcmp(x.data, y.data, x.size);
	msgpack_sbuffer_destroy(&x);
	msgpack_sbuffer_destroy(&y);
	return equal;
}

bool fake_same_state(const struct machine *a, const struct machine *b)
{
	bool equal = a->ncpus == b->ncpus && a->ndevs == b->ndevs &&
		     fake_same(&machine_config_desc, &a->cfg, &b->cfg) &&
		     fake_same(&machine_state_desc, &a->saved, &b->saved);

	for (unsigned i = 0; equal && i < a->ncpus; i++)
		equal = fake_same(&vcpu_state_desc, a->cpu[i]->s, b->cpu[i]->s);
	for (unsigned i = 0; equal && i < a->ndevs; i++)
		equal = fake_same(a->dev[i]->ops->state,
			a->dev[i]->ops->saved(a->dev[i]),
			b->dev[i]->ops->saved(b->dev[i]));
	return equal;
}

int fake_file(void)
{
	int fd = memfd_create("snapshot", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

int fake_snapshot(struct machine *m)
{
	struct snap_write_opts o = {.labels_json = "{\"team\": \"blue\"}"};
	struct snap_written w;
	struct err e = {0};
	int fd = fake_file();

	must(snap_write(m, fd, &o, &w, &e), &e, "snap_write");
	return fd;
}

/* ---- images ---- */

void image_make(struct image *img)
{
	struct machine m;
	struct stat st;
	int fd;

	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	fake_page(&m, 0x1000);
	fake_page(&m, 0x3000);
	fake_page(&m, 0x104000);
	fd = fake_snapshot(&m);
	assert_int_equal(fstat(fd, &st), 0);
	img->n = (size_t)st.st_size;
	img->p = malloc(img->n);
	assert_non_null(img->p);
	assert_int_equal(pread_full(fd, img->p, img->n, 0), 0);
	close(fd);
	machine_destroy(&m);
}

void image_copy(struct image *to, const struct image *from)
{
	to->n = from->n;
	to->p = malloc(to->n);
	assert_non_null(to->p);
	memcpy(to->p, from->p, to->n);
}

void image_free(struct image *img)
{
	free(img->p);
	img->p = NULL;
}

void image_store(const struct image *img, int fd)
{
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(pwrite_full(fd, img->p, img->n, 0), 0);
}

int fake_unknown(uint64_t length, uint8_t fill)
{
	struct snap_section *sec;
	struct machine m;
	struct image img;
	struct stat st;
	int fd;

	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	fd = fake_snapshot(&m);
	machine_destroy(&m);
	assert_int_equal(fstat(fd, &st), 0);
	img.n = (size_t)st.st_size + length;
	img.p = malloc(img.n);
	assert_non_null(img.p);
	assert_int_equal(pread_full(fd, img.p, (size_t)st.st_size, 0), 0);
	memset(img.p + st.st_size, fill, length);
	sec = image_section(&img, SNAP_TAG_METADATA);
	memset(img.p + sec->offset, 0, sec->stored_length);
	sec->tag = 0x1234;
	sec->offset = (uint64_t)st.st_size;
	sec->stored_length = sec->raw_length = length;
	image_memory(&img)->data_offset = img.n;
	image_header(&img)->file_length = img.n;
	image_seal(&img);
	image_store(&img, fd);
	image_free(&img);
	return fd;
}

static void *at(struct image *img, uint64_t offset, uint64_t len)
{
	assert_true(range_inside(offset, len, img->n));
	return img->p + offset;
}

struct snap_header *image_header(struct image *img)
{
	return at(img, 0, sizeof(struct snap_header));
}

struct snap_section *image_section(struct image *img, uint64_t tag)
{
	struct snap_header *h = image_header(img);
	struct snap_section *s =
		at(img, h->section_table_offset, h->section_count * sizeof(*s));

	for (uint32_t i = 0; i < h->section_count; i++) {
		if (s[i].tag == tag)
			return &s[i];
	}
	fail_msg("no such section");
	return NULL;
}

struct snap_memory *image_memory(struct image *img)
{
	struct snap_section *s = image_section(img, SNAP_TAG_MEMORY);

	return at(img, s->offset, sizeof(struct snap_memory));
}

struct snap_region *image_region(struct image *img, unsigned i)
{
	return (struct snap_region *)(void *)(image_memory(img) + 1) + i;
}

struct snap_root *image_root(struct image *img, unsigned i)
{
	/* these images have one region, whatever they say */
	return (struct snap_root *)(void *)image_region(img, 1) + i;
}

struct snap_leaf *image_leaf(struct image *img, unsigned i)
{
	return at(img, image_root(img, i)->offset, sizeof(struct snap_leaf));
}

void image_seal(struct image *img)
{
	struct snap_header *h = image_header(img);
	struct snap_section *s = at(img, h->section_table_offset, 64);
	struct snap_memory *m = image_memory(img);

	for (uint32_t i = 0; i < m->root_count && i < 1; i++) {
		struct snap_root *r = image_root(img, i);

		if (r->offset && range_inside(r->offset, 4096, img->n))
			r->crc = crc32c(0, img->p + r->offset, 4096);
	}
	for (uint32_t i = 0; i < h->section_count; i++) {
		if (range_inside(s[i].offset, s[i].stored_length, img->n))
			s[i].crc = crc32c(
				0, img->p + s[i].offset, s[i].stored_length);
	}
	h->section_table_crc = crc32c(0, s, h->section_count * sizeof(*s));
	h->crc = crc32c(0, h, offsetof(struct snap_header, crc));
}

int fake_restore(int fd, struct err *e)
{
	struct machine_config cfg;
	struct snap *s = NULL;
	struct machine m;
	int rc = snap_open(fd, &s, e);

	if (!rc)
		rc = snap_read_config(s, &cfg, e);
	if (rc) {
		snap_close(s);
		return rc;
	}
	if (cfg.memory > 64 * MIB || cfg.cpus > 4)
		fail_msg("the config changed");
	fake_empty(&m, &cfg);
	rc = snap_load_state(s, &m, e);
	if (!rc)
		rc = mem_create(&m.mem, cfg.memory, MEM_PRIVATE, -1, e);
	if (!rc)
		rc = snap_load_memory(s, &m.mem, 0, e);
	machine_destroy(&m);
	snap_close(s);
	return rc;
}

int fake_window(struct psrc *src, uint64_t w, uint8_t *win, struct err *e)
{
	uint8_t stored[PSRC_MAX_STORED] = {0}, scratch[PSRC_WINDOW] = {0};
	struct psrc_window found;
	uint16_t seen;
	int r;

	memset(win, 0, PSRC_WINDOW);
	r = src->ops->map(src, w, true, &found, e);
	if (r)
		return r;
	seen = found.zero;
	for (unsigned i = 0; i < found.n; i++) {
		const struct psrc_piece *p = &found.piece[i];

		assert_int_equal(seen & p->pages, 0);
		seen |= p->pages;
		assert_true(p->file >= 0 && (unsigned)p->file < src->nfiles);
		r = pread_full(
			src->file[p->file], stored, p->length, p->offset);
		if (!r)
			r = src->ops->decode(src, w, p,
				&(struct psrc_buf){stored, scratch, win}, e);
		if (r)
			return r;
	}
	assert_int_equal(seen, 0xffff);
	return 0;
}

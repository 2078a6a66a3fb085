/* Split virtqueues: the rules, every way to break them, and random rings. */
#include "tests/unit/test.h"
#include "tests/unit/fake_guest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define Q      VSOCK_Q_RX
#define NEXT   1u
#define WRITE  2u
#define INDIR  4u
#define BUF(i) (0x100000ULL + (i)*0x1000ULL)

static struct fake_guest g;
static struct virtio_dev *vd;

/* A live device with empty rings. */
static int setup(void **state)
{
	(void)state;
	fg_init(&g);
	vd = &g.v->vd;
	fg_set(&g, FG_R_STATUS, 3);
	fg_set(&g, FG_R_DRIVER_FEATURES_SEL, 1);
	fg_set(&g, FG_R_DRIVER_FEATURES, 1);
	fg_set(&g, FG_R_STATUS, 11);
	fg_driver_queues(&g);
	fg_set(&g, FG_R_STATUS, 15);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fg_fini(&g);
	return 0;
}

static int pop(struct virtq_chain *c)
{
	return virtq_pop(vd, Q, c);
}

static void take_chains(void **state)
{
	struct virtq_chain c;
	char text[32] = "";

	(void)state;
	assert_int_equal(pop(&c), 0);
	fg_desc(&g, Q, 5, BUF(0), 3, NEXT, 9);
	fg_desc(&g, Q, 9, BUF(1), 5, NEXT, 2);
	fg_desc(&g, Q, 2, BUF(2), 4, NEXT | WRITE, 3);
	fg_desc(&g, Q, 3, BUF(3), 6, WRITE, 77);
	memcpy(fg_at(&g, BUF(0), 3), "abc", 3);
	memcpy(fg_at(&g, BUF(1), 5), "defgh", 5);
	fg_avail(&g, Q, 5);
	assert_int_equal(pop(&c), 1);
	assert_int_equal(c.head, 5);
	assert_int_equal(c.nread, 2);
	assert_int_equal(c.nwrite, 2);
	assert_int_equal(c.read_len, 8);
	assert_int_equal(c.write_len, 10);
	assert_int_equal(virtq_chain_read(&c, 0, text, 32), 8);
	assert_string_equal(text, "abcdefgh");
	assert_int_equal(virtq_chain_read(&c, 2, text, 3), 3);
	assert_memory_equal(text, "cde", 3);
	assert_int_equal(virtq_chain_read(&c, 8, text, 3), 0);
	assert_int_equal(virtq_chain_read(&c, 1000, text, 3), 0);
	assert_int_equal(virtq_chain_write(&c, 2, "12345678901", 11), 8);
	assert_memory_equal(fg_at(&g, BUF(2), 4),
		"\0\0"
		"12",
		4);
	assert_memory_equal(fg_at(&g, BUF(3), 7), "345678\0", 7);
	assert_int_equal(pop(&c), 0);

	virtq_unpop(vd, Q);
	assert_int_equal(pop(&c), 1);
	assert_int_equal(virtq_push(vd, Q, c.head, 10), 0);
	assert_int_equal(fg_used_idx(&g, Q), 1);
	assert_memory_equal(
		fg_at(&g, FG_USED(Q) + 4, 8), "\5\0\0\0\n\0\0\0", 8);
}

/* Both indices run over 65535 and keep their meaning. */
static void wrap_around(void **state)
{
	struct virtq_chain c;

	(void)state;
	for (uint32_t i = 0; i < 70000; i++) {
		uint16_t head = (uint16_t)(i % FG_QSIZE);
		uint32_t elem[2];

		fg_desc(&g, Q, head, BUF(0), i % 1000 + 1, WRITE, 0);
		fg_avail(&g, Q, head);
		assert_int_equal(pop(&c), 1);
		assert_int_equal(c.head, head);
		assert_int_equal(c.write_len, i % 1000 + 1);
		assert_int_equal(virtq_push(vd, Q, head, i), 0);
		assert_int_equal(fg_used_idx(&g, Q), (uint16_t)(i + 1));
		memcpy(elem, fg_at(&g, FG_USED(Q) + 4 + 8ULL * head, 8), 8);
		assert_int_equal(elem[0], head);
		assert_int_equal(elem[1], i);
		assert_int_equal(pop(&c), 0);
	}
}

static void a_full_ring_and_one_more(void **state)
{
	struct virtq_chain c;

	(void)state;
	for (uint16_t i = 0; i < FG_QSIZE; i++) {
		fg_desc(&g, Q, i, BUF(0), 1, WRITE, 0);
		fg_avail(&g, Q, i);
	}
	for (unsigned i = 0; i < FG_QSIZE; i++)
		assert_int_equal(pop(&c), 1);
	assert_int_equal(pop(&c), 0);
	for (uint16_t i = 0; i < FG_QSIZE + 1; i++)
		fg_avail(&g, Q, 0);
	assert_int_equal(pop(&c), -EBADMSG);
}

static void longest_chain(void **state)
{
	struct virtq_chain c;

	(void)state;
	for (uint16_t i = 0; i < FG_QSIZE; i++)
		fg_desc(&g, Q, i, BUF(i), 16, i + 1u < FG_QSIZE ? NEXT : 0,
			(uint16_t)(i + 1));
	fg_avail(&g, Q, 0);
	assert_int_equal(pop(&c), 1);
	assert_int_equal(c.nread, FG_QSIZE);
	assert_int_equal(c.read_len, 16 * FG_QSIZE);
}

/* One broken descriptor (index 0, maybe followed by 1). */
struct bad {
	const char *name;
	uint64_t addr0;
	uint32_t len0;
	uint16_t flags0, next0;
	uint64_t addr1;
	uint32_t len1;
	uint16_t flags1;
	uint16_t head;
};

static void malformed(void **state)
{
	static const struct bad bad[] = {
		{"head outside", BUF(0), 1, 0, 0, 0, 0, 0, FG_QSIZE},
		{"head far outside", BUF(0), 1, 0, 0, 0, 0, 0, 65535},
		{"next outside", BUF(0), 1, NEXT, FG_QSIZE, 0, 0, 0, 0},
		{"next far outside", BUF(0), 1, NEXT, 65535, 0, 0, 0, 0},
		{"points to itself", BUF(0), 1, NEXT, 0, 0, 0, 0, 0},
		{"loop of two", BUF(0), 1, NEXT, 1, BUF(1), 1, NEXT, 0},
		{"indirect", BUF(0), 32, INDIR, 0, 0, 0, 0, 0},
		{"indirect and next", BUF(0), 32, INDIR | NEXT, 1, BUF(1), 1, 0,
			0},
		{"empty", BUF(0), 0, 0, 0, 0, 0, 0, 0},
		{"empty writable", BUF(0), 0, WRITE, 0, 0, 0, 0, 0},
		{"empty second", BUF(0), 1, NEXT, 1, BUF(1), 0, 0, 0},
		{"read after write", BUF(0), 1, NEXT | WRITE, 1, BUF(1), 1, 0,
			0},
		{"at the end of memory", FG_MEMORY, 1, 0, 0, 0, 0, 0, 0},
		{"over the end", FG_MEMORY - 1, 2, 0, 0, 0, 0, 0, 0},
		{"in the hole", MEM_HOLE_START, 4, WRITE, 0, 0, 0, 0, 0},
		{"address wraps", UINT64_MAX - 1, 4, 0, 0, 0, 0, 0, 0},
		{"address and length wrap", UINT64_MAX, UINT32_MAX, WRITE, 0, 0,
			0, 0, 0},
		{"length huge", BUF(0), UINT32_MAX, 0, 0, 0, 0, 0, 0},
		{"second outside", BUF(0), 1, NEXT, 1, 1ULL << 40, 1, 0, 0},
	};
	struct virtq_chain c;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct bad *b = &bad[i];
		int r;

		fg_clear_rings(&g);
		vd->s->vq[Q].next_avail = 0;
		fg_desc(&g, Q, 0, b->addr0, b->len0, b->flags0, b->next0);
		fg_desc(&g, Q, 1, b->addr1, b->len1, b->flags1, 0);
		fg_avail(&g, Q, b->head);
		r = pop(&c);
		if (r != -EBADMSG)
			fail_msg("%s: %d", b->name, r);
		/* Not taken: it would be looked at again. */
		assert_int_equal(vd->s->vq[Q].next_avail, 0);
	}
}

/* 64 times 64 MiB is 2^32: the sum of lengths must not wrap to 0. */
static void length_overflow(void **state)
{
	const uint32_t size = 64 * MIB;
	struct virtq_chain c;

	(void)state;
	mem_destroy(&g.m.mem);
	assert_int_equal(mem_create(&g.m.mem, size, MEM_PRIVATE, -1, NULL), 0);
	for (uint16_t i = 0; i < FG_QSIZE; i++)
		fg_desc(&g, Q, i, 0, size, i + 1u < FG_QSIZE ? NEXT : 0,
			(uint16_t)(i + 1));
	fg_avail(&g, Q, 0);
	assert_int_equal(pop(&c), -EBADMSG);
	/* one byte less fits */
	fg_desc(&g, Q, 0, 0, size - 1, NEXT, 1);
	assert_int_equal(pop(&c), 1);
	assert_int_equal(c.read_len, UINT32_MAX);
}

static void index_jumps(void **state)
{
	struct virtq_chain c;
	uint16_t *avail = fg_at(&g, FG_AVAIL(Q), 4);

	(void)state;
	fg_desc(&g, Q, 0, BUF(0), 1, 0, 0);
	for (uint32_t idx = FG_QSIZE + 1; idx < 65536; idx += 97) {
		avail[1] = (uint16_t)idx;
		assert_int_equal(pop(&c), -EBADMSG);
	}
	avail[1] = FG_QSIZE;
	assert_int_equal(pop(&c), 1);
}

static void not_live(void **state)
{
	struct virtq_chain c;

	(void)state;
	fg_desc(&g, Q, 0, BUF(0), 1, 0, 0);
	fg_avail(&g, Q, 0);
	assert_int_equal(virtq_pop(vd, VSOCK_NQUEUES, &c), 0);
	assert_int_equal(virtq_pop(vd, UINT32_MAX, &c), 0);
	vd->s->vq[Q].ready = 0;
	assert_int_equal(pop(&c), 0);
	assert_int_equal(virtq_push(vd, Q, 0, 0), 0);
	assert_int_equal(fg_used_idx(&g, Q), 0);
	vd->s->vq[Q].ready = 1;
	vd->s->status |= VIRTIO_S_NEEDS_RESET;
	assert_int_equal(pop(&c), 0);
	vd->s->status &= ~VIRTIO_S_NEEDS_RESET;
	vd->s->status |= VIRTIO_S_FAILED;
	assert_int_equal(pop(&c), 0);
}

/* Values as a hostile snapshot could hold them. */
static void hostile_state(void **state)
{
	static const struct virtq_state bad[] = {
		{.desc = FG_DESC(Q), .avail = FG_AVAIL(Q), .used = 0},
		{.size = 3},
		{.size = 65535},
		{.size = 512},
		{.size = 64, .desc = 8},
		{.size = 64, .avail = 1},
		{.size = 64, .used = 2},
		{.size = 64, .desc = FG_MEMORY - 16},
		{.size = 64, .avail = FG_MEMORY - 4},
		{.size = 64, .used = FG_MEMORY - 4},
		{.size = 64, .desc = UINT64_MAX - 15},
		{.size = 64, .avail = UINT64_MAX - 1},
		{.size = 64, .used = UINT64_MAX - 3},
	};
	struct virtq_chain c;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		vd->s->vq[Q] = bad[i];
		vd->s->vq[Q].ready = 1;
		if (pop(&c) != -EBADMSG)
			fail_msg("case %zu", i);
		assert_false(virtq_valid(&g.m.mem, &bad[i]));
		virtq_set_no_notify(vd, Q, true);
		(void)virtq_wants_irq(vd, Q);
	}
	vd->s->vq[Q] = (struct virtq_state){
		.size = 64, .used = FG_MEMORY - 4, .ready = 1};
	assert_int_equal(virtq_push(vd, Q, 0, 0), -EBADMSG);
}

static void suppression(void **state)
{
	uint16_t *avail = fg_at(&g, FG_AVAIL(Q), 4);
	uint16_t *used = fg_at(&g, FG_USED(Q), 4);

	(void)state;
	assert_true(virtq_wants_irq(vd, Q));
	avail[0] = 1;
	assert_false(virtq_wants_irq(vd, Q));
	avail[0] = 2; /* an unknown bit */
	assert_true(virtq_wants_irq(vd, Q));
	virtq_set_no_notify(vd, Q, true);
	assert_int_equal(used[0], 1);
	virtq_set_no_notify(vd, Q, false);
	assert_int_equal(used[0], 0);
}

static void check_chain(const struct virtq_chain *c, uint32_t round)
{
	const uint8_t *lo = g.m.mem.map, *hi = lo + FG_MEMORY;
	uint64_t rd = 0, wr = 0;

	if (c->nread + c->nwrite > FG_QSIZE || !(c->nread + c->nwrite))
		fail_msg("seed %u: %u + %u segments", round, c->nread,
			c->nwrite);
	for (unsigned i = 0; i < c->nread + (unsigned)c->nwrite; i++) {
		const uint8_t *p = c->seg[i].p;

		if (!c->seg[i].len || p < lo || p >= hi ||
			c->seg[i].len > (size_t)(hi - p))
			fail_msg("seed %u: segment %u", round, i);
		*(i < c->nread ? &rd : &wr) += c->seg[i].len;
	}
	if (rd != c->read_len || wr != c->write_len)
		fail_msg("seed %u: lengths", round);
}

/* Random rings: whatever comes out keeps to the rules. */
static void random_rings(void **state)
{
	unsigned good = 0, broken = 0;

	(void)state;
	for (uint32_t round = 1; round <= 3000; round++) {
		uint32_t seed = round * 2654435761u;
		struct virtq_chain c;
		int r;

		fg_clear_rings(&g);
		vd->s->vq[Q].next_avail = 0;
		for (uint16_t i = 0; i < FG_QSIZE; i++) {
			uint32_t x = fg_random(&seed);
			uint64_t addr = x % 16 ? fg_random(&seed) % FG_MEMORY
					       : (uint64_t)x << 32 | x;
			uint16_t flags = (uint16_t)(x >> 8 & 3);

			if (x >> 16 & 1)
				flags &= WRITE;
			fg_desc(&g, Q, i, addr, fg_random(&seed) % 3000, flags,
				(uint16_t)(fg_random(&seed) % (FG_QSIZE + 1)));
		}
		for (unsigned i = 0; i < 32; i++)
			fg_avail(&g, Q,
				(uint16_t)(fg_random(&seed) % (FG_QSIZE + 1)));
		for (unsigned i = 0; i < 32; i++) {
			r = pop(&c);
			if (r < 0) {
				assert_int_equal(r, -EBADMSG);
				broken++;
				break;
			}
			assert_int_equal(r, 1);
			check_chain(&c, round);
			good++;
		}
	}
	/* The generator reaches both kinds. */
	assert_true(good > 1000);
	assert_true(broken > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(take_chains, setup, teardown),
		cmocka_unit_test_setup_teardown(wrap_around, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_full_ring_and_one_more, setup, teardown),
		cmocka_unit_test_setup_teardown(longest_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(
			length_overflow, setup, teardown),
		cmocka_unit_test_setup_teardown(index_jumps, setup, teardown),
		cmocka_unit_test_setup_teardown(not_live, setup, teardown),
		cmocka_unit_test_setup_teardown(hostile_state, setup, teardown),
		cmocka_unit_test_setup_teardown(suppression, setup, teardown),
		cmocka_unit_test_setup_teardown(random_rings, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/unit/test.h"
#include "tests/unit/snap_hostile.h"
#include "core/crc32c.h"

#include <errno.h>
#include <string.h>

static struct snap_chunk *chunk(struct image *img, unsigned n)
{
	return &image_leaf(img, 0)->chunk[n];
}

static struct snap_section *config(struct image *img)
{
	return image_section(img, SNAP_TAG_CONFIG);
}

static void major(struct image *img)
{
	image_header(img)->major = 7;
}
static void min_reader(struct image *img)
{
	image_header(img)->minor = 4;
	image_header(img)->min_reader_minor = 3;
}
static void version_zero(struct image *img)
{
	image_header(img)->major = 0;
}
static void arch(struct image *img)
{
	image_header(img)->arch = 77;
}
static void other_arch(struct image *img)
{
	image_header(img)->arch = SNAP_ARCH_AARCH64;
}
static void page_size(struct image *img)
{
	image_header(img)->page_size = 16384;
}
static void unknown_flag(struct image *img)
{
	image_header(img)->flags |= 1U << 9;
}
static void unfinished(struct image *img)
{
	image_header(img)->flags = 0;
}
static void diff(struct image *img)
{
	image_header(img)->min_reader_minor = 1;
	image_header(img)->flags |= SNAP_FLAG_DIFF;
	image_header(img)->parent_uuid[3] = 1;
	/* a diff counts only what its leaves say */
	image_memory(img)->pages_zero = image_root(img, 0)->pages_zero;
}
static void diff_no_parent(struct image *img)
{
	image_header(img)->flags |= SNAP_FLAG_DIFF;
}
static void diff_min_reader(struct image *img)
{
	diff(img);
	image_header(img)->min_reader_minor = 0;
}
static void parent_path_tail(struct image *img)
{
	diff(img);
	memcpy(image_header(img)->parent_path, "x\0y", 3);
}
static void parent_no_diff(struct image *img)
{
	image_header(img)->parent_digest[0] = 1;
}
static void no_uuid(struct image *img)
{
	memset(image_header(img)->uuid, 0, 16);
}
static void header_reserved(struct image *img)
{
	image_header(img)->reserved[2931] = 1;
}
static void writer_text(struct image *img)
{
	image_header(img)->writer[0] = '\x1b';
}
static void writer_tail(struct image *img)
{
	image_header(img)->writer[31] = 'x';
}
static void no_sections(struct image *img)
{
	struct snap_header *h = image_header(img);

	h->section_count = 0;
	h->crc = crc32c(0, h, offsetof(struct snap_header, crc));
}
static void many_sections(struct image *img)
{
	struct snap_header *h = image_header(img);

	h->section_count = 0xffffffff;
	h->crc = crc32c(0, h, offsetof(struct snap_header, crc));
}
static void table_outside(struct image *img)
{
	struct snap_header *h = image_header(img);

	h->section_table_offset = UINT64_MAX - 7;
	h->crc = crc32c(0, h, offsetof(struct snap_header, crc));
}
static void table_in_header(struct image *img)
{
	struct snap_header *h = image_header(img);

	h->section_table_offset = 8;
	h->crc = crc32c(0, h, offsetof(struct snap_header, crc));
}
static void huge_file_length(struct image *img)
{
	image_header(img)->file_length = UINT64_MAX - 4095;
}
static void section_overflow(struct image *img)
{
	config(img)->offset = UINT64_MAX - 7;
}
static void section_long(struct image *img)
{
	config(img)->stored_length = UINT64_MAX;
	config(img)->raw_length = UINT64_MAX;
}
static void section_empty(struct image *img)
{
	config(img)->stored_length = 0;
	config(img)->raw_length = 0;
}
static void section_odd(struct image *img)
{
	config(img)->offset += 4;
}
static void section_raw_length(struct image *img)
{
	config(img)->raw_length++;
}
static void section_reserved(struct image *img)
{
	config(img)->reserved = 1;
}
static void section_version_zero(struct image *img)
{
	config(img)->version = 0;
}
static void section_version_new(struct image *img)
{
	config(img)->version = 9;
}
static void section_zstd(struct image *img)
{
	config(img)->codec = SNAP_CODEC_ZSTD;
}
static void section_twice(struct image *img)
{
	image_section(img, SNAP_TAG_METADATA)->tag = SNAP_TAG_CONFIG;
}
static void section_overlap(struct image *img)
{
	config(img)->offset = image_section(img, SNAP_TAG_MACHINE)->offset;
}
static void section_on_table(struct image *img)
{
	config(img)->offset = 4096;
}
static void section_unknown_required(struct image *img)
{
	struct snap_section *s = image_section(img, SNAP_TAG_METADATA);

	s->tag = 0x123456789abcdef0;
	s->flags = SNAP_SECTION_REQUIRED;
}
static void section_machine_gone(struct image *img)
{
	struct snap_section *s = image_section(img, SNAP_TAG_MACHINE);

	s->tag = 0x123456789abcdef0;
	s->flags = 0;
}
static void gone(struct image *img, uint64_t tag)
{
	struct snap_section *s = image_section(img, tag);

	s->tag = 0x123456789abcdef0;
	s->flags = 0;
}
static void section_serial_gone(struct image *img)
{
	gone(img, serial_ops.section);
}
static void section_ioapic_gone(struct image *img)
{
	gone(img, ioapic_ops.section);
}
static void section_vsock_gone(struct image *img)
{
	gone(img, vsock_ops.section);
}
static void section_rng_gone(struct image *img)
{
	gone(img, rng_ops.section);
}
static void section_acpi_gone(struct image *img)
{
	gone(img, acpi_ops.section);
}
static void section_block_gone(struct image *img)
{
	gone(img, block_ops.section);
}
static void section_net_gone(struct image *img)
{
	gone(img, net_ops.section);
}
static void section_third_disk(struct image *img)
{
	struct snap_section *s = image_section(img, SNAP_TAG_METADATA);

	s->tag = block_ops.section;
	s->index = 2;
}
static void section_second_metadata(struct image *img)
{
	image_section(img, SNAP_TAG_METADATA)->index = 1;
}
static void section_second_memory(struct image *img)
{
	struct snap_section *a = image_section(img, SNAP_TAG_METADATA);
	struct snap_section *b = image_section(img, SNAP_TAG_MEMORY);
	struct snap_section meta = *a;

	/* image_memory() takes the first */
	*a = *b;
	*b = meta;
	b->tag = SNAP_TAG_MEMORY;
	b->index = 1;
	b->flags = SNAP_SECTION_REQUIRED;
}
static void section_memory_gone(struct image *img)
{
	struct snap_section *s = image_section(img, SNAP_TAG_MEMORY);

	s->index = 1;
	/* image_seal() looks at the section by tag, which stays */
}
static void vcpu_index(struct image *img)
{
	image_section(img, SNAP_TAG_VCPU)->index = 40;
}
static void two_versions(struct image *img)
{
	/* "v" of the machine's map is its second value: 0x.. a1 'v' 01 */
	img->p[image_section(img, SNAP_TAG_MACHINE)->offset + 3] = 0;
}
static void deep_msgpack(struct image *img)
{
	memset(img->p + config(img)->offset, 0x91, config(img)->stored_length);
}
static void huge_map(struct image *img)
{
	memcpy(img->p + config(img)->offset, "\xdf\xff\xff\xff\xff", 5);
}
static void config_memory(struct image *img)
{
	uint8_t *p = img->p + config(img)->offset;
	uint8_t *at = memmem(p, 64, "memory\xce", 7);

	assert_non_null(at);
	at[8] = (uint8_t)(at[8] + 0x20); /* 0x00400000 -> 0x00600000 */
}
static void chunk_size(struct image *img)
{
	image_memory(img)->chunk_size = 4096;
}
static void region_count(struct image *img)
{
	image_memory(img)->region_count = 0xffffffff;
}
static void root_count(struct image *img)
{
	image_memory(img)->root_count = 0x08000001;
}
static void root_count_max(struct image *img)
{
	image_memory(img)->root_count = SNAP_MAX_ROOTS;
}
static void memory_reserved(struct image *img)
{
	image_memory(img)->reserved[1] = 1;
}
static void memory_size(struct image *img)
{
	image_memory(img)->memory_size += 4096;
}
static void data_offset_zero(struct image *img)
{
	image_memory(img)->data_offset = 0;
}
static void data_offset_outside(struct image *img)
{
	image_memory(img)->data_offset = 1ULL << 62;
}
static void counts(struct image *img)
{
	image_memory(img)->pages_present++;
	image_memory(img)->pages_zero--;
}
static void region_huge(struct image *img)
{
	image_region(img, 0)->size = UINT64_MAX - 65535;
}
static void region_wraps(struct image *img)
{
	image_region(img, 0)->gpa = UINT64_MAX - 65535;
}
static void region_zero(struct image *img)
{
	image_region(img, 0)->size = 0;
}
static void region_leaf(struct image *img)
{
	image_region(img, 0)->first_leaf = 1;
}
static void region_leaves(struct image *img)
{
	image_region(img, 0)->leaf_count = 0xffffffff;
}
static void region_moved(struct image *img)
{
	image_region(img, 0)->gpa = 65536;
}
static void region_odd(struct image *img)
{
	image_region(img, 0)->size += 4096;
}
static void root_odd(struct image *img)
{
	image_root(img, 0)->offset += 8;
}
static void root_early(struct image *img)
{
	image_root(img, 0)->offset = 4096;
}
static void root_outside(struct image *img)
{
	image_root(img, 0)->offset = img->n;
}
static void root_overflow(struct image *img)
{
	image_root(img, 0)->offset = UINT64_MAX - 4095;
}
static void root_counts(struct image *img)
{
	image_root(img, 0)->pages_zero--;
}
static void root_of_none(struct image *img)
{
	image_root(img, 0)->offset = 0;
}
static void chunk_both(struct image *img)
{
	chunk(img, 0)->zero |= 2;
}
static void chunk_missing(struct image *img)
{
	chunk(img, 0)->zero &= 0xfffe;
}
static void chunk_mask(struct image *img)
{
	chunk(img, 0)->present |= 1;
	chunk(img, 0)->zero &= 0xfffe;
}
static void chunk_length(struct image *img)
{
	chunk(img, 0)->stored_length = 4096;
}
static void chunk_long(struct image *img)
{
	chunk(img, 0)->raw_length = 0xfffff000;
	chunk(img, 0)->stored_length = 0xfffff000;
}
static void chunk_file(struct image *img)
{
	chunk(img, 0)->file = 1;
}
static void chunk_zstd(struct image *img)
{
	chunk(img, 0)->codec = SNAP_CODEC_ZSTD;
}
static void chunk_codec(struct image *img)
{
	chunk(img, 0)->codec = 200;
}
static void chunk_reserved(struct image *img)
{
	chunk(img, 0)->reserved = 1;
}
static void chunk_stored_crc(struct image *img)
{
	chunk(img, 0)->stored_crc = 1;
}
static void chunk_odd(struct image *img)
{
	chunk(img, 0)->offset += 512;
}
static void chunk_early(struct image *img)
{
	chunk(img, 0)->offset = 0;
}
static void chunk_outside(struct image *img)
{
	chunk(img, 0)->offset = img->n - 4096;
}
static void chunk_overflow(struct image *img)
{
	chunk(img, 0)->offset = UINT64_MAX - 4095;
}
static void chunk_empty_offset(struct image *img)
{
	chunk(img, 5)->offset = 4096;
}
static void chunk_behind_region(struct image *img)
{
	/* 4 MiB are 64 chunks, the leaf has room for 128 */
	chunk(img, 64)->zero = 0xffff;
}
static void chunk_crc(struct image *img)
{
	chunk(img, 0)->crc++;
}
static void chunk_overlaps(struct image *img)
{
	struct snap_chunk *a = chunk(img, 0), *b = chunk(img, 16);

	b->offset = a->offset + 4096;
	b->crc = crc32c(0, img->p + b->offset, 4096);
}
static void chunk_is_leaf(struct image *img)
{
	struct snap_chunk *b = chunk(img, 16);

	/* a leaf that contains its own checksum is hard to make: point to the
	 * header of the data area's last page instead, which is the leaf */
	b->offset = image_root(img, 0)->offset;
}
static void garbage_in_gap(struct image *img)
{
	img->p[image_memory(img)->data_offset - 1] = 1;
}

#define BAD(fn, text)                                                          \
	{                                                                      \
#fn, fn, -EBADMSG, text, false, false                          \
	}
#define UNSUP(fn, text)                                                        \
	{                                                                      \
#fn, fn, -EOPNOTSUPP, text, false, false                       \
	}
#define ELSEWHERE(fn, code, text)                                              \
	{                                                                      \
#fn, fn, code, text, false, true                               \
	}
#define VERIFY(fn, text)                                                       \
	{                                                                      \
#fn, fn, -EBADMSG, text, true, false                           \
	}

/* clang-format off */
const struct hostile hostile_cases[] = {
	UNSUP(major, "snapshot format version 7.0, this thaw reads up to 1.1"),
	UNSUP(min_reader, "snapshot format version 1.4 (needs a newer reader)"),
	UNSUP(version_zero, "version 0.0"),
	BAD(arch, "architecture 77"),
	ELSEWHERE(other_arch, -EOPNOTSUPP, "another processor architecture"),
	BAD(page_size, "page size"),
	UNSUP(unknown_flag, "unsupported by this version"),
	BAD(unfinished, "never finished"),
	ELSEWHERE(diff, -ENOENT, "its parent 00000001-0000-0000-0000-000000000000 is missing"),
	BAD(diff_no_parent, "without parent"),
	BAD(diff_min_reader, "readers that know none"),
	BAD(parent_path_tail, "something behind its end"),
	BAD(parent_no_diff, "no diff"),
	BAD(no_uuid, "uuid"),
	BAD(header_reserved, "reserved"),
	BAD(writer_text, "not a text"),
	BAD(writer_tail, "not a text"),
	BAD(no_sections, "0 sections"),
	BAD(many_sections, "4294967295 sections"),
	BAD(table_outside, "section table is not inside"),
	BAD(table_in_header, "section table is not inside"),
	BAD(huge_file_length, "cut short"),
	BAD(section_overflow, "not inside the file"),
	BAD(section_long, "not inside the file"),
	BAD(section_empty, "not inside the file"),
	BAD(section_odd, "not inside the file"),
	BAD(section_raw_length, "two lengths"),
	BAD(section_reserved, "reserved"),
	BAD(section_version_zero, "bad tag, version"),
	UNSUP(section_version_new, "version 9, this thaw reads up to 3"),
	UNSUP(section_zstd, "codec 1 is unsupported by this version"),
	BAD(section_twice, "is there twice"),
	BAD(section_overlap, "overlap"),
	BAD(section_on_table, "overlaps the section table"),
	UNSUP(section_unknown_required, "is required and unknown"),
	BAD(section_machine_gone, "there is no section for machine"),
	BAD(section_serial_gone, "there is no section for serial 0"),
	BAD(section_ioapic_gone, "there is no section for ioapic 0"),
	BAD(section_vsock_gone, "there is no section for vsock 0"),
	BAD(section_rng_gone, "there is no section for rng 0"),
	BAD(section_acpi_gone, "there is no section for acpi 0"),
	BAD(section_block_gone, "there is no section for block 0"),
	BAD(section_net_gone, "there is no section for net 0"),
	BAD(section_third_disk, "the configuration has no such part"),
	BAD(section_second_metadata, "the configuration has no such part"),
	BAD(section_second_memory, "the configuration has no such part"),
	BAD(section_memory_gone, "there is no memory section"),
	BAD(vcpu_index, "there is no section for vcpu 0"),
	BAD(two_versions, "v: not a version"),
	BAD(deep_msgpack, "too deep"),
	BAD(huge_map, "too many values"),
	BAD(config_memory, "the memory section has"),
	BAD(chunk_size, "not a layout of format 1"),
	BAD(region_count, "not a layout of format 1"),
	BAD(root_count, "not a layout of format 1"),
	BAD(root_count_max, "need"),
	BAD(memory_reserved, "not a layout of format 1"),
	BAD(memory_size, "do not add up"),
	BAD(data_offset_zero, "lies among the memory data"),
	BAD(data_offset_outside, "outside the file"),
	BAD(counts, "do not add up"),
	BAD(region_huge, "memory region 0"),
	BAD(region_wraps, "memory region 0"),
	BAD(region_zero, "memory region 0"),
	BAD(region_leaf, "memory region 0"),
	BAD(region_leaves, "memory region 0"),
	ELSEWHERE(region_moved, -EBADMSG, "not those of the machine"),
	BAD(region_odd, "memory region 0"),
	BAD(root_odd, "root entry 0"),
	BAD(root_early, "root entry 0"),
	BAD(root_outside, "root entry 0"),
	BAD(root_overflow, "root entry 0"),
	BAD(root_counts, "do not add up"),
	BAD(root_of_none, "root entry 0"),
	BAD(chunk_both, "a page is present and zero"),
	BAD(chunk_missing, "a page is missing"),
	BAD(chunk_mask, "wrong length"),
	BAD(chunk_length, "wrong length"),
	BAD(chunk_long, "wrong length"),
	BAD(chunk_file, "in no file of this chain"),
	BAD(chunk_zstd, "wrong length"),
	UNSUP(chunk_codec, "codec 200 is unsupported by this version"),
	BAD(chunk_reserved, "reserved"),
	BAD(chunk_stored_crc, "reserved"),
	BAD(chunk_odd, "at no multiple of 4096"),
	BAD(chunk_early, "not inside the file"),
	BAD(chunk_outside, "not inside the file"),
	BAD(chunk_overflow, "not inside the file"),
	BAD(chunk_empty_offset, "data of no page"),
	BAD(chunk_behind_region, "chunks behind the region"),
	BAD(chunk_crc, "checksum mismatch"),
	VERIFY(chunk_overlaps, "overlaps bytes"),
	BAD(chunk_is_leaf, "checksum mismatch"),
	VERIFY(garbage_in_gap, "belongs to nothing and is not zero"),
};
/* clang-format on */

const size_t hostile_count = ARRAY_SIZE(hostile_cases);

static bool seals_itself(const struct hostile *h)
{
	return h->change == many_sections || h->change == no_sections ||
	       h->change == table_outside || h->change == table_in_header;
}

void hostile_image(
	const struct hostile *h, const struct image *good, struct image *out)
{
	image_copy(out, good);
	h->change(out);
	if (!seals_itself(h))
		image_seal(out);
}

/* Parts of "thaw bench snapshot". */
#ifndef THAW_BENCH_SNAPFILE_H
#define THAW_BENCH_SNAPFILE_H

#include "bench/bench.h"
#include "core/mem.h"

/* Count one that worked. */
int bench_count(struct bench *b, struct result *r, double v);
/* Write len bytes past the page cache and sync them, as dd oflag=direct
 * conv=fsync would, into a new file in b's directory: microseconds, or a
 * negative errno. */
double bench_dd(struct bench *b, uint64_t len);
/* A page that compresses about as guests' pages do: every fourth word is
 * random. */
void bench_fill_page(struct mem *mem, uint64_t page, uint64_t seed);

/* A machine of the built-in guest that tracks what it changes. */
int bench_machine(struct bench *b, uint64_t memory, char id[64]);
int bench_machine_stop(struct bench *b, const char *id);

/* A snapshot of a machine, by the API. */
struct shot {
	unsigned number; /* of the file; what a diff builds on stays */
	unsigned level;  /* of zstd; 0: raw */
	const char *dir; /* NULL: b's */
	/* Results. */
	double pause_us, total_us;
	uint64_t bytes;
	char path[128];
};
/* r: gets the parts of the pause; or NULL. */
int bench_shoot(struct bench *b, const char *id, const char *type, bool live,
	struct shot *s, struct result *r);

/* snapfull.c: of a large machine, and what reads it again. */
int bench_full(struct bench *b);
/* Without a guest: a machine that is made up, written and read by the library
 * itself. */
int bench_snapfile(struct bench *b);

#endif

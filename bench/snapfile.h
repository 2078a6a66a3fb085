/* Parts of "thaw bench snapshot" that need no guest: a machine that is made up,
 * written and read by the library itself. */
#ifndef THAW_BENCH_SNAPFILE_H
#define THAW_BENCH_SNAPFILE_H

#include "bench/bench.h"

/* Write len bytes past the page cache and sync them, as dd oflag=direct
 * conv=fsync would, into a new file in b's directory: microseconds, or a
 * negative errno. */
double bench_dd(struct bench *b, uint64_t len);

int bench_snapfile(struct bench *b);

#endif

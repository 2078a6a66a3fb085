/*
 * Stands in for libFuzzer: main() for a fuzz target. Runs every file of
 * tests/fuzz/corpus/NAME (the executable is fuzz_NAME; other folders or files
 * as arguments), then mutations of them, the same ones each time, so that
 * "make check" fuzzes a little with no more than a C compiler.
 *
 * FUZZ_RUNS: how many mutations (default 20000); after FUZZ_SECONDS (default
 * 5) no new one is begun.
 */
#include "core/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX (1 * MIB)
#define FILES_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	uint8_t *data; /* owned */
	size_t size;
};

struct corpus {
	struct input in[FILES_MAX];
	size_t n;
};

static int load_file(struct corpus *c, const char *path)
{
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	struct input *in = &c->in[c->n];
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		perror(path);
		return -1;
	}
	if (!S_ISREG(st.st_mode) || c->n == FILES_MAX)
		return 0;
	in->size = min_u64((uint64_t)st.st_size, INPUT_MAX);
	in->data = malloc(in->size + 1);
	if (!in->data)
		return -1;
	c->n++;
	if (read_full(fd, in->data, in->size)) {
		perror(path);
		return -1;
	}
	return 0;
}

/* Files in the order of their names: the mutations depend on it. */
static int load_folder(struct corpus *c, const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort), r = 0;

	if (n < 0 && errno == ENOTDIR)
		return load_file(c, path);
	if (n < 0 && errno == ENOENT)
		return 0;
	if (n < 0) {
		perror(path);
		return -1;
	}
	for (int i = 0; i < n; i++) {
		char file[4096];

		(void)snprintf(
			file, sizeof(file), "%s/%s", path, names[i]->d_name);
		if (!r && names[i]->d_name[0] != '.')
			r = load_file(c, file);
		free(names[i]);
	}
	free(names);
	return r;
}

static uint64_t next(uint64_t *seed)
{
	*seed ^= *seed << 13; /* xorshift64 */
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* One small change to the n bytes at buf, which has room for one more. */
static size_t mutate(uint8_t *buf, size_t n, uint64_t *seed)
{
	static const uint8_t edge[] = {0, 1, 0x7f, 0x80, 0xff, 0xc1, 0xdf};
	uint64_t r = next(seed);
	size_t at = n ? (size_t)(r >> 8) % n : 0;

	if (!n) {
		buf[0] = (uint8_t)(r >> 40);
		return 1;
	}
	switch (r % 6) {
	case 0:
		buf[at] ^= (uint8_t)(1U << (r >> 40) % 8);
		return n;
	case 1:
		buf[at] = (uint8_t)(r >> 40);
		return n;
	case 2:
		buf[at] = edge[(r >> 40) % sizeof(edge)];
		return n;
	case 3: /* one byte less */
		memmove(buf + at, buf + at + 1, n - at - 1);
		return n - 1;
	case 4: /* one more */
		memmove(buf + at + 1, buf + at, n - at);
		return n + 1;
	default: /* the front only */
		return at;
	}
}

static void run(const uint8_t *data, size_t size)
{
	/* Exactly as long as the input, so that reading on is found. */
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	if (size)
		memcpy(copy, data, size);
	(void)LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static uint64_t env_number(const char *name, uint64_t dflt)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 10) : dflt;
}

static void run_mutations(const struct corpus *c, uint8_t *buf)
{
	uint64_t runs = env_number("FUZZ_RUNS", 20000), i;
	uint64_t end = now_ns() + env_number("FUZZ_SECONDS", 5) * 1000000000ULL;
	uint64_t seed = 0x9e3779b97f4a7c15ULL;

	for (i = 0; i < runs && now_ns() < end; i++) {
		const struct input *in = &c->in[next(&seed) % c->n];
		unsigned steps = 1 + (unsigned)(next(&seed) % 4);
		size_t size = in->size;

		memcpy(buf, in->data, size);
		while (steps--)
			size = mutate(buf, size, &seed);
		run(buf, size);
	}
	printf("%zu files, %llu mutations\n", c->n, (unsigned long long)i);
}

int main(int argc, char **argv)
{
	struct corpus *c = calloc(1, sizeof(*c));
	uint8_t *buf = malloc(INPUT_MAX + 8);
	const char *name = strrchr(argv[0], '/');
	char path[4096];
	int r = c && buf ? 0 : -1;

	name = name ? name + 1 : argv[0];
	(void)snprintf(path, sizeof(path), "tests/fuzz/corpus/%s",
		strncmp(name, "fuzz_", 5) ? name : name + 5);
	if (argc == 1 && !r)
		r = load_folder(c, path);
	for (int i = 1; i < argc && !r; i++)
		r = load_folder(c, argv[i]);
	if (!r) {
		/* An empty input always belongs to it. */
		if (!c->n)
			c->in[c->n++].data = calloc(1, 1);
		for (size_t i = 0; i < c->n; i++)
			run(c->in[i].data, c->in[i].size);
		run_mutations(c, buf);
	}
	for (size_t i = 0; c && i < c->n; i++)
		free(c->in[i].data);
	free(c);
	free(buf);
	return r ? 1 : 0;
}

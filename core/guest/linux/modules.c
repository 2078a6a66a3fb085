/*
 * Kernel modules, by modules.dep (modules.dep(5)): "FILE: NEEDED NEEDED ...",
 * where what is needed most deeply stands last. Stock distribution kernels have
 * virtio as modules; a kernel with all of it built in has no such directory.
 */
#include "core/guest/linux/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

/* linux/module.h; the kernel unpacks .ko.xz and .ko.zst itself if it can. */
#define INIT_COMPRESSED_FILE 4

#define MAX_DEP (4 * MIB)

static char *read_text(const char *path)
{
	struct stat st;
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	char *p;

	if (fd < 0 || fstat(fd, &st) || st.st_size < 0 ||
		(uint64_t)st.st_size > MAX_DEP)
		return NULL;
	p = malloc((size_t)st.st_size + 1);
	if (p && read_full(fd, p, (size_t)st.st_size)) {
		free(p);
		return NULL;
	}
	if (p)
		p[st.st_size] = '\0';
	return p;
}

static char dashed(char c)
{
	return c == '-' ? '_' : c;
}

/* Is this file the module of that name? '-' and '_' are the same here. */
static bool is_module(const char *file, size_t len, const char *name)
{
	const char *base = memrchr(file, '/', len);

	base = base ? base + 1 : file;
	for (; *name; name++, base++) {
		if (base >= file + len || dashed(*base) != dashed(*name))
			return false;
	}
	return (size_t)(file + len - base) >= 3 && !memcmp(base, ".ko", 3);
}

static bool insert(const char *dir, const char *file, size_t len)
{
	char path[512];
	AUTO_FD fd = -1;
	int flags;

	if (snprintf(path, sizeof(path), "%s/%.*s", dir, (int)len, file) >=
		(int)sizeof(path))
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	flags = memcmp(path + strlen(path) - 3, ".ko", 3) != 0
			? INIT_COMPRESSED_FILE
			: 0;
	if (!syscall(SYS_finit_module, fd, "", flags))
		return true;
	if (errno != EEXIST)
		(void)fprintf(stderr, "thaw-agent: module %s: %s\n", path,
			strerror(errno));
	return false;
}

/* The module of this line, after what it needs. */
static int insert_line(const char *dir, char *line, char *colon)
{
	char *end = colon + strlen(colon);
	int n = 0;

	while (end > colon) {
		char *word = end;

		while (word > colon + 1 && word[-1] != ' ')
			word--;
		if (word < end)
			n += insert(dir, word, (size_t)(end - word));
		end = word - 1;
	}
	return n + insert(dir, line, (size_t)(colon - line));
}

static int load(const char *dir, const char *dep, const char *name)
{
	while (*dep) {
		size_t len = strcspn(dep, "\n");
		char *line = strndup(dep, len);
		char *colon = line ? strchr(line, ':') : NULL;
		bool hit =
			colon && is_module(line, (size_t)(colon - line), name);
		int n = hit ? insert_line(dir, line, colon) : 0;

		free(line);
		if (hit)
			return n;
		dep += len + (dep[len] == '\n');
	}
	return 0;
}

int ta_modules_load(const char *dir, const char *const names[], size_t n)
{
	char base[256], path[300];
	struct utsname u;
	char *dep;
	int loaded = 0;

	if (uname(&u))
		return 0;
	(void)snprintf(base, sizeof(base), "%s/%.64s", dir, u.release);
	(void)snprintf(path, sizeof(path), "%s/modules.dep", base);
	dep = read_text(path);
	if (!dep)
		return 0;
	for (size_t i = 0; i < n; i++)
		loaded += load(base, dep, names[i]);
	free(dep);
	return loaded;
}

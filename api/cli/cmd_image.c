/* thaw image build: offline, in this process. */
#include "api/cli/cli.h"
#include "api/cli/image.h"
#include "snapshot/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/stat.h>

struct image_values {
	const char *output, *agent, *handler, *start, *modules, *owner, *init;
	uint64_t size;
	bool initrd, ext4, force;
};

#define AT(m) offsetof(struct image_values, m)
static const struct opt image_opts[] = {
	{"output", 'o', OPT_STR, "FILE", AT(output), "the image (required)"},
	{"initrd", 0, OPT_FLAG, NULL, AT(initrd),
		"make an initrd (cpio) instead of a disk"},
	{"ext4", 0, OPT_FLAG, NULL, AT(ext4), "make a disk (the default)"},
	{"size", 0, OPT_SIZE, "SIZE", AT(size),
		"of the disk; default: the contents and 64 MiB"},
	{"modules", 0, OPT_STR, "DIR", AT(modules),
		"lib/modules/VERSION of the kernel: adds the drivers of "
		"thaw's devices"},
	{"handler", 0, OPT_STR, "FILE", AT(handler),
		"program that answers invokes: /etc/thaw/handler"},
	{"start", 0, OPT_STR, "FILE", AT(start),
		"main command, the machine ends with it: /etc/thaw/start"},
	{"init", 0, OPT_STR, "agent|own", AT(init),
		"process 1: the agent, or the source's own with the agent as "
		"its service (default: the own if there is one)"},
	{"agent", 0, OPT_STR, "FILE", AT(agent),
		"the agent (default: thaw-agent beside thaw)"},
	{"owner", 0, OPT_STR, "UID:GID", AT(owner),
		"of everything (default: as in the source)"},
	{"force", 'f', OPT_FLAG, NULL, AT(force), "replace FILE if it exists"},
	OPT_END,
};

/* What the command works with. */
struct build {
	const struct image_values *v;
	const char *source;
	char agent[PATH_MAX];
	uint32_t uid, gid;
	enum image_init init;
	struct image im;
	unsigned modules;
};

static int exit_of(int code)
{
	switch (-code) {
	case ENOENT:
		return EXIT_NOT_FOUND;
	case EACCES:
	case EPERM:
	case EOPNOTSUPP:
		return EXIT_HOST;
	case EBADMSG:
		return EXIT_CORRUPT;
	default:
		return EXIT_FAILED;
	}
}

static int find_agent(struct build *b, struct err *e)
{
	char self[PATH_MAX];
	ssize_t n;

	if (b->v->agent) {
		(void)snprintf(b->agent, sizeof(b->agent), "%s", b->v->agent);
	} else {
		n = readlink("/proc/self/exe", self, sizeof(self) - 1);
		if (n <= 0)
			return err_sys(e, -errno, "finding thaw-agent");
		self[n] = '\0';
		(void)snprintf(b->agent, sizeof(b->agent), "%.4000s/thaw-agent",
			dirname(self));
	}
	if (access(b->agent, R_OK))
		return err_sys(e, -errno,
			"%s (the agent; --agent says where it is)", b->agent);
	return 0;
}

static int parse_owner(struct build *b, struct err *e)
{
	char *end;
	unsigned long u, g;

	if (!b->v->owner)
		return 0;
	u = strtoul(b->v->owner, &end, 10);
	if (*end != ':' || end == b->v->owner)
		return err_set(e, -EINVAL, "--owner wants UID:GID, as in 0:0");
	g = strtoul(end + 1, &end, 10);
	if (*end || u > UINT32_MAX || g > UINT32_MAX)
		return err_set(e, -EINVAL, "--owner wants UID:GID, as in 0:0");
	b->uid = (uint32_t)u;
	b->gid = (uint32_t)g;
	return 0;
}

static int parse_init(struct build *b, struct err *e)
{
	const char *how = b->v->init;

	if (!how)
		b->init = IMAGE_INIT_ANY;
	else if (!strcmp(how, "agent"))
		b->init = IMAGE_INIT_AGENT;
	else if (!strcmp(how, "own"))
		b->init = IMAGE_INIT_OWN;
	else
		return err_set(e, -EINVAL, "--init wants agent or own");
	return 0;
}

/* Run through the source: into the image, or only counting. */
static int walk(struct build *b, bool count, struct err *e)
{
	struct image_source *s;
	struct image_item it;
	int r = image_source_open(&s, b->source, e);

	if (r)
		return r;
	while ((r = image_source_next(s, &it, e)) > 0) {
		if (b->init == IMAGE_INIT_AGENT &&
			image_is_init(&it, b->v->initrd))
			continue;
		if (b->v->owner) {
			it.uid = b->uid;
			it.gid = b->gid;
		}
		if (count) {
			b->im.entries++;
			/* Blocks, and a long link or a directory one. */
			b->im.bytes += align_up(it.size, 4096) + 4096;
		} else if ((r = image_add(&b->im, &it, e))) {
			break;
		}
	}
	image_source_close(s);
	return r;
}

/* What the agent needs as init. */
static int add_places(struct image *im, struct err *e)
{
	static const char *const dirs[] = {
		"dev", "proc", "sys", "run", "tmp", "etc", "sbin", "etc/thaw"};
	struct image_item console = {
		.path = "dev/console",
		.mode = S_IFCHR | 0600,
		.rdev = 5 << 8 | 1,
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(dirs) && !r; i++)
		r = image_add_dir(im, dirs[i], 0755, e);
	if (!r && !image_find(im, console.path))
		r = image_add(im, &console, e);
	/* As a guest has it when it is built; a clone gets its own. */
	if (!r && !image_find(im, "etc/machine-id")) {
		const struct image_item id = {.path = "etc/machine-id",
			.mode = S_IFREG | 0444,
			.data = ""};

		r = image_add(im, &id, e);
	}
	return r;
}

static int add_ours(struct build *b, struct err *e)
{
	const struct image_values *v = b->v;
	struct image *im = &b->im;
	int r = add_places(im, e);

	if (!r)
		r = image_add_file(im, "sbin/thaw-agent", b->agent, 0755, e);
	if (!r)
		r = image_add_init(im, b->init, v->initrd, e);
	if (!r && v->handler)
		r = image_add_file(im, "etc/thaw/handler", v->handler, 0755, e);
	if (!r && v->start)
		r = image_add_file(im, "etc/thaw/start", v->start, 0755, e);
	if (!r && v->modules)
		r = image_add_modules(im, v->modules, &b->modules, e);
	return r;
}

static int fill(struct build *b, struct err *e)
{
	struct stat st;
	int r = walk(b, true, e);

	/* Ours on top; a module may be several times its packed size. */
	b->im.bytes += (stat(b->agent, &st) ? 0 : (uint64_t)st.st_size) +
		       (b->v->modules ? 32 * MIB : 0);
	if (!r)
		r = image_begin(&b->im, e);
	if (!r)
		r = walk(b, false, e);
	if (!r)
		r = add_ours(b, e);
	if (!r)
		r = image_end(&b->im, e);
	image_free(&b->im);
	return r;
}

/* The file appears when it is complete. */
static int write_image(struct build *b, struct err *e)
{
	char dir[PATH_MAX], name[PATH_MAX];
	struct publish p = {.sweep = true};
	AUTO_FD dirfd = -1;
	int r;

	if (strlen(b->v->output) >= sizeof(dir))
		return err_set(e, -ENAMETOOLONG, "%s", b->v->output);
	memcpy(dir, b->v->output, strlen(b->v->output) + 1);
	memcpy(name, dir, sizeof(name));
	dirfd = open(dirname(dir), O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return err_sys(e, -errno, "%s", b->v->output);
	r = publish_begin(&p, dirfd, basename(name), b->v->force, e);
	if (r)
		return r;
	b->im.fd = p.fd;
	r = fill(b, e);
	if (!r)
		r = publish_commit(&p, e);
	publish_abort(&p);
	return r;
}

static int run_image(struct cli *c, void *values)
{
	const struct image_values *v = values;
	struct build b = {.v = v, .source = c->arg[0]};
	struct err e = {0};
	struct stat st;
	char size[16];
	int r;

	if (!v->output)
		return cli_fail(c, EXIT_USAGE,
			"-o FILE says where the image "
			"goes");
	if (v->initrd && (v->ext4 || v->size))
		return cli_fail(c, EXIT_USAGE,
			"--initrd does not go together with --ext4 or --size");
	b.im.ops = v->initrd ? &image_cpio : &image_ext4;
	b.im.size = v->size;
	b.im.label = "thaw";
	r = parse_owner(&b, &e);
	if (!r)
		r = parse_init(&b, &e);
	if (r)
		return cli_fail(c, EXIT_USAGE, "%s", e.msg);
	r = find_agent(&b, &e);
	if (!r)
		r = write_image(&b, &e);
	if (r)
		return cli_fail(c, exit_of(r), "%s", e.msg);
	if (stat(v->output, &st))
		return cli_fail(
			c, EXIT_FAILED, "%s: %s", v->output, strerror(errno));
	fprintf(c->out, "%s: %s, %s, %llu entries%s\n", v->output,
		v->initrd ? "initrd" : "ext4",
		fmt_size((uint64_t)st.st_size, size),
		(unsigned long long)b.im.entries,
		b.modules ? ", with drivers" : "");
	return EXIT_DONE;
}

const struct command image_command = {"image build", "DIR|TAR",
	"a disk or an initrd with the agent in it",
	"The source's owners, modes, links, devices and (on a disk) extended "
	"attributes are kept; nothing is unpacked on the host, so that it "
	"takes no rights. The agent becomes /sbin/thaw-agent, and the guest's "
	"init where the source has none. A disk needs mke2fs (e2fsprogs). See "
	"docs/linux.md.",
	image_opts, sizeof(struct image_values), 1, 1, 0, run_image};

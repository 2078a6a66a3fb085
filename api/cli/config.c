/* A machine's configuration from --config, the options and GUEST. */
#include "api/cli/cli.h"

#include <errno.h>
#include <string.h>

static int load_file(struct cli *c, const char *path, json_t **out)
{
	json_error_t je;

	*out = json_load_file(path, JSON_REJECT_DUPLICATES, &je);
	if (!*out && je.line <= 0)
		return cli_fail(c,
			access(path, F_OK) ? EXIT_NOT_FOUND : EXIT_FAILED, "%s",
			je.text);
	if (!*out)
		return cli_fail(c, EXIT_FAILED, "%s: line %d, column %d: %s",
			path, je.line, je.column, je.text);
	if (!json_is_object(*out)) {
		json_decref(*out);
		*out = NULL;
		return cli_fail(c, EXIT_FAILED,
			"%s: a configuration is a JSON object: {...}", path);
	}
	return EXIT_DONE;
}

/* The kernel named on the command line or in the file, made absolute: the
 * daemon opens it, and its directory is another. */
static int set_kernel(struct cli *c, json_t *cfg, const char *kernel)
{
	char path[4096];

	if (!kernel)
		kernel = json_string_value(json_object_get(cfg, "kernel"));
	if (!kernel || strcmp(kernel, "builtin") == 0) {
		if (kernel)
			json_object_set_new(
				cfg, "kernel", json_string("builtin"));
		return EXIT_DONE;
	}
	if (cli_abspath(kernel, path, sizeof(path)))
		return cli_fail(c, EXIT_USAGE, "%s: path too long", kernel);
	if (access(path, F_OK))
		return cli_fail(c, EXIT_NOT_FOUND,
			"%s: %s; GUEST is a kernel image or \"builtin\"", path,
			strerror(errno));
	json_object_set_new(cfg, "kernel", json_string(path));
	return EXIT_DONE;
}

/* As the kernel. */
static int set_initrd(struct cli *c, json_t *cfg, const char *initrd)
{
	char path[4096];

	if (!initrd)
		initrd = json_string_value(json_object_get(cfg, "initrd"));
	if (!initrd)
		return EXIT_DONE;
	if (cli_abspath(initrd, path, sizeof(path)))
		return cli_fail(c, EXIT_USAGE, "%s: path too long", initrd);
	if (access(path, F_OK))
		return cli_fail(
			c, EXIT_NOT_FOUND, "%s: %s", path, strerror(errno));
	json_object_set_new(cfg, "initrd", json_string(path));
	return EXIT_DONE;
}

static void set_labels(json_t *cfg, const struct opt_labels *l)
{
	json_t *map = json_object_get(cfg, "labels");

	if (!l->n)
		return;
	if (!map) {
		map = json_object();
		json_object_set_new(cfg, "labels", map);
	}
	for (unsigned i = 0; i < l->n; i++) {
		const char *eq = strchr(l->at[i], '=');
		char key[128];

		(void)snprintf(key, sizeof(key), "%.*s", (int)(eq - l->at[i]),
			l->at[i]);
		json_object_set_new(map, key, json_string(eq + 1));
	}
}

int config_build(struct cli *c, const struct config_opts *o, const char *guest,
	json_t **out)
{
	json_t *cfg = NULL;
	int rc = EXIT_DONE;

	*out = NULL;
	if (guest && o->kernel)
		return cli_fail(c, EXIT_USAGE,
			"GUEST and --kernel name the same thing; give one");
	if (o->mem > INT64_MAX || o->cpus > UINT32_MAX || o->cid > UINT32_MAX)
		return cli_fail(c, EXIT_USAGE, "--mem, --cpus or --cid: %s",
			"out of range");
	if (o->config)
		rc = load_file(c, o->config, &cfg);
	else
		cfg = json_object();
	if (!rc)
		rc = set_kernel(c, cfg, guest ? guest : o->kernel);
	if (!rc)
		rc = set_initrd(c, cfg, o->initrd);
	if (rc) {
		json_decref(cfg);
		return rc;
	}
	if (o->cmdline)
		json_object_set_new(cfg, "cmdline", json_string(o->cmdline));
	if (o->mem)
		json_object_set_new(
			cfg, "memory", json_integer((json_int_t)o->mem));
	if (o->cpus)
		json_object_set_new(
			cfg, "cpus", json_integer((json_int_t)o->cpus));
	set_labels(cfg, &o->labels);
	rc = devices_build(c, o, cfg);
	if (rc)
		json_decref(cfg);
	else
		*out = cfg;
	return rc;
}

void config_pack_ready(msgpack_packer *p, const char *ready)
{
	char *end;
	double s = strtod(ready, &end);

	if (strcmp(ready, "agent") == 0) {
		thaw_pack_str(p, "ready", "agent");
		return;
	}
	(void)msgpack_pack_str_with_body(p, "ready", 5);
	(void)msgpack_pack_map(p, 1);
	if (end == ready || *end || !(s >= 0) || s > 86400) {
		thaw_pack_str(p, "text", ready);
		return;
	}
	(void)msgpack_pack_str_with_body(p, "seconds", 7);
	if (s == (double)(uint64_t)s)
		(void)msgpack_pack_uint64(p, (uint64_t)s);
	else
		(void)msgpack_pack_double(p, s);
}

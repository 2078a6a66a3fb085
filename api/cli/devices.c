/*
 * Devices on the command line: --disk and --net of a new machine become entries
 * of the configuration's "devices"; --disk, --tap and --mac of a clone or a
 * restored machine become maps of overrides.
 */
#include "api/cli/cli.h"

#include <errno.h>
#include <string.h>

/* "key=value" or a word of an option's list. */
struct word {
	char key[32];
	const char *value; /* NULL: a word alone */
	char text[4096];
};

/* The next part up to a comma; false: there is none. */
static bool next_word(const char **at, struct word *w)
{
	const char *s = *at;
	size_t n;
	char *eq;

	if (!*s)
		return false;
	n = strcspn(s, ",");
	(void)snprintf(w->text, sizeof(w->text), "%.*s", (int)n, s);
	*at = s + n + (s[n] == ',');
	eq = strchr(w->text, '=');
	w->value = eq ? eq + 1 : NULL;
	if (eq)
		*eq = 0;
	(void)snprintf(w->key, sizeof(w->key), "%.31s", w->text);
	return true;
}

static void set_text(json_t *dev, const char *key, const char *value)
{
	json_object_set_new(dev, key, json_string(value));
}

static int set_number(struct cli *c, json_t *dev, const struct word *w)
{
	char *end;
	long v = strtol(w->value, &end, 10);

	if (end == w->value || *end || v < 0)
		return cli_fail(
			c, EXIT_USAGE, "%s=%s: not a number", w->key, w->value);
	json_object_set_new(dev, w->key, json_integer(v));
	return EXIT_DONE;
}

static int set_path(struct cli *c, json_t *dev, const char *path)
{
	char abs[4096];

	if (cli_abspath(path, abs, sizeof(abs)))
		return cli_fail(c, EXIT_USAGE, "%s: path too long", path);
	set_text(dev, "path", abs);
	return EXIT_DONE;
}

/* FILE[,ro][,overlay][,id=ID][,serial=TEXT][,queues=N] */
static int parse_disk(struct cli *c, const char *s, json_t *dev)
{
	const char *at = s;
	struct word w;
	int rc;

	set_text(dev, "type", "block");
	if (!next_word(&at, &w) || w.value || !w.text[0])
		return cli_fail(c, EXIT_USAGE,
			"--disk %s: begins with the file's name", s);
	rc = set_path(c, dev, w.text);
	while (!rc && next_word(&at, &w)) {
		if (!w.value && !strcmp(w.key, "ro"))
			json_object_set_new(dev, "read_only", json_true());
		else if (!w.value && !strcmp(w.key, "overlay"))
			json_object_set_new(dev, "overlay", json_true());
		else if (w.value &&
			 (!strcmp(w.key, "id") || !strcmp(w.key, "serial")))
			set_text(dev, w.key, w.value);
		else if (w.value && !strcmp(w.key, "queues"))
			rc = set_number(c, dev, &w);
		else
			rc = cli_fail(c, EXIT_USAGE,
				"--disk: \"%s\" is none of ro, overlay, id=, "
				"serial=, queues=",
				w.key);
	}
	return rc;
}

/* tap=NAME[,mac=ADDRESS][,mtu=N][,id=ID] */
static int parse_net(struct cli *c, const char *s, json_t *dev)
{
	const char *at = s;
	int rc = EXIT_DONE;
	struct word w;

	set_text(dev, "type", "net");
	while (!rc && next_word(&at, &w)) {
		if (w.value &&
			(!strcmp(w.key, "tap") || !strcmp(w.key, "mac") ||
				!strcmp(w.key, "id")))
			set_text(dev, w.key, w.value);
		else if (w.value && !strcmp(w.key, "mtu"))
			rc = set_number(c, dev, &w);
		else
			rc = cli_fail(c, EXIT_USAGE,
				"--net: \"%s\" is none of tap=, mac=, mtu=, "
				"id=",
				w.key);
	}
	return rc;
}

/* The list to which devices are added; what is not said stays as without any
 * option: one vsock. */
static json_t *device_list(json_t *cfg)
{
	json_t *list = json_object_get(cfg, "devices");
	json_t *vsock;

	if (list)
		return list;
	list = json_array();
	vsock = json_object();
	set_text(vsock, "type", "vsock");
	json_array_append_new(list, vsock);
	json_object_set_new(cfg, "devices", list);
	return list;
}

static int add_each(struct cli *c, json_t *cfg, const struct opt_labels *l,
	int (*parse)(struct cli *c, const char *s, json_t *dev))
{
	int rc = EXIT_DONE;

	for (unsigned i = 0; i < l->n && !rc; i++) {
		json_t *dev = json_object();

		rc = parse(c, l->at[i], dev);
		json_array_append_new(device_list(cfg), dev);
	}
	return rc;
}

/* Paths of a file are relative to where the command was given. */
static int make_absolute(struct cli *c, json_t *cfg)
{
	json_t *list = json_object_get(cfg, "devices"), *dev;
	size_t i;

	json_array_foreach(list, i, dev)
	{
		const char *path =
			json_string_value(json_object_get(dev, "path"));
		int rc = path ? set_path(c, dev, path) : EXIT_DONE;

		if (rc)
			return rc;
	}
	return EXIT_DONE;
}

static void set_cid(json_t *cfg, uint64_t cid)
{
	json_t *list, *dev;
	size_t i;

	if (!cid)
		return;
	list = device_list(cfg);
	json_array_foreach(list, i, dev)
	{
		const char *type =
			json_string_value(json_object_get(dev, "type"));

		if (type && !strcmp(type, "vsock")) {
			json_object_set_new(
				dev, "cid", json_integer((json_int_t)cid));
			return;
		}
	}
	dev = json_object();
	set_text(dev, "type", "vsock");
	json_object_set_new(dev, "cid", json_integer((json_int_t)cid));
	json_array_append_new(list, dev);
}

int devices_build(struct cli *c, const struct config_opts *o, json_t *cfg)
{
	int rc = make_absolute(c, cfg);

	if (!rc)
		rc = add_each(c, cfg, &o->disks, parse_disk);
	if (!rc)
		rc = add_each(c, cfg, &o->nets, parse_net);
	if (!rc && o->rng) {
		json_t *dev = json_object();

		set_text(dev, "type", "rng");
		json_array_append_new(device_list(cfg), dev);
	}
	if (!rc)
		set_cid(cfg, o->cid);
	return rc;
}

/* ---- overrides ---- */

uint32_t devices_count(const struct device_opts *o)
{
	return (uint32_t)((o->disks.n != 0) + (o->taps.n != 0) +
			  (o->macs.n != 0) + (o->ips.n != 0));
}

int devices_pack_map(struct cli *c, msgpack_packer *p, const char *key,
	const struct opt_labels *l, bool paths)
{
	if (!l->n)
		return EXIT_DONE;
	mp_str(p, key);
	(void)msgpack_pack_map(p, l->n);
	for (unsigned i = 0; i < l->n; i++) {
		const char *value = strchr(l->at[i], '=') + 1;
		char id[64], path[4096];

		(void)snprintf(id, sizeof(id), "%.*s",
			(int)(value - 1 - l->at[i]), l->at[i]);
		if (paths && cli_abspath(value, path, sizeof(path)))
			return cli_fail(
				c, EXIT_USAGE, "%s: path too long", value);
		mp_key_str(p, id, paths ? path : value);
	}
	return EXIT_DONE;
}

int devices_pack(struct cli *c, msgpack_packer *p, const struct device_opts *o)
{
	int rc = devices_pack_map(c, p, "disks", &o->disks, true);

	if (!rc)
		rc = devices_pack_map(c, p, "taps", &o->taps, false);
	if (!rc)
		rc = devices_pack_map(c, p, "macs", &o->macs, false);
	return rc ? rc : devices_pack_map(c, p, "ips", &o->ips, false);
}

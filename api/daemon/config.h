/*
 * The configuration map of a machine (docs/config.md is made from the same
 * table). Unknown keys, wrong types and values out of range are refused with
 * the path of the key.
 */
#ifndef THAW_API_DAEMON_CONFIG_H
#define THAW_API_DAEMON_CONFIG_H

#include "api/daemon/params.h"

#define FIRST_CLONE_CID 1024

struct config {
	struct machine_config mc;
	struct path_arg kernel;       /* neither path nor fd: built-in guest */
	struct path_arg initrd;       /* neither: none */
	const msgpack_object *labels; /* map of strings, or NULL */
	struct path_arg disk[MACHINE_MAX_DISKS]; /* files of mc.disk */
	int64_t tap_fd[MACHINE_MAX_NETS]; /* taps that came as descriptors */
	unsigned nvsocks, ndisks, nnets;
	struct config_device *dev; /* borrowed: the one being parsed */
};

/* What the guest sees when no cid is given: the first one that is not
 * reserved (virtio 1.2, section 5.10.4). */
#define CONFIG_DEFAULT_CID 3

/* o NULL: all defaults. */
int config_parse(
	const msgpack_object *o, struct config *c, struct err *e) MUST_USE;
/* Labels as a JSON object (owned by the caller); NULL without labels. */
char *config_labels_json(const struct config *c);

/* When is a machine ready? o NULL or absent: kind 0. */
struct ready {
	uint32_t kind; /* enum ctl_ready, 0: as soon as it runs */
	uint32_t after_ms;
	char text[256];
};
int ready_parse(
	const msgpack_object *o, struct ready *r, struct err *e) MUST_USE;

struct template_limits {
	uint64_t max_clones, invoke_ms; /* 0: none given */
};
int limits_parse(const msgpack_object *o, struct template_limits *l,
	struct err *e) MUST_USE;

/* One key of the map, for the documentation. */
struct config_key {
	const char *key, *type, *def, *help;
	/* path is the key's place, for messages */
	int (*parse)(const msgpack_object *v, const char *path,
		struct config *c, struct err *e);
};
extern const struct config_key config_keys[], config_device_keys[];
extern const unsigned nconfig_keys, nconfig_device_keys;

/* A map by a table; where is its path, "" for the whole configuration. */
int config_parse_map(const msgpack_object *o, const char *where,
	const struct config_key *keys, unsigned n, struct config *c,
	struct err *e) MUST_USE;
/* "02:00:00:00:00:01", of one station. */
int config_parse_mac(const msgpack_object *v, const char *path, uint8_t mac[6],
	struct err *e) MUST_USE;
/* config_devices.c: the value of "devices". */
int config_parse_devices(const msgpack_object *v, const char *path,
	struct config *c, struct err *e) MUST_USE;

#endif

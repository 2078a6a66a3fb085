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
	const msgpack_object *labels; /* map of strings, or NULL */
	unsigned vsock_devices;
};

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

#endif

/*
 * Parameters of methods, checked by table. Every parameter has a place in one
 * struct args, so that a row names it and the rest is generic; unknown names,
 * wrong types and values out of range are refused by name.
 */
#ifndef THAW_API_DAEMON_PARAMS_H
#define THAW_API_DAEMON_PARAMS_H

#include "api/daemon/daemon.h"

/* Bytes inside the request; p is NULL when the parameter is absent. */
struct text {
	const char *p;
	size_t n;
};

/* A path, or the number of a descriptor that came with the request. */
struct path_arg {
	struct text path;
	int64_t fd; /* -1: none */
};

enum clone_mode {
	MODE_ANY,
	MODE_POOLED,
	MODE_FRESH
};

enum fill_mode {
	FILL_BACKGROUND,
	FILL_NONE
};

/* Values live until the handler returns. Absent: empty name or text, fd -1 and
 * no path, NULL object, the row's default number. */
struct args {
	char name[NAME_LEN];
	char template[NAME_LEN];
	char id[ID_LEN];
	char hostname[64];
	struct text payload, data, section, cwd, file, pager;
	struct path_arg snapshot, path, console, vsock, socket;
	const msgpack_object *config, *ready, *limits, *overrides;
	const msgpack_object *disks, *taps, *macs, *ips, *overlays, *argv, *env;
	uint64_t timeout_ms, count, pool, cid;
	uint64_t mode, type, codec; /* index of the choice */
	uint64_t bind, stream, force, live, progress, track_dirty;
	uint64_t against, level;
	uint64_t lazy, fill, fill_rate, stall_ms, replace, map;
	uint64_t offset, length, file_mode, eof;
	char machine[ID_LEN];
};

enum param_type {
	PARAM_END,
	PARAM_NAME,   /* char[NAME_LEN] */
	PARAM_ID,     /* char[ID_LEN] */
	PARAM_HOST,   /* char[64] */
	PARAM_TEXT,   /* struct text */
	PARAM_DATA,   /* struct text, bin or str */
	PARAM_PATH,   /* struct path_arg */
	PARAM_SOURCE, /* the same, or "tcp://...": see fetch.h */
	PARAM_UINT,   /* uint64_t within min..max */
	PARAM_BOOL,   /* uint64_t 0 or 1 */
	PARAM_CHOICE, /* uint64_t: index in choices */
	PARAM_OBJECT, /* const msgpack_object *; the handler checks it */
	PARAM_ARRAY,  /* the same */
	PARAM_FD,     /* struct path_arg, descriptor only */
};

struct param {
	const char *name;
	enum param_type type;
	bool required;
	size_t offset; /* in struct args */
	uint64_t min, max, def;
	const char *const *choices; /* ends with NULL */
	const char *help;
};

int params_parse(const struct param *table, const msgpack_object *params,
	struct args *a, struct err *e) MUST_USE;

/* Single values, also for nested maps; key is for the message. */
int param_uint(const msgpack_object *o, const char *key, uint64_t min,
	uint64_t max, uint64_t *v, struct err *e) MUST_USE;
int param_name(const msgpack_object *o, const char *key, size_t size, char *v,
	struct err *e) MUST_USE;
int param_host(const msgpack_object *o, const char *key, char v[64],
	struct err *e) MUST_USE;
int param_text(const msgpack_object *o, const char *key, size_t max,
	struct text *v, struct err *e) MUST_USE;
int param_path(const msgpack_object *o, const char *key, struct path_arg *v,
	struct err *e) MUST_USE;

#endif

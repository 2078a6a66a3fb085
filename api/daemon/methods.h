/*
 * THE method table: every method with its parameters, handler and help. The
 * check of parameters, the limits of requests and docs/api.md come from it.
 */
#ifndef THAW_API_DAEMON_METHODS_H
#define THAW_API_DAEMON_METHODS_H

#include "api/daemon/conn.h"
#include "api/daemon/params.h"

/* 0: r was or will be answered; negative: e is the answer, r is untouched. */
typedef int method_fn(
	struct daemon *d, struct request *r, struct args *a, struct err *e);

struct method {
	const char *name;
	method_fn *fn;
	const struct param *params; /* ends with an empty one; may be NULL */
	bool payload;               /* may be longer than RPC_MAX_REQUEST */
	const char *result;         /* for people */
	const char *help;
};

extern const struct method methods[];
extern const unsigned nmethods;

const struct method *method_find(const char *name, size_t len);
/* rpc_limit_fn */
uint64_t method_limit(const char *name, size_t len);
/* Check the parameters and call the handler of r->method. */
int method_call(struct daemon *d, struct request *r,
	const msgpack_object *params, struct err *e) MUST_USE;

/* Handlers, by file. */
method_fn info_method;
method_fn machine_create_method, machine_input_method, machine_logs_method,
	machine_list_method, machine_show_method, machine_pause_method,
	machine_resume_method, machine_stop_method, machine_snapshot_method,
	machine_snapshot_cancel_method;
method_fn machine_exec_method, machine_put_method, machine_get_method;
method_fn machine_invoke_method, invoke_method, machine_connect_method;
method_fn template_create_method, template_list_method, template_show_method,
	template_remove_method, template_record_method;
method_fn clone_method;
method_fn inspect_method, verify_method;
method_fn metrics_method, events_method;

#endif

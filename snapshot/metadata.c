/*
 * The metadata section: a msgpack map for people. Nothing in it is needed to
 * restore, so readers print it and believe nothing.
 */
#include "snapshot/internal.h"
#include "core/mp_json.h"
#include "core/version.h"
#include "core/arch.h"

#include <errno.h>
#include <string.h>
#include <sys/utsname.h>

static int pack_labels(
	msgpack_packer *p, const char *labels_json, struct err *e)
{
	json_error_t why;
	json_t *j;
	int rc;

	mp_str(p, "labels");
	if (!labels_json)
		return msgpack_pack_map(p, 0) ? -ENOMEM : 0;
	j = json_loads(labels_json, JSON_REJECT_DUPLICATES, &why);
	if (!j)
		return err_set(e, -EINVAL, "labels: %s", why.text);
	if (json_is_object(j))
		rc = mp_pack_json(p, j);
	else
		rc = -EINVAL;
	json_decref(j);
	if (rc)
		return err_set(e, rc, "labels: must be a JSON object");
	return 0;
}

static void pack_host(msgpack_packer *p)
{
	struct utsname u;

	memset(&u, 0, sizeof(u));
	/* a jail may forbid it: then the fields are empty */
	if (uname(&u))
		memset(&u, 0, sizeof(u));
	mp_str(p, "host");
	(void)msgpack_pack_map(p, 3);
	mp_key_str(p, "system", u.sysname);
	mp_key_str(p, "kernel", u.release);
	mp_key_str(p, "machine", u.machine);
}

int snap_pack_metadata(const struct machine *m, const char *labels_json,
	msgpack_sbuffer *buf, struct err *e)
{
	msgpack_packer p;
	int rc;

	msgpack_packer_init(&p, buf, msgpack_sbuffer_write);
	(void)msgpack_pack_map(&p, 6);
	mp_key_str(&p, "writer", "thaw " THAW_VERSION);
	rc = pack_labels(&p, labels_json, e);
	if (rc)
		return rc;
	pack_host(&p);
	mp_str(&p, "cpu");
	arch_cpu_describe(&p);
	mp_str(&p, "machine");
	(void)msgpack_pack_map(&p, 5);
	mp_key_str(&p, "state", machine_state_name(m->state));
	mp_key_u64(&p, "memory", m->cfg.memory);
	mp_key_u64(&p, "cpus", m->ncpus);
	mp_key_u64(&p, "devices", m->ndevs);
	mp_key_bool(&p, "builtin", m->cfg.builtin != 0);
	mp_str(&p, "timings_us");
	(void)msgpack_pack_map(&p, 4);
	mp_key_u64(&p, "vm", m->us.vm);
	mp_key_u64(&p, "slots", m->us.slots);
	mp_key_u64(&p, "cpus", m->us.cpus);
	mp_key_u64(&p, "devices", m->us.devices);
	/* packing does not say that memory ran out, its result does */
	if (mp_check(buf->data, buf->size, buf->size, &mp_default_limits) !=
		(int64_t)buf->size)
		return err_set(e, -ENOMEM, "metadata: out of memory");
	return 0;
}

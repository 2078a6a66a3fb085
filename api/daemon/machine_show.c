#include "api/daemon/machine.h"

#include "api/daemon/handler.h"
#include "api/daemon/listener.h"
#include "api/daemon/methods.h"
#include "api/daemon/template.h"
#include "api/daemon/writer.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* Methods "machine.list" and "machine.show". */

static void hex(char *out, const uint8_t *p)
{
	for (int i = 0; i < 16; i++)
		(void)snprintf(out + 2 * i, 3, "%02x", p[i]);
}

/* Bytes of a line of /proc/PID/smaps_rollup; costs a walk of the page tables,
 * so it is done for one machine at a time only. */
static uint64_t rollup(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoull(at + strlen(key), NULL, 10) * KIB : 0;
}

static void pack_memory(struct machine_entry *m, msgpack_packer *p, bool ask)
{
	char path[64], text[4096] = "";
	pid_t pid = ask ? proc_pid(&m->p) : 0;
	int fd = -1;
	ssize_t n;

	if (pid > 0) {
		(void)snprintf(
			path, sizeof(path), "/proc/%d/smaps_rollup", pid);
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		text[n > 0 ? n : 0] = 0;
		(void)close(fd);
	}
	mp_str(p, "memory");
	(void)msgpack_pack_map(p, ask ? 3 : 1);
	mp_key_u64(p, "size", m->memory);
	if (!ask)
		return;
	mp_key_u64(p, "shared",
		rollup(text, "Shared_Clean:") + rollup(text, "Shared_Dirty:"));
	mp_key_u64(p, "private",
		rollup(text, "Private_Clean:") +
			rollup(text, "Private_Dirty:"));
}

static void pack_times(const struct machine_entry *m, msgpack_packer *p)
{
	mp_str(p, "times");
	(void)msgpack_pack_map(p, 5);
	mp_key_u64(p, "created_ns", m->created);
	mp_key_u64(p, "age_ms", (now_ns() - m->born) / 1000000);
	mp_key_u64(p, "build", m->us.build);
	mp_key_u64(p, "ack", m->us.ack);
	mp_key_u64(p, "go", m->us.go);
}

/* A snapshot that is not live holds the machine until the file is there. */
static const char *shown_state(const struct machine_entry *m)
{
	const struct writer *w = m->writer;

	if (m->state == ENTRY_RUNNING && w && w->adopted && !w->job.what.live)
		return "paused";
	return machine_state(m);
}

static void pack_machine(
	struct machine_entry *m, msgpack_packer *p, bool memory)
{
	bool vsock = m->listener && listener_path(m->listener)[0];
	bool clone = m->kind == ENTRY_CLONE;
	uint32_t n = 7;
	char text[33];

	n += m->t ? 1 : 0;
	n += vsock ? 1 : 0;
	n += clone ? 2 : 0;
	n += m->have_end ? 1 : 0;
	n += m->feed || m->handler ? 1 : 0;
	n += m->first_answer_us ? 1 : 0;
	(void)msgpack_pack_map(p, n);
	mp_key_str(p, "id", m->id);
	mp_key_str(p, "name", m->name ? m->name : "");
	mp_key_str(p, "kind", machine_kind(m));
	mp_key_str(p, "state", shown_state(m));
	if (m->t)
		mp_key_str(p, "template", m->t->name);
	mp_str(p, "pids");
	(void)msgpack_pack_map(p, 1);
	mp_key_u64(p, "machine",
		(uint64_t)(memory ? proc_pid(&m->p) : proc_pid_cheap(&m->p)));
	pack_memory(m, p, memory);
	pack_times(m, p);
	if (vsock)
		mp_key_str(p, "vsock", listener_path(m->listener));
	if (clone) {
		hex(text, m->generation);
		mp_key_str(p, "generation", text);
		hex(text, m->machine_id);
		mp_key_str(p, "machine_id", text);
	}
	if (m->first_answer_us)
		mp_key_u64(p, "first_answer_us", m->first_answer_us);
	if (m->feed)
		feed_pack_machine(m, p);
	else if (m->handler)
		handler_pack(m->handler, p);
	if (m->have_end) {
		mp_str(p, "end");
		(void)msgpack_pack_map(p, 2);
		mp_key_str(p, "kind", machine_end_name(m->end_kind));
		mp_key_str(p, "text", m->end_text ? m->end_text : "");
	}
}

int machine_list_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	msgpack_packer *p = request_begin(r);

	(void)a;
	(void)e;
	(void)msgpack_pack_map(p, 1);
	mp_str(p, "machines");
	(void)msgpack_pack_array(p, d->nmachines + d->nended);
	list_for_each(it, &d->machines) pack_machine(
		container_of(it, struct machine_entry, all), p, false);
	list_for_each(it, &d->ended) pack_machine(
		container_of(it, struct machine_entry, all), p, false);
	request_end(r);
	return 0;
}

int machine_show_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct machine_entry *m;
	int rc = machine_get(d, a->id, &m, e);

	if (rc)
		return rc;
	pack_machine(m, request_begin(r), true);
	request_end(r);
	return 0;
}

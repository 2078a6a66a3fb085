#include "api/daemon/events.h"

#include "api/daemon/conn.h"
#include "api/daemon/methods.h"

struct event {
	const char *type, *id, *template, *text;
};

static void pack(msgpack_packer *p, const struct event *ev)
{
	uint32_t n = 2;

	n += ev->id ? 1 : 0;
	n += ev->template ? 1 : 0;
	n += ev->text ? 1 : 0;
	(void)msgpack_pack_map(p, n);
	mp_key_str(p, "type", ev->type);
	mp_key_u64(p, "time_ns", wall_ns());
	if (ev->id)
		mp_key_str(p, "id", ev->id);
	if (ev->template)
		mp_key_str(p, "template", ev->template);
	if (ev->text)
		mp_key_str(p, "text", ev->text);
}

static void emit(struct daemon *d, const struct event *ev)
{
	list_for_each(it, &d->subscribers)
	{
		struct conn *c = container_of(it, struct conn, subscribed);
		msgpack_packer *p = notify_begin(d, c, "event");

		if (!p)
			continue;
		pack(p, ev);
		notify_end(d, c);
	}
}

void events_machine(
	struct daemon *d, const char *type, const struct machine_entry *m)
{
	struct event ev = {.type = type,
		.id = m->id,
		.template = m->t ? m->t->name : NULL,
		.text = m->have_end ? m->end_text : NULL};

	if (!list_empty(&d->subscribers))
		emit(d, &ev);
}

void events_template(
	struct daemon *d, const char *type, const struct template *t)
{
	struct event ev = {.type = type,
		.template = t->name,
		.text = t->error[0] ? t->error : NULL};

	if (!list_empty(&d->subscribers))
		emit(d, &ev);
}

void events_snapshot(
	struct daemon *d, const char *type, const char *id, const char *text)
{
	struct event ev = {.type = type, .id = id, .text = text};

	if (!list_empty(&d->subscribers))
		emit(d, &ev);
}

void events_zygote(struct daemon *d, const struct template *t, const char *text)
{
	struct event ev = {
		.type = "zygote.lost", .template = t->name, .text = text};

	if (!list_empty(&d->subscribers))
		emit(d, &ev);
}

int events_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	msgpack_packer *p;

	(void)a;
	(void)e;
	if (r->conn) {
		list_del(&r->conn->subscribed);
		list_add(&d->subscribers, &r->conn->subscribed);
	}
	p = request_begin(r);
	(void)msgpack_pack_map(p, 0);
	request_end(r);
	return 0;
}

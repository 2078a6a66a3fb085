#include "core/agent_call.h"

#include "core/net.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What is asked of the agent, method by method. */

/* msgpack-rpc: [0, id, method, params] */
#define RPC_REQUEST 0u

static int pack_write(void *data, const char *p, size_t n)
{
	return buf_append(data, p, n);
}

/* A call with "[0, id, method, [" packed; the map of parameters is the
 * caller's. */
static struct call *call_head(
	struct agent *a, const char *method, msgpack_packer *pk)
{
	struct call *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->id = a->next_id;
	msgpack_packer_init(pk, &c->req, pack_write);
	msgpack_pack_array(pk, 4);
	msgpack_pack_uint32(pk, RPC_REQUEST);
	msgpack_pack_uint32(pk, c->id);
	mp_str(pk, method);
	msgpack_pack_array(pk, 1);
	return c;
}

/* The same with the map begun. */
static struct call *call_new(struct agent *a, const char *method,
	uint32_t nparams, msgpack_packer *pk)
{
	struct call *c = call_head(a, method, pk);

	if (c)
		msgpack_pack_map(pk, nparams);
	return c;
}

int agent_ping(
	struct agent *a, uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c = call_new(a, "ping", 1, &pk);

	if (!c)
		return -ENOMEM;
	mp_key_bool(&pk, "ready", true);
	return agent_call_start(a, c, timeout_ns, fn, arg);
}

/* Only Linux needs it by a message. */
static bool knows_tsc(const struct agent *a)
{
	return !a->m->cfg.builtin && a->m->told.tsc_khz;
}

/* One or three parameters: the time, and the guest's TSC at that time. */
static void pack_time(struct agent *a, msgpack_packer *pk, uint64_t wall)
{
	if (!knows_tsc(a)) {
		mp_key_u64(pk, "wall_ns", wall);
		return;
	}
	mp_key_u64(pk, "wall_ns", a->m->told.wall_ns);
	mp_key_u64(pk, "tsc", a->m->told.tsc);
	mp_key_u64(pk, "tsc_khz", a->m->told.tsc_khz);
}

static void pack_mac(msgpack_packer *pk, const char *key, const uint8_t mac[6])
{
	char text[18];

	(void)snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x",
		mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	mp_key_str(pk, key, text);
}

static uint32_t count_ips(const struct machine *m)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++)
		n += m->net_ip[i].ip[0] != 0;
	return n;
}

static void pack_interface(
	const struct machine *m, msgpack_packer *pk, unsigned i)
{
	const struct machine_ip *ip = &m->net_ip[i];

	msgpack_pack_map(pk, 1U + net_mac_is_new(m, i) + (ip->ip[0] != 0) +
				     (ip->gateway[0] != 0));
	pack_mac(pk, "match",
		net_mac_is_new(m, i) ? m->net_was[i] : net_driver_mac(m, i));
	if (net_mac_is_new(m, i))
		pack_mac(pk, "mac", m->cfg.net[i].mac);
	if (ip->ip[0])
		mp_key_str(pk, "ip", ip->ip);
	if (ip->gateway[0])
		mp_key_str(pk, "gateway", ip->gateway);
}

/* Interfaces that are to have another MAC than the guest goes by, and those
 * that are to have another IP address. */
static void pack_interfaces(struct agent *a, msgpack_packer *pk)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++)
		n += net_is_told(a->m, i);
	mp_str(pk, "interfaces");
	msgpack_pack_array(pk, n);
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++) {
		if (net_is_told(a->m, i))
			pack_interface(a->m, pk, i);
	}
}

int agent_identity(struct agent *a, const struct identity *id,
	uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c = call_new(a, "identity", knows_tsc(a) ? 7 : 5, &pk);

	if (!c)
		return -ENOMEM;
	mp_str(&pk, "hostname");
	mp_strn(&pk, id->hostname, strnlen(id->hostname, sizeof(id->hostname)));
	mp_str(&pk, "machine_id");
	mp_bin(&pk, id->machine_id, sizeof(id->machine_id));
	mp_str(&pk, "seed");
	mp_bin(&pk, id->seed, sizeof(id->seed));
	pack_time(a, &pk, id->wall_ns);
	pack_interfaces(a, &pk);
	c->identity = true;
	c->ips = count_ips(a->m);
	return agent_call_start(a, c, timeout_ns, fn, arg);
}

int agent_invoke(struct agent *a, const void *payload, size_t len,
	uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c;

	if (len > AGENT_MAX_PAYLOAD)
		return -EMSGSIZE;
	c = call_new(a, "invoke", timeout_ns ? 2 : 1, &pk);
	if (!c)
		return -ENOMEM;
	/* The guest should not work on what nobody waits for any more. */
	if (timeout_ns)
		mp_key_u64(&pk, "timeout_ms", timeout_ns / 1000000 + 1);
	mp_str(&pk, "payload");
	if (msgpack_pack_bin(&pk, len) || buf_append(&c->req, payload, len)) {
		agent_call_free(c);
		return -ENOMEM;
	}
	return agent_call_start(a, c, timeout_ns, fn, arg);
}

int agent_call(struct agent *a, const struct agent_request *q,
	uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c = call_head(a, q->method, &pk);

	if (!c)
		return -ENOMEM;
	if (buf_append(&c->req, q->params, q->len)) {
		agent_call_free(c);
		return -ENOMEM;
	}
	return agent_call_start(a, c, timeout_ns, fn, arg);
}

int agent_set_clock(
	struct agent *a, uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c = call_new(a, "clock", knows_tsc(a) ? 3 : 1, &pk);

	if (!c)
		return -ENOMEM;
	pack_time(a, &pk, wall_ns());
	return agent_call_start(a, c, timeout_ns, fn, arg);
}

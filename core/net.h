/* The network device as the machine's owner sees it. Loop thread only. */
#ifndef THAW_CORE_NET_H
#define THAW_CORE_NET_H

#include "core/machine.h"

#include <string.h>

struct net_stats {
	uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
	/* The guest had no buffer large enough, or may not hear yet. */
	uint64_t rx_dropped;
	/* The tap did not take it, there is none, or the guest may not speak
	 * yet. */
	uint64_t tx_dropped;
};

/* Statistics of interface i; zeros when there is none. */
void net_get_stats(const struct machine *m, unsigned i, struct net_stats *st);
/* Another address than the configuration had; before machine_realize(). A guest
 * whose driver has read one already is to be told (net_mac_is_new()); one
 * without a driver will read this one. */
void net_set_mac(struct machine *m, unsigned i, const uint8_t mac[6]);
/* The address that the guest goes by. */
const uint8_t *net_driver_mac(const struct machine *m, unsigned i);
/* A restored guest sits at another place of the network, perhaps: have its
 * drivers announce it. After machine_realize(). identity: its agent will be
 * called. If that is to change addresses, then until net_identified() nothing
 * goes out or comes in, on any interface: the guest still speaks as the one it
 * was made from. */
void net_restored(struct machine *m, bool identity);
/* The guest has the addresses it was to have. */
void net_identified(struct machine *m);

/* Has the guest's agent to be told of another MAC; of anything? */
static inline bool net_mac_is_new(const struct machine *m, unsigned i)
{
	static const uint8_t none[6];

	return memcmp(m->net_was[i], none, sizeof(none)) != 0;
}
static inline bool net_is_told(const struct machine *m, unsigned i)
{
	return net_mac_is_new(m, i) || m->net_ip[i].ip[0];
}

#endif

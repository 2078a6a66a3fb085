/* The network device as the machine's owner sees it. Loop thread only. */
#ifndef THAW_CORE_NET_H
#define THAW_CORE_NET_H

#include "core/machine.h"

struct net_stats {
	uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
	uint64_t rx_dropped; /* the guest had no buffer large enough */
	uint64_t tx_dropped; /* the tap did not take it, or there is none */
};

/* Statistics of interface i; zeros when there is none. */
void net_get_stats(const struct machine *m, unsigned i, struct net_stats *st);
/* Another address than the configuration had; before machine_realize(). */
void net_set_mac(struct machine *m, unsigned i, const uint8_t mac[6]);
/* A restored guest sits at another place of the network, perhaps: have its
 * drivers announce it. After machine_realize(). */
void net_restored(struct machine *m);

#endif

/* The tap behind a network device. */
#include "core/devices/net_dev.h"
#include "core/log.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>

int net_tap_open(struct net *n, struct err *e)
{
	int size = sizeof(struct net_hdr);

	if (ioctl(n->tap, TUNSETVNETHDRSZ, &size))
		return err_sys(e, -errno, "TUNSETVNETHDRSZ");
	n->new_offloads = true;
	return 0;
}

/* What the guest can take; all of it goes back to none with the driver. */
void net_tap_offloads(struct net *n)
{
	const uint64_t f = n->s.virtio.driver_features;
	unsigned long on = 0;

	n->new_offloads = false;
	if (n->tap < 0)
		return;
	if (f & NET_F_GUEST_CSUM)
		on |= TUN_F_CSUM;
	if (on && f & NET_F_GUEST_TSO4)
		on |= TUN_F_TSO4;
	if (on && f & NET_F_GUEST_TSO6)
		on |= TUN_F_TSO6;
	if (ioctl(n->tap, TUNSETOFFLOAD, on))
		log_warning("net \"%s\": TUNSETOFFLOAD: %s", n->cfg->id,
			strerror(errno));
}

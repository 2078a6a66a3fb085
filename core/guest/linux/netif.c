/* Addresses of network interfaces, by the ioctls of netdevice(7), which do all
 * that identity asks for. */
#include "core/guest/linux/agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* linux/ipv6.h, which does not go together with net/if.h */
struct in6_ifreq {
	struct in6_addr ifr6_addr;
	uint32_t ifr6_prefixlen;
	int ifr6_ifindex;
};

#define MAX_NETIFS 16u

static void set_name(struct ifreq *r, const char *name)
{
	memset(r, 0, sizeof(*r));
	(void)snprintf(r->ifr_name, sizeof(r->ifr_name), "%s", name);
}

static int set_flag(int s, const char *name, short flag, bool on)
{
	struct ifreq r;

	set_name(&r, name);
	if (ioctl(s, SIOCGIFFLAGS, &r))
		return -errno;
	if (on)
		r.ifr_flags = (short)(r.ifr_flags | flag);
	else
		r.ifr_flags = (short)(r.ifr_flags & ~flag);
	return ioctl(s, SIOCSIFFLAGS, &r) ? -errno : 0;
}

int ta_netif_up(const char *name)
{
	AUTO_FD s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return s < 0 ? -errno : set_flag(s, name, IFF_UP, true);
}

int ta_netif_find(const uint8_t mac[6], char name[16])
{
	struct ifaddrs *all, *a;
	int r = -ENODEV;

	if (getifaddrs(&all))
		return -errno;
	for (a = all; a && r; a = a->ifa_next) {
		struct sockaddr_ll ll;

		if (!a->ifa_addr || a->ifa_addr->sa_family != AF_PACKET)
			continue;
		memcpy(&ll, a->ifa_addr, sizeof(ll));
		if (ll.sll_halen != 6 || memcmp(ll.sll_addr, mac, 6) != 0)
			continue;
		(void)snprintf(name, 16, "%.15s", a->ifa_name);
		r = 0;
	}
	freeifaddrs(all);
	return r;
}

static int set_mac(int s, const char *name, const uint8_t mac[6])
{
	struct ifreq r;

	set_name(&r, name);
	r.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(r.ifr_hwaddr.sa_data, mac, 6);
	if (!ioctl(s, SIOCSIFHWADDR, &r))
		return 0;
	if (errno != EBUSY)
		return -errno;
	/* A driver that wants the interface down for it. */
	if (set_flag(s, name, IFF_UP, false) || ioctl(s, SIOCSIFHWADDR, &r))
		return -errno;
	return set_flag(s, name, IFF_UP, true);
}

/* "ADDRESS/PREFIX" */
static int split_prefix(const char *ip, char addr[64], unsigned max)
{
	const char *slash = strchr(ip, '/');
	char *end;
	unsigned long n;

	if (!slash || !slash[1])
		return -EINVAL;
	n = strtoul(slash + 1, &end, 10);
	if (*end || n > max)
		return -EINVAL;
	(void)snprintf(addr, 64, "%.*s", (int)(slash - ip), ip);
	return (int)n;
}

/* The kernel takes the old primary address away, and its routes. */
static int set_ipv4(int s, const char *name, const char *ip)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	struct ifreq r;
	char addr[64];
	int prefix = split_prefix(ip, addr, 32);

	if (prefix < 0 || inet_pton(AF_INET, addr, &sin.sin_addr) != 1)
		return -EINVAL;
	set_name(&r, name);
	memcpy(&r.ifr_addr, &sin, sizeof(sin));
	if (ioctl(s, SIOCSIFADDR, &r))
		return -errno;
	sin.sin_addr.s_addr =
		prefix ? htonl(0xffffffffU << (32 - (unsigned)prefix)) : 0;
	memcpy(&r.ifr_netmask, &sin, sizeof(sin));
	if (ioctl(s, SIOCSIFNETMASK, &r))
		return -errno;
	return set_flag(s, name, IFF_UP, true);
}

/* Take the global IPv6 addresses away that the template had. */
static void drop_ipv6(int s6, const char *name, int index)
{
	struct ifaddrs *all, *a;

	if (getifaddrs(&all))
		return;
	for (a = all; a; a = a->ifa_next) {
		struct in6_ifreq r = {.ifr6_ifindex = index};
		struct sockaddr_in6 sin;

		if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET6 ||
			!a->ifa_netmask || strcmp(a->ifa_name, name) != 0)
			continue;
		memcpy(&sin, a->ifa_addr, sizeof(sin));
		r.ifr6_addr = sin.sin6_addr;
		if (IN6_IS_ADDR_LINKLOCAL(&r.ifr6_addr))
			continue;
		memcpy(&sin, a->ifa_netmask, sizeof(sin));
		for (int i = 0; i < 16; i++)
			r.ifr6_prefixlen += (uint32_t)__builtin_popcount(
				sin.sin6_addr.s6_addr[i]);
		(void)ioctl(s6, SIOCDIFADDR, &r);
	}
	freeifaddrs(all);
}

static int set_ipv6(int s6, const char *name, int index, const char *ip)
{
	struct in6_ifreq r = {.ifr6_ifindex = index};
	char addr[64];
	int prefix = split_prefix(ip, addr, 128);

	if (prefix < 0 || inet_pton(AF_INET6, addr, &r.ifr6_addr) != 1)
		return -EINVAL;
	drop_ipv6(s6, name, index);
	r.ifr6_prefixlen = (uint32_t)prefix;
	if (ioctl(s6, SIOCSIFADDR, &r) && errno != EEXIST)
		return -errno;
	return 0;
}

static int set_route4(int s, const char *name, const char *gateway)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	struct rtentry rt = {.rt_flags = RTF_UP | RTF_GATEWAY};
	char dev[16];

	memcpy(&rt.rt_dst, &sin, sizeof(sin));
	memcpy(&rt.rt_genmask, &sin, sizeof(sin));
	if (inet_pton(AF_INET, gateway, &sin.sin_addr) != 1)
		return -EINVAL;
	memcpy(&rt.rt_gateway, &sin, sizeof(sin));
	(void)snprintf(dev, sizeof(dev), "%s", name);
	rt.rt_dev = dev;
	return ioctl(s, SIOCADDRT, &rt) && errno != EEXIST ? -errno : 0;
}

static int set_route6(int s6, int index, const char *gateway)
{
	struct in6_rtmsg rt = {.rtmsg_flags = RTF_UP | RTF_GATEWAY,
		.rtmsg_metric = 1024,
		.rtmsg_ifindex = index};

	if (inet_pton(AF_INET6, gateway, &rt.rtmsg_gateway) != 1)
		return -EINVAL;
	return ioctl(s6, SIOCADDRT, &rt) && errno != EEXIST ? -errno : 0;
}

static int set_addresses(
	int s, const char *name, const struct ta_netif *n, struct err *e)
{
	AUTO_FD s6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int index = (int)if_nametoindex(name);
	int r = 0;

	if (strchr(n->ip, ':'))
		r = set_ipv6(s6, name, index, n->ip);
	else if (n->ip[0])
		r = set_ipv4(s, name, n->ip);
	if (r)
		return err_sys(e, r, "%s: address \"%s\"", name, n->ip);
	if (strchr(n->gateway, ':'))
		r = set_route6(s6, index, n->gateway);
	else if (n->gateway[0])
		r = set_route4(s, name, n->gateway);
	return r ? err_sys(e, r, "%s: gateway \"%s\"", name, n->gateway) : 0;
}

int ta_netif_set(const struct ta_netif *n, struct err *e)
{
	AUTO_FD s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	const char *name = n->name;
	struct ifreq req;
	int r = 0;

	if (s < 0)
		return err_sys(e, -errno, "socket");
	if (!if_nametoindex(name))
		return err_set(e, -ENODEV,
			"the guest has no network interface \"%s\"", name);
	if (n->has_mac)
		r = set_mac(s, name, n->mac);
	if (r)
		return err_sys(e, r, "%s: setting the MAC", name);
	if (n->mtu) {
		set_name(&req, name);
		req.ifr_mtu = (int)n->mtu;
		if (ioctl(s, SIOCSIFMTU, &req))
			return err_sys(e, -errno, "%s: MTU %u", name, n->mtu);
	}
	if (n->ip[0] || n->gateway[0])
		r = set_flag(s, name, IFF_UP, true);
	if (r)
		return err_sys(e, r, "%s: up", name);
	return set_addresses(s, name, n, e);
}

/* ---- interfaces of an identity ---- */

static int parse_mac(const char *text, uint8_t mac[6])
{
	unsigned v[6];
	char rest;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &v[0], &v[1], &v[2],
		    &v[3], &v[4], &v[5], &rest) != 6)
		return -EINVAL;
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)v[i];
	return 0;
}

static int get_mac(const msgpack_object *o, const char *key, uint8_t mac[6],
	bool *has, struct err *e)
{
	char text[24];
	int r = ta_get_text(o, key, text, sizeof(text), e);

	if (r || !text[0])
		return r;
	*has = true;
	return parse_mac(text, mac)
		       ? err_set(e, -EINVAL, "%s is no address: \"%s\"", key,
				 text)
		       : 0;
}

static int get_netif(const msgpack_object *o, struct ta_netif *n, struct err *e)
{
	uint64_t mtu = 0;
	int r;

	*n = (struct ta_netif){0};
	r = ta_get_text(o, "name", n->name, sizeof(n->name), e);
	if (!r)
		r = get_mac(o, "match", n->match, &n->has_match, e);
	if (!r)
		r = get_mac(o, "mac", n->mac, &n->has_mac, e);
	if (!r)
		r = ta_get_text(o, "ip", n->ip, sizeof(n->ip), e);
	if (!r)
		r = ta_get_text(
			o, "gateway", n->gateway, sizeof(n->gateway), e);
	if (!r)
		r = ta_get_u64(o, "mtu", 65535, &mtu, e);
	n->mtu = (uint32_t)mtu;
	if (!r && !n->name[0] && !n->has_match)
		r = err_set(e, -EINVAL,
			"an interface needs its name, or match: its address");
	return r;
}

static bool is_matched(
	const struct ta_netif *n, uint32_t count, const uint8_t mac[6])
{
	for (uint32_t i = 0; i < count; i++) {
		if (n[i].has_match && !memcmp(n[i].match, mac, 6))
			return true;
	}
	return false;
}

static int find_netif(const struct ta *t, struct ta_netif *all, uint32_t count,
	struct ta_netif *n, struct err *e)
{
	const uint8_t *m = n->match;
	int r;

	if (!n->has_match)
		return 0;
	r = t->sys->find_netif(m, n->name);
	/* An identity that comes once more finds what it has done. */
	if (r == -ENODEV && n->has_mac && !is_matched(all, count, n->mac))
		r = t->sys->find_netif(n->mac, n->name);
	return r ? err_set(e, r,
			   "the guest has no network interface with the "
			   "address %02x:%02x:%02x:%02x:%02x:%02x",
			   m[0], m[1], m[2], m[3], m[4], m[5])
		 : 0;
}

/* All are found before the first one changes: it may get the address that the
 * next one has. */
int ta_netifs(struct ta *t, const msgpack_object *params, struct err *e)
{
	const msgpack_object *o = mp_get(params, "interfaces");
	struct ta_netif n[MAX_NETIFS];
	uint32_t count;
	int r = 0;

	t->addresses = 0;
	if (!o)
		return 0;
	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size > MAX_NETIFS)
		return err_set(e, -EINVAL,
			"interfaces must be an array of up to %u maps",
			MAX_NETIFS);
	count = o->via.array.size;
	for (uint32_t i = 0; i < count && !r; i++)
		r = get_netif(&o->via.array.ptr[i], &n[i], e);
	for (uint32_t i = 0; i < count && !r; i++)
		r = find_netif(t, n, count, &n[i], e);
	for (uint32_t i = 0; i < count && !r; i++) {
		r = t->sys->netif(&n[i], e);
		t->addresses += n[i].ip[0] != 0;
	}
	return r;
}

#include "api/daemon/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* A number in /sys/class/net/NAME/FILE; -1 is what the kernel says for "nobody
 * in particular". false: there is no such file. */
static bool sys_number(const char *name, const char *file, long *v)
{
	char path[128], text[32] = "";
	AUTO_FD fd = -1;

	(void)snprintf(path, sizeof(path), "/sys/class/net/%s/%s", name, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return false;
	*v = strtol(text, NULL, 0);
	return true;
}

static bool name_ok(const char *name)
{
	return name[0] && strlen(name) < IFNAMSIZ && strcmp(name, ".") != 0 &&
	       strcmp(name, "..") != 0 && !strchr(name, '/') &&
	       !strchr(name, '%');
}

static bool in_group(int sock, long group)
{
	gid_t groups[64];
	socklen_t len = sizeof(groups);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &len))
		return false;
	for (size_t i = 0; i < len / sizeof(gid_t); i++) {
		if ((long)groups[i] == group)
			return true;
	}
	return false;
}

/* The kernel's own check (tun_not_capable()) sees us, not the client. */
static bool may_use(const struct request *r, const char *name)
{
	const struct ucred *peer = &r->conn->peer;
	long owner = -1, group = -1;

	if (geteuid() != 0 || peer->uid == 0)
		return true;
	(void)sys_number(name, "owner", &owner);
	(void)sys_number(name, "group", &group);
	if (owner == -1 && group == -1)
		return false;
	return (owner == -1 || owner == (long)peer->uid) &&
	       (group == -1 || group == (long)peer->gid ||
		       in_group(r->conn->fd, group));
}

static int attach(const char *id, const char *name, struct err *e)
{
	struct ifreq ifr = {0};
	AUTO_FD fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, -errno, "net \"%s\": /dev/net/tun", id);
	ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (!ioctl(fd, TUNSETIFF, &ifr))
		return take_fd(&fd);
	if (errno == EBUSY)
		return err_set(
			e, -EBUSY, "net \"%s\": tap %s is in use", id, name);
	return err_sys(e, -errno, "net \"%s\": tap %s", id, name);
}

static int by_name(const struct request *r, const char *id, const char *name,
	struct err *e)
{
	long flags;

	if (!r->conn)
		return err_set(e, -ECONNRESET, "the client is gone");
	/* TUNSETIFF would make an interface that is not there. */
	if (!name_ok(name) || !sys_number(name, "ifindex", &flags))
		return err_set(e, -ENOENT,
			"net \"%s\": there is no interface \"%s\" (ip tuntap "
			"add NAME mode tap makes one)",
			id, name);
	if (!sys_number(name, "tun_flags", &flags) || !(flags & IFF_TAP))
		return err_set(e, -EINVAL,
			"net \"%s\": interface %s is not a tap", id, name);
	if (!may_use(r, name))
		return err_set(e, -EACCES,
			"net \"%s\": tap %s belongs to somebody else", id,
			name);
	return attach(id, name, e);
}

static int by_fd(
	struct request *r, const char *id, int64_t number, struct err *e)
{
	const int want = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	AUTO_FD fd = request_take_fd(r, number, e);
	struct ifreq ifr = {0};
	int flags;

	if (fd < 0)
		return err_wrap(e, "net \"%s\"", id);
	if (ioctl(fd, TUNGETIFF, &ifr) || (ifr.ifr_flags & want) != want)
		return err_set(e, -EINVAL,
			"net \"%s\": the descriptor is not a tap with "
			"IFF_NO_PI and IFF_VNET_HDR",
			id);
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return err_sys(e, -errno, "net \"%s\"", id);
	return take_fd(&fd);
}

int tap_open(struct daemon *d, struct request *r, const char *id,
	const char *name, int64_t fd, struct err *e)
{
	(void)d;
	return fd >= 0 ? by_fd(r, id, fd, e) : by_name(r, id, name, e);
}

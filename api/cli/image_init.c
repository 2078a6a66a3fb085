#include "api/cli/image.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/*
 * What the guest starts: the agent itself, or an init of the source's with the
 * agent as a service. Of those systemd is known; any other init has to be told
 * by its owner.
 */

/* The agent loads vsock's driver itself; nothing has to be there before it. */
static const char unit[] =
	"[Unit]\n"
	"Description=thaw agent\n"
	"DefaultDependencies=no\n"
	"After=systemd-remount-fs.service systemd-tmpfiles-setup.service\n"
	"Conflicts=shutdown.target\n"
	"Before=shutdown.target\n"
	"\n"
	"[Service]\n"
	"ExecStart=/sbin/thaw-agent\n"
	"Restart=always\n"
	"OOMScoreAdjust=-900\n"
	"TasksMax=infinity\n"
	"\n"
	"[Install]\n"
	"WantedBy=multi-user.target\n";

#define UNITS "etc/systemd/system"

bool image_is_init(const struct image_item *it, bool initrd)
{
	if (initrd)
		return !strcmp(it->path, "init");
	return !strcmp(it->path, "sbin/init") ||
	       !strcmp(it->path, "usr/sbin/init");
}

static bool has(struct image *im, const char *path)
{
	char real[PATH_MAX];

	image_resolve(im, path, real);
	return image_find(im, real) != NULL;
}

static int add_service(struct image *im, struct err *e)
{
	struct image_item it = {.path = UNITS "/thaw-agent.service",
		.mode = S_IFREG | 0644,
		.size = sizeof(unit) - 1,
		.data = unit};
	int r = 0;

	if (!has(im, "lib/systemd/systemd"))
		return err_set(e, -EINVAL,
			"--init own: the source has no systemd, and of other "
			"inits it is not known how to add a service: leave "
			"--init out and have it start /sbin/thaw-agent");
	if (!image_find(im, it.path))
		r = image_add(im, &it, e);
	return r ? r
		 : image_add_link(im,
			   UNITS "/multi-user.target.wants/thaw-agent.service",
			   "/" UNITS "/thaw-agent.service", e);
}

int image_add_init(
	struct image *im, enum image_init how, bool initrd, struct err *e)
{
	int r = 0;

	if (how == IMAGE_INIT_OWN) {
		if (!has(im, "sbin/init"))
			return err_set(e, -EINVAL,
				"--init own: the source has no /sbin/init");
		r = add_service(im, e);
		return r || !initrd
			       ? r
			       : image_add_link(im, "init", "sbin/init", e);
	}
	return initrd ? image_add_link(im, "init", "sbin/thaw-agent", e)
		      : image_add_link(im, "sbin/init", "thaw-agent", e);
}

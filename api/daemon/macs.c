#include "api/daemon/macs.h"

#include "api/daemon/machine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MAC_TEXT 18

/* What an entry holds; most hold none. */
struct macs {
	unsigned n;
	struct mac_held {
		struct strmap_node node;
		char text[MAC_TEXT];
		struct machine_entry *m;
	} held[MACHINE_MAX_NETS];
};

static void to_text(char text[MAC_TEXT], const uint8_t mac[6])
{
	(void)snprintf(text, MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0],
		mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static struct machine_entry *holder(const struct daemon *d, const char *text)
{
	struct strmap_node *n = strmap_find(&d->machine_by_mac, text);

	return n ? container_of(n, struct mac_held, node)->m : NULL;
}

static int hold(
	struct daemon *d, struct machine_entry *m, const char text[MAC_TEXT])
{
	struct mac_held *h;

	if (!m->macs)
		m->macs = calloc(1, sizeof(*m->macs));
	if (!m->macs)
		return -ENOMEM;
	if (m->macs->n == MACHINE_MAX_NETS)
		return -ENOSPC;
	h = &m->macs->held[m->macs->n++];
	memcpy(h->text, text, MAC_TEXT);
	h->m = m;
	strmap_add(&d->machine_by_mac, &h->node, h->text);
	return 0;
}

int macs_check(struct daemon *d, const struct machine_entry *m,
	const struct devfiles *files, struct err *e)
{
	for (unsigned i = 0; i < files->nnets; i++) {
		const struct ctl_net *n = &files->net[i];
		const struct machine_entry *other;
		char text[MAC_TEXT];

		if (!n->has_mac)
			continue;
		to_text(text, n->mac);
		other = holder(d, text);
		if (other && other != m)
			return err_set(e, -EBUSY,
				"macs: %s is the address of machine %s", text,
				other->id);
	}
	return 0;
}

int macs_claim(struct daemon *d, struct machine_entry *m,
	const struct devfiles *files, struct err *e)
{
	int r = macs_check(d, m, files, e);

	for (unsigned i = 0; i < files->nnets && !r; i++) {
		char text[MAC_TEXT];

		if (!files->net[i].has_mac)
			continue;
		to_text(text, files->net[i].mac);
		if (!holder(d, text) && hold(d, m, text))
			r = err_set(e, -ENOMEM, "no memory for a machine");
	}
	return r;
}

void macs_note(struct daemon *d, struct machine_entry *m,
	const struct machine_config *cfg)
{
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++) {
		char text[MAC_TEXT];

		if (!cfg->net[i].id[0])
			continue;
		to_text(text, cfg->net[i].mac);
		/* Two of the same: the first one's. No memory: it is only not
		 * known. */
		if (!holder(d, text) && hold(d, m, text))
			return;
	}
}

void macs_release(struct daemon *d, struct machine_entry *m)
{
	for (unsigned i = 0; m->macs && i < m->macs->n; i++)
		strmap_del(&d->machine_by_mac, &m->macs->held[i].node);
	free(m->macs);
	m->macs = NULL;
}

/*
 * The kernel's command line.
 *
 * A general kernel gets what makes it usable in a machine whose only console is
 * a serial port; each of these gives way to one of the same name in the
 * configuration. A guest made for thaw finds its identity page and its devices
 * on the line; a general one has ACPI for that.
 */
#include "core/arch/x86/boot.h"

#include "core/virtio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Documentation/admin-guide/kernel-parameters.txt. panic: do not hang, restart
 * at once; reboot: by the keyboard controller, the shortest way; pci: there
 * is none. */
static const char *const defaults[] = {
	"console=ttyS0",
	"panic=-1",
	"reboot=k",
	"pci=off",
};

struct line {
	char *buf;
	size_t size, len;
	bool full;
};

static void add(struct line *l, const char *word)
{
	size_t n = strlen(word), gap = l->len ? 1 : 0;

	if (!n || l->full)
		return;
	if (l->len + gap + n + 1 > l->size) {
		l->full = true;
		return;
	}
	if (gap)
		l->buf[l->len++] = ' ';
	memcpy(l->buf + l->len, word, n + 1);
	l->len += n;
}

/* Does the line set this parameter (up to and with its "=")? */
static bool sets(const char *line, const char *word)
{
	size_t n = (size_t)(strchr(word, '=') - word) + 1;

	for (const char *p = line; *p; p++) {
		if ((p == line || p[-1] == ' ') && !strncmp(p, word, n))
			return true;
	}
	return false;
}

static void add_devices(struct line *l, const struct machine *m)
{
	char word[96];
	uint32_t slot;

	(void)snprintf(word, sizeof(word), "thaw.ident=0x%x", IDENT_GPA);
	add(l, word);
	for (unsigned i = 0; i < m->ndevs; i++) {
		if (!m->dev[i]->window)
			continue;
		slot = m->dev[i]->window - 1;
		(void)snprintf(word, sizeof(word),
			"virtio_mmio.device=4K@0x%llx:%u",
			VMMIO_BASE + slot * VMMIO_SIZE, VMMIO_GSI_BASE + slot);
		add(l, word);
	}
}

int boot_cmdline(const struct machine *m, const struct image *img, char *out,
	size_t size, struct err *e)
{
	struct line l = {
		.buf = out, .size = min_u64(size, img->cmdline_max + 1ULL)};
	const char *own = m->cfg.cmdline;

	out[0] = '\0';
	for (unsigned i = 0; img->general && i < ARRAY_SIZE(defaults); i++) {
		if (!sets(own, defaults[i]))
			add(&l, defaults[i]);
	}
	add(&l, own);
	if (!img->general)
		add_devices(&l, m);
	if (!l.full)
		return 0;
	return err_set(e, -EINVAL,
		"cmdline: %zu bytes leave no room for what the machine adds; "
		"this kernel takes %zu in all",
		strlen(own), l.size - 1);
}

/* The block device against a hostile driver; half of the inputs over overlays.
 * The image under an overlay never changes. */
#include "tests/fuzz/device_steps.h"
#include "core/devices/block_dev.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE (64 * 1024)

static int file(const char *name, off_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, size))
		abort();
	return fd;
}

static void image_untouched(int fd)
{
	static uint8_t now[SIZE];

	if (pread_full(fd, now, SIZE, 0))
		abort();
	for (size_t i = 0; i < SIZE; i++) {
		if (now[i])
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const bool overlay = size && data[0] & 1, ro = size && data[0] & 2;
	struct machine_config cfg = {.memory = RIG_MEMORY,
		.disk[0] = {.id = "d",
			.queues = 2,
			.read_only = ro,
			.overlay = overlay && !ro}};
	static struct steps s;
	struct machine_fds fds;

	memset(&fds, 0xff, sizeof(fds));
	memset(&s, 0, sizeof(s));
	s.p = data + (size != 0);
	s.n = size - (size != 0);
	fds.disk[0] = file("disk", SIZE);
	if (overlay && !ro)
		fds.overlay[0] = file("overlay", 0);
	vrig_init(&s.r, &block_ops, &cfg, &fds);
	s.features = s.r.vd->features;
	steps_run(&s);
	vrig_fini(&s.r);
	if (overlay || ro)
		image_untouched(fds.disk[0]);
	(void)close(fds.disk[0]);
	if (fds.overlay[0] >= 0)
		(void)close(fds.overlay[0]);
	return 0;
}

/* Drivers of thaw's devices in stock kernels, and what a disk of "thaw image
 * build" needs: the agent loads them, image build brings them. */
#ifndef THAW_CORE_GUEST_LINUX_DRIVERS_H
#define THAW_CORE_GUEST_LINUX_DRIVERS_H

/* crc32c: ext4 asks for it by name and not as a dependency. */
#define TA_DRIVERS                                                             \
	"virtio_mmio", "vmw_vsock_virtio_transport", "virtio_blk",             \
		"virtio_net", "virtio_rng", "pvpanic_mmio", "crc32c_generic",  \
		"ext4"

#endif

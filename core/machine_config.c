/* The configuration's and the machine's own state tables. */
#include "core/machine.h"

#include <errno.h>
#include <string.h>

static const struct st_field config_fields[] = {
	ST_U(struct machine_config, memory, 1),
	ST_U(struct machine_config, cpus, 1),
	ST_U(struct machine_config, vsock_cid, 1),
	ST_U(struct machine_config, builtin, 1),
	ST_U(struct machine_config, reserved, 1),
	ST_RAW(struct machine_config, kernel, 1),
	ST_RAW(struct machine_config, cmdline, 1),
	ST_SUBS(struct machine_config, disk, &machine_disk_desc,
		MACHINE_MAX_DISKS, 2),
	ST_SUBS(struct machine_config, net, &machine_net_desc, MACHINE_MAX_NETS,
		2),
	ST_U(struct machine_config, rng, 2),
	ST_U(struct machine_config, reserved2, 2),
	ST_RAW(struct machine_config, initrd, 3),
	ST_U(struct machine_config, acpi, 3),
	ST_U(struct machine_config, reserved3, 3),
};

static int config_check(const void *state, struct err *e)
{
	const struct machine_config *c = state;

	if (c->memory % (2 * MIB) || c->memory < MEM_MIN || c->memory > MEM_MAX)
		return err_set(e, -EINVAL,
			"memory: %llu bytes; it must be a multiple of 2 MiB "
			"from %llu MiB to %llu GiB",
			(unsigned long long)c->memory,
			(unsigned long long)(MEM_MIN / MIB),
			(unsigned long long)(MEM_MAX / GIB));
	if (c->cpus < 1 || c->cpus > MACHINE_MAX_CPUS)
		return err_set(e, -EINVAL, "cpus: %u; it must be 1 to %u",
			c->cpus, MACHINE_MAX_CPUS);
	/* virtio 1.2 section 5.10.4: 0, 1 and 2 are reserved, the upper half
	 * of the 64-bit number is 0, and 2^32 - 1 means "any". */
	if (c->vsock_cid == 1 || c->vsock_cid == 2 ||
		c->vsock_cid == UINT32_MAX)
		return err_set(e, -EINVAL,
			"vsock_cid: %u is reserved; use 3 to 4294967294, or 0 "
			"for no vsock",
			c->vsock_cid);
	if (c->builtin > 1)
		return err_set(e, -EINVAL, "builtin: %u is neither 0 nor 1",
			c->builtin);
	if (c->acpi > 1)
		return err_set(
			e, -EINVAL, "acpi: %u is neither 0 nor 1", c->acpi);
	if (c->reserved || c->reserved2 || c->reserved3)
		return err_set(e, -EINVAL, "reserved: not 0");
	if (!memchr(c->kernel, '\0', sizeof(c->kernel)))
		return err_set(e, -EINVAL, "kernel: longer than %zu bytes",
			sizeof(c->kernel) - 1);
	if (!memchr(c->initrd, '\0', sizeof(c->initrd)))
		return err_set(e, -EINVAL, "initrd: longer than %zu bytes",
			sizeof(c->initrd) - 1);
	if (!memchr(c->cmdline, '\0', sizeof(c->cmdline)))
		return err_set(e, -EINVAL, "cmdline: longer than %zu bytes",
			sizeof(c->cmdline) - 1);
	return machine_devices_check(c, e);
}

const struct st_desc machine_config_desc = {
	.name = "config",
	.size = sizeof(struct machine_config),
	.version = 3,
	.nfields = ARRAY_SIZE(config_fields),
	.fields = config_fields,
	.check = config_check,
};

static const struct st_field state_fields[] = {
	ST_U(struct machine_saved, clock_ns, 1),
	ST_U(struct machine_saved, wall_ns, 1),
};

/* A clock near the end of its range would wrap under the guest. */
static int state_check(const void *state, struct err *e)
{
	const struct machine_saved *s = state;

	if (s->clock_ns > INT64_MAX)
		return err_set(e, -EBADMSG, "clock_ns: %llu is out of range",
			(unsigned long long)s->clock_ns);
	return 0;
}

const struct st_desc machine_state_desc = {
	.name = "machine",
	.size = sizeof(struct machine_saved),
	.version = 1,
	.nfields = ARRAY_SIZE(state_fields),
	.fields = state_fields,
	.check = state_check,
};

const char *machine_state_name(enum machine_state s)
{
	static const char *const names[] = {
		[MACHINE_NEW] = "new",
		[MACHINE_BUILT] = "built",
		[MACHINE_RUNNING] = "running",
		[MACHINE_PAUSED] = "paused",
		[MACHINE_DEAD] = "dead",
	};
	_Static_assert(ARRAY_SIZE(names) == MACHINE_NSTATES_, "all named");

	return (unsigned)s < MACHINE_NSTATES_ ? names[s] : "unknown";
}

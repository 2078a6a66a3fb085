/* Options of commands that make machines or templates from snapshots lazily. */
#include "api/cli/cli.h"

uint32_t lazy_count(const struct lazy_opts *o)
{
	return (uint32_t)(o->lazy + o->no_fill + (o->rate != 0) +
			  (o->stall_ms != 0));
}

/* Those that make no sense without --lazy are the daemon's to refuse. */
void lazy_pack(msgpack_packer *p, const struct lazy_opts *o)
{
	if (o->lazy)
		mp_key_bool(p, "lazy", true);
	if (o->no_fill)
		mp_key_str(p, "fill", "none");
	if (o->rate)
		mp_key_u64(p, "fill_rate", o->rate);
	if (o->stall_ms)
		mp_key_u64(p, "stall_ms", o->stall_ms);
}

/* Functions that end the guest, one way or another; for tests. */
#include "core/guest/boot.h"
#include "core/guest/cpu.h"
#include "core/guest/fn.h"

#define BAD_ADDRESS 0x10 /* in page 0, which is not mapped */

static _Noreturn void sleep_for_ever(void)
{
	for (;;)
		door_wait(DOOR_FOREVER);
}

static int bad_access(void)
{
	volatile uint8_t *p = (volatile uint8_t *)BAD_ADDRESS;

	/* so that the compiler does not know that this is no object */
	__asm__("" : "+r"(p));
	*p = 1;
	return 0;
}

int fn_crash(struct fn_ctx *ctx, const struct fn_input *in)
{
	if (str_is(in->arg, in->narg, "badaccess"))
		return bad_access();
	if (str_is(in->arg, in->narg, "triplefault")) {
		crash_triple = 1;
		return bad_access();
	}
	if (str_is(in->arg, in->narg, "invalidop"))
		__asm__ volatile("ud2");
	if (str_is(in->arg, in->narg, "hang"))
		sleep_for_ever();
	if (str_is(in->arg, in->narg, "loop")) {
		for (;;)
			__asm__ volatile("");
	}
	return fn_fail(ctx, FN_INVALID,
		"crash needs badaccess, invalidop, triplefault, loop or hang");
}

int fn_poweroff(struct fn_ctx *ctx, const struct fn_input *in)
{
	(void)ctx, (void)in;
	door_event(DOOR_EV_POWEROFF);
	sleep_for_ever();
}

int fn_reboot(struct fn_ctx *ctx, const struct fn_input *in)
{
	(void)ctx, (void)in;
	door_event(DOOR_EV_REBOOT);
	sleep_for_ever();
}

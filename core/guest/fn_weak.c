/* What a function need not supply. */
#include "core/guest/function.h"

__attribute__((weak)) const char *const function_names[] = {"user", NULL};

__attribute__((weak)) int function_init(struct fn_ctx *ctx)
{
	(void)ctx;
	return 0;
}

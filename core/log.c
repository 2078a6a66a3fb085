#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>

/* global: set once by log_init() before any thread starts, read after. */
static const char *log_name = "thaw";
static enum log_level log_show = LOG_INFO;

void log_init(const char *name, enum log_level show)
{
	log_name = name;
	log_show = show;
}

void log_at(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = {
		[LOG_ERROR] = "error",
		[LOG_WARNING] = "warning",
		[LOG_INFO] = "info",
		[LOG_DEBUG] = "debug",
	};
	char line[1024];
	va_list ap;
	int n, m;

	if (level > log_show)
		return;
	n = snprintf(line, sizeof(line), "%s: %s: ", log_name, names[level]);
	if (n < 0)
		return;
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (m < 0)
		return;
	n += m;
	if ((size_t)n > sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return; /* nowhere left to say it */
}

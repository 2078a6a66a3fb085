/*
 * Log lines on stderr: "thawd: warning: text". One line per call, written
 * with one write(2), so that processes sharing a terminal do not mix lines.
 */
#ifndef THAW_CORE_LOG_H
#define THAW_CORE_LOG_H

#include "core/util.h"

enum log_level {
	LOG_ERROR,
	LOG_WARNING,
	LOG_INFO,
	LOG_DEBUG
};

/* Name before each line and the last level shown. Call once at start. */
void log_init(const char *name, enum log_level show);
void log_at(enum log_level level, const char *fmt, ...) PRINTF(2, 3);

#define log_error(...)   log_at(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_at(LOG_DEBUG, __VA_ARGS__)

#endif

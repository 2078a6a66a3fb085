/* docs/api.md and docs/config.md, made from the tables. */
#ifndef THAW_API_DAEMON_DOCS_H
#define THAW_API_DAEMON_DOCS_H

/* "api" or "config" to stdout. 1: done, 2: no such page. */
int docs_print(const char *page);

#endif

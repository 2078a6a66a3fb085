/*
 * Tests that hold for every state table. Each fails the cmocka test it is
 * called from, with the table's name in the message.
 */
#ifndef THAW_TESTS_UNIT_STATE_GENERIC_H
#define THAW_TESTS_UNIT_STATE_GENERIC_H

#include "core/state.h"

/*
 * Every byte named exactly once, names unique, versions sane; round trip;
 * every truncation refused; version 0 and a too-new one refused; each missing
 * field gets its default; mutated input never crashes and, when it loads,
 * saves the same values. sample: a state that the table's check() accepts,
 * NULL for all defaults. Nested tables are covered with the outer one.
 */
void st_test_generic(const struct st_desc *d, const void *sample);

#endif

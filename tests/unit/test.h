/* cmocka with the headers it needs, in the order it needs them. */
#ifndef THAW_TESTS_UNIT_TEST_H
#define THAW_TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif

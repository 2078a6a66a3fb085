/* The version that every executable reports. */
#ifndef THAW_API_VERSION_H
#define THAW_API_VERSION_H

#include "core/version.h"

#endif

/* The version that every executable reports and every snapshot names. */
#ifndef THAW_CORE_VERSION_H
#define THAW_CORE_VERSION_H

#define THAW_VERSION "0.1.0"

#endif

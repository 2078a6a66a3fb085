/* The version that every executable reports. */
#ifndef THAW_API_VERSION_H
#define THAW_API_VERSION_H

#define THAW_VERSION "0.1.0"

#endif

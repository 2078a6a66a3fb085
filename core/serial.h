/*
 * The serial port's two ends on the host. Device: devices/serial.c, a 16550A
 * at SERIAL_PORT with interrupt SERIAL_GSI.
 */
#ifndef THAW_CORE_SERIAL_H
#define THAW_CORE_SERIAL_H

#include "core/machine.h"

/* Bytes that the guest sent. Runs on a vCPU thread under the device's lock:
 * must not block for long and not call back into serial_*(). */
typedef void serial_output_fn(void *arg, const void *data, size_t len);

/* Where output goes; NULL drops it, as after creation. Not saved. Loop
 * thread; also legal while vCPUs run. */
void serial_set_output(struct machine *m, serial_output_fn *fn, void *arg);

/* Bytes for the guest to receive; returns how many found room. The rest is the
 * caller's to offer again later. Loop thread. */
size_t serial_input(struct machine *m, const void *data, size_t len);
/* The same, but up to SERIAL_QUEUE_MAX bytes wait here for room; those do not
 * travel in a snapshot. */
#define SERIAL_QUEUE_MAX (256 * 1024)
size_t serial_queue_input(struct machine *m, const void *data, size_t len);

#endif

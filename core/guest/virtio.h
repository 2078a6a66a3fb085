/*
 * virtio-mmio (virtio 1.2 section 4.2) and the three split rings (2.7) of the
 * vsock device, polled: no interrupts, no notifications but the door.
 *
 * How it works. Everything small lives in two pages (struct io_page, rx_head),
 * because every page that a clone writes is copied. A receive buffer is a chain
 * of two descriptors: 512 bytes in the shared page of heads, where a small
 * packet fits completely, and a large tail that only a large packet touches. A
 * transmit slot holds a header and what small data goes with it; large data is
 * sent from where it lies, as a second descriptor.
 *
 * Descriptors never change hands: slot i is descriptors 2i and 2i + 1 for ever.
 *
 * Whoever publishes something goes to the door soon, and the door counts as a
 * notification of every queue, so QueueNotify is not used.
 */
#ifndef THAW_CORE_GUEST_VIRTIO_H
#define THAW_CORE_GUEST_VIRTIO_H

#include "core/guest/stream.h"

#define RX_BUFS  8
#define TX_SLOTS 8
#define EV_BUFS  4

#define RX_HEAD_SIZE 512
#define TX_SLOT_SIZE 256

/* Find and start the device at addr. tails: RX_BUFS * tail_size bytes. NULL, or
 * what is wrong. */
const char *virtio_init(uint64_t addr, uint8_t *tails, uint32_t tail_size);
/* The guest's address, from configuration space (costs an exit). */
uint64_t virtio_cid(void);

/* Packets that wait now. */
uint16_t rx_ready(void);
/* The next of them: its buffer number; *len: bytes written into the chain. */
unsigned rx_pop(uint32_t *len);
uint8_t *rx_head(unsigned buf);
uint8_t *rx_tail(unsigned buf);
bool rx_is_head(const void *p);
/* Give the buffer back to the device. */
void rx_recycle(unsigned buf);

/* True: *id is the next event. */
bool event_pop(uint32_t *id);

/* A free slot, or NULL. It stays free until tx_push(). Only after a NULL here,
 * or a false from tx_idle(), does a taken packet end a sleep at the door. */
uint8_t *tx_slot(void);
/* Send n bytes of this slot and m more from p, which the device reads before
 * tx_idle(). */
void tx_push(const uint8_t *slot, uint32_t n, const void *p, uint32_t m);
/* The device has taken all. */
bool tx_idle(void);
/* Packets were pushed since the last time at the door. */
bool tx_unseen(void);
/* Sleep at the door; counts as notification. */
void virtio_wait(uint32_t us);

#endif

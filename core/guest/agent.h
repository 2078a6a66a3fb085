/*
 * The agent: msgpack-rpc on vsock port 1024 (docs/functions.md). One request at
 * a time; the next one, of any stream, is looked at when it is answered.
 *
 * How it works. A message that came whole in one small packet is handled where
 * it lies in the receive buffer; one that is whole in its stream's buffer is
 * handled there. A larger one is put together at the start of the heap, which
 * one stream at a time may claim; the others are held back by credit.
 */
#ifndef THAW_CORE_GUEST_AGENT_H
#define THAW_CORE_GUEST_AGENT_H

#include "core/guest/stream.h"

#define AGENT_MAX_PAYLOAD (6u << 20)

/* New bytes of an open stream that has none waiting: how many were taken. */
uint32_t agent_offer(struct stream *s, const uint8_t *p, uint32_t n);
/* Handle what waits in the streams' buffers. True when anything was done. */
bool agent_run(void);
/* Forget about this stream. */
void agent_stream_over(const struct stream *s);

/* What identity() set, for functions. */
const char *agent_hostname(void);
const uint8_t *agent_machine_id(void);

#endif

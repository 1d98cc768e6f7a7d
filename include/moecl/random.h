// SPDX-License-Identifier: MIT
/* Reproducible random numbers, drawn on the device: Philox4x32-10 (Salmon,
 * Moraes, Dror, Shaw 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"),
 * keyed by seed and stream and counted by element, so that every device draws
 * the same bits whatever the order or the chunking.
 *
 * Element i of a stream is made from 64 bits of Philox block
 * (counter = {lo(i/2), hi(i/2), lo(stream), hi(stream)},
 *  key = {lo(seed), hi(seed)}):
 * words 0,1 for even i and 2,3 for odd i.
 *
 * "Normal" is the sum of the four 16-bit halves of the two words, centred and
 * scaled to unit variance (Irwin-Hall of order 4). It uses integer arithmetic
 * and one exactly rounded multiplication, where Box-Muller's logarithm and
 * cosine would differ from device to device in the last bits.
 *
 * "Uniform" is the upper 24 bits of the first word, centred and scaled.
 *
 * Both are fp32 values, then rounded to nearest even where dtype is narrower (a
 * uniform one may then become `scale` itself). A device that flushes fp32
 * subnormals gives 0 for them. */
#ifndef MOECL_RANDOM_H
#define MOECL_RANDOM_H

#include "moecl/buffer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum moecl_distribution {
  MOECL_NORMAL = 0, /* mean 0, standard deviation `scale` */
  MOECL_UNIFORM     /* in [-scale, scale) */
} moecl_distribution;

typedef struct moecl_random_params {
  moecl_dtype dtype;
  moecl_distribution distribution;
  float scale; /* required, finite */
  uint64_t seed;
  uint64_t stream;      /* one per tensor */
  uint64_t first_index; /* the stream's index of the first element written; even */
  uint64_t reserved[4]; /* zeros: see moecl.h */
} moecl_random_params;

/* Enqueues drawing `count` elements into `buffer` from element
 * `offset` (in elements of dtype) on. A context's first call of a dtype and
 * distribution builds the kernel and checks it on a small problem, waiting for nothing that
 * its queue has. The buffer may be destroyed right after the call.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (a parameter, a range outside the buffer),
 * MOECL_ERROR_BUILD (the kernel, or its answer is wrong), MOECL_ERROR_DEVICE, a lack of
 * memory. Thread: the context's. */
MOECL_API moecl_status moecl_fill_random(moecl_buffer *buffer, uint64_t offset, uint64_t count,
                                         const moecl_random_params *params);

/* The same numbers on the host, bit for bit; `dst` is host memory of `count` elements of
 * dtype, and may be NULL where count is 0. Errors: MOECL_ERROR_INVALID_ARGUMENT, which
 * writes nothing. Thread-safe. */
MOECL_API moecl_status moecl_random_host(void *dst, uint64_t count,
                                         const moecl_random_params *params);

/* Hidden states that load the experts unevenly: row t is
 *   sqrt(1-noise^2) * centre(c(t)) + noise * own(t)
 * with centre and own drawn normal of unit variance and the cluster c(t) of
 * `num_clusters` drawn with probability proportional to 1 / rank^exponent
 * (Zipf's law). Tokens of one cluster are routed alike. */
typedef struct moecl_skewed_params {
  moecl_dtype dtype;
  int64_t num_tokens, hidden_size;
  uint64_t seed, stream;
  int64_t num_clusters; /* 1 to 65536 */
  float exponent;       /* 0: even; 1: Zipf; finite, not negative */
  float noise;          /* 0 to 1 */
  uint64_t reserved[4]; /* zeros: see moecl.h */
} moecl_skewed_params;

/* Enqueues drawing a row-major [num_tokens, hidden_size] matrix of dtype into `buffer` from
 * its start. Errors and thread as moecl_fill_random. */
MOECL_API moecl_status moecl_fill_skewed(moecl_buffer *buffer, const moecl_skewed_params *params);

#ifdef __cplusplus
}
#endif
#endif

// SPDX-License-Identifier: MIT
/* Random numbers, drawn on the device: those of include/moecl/random.h. */
#ifndef MOECL_LIB_OP_RANDOM_RANDOM_H
#define MOECL_LIB_OP_RANDOM_RANDOM_H

#include "common/enums.h"
#include "desc/format.h"
#include "op/op.h"

typedef struct op_random_desc {
  const desc_format *format; /* of what is drawn */
  int draws;                 /* a DRAWS_ of common/enums.h */
  float scale;               /* of normal and uniform ones */
  /* Of skewed ones, rows of moecl_fill_skewed: */
  int64_t hidden_size, num_clusters;
  float exponent, noise;
} op_random_desc;

typedef struct op_random {
  op_random_desc desc;
  ocl_kernel *fill;
  ocl_kernel *clusters;     /* of skewed ones; else NULL */
  moecl_buffer *thresholds; /* [num_clusters] uint32: op_random_thresholds; likewise */
} op_random;

typedef struct op_random_io {
  const moecl_buffer *output;
  uint64_t seed, stream;
  uint64_t offset, count; /* elements of the output that are drawn */
  uint64_t first_index;   /* the first one's in its stream; even */
  /* Of skewed ones, in place of these three: rows of the output from its start on, and
   * room for their clusters, [num_tokens] uint32. */
  int64_t num_tokens;
  const moecl_buffer *clusters;
} op_random_io;

extern const op_kind op_random_kind; /* the operation "random", of an op_random_desc */
moecl_status op_random_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc);
moecl_status op_random_enqueue(op_random *random, ocl_chain *chain, const op_random_io *io);

/* What brings centred integers to scale, of draws other than skewed ones. */
float op_random_factor(int draws, float scale);
/* Of a skewed token's two parts: its cluster's centre, and its own. */
void op_random_skewed_factors(float noise, float *centre, float *own);
/* Of each cluster: the cumulative probabilities by Zipf's law as 32-bit numbers. A token
 * is of the first one that its draw is below. */
void op_random_thresholds(const op_random_desc *desc, uint32_t *thresholds);

#endif

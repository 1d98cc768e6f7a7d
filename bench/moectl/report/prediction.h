// SPDX-License-Identifier: MIT
/* What more devices would do, from what a point's did: a model, not a measurement. */
#ifndef MOECTL_PREDICTION_H
#define MOECTL_PREDICTION_H

#include "report/grid.h"

/* What the prediction is made of, of one point. */
typedef struct prediction_basis {
  size_t index;
  double tokens;       /* T: of each device */
  double choices;      /* k: that a token has left after capacity */
  double row_ms;       /* c: kernels' time, by rows */
  double bytes_per_ms; /* r: of a device's copies */
  double received;     /* f: the share of bytes to it that these carry, beside all from it */
  double choice_bytes; /* C: ids and weights of its tokens, to one other device */
  double hidden;       /* h: the share of copying that was hidden */
  double row_bytes, output_row_bytes;
  bool stores;        /* outputs are stored by the experts' second GEMM, beside its products */
  double down_row_ms; /* d: that one's time, by rows */
} prediction_basis;

typedef struct prediction {
  double imbalance; /* I: the busiest device's rows over the mean */
  double bytes;     /* D + R: of a device's tokens, to others and back */
  double compute_ms, transfer_ms, layer_ms;
  double late_ms; /* that outputs take longer than the GEMM that stores them */
  double speed;   /* times the tokens per second of one device alone */
} prediction;

/* The point with the most tokens a device, of such with two devices or more all of whose times are
 * known; false: there is none. */
bool prediction_find_basis(const results *all, prediction_basis *basis);
/* Of so many devices, each with T tokens; false: they are more than experts. */
bool prediction_make(const results *all, const prediction_basis *basis, int64_t devices,
                     prediction *made);

#endif

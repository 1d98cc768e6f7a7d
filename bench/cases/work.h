// SPDX-License-Identifier: MIT
/* What each stage of a forward has to do, counted from the shapes. */
#ifndef MOECL_BENCH_WORK_H
#define MOECL_BENCH_WORK_H

#include "moecl/moecl.h"

/* Floating-point operations, 2 a multiply-add, and the least bytes that must be moved: what the
 * stage reads once, each weight once, and what it writes once. */
typedef struct stage_work {
  double flops, bytes;
} stage_work;

/* What the shapes of one forward do not say. */
typedef struct work_counts {
  int64_t num_tokens;
  int64_t kept;    /* assignments to experts with weights, after capacity */
  int64_t active;  /* experts with at least one of them */
  int64_t context; /* of a block: tokens in its cache before these */
} work_counts;

/* Of a routing that was read; `context` is 0. */
work_counts work_counts_of(const moecl_routing *routing);

/* Of MOECL_STAGE_ROUTER to MOECL_STAGE_COMBINE; zeros for others. Activations between the stages
 * are counted as the layer's dtype, experts' outputs and logits as fp32. */
stage_work work_of_layer(const moecl_layer_params *layer, const work_counts *counts,
                         moecl_stage stage);
/* Likewise of a block's stages, its layer's among them. */
stage_work work_of_block(const moecl_block_params *block, const work_counts *counts,
                         moecl_stage stage);

/* The share of rows that tiles of so many rows hold beside an expert's own, as each expert's last
 * tile is computed whole; 0 where there are no tiles. */
double work_tile_waste(const int64_t *rows_of_experts, int64_t num_experts, int64_t tile_rows);

#endif

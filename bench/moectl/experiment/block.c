// SPDX-License-Identifier: MIT
/* Points that measure a transformer block. */
#include "experiment/experiment.h"

moecl_block_params experiment_block_params(const experiment_point *point) {
  const experiment_block *block = &point->block;
  moecl_block_params params = {.attention = block->attention,
                               .attention_norm = block->norm,
                               .feed_forward_norm = block->norm,
                               .layer = point->layer,
                               .attention_variant = block->attention_variant};
  params.attention.not_causal = !block->causal;
  params.attention.rope.not_truncated = !block->rope_truncate;
  return params;
}

static bool measures(const experiment *experiment, experiment_what what) {
  for (size_t i = 0; i < experiment->num_points; i++)
    if (experiment->points[i].what == what) return true;
  return false;
}

bool experiment_has_blocks(const experiment *experiment) {
  return measures(experiment, WHAT_BLOCK);
}

const char *experiment_measured(const experiment *experiment) {
  if (!experiment_has_blocks(experiment)) return "layer";
  return measures(experiment, WHAT_LAYER) ? "forward" : "block";
}

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

/* A default where the params have none, as their zeros mean nothing. */
static double or_default(double value, double otherwise) { return value > 0 ? value : otherwise; }

experiment_block experiment_block_of(const moecl_block_params *params) {
  experiment_block block = {.attention = params->attention,
                            .causal = !params->attention.not_causal,
                            .rope_truncate = !params->attention.rope.not_truncated,
                            .norm = params->attention_norm};
  if (block.attention.relative_attention_max_distance == 0)
    block.attention.relative_attention_max_distance = 128;
  moecl_rope_params *rope = &block.attention.rope;
  block.attention.not_causal = rope->not_truncated = false;
  rope->factor = or_default(rope->factor, 1);
  rope->original_positions = or_default(rope->original_positions, 4096);
  rope->low_freq_factor = or_default(rope->low_freq_factor, 1);
  rope->high_freq_factor = or_default(rope->high_freq_factor, 4);
  rope->beta_fast = or_default(rope->beta_fast, 32);
  rope->beta_slow = or_default(rope->beta_slow, 1);
  return block;
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

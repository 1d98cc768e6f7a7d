// SPDX-License-Identifier: MIT
/* The transformer block that a point is profiled in: its own, or a usual one around its layer. */
#include "base/files.h"
#include "run/profiler.h"

/* Heads of 128 elements, or as many fewer as fit four times, four queries to a key where that
 * divides, rotary embedding, causal: as Llama and its like have them. */
static experiment_block usual_block(int64_t hidden_size) {
  int64_t dim = 128;
  while (dim > 2 && (hidden_size % dim != 0 || hidden_size / dim < 4)) dim /= 2;
  int64_t heads = hidden_size / dim;
  if (heads > MOECL_MAX_HEADS) heads = MOECL_MAX_HEADS;
  if (heads < 1) heads = 1;
  return (experiment_block){.attention = {.num_heads = heads,
                                          .num_kv_heads = heads % 4 == 0 ? heads / 4 : heads,
                                          .head_dim = dim,
                                          .rope = {.theta = 10000}},
                            .causal = true,
                            .rope_truncate = true};
}

experiment_point profile_block_point(const experiment_point *point) {
  experiment_point made = *point;
  if (point->what == WHAT_BLOCK) return made;
  made.what = WHAT_BLOCK;
  made.block = usual_block(point->layer.hidden_size);
  made.context = 0;
  made.source = NULL; /* a checkpoint of the layer has no such block */
  return made;
}

char *profile_block_note(const experiment_point *point, const experiment_point *asked,
                         const moecl_block *block) {
  const moecl_block_params params = experiment_block_params(point);
  const moecl_attention_params *attention = &params.attention;
  return format_text(
      "%s: %lld heads, %lld of keys and values, %lld cached tokens. Variants: attention `%s`, "
      "projections `%s`, norm `%s`, rotary `%s`.",
      asked->what == WHAT_BLOCK
          ? "The experiment's block"
          : "The experiment measures a layer, so this is a usual block around it, causal, with "
            "rotary embedding and drawn weights",
      (long long)attention->num_heads,
      (long long)(attention->num_kv_heads ? attention->num_kv_heads : attention->num_heads),
      (long long)point->context, moecl_block_variant(block, "attention", NULL),
      moecl_block_variant(block, "projections", NULL), moecl_block_variant(block, "norm", NULL),
      moecl_block_variant(block, "rotary", NULL));
}

// SPDX-License-Identifier: MIT
/* What several families' rows have in common. */
#ifndef MOECL_LIB_MODEL_FAMILY_ROWS_H
#define MOECL_LIB_MODEL_FAMILY_ROWS_H

#include "model/family.h"

/* Experts as separate tensors, or a dense or shared network. */
#define PROJECTIONS(path)                                                                          \
  { .gate = path "gate_proj.weight", .up = path "up_proj.weight", .down = path "down_proj.weight" }
#define W123(path)                                                                                 \
  { .gate = path "w1.weight", .up = path "w3.weight", .down = path "w2.weight" }
/* Also of a model that is a part of another, and of one saved without its head. */
#define MODEL_LAYERS                                                                               \
  "model.layers.{layer}.|language_model.model.layers.{layer}.|model.language_model.layers.{layer}" \
  ".|language_model.layers.{layer}.|layers.{layer}."

/* What the families after DeepSeek-V3 have of its rule; config.json gives the rest. */
#define SIGMOID_IN_GROUPS                                                                          \
  .scoring = MOECL_SCORING_SIGMOID, .scoring_key = "scoring_func",                                 \
  .renormalize = "norm_topk_prob=1", .groups = "n_group=1", .topk_group = "topk_group=1",          \
  .group_score = MOECL_GROUP_TOP2_SUM

/* Stacked as transformers' own classes have them: [E, 2I, H] and [E, H, I]. */
#define STACKED(path)                                                                              \
  { .gate_up = path "gate_up_proj", .down = path "down_proj" }

#endif

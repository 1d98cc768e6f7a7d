// SPDX-License-Identifier: MIT
/* Parts of a layer's parameters that operations and the reference take, so that
 * neither has to know a layer. Members mean what they mean in moecl_layer_params, with
 * its defaults already put in. */
#ifndef MOECL_LIB_DESC_RULE_H
#define MOECL_LIB_DESC_RULE_H

#include "moecl/layer.h"

/* How a token's logits become its experts and their weights. */
typedef struct desc_rule {
  int64_t num_experts, top_k;
  moecl_scoring scoring;
  bool score_after_topk;
  float sparsemixer_jitter; /* greater than 0 */
  bool renormalize;
  float renormalize_epsilon, renormalize_minimum; /* 0: none; both 0 without renormalize */
  float routed_scaling_factor;                    /* greater than 0 */
  bool score_correction_bias;
  int64_t num_expert_group, topk_group; /* both 0: all experts are taken from */
  moecl_group_score group_score;
  bool cut_groups_to_zero;
  moecl_second_choice second_choice;
} desc_rule;
desc_rule desc_rule_of(const moecl_layer_params *params);

/* How chosen experts' rows are listed, and which of them are dropped. */
typedef struct desc_dispatch {
  int64_t num_experts, num_identity_experts, top_k;
  double capacity_factor; /* 0: nothing is dropped */
  bool capacity_of_tokens;
  int64_t min_capacity;
  moecl_drop_policy drop_policy;
  bool renormalize_after_capacity;
  float routed_scaling_factor; /* of that; greater than 0 */
  bool counted; /* the router counts its choices; of no parameter, but known when it is there */
} desc_dispatch;
desc_dispatch desc_dispatch_of(const moecl_layer_params *params);

/* moecl_expert_capacity. */
int64_t desc_expert_capacity(const desc_dispatch *dispatch, int64_t num_tokens);
/* Is there a capacity that is given out by weight or priority, and by the latter? */
static inline bool desc_selects(const desc_dispatch *dispatch) {
  return dispatch->capacity_factor > 0 && dispatch->drop_policy != MOECL_DROP_POSITION;
}
static inline bool desc_prioritizes(const desc_dispatch *dispatch) {
  return dispatch->capacity_factor > 0 && dispatch->drop_policy == MOECL_DROP_PRIORITIZED;
}

/* Constants with their defaults put in. */
float desc_swiglu_alpha(const moecl_layer_params *params);
float desc_swiglu_limit(const moecl_layer_params *params);
float desc_shared_swiglu_limit(const moecl_layer_params *params);
float desc_shared_scaling_factor(const moecl_layer_params *params);
/* Is the shared expert's output multiplied, by a gate or a factor? */
bool desc_shared_is_weighted(const moecl_layer_params *params);

#endif

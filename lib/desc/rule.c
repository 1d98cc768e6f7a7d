// SPDX-License-Identifier: MIT
#include "desc/rule.h"

static float or_default(float value, float otherwise) { return value > 0 ? value : otherwise; }

desc_rule desc_rule_of(const moecl_layer_params *params) {
  const bool shares =
      params->scoring == MOECL_SCORING_SOFTMAX || params->scoring == MOECL_SCORING_SPARSEMIXER;
  desc_rule rule = {.num_experts = params->num_experts,
                    .top_k = params->top_k,
                    .scoring = params->scoring,
                    .score_after_topk = params->score_after_topk,
                    .sparsemixer_jitter = or_default(params->sparsemixer_jitter, 0.01f),
                    .renormalize = params->renormalize,
                    .routed_scaling_factor = or_default(params->routed_scaling_factor, 1),
                    .score_correction_bias = params->score_correction_bias,
                    .num_expert_group = params->num_expert_group,
                    .topk_group = params->topk_group,
                    .group_score = params->group_score,
                    .cut_groups_to_zero = params->cut_groups_to_zero,
                    .second_choice = params->second_choice};
  if (params->renormalize) {
    rule.renormalize_epsilon = or_default(params->renormalize_epsilon, shares ? 0 : 1e-20f);
    rule.renormalize_minimum = params->renormalize_minimum;
  }
  return rule;
}

desc_dispatch desc_dispatch_of(const moecl_layer_params *params) {
  return (desc_dispatch){.num_experts = params->num_experts,
                         .num_identity_experts = params->num_identity_experts,
                         .top_k = params->top_k,
                         .capacity_factor = params->capacity_factor,
                         .capacity_of_tokens = params->capacity_of_tokens,
                         .min_capacity = params->min_capacity,
                         .drop_policy = params->drop_policy,
                         .renormalize_after_capacity = params->renormalize_after_capacity,
                         .routed_scaling_factor = or_default(params->routed_scaling_factor, 1)};
}

float desc_swiglu_alpha(const moecl_layer_params *params) {
  return or_default(params->swiglu_alpha, 1.702f);
}

float desc_swiglu_limit(const moecl_layer_params *params) {
  return or_default(params->swiglu_limit, 7.0f);
}

float desc_shared_swiglu_limit(const moecl_layer_params *params) {
  return or_default(params->shared_swiglu_limit, desc_swiglu_limit(params));
}

float desc_shared_scaling_factor(const moecl_layer_params *params) {
  return or_default(params->shared_scaling_factor, 1);
}

bool desc_shared_is_weighted(const moecl_layer_params *params) {
  return params->shared_gate || desc_shared_scaling_factor(params) != 1;
}

// SPDX-License-Identifier: MIT
/* What can be said of layer parameters without a device. */
#include "moecl/layer.h"
#include "base/base.h"
#include "base/log.h"
#include "moecl/routing.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>

__attribute__((format(printf, 3, 4))) static moecl_status invalid(char *message, size_t size,
                                                                  const char *format, ...) {
  if (message != NULL && size > 0) {
    va_list list;
    va_start(list, format);
    base_vformat(message, size, format, list);
    va_end(list);
  }
  return MOECL_ERROR_INVALID_ARGUMENT;
}

static moecl_status check_range(const char *field, int64_t value, int64_t max, char *message,
                                size_t size) {
  if (value >= 1 && value <= max) return MOECL_OK;
  return invalid(message, size, "%s is %lld, expected 1 to %lld", field, (long long)value,
                 (long long)max);
}

static moecl_status check_sizes(const moecl_layer_params *p, char *message, size_t size) {
  moecl_status status = check_range("hidden_size", p->hidden_size, MOECL_MAX_SIZE, message, size);
  if (status == MOECL_OK)
    status = check_range("intermediate_size", p->intermediate_size, MOECL_MAX_SIZE, message, size);
  if (status == MOECL_OK)
    status = check_range("num_experts", p->num_experts, MOECL_MAX_EXPERTS, message, size);
  if (status == MOECL_OK) status = check_range("top_k", p->top_k, MOECL_MAX_TOP_K, message, size);
  if (status != MOECL_OK) return status;
  if (p->top_k > p->num_experts)
    return invalid(message, size, "top_k is %lld, expected at most num_experts (%lld)",
                   (long long)p->top_k, (long long)p->num_experts);
  if (p->num_identity_experts < 0 || p->num_identity_experts >= p->num_experts)
    return invalid(message, size,
                   "num_identity_experts is %lld, expected 0 to num_experts - 1 (%lld)",
                   (long long)p->num_identity_experts, (long long)p->num_experts - 1);
  if (p->num_identity_experts > 0 && p->weight_on_input)
    return invalid(message, size,
                   "num_identity_experts is %lld with weight_on_input, expected one of both",
                   (long long)p->num_identity_experts);
  const int64_t matrices = p->num_experts - p->num_identity_experts;
  if (p->expert_cache < MOECL_EXPERT_CACHE_FITS || p->expert_cache > matrices)
    return invalid(message, size,
                   "expert_cache is %lld, expected 1 to the %lld experts with matrices, 0 for all "
                   "on the device, or -1 for as many as fit",
                   (long long)p->expert_cache, (long long)matrices);
  if (p->shared_intermediate_size != 0) {
    status = check_range("shared_intermediate_size", p->shared_intermediate_size, MOECL_MAX_SIZE,
                         message, size);
    if (status != MOECL_OK) return status;
  } else if (p->shared_gate) {
    return invalid(message, size, "shared_gate is true, expected false without a shared expert");
  }
  /* Each factor is at most 2^30, so 3 H I < 2^62 fits; times E and the widest
   * element it may not. The margin of four covers biases and padded packings. */
  int64_t per_expert = 3 * p->hidden_size * p->intermediate_size;
  if (per_expert > INT64_MAX / 16 / p->num_experts)
    return invalid(message, size,
                   "hidden_size %lld, intermediate_size %lld and num_experts %lld multiply to more "
                   "weights than 64-bit sizes can count, expected smaller ones",
                   (long long)p->hidden_size, (long long)p->intermediate_size,
                   (long long)p->num_experts);
  return MOECL_OK;
}

static moecl_status check_enumerations(const moecl_layer_params *p, char *message, size_t size) {
  const struct {
    const char *field, *type;
    int value, count;
  } all[] = {
      {"dtype", "moecl_dtype", (int)p->dtype, MOECL_DTYPE_COUNT},
      {"weight_format", "moecl_format", (int)p->weight_format, MOECL_FORMAT_COUNT},
      {"activation_format", "moecl_format", (int)p->activation_format, MOECL_FORMAT_COUNT},
      {"activation", "moecl_activation", (int)p->activation, MOECL_ACTIVATION_COUNT},
      {"drop_policy", "moecl_drop_policy", (int)p->drop_policy, MOECL_DROP_POLICY_COUNT},
      {"scoring", "moecl_scoring", (int)p->scoring, MOECL_SCORING_COUNT},
      {"group_score", "moecl_group_score", (int)p->group_score, MOECL_GROUP_SCORE_COUNT},
      {"second_choice", "moecl_second_choice", (int)p->second_choice, MOECL_SECOND_CHOICE_COUNT},
      {"eviction", "moecl_eviction", (int)p->eviction, MOECL_EVICTION_COUNT}};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    if (all[i].value < 0 || all[i].value >= all[i].count)
      return invalid(message, size, "%s is %d, expected a %s", all[i].field, all[i].value,
                     all[i].type);
  if (!moecl_format_is_for_activations(p->activation_format))
    return invalid(message, size,
                   "activation_format is %s, expected dtype, or 8-bit codes with fp32 scales of "
                   "each row: int8, int8-g128, fp8-row or fp8-g128",
                   moecl_format_name(p->activation_format));
  return MOECL_OK;
}

static moecl_status check_groups(const moecl_layer_params *p, char *message, size_t size) {
  const int64_t groups = p->num_expert_group, taken = p->topk_group;
  if (groups == 0 && taken == 0) return MOECL_OK;
  if (groups < 1 || groups > MOECL_MAX_EXPERT_GROUPS || p->num_experts % groups != 0)
    return invalid(message, size,
                   "num_expert_group is %lld, expected 1 to %d and a divisor of num_experts (%lld)",
                   (long long)groups, MOECL_MAX_EXPERT_GROUPS, (long long)p->num_experts);
  if (taken < 1 || taken > groups)
    return invalid(message, size, "topk_group is %lld, expected 1 to num_expert_group (%lld)",
                   (long long)taken, (long long)groups);
  const int64_t members = p->num_experts / groups;
  if (p->top_k > taken * members)
    return invalid(message, size,
                   "top_k is %lld, expected at most the %lld experts of topk_group groups",
                   (long long)p->top_k, (long long)(taken * members));
  if (p->group_score == MOECL_GROUP_TOP2_SUM && members < 2 && taken < groups)
    return invalid(message, size,
                   "num_expert_group is %lld, expected groups of two experts or more for the sum "
                   "of a group's two best",
                   (long long)groups);
  return MOECL_OK;
}

/* What does not go together: no published model has it, and what it would mean
 * is anyone's guess. */
static moecl_status check_rule(const moecl_layer_params *p, char *message, size_t size) {
  const bool limited = p->topk_group < p->num_expert_group;
  const char *also = p->score_correction_bias                  ? "score_correction_bias"
                     : limited                                 ? "fewer than all expert groups"
                     : p->scoring == MOECL_SCORING_SPARSEMIXER ? "scoring sparsemixer"
                                                               : NULL;
  if (p->score_after_topk && also)
    return invalid(message, size, "score_after_topk is true with %s, expected one of both", also);
  if (p->second_choice == MOECL_SECOND_SAMPLED && also)
    return invalid(message, size, "second_choice is sampled with %s, expected one of both", also);
  if (p->scoring != MOECL_SCORING_SPARSEMIXER) return MOECL_OK;
  if (p->score_correction_bias || limited || p->second_choice != MOECL_SECOND_ALL)
    return invalid(message, size, "scoring is sparsemixer with %s, expected one of both",
                   p->second_choice != MOECL_SECOND_ALL ? "a second_choice by chance" : also);
  return MOECL_OK;
}

/* What sums of weights are kept from 0 by: a number that a device may take for 0 does
 * not. */
static moecl_status check_guard(const char *field, float value, char *message, size_t size) {
  if (value == 0.0f || (value >= FLT_MIN && isfinite(value))) return MOECL_OK;
  return invalid(message, size, "%s is %g, expected 0, or a finite number of %g or more", field,
                 (double)value, (double)FLT_MIN);
}

/* Written so that NaN fails. */
static moecl_status check_router(const moecl_layer_params *p, char *message, size_t size) {
  if (!(p->jitter >= 0.0f && p->jitter < 1.0f))
    return invalid(message, size, "jitter is %g, expected 0 or more and less than 1",
                   (double)p->jitter);
  if (!(p->sparsemixer_jitter >= 0.0f && p->sparsemixer_jitter < 1.0f))
    return invalid(message, size, "sparsemixer_jitter is %g, expected 0 or more and less than 1",
                   (double)p->sparsemixer_jitter);
  if (!(p->routed_scaling_factor >= 0.0f && isfinite(p->routed_scaling_factor)))
    return invalid(message, size,
                   "routed_scaling_factor is %g, expected a finite number greater than 0, or 0 "
                   "for 1",
                   (double)p->routed_scaling_factor);
  moecl_status status = check_guard("renormalize_epsilon", p->renormalize_epsilon, message, size);
  if (status == MOECL_OK)
    status = check_guard("renormalize_minimum", p->renormalize_minimum, message, size);
  if (status == MOECL_OK) status = check_groups(p, message, size);
  return status == MOECL_OK ? check_rule(p, message, size) : status;
}

static moecl_status check_shared_numbers(const moecl_layer_params *p, char *message, size_t size) {
  if (!(p->shared_swiglu_limit >= 0.0f && isfinite(p->shared_swiglu_limit)))
    return invalid(message, size,
                   "shared_swiglu_limit is %g, expected a finite number greater than 0, or 0 for "
                   "swiglu_limit",
                   (double)p->shared_swiglu_limit);
  if (!(p->shared_scaling_factor >= 0.0f && isfinite(p->shared_scaling_factor)))
    return invalid(message, size,
                   "shared_scaling_factor is %g, expected a finite number greater than 0, or 0 "
                   "for 1",
                   (double)p->shared_scaling_factor);
  return MOECL_OK;
}

moecl_status moecl_layer_params_check(const moecl_layer_params *params, char *message,
                                      size_t size) {
  if (message != NULL && size > 0) message[0] = '\0';
  if (params == NULL) return invalid(message, size, "params is NULL, expected layer parameters");
  const size_t unknown = base_first_set(params->reserved, BASE_COUNT(params->reserved));
  if (unknown < BASE_COUNT(params->reserved))
    return invalid(message, size, LOG_RESERVED, "moecl_layer_params", unknown, moecl_version());
  moecl_status status = check_sizes(params, message, size);
  if (status == MOECL_OK) status = check_enumerations(params, message, size);
  if (status == MOECL_OK) status = check_router(params, message, size);
  if (status != MOECL_OK) return status;
  if (!(params->swiglu_alpha >= 0.0f && isfinite(params->swiglu_alpha)))
    return invalid(message, size, "swiglu_alpha is %g, expected a finite number greater than 0",
                   (double)params->swiglu_alpha);
  if (!(params->swiglu_limit >= 0.0f && isfinite(params->swiglu_limit)))
    return invalid(message, size, "swiglu_limit is %g, expected a finite number greater than 0",
                   (double)params->swiglu_limit);
  status = check_shared_numbers(params, message, size);
  if (status != MOECL_OK) return status;
  if (!(params->capacity_factor >= 0.0 && isfinite(params->capacity_factor)))
    return invalid(message, size,
                   "capacity_factor is %g, expected a finite number greater than 0, or 0 for "
                   "dropless",
                   params->capacity_factor);
  if (params->min_capacity < 0)
    return invalid(message, size, "min_capacity is %lld, expected 0 or more",
                   (long long)params->min_capacity);
  return MOECL_OK;
}

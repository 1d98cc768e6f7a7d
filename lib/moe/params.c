/* What can be said of layer parameters without a device. */
#include "moecl/layer.h"
#include "moecl/routing.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

__attribute__((format(printf, 3, 4))) static moecl_status invalid(char *message, size_t size,
                                                                  const char *format, ...) {
  if (message != NULL && size > 0) {
    va_list list;
    va_start(list, format);
    vsnprintf(message, size, format, list);
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

moecl_status moecl_layer_params_check(const moecl_layer_params *params, char *message,
                                      size_t size) {
  if (message != NULL && size > 0) message[0] = '\0';
  if (params == NULL) return invalid(message, size, "params is NULL, expected layer parameters");
  moecl_status status = check_sizes(params, message, size);
  if (status != MOECL_OK) return status;
  /* Unsigned, so that a negative value is out of range too. */
  if ((unsigned)params->dtype >= MOECL_DTYPE_COUNT)
    return invalid(message, size, "dtype is %d, expected a moecl_dtype", (int)params->dtype);
  if ((unsigned)params->activation >= MOECL_ACTIVATION_COUNT)
    return invalid(message, size, "activation is %d, expected a moecl_activation",
                   (int)params->activation);
  if ((unsigned)params->drop_policy >= MOECL_DROP_POLICY_COUNT)
    return invalid(message, size, "drop_policy is %d, expected a moecl_drop_policy",
                   (int)params->drop_policy);
  if (!(params->swiglu_alpha >= 0.0f && isfinite(params->swiglu_alpha)))
    return invalid(message, size, "swiglu_alpha is %g, expected a finite number greater than 0",
                   (double)params->swiglu_alpha);
  if (!(params->swiglu_limit >= 0.0f && isfinite(params->swiglu_limit)))
    return invalid(message, size, "swiglu_limit is %g, expected a finite number greater than 0",
                   (double)params->swiglu_limit);
  /* Written so that NaN fails. */
  if (!(params->jitter >= 0.0f && params->jitter < 1.0f))
    return invalid(message, size, "jitter is %g, expected 0 or more and less than 1",
                   (double)params->jitter);
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

int64_t moecl_layer_tensor_size(const moecl_layer_params *params, moecl_tensor tensor) {
  int64_t up_rows =
      params->intermediate_size * (moecl_activation_is_gated(params->activation) ? 2 : 1);
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT:
    return params->num_experts * params->hidden_size;
  case MOECL_ROUTER_BIAS:
    return params->router_bias ? params->num_experts : 0;
  case MOECL_GATE_UP_PROJ:
    return up_rows * params->hidden_size;
  case MOECL_GATE_UP_BIAS:
    return params->gate_up_bias ? up_rows : 0;
  case MOECL_DOWN_PROJ:
    return params->hidden_size * params->intermediate_size;
  case MOECL_DOWN_BIAS:
    return params->down_bias ? params->hidden_size : 0;
  case MOECL_TENSOR_COUNT:
    break;
  }
  return 0;
}

int64_t moecl_expert_capacity(const moecl_layer_params *params, int64_t num_tokens) {
  if (params->capacity_factor == 0.0) return -1;
  double assignments = (double)num_tokens * (double)params->top_k;
  double exact = params->capacity_factor * assignments / (double)params->num_experts;
  /* A factor such as 1.1 is not representable: 1.1 times 10 assignments an
   * expert must give 11, not ceil(11.000000000000002) = 12. The factor's own
   * rounding and the two operations' are together below 2^-51 of the value,
   * so an integer that near is the one that was meant. */
  double nearest = nearbyint(exact);
  double rounded = fabs(exact - nearest) <= exact * 0x1p-51 ? nearest : ceil(exact);
  /* Beyond any number of assignments; also keeps the conversion defined. */
  int64_t capacity = rounded < 0x1p62 ? (int64_t)rounded : INT64_C(1) << 62;
  return capacity > params->min_capacity ? capacity : params->min_capacity;
}

const char *moecl_stage_name(moecl_stage stage) {
  switch (stage) {
  case MOECL_STAGE_ROUTER:
    return "router";
  case MOECL_STAGE_PERMUTE:
    return "permute";
  case MOECL_STAGE_GATE_UP:
    return "gate_up";
  case MOECL_STAGE_DOWN:
    return "down";
  case MOECL_STAGE_COMBINE:
    return "combine";
  case MOECL_STAGE_LAYER:
    return "layer";
  case MOECL_STAGE_COUNT:
    break;
  }
  return "?";
}

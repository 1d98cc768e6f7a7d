#include "cases.h"

/* Multiply-adds of one assignment's expert. */
static double expert_size(const moecl_layer_params *params) {
  return (moecl_activation_is_gated(params->activation) ? 3.0 : 2.0) *
         (double)params->hidden_size * (double)params->intermediate_size;
}

double moe_flops(const moecl_layer_params *params, int64_t kept_assignments, int64_t num_tokens) {
  const double router = (double)num_tokens * (double)params->hidden_size *
                        (double)params->num_experts;
  return 2.0 * (router + (double)kept_assignments * expert_size(params));
}

double moe_bytes(const moecl_layer_params *params, int64_t active_experts, int64_t num_tokens) {
  const double hidden = (double)params->hidden_size;
  const double elements = (double)active_experts * expert_size(params) +
                          hidden * (double)params->num_experts + 2.0 * (double)num_tokens * hidden;
  return elements * (double)moecl_dtype_size(params->dtype);
}

double moe_tolerance(double roundoff) { return roundoff < 0x1p-20 ? 1e-5 : 1e-2; }

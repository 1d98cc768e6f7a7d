// SPDX-License-Identifier: MIT
#include "run/matrix_units.h"
#include "moecl/plan.h"
#include <stdio.h>

/* The variant that experts of a layer would run on; NULL: no layer is like that. Names outlive
 * plans: they are those of the variants' table. */
static const char *variant_of(moecl_context *context, const moecl_layer_params *params,
                              int64_t num_tokens) {
  enum { MOST_STEPS = 64 };
  moecl_plan *plan = NULL;
  moecl_plan_step steps[MOST_STEPS];
  const char *variant = NULL;
  char message[256];
  if (moecl_layer_params_check(params, message, sizeof message) != MOECL_OK ||
      moecl_plan_create(context, params, num_tokens, &plan) != MOECL_OK)
    return NULL;
  const size_t count = moecl_plan_steps(plan, steps, MOST_STEPS);
  for (size_t i = 0; i < count && i < MOST_STEPS; i++)
    if (steps[i].stage == MOECL_STAGE_GATE_UP) variant = steps[i].variant;
  moecl_plan_destroy(&plan);
  return variant;
}

static bool on_matrix_units(const char *variant) {
  return moecl_variant_uses_matrix_units("grouped_gemm", variant);
}

bool matrix_units_missed(moecl_context *context, const moecl_layer_params *params,
                         int64_t num_tokens, char *text, size_t size) {
  const char *rows = moecl_format_name(params->activation_format);
  moecl_layer_params plain = *params, both = *params;
  if (params->activation_format == MOECL_FORMAT_DTYPE || params->grouped_gemm_variant) return false;
  const char *variant = variant_of(context, params, num_tokens);
  if (!variant || on_matrix_units(variant)) return false;
  plain.activation_format = MOECL_FORMAT_DTYPE;
  both.weight_format = params->activation_format;
  const bool with_plain = on_matrix_units(variant_of(context, &plain, num_tokens));
  const bool with_both = on_matrix_units(variant_of(context, &both, num_tokens));
  if (!with_plain && !with_both) return false;
  snprintf(text, size,
           "layer.activation_format %s beside layer.weight_format %s: no kernel of this device's "
           "matrix units takes both, and '%s' takes many tokens far longer. They take %s%s%s%s",
           rows, moecl_format_name(params->weight_format), variant,
           with_plain ? "activation_format dtype" : "", with_plain && with_both ? ", or " : "",
           with_both ? "weight_format " : "", with_both ? rows : "");
  return true;
}

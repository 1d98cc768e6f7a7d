// SPDX-License-Identifier: MIT
#include "op/combine.h"
#include "base/base.h"
#include "op/shared.h"
#include <stdio.h>

bool op_combine_accepts(const kernel_variant *variant, const moecl_layer_params *params,
                        bool input_f32) {
  if (!(variant->flags & KERNEL_EIGHTS)) return true;
  return !input_f32 && params->hidden_size % 8 == 0;
}

moecl_status op_combine_create(moecl_context *context, const kernel_variant *variant,
                               const moecl_layer_params *params, bool input_f32,
                               op_combine *combine) {
  const bool identity = params->num_identity_experts > 0;
  *combine = (op_combine){.hidden_size = params->hidden_size,
                          .top_k = params->top_k,
                          .first_identity =
                              identity ? params->num_experts - params->num_identity_experts : 0,
                          .variant = variant};
  char defines[128];
  snprintf(defines, sizeof defines,
           "DTYPE %d\nINPUT_F32 %d\nSHARED %d\nSHARED_GATE %d\nWEIGHTED %d\nLOCAL %u\n%s",
           (int)params->dtype, input_f32, params->shared_intermediate_size > 0,
           op_shared_is_weighted(params), !params->weight_on_input, variant->local,
           identity ? "IDENTITY 1\n" : "");
  return ocl_kernel_create(context, variant->source, defines, "combine", &combine->combine);
}

void op_combine_release(op_combine *combine) { ocl_kernel_destroy(&combine->combine); }

moecl_status op_combine_enqueue(op_combine *combine, ocl_chain *chain, const op_combine_io *io) {
  const bool identity = combine->first_identity > 0;
  MOECL_TRY(ocl_kernel_args(combine->combine, identity ? "bbbbbblibbi" : "bbbbbbli",
                            io->expert_output, io->assignment_slot, io->topk_weights, io->shared,
                            io->shared_gate, io->output, combine->hidden_size,
                            (int32_t)combine->top_k, io->hidden_states, io->expert_offsets,
                            (int32_t)combine->first_identity));
  const uint64_t groups = (uint64_t)io->num_tokens *
                          base_div_up((uint64_t)combine->hidden_size, combine->variant->tile_n);
  return ocl_launch(chain, combine->combine, groups, combine->variant->local);
}

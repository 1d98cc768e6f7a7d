// SPDX-License-Identifier: MIT
#include "op/shared.h"
#include "base/base.h"
#include <stdio.h>

op_gemm_shape op_shared_shape(const moecl_layer_params *params, op_epilogue epilogue, bool f32,
                              bool down) {
  return (op_gemm_shape){.num_experts = 1,
                         .n = down ? params->hidden_size : params->shared_intermediate_size,
                         .k = down ? params->shared_intermediate_size : params->hidden_size,
                         .dtype = params->dtype,
                         .epilogue = down ? OP_EPILOGUE_NONE : epilogue,
                         .gated = !down && moecl_activation_is_gated(params->activation),
                         .dense = true,
                         .input_f32 = f32,
                         .output_f32 = f32};
}

bool op_shared_is_weighted(const moecl_layer_params *params) {
  const float factor = params->shared_scaling_factor;
  return params->shared_gate || (factor > 0 && factor != 1);
}

uint64_t op_shared_gate_bytes(const moecl_layer_params *params) {
  return params->shared_gate ? (uint64_t)params->hidden_size * moecl_dtype_size(params->dtype) : 0;
}

moecl_status op_shared_create_rest(moecl_context *context, const moecl_layer_params *params,
                                   op_shared *shared) {
  shared->hidden_size = params->hidden_size;
  MOECL_TRY(op_dense_create(context, &shared->gate_up_rows));
  MOECL_TRY(op_dense_create(context, &shared->down_rows));
  if (!op_shared_is_weighted(params)) return MOECL_OK;
  char defines[64];
  base_format(defines, sizeof defines, "DTYPE %d\nLOCAL %u\nFACTOR %af\n", (int)params->dtype,
              ocl_local_size(context, 64),
              params->shared_scaling_factor > 0 ? (double)params->shared_scaling_factor : 1.0);
  MOECL_TRY(ocl_kernel_create(context, "shared/gate.cl", defines,
                              params->shared_gate ? "shared_gate" : "shared_factor",
                              &shared->gate));
  if (!params->shared_gate) return MOECL_OK;
  return moecl_buffer_create(context, op_shared_gate_bytes(params), &shared->gate_weight);
}

void op_shared_release(op_shared *shared) {
  op_gemm_destroy(&shared->gate_up);
  op_gemm_destroy(&shared->down);
  op_dense_release(&shared->gate_up_rows);
  op_dense_release(&shared->down_rows);
  ocl_kernel_destroy(&shared->gate);
  moecl_buffer_destroy(&shared->gate_weight);
}

moecl_status op_shared_enqueue(op_shared *shared, ocl_chain *chain, const op_shared_io *io) {
  MOECL_TRY(op_dense_enqueue(&shared->gate_up_rows, chain, shared->gate_up, io->input,
                             io->activated, io->num_tokens));
  MOECL_TRY(op_dense_enqueue(&shared->down_rows, chain, shared->down, io->activated, io->output,
                             io->num_tokens));
  if (!shared->gate) return MOECL_OK;
  if (!shared->gate_weight) {
    MOECL_TRY(ocl_kernel_args(shared->gate, "b", io->gate));
    return ocl_launch(chain, shared->gate, (uint64_t)io->num_tokens, 1);
  }
  MOECL_TRY(ocl_kernel_args(shared->gate, "bbbl", io->hidden_states, shared->gate_weight, io->gate,
                            shared->hidden_size));
  return ocl_launch(chain, shared->gate, (uint64_t)io->num_tokens, shared->gate->local);
}

// SPDX-License-Identifier: MIT
#include "op/gate/gate.h"
#include "base/base.h"

uint64_t op_gate_bytes(const op_gate_desc *desc) {
  return desc->gated ? desc_format_bytes(desc->format, 1, (uint64_t)desc->hidden_size) : 0;
}

moecl_status op_gate_create(moecl_context *context, const op_gate_desc *desc, op_gate *gate) {
  *gate = (op_gate){.desc = *desc};
  char defines[64];
  base_format(defines, sizeof defines, "DTYPE %d\nLOCAL %u\nFACTOR %af\n", desc->format->element,
              ocl_local_size(context, 64), (double)desc->factor);
  MOECL_TRY(ocl_kernel_create(context, "shared/gate.cl", defines,
                              desc->gated ? "shared_gate" : "shared_factor", &gate->kernel));
  return desc->gated ? moecl_buffer_create(context, op_gate_bytes(desc), &gate->weight) : MOECL_OK;
}

void op_gate_release(op_gate *gate) {
  ocl_kernel_destroy(&gate->kernel);
  moecl_buffer_destroy(&gate->weight);
}

moecl_status op_gate_enqueue(op_gate *gate, ocl_chain *chain, const op_gate_io *io) {
  if (!gate->desc.gated) {
    MOECL_TRY(ocl_kernel_args(gate->kernel, "b", io->output));
    return ocl_launch(chain, gate->kernel, (uint64_t)io->num_tokens, 1);
  }
  MOECL_TRY(ocl_kernel_args(gate->kernel, "bbbl", io->hidden_states, gate->weight, io->output,
                            gate->desc.hidden_size));
  return ocl_launch(chain, gate->kernel, (uint64_t)io->num_tokens, gate->kernel->local);
}

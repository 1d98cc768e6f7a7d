// SPDX-License-Identifier: MIT
#include "op/gate/gate.h"
#include "base/base.h"

static const kernel_variant rows[] = {
    {.name = "generic", .source = "shared/gate.cl", .formats = KERNEL_ALL}};
static const kernel_table table = {"gate", rows, BASE_COUNT(rows)};

static uint64_t bytes(const void *op) {
  const op_gate_desc *desc = &((const op_gate *)op)->desc;
  return desc->gated ? desc_format_bytes(desc->format, 1, (uint64_t)desc->hidden_size) : 0;
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context, (void)variant;
  *(op_gate *)op = (op_gate){.desc = *(const op_gate_desc *)desc};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  op_gate *gate = op;
  char defines[96];
  MOECL_TRY(describe(context, variant, desc, op));
  base_format(defines, sizeof defines, "DTYPE %d\nGATED %d\nLOCAL %u\nFACTOR %af\n",
              gate->desc.format->element, gate->desc.gated, ocl_local_size(context, 64),
              (double)gate->desc.factor);
  MOECL_TRY(ocl_kernel_create(context, variant->source, defines,
                              gate->desc.gated ? "shared_gate" : "shared_factor", &gate->kernel));
  return gate->desc.gated ? moecl_buffer_create(context, bytes(gate), &gate->weight) : MOECL_OK;
}

static void release(void *op) {
  op_gate *gate = op;
  ocl_kernel_destroy(&gate->kernel);
  moecl_buffer_destroy(&gate->weight);
}

const op_kind op_gate_kind = {.table = &table,
                              .size = sizeof(op_gate),
                              .describe = describe,
                              .create = create,
                              .self_check = op_gate_self_check,
                              .release = release,
                              .bytes = bytes};

moecl_status op_gate_enqueue(op_gate *gate, ocl_chain *chain, const op_gate_io *io) {
  if (!gate->desc.gated) {
    MOECL_TRY(ocl_kernel_args(gate->kernel, "b", io->output));
    return ocl_launch(chain, gate->kernel, (uint64_t)io->num_tokens, 1);
  }
  MOECL_TRY(ocl_kernel_args(gate->kernel, "bbbl", io->hidden_states, gate->weight, io->output,
                            gate->desc.hidden_size));
  return ocl_launch(chain, gate->kernel, (uint64_t)io->num_tokens, gate->kernel->local);
}

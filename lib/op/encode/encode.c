// SPDX-License-Identifier: MIT
#include "op/encode/encode.h"
#include "base/base.h"
#include "desc/quantized.h"
#include <stdio.h>

static const kernel_variant rows[] = {
#include "encode/variants.def"
};
const kernel_table op_encode_table = {"encode", rows, BASE_COUNT(rows)};

/* Has a matrix' scale to be searched, the only one that it has? */
static bool searches_matrix(const op_encode_desc *desc) {
  return desc->search != MOECL_SCALE_SEARCH_NONE && desc->codes->scale == ELEMENT_NONE;
}

/* Is a block worth a work-group: longer than those that are cut from a row? */
static bool is_large(const desc_format *codes) { return !codes->block || codes->scale_rows > 1; }
static bool is_together(const op_encode *encode) {
  return encode->variant->local > 1 && is_large(encode->desc.codes);
}
static uint32_t blocks_each(const op_encode *encode) {
  return is_large(encode->desc.codes) ? 1 : encode->variant->tile_m;
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context;
  *(op_encode *)op = (op_encode){.desc = *(const op_encode_desc *)desc, .variant = variant};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant,
                           const void *problem, void *op) {
  const op_encode_desc *desc = problem;
  const desc_format *codes = desc->codes;
  op_encode *encode = op;
  char defines[256];
  MOECL_TRY(describe(context, variant, desc, op));
  snprintf(defines, sizeof defines,
           "DTYPE %d\nWEIGHTS %d\nSCALES %d\nBLOCK %u\nSCALE_ROWS %u\nZERO_POINTS %d\n"
           "MATRIX_SCALE %d\nSEARCH %d\nLOCAL %u\nTOGETHER %d\nEACH %u\nVECTOR %u\n",
           desc->numbers->element, codes->element, codes->scale, codes->block, codes->scale_rows,
           codes->zero_points, codes->matrix_scale, desc->search != MOECL_SCALE_SEARCH_NONE,
           variant->local, is_together(encode), blocks_each(encode), variant->tile_n);
  const struct {
    const char *entry;
    bool wanted;
    ocl_kernel **kernel;
  } kernels[] = {{"begin", true, &encode->begin},
                 {"encode", true, &encode->encode},
                 {"find_largest", codes->matrix_scale, &encode->find_largest},
                 {"put_matrix_scale", codes->matrix_scale, &encode->put_matrix_scale},
                 {"add_errors", searches_matrix(desc), &encode->add_errors},
                 {"choose_matrix_scale", searches_matrix(desc), &encode->choose_matrix_scale}};
  for (size_t i = 0; i < BASE_COUNT(kernels); i++)
    if (kernels[i].wanted)
      MOECL_TRY(ocl_kernel_create(context, variant->source, defines, kernels[i].entry,
                                  kernels[i].kernel));
  return MOECL_OK;
}

static void release(void *op) {
  op_encode *encode = op;
  ocl_kernel_destroy(&encode->begin);
  ocl_kernel_destroy(&encode->encode);
  ocl_kernel_destroy(&encode->find_largest);
  ocl_kernel_destroy(&encode->put_matrix_scale);
  ocl_kernel_destroy(&encode->add_errors);
  ocl_kernel_destroy(&encode->choose_matrix_scale);
}

const op_kind op_encode_kind = {.table = &op_encode_table,
                                .size = sizeof(op_encode),
                                .describe = describe,
                                .create = create,
                                .self_check = op_encode_self_check,
                                .release = release};

/* ---- launches ---- */

uint64_t op_encode_errors_bytes(const op_encode_desc *desc, uint64_t matrices) {
  const uint64_t trials = DESC_SEARCH_STEPS / 2 + 1;
  return searches_matrix(desc) ? matrices * trials * sizeof(uint64_t) : 0;
}

static moecl_status set_arguments(ocl_kernel *kernel, const op_encode_io *io) {
  return ocl_kernel_args(kernel, "bbLLLll", io->numbers, io->codes, io->first_number,
                         io->first_byte, io->matrices, (int64_t)io->rows, (int64_t)io->columns);
}

/* Of kernels that go through matrices, a work-item each. */
static moecl_status run_matrices(ocl_kernel *kernel, ocl_chain *chain, const op_encode_io *io) {
  MOECL_TRY(set_arguments(kernel, io));
  return ocl_launch_items(chain, kernel, io->matrices);
}

/* Of kernels that go through blocks. */
static moecl_status run_blocks(const op_encode *encode, ocl_kernel *kernel, ocl_chain *chain,
                               const op_encode_io *io) {
  const desc_format *codes = encode->desc.codes;
  const uint64_t across = codes->block ? base_div_up(io->columns, codes->block) : 1;
  const uint64_t blocks = io->matrices * base_div_up(io->rows, codes->scale_rows) * across;
  const uint32_t local = encode->variant->local;
  const uint64_t a_group = is_together(encode) ? 1 : (uint64_t)local * blocks_each(encode);
  MOECL_TRY(set_arguments(kernel, io));
  return ocl_launch(chain, kernel, base_div_up(blocks, a_group), local);
}

static moecl_status search_matrices(op_encode *encode, ocl_chain *chain, const op_encode_io *io) {
  enum { ERRORS = 7 };
  MOECL_TRY(moecl_buffer_fill_byte((moecl_buffer *)io->errors, 0,
                                   op_encode_errors_bytes(&encode->desc, io->matrices), 0));
  MOECL_TRY(ocl_kernel_arg_buffer(encode->add_errors, ERRORS, io->errors));
  MOECL_TRY(ocl_kernel_arg_buffer(encode->choose_matrix_scale, ERRORS, io->errors));
  MOECL_TRY(run_blocks(encode, encode->add_errors, chain, io));
  return run_matrices(encode->choose_matrix_scale, chain, io);
}

moecl_status op_encode_enqueue(op_encode *encode, ocl_chain *chain, const op_encode_io *io) {
  if (io->matrices == 0 || io->rows == 0 || io->columns == 0) return MOECL_OK;
  MOECL_TRY(run_matrices(encode->begin, chain, io));
  if (encode->find_largest) {
    MOECL_TRY(run_blocks(encode, encode->find_largest, chain, io));
    MOECL_TRY(run_matrices(encode->put_matrix_scale, chain, io));
  }
  if (encode->add_errors) MOECL_TRY(search_matrices(encode, chain, io));
  return run_blocks(encode, encode->encode, chain, io);
}

// SPDX-License-Identifier: MIT
/* What all drivers share: description, buffers, packing, one launch. */
#include "base/base.h"
#include "desc/activation.h"
#include "op/gemm/driver.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What common/quantized.clh wants to know; plain formats have nothing of it. */
static void add_format(const desc_format *format, char *text, size_t size) {
  const size_t used = strlen(text);
  if (desc_is_quantized(format))
    snprintf(text + used, size - used,
             "SCALES %d\nBLOCK %u\nSCALE_ROWS %u\nZERO_POINTS %d\nMATRIX_SCALE %d\n", format->scale,
             (unsigned)format->block, (unsigned)format->scale_rows, format->zero_points,
             format->matrix_scale);
}

/* Rows of codes: INPUT is what codes are, and INPUT_BLOCK there at all. */
static void add_coded_input(const desc_format *input, char *text, size_t size) {
  const size_t used = strlen(text);
  if (desc_is_quantized(input))
    snprintf(text + used, size - used, "INPUT_BLOCK %u\n", (unsigned)input->block);
}

void op_gemm_defines(const op_gemm_desc *desc, const kernel_tile *tile, char *text, size_t size) {
  snprintf(text, size,
           "WEIGHTS %d\nBIASES %d\nINPUT %d\nOUTPUT %d\nROUNDED %d\nACTIVATION %d\nGATED %d\n"
           "BIAS %d\nGATHER %d\nTILE_M %u\nVECTOR_WIDTH %u\n",
           desc->weights->element, desc->biases->element, desc->input->element,
           desc->output->element, (desc->rounded ? desc->rounded : desc->output)->element,
           desc->epilogue, desc->gated, desc->bias, desc->gather, tile->m, tile->vector_width);
  add_format(desc->weights, text, size);
  add_coded_input(desc->input, text, size);
  if (desc->invariant) base_format(text + strlen(text), size - strlen(text), "INVARIANT 1\n");
  if (desc->scatter) base_format(text + strlen(text), size - strlen(text), "SCATTER 1\n");
  const size_t used = strlen(text);
  const desc_activation *row =
      desc_activation_of(desc_activation_find(desc->epilogue, desc->gated));
  if (row && row->has_limit)
    base_format(text + used, size - used, "SWIGLU_ALPHA %af\nSWIGLU_LIMIT %af\n",
                (double)desc->swiglu_alpha, (double)desc->swiglu_limit);
}

/* ---- sizes ---- */

int64_t op_gemm_weight_rows(const op_gemm_desc *desc) {
  return desc->gated ? 2 * desc->n : desc->n;
}

uint64_t op_gemm_given_bytes(const op_gemm_desc *desc) {
  const uint64_t one = desc_format_bytes(desc->weights, (uint64_t)desc->n, (uint64_t)desc->k);
  uint64_t bytes;
  return base_mul(one, desc->gated ? 2 : 1, &bytes) ? bytes : UINT64_MAX;
}

uint64_t op_gemm_column_tiles(const op_gemm *gemm) {
  const uint64_t columns = gemm->desc.gated ? gemm->tile.n / 2 : gemm->tile.n;
  return base_div_up((uint64_t)gemm->desc.n, columns);
}

uint64_t op_gemm_tiled_bytes(const op_gemm *gemm, uint64_t step_bytes) {
  const uint64_t step = step_bytes / desc_format_unit(gemm->desc.weights);
  return desc_format_bytes(gemm->desc.weights, op_gemm_column_tiles(gemm) * gemm->tile.n,
                           base_round_up((uint64_t)gemm->desc.k, step));
}

uint64_t op_gemm_most_tiles(const op_gemm *gemm, uint64_t rows, uint64_t each) {
  const uint64_t experts = (uint64_t)gemm->desc.num_experts;
  const uint64_t active = rows < experts ? rows : experts;
  return (rows + active * (each - 1)) / each;
}

uint64_t op_gemm_packed_bytes(const op_gemm *gemm) {
  const uint64_t one = gemm->driver->packed_bytes(gemm);
  uint64_t bytes;
  return base_mul(one, (uint64_t)gemm->desc.num_experts, &bytes) ? bytes : UINT64_MAX;
}

static uint64_t bias_bytes(const op_gemm *gemm) {
  const op_gemm_desc *desc = &gemm->desc;
  if (!desc->bias) return 0;
  return desc_format_bytes(desc->biases, (uint64_t)desc->num_experts,
                           (uint64_t)op_gemm_weight_rows(desc));
}

/* The biases of narrow matrices in few bits may be. */
uint64_t op_gemm_largest_bytes(const op_gemm *gemm) {
  const uint64_t packed = op_gemm_packed_bytes(gemm), bias = bias_bytes(gemm);
  return packed > bias ? packed : bias;
}

uint64_t op_gemm_bytes(const op_gemm *gemm) {
  const uint64_t small = bias_bytes(gemm) + gemm->driver->extra_bytes +
                         (gemm->desc.ungrouped ? OP_GEMM_LISTS_BYTES : 0);
  const uint64_t packed = op_gemm_packed_bytes(gemm);
  return packed > UINT64_MAX - small ? UINT64_MAX : packed + small;
}

uint64_t op_gemm_scratch(const op_gemm *gemm, int64_t rows) {
  return gemm->driver->scratch ? gemm->driver->scratch(gemm, rows) : 0;
}

uint32_t op_gemm_tile_rows(const op_gemm *gemm, int64_t rows) {
  return gemm->driver->tile_rows(gemm, rows);
}

uint32_t op_gemm_whole_tile_rows(const op_gemm *gemm, int64_t rows) {
  const bool whole = gemm->variant->tile_m > 1 && !gemm->driver->ragged;
  return whole ? op_gemm_tile_rows(gemm, rows) : 0;
}

uint32_t op_gemm_fixed_tile_rows(const op_gemm *gemm, int64_t rows) {
  (void)rows;
  return gemm->tile.m;
}

static void explain_kernel(const op_gemm *gemm, int64_t rows, char *text, size_t size) {
  if (gemm->desc.ungrouped && op_gemm_serves_few_tokens(gemm, rows))
    snprintf(text, size, "few tokens: weights streamed once a row");
  else if (gemm->driver->waits)
    snprintf(text, size, "one library GEMM an expert, counts read on the host");
  else if (gemm->driver->by_rows)
    base_format(text, size, "tiles of %u rows, for %.4g rows an expert",
                (unsigned)op_gemm_tile_rows(gemm, rows),
                (double)rows / (double)op_gemm_spread(gemm));
  else snprintf(text, size, "tiles of %u rows", (unsigned)op_gemm_tile_rows(gemm, rows));
}

void op_gemm_explain(const op_gemm *gemm, int64_t rows, char *text, size_t size) {
  explain_kernel(gemm, rows, text, size);
  const size_t used = strlen(text);
  if (desc_is_quantized(gemm->desc.input))
    snprintf(text + used, size - used, "; multiplies %s codes", gemm->desc.input->name);
}

/* ---- life ---- */

const kernel_variant *op_gemm_variant(const op_gemm *gemm) { return gemm->variant; }
bool op_gemm_is_ungrouped(const op_gemm *gemm) { return gemm->desc.ungrouped; }
bool op_gemm_gathers(const op_gemm *gemm) { return gemm->desc.gather; }
bool op_gemm_scatters(const op_gemm *gemm) { return gemm->desc.scatter; }

moecl_status op_gemm_describe(moecl_context *context, const kernel_variant *variant,
                              const op_gemm_desc *desc, op_gemm **out) {
  op_gemm *gemm = calloc(1, sizeof *gemm);
  *out = gemm;
  if (!gemm) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  *gemm = (op_gemm){.context = ocl_context_retain(context),
                    .variant = variant,
                    .driver = variant->driver,
                    .desc = *desc,
                    .tile = kernel_gemm_tile(variant, context->info.native_vector_width_float)};
  return MOECL_OK;
}

static moecl_status create_kernels(op_gemm *gemm) {
  for (int id = 0; id < OP_GEMM_KERNELS; id++)
    if (op_gemm_has_kernel(gemm, id) && !(op_gemm_late(gemm) & 1u << id))
      MOECL_TRY(gemm->driver->create_kernel(gemm, id));
  return MOECL_OK;
}

static moecl_status create(op_gemm *gemm) {
  gemm->state = calloc(1, gemm->driver->state_bytes ? gemm->driver->state_bytes : 1);
  if (!gemm->state)
    return log_error(&gemm->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  MOECL_TRY(gemm->driver->create(gemm));
  MOECL_TRY(create_kernels(gemm));
  MOECL_TRY(moecl_buffer_create(gemm->context, op_gemm_packed_bytes(gemm), &gemm->weights));
  if (gemm->desc.bias) MOECL_TRY(moecl_buffer_create(gemm->context, bias_bytes(gemm), &gemm->bias));
  return gemm->desc.ungrouped ? op_gemm_lists_create(gemm->context, &gemm->lists) : MOECL_OK;
}

moecl_status op_gemm_create_unchecked(moecl_context *context, const kernel_variant *variant,
                                      const op_gemm_desc *desc, op_gemm **gemm) {
  MOECL_TRY(op_gemm_describe(context, variant, desc, gemm));
  const moecl_status status = create(*gemm);
  if (status != MOECL_OK) op_gemm_destroy(gemm);
  return status;
}

void op_gemm_destroy(op_gemm **handle) {
  op_gemm *gemm = *handle;
  *handle = NULL;
  if (!gemm) return;
  if (gemm->state && gemm->driver->release) gemm->driver->release(gemm);
  free(gemm->state);
  if (gemm->partner) gemm->partner->partner = NULL;
  for (int id = 0; id < OP_GEMM_KERNELS; id++) ocl_kernel_destroy(&gemm->kernel[id]);
  ocl_kernel_destroy(&gemm->pack);
  moecl_buffer_destroy(&gemm->weights);
  moecl_buffer_destroy(&gemm->bias);
  op_gemm_lists_release(&gemm->lists);
  moecl_context_destroy(&gemm->context);
  free(gemm);
}

moecl_status op_gemm_make_pair(moecl_context *context, bool described,
                               const kernel_variant *variant, const op_gemm_desc *first_desc,
                               op_gemm **first, const op_gemm_desc *second_desc, op_gemm **second) {
  moecl_status (*const make)(moecl_context *, const kernel_variant *, const op_gemm_desc *,
                             op_gemm **) = described ? op_gemm_describe : op_gemm_create_unchecked;
  if (!described || ocl_is_ahead(context)) {
    MOECL_TRY(op_gemm_self_check(context, variant, first_desc));
    MOECL_TRY(op_gemm_self_check(context, variant, second_desc));
  }
  MOECL_TRY(make(context, variant, first_desc, first));
  const moecl_status status = make(context, variant, second_desc, second);
  if (status != MOECL_OK) {
    op_gemm_destroy(first);
    return status;
  }
  (*first)->partner = *second;
  (*second)->partner = *first;
  return MOECL_OK;
}

const desc_format *op_gemm_rows(const kernel_variant *variant, const desc_format *stored) {
  return variant->traits & KERNEL_F32_ACTIVATIONS ? desc_format_of(MOECL_F32) : stored;
}

const desc_format *op_gemm_outputs(const kernel_variant *variant, const desc_format *stored) {
  return variant->traits & (KERNEL_F32_ACTIVATIONS | KERNEL_F32_OUTPUTS) ? desc_format_of(MOECL_F32)
                                                                         : stored;
}

const desc_format *op_gemm_quantized_rows(const kernel_variant *variant, const desc_format *codes) {
  return variant->traits & KERNEL_CODED_INPUT ? codes : desc_format_of(MOECL_F32);
}

uint64_t op_gemm_input_scales(const op_gemm *gemm, const op_gemm_io *io) {
  moecl_format_layout layout;
  desc_format_layout(gemm->desc.input, (uint64_t)io->input_rows, (uint64_t)gemm->desc.k, &layout);
  return layout.scales;
}

/* ---- weights ---- */

moecl_status op_gemm_set_weights(op_gemm *gemm, int64_t first, int64_t count,
                                 const moecl_buffer *src, uint64_t offset_bytes) {
  return gemm->driver->pack(gemm, first, count, src, offset_bytes);
}

/* Pack kernels take experts in the second dimension. Offsets are in elements, of formats with
 * scales in bytes. */
moecl_status op_gemm_pack(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                          uint64_t offset_bytes, uint64_t items) {
  const op_gemm_desc *desc = &gemm->desc;
  ocl_chain chain = {.context = gemm->context};
  MOECL_TRY(ocl_kernel_args(
      gemm->pack, "bLbLll", src, offset_bytes / desc_format_unit(desc->weights), gemm->weights,
      (uint64_t)first * gemm->packed_elements, op_gemm_weight_rows(desc), desc->k));
  MOECL_TRY(gemm->pack->local
                ? ocl_launch_2d(&chain, gemm->pack, items, (uint64_t)count, gemm->pack->local)
                : ocl_launch_items_2d(&chain, gemm->pack, items, (uint64_t)count));
  /* Some drivers (Mesa) keep a kernel's arguments until others are set: here that
   * would be the weights once more, for as long as the layer lives. */
  return ocl_kernel_arg_buffer(gemm->pack, 0, NULL);
}

/* In the first dimension enough work-items to fill any device. */
moecl_status op_gemm_pack_strided(op_gemm *gemm, int64_t first, int64_t count,
                                  const moecl_buffer *src, uint64_t offset_bytes) {
  const uint64_t most = 2048 * 64;
  const uint64_t items = (uint64_t)op_gemm_weight_rows(&gemm->desc) * (uint64_t)gemm->desc.k;
  return op_gemm_pack(gemm, first, count, src, offset_bytes, items < most ? items : most);
}

moecl_status op_gemm_set_bias(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                              uint64_t offset_bytes) {
  const uint64_t one =
      desc_format_bytes(gemm->desc.biases, 1, (uint64_t)op_gemm_weight_rows(&gemm->desc));
  return ocl_buffer_copy(src, offset_bytes, gemm->bias, (uint64_t)first * one,
                         (uint64_t)count * one);
}

int op_gemm_parts(const op_gemm *gemm, int64_t expert, op_gemm_part *parts) {
  const uint64_t packed = gemm->driver->packed_bytes(gemm);
  const uint64_t bias = bias_bytes(gemm) / (uint64_t)gemm->desc.num_experts;
  parts[0] = (op_gemm_part){gemm->weights, (uint64_t)expert * packed, packed};
  if (bias == 0) return 1;
  parts[1] = (op_gemm_part){gemm->bias, (uint64_t)expert * bias, bias};
  return 2;
}

/* ---- kernels ---- */

bool op_gemm_has_kernel(const op_gemm *gemm, op_gemm_kernel_id id) {
  if (!gemm->driver->kernels) return false;
  return id == OP_GEMM_BASE || gemm->driver->kernels(gemm) & 1u << id;
}

unsigned op_gemm_late(const op_gemm *gemm) { return gemm->desc.late & gemm->driver->late; }

op_gemm_kernel_id op_gemm_kernel_for(const op_gemm *gemm, int64_t rows) {
  if (gemm->forced) return gemm->forced;
  if (!gemm->driver->best_kernel) return OP_GEMM_BASE;
  const op_gemm_kernel_id best = gemm->driver->best_kernel(gemm, rows);
  return gemm->lost & 1u << best ? OP_GEMM_BASE : best;
}

typedef struct late_kernel {
  op_gemm *gemm;
  op_gemm_kernel_id id;
} late_kernel;

static moecl_status make_late(void *user, const kernel_variant *variant) {
  const late_kernel *late = user;
  op_gemm *gemm = late->gemm;
  MOECL_TRY(op_gemm_self_check_late(gemm->context, variant, &gemm->desc, late->id));
  return gemm->driver->create_kernel(gemm, late->id);
}

/* Once, where several GEMMs of one owner lose the same kernel. */
static void tell(const op_gemm *gemm, const char *name) {
  const op_gemm_desc *desc = &gemm->desc;
  char text[160];
  if (!desc->told) return;
  snprintf(text, sizeof text, "; the kernel of '%s' for %s is set aside, others do its work",
           gemm->variant->name, name);
  const size_t used = strlen(desc->told);
  if (!strstr(desc->told, text)) snprintf(desc->told + used, desc->told_size - used, "%s", text);
}

static void lose(op_gemm *gemm, op_gemm_kernel_id id, moecl_status status) {
  static const char *const names[OP_GEMM_KERNELS] = {[OP_GEMM_TALL] = "tall tiles",
                                                     [OP_GEMM_MIDDLE] = "tiles of middle height",
                                                     [OP_GEMM_FEW_ROWS] = "few rows",
                                                     [OP_GEMM_FEW_TOKENS] = "few tokens"};
  gemm->lost |= 1u << id;
  if (gemm->partner) gemm->partner->lost |= 1u << id;
  log_write(&gemm->context->log, MOECL_LOG_WARNING,
            "grouped_gemm variant '%s': its kernel for %s is set aside (%s), others do its work",
            gemm->variant->name, names[id], moecl_status_string(status));
  tell(gemm, names[id]);
}

/* Its programs are its self-check's. What goes wrong shows when it is made. */
static void note(op_gemm *gemm, op_gemm_kernel_id id) {
  if (gemm->noted & 1u << id) return;
  gemm->noted |= 1u << id;
  (void)op_gemm_self_check_late(gemm->context, gemm->variant, &gemm->desc, id);
}

static moecl_status prepare(op_gemm *gemm, op_gemm_kernel_id id, bool *lost) {
  late_kernel late = {gemm, id};
  if (!gemm->state || gemm->kernel[id] || !op_gemm_has_kernel(gemm, id)) return MOECL_OK;
  if (ocl_is_ahead(gemm->context)) {
    note(gemm, id);
    return MOECL_OK;
  }
  const moecl_status status = kernel_attempt(gemm->context, gemm->variant, make_late, &late);
  if (kernel_lacks_memory(status))
    return log_error(&gemm->context->log, status,
                     "grouped_gemm variant '%s': %s for a kernel of it", gemm->variant->name,
                     moecl_status_string(status));
  if (status != MOECL_OK) lose(gemm, id, status);
  *lost |= status != MOECL_OK;
  return MOECL_OK;
}

moecl_status op_gemm_prepare_few_tokens(op_gemm *gemm, bool *lost) {
  return gemm->lost & 1u << OP_GEMM_FEW_TOKENS ? MOECL_OK : prepare(gemm, OP_GEMM_FEW_TOKENS, lost);
}

moecl_status op_gemm_prepare(op_gemm *gemm, int64_t rows, bool *lost) {
  if (gemm->desc.ungrouped && op_gemm_serves_few_tokens(gemm, rows))
    return op_gemm_prepare_few_tokens(gemm, lost);
  return prepare(gemm, op_gemm_kernel_for(gemm, rows), lost);
}

bool op_gemm_has_lost(const op_gemm *gemm) { return gemm->lost != 0; }

/* ---- launches ---- */

const moecl_buffer *op_gemm_output(const op_gemm *gemm, const op_gemm_io *io) {
  if (!gemm->desc.scatter) return io->output;
  return io->places->count ? io->places->parts[0].to : NULL; /* there are no rows */
}

moecl_status op_gemm_set_places(const op_gemm *gemm, ocl_kernel *kernel, uint32_t first,
                                const op_gemm_io *io) {
  const moecl_buffer *to[OP_GEMM_PLACES];
  int32_t ends[OP_GEMM_PLACES];
  int64_t shifts[OP_GEMM_PLACES], end = 0;
  if (!gemm->desc.scatter) return MOECL_OK;
  const op_places *places = io->places;
  _Static_assert(OP_GEMM_PLACES == 8,
                 "as places.clh, nvidia_scatter.clh and the format below have it");
  if (places->count > OP_GEMM_PLACES)
    return log_error(&gemm->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "grouped_gemm: rows go to %llu places, expected %d at most",
                     (unsigned long long)places->count, OP_GEMM_PLACES);
  end = (int64_t)places->first;
  for (size_t i = 0; i < OP_GEMM_PLACES; i++) {
    const op_rows_part *part = i < places->count ? &places->parts[i] : NULL;
    to[i] = part ? part->to : op_gemm_output(gemm, io);
    shifts[i] = part ? (int64_t)part->first_to - end : 0;
    end += part ? (int64_t)part->count : 0;
    ends[i] = (int32_t)end;
  }
  return ocl_kernel_args_from(kernel, first, "bbbbbbbbIJ", io->slot_place, to[1], to[2], to[3],
                              to[4], to[5], to[6], to[7], ends, shifts);
}

/* What enqueues a plan has prepared it, before lists of rows were cut for the kernel. */
static moecl_status too_late(const op_gemm *gemm) {
  return log_error(&gemm->context->log, MOECL_ERROR_BUILD,
                   "grouped_gemm variant '%s': a kernel that rows were listed for does not serve",
                   gemm->variant->name);
}

static moecl_status enqueue_ungrouped(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const int64_t chosen_rows = op_gemm_chosen_rows(io);
  if (op_gemm_serves_few_tokens(gemm, chosen_rows)) {
    const op_gemm_few_tokens_io few = {
        .input = io->input, .output = io->output, .num_tokens = io->rows, .top_k = 1};
    return op_gemm_enqueue_few_tokens(gemm, chain, &few);
  }
  MOECL_TRY(
      op_gemm_lists_write(&gemm->lists, chain, io->rows, op_gemm_tile_rows(gemm, chosen_rows)));
  op_gemm_io listed = *io;
  listed.expert_offsets = gemm->lists.offsets;
  listed.tile_offsets = gemm->lists.tiles;
  return gemm->driver->enqueue(gemm, chain, &listed);
}

/* Its lists are written here, so that it is never too late. */
static moecl_status prepare_ungrouped(op_gemm *gemm, int64_t rows) {
  bool lost;
  do {
    lost = false;
    MOECL_TRY(op_gemm_prepare(gemm, rows, &lost));
  } while (lost);
  return MOECL_OK;
}

moecl_status op_gemm_enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  bool lost = false;
  if (gemm->desc.ungrouped) {
    MOECL_TRY(prepare_ungrouped(gemm, op_gemm_chosen_rows(io)));
    return enqueue_ungrouped(gemm, chain, io);
  }
  MOECL_TRY(op_gemm_prepare(gemm, op_gemm_chosen_rows(io), &lost));
  return lost ? too_late(gemm) : gemm->driver->enqueue(gemm, chain, io);
}

bool op_gemm_serves_few_tokens(const op_gemm *gemm, int64_t num_tokens) {
  return !gemm->desc.invariant && gemm->driver->serves_few_tokens &&
         !(gemm->lost & 1u << OP_GEMM_FEW_TOKENS) &&
         gemm->driver->serves_few_tokens(gemm, num_tokens);
}

moecl_status op_gemm_enqueue_few_tokens(op_gemm *gemm, ocl_chain *chain,
                                        const op_gemm_few_tokens_io *io) {
  bool lost = false;
  MOECL_TRY(op_gemm_prepare_few_tokens(gemm, &lost));
  return lost ? too_late(gemm) : gemm->driver->enqueue_few_tokens(gemm, chain, io);
}

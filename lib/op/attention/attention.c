// SPDX-License-Identifier: MIT
#include "op/attention/attention.h"
#include <stdio.h>

static const kernel_variant rows[] = {
#include "attention/variants.def"
};
const kernel_table op_attention_table = {"attention", rows, sizeof rows / sizeof rows[0]};

/* Without tiles in its row, a variant is by vector width, as cl/attention/cpu.cl. */
static bool is_by_vectors(const kernel_variant *variant) { return variant->tile_n == 0; }

static uint32_t vector_width(const moecl_context *context) {
  return kernel_vector_width(context->info.native_vector_width_float);
}

op_cache_layout op_attention_layout(const moecl_context *context, const kernel_variant *variant,
                                    const desc_attention *attention) {
  const uint32_t block = is_by_vectors(variant) ? 2 * vector_width(context) : 1;
  return (op_cache_layout){block, (uint32_t)base_round_up((uint64_t)attention->head_dim, block)};
}

static int64_t group_of(const desc_attention *attention) {
  return attention->num_heads / attention->num_kv_heads;
}

/* By vectors a work-item has some 32 rows: each reads keys and values for all of them, and
 * what it keeps of them stays in its cache. */
static uint32_t queries_of(const kernel_variant *variant, const desc_attention *attention) {
  enum { ROWS = 32 };
  const int64_t group = group_of(attention);
  if (!is_by_vectors(variant)) return variant->tile_m;
  return group < ROWS ? (uint32_t)(ROWS / group) : 1;
}

bool op_attention_multiples_of_8(const kernel_variant *variant, const void *problem) {
  const op_attention_desc *desc = problem;
  (void)variant;
  return desc->rows == desc->cache && desc->output == desc->cache &&
         desc->attention.head_dim % 8 == 0 && desc->attention.head_dim <= 128;
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *problem, void *op) {
  const op_attention_desc *desc = problem;
  op_attention *attention = op;
  *attention = (op_attention){.desc = *desc,
                              .variant = variant,
                              .driver = variant->driver,
                              .layout = op_attention_layout(context, variant, &desc->attention),
                              .queries = queries_of(variant, &desc->attention)};
  if (attention->driver) op_attention_rows_describe(context, attention);
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant,
                           const void *problem, void *op) {
  const op_attention_desc *desc = problem;
  const desc_attention *what = &desc->attention;
  op_attention *attention = op;
  MOECL_TRY(describe(context, variant, problem, op));
  char defines[320];
  int used = snprintf(defines, sizeof defines,
                      "DTYPE %d\nROWS %d\nOUTPUT %d\nHEAD_DIM %d\nGROUP %d\nCAUSAL %d\n"
                      "SINKS %d\nKEY_BLOCK %u\nVALUE_STRIDE %u\n",
                      desc->cache->element, desc->rows->element, desc->output->element,
                      (int)what->head_dim, (int)group_of(what), what->causal, what->sinks,
                      attention->layout.key_block, attention->layout.value_stride);
  if (is_by_vectors(variant))
    snprintf(defines + used, sizeof defines - (size_t)used, "QUERIES %u\nVECTOR_WIDTH %u\n",
             attention->queries, vector_width(context));
  else
    snprintf(defines + used, sizeof defines - (size_t)used, "TILE_Q %u\nTILE_K %u\nLOCAL %u\n",
             variant->tile_m, variant->tile_n, variant->local);
  if (attention->driver) return op_attention_rows_create(context, defines, attention);
  return ocl_kernel_create(context, variant->source, defines, "attention", &attention->kernel);
}

static void release(void *op) {
  op_attention *attention = op;
  ocl_kernel_destroy(&attention->kernel);
  ocl_kernel_destroy(&attention->few);
  ocl_kernel_destroy(&attention->combine);
  moecl_buffer_destroy(&attention->counters);
}

static uint64_t bytes(const void *op) {
  const op_attention *attention = op;
  return attention->driver ? op_attention_rows_bytes(attention) : 0;
}

const op_kind op_attention_kind = {.table = &op_attention_table,
                                   .size = sizeof(op_attention),
                                   .describe = describe,
                                   .create = create,
                                   .self_check = op_attention_self_check,
                                   .release = release,
                                   .bytes = bytes};

moecl_status op_attention_enqueue(op_attention *attention, ocl_chain *chain,
                                  const op_attention_io *io) {
  const desc_attention *what = &attention->desc.attention;
  if (attention->driver) return op_attention_rows_enqueue(attention, chain, io);
  const int64_t heads = is_by_vectors(attention->variant) ? what->num_kv_heads : what->num_heads;
  MOECL_TRY(ocl_kernel_args(attention->kernel, "bbbbblllilf", io->qkv, io->keys, io->values,
                            io->sinks, io->output, io->num_tokens, io->context, io->capacity,
                            (int32_t)what->num_heads, what->window, what->scale));
  const uint64_t blocks = base_div_up((uint64_t)io->num_tokens, attention->queries);
  return ocl_launch(chain, attention->kernel, blocks * (uint64_t)heads, attention->variant->local);
}

void op_attention_explain(const op_attention *attention, int64_t num_tokens, char *text,
                          size_t size) {
  const desc_attention *what = &attention->desc.attention;
  uint64_t rows = attention->queries, parts = 1;
  char window[48] = "", split[48] = "";
  if (attention->driver) op_attention_rows_sizes(attention, num_tokens, &rows, &parts);
  if (what->window > 0) snprintf(window, sizeof window, ", window %lld", (long long)what->window);
  if (parts > 1)
    snprintf(split, sizeof split, ", keys in up to %llu parts", (unsigned long long)parts);
  snprintf(text, size, "%s%s; %llu %s a work-group%s", what->causal ? "causal" : "all keys", window,
           (unsigned long long)rows, attention->driver ? "rows" : "queries", split);
}

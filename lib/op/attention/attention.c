// SPDX-License-Identifier: MIT
#include "op/attention/attention.h"
#include <stdio.h>
#include <stdlib.h>

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
         desc->attention.head_dim % 8 == 0 && desc->attention.head_dim <= 128 &&
         desc->attention.relative.num_buckets == 0;
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

/* ---- the relative bias ---- */

static uint64_t buckets_bytes(const op_attention *attention) {
  const desc_relative *relative = &attention->desc.attention.relative;
  return relative->num_buckets > 0 ? (2 * (uint64_t)relative->max_distance + 1) * sizeof(int32_t)
                                   : 0;
}

/* The kernels read buckets from a list: they are found once, and rounded as the reference's. */
static moecl_status create_buckets(moecl_context *context, op_attention *attention) {
  const desc_attention *what = &attention->desc.attention;
  const int64_t most = what->relative.max_distance;
  if (what->relative.num_buckets == 0) return MOECL_OK;
  int32_t *bucket = malloc((size_t)buckets_bytes(attention));
  if (!bucket) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  for (int64_t d = -most; d <= most; d++)
    bucket[d + most] = (int32_t)desc_relative_bucket(&what->relative, what->causal, d);
  const moecl_status status =
      ocl_buffer_filled(context, buckets_bytes(attention), bucket, &attention->buckets);
  free(bucket);
  return status;
}

moecl_status op_attention_relative_args(const op_attention *attention, ocl_kernel *kernel,
                                        uint32_t first, const op_attention_io *io) {
  if (!attention->buckets) return MOECL_OK;
  MOECL_TRY(ocl_kernel_arg_buffer(kernel, first, io->relative_bias));
  return ocl_kernel_arg_buffer(kernel, first + 1, attention->buckets);
}

/* ---- making it ---- */

static moecl_status create(moecl_context *context, const kernel_variant *variant,
                           const void *problem, void *op) {
  const op_attention_desc *desc = problem;
  const desc_attention *what = &desc->attention;
  op_attention *attention = op;
  MOECL_TRY(describe(context, variant, problem, op));
  MOECL_TRY(create_buckets(context, attention));
  char defines[352];
  int used = snprintf(defines, sizeof defines,
                      "DTYPE %d\nROWS %d\nOUTPUT %d\nHEAD_DIM %d\nGROUP %d\nCAUSAL %d\n"
                      "SINKS %d\nMAX_DISTANCE %d\nKEY_BLOCK %u\nVALUE_STRIDE %u\n",
                      desc->cache->element, desc->rows->element, desc->output->element,
                      (int)what->head_dim, (int)group_of(what), what->causal, what->sinks,
                      (int)what->relative.max_distance, attention->layout.key_block,
                      attention->layout.value_stride);
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
  moecl_buffer_destroy(&attention->buckets);
}

static uint64_t bytes(const void *op) {
  const op_attention *attention = op;
  return buckets_bytes(attention) + (attention->driver ? op_attention_rows_bytes(attention) : 0);
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
  MOECL_TRY(op_attention_relative_args(attention, attention->kernel, 11, io));
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
  snprintf(text, size, "%s%s%s; %llu %s a work-group%s", what->causal ? "causal" : "all keys",
           window, what->relative.num_buckets > 0 ? ", relative bias" : "",
           (unsigned long long)rows, attention->driver ? "rows" : "queries", split);
}

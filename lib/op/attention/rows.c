// SPDX-License-Identifier: MIT
/* Variants whose work-groups have rows, and that split the keys of few rows over work-groups.
 * Their kernels' side of it: cl/attention/parts.clh. */
#include "op/attention/attention.h"
#include <stdio.h>

/* Splits of a block's keys, of whole tiles, are for launches that fill less of the device. */
enum { GROUPS_A_UNIT = 2, FEWEST_UNITS = 16, MOST_SPLITS = 32 };

const op_attention_driver op_attention_gpu_driver = {
    .defines = "ACROSS 8\nROWS_EACH 4\n", .few_defines = "ACROSS 32\nROWS_EACH 2\n", .few_rows = 8};
const op_attention_driver op_attention_nvidia_driver = {
    .defines = "ROW_TILES 2\n", .few_defines = "ROW_TILES 1\n", .few_rows = 64, .combines = true};

void op_attention_rows_describe(moecl_context *context, op_attention *attention) {
  const uint64_t units = context->info.compute_units;
  attention->groups = GROUPS_A_UNIT * (units > FEWEST_UNITS ? units : FEWEST_UNITS);
}

/* Only blocks fewer than these are split, so there are counters for them. */
uint64_t op_attention_rows_bytes(const op_attention *attention) {
  return attention->driver->combines ? attention->groups * sizeof(int32_t) : 0;
}

static moecl_status create_kernel(moecl_context *context, const op_attention *attention,
                                  const char *defines, const char *more, const char *entry,
                                  ocl_kernel **kernel) {
  char all[512];
  snprintf(all, sizeof all, "%s%s", defines, more);
  return ocl_kernel_create(context, attention->variant->source, all, entry, kernel);
}

moecl_status op_attention_rows_create(moecl_context *context, const char *defines,
                                      op_attention *attention) {
  const op_attention_driver *driver = attention->driver;
  MOECL_TRY(
      create_kernel(context, attention, defines, driver->defines, "attention", &attention->kernel));
  if (driver->few_rows > 0)
    MOECL_TRY(create_kernel(context, attention, defines, driver->few_defines, "attention",
                            &attention->few));
  if (!driver->combines)
    return create_kernel(context, attention, defines, driver->defines, "combine",
                         &attention->combine);
  return ocl_buffer_zeroed(context, op_attention_rows_bytes(attention), &attention->counters);
}

/* ---- how many ---- */

static uint64_t group_of(const op_attention *attention) {
  const desc_attention *what = &attention->desc.attention;
  return (uint64_t)(what->num_heads / what->num_kv_heads);
}

/* Of a head of keys. */
static uint64_t rows_of(const op_attention *attention, int64_t num_tokens) {
  return (uint64_t)num_tokens * group_of(attention);
}

/* Low tiles for few rows, and where one that combines would leave the device idle with tall ones:
 * it splits no keys of many rows, for one work-group puts a block's parts together. */
static bool is_few(const op_attention *attention, int64_t num_tokens) {
  const op_attention_driver *driver = attention->driver;
  const uint64_t rows = rows_of(attention, num_tokens);
  if (driver->few_rows == 0) return false;
  if (rows <= driver->few_rows) return true;
  const uint64_t heads = (uint64_t)attention->desc.attention.num_kv_heads;
  return driver->combines && base_div_up(rows, attention->queries) * heads < attention->groups;
}

static uint64_t tile_rows(const op_attention *attention, int64_t num_tokens) {
  return is_few(attention, num_tokens) ? attention->driver->few_rows : attention->queries;
}

static uint64_t blocks_of(const op_attention *attention, int64_t num_tokens) {
  return base_div_up(rows_of(attention, num_tokens), tile_rows(attention, num_tokens)) *
         (uint64_t)attention->desc.attention.num_kv_heads;
}

/* The most splits of so many tokens' keys, however many there are; 1: none. */
static uint64_t most_splits(const op_attention *attention, int64_t num_tokens) {
  const op_attention_driver *driver = attention->driver;
  const uint64_t blocks = blocks_of(attention, num_tokens);
  if (driver->combines && rows_of(attention, num_tokens) > driver->few_rows) return 1;
  if (blocks == 0 || blocks >= attention->groups) return 1;
  const uint64_t splits = base_div_up(attention->groups, blocks);
  return splits < MOST_SPLITS ? splits : MOST_SPLITS;
}

void op_attention_rows_sizes(const op_attention *attention, int64_t num_tokens, uint64_t *rows,
                             uint64_t *parts) {
  *rows = tile_rows(attention, num_tokens);
  *parts = most_splits(attention, num_tokens);
}

uint64_t op_attention_parts_bytes(const op_attention *attention, int64_t num_tokens) {
  const desc_attention *what = &attention->desc.attention;
  if (!attention->driver) return 0;
  const uint64_t splits = most_splits(attention, num_tokens);
  const uint64_t rows = rows_of(attention, num_tokens) * (uint64_t)what->num_kv_heads;
  return splits > 1 ? rows * splits * ((uint64_t)what->head_dim + 2) * sizeof(float) : 0;
}

uint32_t op_attention_launches(const op_attention *attention, int64_t num_tokens) {
  const bool splits = op_attention_parts_bytes(attention, num_tokens) > 0;
  return splits && !attention->driver->combines ? 2 : 1;
}

/* The most keys that a block of rows looks at. */
static uint64_t keys_of_block(const op_attention *attention, const op_attention_io *io) {
  const desc_attention *what = &attention->desc.attention;
  const uint64_t all = (uint64_t)(io->context + io->num_tokens);
  const uint64_t rows = tile_rows(attention, io->num_tokens), group = group_of(attention);
  if (what->window == 0) return all;
  const uint64_t sides = what->causal ? 1 : 2; /* that a query looks to */
  const uint64_t keys = base_div_up(rows, group) + 1 + sides * (uint64_t)what->window;
  return keys < all ? keys : all;
}

/* ---- launches ---- */

typedef struct split {
  uint64_t splits; /* 0: straight to the output */
  uint64_t keys;   /* of each */
} split;

/* Of equally many tiles each. A kernel "combine" is launched for a single part, too: the plan says
 * so, whatever the number of keys. */
static split split_keys(const op_attention *attention, const op_attention_io *io) {
  const uint64_t tile = attention->variant->tile_n, keys = keys_of_block(attention, io);
  const uint64_t tiles = base_div_up(keys, tile);
  uint64_t splits = io->parts ? most_splits(attention, io->num_tokens) : 1;
  if (splits > tiles) splits = tiles;
  const uint64_t each = base_div_up(tiles, splits);
  splits = base_div_up(tiles, each);
  const bool is_whole = splits == 1 && !(io->parts && attention->combine);
  return (split){is_whole ? 0 : splits, each * tile};
}

static moecl_status combine(op_attention *attention, ocl_chain *chain, const op_attention_io *io,
                            uint64_t splits) {
  const desc_attention *what = &attention->desc.attention;
  const uint64_t rows = rows_of(attention, io->num_tokens);
  MOECL_TRY(ocl_kernel_args(attention->combine, "bblii", io->parts, io->output, (int64_t)rows,
                            (int32_t)what->num_heads, (int32_t)splits));
  return ocl_launch(chain, attention->combine, rows * (uint64_t)what->num_kv_heads,
                    attention->variant->local);
}

moecl_status op_attention_rows_enqueue(op_attention *attention, ocl_chain *chain,
                                       const op_attention_io *io) {
  const desc_attention *what = &attention->desc.attention;
  const split of = split_keys(attention, io);
  const uint64_t pieces = of.splits > 0 ? of.splits : 1;
  ocl_kernel *kernel = is_few(attention, io->num_tokens) ? attention->few : attention->kernel;
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbblllilfbil", io->qkv, io->keys, io->values, io->sinks,
                            io->output, io->num_tokens, io->context, io->capacity,
                            (int32_t)what->num_heads, what->window, what->scale, io->parts,
                            (int32_t)of.splits, (int64_t)of.keys));
  if (attention->driver->combines) /* such a one takes no relative bias */
    MOECL_TRY(ocl_kernel_arg_buffer(kernel, 14, attention->counters));
  MOECL_TRY(op_attention_relative_args(attention, kernel, 14, io));
  MOECL_TRY(ocl_launch(chain, kernel, blocks_of(attention, io->num_tokens) * pieces,
                       attention->variant->local));
  return of.splits > 0 && attention->combine ? combine(attention, chain, io, of.splits) : MOECL_OK;
}

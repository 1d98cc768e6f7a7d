// SPDX-License-Identifier: MIT
/* A transformer block around the point's layer, with attention as such sizes usually have it. */
#include "base/files.h"
#include "run/profiler.h"
#include "run/runner.h"
#include <math.h>
#include <stdlib.h>

#define TRY(expression)                                                                            \
  do {                                                                                             \
    const moecl_status try_status = (expression);                                                  \
    if (try_status != MOECL_OK) return try_status;                                                 \
  } while (0)

typedef struct profile_block {
  moecl_block *block;
  moecl_buffer *hidden[PROFILE_INPUTS], *output;
  const experiment_point *point;
} profile_block;

/* Heads of 128 elements, or as many fewer as fit, four queries to a key where that divides, rotary
 * embedding, causal: as Llama and its like have them. */
static moecl_block_params usual_block(const experiment_point *point) {
  const int64_t hidden = point->layer.hidden_size;
  int64_t dim = 128;
  while (dim > 2 && (hidden % dim != 0 || hidden / dim < 4)) dim /= 2;
  const int64_t heads = hidden / dim > MOECL_MAX_HEADS ? MOECL_MAX_HEADS
                        : hidden >= dim                ? hidden / dim
                                                       : 1;
  return (moecl_block_params){.attention = {.num_heads = heads,
                                            .num_kv_heads = heads % 4 == 0 ? heads / 4 : heads,
                                            .head_dim = dim,
                                            .rope = {.theta = 10000}},
                              .layer = point->layer};
}

static moecl_status set_block_weights(profiler *profiler, const moecl_block_params *params,
                                      uint64_t seed, moecl_block *block) {
  enum { STREAM = 1000 };
  moecl_status status = MOECL_OK;
  for (int i = 0; status == MOECL_OK && i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const moecl_block_tensor tensor = (moecl_block_tensor)i;
    const uint64_t size = (uint64_t)moecl_block_tensor_size(params, tensor);
    const moecl_random_params random = {.dtype = params->layer.dtype,
                                        .distribution = MOECL_NORMAL,
                                        .scale = 1 / sqrtf((float)params->layer.hidden_size),
                                        .seed = seed,
                                        .stream = STREAM + (uint64_t)i};
    moecl_buffer *staging = NULL;
    if (size == 0) continue;
    status = moecl_buffer_create(profiler->context, size * moecl_dtype_size(params->layer.dtype),
                                 &staging);
    if (status == MOECL_OK) status = moecl_fill_random(staging, 0, size, &random);
    if (status == MOECL_OK) status = moecl_block_set_weights_buffer(block, tensor, staging, 0);
    moecl_buffer_destroy(&staging);
  }
  return status;
}

static moecl_status make(profiler *profiler, const moecl_block_params *params,
                         profile_block *made) {
  const experiment_point *point = made->point;
  const uint64_t bytes = (uint64_t)(point->num_tokens * point->layer.hidden_size) *
                         moecl_dtype_size(point->layer.dtype);
  TRY(moecl_block_create(profiler->context, params, &made->block));
  moecl_context_reset_memory(profiler->context); /* self-checks have had theirs */
  TRY(set_block_weights(profiler, params, point->seed, made->block));
  TRY(workload_set_weights(profiler->context, point, moecl_block_layer(made->block)));
  TRY(moecl_buffer_create(profiler->context, bytes, &made->output));
  for (int i = 0; i < runner_input_sets(point); i++) {
    TRY(moecl_buffer_create(profiler->context, bytes, &made->hidden[i]));
    TRY(workload_draw_hidden(point, profiler->recording, i, made->hidden[i]));
  }
  return MOECL_OK;
}

static void release(profile_block *made) {
  for (int i = 0; i < PROFILE_INPUTS; i++) moecl_buffer_destroy(&made->hidden[i]);
  moecl_buffer_destroy(&made->output);
  moecl_block_destroy(&made->block);
}

static moecl_status forward(void *user, int input, moecl_profile *profile) {
  const profile_block *made = user;
  const moecl_block_forward_params params = {.num_tokens = made->point->num_tokens,
                                             .hidden_states = made->hidden[input],
                                             .output = made->output,
                                             .seed = made->point->seed,
                                             .profile = profile};
  return moecl_block_forward(made->block, &params, NULL);
}

static char *describe(const moecl_block_params *params, const moecl_block *block) {
  const moecl_attention_params *attention = &params->attention;
  return format_text(
      "The experiment says nothing of a block, so this is a usual one around its layer: "
      "%lld heads of %lld elements, %lld of keys and values, causal, rotary embedding, RMSNorm, no "
      "cached tokens. Variants: attention `%s`, projections `%s`, norm `%s`.",
      (long long)attention->num_heads, (long long)attention->head_dim,
      (long long)attention->num_kv_heads, moecl_block_variant(block, "attention", NULL),
      moecl_block_variant(block, "projections", NULL), moecl_block_variant(block, "norm", NULL));
}

static void see_memory(profiler *profiler, const profile_block *made, uint64_t before,
                       profile_memory *memory) {
  moecl_context_memory(profiler->context, &memory->seen);
  memory->seen -= before;
  memory->weights = moecl_block_weight_bytes(made->block);
  memory->workspace = moecl_block_workspace_size(made->block, made->point->num_tokens, false);
  memory->hidden = moecl_buffer_size(made->output);
}

void profile_run_block(profiler *profiler, const experiment_point *point, profile_point *result) {
  const moecl_block_params params = usual_block(point);
  profile_part *part = &result->parts[PROFILE_BLOCK];
  profile_block made = {.point = point};
  const profile_subject subject = {forward, &made, runner_input_sets(point), "block"};
  const uint64_t before = moecl_context_memory(profiler->context, NULL);
  const double begun = profiler_now(profiler);
  moecl_status status = make(profiler, &params, &made);
  profile_add_span(profiler->profile, "block: kernels, weights, inputs", begun,
                   profiler_now(profiler));
  if (status != MOECL_OK) profiler_fail(profiler, part, "the block could not be made", status);
  if (status == MOECL_OK) {
    part->note = describe(&params, made.block);
    status = profiler_measure(profiler, &subject, part);
    if (status == MOECL_OK) status = forward(&made, 0, NULL);
    if (status == MOECL_OK)
      status = profiler_count(&params, 0, result->tile_rows, moecl_block_layer(made.block), part);
    if (status != MOECL_OK) profiler_fail(profiler, part, "the block did not run", status);
    see_memory(profiler, &made, before, &part->memory);
  }
  release(&made);
}

// SPDX-License-Identifier: MIT
#include "run/forwards.h"
#include "base/clock.h"
#include "results/rounds.h"
#include "run/together.h"

void forwards_release_layer(runner *runner) {
  together_release(runner);
  if (!runner->block) moecl_layer_destroy(&runner->layer);
  moecl_block_destroy(&runner->block);
  runner->layer = NULL;
}

moecl_status forwards_create_layer(runner *runner, const experiment_point *point) {
  if (experiment_members(point) > 0) return together_create(runner, point);
  if (point->what == WHAT_LAYER)
    return moecl_layer_create(runner->context, &point->layer, &runner->layer);
  const moecl_block_params params = experiment_block_params(point);
  const moecl_status status = moecl_block_create(runner->context, &params, &runner->block);
  runner->layer = moecl_block_layer(runner->block);
  return status;
}

moecl_status forwards_provide_layer(runner *runner, const experiment_point *point) {
  const bool made = runner->layer || (runner->together && runner->together->ready);
  if (made && runner_same_layer(&runner->of, point)) return MOECL_OK;
  forwards_release_layer(runner);
  moecl_status status = forwards_create_layer(runner, point);
  const double begun = seconds_now();
  if (status == MOECL_OK)
    status = runner->together
                 ? together_set_weights(runner, point)
                 : workload_set_weights(runner->context, point, runner->layer, runner->block);
  runner->of = *point;
  runner->weights_seconds = seconds_now() - begun;
  /* Kernels may have been built on the way, as they are once: what would it be again? */
  if (status == MOECL_OK && runner->layer && runner->weights_seconds > ROUND_SECONDS)
    status =
        workload_weights_seconds(runner->context, point, runner->layer, &runner->weights_seconds);
  if (status != MOECL_OK && runner->layer) forwards_release_layer(runner);
  return status;
}

const char *forwards_variant(const runner *runner, const char *operation, const char **reason) {
  if (runner->together)
    return moecl_group_layer_variant(runner->together->layer, 0, operation, reason);
  return runner->block ? moecl_block_variant(runner->block, operation, reason)
                       : moecl_layer_variant(runner->layer, operation, reason);
}

uint64_t forwards_weight_bytes(const runner *runner) {
  return runner->block ? moecl_block_weight_bytes(runner->block)
                       : moecl_layer_weight_bytes(runner->layer);
}

double forwards_roundoff(const runner *runner, bool of_outputs) {
  double most = 0;
  if (!runner->together)
    return of_outputs ? moecl_layer_output_roundoff(runner->layer)
                      : moecl_layer_roundoff(runner->layer);
  for (int m = 0; m < runner->together->members; m++) {
    const moecl_group_layer *layer = runner->together->layer;
    const double own = of_outputs ? moecl_group_layer_output_roundoff(layer, (size_t)m)
                                  : moecl_group_layer_roundoff(layer, (size_t)m);
    if (own > most) most = own;
  }
  return most;
}

uint64_t forwards_workspace_bytes(const runner *runner, const experiment_point *point,
                                  const point_buffers *buffers) {
  return runner->block
             ? moecl_block_workspace_size(runner->block, point->num_tokens, buffers->cache != NULL)
             : moecl_layer_workspace_size(runner->layer, point->num_tokens);
}

void forwards_release_buffers(point_buffers *buffers) {
  together_release_buffers(buffers->together);
  for (int i = 0; i < INPUT_SETS; i++) moecl_buffer_destroy(&buffers->hidden[i]);
  moecl_buffer_destroy(&buffers->output);
  moecl_buffer_destroy(&buffers->context);
  moecl_cache_destroy(&buffers->cache);
}

/* `tokens` of those before the point's go through the block, from `first` on. */
static moecl_status fill_step(runner *runner, const experiment_point *point,
                              const point_buffers *buffers, int64_t first, int64_t tokens) {
  const uint64_t row = (uint64_t)point->layer.hidden_size * moecl_dtype_size(point->layer.dtype);
  moecl_buffer *input = NULL, *output = NULL;
  moecl_status status =
      moecl_buffer_view(buffers->context, (uint64_t)first * row, (uint64_t)tokens * row, &input);
  if (status == MOECL_OK)
    status = moecl_buffer_create(runner->context, (uint64_t)tokens * row, &output);
  const moecl_block_forward_params params = {.num_tokens = tokens,
                                             .hidden_states = input,
                                             .output = output,
                                             .cache = buffers->cache,
                                             .seed = point->seed};
  if (status == MOECL_OK) status = moecl_block_forward(runner->block, &params, NULL);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  return status;
}

/* All from `first` on. Waits. */
static moecl_status fill_cache(runner *runner, const experiment_point *point,
                               const point_buffers *buffers, int64_t step, int64_t first) {
  moecl_status status = moecl_cache_set_tokens(buffers->cache, first);
  for (int64_t t = first; status == MOECL_OK && t < point->context; t += step)
    status =
        fill_step(runner, point, buffers, t, point->context - t < step ? point->context - t : step);
  return status == MOECL_OK ? moecl_context_finish_wait(runner->context) : status;
}

/* Kernels may have been built on the way, as they are once: where that seems slow, the last step
 * once more tells. */
static moecl_status fill_and_time(runner *runner, const experiment_point *point,
                                  point_buffers *buffers) {
  const int64_t step = runner_context_step(point, moecl_buffer_alignment(runner->context));
  const int64_t last = (point->context - 1) / step;
  double begun = seconds_now();
  moecl_status status = fill_cache(runner, point, buffers, step, 0);
  buffers->fill_seconds = (seconds_now() - begun);
  if (status != MOECL_OK || buffers->fill_seconds <= ROUND_SECONDS) return status;
  begun = seconds_now();
  status = fill_cache(runner, point, buffers, step, last * step);
  buffers->fill_seconds = (double)(last + 1) * (seconds_now() - begun);
  return status;
}

static moecl_status provide_cache(runner *runner, const experiment_point *point,
                                  point_buffers *buffers) {
  if (point->what != WHAT_BLOCK || point->context == 0) return MOECL_OK;
  const uint64_t bytes =
      (uint64_t)(point->context * point->layer.hidden_size) * moecl_dtype_size(point->layer.dtype);
  moecl_status status = moecl_buffer_create(runner->context, bytes, &buffers->context);
  if (status == MOECL_OK)
    status = workload_draw_context(point, runner->recording, buffers->context);
  if (status == MOECL_OK)
    status = moecl_cache_create(runner->block, point->context + point->num_tokens, &buffers->cache);
  return status == MOECL_OK ? fill_and_time(runner, point, buffers) : status;
}

/* What the forwards below, and those that fill a cache, would else wait for. */
static moecl_status reserve(runner *runner, const experiment_point *point) {
  if (!runner->block) return moecl_layer_reserve(runner->layer, point->num_tokens);
  if (point->context == 0) return moecl_block_reserve(runner->block, point->num_tokens, false);
  const int64_t step = runner_context_step(point, moecl_buffer_alignment(runner->context));
  const int64_t filled = step < point->context ? step : point->context;
  return moecl_block_reserve(runner->block, filled > point->num_tokens ? filled : point->num_tokens,
                             true);
}

static moecl_status provide_inputs(runner *runner, const experiment_point *point,
                                   point_buffers *buffers) {
  const uint64_t bytes = (uint64_t)(point->num_tokens * point->layer.hidden_size) *
                         moecl_dtype_size(point->layer.dtype);
  buffers->sets = runner_input_sets(point);
  moecl_status status = moecl_buffer_create(runner->context, bytes, &buffers->output);
  for (int i = 0; status == MOECL_OK && i < buffers->sets; i++) {
    status = moecl_buffer_create(runner->context, bytes, &buffers->hidden[i]);
    if (status == MOECL_OK)
      status = workload_draw_hidden(point, runner->recording, i, buffers->hidden[i]);
  }
  return status;
}

moecl_status forwards_provide_buffers(runner *runner, const experiment_point *point,
                                      point_buffers *buffers) {
  buffers->together = runner->together;
  if (runner->together) together_lead_buffers(runner->together, point);
  moecl_status status = provide_inputs(runner, point, buffers);
  if (runner->together) return together_provide_buffers(runner->together, point, buffers, status);
  if (status == MOECL_OK) status = reserve(runner, point);
  return status == MOECL_OK ? provide_cache(runner, point, buffers) : status;
}

/* Each comes after the same tokens: the cache takes back what the one before added. */
static moecl_status block_forward(runner *runner, const experiment_point *point,
                                  const point_buffers *buffers, int set, moecl_profile *profile) {
  const moecl_block_forward_params params = {.num_tokens = point->num_tokens,
                                             .hidden_states = buffers->hidden[set],
                                             .output = buffers->output,
                                             .cache = buffers->cache,
                                             .seed = point->seed,
                                             .profile = profile};
  const moecl_status status =
      buffers->cache ? moecl_cache_set_tokens(buffers->cache, point->context) : MOECL_OK;
  return status == MOECL_OK ? moecl_block_forward(runner->block, &params, NULL) : status;
}

moecl_status forwards_enqueue(runner *runner, const experiment_point *point,
                              const point_buffers *buffers, int set, moecl_profile *profile) {
  if (runner->block) return block_forward(runner, point, buffers, set, profile);
  if (runner->together) return together_forward(runner->together, point, set, true, false);
  const moecl_forward_params params = {.num_tokens = point->num_tokens,
                                       .hidden_states = buffers->hidden[set],
                                       .output = buffers->output,
                                       .seed = point->seed,
                                       .profile = profile,
                                       .measured = !profile};
  return moecl_layer_forward(runner->layer, &params, NULL);
}

bool forwards_have_room(size_t in_flight, double latest_ms) {
  static const double long_forward_ms = 20;
  return in_flight < (latest_ms < long_forward_ms ? (size_t)FORWARDS_IN_FLIGHT : 1);
}

// SPDX-License-Identifier: MIT
#include "run/estimate.h"
#include "base/clock.h"
#include "cases.h"
#include "results/rounds.h"
#include "run/runner.h"
#include "run/workload.h"
#include <math.h>

device_rates rates_guess(const moecl_device_info *device) {
  if (device->type != MOECL_DEVICE_CPU)
    return (device_rates){.flops = 2e13, .bytes = 5e11, .drawn = 2e10, .launch = 5e-5};
  const double units = device->compute_units;
  return (device_rates){.flops = 4e10 * units, .bytes = 1e10, .drawn = 2e8 * units, .launch = 2e-4};
}

/* ---- measured ---- */

/* Large enough to come from memory and to keep a device busy, small enough to be drawn
 * at once: 24 MiB elements of gated weights. */
enum { WIDTH = 1024, EXPERTS = 8, FEW_TOKENS = 1, MANY_TOKENS = 64, MOST_TOKENS = 4096 };

typedef struct probe {
  moecl_context *context;
  experiment_point point;
  moecl_layer *layer;
  moecl_buffer *in, *out;
} probe;

/* The best of a few forwards, in seconds: the others were disturbed. */
static moecl_status time_forward(const probe *probe, int64_t tokens, double *seconds) {
  const moecl_forward_params params = {
      .num_tokens = tokens, .hidden_states = probe->in, .output = probe->out};
  *seconds = INFINITY;
  for (int i = 0; i < 4; i++) {
    const double begun = seconds_now();
    moecl_status status = moecl_layer_forward(probe->layer, &params, NULL);
    if (status == MOECL_OK) status = moecl_context_finish_wait(probe->context);
    if (status != MOECL_OK) return status;
    const double took = seconds_now() - begun;
    if (took < *seconds) *seconds = took;
  }
  return MOECL_OK;
}

static moecl_status open_probe(probe *probe, double *drawn) {
  const uint64_t bytes = (uint64_t)MOST_TOKENS * WIDTH * moecl_dtype_size(probe->point.layer.dtype);
  moecl_status status = moecl_layer_create(probe->context, &probe->point.layer, &probe->layer);
  if (status == MOECL_OK) status = moecl_buffer_create(probe->context, bytes, &probe->in);
  if (status == MOECL_OK) status = moecl_buffer_create(probe->context, bytes, &probe->out);
  if (status == MOECL_OK) status = workload_draw_hidden(&probe->point, NULL, 0, probe->in);
  /* Twice: the first time kernels are built. */
  for (int i = 0; status == MOECL_OK && i < 2; i++) {
    const double begun = seconds_now();
    status = workload_set_weights(probe->context, &probe->point, probe->layer, NULL);
    *drawn = (double)moecl_layer_weight_bytes(probe->layer) / (seconds_now() - begun);
  }
  return status;
}

static moecl_status measure(const probe *probe, device_rates *rates) {
  const moecl_layer_params *layer = &probe->point.layer;
  double few, many;
  moecl_status status = time_forward(probe, FEW_TOKENS, &few);
  if (status != MOECL_OK) return status;
  rates->bytes = moe_bytes(layer, EXPERTS, FEW_TOKENS) / few;
  int64_t tokens = MANY_TOKENS;
  status = time_forward(probe, tokens, &many);
  if (status == MOECL_OK && many < 0.005) status = time_forward(probe, tokens = MOST_TOKENS, &many);
  rates->flops = moe_flops(layer, tokens * layer->top_k, tokens) / many;
  return status;
}

moecl_status rates_measure(moecl_context *context, const experiment_point *like,
                           device_rates *rates) {
  *rates = rates_guess(moecl_context_device(context));
  probe probe = {.context = context,
                 .point = {.num_tokens = MOST_TOKENS,
                           .layer = {.hidden_size = WIDTH,
                                     .intermediate_size = WIDTH,
                                     .num_experts = EXPERTS,
                                     .top_k = EXPERTS,
                                     .dtype = like->layer.dtype,
                                     .weight_format = like->layer.weight_format,
                                     .activation_format = like->layer.activation_format,
                                     .activation = like->layer.activation,
                                     .grouped_gemm_variant = like->layer.grouped_gemm_variant}}};
  moecl_status status = open_probe(&probe, &rates->drawn);
  if (status == MOECL_OK) status = measure(&probe, rates);
  moecl_buffer_destroy(&probe.in);
  moecl_buffer_destroy(&probe.out);
  moecl_layer_destroy(&probe.layer);
  return status;
}

/* ---- of points ---- */

/* What plain C does in a second, in multiply-adds and in choices among experts. */
static const double host_macs = 7e8, host_block_macs = 2e9, host_choices = 3e7;
/* Each round of a point is brought to the disk. */
static const double seconds_to_disk = 0.01;

/* Those that are no identities: identity experts get their even share. */
static double kept_assignments(const experiment_point *point) {
  const double experts = (double)moecl_layer_tensor_items(&point->layer, MOECL_DOWN_PROJ);
  const double all = (double)point->num_tokens * (double)point->layer.top_k * experts /
                     (double)point->layer.num_experts;
  const int64_t capacity = moecl_expert_capacity(&point->layer, point->num_tokens);
  return capacity < 0 ? all : fmin(all, (double)capacity * experts);
}

static double forward_seconds(const experiment_point *point, const device_rates *rates) {
  const double kept = kept_assignments(point);
  const double experts = (double)moecl_layer_tensor_items(&point->layer, MOECL_DOWN_PROJ);
  /* Even routing reaches so many of them. */
  const double active = experts * -expm1(kept * log1p(-1 / (experts + 1e-9)));
  double flops = moe_flops(&point->layer, (int64_t)kept, point->num_tokens);
  double bytes = moe_bytes(&point->layer, (int64_t)ceil(active), point->num_tokens);
  if (point->what == WHAT_BLOCK) {
    const moecl_block_params block = experiment_block_params(point);
    flops += block_own_flops(&block, point->num_tokens, point->context);
    bytes += block_own_bytes(&block, point->num_tokens, point->context);
  }
  return rates->launch + fmax(flops / rates->flops, bytes / rates->bytes);
}

/* The tokens before a point's go through its block once a round. */
static double context_seconds(const experiment_point *point, const device_rates *rates) {
  if (point->what == WHAT_LAYER || point->context == 0) return 0;
  experiment_point before = *point;
  before.num_tokens = point->context;
  before.context = 0;
  return forward_seconds(&before, rates);
}

/* A layer is made of so many items, each drawn and packed by a launch of its own. */
static double weight_items(const moecl_layer_params *layer) {
  double items = 0;
  for (int tensor = 0; tensor < MOECL_TENSOR_COUNT; tensor++)
    items += (double)moecl_layer_tensor_items(layer, (moecl_tensor)tensor);
  return items;
}

/* Bytes of the point's weights, as they are drawn. */
static double weight_bytes(const experiment_point *point) {
  double bytes = 0;
  for (int tensor = 0; tensor < MOECL_TENSOR_COUNT; tensor++)
    bytes += (double)moecl_layer_tensor_bytes(&point->layer, (moecl_tensor)tensor) *
             (double)moecl_layer_tensor_items(&point->layer, (moecl_tensor)tensor);
  for (int tensor = 0; tensor < MOECL_BLOCK_TENSOR_COUNT; tensor++)
    bytes += (double)workload_block_bytes(point, (moecl_block_tensor)tensor);
  return bytes;
}

/* verify_block.c: the keys and values that sampled tokens look at, and their own share. */
static double block_check_seconds(const experiment_point *point, double sample) {
  if (point->what == WHAT_LAYER) return 0;
  const moecl_block_params block = experiment_block_params(point);
  const double tokens = (double)(point->context + point->num_tokens);
  const double weights = (double)moecl_block_tensor_size(&block, MOECL_QKV_PROJ);
  return (tokens * weights + sample * block_own_flops(&block, 1, (int64_t)tokens - 1) / 2) /
         host_block_macs;
}

/* verify.c: the sampled tokens' experts in plain C, the experts that they reach drawn
 * once more, and every token's choice. */
static double check_seconds(const experiment_point *point, const device_rates *rates) {
  const moecl_layer_params *layer = &point->layer;
  const double sample = (double)verify_sample_size(point);
  const double macs = moe_flops(layer, (int64_t)sample * layer->top_k, (int64_t)sample) / 2;
  /* Other formats are held against dtype's. */
  const double times = workload_has_other_formats(point) ? 2 : 1;
  const double reached = fmin(1, sample * (double)layer->top_k / (double)layer->num_experts);
  return times * (macs / host_macs + reached * weight_bytes(point) / rates->drawn) +
         block_check_seconds(point, sample) +
         (double)point->num_tokens * (double)layer->num_experts / host_choices;
}

point_estimate estimate_point(const experiment *experiment, size_t index,
                              const device_rates *rates) {
  const experiment_point *point = &experiment->points[index];
  const bool kept = index > 0 && runner_same_layer(&experiment->points[index - 1], point);
  const double hidden = (double)point->num_tokens * (double)point->layer.hidden_size *
                        (double)moecl_dtype_size(point->layer.dtype);
  const double sets = runner_input_sets(point), warmup = (double)experiment->warmup;
  point_estimate estimate = {.forward = forward_seconds(point, rates),
                             .draw = seconds_to_disk + sets * hidden / rates->drawn +
                                     context_seconds(point, rates)};
  if (!kept)
    estimate.draw +=
        weight_bytes(point) / rates->drawn + 2 * weight_items(&point->layer) * rates->launch;
  if (experiment->verify) estimate.check = check_seconds(point, rates);
  const int64_t rounds = rounds_planned(experiment, estimate.draw + 2 * warmup * estimate.forward);
  /* The layer, then half as often its stages, each behind warm-ups; and what is read of
   * each input's routing. */
  const double timed = 1.5 * (double)experiment->iterations / (double)rounds;
  estimate.later_forwards = timed + 2 * warmup;
  estimate.forwards = estimate.later_forwards + sets;
  estimate.later_rounds = (double)rounds - 1;
  return estimate;
}

double estimate_first(const point_estimate *estimate) {
  return estimate->draw + estimate->check + estimate->forwards * estimate->forward;
}

double estimate_later(const point_estimate *estimate) {
  return estimate->draw + estimate->later_forwards * estimate->forward;
}

double estimate_all(const point_estimate *estimate) {
  return estimate_first(estimate) + estimate->later_rounds * estimate_later(estimate);
}

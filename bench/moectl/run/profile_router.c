// SPDX-License-Identifier: MIT
/* The router alone: a layer of the same router whose experts are next to nothing, in each of the
 * router's variants, and the reference's own time. */
#include "base/clock.h"
#include "base/files.h"
#include "run/profiler.h"
#include "run/verify_parts.h"
#include "work.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of an expert: the least that every grouped GEMM takes. */
enum { EXPERT_SIZE = 8 };

experiment_point profile_router_point(const experiment_point *point) {
  experiment_point alone = *point;
  alone.layer.intermediate_size = EXPERT_SIZE;
  alone.layer.shared_intermediate_size = 0;
  alone.layer.shared_gate = false;
  alone.source = NULL; /* weights are drawn: a checkpoint's experts have another size */
  return alone;
}

static void keep_work(const experiment_point *point, profile_part *part) {
  const work_counts counts = {.num_tokens = point->num_tokens,
                              .kept = point->num_tokens * point->layer.top_k};
  for (int stage = 0; stage <= MOECL_STAGE_PERMUTE; stage++) {
    const stage_work work = work_of_layer(&point->layer, &counts, (moecl_stage)stage);
    part->stages[stage].flops = work.flops;
    part->stages[stage].bytes = work.bytes;
  }
}

/* Against the reference: the routing of the first input, and what the tiny experts make of it. */
static moecl_status check_variant(profiler *profiler, profile_forwards *made,
                                  profile_variant *variant) {
  moecl_routing routing;
  moecl_status status = profile_forward(made, 0, NULL);
  if (status == MOECL_OK) status = moecl_layer_read_routing_wait(made->runner.layer, &routing);
  if (status != MOECL_OK) return status;
  const verify_input input = {.context = profiler->context,
                              .point = made->point,
                              .roundoff = moecl_layer_roundoff(made->runner.layer),
                              .output_roundoff = moecl_layer_output_roundoff(made->runner.layer),
                              .routing = &routing,
                              .hidden_states = made->buffers.hidden[0],
                              .output = made->buffers.output};
  status = verify_point(&input, &variant->verify);
  moecl_routing_destroy(&routing);
  return status;
}

/* Runs what the point asks for into `part`, and into `variant` how it did. */
static void run_alone(profiler *profiler, const experiment_point *point, profile_part *part,
                      profile_variant *variant) {
  profile_forwards made = {0};
  char name[64];
  snprintf(name, sizeof name, "router %s", variant->name);
  const uint64_t before = moecl_context_memory(profiler->context, NULL);
  moecl_status status = profile_forwards_make(profiler, point, &made);
  if (status == MOECL_OK)
    snprintf(variant->name, sizeof variant->name, "%s",
             moecl_layer_variant(made.runner.layer, "router", NULL));
  made.router_alone = true;
  if (status == MOECL_OK) status = profiler_measure(profiler, &made, name, part);
  /* Before the check, whose buffers are no forward's. */
  if (status == MOECL_OK) profile_see_memory(profiler, &made, before, &part->memory);
  if (status == MOECL_OK) status = check_variant(profiler, &made, variant);
  if (status == MOECL_OK) {
    keep_work(point, part);
    variant->us = part->stages[MOECL_STAGE_ROUTER].over;
    variant->ran = true;
  } else {
    profiler_fail(profiler, part, "the router did not run", status);
    variant->why = format_text("%s", part->why ? part->why : "no memory");
  }
  profile_forwards_release(&made);
}

static void release_part(profile_part *part) {
  free(part->why);
  free(part->kernels);
  *part = (profile_part){0};
}

static void run_variants(profiler *profiler, const experiment_point *point, const char *chosen,
                         profile_point *result) {
  const char *names[32];
  const size_t count = moecl_variants_for_format(
      profiler->context, "router", moecl_layer_tensor_format(&point->layer, MOECL_ROUTER_WEIGHT),
      names, 32);
  result->variants = calloc(count + 1, sizeof *result->variants);
  for (size_t i = 0; result->variants && i < count && i < 32 && !*profiler->interrupted; i++) {
    profile_variant *variant = &result->variants[result->num_variants++];
    profile_part part = {0};
    experiment_point asked = *point;
    asked.layer.router_variant = names[i];
    variant->chosen = strcmp(names[i], chosen) == 0;
    snprintf(variant->name, sizeof variant->name, "%s", names[i]);
    run_alone(profiler, &asked, &part, variant);
    release_part(&part);
  }
}

/* ---- the reference ---- */

enum { REFERENCE_TOKENS = 32 };

static void choose(const experiment_point *point, const sample *sample, const double *weight,
                   const double *bias, const double *correction, double *logits) {
  const moecl_layer_params *layer = &point->layer;
  int32_t ids[MOECL_MAX_TOP_K];
  double weights[MOECL_MAX_TOP_K];
  for (int64_t i = 0; i < sample->count; i++) {
    moecl_reference_logits(layer, sample->hidden + i * layer->hidden_size, weight, bias,
                           point->seed, i, logits);
    moecl_reference_topk(layer, logits, correction, point->seed, i, ids, weights, NULL);
  }
}

/* In plain C, one thread, of the first tokens; noise on logits is not in it. */
static moecl_status time_reference(profiler *profiler, const experiment_point *point,
                                   profile_point *result) {
  const int64_t count = point->num_tokens < REFERENCE_TOKENS ? point->num_tokens : REFERENCE_TOKENS;
  const verify_input input = {.context = profiler->context, .point = point};
  const moecl_layer_params *layer = &point->layer;
  double *weight = NULL, *bias = NULL, *correction = NULL;
  double *logits = malloc((size_t)layer->num_experts * sizeof *logits);
  sample sample = {0};
  weights weights = {0};
  moecl_status status = logits ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) status = verify_sample_make(point, count, &sample);
  if (status == MOECL_OK) status = verify_weights_make(&input, &sample, &weights);
  if (status == MOECL_OK)
    status = verify_draw_doubles(&input, &weights, MOECL_ROUTER_WEIGHT, &weight);
  if (status == MOECL_OK) status = verify_draw_doubles(&input, &weights, MOECL_ROUTER_BIAS, &bias);
  if (status == MOECL_OK)
    status = verify_draw_doubles(&input, &weights, MOECL_SCORE_CORRECTION_BIAS, &correction);
  if (status == MOECL_OK && count > 0) {
    const size_t elements = (size_t)(count * layer->hidden_size);
    for (size_t i = 0; i < elements; i++) sample.hidden[i] = (double)(i % 17) * 0.1 - 0.8;
    const double begun = seconds_now();
    choose(point, &sample, weight, bias, correction, logits);
    result->reference_us =
        (seconds_now() - begun) * 1e6 * (double)point->num_tokens / (double)count;
    result->reference_tokens = count;
  }
  free(weight), free(bias), free(correction), free(logits);
  verify_weights_release(&weights);
  verify_sample_release(&sample);
  return status;
}

void profile_run_router(profiler *profiler, const experiment_point *point, profile_point *result) {
  const experiment_point alone = profile_router_point(point);
  profile_part *part = &result->parts[PROFILE_ROUTER];
  profile_variant chosen = {.name = "chosen"};
  result->reference_us = NAN;
  if (point->source)
    part->note = format_text("%s", "The experiment's weights are a checkpoint's, but the router's "
                                   "here are drawn, as its tiny experts' are: its times are those "
                                   "of the model's router, its choices and loads are not.");
  run_alone(profiler, &alone, part, &chosen);
  free(chosen.why);
  if (part->ran) run_variants(profiler, &alone, chosen.name, result);
  if (part->ran && !*profiler->interrupted && time_reference(profiler, &alone, result) != MOECL_OK)
    result->reference_us = NAN;
}

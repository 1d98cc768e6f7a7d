// SPDX-License-Identifier: MIT
#include "run/profiler.h"
#include "base/clock.h"
#include "base/files.h"
#include "results/measures.h"
#include "work.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

double profiler_now(const profiler *profiler) { return (seconds_now() - profiler->began) * 1e6; }

void profiler_fail(profiler *profiler, profile_part *part, const char *what, moecl_status status) {
  char said[2048];
  moecl_context_take_errors(profiler->context, said, sizeof said);
  for (char *end = said; (end = strchr(end, '\n')); *end = ' ') {
  }
  free(part->why);
  part->ran = false;
  part->why = format_text("%s: %s%s%s", what, moecl_status_string(status), *said ? ": " : "", said);
}

/* ---- times ---- */

/* The kernels of each are kept, and more tell no more. */
enum { MOST_FORWARDS = 1000 };

/* What is kept of a forward. */
typedef struct timed_forward {
  double span_us, host_us, began_us; /* `began_us`: since the profile began */
  double stage_us[MOECL_STAGE_COUNT];
  profile_kernel *kernels;
  size_t num_kernels;
} timed_forward;

typedef struct timing {
  profiler *profiler;
  profile_forwards *made;
  bool kernels;
  moecl_profile *profile[FORWARDS_IN_FLIGHT];
  timed_forward *forwards; /* [count] */
  size_t count, started, read;
} timing;

static void name_kernel(const moecl_kernel_times *from, profile_kernel *to) {
  *to = (profile_kernel){.stage = from->stage,
                         .enqueued_us = from->enqueued_ms * 1e3,
                         .queued_us = from->queued_ms * 1e3,
                         .start_us = from->start_ms * 1e3,
                         .end_us = from->end_ms * 1e3};
  snprintf(to->name, sizeof to->name, "%s", from->kernel);
  snprintf(to->step, sizeof to->step, "%s", from->step ? from->step : "");
}

/* What each took, and the gap before it. Kernels of a queue out of order may overlap: what two
 * take at once is each one's time, and no gap. */
static void find_gaps(timed_forward *forward) {
  double end = forward->num_kernels > 0 ? forward->kernels[0].start_us : 0;
  for (size_t i = 0; i < forward->num_kernels; i++) {
    profile_kernel *kernel = &forward->kernels[i];
    kernel->us = kernel->end_us - kernel->start_us;
    kernel->gap_us = kernel->start_us > end ? kernel->start_us - end : 0;
    end = kernel->end_us > end ? kernel->end_us : end;
    forward->stage_us[kernel->stage] += kernel->us;
  }
}

/* There may be many: a library's GEMMs are one for each expert. */
static moecl_status read_kernels(moecl_profile *profile, timed_forward *forward) {
  size_t count;
  TRY(moecl_profile_kernels_wait(profile, NULL, 0, &count));
  moecl_kernel_times *times = calloc(count + 1, sizeof *times);
  forward->kernels = calloc(count + 1, sizeof *forward->kernels);
  moecl_status status = times && forward->kernels
                            ? moecl_profile_kernels_wait(profile, times, count, &count)
                            : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) {
    forward->num_kernels = count;
    for (size_t i = 0; i < count; i++) name_kernel(&times[i], &forward->kernels[i]);
    find_gaps(forward);
  }
  free(times);
  return status;
}

/* Leaves the router's and the permutation's kernels, which come first: the forward then is what
 * they and the gaps between them take, and its host's time until the last of them was enqueued. */
static void leave_router(timed_forward *forward) {
  size_t count = 0;
  forward->span_us = 0;
  while (count < forward->num_kernels && forward->kernels[count].stage <= MOECL_STAGE_PERMUTE) {
    const profile_kernel *kernel = &forward->kernels[count++];
    forward->span_us += kernel->us + kernel->gap_us;
    forward->host_us = kernel->enqueued_us;
  }
  forward->num_kernels = count;
  for (int stage = MOECL_STAGE_PERMUTE + 1; stage < MOECL_STAGE_COUNT; stage++)
    forward->stage_us[stage] = NAN;
}

static moecl_status read_oldest(timing *timing) {
  double ms[MOECL_STAGE_LAYER + 1];
  timed_forward *forward = &timing->forwards[timing->read];
  moecl_profile *profile = timing->profile[timing->read % FORWARDS_IN_FLIGHT];
  TRY(moecl_profile_read_wait(profile, ms, MOECL_STAGE_LAYER + 1));
  forward->span_us = ms[MOECL_STAGE_LAYER] * 1e3;
  if (timing->kernels) TRY(read_kernels(profile, forward));
  if (timing->kernels && timing->made->router_alone) leave_router(forward);
  timing->read++;
  return MOECL_OK;
}

static bool has_room(const timing *timing) {
  const double latest_us = timing->read > 0 ? timing->forwards[timing->read - 1].span_us : NAN;
  return forwards_have_room(timing->started - timing->read, latest_us * 1e-3);
}

static moecl_status run_forwards(timing *timing) {
  while (timing->started < timing->count && !*timing->profiler->interrupted) {
    while (!has_room(timing)) TRY(read_oldest(timing));
    timed_forward *forward = &timing->forwards[timing->started];
    const int input = (int)(timing->started % (size_t)timing->made->buffers.sets);
    forward->began_us = profiler_now(timing->profiler);
    TRY(profile_forward(timing->made, input,
                        timing->profile[timing->started % FORWARDS_IN_FLIGHT]));
    forward->host_us = profiler_now(timing->profiler) - forward->began_us;
    timing->started++;
  }
  while (timing->read < timing->started) TRY(read_oldest(timing));
  return MOECL_OK;
}

static void release_timing(timing *timing) {
  for (int i = 0; i < FORWARDS_IN_FLIGHT; i++) moecl_profile_destroy(&timing->profile[i]);
  for (size_t i = 0; timing->forwards && i < timing->count; i++) free(timing->forwards[i].kernels);
  free(timing->forwards);
}

static moecl_status time_forwards(timing *timing) {
  timing->forwards = calloc(timing->count, sizeof *timing->forwards);
  if (!timing->forwards) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int i = 0; i < FORWARDS_IN_FLIGHT; i++) {
    TRY(moecl_profile_create(timing->profiler->context, &timing->profile[i]));
    moecl_profile_layer_only(timing->profile[i], !timing->kernels);
    moecl_profile_keep_kernels(timing->profile[i], timing->kernels);
  }
  return run_forwards(timing);
}

/* A summary of one number of each forward; `at` is its offset. */
static sample_summary summarize(const timing *timing, size_t at) {
  double *samples = malloc((timing->read + 1) * sizeof *samples);
  if (!samples) return (sample_summary){NAN, NAN, NAN};
  for (size_t i = 0; i < timing->read; i++)
    memcpy(&samples[i], (const char *)&timing->forwards[i] + at, sizeof *samples);
  const sample_summary summary = runner_summarize(samples, timing->read);
  free(samples);
  return summary;
}

/* The median of kernel `index`'s number at offset `at`, over forwards of so many kernels: a first
 * one may have more. `samples` has room. */
static double kernel_median(const timing *timing, size_t index, size_t count, size_t at,
                            double *samples) {
  size_t found = 0;
  for (size_t i = 0; i < timing->read; i++)
    if (timing->forwards[i].num_kernels == count)
      memcpy(&samples[found++], (const char *)&timing->forwards[i].kernels[index] + at,
             sizeof *samples);
  return runner_summarize(samples, found).median;
}

/* One forward that took long somewhere by chance is then no kernel's fault. */
static void keep_medians(const timing *timing, size_t count, profile_kernel *kernels) {
  double *samples = malloc((timing->read + 1) * sizeof *samples);
  profile_kernel *medians = calloc(count + 1, sizeof *medians);
  for (size_t i = 0; samples && medians && i < count; i++) {
    medians[i] = kernels[i];
    medians[i].us = kernel_median(timing, i, count, offsetof(profile_kernel, us), samples);
    medians[i].gap_us = kernel_median(timing, i, count, offsetof(profile_kernel, gap_us), samples);
  }
  if (samples && medians) memcpy(kernels, medians, count * sizeof *medians);
  free(samples);
  free(medians);
}

/* The forward whose span is the median, the lower one of two: at most half are shorter. */
static timed_forward *median_forward(const timing *timing) {
  timed_forward *best = NULL;
  for (size_t i = 0; i < timing->read; i++) {
    size_t shorter = 0;
    for (size_t j = 0; j < timing->read; j++)
      shorter += timing->forwards[j].span_us < timing->forwards[i].span_us;
    if (2 * shorter < timing->read && (!best || timing->forwards[i].span_us > best->span_us))
      best = &timing->forwards[i];
  }
  return best ? best : timing->forwards;
}

static void keep_forwards(const timing *timing, profile_part *part) {
  timed_forward *shown = median_forward(timing);
  keep_medians(timing, shown->num_kernels, shown->kernels);
  part->forwards = (int64_t)timing->read;
  part->span_us = summarize(timing, offsetof(timed_forward, span_us));
  part->timed = isfinite(part->span_us.median);
  part->kernels = shown->kernels;
  part->num_kernels = shown->num_kernels;
  part->host_began_us = shown->began_us;
  shown->kernels = NULL; /* the part's now */
  for (size_t stage = 0; stage < MOECL_STAGE_COUNT; stage++)
    part->stages[stage].over =
        summarize(timing, offsetof(timed_forward, stage_us) + stage * sizeof(double));
  profile_sum(part);
}

static moecl_status warm_up(profiler *profiler, profile_forwards *made) {
  for (int64_t i = 0; i < profiler->experiment->warmup && !*profiler->interrupted; i++)
    TRY(profile_forward(made, (int)(i % made->buffers.sets), NULL));
  return moecl_context_finish_wait(profiler->context);
}

static size_t num_forwards(const profiler *profiler) {
  const int64_t asked = profiler->experiment->iterations;
  return (size_t)(asked < MOST_FORWARDS ? asked : MOST_FORWARDS);
}

static moecl_status measure_once(profiler *profiler, profile_forwards *made, bool kernels,
                                 profile_part *part) {
  timing timing = {
      .profiler = profiler, .made = made, .kernels = kernels, .count = num_forwards(profiler)};
  const moecl_status status = time_forwards(&timing);
  if (status == MOECL_OK && timing.read > 0) {
    if (kernels) keep_forwards(&timing, part);
    else part->alone_us = summarize(&timing, offsetof(timed_forward, span_us));
    if (!kernels || made->router_alone)
      part->host_us = summarize(&timing, offsetof(timed_forward, host_us)).median;
  }
  release_timing(&timing);
  return status;
}

moecl_status profiler_measure(profiler *profiler, profile_forwards *made, const char *subject,
                              profile_part *part) {
  static const char *const names[] = {"warm up", "times", "times of each kernel"};
  moecl_status status = MOECL_OK;
  part->alone_us = (sample_summary){NAN, NAN, NAN};
  for (int i = 0; status == MOECL_OK && i < 3; i++) {
    char name[64];
    if (i == 1 && made->router_alone) continue; /* that would be all of the layer's time */
    const double begun = profiler_now(profiler);
    status = i == 0 ? warm_up(profiler, made) : measure_once(profiler, made, i == 2, part);
    snprintf(name, sizeof name, "%s: %s", subject, names[i]);
    profile_add_span(profiler->profile, name, begun, profiler_now(profiler));
  }
  part->ran = status == MOECL_OK && part->forwards > 0;
  part->again_seconds = made->runner.weights_seconds + made->buffers.fill_seconds +
                        (double)profiler->experiment->warmup * part->span_us.median * 1e-6;
  part->round_us[0] = profile_whole(part)->median; /* the first round */
  part->num_rounds = isfinite(part->round_us[0]);
  return status;
}

moecl_status profiler_time_round(profiler *profiler, profile_forwards *made, size_t forwards,
                                 double *median_us) {
  timing timing = {
      .profiler = profiler, .made = made, .kernels = made->router_alone, .count = forwards};
  moecl_status status = warm_up(profiler, made);
  if (status == MOECL_OK) status = time_forwards(&timing);
  *median_us = NAN;
  if (status == MOECL_OK && timing.read == forwards)
    *median_us = summarize(&timing, offsetof(timed_forward, span_us)).median;
  release_timing(&timing);
  return status;
}

/* ---- forwards ---- */

static moecl_status build_kernels(moecl_context *context, const experiment_point *point) {
  runner runner = {.context = context};
  const moecl_status status = forwards_create_layer(&runner, point);
  forwards_release_layer(&runner);
  return status;
}

moecl_status profile_forwards_make(profiler *profiler, const experiment_point *point,
                                   profile_forwards *made) {
  *made = (profile_forwards){.runner = {.context = profiler->context,
                                        .experiment = profiler->experiment,
                                        .recording = profiler->recording,
                                        .interrupted = profiler->interrupted},
                             .point = point};
  TRY(build_kernels(profiler->context, point));
  moecl_context_reset_memory(profiler->context);
  TRY(forwards_provide_layer(&made->runner, point));
  return forwards_provide_buffers(&made->runner, point, &made->buffers);
}

void profile_forwards_release(profile_forwards *made) {
  forwards_release_buffers(&made->buffers);
  forwards_release_layer(&made->runner);
}

moecl_status profile_forward(profile_forwards *made, int input, moecl_profile *profile) {
  return forwards_enqueue(&made->runner, made->point, &made->buffers, input, profile);
}

/* ---- what the plan alone knows ---- */

enum { MOST_STEPS = 64, SIZES_MULTIPLE = 64 };

typedef struct plan_steps {
  moecl_plan *plan; /* whose texts the steps have; NULL: there is none */
  moecl_plan_step list[MOST_STEPS];
  size_t count;
} plan_steps;

static plan_steps read_plan(profiler *profiler, const moecl_layer_params *layer,
                            int64_t num_tokens) {
  plan_steps steps = {0};
  if (moecl_plan_create(profiler->context, layer, num_tokens, &steps.plan) != MOECL_OK)
    return steps;
  const size_t count = moecl_plan_steps(steps.plan, steps.list, MOST_STEPS);
  steps.count = count < MOST_STEPS ? count : MOST_STEPS;
  return steps;
}

/* The step that an operation's variant is that of; of GEMMs gate_up. NULL: there is none. */
static const moecl_plan_step *find_step(const plan_steps *steps, const char *operation) {
  const bool gemm = strcmp(operation, "grouped_gemm") == 0;
  for (size_t i = 0; i < steps->count; i++)
    if (strcmp(steps->list[i].operation, operation) == 0 &&
        (!gemm || steps->list[i].stage == MOECL_STAGE_GATE_UP))
      return &steps->list[i];
  return NULL;
}

static void copy_variant(const plan_steps *steps, const char *operation, char name[32]) {
  const moecl_plan_step *step = find_step(steps, operation);
  snprintf(name, 32, "%s", step && step->variant ? step->variant : "");
}

static int64_t round_up(int64_t size) {
  return (size + SIZES_MULTIPLE - 1) / SIZES_MULTIPLE * SIZES_MULTIPLE;
}

static void read_plans(profiler *profiler, const experiment_point *point, profile_point *result) {
  moecl_layer_params layer = point->layer;
  plan_steps planned = read_plan(profiler, &layer, point->num_tokens);
  layer.hidden_size = result->rounded_hidden = round_up(layer.hidden_size);
  layer.intermediate_size = result->rounded_intermediate = round_up(layer.intermediate_size);
  plan_steps rounded = read_plan(profiler, &layer, point->num_tokens);
  for (int i = 0; i < NUM_LAYER_OPERATIONS; i++) {
    copy_variant(&planned, measure_operations[i], result->operations[i].planned);
    copy_variant(&rounded, measure_operations[i], result->operations[i].rounded);
  }
  const moecl_plan_step *gate_up = find_step(&planned, "grouped_gemm");
  result->tile_rows = gate_up ? gate_up->tile_rows : 0;
  result->parts[PROFILE_LAYER].memory.activations =
      moecl_plan_unshared_workspace_bytes(planned.plan);
  moecl_plan_destroy(&planned.plan);
  moecl_plan_destroy(&rounded.plan);
}

/* What a block's workspace would be if nothing shared it. */
static uint64_t block_activations(profiler *profiler, const experiment_point *point) {
  const moecl_block_params params = experiment_block_params(point);
  const int64_t room = point->context > 0 ? point->context + point->num_tokens : 0;
  moecl_plan *plan = NULL;
  if (moecl_block_plan_create(profiler->context, &params, point->num_tokens, room, &plan) !=
      MOECL_OK)
    return 0;
  const uint64_t bytes = moecl_plan_unshared_workspace_bytes(plan);
  moecl_plan_destroy(&plan);
  return bytes;
}

static void name_operations(const moecl_layer *layer, profile_point *result) {
  for (int i = 0; i < NUM_LAYER_OPERATIONS; i++) {
    const char *reason, *name = moecl_layer_variant(layer, measure_operations[i], &reason);
    result->operations[i].name = format_text("%s", name ? name : "?");
    result->operations[i].reason = format_text("%s", reason ? reason : "");
  }
}

/* ---- the layer's work and memory ---- */

static void drop_large_arrays(moecl_routing *routing) {
  free(routing->router_logits), free(routing->topk_ids), free(routing->topk_weights);
  free(routing->kept), free(routing->token_priority);
  routing->router_logits = routing->topk_weights = routing->token_priority = NULL;
  routing->topk_ids = NULL, routing->kept = NULL;
}

static stage_work work_of(const experiment_point *point, const work_counts *counts,
                          moecl_stage stage) {
  const moecl_block_params block = experiment_block_params(point);
  return point->what == WHAT_BLOCK ? work_of_block(&block, counts, stage)
                                   : work_of_layer(&point->layer, counts, stage);
}

/* The variant that does a stage's arithmetic is the experts', but for attention. */
static bool on_matrix_units(const profile_forwards *made, moecl_stage stage) {
  const char *operation = measure_arithmetic_operation(stage);
  return operation && moecl_variant_uses_matrix_units(
                          operation, forwards_variant(&made->runner, operation, NULL));
}

/* Work is counted from the routing of the first input; the others' differ a little. */
static moecl_status count_work(profile_forwards *made, int64_t tile_rows, profile_part *part) {
  moecl_routing *routing = &part->routing;
  TRY(profile_forward(made, 0, NULL));
  TRY(moecl_layer_read_routing_wait(made->runner.layer, routing));
  drop_large_arrays(routing);
  work_counts counts = work_counts_of(routing);
  counts.context = made->point->context;
  part->padding_waste =
      work_tile_waste(routing->tokens_per_expert_after_capacity,
                      routing->num_experts - routing->num_identity_experts, tile_rows);
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    if (part->stages[stage].kernels == 0) continue;
    const stage_work work = work_of(made->point, &counts, (moecl_stage)stage);
    part->stages[stage].flops = work.flops;
    part->stages[stage].bytes = work.bytes;
    part->stages[stage].matrix = on_matrix_units(made, (moecl_stage)stage);
  }
  return MOECL_OK;
}

/* Filling a cache takes the context, what comes out of a step, and that step's workspace. */
static uint64_t context_bytes(profiler *profiler, const profile_forwards *made) {
  const experiment_point *point = made->point;
  const moecl_block *block = made->runner.block;
  const int64_t step = runner_context_step(point, moecl_buffer_alignment(profiler->context));
  const uint64_t output =
      (uint64_t)(step * point->layer.hidden_size) * moecl_dtype_size(point->layer.dtype);
  uint64_t bytes = moecl_buffer_size(made->buffers.context) + output;
  if (step > point->num_tokens) /* the block's workspace has grown for it */
    bytes += moecl_block_workspace_size(block, step, true) -
             moecl_block_workspace_size(block, point->num_tokens, true);
  return bytes;
}

/* The format is the experts' alone: the router's and a block's own weights are of the dtype. */
static uint64_t bf16_saves(profiler *profiler, const experiment_point *point) {
  moecl_layer_params layer = point->layer;
  moecl_memory now, smaller;
  if (moecl_layer_tensor_format(&layer, MOECL_DOWN_PROJ) != MOECL_FORMAT_F32 ||
      moecl_layer_memory(profiler->context, &layer, point->num_tokens, &now) != MOECL_OK)
    return 0;
  layer.weight_format = MOECL_FORMAT_BF16;
  if (moecl_layer_memory(profiler->context, &layer, point->num_tokens, &smaller) != MOECL_OK)
    return 0;
  return now.weight_bytes > smaller.weight_bytes ? now.weight_bytes - smaller.weight_bytes : 0;
}

void profile_see_memory(profiler *profiler, const profile_forwards *made, uint64_t before,
                        profile_memory *memory) {
  const experiment_point *point = made->point;
  runner_memory needed;
  moecl_context_memory(profiler->context, &memory->seen);
  memory->seen -= before;
  if (runner_memory_needed(profiler->context, point, false, &needed) == MOECL_OK)
    memory->predicted = needed.bytes;
  memory->bf16_saves = bf16_saves(profiler, point);
  memory->cache = moecl_cache_bytes(made->buffers.cache);
  memory->hidden = moecl_buffer_size(made->buffers.output);
  memory->inputs = (uint64_t)made->buffers.sets * memory->hidden;
  if (made->buffers.context) memory->inputs += context_bytes(profiler, made);
  memory->weights = forwards_weight_bytes(&made->runner);
  memory->workspace = forwards_workspace_bytes(&made->runner, point, &made->buffers);
}

/* ---- a point ---- */

static void run_part(profiler *profiler, const experiment_point *point, profile_part_kind kind,
                     profile_point *result) {
  const char *name = profile_part_names[kind];
  profile_part *part = &result->parts[kind];
  profile_forwards made = {0};
  char span[64];
  const uint64_t before = moecl_context_memory(profiler->context, NULL);
  const double begun = profiler_now(profiler);
  moecl_status status = profile_forwards_make(profiler, point, &made);
  snprintf(span, sizeof span, "%s: kernels, weights, inputs", name);
  profile_add_span(profiler->profile, span, begun, profiler_now(profiler));
  if (status == MOECL_OK && kind == PROFILE_LAYER) {
    name_operations(made.runner.layer, result);
    read_plans(profiler, point, result);
  }
  if (status == MOECL_OK && kind == PROFILE_BLOCK) {
    part->note =
        profile_block_note(point, &profiler->experiment->points[result->index], made.runner.block);
    part->memory.activations = block_activations(profiler, point);
  }
  if (status == MOECL_OK) status = profiler_measure(profiler, &made, name, part);
  if (status == MOECL_OK) profile_see_memory(profiler, &made, before, &part->memory);
  if (status == MOECL_OK) status = count_work(&made, result->tile_rows, part);
  if (status != MOECL_OK)
    profiler_fail(profiler, part,
                  kind == PROFILE_BLOCK ? "the block did not run" : "the layer did not run",
                  status);
  profile_forwards_release(&made);
}

/* A block has all of its layer's experts on the device. */
static void run_block(profiler *profiler, const experiment_point *point, profile_point *result) {
  profile_part *part = &result->parts[PROFILE_BLOCK];
  if (point->layer.expert_cache == 0) {
    run_part(profiler, point, PROFILE_BLOCK, result);
    return;
  }
  part->skipped = true;
  part->why = format_text("a block has all experts on the device, and this layer some of them in "
                          "the host's memory (parallel.placement: offload)");
}

bool profiler_run_point(profiler *profiler, size_t index) {
  const experiment_point block = profile_block_point(&profiler->experiment->points[index]);
  experiment_point layer = profiler->experiment->points[index];
  profile_point *result = &profiler->profile->points[index];
  layer.what = WHAT_LAYER;
  profiler_see_load(profiler);
  moecl_context_take_errors(profiler->context, NULL, 0); /* earlier points' */
  if (!*profiler->interrupted) profile_run_router(profiler, &layer, result);
  if (!*profiler->interrupted) run_part(profiler, &layer, PROFILE_LAYER, result);
  if (!*profiler->interrupted) run_block(profiler, &block, result);
  result->ran = !*profiler->interrupted;
  return result->ran;
}

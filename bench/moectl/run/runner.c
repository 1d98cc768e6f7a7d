// SPDX-License-Identifier: MIT
#include "run/forwards.h"
#include "base/clock.h"
#include "cases.h"
#include "work.h"
#include "results/measures.h"
#include "results/rounds.h"
#include "run/changed_choices.h"
#include "run/placement.h"
#include "run/together.h"
#include "experiment/schema.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static void fail(point_result *result, const char *format,
                                                       ...) {
  char text[3072];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  result->status = POINT_ERROR;
  free(result->error);
  result->error = strdup(text);
}

/* Fails with a status of the library's, and what it said of it: the call that failed
 * and its code. */
static void fail_call(runner *runner, point_result *result, const char *what, moecl_status status) {
  char said[2048];
  together_take_errors(runner->together, said, sizeof said);
  if (!*said) moecl_context_take_errors(runner->context, said, sizeof said);
  for (char *end = said; (end = strchr(end, '\n')); *end = ' ') {
  }
  fail(result, "%s: %s%s%s", what, moecl_status_string(status), *said ? ": " : "", said);
}

/* A recording is one input set: there are no others. */
int runner_input_sets(const experiment_point *point) {
  return point->distribution == WORKLOAD_FILE ? 1 : INPUT_SETS;
}

/* A sum that stays at the largest number instead of beginning anew. */
static uint64_t add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

/* Enough to keep a device busy, few enough to take little more memory than the forwards do. */
enum { CONTEXT_STEP = 512 };
int64_t runner_context_step(const experiment_point *point, uint64_t alignment) {
  const int64_t align = alignment > 0 ? (int64_t)alignment : 1;
  const int64_t step = (CONTEXT_STEP + align - 1) / align * align;
  return point->context < step ? point->context : step;
}

static moecl_status point_memory(moecl_context *context, const experiment_point *point,
                                 moecl_memory *memory) {
  if (point->what == WHAT_LAYER)
    return moecl_layer_memory(context, &point->layer, point->num_tokens, memory);
  const moecl_block_params params = experiment_block_params(point);
  const int64_t room = point->context > 0 ? point->context + point->num_tokens : 0;
  const int64_t step = runner_context_step(point, moecl_buffer_alignment(context));
  const uint64_t row = (uint64_t)params.layer.hidden_size * moecl_dtype_size(params.layer.dtype);
  /* The workspace serves the forwards that fill the cache too. */
  const moecl_status status = moecl_block_memory(
      context, &params, step > point->num_tokens ? step : point->num_tokens, room, memory);
  memory->hidden_bytes = (uint64_t)point->num_tokens * row;
  return status;
}

moecl_status runner_memory_needed(moecl_context *context, const experiment_point *point,
                                  bool draws_again, runner_memory *needed) {
  moecl_memory layer;
  *needed = (runner_memory){0};
  uint64_t without_jitter;
  TRY(point_memory(context, point, &layer));
  TRY(changed_choices_memory(context, point, &without_jitter));
  /* Weights pass through a staging buffer: before the forwards' buffers are
   * there, and again beside them when they are drawn once more. */
  const uint64_t staging = workload_staging_bytes(point);
  const uint64_t context_bytes =
      (uint64_t)(point->context * point->layer.hidden_size) * moecl_dtype_size(point->layer.dtype);
  uint64_t forwards = add(layer.workspace_bytes, layer.cache_bytes), largest = staging;
  if (point->what == WHAT_BLOCK) {
    /* Beside the context what comes out of a step of it. */
    forwards = add(forwards, context_bytes);
    const int64_t step = runner_context_step(point, moecl_buffer_alignment(context));
    forwards = add(forwards, (uint64_t)(step * point->layer.hidden_size) *
                                 moecl_dtype_size(point->layer.dtype));
    if (context_bytes > largest) largest = context_bytes;
  }
  for (int i = 0; i < runner_input_sets(point) + 1; i++)
    forwards = add(forwards, layer.hidden_bytes);
  if (draws_again) forwards = add(forwards, staging);
  forwards = add(forwards, without_jitter);
  needed->bytes = add(layer.weight_bytes, forwards > staging ? forwards : staging);
  needed->host_bytes = layer.host_bytes;
  needed->largest_buffer =
      layer.largest_buffer_bytes > largest ? layer.largest_buffer_bytes : largest;
  return MOECL_OK;
}

/* Do two points have the same weights, in the same layer? */
bool runner_same_layer(const experiment_point *a, const experiment_point *b) {
  return a->seed == b->seed && schema_same_layer(a, b) && placement_same(a, b);
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* One forward whose time is not credible leaves no median to be had. */
sample_summary runner_summarize(double *samples, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (isnan(samples[i])) count = 0;
  if (count == 0) return (sample_summary){NAN, NAN, NAN};
  qsort(samples, count, sizeof *samples, by_value);
  const double median =
      count % 2 ? samples[count / 2] : (samples[count / 2 - 1] + samples[count / 2]) / 2;
  const size_t p90 = (count * 9 + 9) / 10; /* ceil(0.9 * count): the nearest rank */
  return (sample_summary){median, samples[0], samples[p90 - 1]};
}

typedef struct timed_forwards {
  moecl_profile *profile[FORWARDS_IN_FLIGHT];
  int set[FORWARDS_IN_FLIGHT]; /* the input that the forward took */
  size_t started, read, warmup, most;
  double *samples;   /* [stage][most], then the host's own time, [most] */
  int64_t *timed_of; /* forwards by input; NULL: not counted */
  double host_ms[FORWARDS_IN_FLIGHT];
  double latest_ms;
} timed_forwards;

/* Waits for the oldest forward in flight and keeps its times, past the warm-up. */
static moecl_status read_oldest(timed_forwards *timed) {
  double ms[RESULTS_STAGES];
  const size_t place = timed->read % FORWARDS_IN_FLIGHT;
  TRY(moecl_profile_read_wait(timed->profile[place], ms, RESULTS_STAGES));
  timed->latest_ms = ms[MOECL_STAGE_LAYER];
  if (timed->read >= timed->warmup) {
    for (int stage = 0; stage < RESULTS_STAGES; stage++)
      timed->samples[(size_t)stage * timed->most + timed->read - timed->warmup] = ms[stage];
    timed->samples[(size_t)RESULTS_STAGES * timed->most + timed->read - timed->warmup] =
        timed->host_ms[place];
    if (timed->timed_of) timed->timed_of[timed->set[place]]++;
  }
  timed->read++;
  return MOECL_OK;
}

static moecl_status run_timed(runner *runner, const experiment_point *point,
                              const point_buffers *buffers, timed_forwards *timed) {
  const size_t all = timed->warmup + timed->most;
  while (timed->started < all && !*runner->interrupted) {
    while (!forwards_have_room(timed->started - timed->read, timed->latest_ms))
      TRY(read_oldest(timed));
    const size_t place = timed->started % FORWARDS_IN_FLIGHT;
    timed->set[place] = (int)(timed->started % (size_t)buffers->sets);
    const double begun = seconds_now();
    TRY(forwards_enqueue(runner, point, buffers, timed->set[place], timed->profile[place]));
    timed->host_ms[place] = (seconds_now() - begun) * 1e3;
    timed->started++;
  }
  while (timed->read < timed->started) TRY(read_oldest(timed));
  return MOECL_OK;
}

/* `most` forwards of the layer alone or of its stages; summaries[stage] for those.
 * Stops early when interrupted; *kept is how many were timed. */
static moecl_status time_forwards(runner *runner, const experiment_point *point,
                                  const point_buffers *buffers, bool layer_only, size_t most,
                                  int64_t *timed_of, sample_summary *summaries,
                                  sample_summary *host, size_t *kept) {
  if (runner->together)
    return together_time(runner, point, buffers->sets, layer_only, most, timed_of, summaries, host,
                         kept);
  timed_forwards timed = {.warmup = (size_t)runner->experiment->warmup,
                          .most = most,
                          .samples = malloc(most * (RESULTS_STAGES + 1) * sizeof(double)),
                          .timed_of = timed_of,
                          .latest_ms = NAN};
  moecl_status status = timed.samples ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int i = 0; status == MOECL_OK && i < FORWARDS_IN_FLIGHT; i++) {
    status = moecl_profile_create(runner->context, &timed.profile[i]);
    if (status == MOECL_OK) moecl_profile_layer_only(timed.profile[i], layer_only);
  }
  if (status == MOECL_OK) status = run_timed(runner, point, buffers, &timed);
  *kept = timed.read > timed.warmup ? timed.read - timed.warmup : 0;
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    if ((stage == MOECL_STAGE_LAYER) == layer_only)
      summaries[stage] = runner_summarize(timed.samples + (size_t)stage * most, *kept);
  *host = runner_summarize(timed.samples + (size_t)RESULTS_STAGES * most, *kept);
  for (int i = 0; i < FORWARDS_IN_FLIGHT; i++) moecl_profile_destroy(&timed.profile[i]);
  free(timed.samples);
  return status;
}

/* What a cache of experts did so far; zeros without one. */
static moecl_status read_offload(const runner *runner, moecl_offload_statistics *statistics) {
  *statistics = (moecl_offload_statistics){0};
  if (runner->together || runner->block || moecl_layer_host_bytes(runner->layer) == 0)
    return MOECL_OK;
  return moecl_layer_offload_statistics_wait(runner->layer, statistics);
}

/* Since the layer was timed: its cache was warm then. Copies are the latest forward's. */
static moecl_status describe_offload(const runner *runner, point_offload *offload) {
  moecl_offload_statistics now;
  TRY(read_offload(runner, &now));
  const moecl_offload_counts *before = &runner->warm.all;
  const double hits = (double)(now.all.hits - before->hits);
  const double misses = (double)(now.all.misses - before->misses);
  *offload = (point_offload){.places = now.places,
                             .host_bytes = (int64_t)moecl_layer_host_bytes(runner->layer),
                             .hit_rate = hits / (hits + misses),
                             .moved_bytes = (double)(now.all.bytes - before->bytes) /
                                            (double)(now.all.forwards - before->forwards),
                             .copy_ms = now.transfer_ms,
                             .copy_hidden_share =
                                 now.transfer_ms > 0 ? now.hidden_ms / now.transfer_ms : NAN};
  return MOECL_OK;
}

/* The layer, then half as often its stages: events between the kernels cost time
 * that is not the layer's. *whole: it was not interrupted before all of both. */
static moecl_status time_round(runner *runner, const experiment_point *point,
                               const point_buffers *buffers, int64_t iterations,
                               int64_t timed_of[INPUT_SETS], point_round *round, bool *whole) {
  const size_t most = (size_t)iterations, most_stages = (most + 1) / 2;
  size_t layers = 0, stages = 0;
  sample_summary host, with_events;
  if (getloadavg(&round->load_average, 1) != 1) round->load_average = NAN;
  TRY(time_forwards(runner, point, buffers, true, most, timed_of, round->time_ms, &host, &layers));
  round->host_ms = host.median;
  round->iterations = (int64_t)layers;
  TRY(read_offload(runner, &runner->warm));
  TRY(time_forwards(runner, point, buffers, false, most_stages, NULL, round->time_ms, &with_events,
                    &stages));
  *whole = layers == most && stages == most_stages;
  return MOECL_OK;
}

static moecl_status forward_seconds(runner *runner, const experiment_point *point,
                                    const point_buffers *buffers, double *seconds) {
  const double begun = seconds_now();
  TRY(forwards_enqueue(runner, point, buffers, 0, NULL));
  TRY(moecl_context_finish_wait(runner->context));
  *seconds = seconds_now() - begun;
  return MOECL_OK;
}

/* What another round costs beside the timed forwards: weights, a block's cache, and the warm-ups,
 * if there are any. A driver may build kernels in the first forward: where that seems slow, the
 * second tells. */
static moecl_status plan_rounds(runner *runner, const experiment_point *point,
                                const point_buffers *buffers, int64_t *rounds) {
  const experiment *plan = runner->experiment;
  const double warm_ups = 2 * (double)plan->warmup; /* of the layer and of its stages */
  const double weights = runner->weights_seconds + buffers->fill_seconds;
  double one = 0;
  if (plan->rounds == 0 && plan->num_points > 1 && plan->warmup > 0) {
    TRY(forward_seconds(runner, point, buffers, &one));
    if (weights + warm_ups * one > ROUND_SECONDS)
      TRY(forward_seconds(runner, point, buffers, &one));
  }
  *rounds = rounds_planned(plan, weights + warm_ups * one);
  return MOECL_OK;
}

/* The first round. */
static moecl_status measure_first(runner *runner, const experiment_point *point,
                                  point_buffers *buffers, int64_t timed_of[INPUT_SETS], bool *whole,
                                  point_result *result) {
  point_round round = {0};
  TRY(forwards_provide_buffers(runner, point, buffers));
  TRY(plan_rounds(runner, point, buffers, &result->rounds_planned));
  const int64_t share = rounds_share(runner->experiment->iterations, result->rounds_planned, 0);
  TRY(time_round(runner, point, buffers, share, timed_of, &round, whole));
  return rounds_add(result, &round) ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
}

/* What forwards have to do, summed over some of them. */
typedef struct work {
  double flops, bytes;
} work;

/* With the block's own, where the point measures one. */
static void add_work(const experiment_point *point, const moecl_routing *routing, int64_t forwards,
                     work *work) {
  const work_counts n = work_counts_of(routing);
  work->flops += (double)forwards * moe_flops(&point->layer, n.kept, point->num_tokens);
  work->bytes += (double)forwards * moe_bytes(&point->layer, n.active, point->num_tokens);
  if (point->what == WHAT_LAYER) return;
  const moecl_block_params block = experiment_block_params(point);
  work->flops += (double)forwards * block_own_flops(&block, point->num_tokens, point->context);
  work->bytes += (double)forwards * block_own_bytes(&block, point->num_tokens, point->context);
}

/* Of the forward that is just enqueued, with what several devices did in it. */
static moecl_status read_routing(runner *runner, const point_buffers *buffers,
                                 moecl_routing *routing, point_result *result) {
  if (!runner->together) {
    TRY(describe_offload(runner, &result->offload));
    return moecl_layer_read_routing_wait(runner->layer, routing);
  }
  TRY(together_collect(runner->together, buffers->output));
  TRY(together_describe(runner->together, result));
  return together_read_routing(runner->together, routing);
}

/* Reads every timed input set's routing for the work there was to do; set 0 last:
 * its routing is reported, verified and dumped. */
static moecl_status read_routings(runner *runner, const experiment_point *point,
                                  const point_buffers *buffers, const int64_t *timed_of, work *work,
                                  point_result *result) {
  moecl_status status = MOECL_OK;
  for (int set = buffers->sets - 1; status == MOECL_OK && set >= 0; set--) {
    moecl_routing routing;
    if (set > 0 && timed_of[set] == 0) continue;
    status = forwards_enqueue(runner, point, buffers, set, NULL);
    if (status == MOECL_OK) status = read_routing(runner, buffers, &routing, result);
    if (status != MOECL_OK) break;
    add_work(point, &routing, timed_of[set], work);
    if (set == 0) result->routing = routing;
    else moecl_routing_destroy(&routing);
  }
  return status;
}

/* Times are of all timed input sets together, and so is the work: its mean. */
static void rates(const experiment_point *point, const work *work, point_result *result) {
  const double seconds = result->time_ms[MOECL_STAGE_LAYER].median * 1e-3;
  const double forwards = (double)result->iterations;
  result->tokens_per_s = (double)point->num_tokens / seconds;
  result->tflops = work->flops / forwards / seconds * 1e-12;
  result->gbytes_per_s = work->bytes / forwards / seconds * 1e-9;
}

static void name_variants(const runner *runner, point_result *result) {
  for (int i = 0; i < (runner->block ? NUM_OPERATIONS : NUM_LAYER_OPERATIONS); i++) {
    const char *reason, *operation = measure_operations[i];
    const char *name = forwards_variant(runner, operation, &reason);
    result->variants[i] = strdup(name ? name : "?");
    result->variant_reasons[i] = strdup(reason ? reason : "");
  }
}

static void report_failure(point_result *result) {
  const verify_result *verify = &result->verify;
  char text[1024];
  if (verify->overflows && verify->topk_mismatches == 0 && verify->capacity_ok)
    snprintf(text, sizeof text, "%s", verify->cause);
  else
    snprintf(text, sizeof text,
             "verification failed: error %.3g (tolerance %.3g), %lld top-k mismatches, capacity "
             "%s%s%s",
             verify->error, verify->tolerance, (long long)verify->topk_mismatches,
             verify->capacity_ok       ? "right"
             : verify->topk_mismatches ? "not compared, as choices or their counts differ"
                                       : "wrong",
             verify->cause[0] ? "; " : "", verify->cause);
  result->error = strdup(text);
}

static void check_point(runner *runner, const experiment_point *point, const point_buffers *buffers,
                        point_result *result) {
  const moecl_routing_statistics *statistics = &result->routing.statistics;
  if (statistics->nonfinite_tokens > 0) {
    fail(result,
         "%lld tokens have router logits that are not finite, the first is token %lld: they were "
         "routed nowhere",
         (long long)statistics->nonfinite_tokens, (long long)statistics->first_nonfinite_token);
    return;
  }
  if (statistics->nonfinite_score_tokens > 0) {
    fail(result,
         "%lld tokens have choice scores that are not finite, the first is token %lld: they were "
         "routed nowhere; a correction bias is not finite, or takes scores beyond fp32",
         (long long)statistics->nonfinite_score_tokens,
         (long long)statistics->first_nonfinite_score_token);
    return;
  }
  result->status = POINT_UNVERIFIED_OK;
  if (!runner->experiment->verify) return;
  const verify_input input = {.context = runner->context,
                              .roundoff = forwards_roundoff(runner, false),
                              .output_roundoff = forwards_roundoff(runner, true),
                              .point = point,
                              .routing = &result->routing,
                              .hidden_states = buffers->hidden[0],
                              .output = buffers->output,
                              .context_states = buffers->context};
  const moecl_status status = verify_point(&input, &result->verify);
  if (status != MOECL_OK) {
    fail_call(runner, result, "verification could not run", status);
    return;
  }
  result->status = result->verify.ok ? POINT_OK : POINT_VERIFY_FAILED;
  if (!result->verify.ok) report_failure(result);
}

static uint64_t members_bytes(const point_parallel *parallel) {
  uint64_t bytes = 0;
  for (size_t m = 0; m < parallel->num_members; m++)
    bytes += (uint64_t)parallel->members[m].memory_bytes;
  return bytes;
}

/* Of a forward, and its weights and cache. */
static uint64_t memory_bytes(const runner *runner, const experiment_point *point,
                             const point_buffers *buffers) {
  return forwards_weight_bytes(runner) + forwards_workspace_bytes(runner, point, buffers) +
         moecl_cache_bytes(buffers->cache) + 2 * moecl_buffer_size(buffers->output);
}

/* The steps of a point; the first failure names itself. False when interrupted
 * before everything asked for was done. Once the times are there, the rest takes
 * a few seconds and is finished; only a dump may take long, and is given up. */
static bool run_steps(runner *runner, const experiment_point *point, point_buffers *buffers,
                      const char *dump_path, point_result *result) {
  int64_t timed_of[INPUT_SETS] = {0};
  bool whole = false;
  work work = {0, 0};
  moecl_status status = forwards_provide_layer(runner, point);
  if (status != MOECL_OK) {
    const char *detail = point->source ? point->source->message : NULL;
    runner->bad_input = runner->bad_input || (point->source && status == MOECL_ERROR_IO);
    if (detail) fail(result, "the layer could not be made: %s", detail);
    else fail_call(runner, result, "the layer could not be made", status);
    return true;
  }
  status = measure_first(runner, point, buffers, timed_of, &whole, result);
  name_variants(runner, result); /* kernels of theirs may have been set aside on the way */
  if (status == MOECL_OK && !whole) return false;
  if (status == MOECL_OK) status = read_routings(runner, point, buffers, timed_of, &work, result);
  if (status != MOECL_OK) {
    fail_call(runner, result, "the layer did not run", status);
    return true;
  }
  status = changed_choices(runner->context, point, buffers->hidden[0], &result->routing,
                           &result->changed_choices);
  if (status != MOECL_OK) { /* what was logged; the point was measured all the same */
    result->changed_choices = NAN;
    moecl_context_take_errors(runner->context, NULL, 0);
  }
  result->memory_bytes =
      runner->together ? members_bytes(&result->parallel) : memory_bytes(runner, point, buffers);
  rates(point, &work, result);
  check_point(runner, point, buffers, result);
  if (!dump_path) return true;
  char *error = NULL;
  const dump_input dump = {.context = runner->context,
                           .point = point,
                           .routing = &result->routing,
                           .hidden_states = buffers->hidden[0],
                           .output = buffers->output,
                           .context_states = buffers->context,
                           .interrupted = runner->interrupted};
  const bool dumped = dump_point(&dump, dump_path, &error);
  if (!dumped) fail(result, "%s", error ? error : "the dump could not be written");
  free(error);
  return dumped || !*runner->interrupted;
}

bool runner_run_point(runner *runner, size_t index, const char *dump_path, point_result *result) {
  const experiment_point *point = &runner->experiment->points[index];
  point_buffers buffers = {0};
  *result = (point_result){.index = index, .status = POINT_ERROR, .changed_choices = NAN};
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    result->time_ms[stage] = (sample_summary){NAN, NAN, NAN};
  moecl_context_take_errors(runner->context, NULL, 0); /* earlier points' */
  const bool finished = run_steps(runner, point, &buffers, dump_path, result);
  forwards_release_buffers(&buffers);
  /* A group whose forward failed may be of no use to the points that would share its layer. */
  if (runner->together && result->status == POINT_ERROR) forwards_release_layer(runner);
  return finished;
}

bool runner_repeat_point(runner *runner, size_t index, int64_t round, int64_t rounds,
                         point_round *result, char **failure) {
  const experiment_point *point = &runner->experiment->points[index];
  const int64_t share = rounds_share(runner->experiment->iterations, rounds, round);
  int64_t timed_of[INPUT_SETS] = {0};
  point_buffers buffers = {0};
  bool whole = false;
  char what[80];
  point_result failed = {0};
  *result = (point_round){0};
  *failure = NULL;
  moecl_context_take_errors(runner->context, NULL, 0); /* earlier points' */
  moecl_status status = forwards_provide_layer(runner, point);
  if (status == MOECL_OK) status = forwards_provide_buffers(runner, point, &buffers);
  if (status == MOECL_OK)
    status = time_round(runner, point, &buffers, share, timed_of, result, &whole);
  forwards_release_buffers(&buffers);
  if (status == MOECL_OK) return whole;
  snprintf(what, sizeof what, "round %lld of %lld: the layer did not run again",
           (long long)round + 1, (long long)rounds);
  fail_call(runner, &failed, what, status);
  *failure = failed.error;
  return true;
}

void runner_release(runner *runner) { forwards_release_layer(runner); }

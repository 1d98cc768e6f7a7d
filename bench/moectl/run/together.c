// SPDX-License-Identifier: MIT
#include "run/together.h"
#include "base/clock.h"
#include "base/list.h"
#include "run/processes.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- several processes ---- */

static void lead(const struct together *together, process_order_kind kind,
                 const experiment_point *point) {
  const process_order order = {.kind = kind,
                               .point = point ? point - together->runner->experiment->points : 0};
  if (processes_count() > 1) processes_lead(&order);
}

/* What members' contexts did not say, the runner's did. */
static moecl_status conclude(struct together *together, moecl_status status) {
  if (processes_count() > 1 && status != MOECL_OK && !*together->said)
    moecl_context_take_errors(together->runner->context, together->said, sizeof together->said);
  status = processes_conclude(status, together->said, sizeof together->said);
  if (processes_own() > 0) together->said[0] = '\0'; /* the leader takes it */
  return status;
}

/* ---- members ---- */

/* Item i of a list, in turns; false: there is none. */
static bool item_of(const char *list, int i, char name[DEVICE_NAME_SIZE]) {
  int count = 0;
  size_t length;
  for (const char *at = list; (at = list_next(at, &length)) != NULL; at += length)
    if (count++ == i) snprintf(name, DEVICE_NAME_SIZE, "%.*s", (int)length, at);
  return count > 0 && (i < count || item_of(list, i % count, name));
}

/* The i-th of all devices, in turns. */
static moecl_status any_device(int i, char name[DEVICE_NAME_SIZE]) {
  moecl_device_info *devices;
  size_t count;
  TRY(moecl_devices_list(&devices, &count));
  const moecl_device_info *one = count ? &devices[(size_t)i % count] : NULL;
  if (one)
    snprintf(name, DEVICE_NAME_SIZE, "%d:%d", (int)one->platform_index, (int)one->device_index);
  moecl_devices_destroy(&devices);
  return one ? MOECL_OK : MOECL_ERROR_NO_DEVICE;
}

/* Of a member that cannot be opened nothing else is left to be asked. */
static void keep_error(void *user, moecl_log_level level, const char *message) {
  struct together *together = user;
  const size_t used = strlen(together->said);
  if (level == MOECL_LOG_ERROR)
    snprintf(together->said + used, sizeof together->said - used, "%s%s", used ? " " : "", message);
}

/* "0:1", the context's device. */
static void name_own(const moecl_context *context, char name[DEVICE_NAME_SIZE]) {
  const moecl_device_info *own = moecl_context_device(context);
  snprintf(name, DEVICE_NAME_SIZE, "%d:%d", (int)own->platform_index, (int)own->device_index);
}

moecl_status together_name_device(const moecl_context *context, const experiment_point *point,
                                  int m, char name[DEVICE_NAME_SIZE]) {
  const char *devices = point->parallel.devices;
  name_own(context, name);
  if (devices && strcmp(devices, "all") == 0) return any_device(m, name);
  return devices && !item_of(devices, m, name) ? MOECL_ERROR_NO_DEVICE : MOECL_OK;
}

static moecl_status open_member(runner *runner, const experiment_point *point, int m) {
  const char *cache = moecl_context_cache_dir(runner->context);
  char name[DEVICE_NAME_SIZE];
  TRY(together_name_device(runner->context, point, m, name));
  const moecl_context_params params = {.device = name,
                                       .log = keep_error,
                                       .log_user = runner->together,
                                       .kernel_dir = moecl_context_kernel_dir(runner->context),
                                       .cache_dir = cache,
                                       .disable_cache = !cache};
  moecl_context **context = &runner->together->context[m - runner->together->begin];
  TRY(moecl_context_create(&params, context));
  runner->together->facts[m] = placement_facts(moecl_context_device(*context));
  return MOECL_OK;
}

static moecl_status open_members(runner *runner, const experiment_point *point) {
  struct together *together = runner->together;
  for (int m = 0; m < together->own; m++) TRY(open_member(runner, point, together->begin + m));
  return MOECL_OK;
}

/* The leader says where experts are. */
static moecl_status make_layer(runner *runner, const experiment_point *point) {
  struct together *together = runner->together;
  point_placement placement = {.lists = {0}};
  moecl_group_layer_params params = {.layer = point->layer,
                                     .chunks = (int32_t)point->parallel.chunks,
                                     .dispatch_format = point->parallel.dispatch_format};
  TRY(conclude(together, placement_choose(runner, point, together->facts, &placement, &params)));
  processes_share_led(&placement, sizeof placement);
  return together->own ? moecl_group_layer_create(together->group, &params, &together->layer)
                       : MOECL_OK;
}

/* A leader has not ordered anything yet; one that is led is waited for. */
static moecl_status conclude_without(void) {
  char said[64] = "no host memory";
  return processes_own() == 0
             ? MOECL_ERROR_OUT_OF_HOST_MEMORY
             : processes_conclude(MOECL_ERROR_OUT_OF_HOST_MEMORY, said, sizeof said);
}

moecl_status together_create(runner *runner, const experiment_point *point) {
  struct together *together = runner->together = calloc(1, sizeof *together);
  if (!together) return conclude_without();
  together->runner = runner;
  lead(together, ORDER_CREATE, point);
  together->members = (int)point->parallel.experts;
  together->own = processes_members(together->members, processes_own(), &together->begin);
  TRY(conclude(together, open_members(runner, point)));
  processes_share(together->facts, sizeof *together->facts, together->members);
  const moecl_group_params by = {.transport = point->parallel.transport,
                                 .mpi_comm = processes_comm_of(together->members)};
  moecl_status status = MOECL_OK;
  if (together->own)
    status = moecl_group_create(together->context, (size_t)together->own, &by, &together->group);
  TRY(conclude(together, status));
  return conclude(together, make_layer(runner, point));
}

void together_release(runner *runner) {
  struct together *together = runner->together;
  if (!together) return;
  lead(together, ORDER_RELEASE, NULL);
  together_release_buffers(together);
  moecl_group_layer_destroy(&together->layer);
  moecl_group_destroy(&together->group);
  for (int m = 0; m < together->own; m++) moecl_context_destroy(&together->context[m]);
  free(together);
  runner->together = NULL;
}

void together_take_errors(struct together *together, char *text, size_t size) {
  snprintf(text, size, "%s", together ? together->said : "");
  if (together) together->said[0] = '\0';
}

/* ---- weights: drawn, or read, as for one device, and handed on through the host ---- */

static moecl_status set_item(runner *runner, const experiment_point *point, moecl_tensor tensor,
                             int64_t item, moecl_buffer *staging, void *values) {
  const uint64_t bytes = moecl_layer_tensor_bytes(&point->layer, tensor);
  TRY(workload_draw_weights(point, tensor, item, staging));
  TRY(moecl_buffer_read_wait(staging, 0, bytes, values));
  return moecl_group_layer_set_weights(runner->together->layer, tensor, item, 1, values);
}

static void find_owned(const struct together *together, bool owned[MOECL_MAX_EXPERTS]) {
  int32_t experts[MOECL_MAX_EXPERTS];
  for (int m = 0; m < together->own; m++) {
    const size_t count = moecl_group_layer_experts(together->layer, (size_t)(together->begin + m),
                                                   experts, MOECL_MAX_EXPERTS);
    for (size_t i = 0; i < count; i++) owned[experts[i]] = true;
  }
}

/* Experts of other processes are theirs to draw. */
static moecl_status set_tensors(runner *runner, const experiment_point *point,
                                moecl_buffer *staging, void *values) {
  bool owned[MOECL_MAX_EXPERTS] = {false};
  find_owned(runner->together, owned);
  for (int tensor = 0; runner->together->own && tensor < MOECL_TENSOR_COUNT; tensor++) {
    const bool of_experts = tensor >= MOECL_GATE_UP_PROJ && tensor <= MOECL_DOWN_BIAS;
    const int64_t items = moecl_layer_tensor_items(&point->layer, (moecl_tensor)tensor);
    for (int64_t item = 0; item < items; item++)
      if (!of_experts || owned[item])
        TRY(set_item(runner, point, (moecl_tensor)tensor, item, staging, values));
  }
  return MOECL_OK;
}

moecl_status together_set_weights(runner *runner, const experiment_point *point) {
  const uint64_t bytes = workload_staging_bytes(point);
  lead(runner->together, ORDER_WEIGHTS, point);
  moecl_buffer *staging = NULL;
  void *values = malloc((size_t)bytes);
  moecl_status status = values ? moecl_buffer_create(runner->context, bytes, &staging)
                               : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) status = set_tensors(runner, point, staging, values);
  moecl_buffer_destroy(&staging);
  free(values);
  status = conclude(runner->together, status);
  runner->together->ready = status == MOECL_OK;
  return status;
}

/* ---- inputs and outputs ---- */

void together_release_buffers(struct together *together) {
  for (int m = 0; together && m < together->own; m++) {
    for (int set = 0; set < INPUT_SETS; set++) moecl_buffer_destroy(&together->hidden[set][m]);
    moecl_buffer_destroy(&together->output[m]);
    moecl_profile_destroy(&together->profile[m]);
  }
}

static uint64_t row_of(const experiment_point *point) {
  return (uint64_t)point->layer.hidden_size * moecl_dtype_size(point->layer.dtype);
}

/* The batch's tokens before a member's. */
static int64_t tokens_before(const struct together *together, const experiment_point *point,
                             int m) {
  return point->num_tokens * m / together->members;
}

static moecl_status provide_member(struct together *together, const experiment_point *point,
                                   int sets, int m) {
  const int member = together->begin + m;
  const int64_t own =
      tokens_before(together, point, member + 1) - tokens_before(together, point, member);
  const uint64_t bytes = (uint64_t)own * row_of(point);
  for (int set = 0; set < sets; set++)
    TRY(moecl_buffer_create(together->context[m], bytes, &together->hidden[set][m]));
  TRY(moecl_buffer_create(together->context[m], bytes, &together->output[m]));
  TRY(moecl_profile_create(together->context[m], &together->profile[m]));
  together->tokens[m] =
      (moecl_group_tokens){.num_tokens = own, .output = own ? together->output[m] : NULL};
  return MOECL_OK;
}

/* Each member's tokens of an input that the runner's context has all of. */
static moecl_status scatter(struct together *together, const moecl_buffer *all, int set,
                            char *values) {
  uint64_t at = together->first_byte;
  TRY(moecl_buffer_read_wait(all, 0, moecl_buffer_size(all), values));
  for (int m = 0; m < together->own; m++) {
    const uint64_t bytes = moecl_buffer_size(together->hidden[set][m]);
    TRY(moecl_buffer_write_wait(together->hidden[set][m], 0, bytes, values + at));
    at += bytes;
  }
  return MOECL_OK;
}

static moecl_status provide_members(struct together *together, const experiment_point *point,
                                    const point_buffers *buffers) {
  moecl_status status = MOECL_OK;
  for (int m = 0; status == MOECL_OK && m < together->own; m++)
    status = provide_member(together, point, buffers->sets, m);
  char *values = malloc((size_t)moecl_buffer_size(buffers->output) + 1);
  if (status == MOECL_OK && !values) status = MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int set = 0; status == MOECL_OK && set < buffers->sets; set++)
    status = scatter(together, buffers->hidden[set], set, values);
  free(values);
  return status;
}

void together_lead_buffers(struct together *together, const experiment_point *point) {
  lead(together, ORDER_BUFFERS, point);
}

/* Where a process's part of the batch begins, in bytes. */
static uint64_t begins_at(const struct together *together, const experiment_point *point,
                          int rank) {
  int first;
  processes_members(together->members, rank, &first);
  return (uint64_t)tokens_before(together, point, first) * row_of(point);
}

moecl_status together_provide_buffers(struct together *together, const experiment_point *point,
                                      const point_buffers *buffers, moecl_status status) {
  together_release_buffers(together);
  together->point = point;
  together->first_byte = begins_at(together, point, processes_own());
  if (status == MOECL_OK) status = provide_members(together, point, buffers);
  return conclude(together, status);
}

/* ---- outputs ---- */

static moecl_status read_outputs(const struct together *together, char *values) {
  if (!values) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int m = 0; m < together->own; m++) {
    const uint64_t bytes = moecl_buffer_size(together->output[m]);
    TRY(moecl_buffer_read_wait(together->output[m], 0, bytes, values));
    values += bytes;
  }
  return MOECL_OK;
}

moecl_status together_collect(struct together *together, moecl_buffer *output) {
  const experiment_point *point = together->point;
  const size_t all = (size_t)point->num_tokens * row_of(point);
  lead(together, ORDER_COLLECT, NULL);
  char *values = malloc(all + 1);
  moecl_status status =
      conclude(together, read_outputs(together, values ? values + together->first_byte : NULL));
  for (int r = 1; status == MOECL_OK && r < processes_count(); r++) {
    const uint64_t begin = begins_at(together, point, r), end = begins_at(together, point, r + 1);
    if (processes_own() == 0) processes_take(r, values + begin, end - begin);
    else if (processes_own() == r) processes_give(values + begin, end - begin);
  }
  if (status == MOECL_OK && output) status = moecl_buffer_write_wait(output, 0, all, values);
  free(values);
  return status;
}

moecl_status together_read_routing(struct together *together, moecl_routing *routing) {
  *routing = (moecl_routing){0};
  lead(together, ORDER_ROUTING, NULL);
  return conclude(together, together->own
                                ? moecl_group_layer_read_routing_wait(together->layer, routing)
                                : MOECL_OK);
}

/* ---- forwards ---- */

static moecl_status run_forward(struct together *together, const experiment_point *point, int set,
                                bool measured, bool profiled) {
  moecl_event *events[MOECL_MAX_GROUP_MEMBERS];
  for (int m = 0; m < together->own; m++) {
    together->tokens[m].hidden_states =
        together->tokens[m].num_tokens ? together->hidden[set][m] : NULL;
    together->tokens[m].profile = profiled ? together->profile[m] : NULL;
    moecl_profile_layer_only(together->profile[m], together->layer_only);
  }
  const moecl_group_forward_params params = {
      .tokens = together->tokens, .seed = point->seed, .measured = measured};
  moecl_status status = moecl_group_layer_forward(together->layer, &params, events);
  for (int m = 0; m < together->own; m++) {
    if (status == MOECL_OK) status = moecl_event_wait(events[m]);
    moecl_event_destroy(&events[m]);
  }
  return status;
}

moecl_status together_forward(struct together *together, const experiment_point *point, int set,
                              bool measured, bool profiled) {
  const process_order order = {.kind = ORDER_FORWARD,
                               .set = set,
                               .measured = measured,
                               .profiled = profiled,
                               .layer_only = together->layer_only};
  processes_lead(&order);
  return conclude(together,
                  together->own ? run_forward(together, point, set, measured, profiled) : MOECL_OK);
}

static moecl_status read_profiles(const struct together *together, double ms[RESULTS_STAGES]) {
  for (int stage = 0; stage < RESULTS_STAGES; stage++) ms[stage] = NAN;
  for (int m = 0; m < together->own; m++) {
    double own[RESULTS_STAGES];
    TRY(moecl_profile_read_wait(together->profile[m], own, RESULTS_STAGES));
    for (int stage = 0; stage < RESULTS_STAGES; stage++) ms[stage] = fmax(ms[stage], own[stage]);
  }
  return MOECL_OK;
}

/* A stage that none has is NaN. */
moecl_status together_read_profiles(struct together *together, double ms[RESULTS_STAGES]) {
  lead(together, ORDER_PROFILES, NULL);
  TRY(conclude(together, read_profiles(together, ms)));
  processes_share_most(ms, RESULTS_STAGES);
  return MOECL_OK;
}

static moecl_status time_one(runner *runner, const experiment_point *point, int set, size_t most,
                             size_t at, double *samples) {
  double ms[RESULTS_STAGES];
  const double begun = seconds_now();
  TRY(together_forward(runner->together, point, set, false, true));
  samples[(size_t)RESULTS_STAGES * most + at] = (seconds_now() - begun) * 1e3;
  TRY(together_read_profiles(runner->together, ms));
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    samples[(size_t)stage * most + at] = ms[stage];
  return MOECL_OK;
}

moecl_status together_time(runner *runner, const experiment_point *point, int sets, bool layer_only,
                           size_t most, int64_t *timed_of, sample_summary *summaries,
                           sample_summary *host, size_t *kept) {
  const size_t warmup = (size_t)runner->experiment->warmup;
  double *samples = malloc(most * (RESULTS_STAGES + 1) * sizeof *samples);
  moecl_status status = samples ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  runner->together->layer_only = layer_only;
  *kept = 0;
  for (size_t i = 0; status == MOECL_OK && i < warmup + most && !*runner->interrupted; i++) {
    const int set = (int)(i % (size_t)sets);
    if (i < warmup) {
      status = together_forward(runner->together, point, set, false, false);
      continue;
    }
    status = time_one(runner, point, set, most, *kept, samples);
    if (status == MOECL_OK) ++*kept;
    if (timed_of) timed_of[set]++;
  }
  for (int stage = 0; status == MOECL_OK && stage < RESULTS_STAGES; stage++)
    if ((stage == MOECL_STAGE_LAYER) == layer_only)
      summaries[stage] = runner_summarize(samples + (size_t)stage * most, *kept);
  if (status == MOECL_OK) *host = runner_summarize(samples + (size_t)RESULTS_STAGES * most, *kept);
  free(samples);
  return status;
}

/* ---- what members did ---- */

static void sum_up(point_parallel *parallel) {
  double transfer = 0, hidden = 0, rows = 0, most = 0;
  parallel->sent_bytes = 0;
  for (size_t m = 0; m < parallel->num_members; m++) {
    const point_member *one = &parallel->members[m];
    parallel->sent_bytes += one->bytes_sent;
    transfer += one->transfer_ms;
    hidden += one->hidden_ms;
    rows += (double)one->rows;
    most = fmax(most, (double)one->rows);
  }
  parallel->transfer_ms = transfer / (double)parallel->num_members;
  parallel->hidden_share = transfer > 0 ? hidden / transfer : NAN;
  parallel->member_imbalance = rows > 0 ? most / (rows / (double)parallel->num_members) : NAN;
}

static moecl_status read_statistics(struct together *together,
                                    moecl_group_statistics statistics[MOECL_MAX_GROUP_MEMBERS]) {
  for (int m = 0; together->own && m < together->members; m++)
    TRY(moecl_group_layer_statistics_wait(together->layer, (size_t)m, &statistics[m]));
  return MOECL_OK;
}

/* What only a member's own process knows of it. */
typedef struct member_told {
  char variant[sizeof((point_member *)0)->grouped_gemm_variant]; /* the grouped GEMM's */
  uint64_t memory;
} member_told;

/* All that its context has, which is of nothing else, but for the inputs beside the first. A
 * group's buffers grow, and are kept from point to point. */
static uint64_t memory_of(const struct together *together, int m) {
  uint64_t bytes = moecl_context_memory(together->context[m], NULL);
  for (int set = 1; set < INPUT_SETS; set++) bytes -= moecl_buffer_size(together->hidden[set][m]);
  return bytes;
}

/* Behind forwards: kernels may have been set aside on the way. */
static void tell_own(const struct together *together, member_told *told) {
  for (int m = together->begin; m < together->begin + together->own; m++) {
    const char *variant =
        moecl_group_layer_variant(together->layer, (size_t)m, "grouped_gemm", NULL);
    snprintf(told[m].variant, sizeof told[m].variant, "%s", variant ? variant : "");
    told[m].memory = memory_of(together, m - together->begin);
  }
}

static point_member describe(const moecl_group_statistics *s, const char *device,
                             const member_told *told) {
  point_member one = {.experts = s->experts,
                      .num_tokens = s->num_tokens,
                      .rows = s->rows,
                      .bytes_sent = (int64_t)s->bytes_sent,
                      .bytes_received = (int64_t)s->bytes_received,
                      .choice_bytes_sent = (int64_t)s->choice_bytes_sent,
                      .choice_bytes_received = (int64_t)s->choice_bytes_received,
                      .copied_bytes = (int64_t)s->copied_bytes,
                      .stored_bytes = (int64_t)s->stored_bytes,
                      .memory_bytes = (int64_t)told->memory,
                      .layer_ms = s->layer_ms,
                      .kernels_ms = s->kernels_ms,
                      .transfer_ms = s->transfer_ms,
                      .hidden_ms = s->hidden_ms};
  snprintf(one.device, sizeof one.device, "%s", device);
  memcpy(one.grouped_gemm_variant, told->variant, sizeof one.grouped_gemm_variant);
  return one;
}

moecl_status together_describe(struct together *together, point_result *result) {
  moecl_group_statistics statistics[MOECL_MAX_GROUP_MEMBERS] = {{0}};
  member_told told[MOECL_MAX_GROUP_MEMBERS] = {{.memory = 0}};
  point_parallel *parallel = &result->parallel;
  lead(together, ORDER_DESCRIBE, NULL);
  TRY(conclude(together, read_statistics(together, statistics)));
  tell_own(together, told);
  processes_share(told, sizeof *told, together->members);
  if (!together->own) return MOECL_OK;
  free(parallel->members);
  parallel->num_members = 0;
  parallel->members = calloc((size_t)together->members, sizeof *parallel->members);
  if (!parallel->members) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int m = 0; m < together->members; m++)
    parallel->members[m] = describe(&statistics[m], together->facts[m].device, &told[m]);
  parallel->chunks = statistics[0].chunks;
  parallel->row_bytes = (int64_t)statistics[0].row_bytes;
  parallel->output_row_bytes = (int64_t)statistics[0].output_row_bytes;
  parallel->num_members = (size_t)together->members;
  snprintf(parallel->transport, sizeof parallel->transport, "%s",
           moecl_group_transport(together->group));
  sum_up(parallel);
  return MOECL_OK;
}

// SPDX-License-Identifier: MIT
#include "run/memory.h"
#include "run/changed_choices.h"
#include "run/placement.h"
#include "run/processes.h"
#include "run/together.h"
#include <math.h>
#include <stdlib.h>

/* ---- devices ---- */

static moecl_status list_devices(memory_devices *devices) {
  if (devices->list) return MOECL_OK;
  TRY(moecl_devices_list(&devices->list, &devices->count));
  devices->context = calloc(devices->count + 1, sizeof *devices->context);
  devices->tried = calloc(devices->count + 1, sizeof *devices->tried);
  devices->limits = calloc(devices->count + 1, sizeof *devices->limits);
  if (devices->context && devices->tried && devices->limits) return MOECL_OK;
  memory_devices_release(devices);
  return MOECL_ERROR_OUT_OF_HOST_MEMORY;
}

void memory_devices_release(memory_devices *devices) {
  for (size_t i = 0; devices->context && i < devices->count; i++)
    moecl_context_destroy(&devices->context[i]);
  free(devices->context);
  free(devices->tried);
  free(devices->limits);
  moecl_devices_destroy(&devices->list);
  *devices = (memory_devices){.list = NULL};
}

/* Member m's in the list; its end: there is no such device here. */
static size_t find_device(const moecl_context *own, const experiment_point *point, int m,
                          const memory_devices *devices) {
  char name[DEVICE_NAME_SIZE];
  size_t chosen = devices->count;
  if (together_name_device(own, point, m, name) != MOECL_OK ||
      moecl_device_choose(devices->list, devices->count, name, &chosen) != MOECL_OK)
    return devices->count;
  return chosen;
}

/* Errors are told where the point runs. */
static moecl_context *context_of(moecl_context *own, size_t at, memory_devices *devices) {
  const moecl_device_info *device = &devices->list[at], *first = moecl_context_device(own);
  const char *cache = moecl_context_cache_dir(own);
  char name[DEVICE_NAME_SIZE];
  if (device->platform_index == first->platform_index &&
      device->device_index == first->device_index)
    return own;
  snprintf(name, sizeof name, "%d:%d", (int)device->platform_index, (int)device->device_index);
  const moecl_context_params params = {.device = name,
                                       .kernel_dir = moecl_context_kernel_dir(own),
                                       .cache_dir = cache,
                                       .disable_cache = !cache};
  if (!devices->tried[at] && moecl_context_create(&params, &devices->context[at]) != MOECL_OK)
    devices->context[at] = NULL;
  devices->tried[at] = true;
  return devices->context[at];
}

/* ---- a member's part ---- */

static uint64_t add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

/* Experts before member m, placed by what devices say of themselves; those that are not here, as
 * other machines', say nothing, and then all have as many. */
static int64_t experts_before(const moecl_context *own, const experiment_point *point,
                              int64_t experts, int m, const memory_devices *devices) {
  const parallel_placement by = point->parallel.placement;
  const int members = (int)point->parallel.experts;
  double sum = 0, before = 0;
  if (by != PARALLEL_BY_MEMORY && by != PARALLEL_BY_COMPUTE) return experts * m / members;
  for (int i = 0; i < members; i++) {
    const size_t at = find_device(own, point, i, devices);
    if (at == devices->count) return experts * m / members;
    const member_facts facts = placement_facts(&devices->list[at]);
    const double weight = by == PARALLEL_BY_MEMORY ? facts.memory : facts.compute;
    sum += weight;
    if (i < m) before += weight;
  }
  return (int64_t)floor(before / sum * (double)experts + 0.5);
}

/* Copies that all have come on top, some of which it may have anyway. */
static int64_t experts_of(const moecl_context *own, const experiment *plan,
                          const experiment_point *point, int m, const memory_devices *devices) {
  const int64_t all = point->layer.num_experts - point->layer.num_identity_experts;
  const int64_t copies = point->parallel.replicas, rest = all > copies ? all - copies : 0;
  int64_t experts = experts_before(own, point, rest, m + 1, devices) -
                    experts_before(own, point, rest, m, devices);
  if (point->parallel.placement == PARALLEL_FROM_FILE &&
      (size_t)point->parallel.experts == plan->placement.num_lists)
    experts = (int64_t)plan->placement.list_sizes[m];
  experts += copies;
  return experts < 1 ? 1 : experts > all ? all : experts;
}

/* A layer with these experts alone: how they were chosen makes no difference. */
static moecl_layer_params part_of(const moecl_layer_params *layer, int64_t experts) {
  moecl_layer_params part = *layer;
  part.num_experts = experts;
  if (part.top_k > experts) part.top_k = experts;
  part.num_identity_experts = part.num_expert_group = part.topk_group = 0;
  return part;
}

/* Its weights; the workspace for as many rows as its tokens have; inputs, and an output; and rows
 * to experts and back, of its tokens elsewhere and of others' tokens here. */
static moecl_status add_member(const experiment_point *point, int64_t experts, int64_t own,
                               device_memory *device) {
  const moecl_layer_params *layer = &point->layer, part = part_of(layer, experts);
  const int64_t members = point->parallel.experts, k = layer->top_k;
  const int64_t rows = (own > 0 ? own : 1) * k;
  const uint64_t row = (uint64_t)layer->hidden_size * moecl_dtype_size(layer->dtype);
  runner_memory *needed = &device->needed;
  moecl_memory memory;
  TRY(moecl_layer_memory(device->context, &part, (rows + part.top_k - 1) / part.top_k, &memory));
  uint64_t bytes = add(memory.weight_bytes, memory.workspace_bytes);
  /* The router is of all experts. */
  bytes = add(bytes, moecl_layer_tensor_bytes(layer, MOECL_ROUTER_WEIGHT) -
                         moecl_layer_tensor_bytes(&part, MOECL_ROUTER_WEIGHT));
  bytes = add(bytes, (uint64_t)own * row * (uint64_t)(runner_input_sets(point) + 1));
  if (members > 1)
    bytes = add(bytes, (uint64_t)own * row * 2 * (uint64_t)((k < members ? k : members) + k));
  needed->bytes = add(needed->bytes, bytes);
  if (memory.largest_buffer_bytes > needed->largest_buffer)
    needed->largest_buffer = memory.largest_buffer_bytes;
  device->members++;
  return MOECL_OK;
}

/* ---- a point ---- */

static device_memory *device_for(moecl_context *context, memory_limits *limits,
                                 point_devices *memory) {
  size_t i = 0;
  while (i < memory->count && memory->device[i].context != context) i++;
  if (i == memory->count)
    memory->device[memory->count++] = (device_memory){.context = context, .limits = limits};
  return &memory->device[i];
}

/* The batch's inputs and output, from which members get their parts, and what weights are drawn
 * in. */
static moecl_status add_inputs(const experiment_point *point, bool draws_again,
                               device_memory *device) {
  const uint64_t staging = workload_staging_bytes(point);
  const uint64_t hidden = (uint64_t)(point->num_tokens * point->layer.hidden_size) *
                          moecl_dtype_size(point->layer.dtype);
  uint64_t forwards;
  TRY(changed_choices_memory(device->context, point, &forwards));
  for (int i = 0; i < runner_input_sets(point) + 1; i++) forwards = add(forwards, hidden);
  if (draws_again) forwards = add(forwards, staging);
  device->needed = (runner_memory){.bytes = forwards > staging ? forwards : staging,
                                   .largest_buffer = hidden > staging ? hidden : staging};
  return MOECL_OK;
}

static moecl_status add_members(moecl_context *own, const experiment *plan,
                                const experiment_point *point, memory_devices *devices,
                                point_devices *memory) {
  const int64_t members = point->parallel.experts, tokens = point->num_tokens;
  int begin;
  const int count = processes_members((int)members, processes_own(), &begin);
  for (int m = begin; m < begin + count; m++) {
    const size_t at = find_device(own, point, m, devices);
    moecl_context *context = at < devices->count ? context_of(own, at, devices) : NULL;
    if (!context) continue;
    TRY(add_member(point, experts_of(own, plan, point, m, devices),
                   tokens * (m + 1) / members - tokens * m / members,
                   device_for(context, &devices->limits[at], memory)));
  }
  return MOECL_OK;
}

moecl_status memory_of_point(moecl_context *own, const experiment *plan, size_t index,
                             bool draws_again, memory_devices *devices, point_devices *memory) {
  const experiment_point *point = &plan->points[index];
  memory->count = 0;
  device_memory *first = device_for(own, &devices->own_limits, memory);
  if (experiment_members(point) == 0)
    return runner_memory_needed(own, point, draws_again, &first->needed);
  TRY(list_devices(devices));
  TRY(add_inputs(point, draws_again, first));
  return add_members(own, plan, point, devices, memory);
}

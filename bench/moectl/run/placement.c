// SPDX-License-Identifier: MIT
#include "run/placement.h"
#include "run/processes.h"
#include "run/router_alone.h"
#include <stdio.h>
#include <string.h>

/* ---- by what devices say of themselves ---- */

member_facts placement_facts(const moecl_device_info *device) {
  const double clock = device->clock_mhz ? (double)device->clock_mhz : 1;
  member_facts facts = {.compute = (double)device->compute_units * clock,
                        .memory = (double)device->global_memory_bytes};
  snprintf(facts.device, sizeof facts.device, "%.80s (%d:%d)", device->name,
           (int)device->platform_index, (int)device->device_index);
  const size_t used = strlen(facts.device);
  if (processes_count() > 1)
    snprintf(facts.device + used - 1, sizeof facts.device - used + 1, ", rank %d)",
             processes_own());
  return facts;
}

static void weigh(const experiment_point *point, const member_facts *members, point_placement *room,
                  moecl_group_layer_params *params) {
  const bool by_memory = point->parallel.placement == PARALLEL_BY_MEMORY;
  for (int64_t m = 0; m < point->parallel.experts; m++)
    room->weights[m] = by_memory ? members[m].memory : members[m].compute;
  params->placement = MOECL_PLACE_WEIGHTED;
  params->member_weights = room->weights;
}

/* ---- by what experts have to do ---- */

static int64_t experts_of(const experiment_point *point) {
  return point->layer.num_experts - point->layer.num_identity_experts;
}

/* What the router chooses for the inputs that the forwards will take: so places who knows what
 * comes. */
static moecl_status ask_router(runner *runner, const experiment_point *point, int64_t *loads) {
  const experiment_point alone = router_alone(point);
  const uint64_t bytes = (uint64_t)(point->num_tokens * point->layer.hidden_size) *
                         moecl_dtype_size(point->layer.dtype);
  moecl_buffer *hidden = NULL;
  moecl_status status = moecl_buffer_create(runner->context, bytes, &hidden);
  for (int set = 0; status == MOECL_OK && set < runner_input_sets(point); set++) {
    moecl_routing routing = {0};
    status = workload_draw_hidden(point, runner->recording, set, hidden);
    if (status == MOECL_OK) status = router_choices(runner->context, &alone, hidden, &routing);
    for (int64_t e = 0; status == MOECL_OK && e < experts_of(point); e++)
      loads[e] += routing.tokens_per_expert[e];
    moecl_routing_destroy(&routing);
  }
  moecl_buffer_destroy(&hidden);
  return status;
}

/* The so many most loaded, of equals the first. What all share weighs on none: its load is 0
 * then. */
static void replicate(const experiment_point *point, int64_t *loads, point_placement *room,
                      moecl_group_layer_params *params) {
  bool taken[MOECL_MAX_EXPERTS] = {false};
  for (int64_t i = 0; i < point->parallel.replicas; i++) {
    int32_t most = -1;
    for (int32_t e = 0; e < experts_of(point); e++)
      if (!taken[e] && (most < 0 || loads[e] > loads[most])) most = e;
    taken[most] = true;
    room->replicated[i] = most;
  }
  for (int64_t i = 0; i < point->parallel.replicas; i++) loads[room->replicated[i]] = 0;
  params->replicated = room->replicated;
  params->num_replicated = (size_t)point->parallel.replicas;
}

/* ---- all of it ---- */

moecl_status placement_choose(runner *runner, const experiment_point *point,
                              const member_facts *members, point_placement *room,
                              moecl_group_layer_params *params) {
  const placement_file *file = &runner->experiment->placement;
  const size_t count = (size_t)point->parallel.experts;
  int64_t loads[MOECL_MAX_EXPERTS] = {0};
  if (file->num_loads > 0) memcpy(loads, file->loads, file->num_loads * sizeof *loads);
  else if (point->parallel.replicas > 0) TRY(ask_router(runner, point, loads));
  if (point->parallel.replicas > 0) replicate(point, loads, room, params);
  params->placement = MOECL_PLACE_EVEN;
  if (point->parallel.placement == PARALLEL_BY_COMPUTE ||
      point->parallel.placement == PARALLEL_BY_MEMORY)
    weigh(point, members, room, params);
  if (point->parallel.placement != PARALLEL_FROM_FILE) return MOECL_OK;
  params->placement = MOECL_PLACE_GIVEN;
  params->lists = file->num_lists > 0 ? file->lists : room->lists;
  params->list_sizes = file->num_lists > 0 ? file->list_sizes : room->sizes;
  if (file->num_lists > 0) return MOECL_OK;
  return moecl_group_balance(loads, experts_of(point), count, room->lists, room->sizes);
}

bool placement_same(const experiment_point *a, const experiment_point *b) {
  return a->parallel.replicas == 0 ||
         (a->num_tokens == b->num_tokens && a->distribution == b->distribution &&
          a->skew_exponent == b->skew_exponent && a->skew_noise == b->skew_noise &&
          a->skew_clusters == b->skew_clusters);
}

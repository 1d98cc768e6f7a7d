// SPDX-License-Identifier: MIT
/* From a profile to what its rules look at. */
#include "report/profile_reports.h"
#include "results/measures.h"
#include <math.h>
#include <string.h>

static void add_times(const profile_part *part, profile_facts *facts) {
  facts->total_us = part->timed ? part->total_us : NAN;
  facts->gaps_us = part->timed ? part->gaps_us : NAN;
  facts->host_us = part->host_us;
  facts->kernels = part->num_kernels;
  for (int i = 0; i < MOECL_STAGE_COUNT; i++) {
    const profile_stage *stage = &part->stages[i];
    if (stage->kernels == 0) continue;
    facts->stages[i] = (stage_facts){stage->kernels, part->timed ? stage->us : NAN, stage->flops,
                                     stage->bytes, stage->matrix};
  }
}

static void add_routing(const profile_part *part, profile_facts *facts) {
  const moecl_routing *routing = &part->routing;
  if (!routing->tokens_per_expert) return;
  facts->experts = routing->num_experts - routing->num_identity_experts;
  for (int64_t e = 0; e < facts->experts; e++) {
    const int64_t rows = routing->tokens_per_expert_after_capacity[e];
    facts->rows += rows;
    facts->active_experts += rows > 0;
    if (rows > facts->hottest_rows || e == 0) {
      facts->hottest = e;
      facts->hottest_rows = rows;
    }
  }
  /* Of what is computed: after capacity. */
  if (facts->rows > 0)
    facts->imbalance = (double)facts->hottest_rows * (double)facts->experts / (double)facts->rows;
  facts->padding_waste = part->padding_waste;
}

/* The warning before the one that says that the variant is set aside: what failed. */
static const char *why_set_aside(const char *warnings, const char *variant,
                                 char why[PROFILE_WHY_SIZE]) {
  char said[64];
  snprintf(said, sizeof said, "'%s' is set aside", variant);
  const char *found = warnings ? strstr(warnings, said) : NULL;
  const char *line = found, *end;
  while (line && line > warnings && line[-1] != '\n') line--;
  if (!line || line == warnings) return NULL;
  end = --line;
  while (line > warnings && line[-1] != '\n') line--;
  snprintf(why, PROFILE_WHY_SIZE, "%.*s", (int)(end - line), line);
  return why;
}

/* The first operation that a better variant could have served. */
static void add_variants(const profile_point *point, char why[PROFILE_WHY_SIZE],
                         profile_facts *facts) {
  for (int i = 0; i < NUM_LAYER_OPERATIONS && !facts->set_aside; i++) {
    const profile_operation *operation = &point->operations[i];
    if (!operation->name || !operation->planned[0]) continue;
    const bool failed = strcmp(operation->name, operation->planned) != 0;
    const bool kept_out =
        operation->rounded[0] && strcmp(operation->rounded, operation->planned) != 0;
    if (!failed && (!kept_out || facts->kept_out)) continue;
    facts->operation = measure_operations[i];
    facts->variant = operation->name;
    facts->set_aside = failed ? operation->planned : NULL;
    facts->kept_out = failed ? NULL : operation->rounded;
    if (failed) facts->why_set_aside = why_set_aside(point->warnings, operation->planned, why);
  }
}

profile_facts profile_facts_of(const profile *all, const profile_point *point,
                               profile_part_kind kind, char why[PROFILE_WHY_SIZE]) {
  const profile_part *part = &point->parts[kind];
  const experiment_point *of = &all->experiment->points[point->index];
  const profile_memory *memory = &part->memory;
  profile_facts facts = {.peaks = all->peaks.rates,
                         .num_tokens = of->num_tokens,
                         .offloads = of->layer.expert_cache != 0,
                         .hidden_size = of->layer.hidden_size,
                         .intermediate_size = of->layer.intermediate_size,
                         .rounded_hidden = point->rounded_hidden,
                         .rounded_intermediate = point->rounded_intermediate,
                         .hidden_bytes = (double)memory->hidden,
                         .weight_bytes = (double)memory->weights,
                         .workspace_bytes = (double)memory->workspace,
                         .cache_bytes = (double)memory->cache,
                         .bf16_saves = (double)memory->bf16_saves};
  facts.fp32_weights = kind != PROFILE_ROUTER &&
                       moecl_layer_tensor_format(&of->layer, MOECL_DOWN_PROJ) == MOECL_FORMAT_F32;
  add_times(part, &facts);
  if (kind == PROFILE_ROUTER) return facts;
  facts.tile_rows = point->tile_rows;
  facts.has_capacity = of->layer.capacity_factor > 0;
  add_routing(part, &facts);
  add_variants(point, why, &facts);
  return facts;
}

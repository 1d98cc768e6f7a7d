// SPDX-License-Identifier: MIT
#include "results/measures.h"
#include <math.h>
#include <string.h>

#define AT(field) offsetof(point_result, field)
#define STATISTIC(field) AT(routing.statistics.field)

const measure measures[] = {
    {MEASURE_RUN, "iterations", MEASURE_COUNT, AT(iterations), NULL},
    {MEASURE_RATE, "tokens_per_s", MEASURE_REAL, AT(tokens_per_s), "tokens/s"},
    {MEASURE_RATE, "tflops", MEASURE_REAL, AT(tflops), "TFLOP/s"},
    {MEASURE_RATE, "gbytes_per_s", MEASURE_REAL, AT(gbytes_per_s), "GB/s"},
    {MEASURE_RATE, "memory_bytes", MEASURE_COUNT, AT(memory_bytes), NULL},
    {MEASURE_RATE, "host_ms", MEASURE_REAL, AT(host_ms), NULL},
    {MEASURE_ROUTING, "capacity", MEASURE_LIMIT, AT(routing.capacity), "capacity"},
    {MEASURE_ROUTING, "dropped_fraction", MEASURE_SHARE, STATISTIC(dropped_fraction), "dropped"},
    {MEASURE_ROUTING, "load_balancing_loss", MEASURE_REAL, STATISTIC(load_balancing_loss),
     "load balancing loss"},
    {MEASURE_ROUTING, "router_z_loss", MEASURE_REAL, STATISTIC(router_z_loss), "router z-loss"},
    {MEASURE_ROUTING, "entropy", MEASURE_REAL, STATISTIC(entropy), "entropy (nats)"},
    {MEASURE_ROUTING, "max_mean_imbalance", MEASURE_REAL, STATISTIC(max_mean_imbalance),
     "imbalance"},
    {MEASURE_ROUTING, "coefficient_of_variation", MEASURE_REAL, STATISTIC(coefficient_of_variation),
     "CV"},
    {MEASURE_ROUTING, "padding_waste", MEASURE_SHARE, STATISTIC(padding_waste), "padding waste"},
    {MEASURE_ROUTING, "identity_fraction", MEASURE_SHARE, STATISTIC(identity_fraction),
     "identities"},
    {MEASURE_ROUTING, "changed_choices", MEASURE_SHARE, AT(changed_choices), NULL, false, true},
    {MEASURE_ROUTING, "nonfinite_tokens", MEASURE_COUNT, STATISTIC(nonfinite_tokens), NULL},
    {MEASURE_ROUTING, "nonfinite_score_tokens", MEASURE_COUNT, STATISTIC(nonfinite_score_tokens),
     NULL},
    {MEASURE_ROUTING, "zero_weight_tokens", MEASURE_COUNT, STATISTIC(zero_weight_tokens), NULL},
    {MEASURE_VERIFY, "error", MEASURE_REAL, AT(verify.error), NULL},
    {MEASURE_VERIFY, "tolerance", MEASURE_REAL, AT(verify.tolerance), NULL},
    {MEASURE_VERIFY, "ok", MEASURE_FLAG, AT(verify.ok), NULL},
    {MEASURE_VERIFY, "tokens_checked", MEASURE_COUNT, AT(verify.tokens_checked), NULL},
    {MEASURE_VERIFY, "num_tokens", MEASURE_COUNT, AT(routing.num_tokens), NULL, true},
    {MEASURE_VERIFY, "experts_checked", MEASURE_COUNT, AT(verify.experts_checked), NULL},
    {MEASURE_VERIFY, "topk_mismatches", MEASURE_COUNT, AT(verify.topk_mismatches), NULL},
    {MEASURE_VERIFY, "capacity_ok", MEASURE_FLAG, AT(verify.capacity_ok), NULL},
    {MEASURE_VERIFY, "weight_error", MEASURE_REAL, AT(verify.weight_error), "weight error", false,
     true},
    {MEASURE_VERIFY, "weight_cosine", MEASURE_REAL, AT(verify.weight_cosine), "weight cosine",
     false, true},
    {MEASURE_VERIFY, "weight_bits", MEASURE_REAL, AT(verify.weight_bits), "bits a weight", false,
     true},
    {MEASURE_PARALLEL, "chunks", MEASURE_COUNT, AT(parallel.chunks), NULL, true},
    {MEASURE_PARALLEL, "sent_bytes", MEASURE_COUNT, AT(parallel.sent_bytes), "bytes sent", false,
     true},
    {MEASURE_PARALLEL, "row_bytes", MEASURE_COUNT, AT(parallel.row_bytes), NULL, false, true},
    {MEASURE_PARALLEL, "output_row_bytes", MEASURE_COUNT, AT(parallel.output_row_bytes), NULL,
     false, true},
    {MEASURE_PARALLEL, "transfer_ms", MEASURE_REAL, AT(parallel.transfer_ms), "transfer (ms)",
     false, true},
    {MEASURE_PARALLEL, "hidden_share", MEASURE_SHARE, AT(parallel.hidden_share), "hidden", false,
     true},
    {MEASURE_PARALLEL, "member_imbalance", MEASURE_REAL, AT(parallel.member_imbalance),
     "imbalance of devices", false, true},
    {MEASURE_OFFLOAD, "places", MEASURE_COUNT, AT(offload.places), "places", false, true},
    {MEASURE_OFFLOAD, "host_bytes", MEASURE_COUNT, AT(offload.host_bytes), NULL, false, true},
    {MEASURE_OFFLOAD, "hit_rate", MEASURE_SHARE, AT(offload.hit_rate), "hits", false, true},
    {MEASURE_OFFLOAD, "moved_bytes", MEASURE_REAL, AT(offload.moved_bytes), "bytes moved", false,
     true},
    {MEASURE_OFFLOAD, "copy_ms", MEASURE_REAL, AT(offload.copy_ms), "copies (ms)", false, true},
    {MEASURE_OFFLOAD, "copy_hidden_share", MEASURE_SHARE, AT(offload.copy_hidden_share),
     "copies hidden", false, true},
    {MEASURE_RUN, NULL, MEASURE_COUNT, 0, NULL}};

const measure *measure_find(const char *name) {
  const measure *found = measures;
  while (found->name && strcmp(found->name, name) != 0) found++;
  return found->name ? found : NULL;
}

const char *measure_prefix(measure_group group) { return group == MEASURE_VERIFY ? "verify_" : ""; }

bool measure_group_present(measure_group group, const point_result *point) {
  if (group == MEASURE_VERIFY) return point->verify.ran;
  if (group == MEASURE_PARALLEL) return point->parallel.num_members > 0;
  if (group == MEASURE_OFFLOAD) return point->offload.places > 0;
  return group != MEASURE_ROUTING ||
         (point->routing.tokens_per_expert && point->routing.tokens_per_expert_after_capacity);
}

measure_value measure_get(const measure *measure, const point_result *point) {
  const char *at = (const char *)point + measure->offset;
  measure_value value = {.present = measure_group_present(measure->group, point)};
  switch (measure->kind) {
  case MEASURE_COUNT:
  case MEASURE_LIMIT:
    memcpy(&value.whole, at, sizeof value.whole);
    value.real = (double)value.whole;
    value.present = value.present && (measure->kind == MEASURE_COUNT || value.whole >= 0);
    break;
  case MEASURE_REAL:
  case MEASURE_SHARE:
    memcpy(&value.real, at, sizeof value.real);
    /* Without a time there is no rate, whatever the field holds. */
    value.present =
        value.present && isfinite(value.real) &&
        (measure->group != MEASURE_RATE || isfinite(point->time_ms[MOECL_STAGE_LAYER].median));
    break;
  case MEASURE_FLAG:
    value.whole = *(const bool *)at;
    value.real = (double)value.whole;
    break;
  }
  if (!value.present) value.real = NAN;
  return value;
}

void measure_set(const measure *measure, measure_value value, point_result *point) {
  char *at = (char *)point + measure->offset;
  switch (measure->kind) {
  case MEASURE_LIMIT:
    if (!value.present) value.whole = -1;
    memcpy(at, &value.whole, sizeof value.whole);
    break;
  case MEASURE_COUNT: memcpy(at, &value.whole, sizeof value.whole); break;
  case MEASURE_REAL:
  case MEASURE_SHARE:
    if (!value.present) value.real = NAN;
    memcpy(at, &value.real, sizeof value.real);
    break;
  case MEASURE_FLAG: *(bool *)at = value.whole != 0; break;
  }
}

const char *const measure_operations[NUM_OPERATIONS] = {
    "router", "permute", "grouped_gemm", "combine", "norm", "projections", "rotary", "attention"};

const char *measure_arithmetic_operation(moecl_stage stage) {
  switch (stage) {
  case MOECL_STAGE_GATE_UP:
  case MOECL_STAGE_DOWN:
  case MOECL_STAGE_SHARED:
  case MOECL_STAGE_QKV_PROJ:
  case MOECL_STAGE_O_PROJ:
  case MOECL_STAGE_LAYER: return "grouped_gemm";
  case MOECL_STAGE_ATTENTION: return "attention";
  default: return NULL;
  }
}

const moecl_stage results_parts[RESULTS_PARTS] = {
    MOECL_STAGE_ATTENTION_NORM, MOECL_STAGE_QKV_PROJ, MOECL_STAGE_ROTARY,
    MOECL_STAGE_ATTENTION,      MOECL_STAGE_O_PROJ,   MOECL_STAGE_FEED_FORWARD_NORM,
    MOECL_STAGE_ROUTER,         MOECL_STAGE_PERMUTE,  MOECL_STAGE_GATE_UP,
    MOECL_STAGE_DOWN,           MOECL_STAGE_SHARED,   MOECL_STAGE_COMBINE,
    MOECL_STAGE_RESIDUAL};

const char *const measure_summaries[NUM_SUMMARIES] = {"median", "min", "p90"};

double *measure_summary(sample_summary *times, size_t index) {
  return index == 0 ? &times->median : index == 1 ? &times->min : &times->p90;
}

// SPDX-License-Identifier: MIT
/* The rules of moectl profile, with the thresholds that they go by. */
#include "base/wrap.h"
#include "report/profile_reports.h"
#include "report/report_parts.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* A stage that reaches this share of a peak is bound by it: kernels that are as good as can be
 * reach half of a peak or more. */
static const double bound_share = 0.25;
/* Launches bind what takes less than so many times as long as they do. */
static const double launch_share = 0.25;
/* The busiest expert has so many times the mean, and no fewer rows than that: of a few tokens some
 * expert always has. */
static const double hot_imbalance = 2;
static const int64_t hot_rows = 16;
/* Fewer rows than this for each expert that has any: a weight that is read serves so few. */
static const double tiny_rows = 16;
/* Of computed rows that are none. */
static const double padding_share = 0.25;
/* What speaks of the experts' stages is said where they take this share of the time. */
static const double experts_share = 0.25;
/* Likewise of one stage that no limit binds. */
static const double far_share = 0.5;
/* Of device memory that is taken. */
static const double large_part = 0.25;

const char *const profile_limit_names[LIMIT_COUNT] = {"-",        "arithmetic", "memory",
                                                      "launches", "imbalance",  "none of these"};

static bool is_experts(moecl_stage stage) {
  return stage == MOECL_STAGE_GATE_UP || stage == MOECL_STAGE_DOWN;
}

static bool has_hot_expert(const profile_facts *facts) {
  return facts->experts > 1 && facts->imbalance >= hot_imbalance && facts->hottest_rows >= hot_rows;
}

/* ---- one stage ---- */

static double share(double amount, double us, double peak) {
  return us > 0 && peak > 0 ? amount / (us * 1e-6) / peak : NAN;
}

double profile_flops_peak(const profile_facts *facts, moecl_stage stage) {
  const bool matrix = facts->stages[stage].matrix && facts->peaks.flops_matrix > 0;
  return matrix ? facts->peaks.flops_matrix : facts->peaks.flops_f32;
}

double profile_flops_share(const profile_facts *facts, moecl_stage stage) {
  const stage_facts *one = &facts->stages[stage];
  return share(one->flops, one->us, profile_flops_peak(facts, stage));
}

double profile_bytes_share(const profile_facts *facts, moecl_stage stage) {
  const stage_facts *one = &facts->stages[stage];
  return share(one->bytes, one->us, facts->peaks.read_bytes);
}

double profile_least_us(const profile_facts *facts, moecl_stage stage) {
  const stage_facts *one = &facts->stages[stage];
  if (!(facts->peaks.flops_f32 > 0)) return NAN;
  return 1e6 *
         fmax(one->flops / profile_flops_peak(facts, stage), one->bytes / facts->peaks.read_bytes);
}

profile_limit profile_limit_of(const profile_facts *facts, moecl_stage stage) {
  const stage_facts *one = &facts->stages[stage];
  const double flops = profile_flops_share(facts, stage), bytes = profile_bytes_share(facts, stage);
  const double launches = (double)one->kernels * facts->peaks.launch_seconds * 1e6;
  if (one->kernels == 0 || isnan(flops) || isnan(bytes)) return LIMIT_UNKNOWN;
  if (fmax(flops, bytes) >= bound_share) return flops >= bytes ? LIMIT_ARITHMETIC : LIMIT_MEMORY;
  if (launches >= launch_share * one->us) return LIMIT_LAUNCHES;
  return is_experts(stage) && has_hot_expert(facts) ? LIMIT_IMBALANCE : LIMIT_NONE;
}

/* ---- the bottleneck ---- */

static moecl_stage longest_stage(const profile_facts *facts) {
  int longest = 0;
  for (int stage = 1; stage < MOECL_STAGE_COUNT; stage++)
    if (facts->stages[stage].us > facts->stages[longest].us) longest = stage;
  return (moecl_stage)longest;
}

static void say_limit(const profile_facts *facts, moecl_stage stage, FILE *file) {
  const double flops = 100 * profile_flops_share(facts, stage);
  const double bytes = 100 * profile_bytes_share(facts, stage);
  const char *units =
      profile_flops_peak(facts, stage) > facts->peaks.flops_f32 ? "matrix units" : "fp32";
  switch (profile_limit_of(facts, stage)) {
  case LIMIT_ARITHMETIC:
    fprintf(file, "bound by arithmetic: %.0f%% of the measured peak of %s", flops, units);
    if (flops > 100) fputs(": that was measured on a busy device", file);
    break;
  case LIMIT_MEMORY:
    fprintf(file, "bound by memory: %.0f%% of the measured rate", bytes);
    if (bytes > 100) fputs(": caches", file);
    break;
  case LIMIT_LAUNCHES:
    fprintf(file, "bound by launches: %zu kernels of %.3g us each to launch",
            facts->stages[stage].kernels, facts->peaks.launch_seconds * 1e6);
    break;
  case LIMIT_IMBALANCE:
    fprintf(file, "bound by imbalance: the busiest expert has %.3g times the mean",
            facts->imbalance);
    break;
  case LIMIT_NONE:
    fprintf(file, "bound by neither peak: %.1f%% of the peak of %s, %.1f%% of memory's rate", flops,
            units, bytes);
    break;
  default: fputs("not held against the device's peaks, which are not known", file);
  }
}

void profile_bottleneck(const profile_facts *facts, FILE *file) {
  char whole[PROFILE_TEXT_SIZE], part[PROFILE_TEXT_SIZE];
  if (!(facts->total_us > 0)) {
    fputs("The driver gives no credible event times, so nothing can be said of the time.", file);
    return;
  }
  const moecl_stage stage = longest_stage(facts);
  const double us = facts->stages[stage].us;
  profile_time_text(facts->total_us, whole);
  if (facts->gaps_us > us) {
    fprintf(file, "Gaps between %zu kernels take %.0f%% of %s (%s), more than any stage.",
            facts->kernels, 100 * facts->gaps_us / facts->total_us, whole,
            profile_time_text(facts->gaps_us, part));
    return;
  }
  fprintf(file, "%s takes %.0f%% of %s (%s), ", moecl_stage_name(stage), 100 * us / facts->total_us,
          whole, profile_time_text(us, part));
  say_limit(facts, stage, file);
  fputc('.', file);
}

/* ---- what to try ---- */

/* A rule: the share of the time that it is about, 0 where it does not apply, and its line. */
typedef struct rule {
  double (*weight)(const profile_facts *facts);
  void (*say)(const profile_facts *facts, FILE *file);
} rule;

static double experts_time(const profile_facts *facts) {
  if (!(facts->total_us > 0)) return 0;
  return (facts->stages[MOECL_STAGE_GATE_UP].us + facts->stages[MOECL_STAGE_DOWN].us) /
         facts->total_us;
}

/* Hot expert. */
static double hot_weight(const profile_facts *facts) {
  return has_hot_expert(facts) && experts_time(facts) >= experts_share ? experts_time(facts) : 0;
}
static void hot_say(const profile_facts *facts, FILE *file) {
  fprintf(file,
          "**Hot expert:** expert %" PRId64 " has %" PRId64 " rows, %.3g times the mean of "
          "%" PRId64 " experts. A %s`capacity_factor` bounds its rows, and drops %s; evening "
          "loads out without that is a matter of the router's training.",
          facts->hottest, facts->hottest_rows, facts->imbalance, facts->experts,
          facts->has_capacity ? "smaller " : "", facts->has_capacity ? "more" : "the rest");
}

/* Tiny groups. */
static double rows_of_active(const profile_facts *facts) {
  return facts->active_experts > 0 ? (double)facts->rows / (double)facts->active_experts : 0;
}
static double tiny_weight(const profile_facts *facts) {
  const bool tiny = facts->active_experts > 0 && rows_of_active(facts) < tiny_rows;
  return tiny && experts_time(facts) >= experts_share ? experts_time(facts) : 0;
}
static void tiny_say(const profile_facts *facts, FILE *file) {
  fprintf(file,
          "**Tiny groups:** %.3g rows for each of the %" PRId64 " experts that have any, below "
          "%.0f: reading weights costs more than multiplying by them. Batch more tokens in a "
          "forward%s.",
          rows_of_active(facts), facts->active_experts, tiny_rows,
          facts->fp32_weights ? ", or keep the weights in `layer.weight_format: bf16`" : "");
}

/* Padding waste. */
static double padding_weight(const profile_facts *facts) {
  const bool wasted = facts->tile_rows > 0 && facts->padding_waste >= padding_share;
  const double weight = facts->padding_waste * experts_time(facts);
  return wasted && experts_time(facts) >= experts_share ? weight : 0;
}
static void padding_say(const profile_facts *facts, FILE *file) {
  fprintf(file,
          "**Padding waste:** %.0f%% of the rows that the experts' tiles of %" PRId64
          " compute are none, as each expert's last tile is computed whole. More tokens in a "
          "forward fill the tiles; a `grouped_gemm_variant` with smaller ones may be faster here.",
          100 * facts->padding_waste, facts->tile_rows);
}

/* Gaps of an offloading layer. */
static double wait_weight(const profile_facts *facts) {
  const double weight = facts->gaps_us / facts->total_us;
  return facts->offloads && facts->total_us > 0 && weight >= launch_share ? weight : 0;
}
static void wait_say(const profile_facts *facts, FILE *file) {
  char total[PROFILE_TEXT_SIZE], gaps[PROFILE_TEXT_SIZE];
  fprintf(
      file,
      "**Waits:** gaps between kernels are %s of %s: the host waits for the router's choice, "
      "and kernels for experts that are brought. A larger `parallel.cache` has fewer of them to "
      "bring.",
      profile_time_text(facts->gaps_us, gaps), profile_time_text(facts->total_us, total));
}

/* Launch-bound: of gaps, of launches, or of a host that does not keep up; an offloading layer's
 * waits. */
static double launch_weight(const profile_facts *facts) {
  if (!(facts->total_us > 0) || facts->offloads) return 0;
  const double launches = (double)facts->kernels * facts->peaks.launch_seconds * 1e6;
  const double most = fmax(fmax(facts->gaps_us, launches), facts->host_us - facts->total_us);
  const double weight = fmin(most / facts->total_us, 1);
  return weight >= launch_share ? weight : 0;
}
static void launch_say(const profile_facts *facts, FILE *file) {
  char total[PROFILE_TEXT_SIZE], gaps[PROFILE_TEXT_SIZE], host[PROFILE_TEXT_SIZE];
  fprintf(file,
          "**Launch-bound:** %zu kernels in %s, with gaps of %s, a launch of %.3g us each at best, "
          "and %s of the host's to enqueue them. Batch more tokens in a forward; or have several "
          "forwards in flight.",
          facts->kernels, profile_time_text(facts->total_us, total),
          profile_time_text(facts->gaps_us, gaps), facts->peaks.launch_seconds * 1e6,
          profile_time_text(facts->host_us, host));
}

/* Transfer-bound: were inputs and outputs the host's. */
static double transfer_us(const profile_facts *facts) {
  const moecl_peaks *peaks = &facts->peaks;
  if (!(peaks->to_device_bytes > 0 && peaks->from_device_bytes > 0)) return 0;
  return 1e6 * facts->hidden_bytes * (1 / peaks->to_device_bytes + 1 / peaks->from_device_bytes);
}
static double transfer_weight(const profile_facts *facts) {
  const double us = transfer_us(facts);
  return facts->total_us > 0 && us >= facts->total_us ? us / (us + facts->total_us) : 0;
}
static void transfer_say(const profile_facts *facts, FILE *file) {
  char transfer[PROFILE_TEXT_SIZE], total[PROFILE_TEXT_SIZE];
  fprintf(file,
          "**Transfer-bound:** if hidden states come from the host and go back to it, that takes "
          "%s at the measured rates, and the forward %s. Keep them on the device between layers.",
          profile_time_text(transfer_us(facts), transfer),
          profile_time_text(facts->total_us, total));
}

/* A better variant was set aside. */
static double set_aside_weight(const profile_facts *facts) {
  return facts->set_aside ? 1 : 0; /* it is a fault, whatever it costs */
}
static void set_aside_say(const profile_facts *facts, FILE *file) {
  fprintf(file,
          "**Set aside:** the %s variant `%s` is the best for this device and failed on it, "
          "so `%s` serves",
          facts->operation, facts->set_aside, facts->variant);
  if (facts->why_set_aside) {
    fputs(": ", file);
    report_text(file, facts->why_set_aside);
  }
  fputs(". `moectl run --verbose` has the build log; another driver may do better.", file);
}

/* Sizes keep a tuned variant out. */
static double kept_out_weight(const profile_facts *facts) {
  if (!facts->kept_out) return 0;
  return facts->total_us > 0 ? fmax(experts_time(facts), launch_share) : launch_share;
}
static void kept_out_say(const profile_facts *facts, FILE *file) {
  fprintf(file,
          "**Sizes:** the %s variant `%s` is tuned for this device and does not take hidden_size "
          "%" PRId64 " and intermediate_size %" PRId64 ", so `%s` serves. It takes %" PRId64
          " and %" PRId64 ": pad the weights with zeros.",
          facts->operation, facts->kept_out, facts->hidden_size, facts->intermediate_size,
          facts->variant, facts->rounded_hidden, facts->rounded_intermediate);
}

/* Far from both peaks, and none of the limits binds. */
static double far_weight(const profile_facts *facts) {
  const moecl_stage stage = longest_stage(facts);
  const double weight = facts->stages[stage].us / facts->total_us;
  return profile_limit_of(facts, stage) == LIMIT_NONE && weight >= far_share ? weight / 2 : 0;
}
static void far_say(const profile_facts *facts, FILE *file) {
  const moecl_stage stage = longest_stage(facts);
  char took[PROFILE_TEXT_SIZE], least[PROFILE_TEXT_SIZE];
  fprintf(file,
          "**Far from the peaks:** %s takes %s, where they allow %s. If nothing else kept the "
          "device busy, another variant may be faster (`moectl devices` lists them), or larger "
          "sizes may fill the device.",
          moecl_stage_name(stage), profile_time_text(facts->stages[stage].us, took),
          profile_time_text(profile_least_us(facts, stage), least));
}

static const rule rules[] = {{hot_weight, hot_say},
                             {tiny_weight, tiny_say},
                             {padding_weight, padding_say},
                             {launch_weight, launch_say},
                             {wait_weight, wait_say},
                             {transfer_weight, transfer_say},
                             {set_aside_weight, set_aside_say},
                             {kept_out_weight, kept_out_say},
                             {far_weight, far_say}};
enum { RULES = sizeof rules / sizeof rules[0] };

/* The heaviest that was not said; of equal ones the first. */
static int heaviest(const double weights[RULES]) {
  int best = -1;
  for (int i = 0; i < RULES; i++)
    if (weights[i] > 0 && (best < 0 || weights[i] > weights[best])) best = i;
  return best;
}

size_t profile_advice(const profile_facts *facts, FILE *file) {
  double weights[RULES];
  size_t said = 0;
  for (int i = 0; i < RULES; i++) weights[i] = rules[i].weight(facts);
  for (int i; (i = heaviest(weights)) >= 0; said++) {
    fputs("- ", file);
    rules[i].say(facts, file);
    fputc('\n', file);
    weights[i] = 0;
  }
  return said;
}

/* ---- memory ---- */

size_t profile_memory_advice(const profile_facts *facts, FILE *file) {
  const double all =
      facts->weight_bytes + facts->workspace_bytes + facts->cache_bytes + 2 * facts->hidden_bytes;
  char text[32];
  size_t said = 0;
  /* Half of what the experts' weights take. */
  if (facts->fp32_weights && facts->bf16_saves >= large_part / 2 * all && ++said)
    fprintf(file,
            "- **Memory:** the experts' weights are %.0f%% of it and fp32: "
            "`layer.weight_format: bf16` saves about %s.\n",
            200 * facts->bf16_saves / all, bytes_text((uint64_t)facts->bf16_saves, text));
  if (facts->workspace_bytes >= large_part * all && facts->num_tokens > 1 && ++said)
    fprintf(file,
            "- **Memory:** the workspace is %.0f%% of it and grows with the tokens: two forwards "
            "of half as many "
            "save about %s.\n",
            100 * facts->workspace_bytes / all,
            bytes_text((uint64_t)(facts->workspace_bytes / 2), text));
  if (facts->cache_bytes >= large_part * all && ++said)
    fprintf(file,
            "- **Memory:** the key/value cache is %.0f%% of it: a shorter `workload.context` or "
            "fewer `block.attention.num_kv_heads` shrink it.\n",
            100 * facts->cache_bytes / all);
  return said;
}

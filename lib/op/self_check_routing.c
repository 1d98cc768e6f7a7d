// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "moecl/reference.h"
#include "op/combine.h"
#include "op/permute.h"
#include "op/router.h"
#include "op/self_check.h"
#include "op/self_check_data.h"
#include "op/shared.h"
#include <math.h>
#include <string.h>

enum { MOST_BUFFERS = 13 };

static void release_buffers(moecl_buffer **buffers, size_t count) {
  for (size_t i = 0; i < count; i++) moecl_buffer_destroy(&buffers[i]);
}

/* ---- router ---- */

enum {
  ROUTER_TOKENS = 9,
  ROUTER_EXPERTS = 70, /* more in groups of equal size */
  ROUTER_MOST_EXPERTS = 96,
  ROUTER_TOP_K = 7,
  ROUTER_NAN = 3,
  ROUTER_SEED = 5
};

/* The rule on a small problem. */
static moecl_layer_params small_router(const moecl_layer_params *params) {
  moecl_layer_params small = *params;
  small.num_experts = ROUTER_EXPERTS;
  small.top_k = ROUTER_TOP_K;
  if (params->num_expert_group > 0) {
    const int64_t groups = params->num_expert_group;
    const int64_t members =
        groups > ROUTER_EXPERTS / 3 ? 3 : (ROUTER_EXPERTS + groups - 1) / groups;
    small.num_experts = groups * members;
    if (params->topk_group * members < ROUTER_TOP_K) small.top_k = params->topk_group * members;
  }
  return small;
}

/* Few different values, so many ties; one token is not finite. */
static void draw_logits(const moecl_layer_params *small, float *logits, float *bias) {
  uint32_t state = 1;
  for (int i = 0; i < ROUTER_TOKENS * (int)small->num_experts; i++)
    logits[i] = (float)check_value(&state);
  for (int e = 0; e < (int)small->num_experts; e++) bias[e] = (float)check_value(&state);
  logits[ROUTER_NAN * small->num_experts + 5] = NAN;
}

/* Does the choice hang on numbers that the device rounds, beside the logits? */
static bool is_rounded(const moecl_layer_params *params) {
  return params->score_correction_bias || params->num_expert_group > 0 ||
         params->scoring == MOECL_SCORING_SPARSEMIXER || params->second_choice != MOECL_SECOND_ALL;
}

/* Choices of one token. By logit they are exact, ties and order too; where they
 * hang on rounding, nothing can be said of near ties, and not of the order. */
static moecl_status compare_token(moecl_context *context, const kernel_variant *variant,
                                  const moecl_layer_params *params, int token, const double *logits,
                                  const double *bias, const int32_t *ids, const float *weights) {
  double want[ROUTER_TOP_K];
  int32_t want_ids[ROUTER_TOP_K];
  const int top_k = (int)params->top_k;
  const double gap =
      moecl_reference_topk(params, logits, params->score_correction_bias ? bias : NULL, ROUTER_SEED,
                           token, want_ids, want, NULL);
  const double least = moecl_reference_weight_floor(params);
  const bool rounded = is_rounded(params);
  if (rounded && gap <= 1e-5) return MOECL_OK;
  for (int k = 0; k < top_k; k++) {
    int at = rounded ? 0 : k;
    while (rounded && at < top_k - 1 && ids[at] != want_ids[k]) at++;
    if (ids[at] != want_ids[k])
      return check_wrong(context, "router", variant, "topk_ids", token * top_k + k, ids[k],
                         want_ids[k]);
    if (!(fabs(weights[at] - want[k]) <= 1e-5 * want[k] + least))
      return check_wrong(context, "router", variant, "topk_weights", token * top_k + k, weights[at],
                         want[k]);
  }
  return MOECL_OK;
}

static moecl_status check_router(moecl_context *context, const kernel_variant *variant,
                                 const moecl_layer_params *params, ocl_kernel *topk,
                                 moecl_buffer **b) {
  const moecl_layer_params small = small_router(params);
  const size_t experts = (size_t)small.num_experts, all = ROUTER_TOKENS * (size_t)small.top_k;
  float logits[ROUTER_TOKENS * ROUTER_MOST_EXPERTS], bias[ROUTER_MOST_EXPERTS];
  float weights[ROUTER_TOKENS * ROUTER_TOP_K];
  int32_t ids[ROUTER_TOKENS * ROUTER_TOP_K];
  double exact[ROUTER_MOST_EXPERTS], exact_bias[ROUTER_MOST_EXPERTS];
  ocl_chain chain = {.context = context};
  draw_logits(&small, logits, bias);
  MOECL_TRY(check_upload_words(context, logits, ROUTER_TOKENS * experts, &b[0]));
  MOECL_TRY(moecl_buffer_create(context, all * 4, &b[1]));
  MOECL_TRY(moecl_buffer_create(context, all * 4, &b[2]));
  MOECL_TRY(moecl_buffer_create(context, ROUTER_TOKENS * experts * 4, &b[3]));
  MOECL_TRY(check_upload_words(context, bias, experts, &b[4]));
  const op_router_io io = {.num_tokens = ROUTER_TOKENS,
                           .seed = ROUTER_SEED,
                           .logits = b[0],
                           .topk_ids = b[1],
                           .topk_weights = b[2],
                           .block_counts = b[3],
                           .correction_bias = b[4]};
  MOECL_TRY(op_router_enqueue_topk(topk, variant, &small, &chain, &io));
  MOECL_TRY(moecl_buffer_read_wait(b[1], 0, all * 4, ids));
  MOECL_TRY(moecl_buffer_read_wait(b[2], 0, all * 4, weights));
  moecl_to_double(MOECL_F32, bias, experts, exact_bias);
  for (int t = 0; t < ROUTER_TOKENS; t++) {
    moecl_to_double(MOECL_F32, logits + (size_t)t * experts, experts, exact);
    MOECL_TRY(compare_token(context, variant, &small, t, exact, exact_bias, ids + t * small.top_k,
                            weights + t * small.top_k));
  }
  return MOECL_OK;
}

moecl_status op_router_self_check(moecl_context *context, const kernel_variant *variant,
                                  const moecl_layer_params *params) {
  ocl_kernel *topk = NULL;
  moecl_buffer *buffers[MOST_BUFFERS] = {0};
  moecl_status status = op_router_topk_kernel(context, variant, params, &topk);
  if (status == MOECL_OK && !ocl_kernel_is_checked(topk)) {
    status = check_router(context, variant, params, topk, buffers);
    if (status == MOECL_OK) check_passed("router", variant, topk);
  }
  release_buffers(buffers, MOST_BUFFERS);
  ocl_kernel_destroy(&topk);
  return status;
}

/* ---- permute ---- */

/* More than two blocks of assignments; expert EMPTY is never chosen. With a capacity the
 * last IDENTITIES are identity experts, of which the first goes beyond it. */
enum { TOKENS = 301, EXPERTS = 5, TOP_K = 2, ALL = TOKENS * TOP_K, EMPTY = 3, TILE_M = 48 };
enum { IDENTITIES = 3 };

typedef struct permuted {
  int32_t tokens_per_expert[EXPERTS], expert_offsets[EXPERTS + 1], tile_offsets[EXPERTS + 1];
  int32_t slot_token[ALL], assignment_slot[ALL];
} permuted;

/* Two different experts a token, each of them some token's first and another's
 * second choice, unevenly; some tokens are routed nowhere. Weights with ties. */
static void draw_assignments(int32_t *ids, float *weights, float *logits) {
  static const int32_t pairs[][TOP_K] = {{0, 1}, {1, 0}, {0, 2}, {4, 0}, {2, 4}};
  uint32_t state = 1;
  for (int t = 0; t < TOKENS; t++) {
    const int pair = (int)(8 * fabs(check_value(&state))) % 5;
    for (int k = 0; k < TOP_K; k++) {
      ids[t * TOP_K + k] = t % 7 == 3 ? -1 : pairs[pair][k];
      weights[t * TOP_K + k] = (float)fabs(check_value(&state));
    }
    for (int e = 0; e < EXPERTS; e++) logits[t * EXPERTS + e] = (float)(8 * check_value(&state));
  }
}

/* Each expert's list, one after another, by the assignments' order numbers. */
static moecl_status expect_permuted(const moecl_layer_params *params, const int32_t *ids,
                                    const float *weights, const float *priority, permuted *want) {
  uint8_t kept[ALL];
  const bool by_choice =
      params->capacity_factor > 0 && params->drop_policy != MOECL_DROP_PROBABILITY;
  int32_t slot = 0;
  MOECL_TRY(moecl_reference_capacity(params, TOKENS, ids, weights, priority, kept));
  memset(want, 0, sizeof *want);
  for (int i = 0; i < ALL; i++) want->assignment_slot[i] = -1;
  for (int e = 0; e < EXPERTS; e++) {
    for (int p = 0; p < ALL; p++) {
      const int i = by_choice ? p % TOKENS * TOP_K + p / TOKENS : p;
      want->tokens_per_expert[e] += ids[i] == e;
      if (ids[i] != e || !kept[i]) continue;
      want->slot_token[slot] = i / TOP_K;
      want->assignment_slot[i] = slot++;
    }
    const int32_t rows = slot - want->expert_offsets[e];
    want->expert_offsets[e + 1] = slot;
    want->tile_offsets[e + 1] = want->tile_offsets[e] + (rows + TILE_M - 1) / TILE_M;
  }
  return MOECL_OK;
}

static moecl_status same_words(moecl_context *context, const kernel_variant *variant,
                               const char *what, const moecl_buffer *buffer, const int32_t *want,
                               int32_t count) {
  int32_t got[ALL];
  MOECL_TRY(moecl_buffer_read_wait(buffer, 0, (uint64_t)count * sizeof *got, got));
  for (int32_t i = 0; i < count; i++)
    if (got[i] != want[i])
      return check_wrong(context, "permute", variant, what, i, got[i], want[i]);
  return MOECL_OK;
}

static moecl_status compare_permuted(moecl_context *context, const kernel_variant *variant,
                                     const op_permute_io *io, const permuted *want) {
  const struct {
    const char *what;
    const moecl_buffer *got;
    const int32_t *want;
    int32_t count;
  } all[] = {{"tokens_per_expert", io->tokens_per_expert, want->tokens_per_expert, EXPERTS},
             {"expert_offsets", io->expert_offsets, want->expert_offsets, EXPERTS + 1},
             {"tile_offsets", io->tile_offsets, want->tile_offsets, EXPERTS + 1},
             {"assignment_slot", io->assignment_slot, want->assignment_slot, ALL},
             {"slot_token", io->slot_token, want->slot_token, want->expert_offsets[EXPERTS]}};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    MOECL_TRY(same_words(context, variant, all[i].what, all[i].got, all[i].want, all[i].count));
  return MOECL_OK;
}

/* The device's priorities, as near the reference's as fp32 makes them: equal ones
 * there may differ here. */
static moecl_status check_priorities(moecl_context *context, const kernel_variant *variant,
                                     const float *logits, const moecl_buffer *buffer,
                                     float *priority) {
  MOECL_TRY(moecl_buffer_read_wait(buffer, 0, TOKENS * sizeof *priority, priority));
  for (int t = 0; t < TOKENS; t++) {
    double wide[EXPERTS];
    moecl_to_double(MOECL_F32, logits + t * EXPERTS, EXPERTS, wide);
    const double want = moecl_reference_priority(wide, EXPERTS);
    if (!(fabs(priority[t] - want) <= 1e-4 * want))
      return check_wrong(context, "permute", variant, "token_priority", t, priority[t], want);
  }
  return MOECL_OK;
}

/* What was kept, renormalized where the layer does that. */
static moecl_status check_weights(op_permute *permute, const kernel_variant *variant,
                                  const op_permute_io *io, const float *weights,
                                  const permuted *want) {
  float got[ALL];
  if (!permute->kept_weights) return MOECL_OK;
  ocl_chain chain = {.context = permute->context};
  MOECL_TRY(op_permute_enqueue_weights(permute, &chain, io));
  MOECL_TRY(moecl_buffer_read_wait(io->kept_weights, 0, sizeof got, got));
  for (int t = 0; t < TOKENS; t++) {
    uint8_t kept[TOP_K];
    double right[TOP_K];
    for (int k = 0; k < TOP_K; k++) kept[k] = want->assignment_slot[t * TOP_K + k] >= 0;
    moecl_reference_kept_weights(&permute->params, weights + t * TOP_K, kept, right);
    for (int k = 0; k < TOP_K; k++)
      if (!(fabs(got[t * TOP_K + k] - right[k]) <= 1e-4 * right[k]))
        return check_wrong(permute->context, "permute", variant, "kept_weights", t * TOP_K + k,
                           got[t * TOP_K + k], right[k]);
  }
  return MOECL_OK;
}

static moecl_status check_permute(op_permute *permute, const kernel_variant *variant,
                                  moecl_buffer **b) {
  static const uint64_t words[] = {EXPERTS, EXPERTS + 1, EXPERTS + 1, EXPERTS + 1, ALL,
                                   ALL,     ALL,         TOKENS,      ALL};
  moecl_context *context = permute->context;
  int32_t ids[ALL];
  float weights[ALL], logits[TOKENS * EXPERTS], priority[TOKENS] = {0};
  permuted want;
  draw_assignments(ids, weights, logits);
  MOECL_TRY(check_upload_words(context, ids, ALL, &b[0]));
  MOECL_TRY(check_upload_words(context, weights, ALL, &b[1]));
  MOECL_TRY(check_upload_words(context, logits, TOKENS * EXPERTS, &b[12]));
  MOECL_TRY(
      moecl_buffer_create(context, op_permute_most_blocks(TOKENS, TOP_K) * EXPERTS * 4, &b[2]));
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    MOECL_TRY(moecl_buffer_create(context, words[i] * 4, &b[3 + i]));
  const op_permute_io io = {.num_tokens = TOKENS,
                            .logits = b[12],
                            .topk_ids = b[0],
                            .topk_weights = b[1],
                            .block_counts = b[2],
                            .tokens_per_expert = b[3],
                            .expert_offsets = b[4],
                            .tile_offsets = b[5],
                            .all_offsets = b[6],
                            .slot_token = b[7],
                            .assignment_slot = b[8],
                            .order = b[9],
                            .token_priority = b[10],
                            .kept_weights = b[11],
                            .tile_m = TILE_M};
  ocl_chain chain = {.context = context};
  MOECL_TRY(op_permute_enqueue(permute, &chain, &io));
  if (permute->prioritize) MOECL_TRY(check_priorities(context, variant, logits, b[10], priority));
  MOECL_TRY(expect_permuted(&permute->params, ids, weights, priority, &want));
  MOECL_TRY(compare_permuted(context, variant, &io, &want));
  return check_weights(permute, variant, &io, weights, &want);
}

moecl_status op_permute_self_check(moecl_context *context, const kernel_variant *variant,
                                   const moecl_layer_params *params) {
  const moecl_layer_params small = {
      .num_experts = EXPERTS,
      .num_identity_experts = params->capacity_factor > 0 ? IDENTITIES : 0,
      .top_k = TOP_K,
      .capacity_factor = params->capacity_factor > 0 ? 0.7 : 0,
      .drop_policy = params->drop_policy,
      .renormalize_after_capacity = params->renormalize_after_capacity,
      .routed_scaling_factor = params->routed_scaling_factor};
  op_permute permute;
  moecl_buffer *buffers[MOST_BUFFERS] = {0};
  moecl_status status = op_permute_create(context, variant, &small, &permute);
  /* Programs of their own: either may have passed beside another one. */
  const bool checked = status == MOECL_OK && ocl_kernel_is_checked(permute.scatter) &&
                       (!permute.kept_weights || ocl_kernel_is_checked(permute.kept_weights));
  if (status == MOECL_OK && !checked) {
    status = check_permute(&permute, variant, buffers);
    if (status == MOECL_OK) check_passed("permute", variant, permute.scatter);
    if (status == MOECL_OK && permute.kept_weights)
      check_passed("permute", variant, permute.kept_weights);
  }
  release_buffers(buffers, MOST_BUFFERS);
  op_permute_release(&permute);
  return status;
}

/* ---- combine ---- */

/* More columns than a work-group makes, and an odd number of them where the
 * variant takes it. */
enum { OUT_TOKENS = 3, MOST_WIDTH = 1032, CHOICES = 3, SLOTS = OUT_TOKENS * CHOICES };
enum { FIRST_IDENTITY = 2, IDENTITY_SLOT = 2 };

/* Slots not in the order of the choices; the last token is dropped, and a choice
 * of the first one. With identity experts, of which there is one behind FIRST_IDENTITY
 * others, the slots from IDENTITY_SLOT on have no rows. Weights and values are multiples of 1/8, so
 * the sums are exact but for the last rounding. */
static const int32_t combine_slots[SLOTS] = {4, -1, 0, 2, 5, 1, -1, -1, -1};
static const float combine_weights[SLOTS] = {0.5f, 9, 0.25f, 0.125f, 0.375f, 0.5f, 9, 9, 9};

static const int32_t combine_offsets[] = {0, 1, IDENTITY_SLOT, 6};
static const float combine_gates[OUT_TOKENS] = {0.5f, 0.25f, 0.75f};

/* The shared expert's output are the first rows of `input` in reverse, hidden states the
 * last rows. */
static double expect_combined(const moecl_layer_params *small, const double *input, int token,
                              int column) {
  const int width = (int)small->hidden_size;
  double sum = 0;
  for (int i = token * CHOICES; i < (token + 1) * CHOICES; i++) {
    const bool identity = small->num_identity_experts > 0 && combine_slots[i] >= IDENTITY_SLOT;
    const int row = identity ? SLOTS - OUT_TOKENS + token : combine_slots[i];
    if (combine_slots[i] >= 0)
      sum +=
          (small->weight_on_input ? 1.0 : (double)combine_weights[i]) * input[row * width + column];
  }
  if (small->shared_intermediate_size > 0)
    sum += (op_shared_is_weighted(small) ? (double)combine_gates[token] : 1.0) *
           input[(OUT_TOKENS - 1 - token) * width + column];
  return sum;
}

static moecl_status check_combine(moecl_context *context, const kernel_variant *variant,
                                  const moecl_layer_params *small, op_combine *combine,
                                  moecl_dtype from, moecl_buffer **b) {
  double input[SLOTS * MOST_WIDTH], shared[OUT_TOKENS * MOST_WIDTH];
  double *output = shared;            /* read when that has been given away */
  float raw[OUT_TOKENS * MOST_WIDTH]; /* holds any storage type */
  const int width = (int)small->hidden_size;
  const moecl_dtype to = small->dtype;
  const uint64_t bytes = OUT_TOKENS * (uint64_t)width * moecl_dtype_size(to);
  uint32_t state = 1;
  for (int i = 0; i < SLOTS * width; i++) input[i] = check_value(&state);
  MOECL_TRY(check_upload(context, from, input, SLOTS * (size_t)width, &b[0]));
  MOECL_TRY(check_upload_words(context, combine_slots, SLOTS, &b[1]));
  MOECL_TRY(check_upload_words(context, combine_weights, SLOTS, &b[2]));
  MOECL_TRY(moecl_buffer_create(context, bytes, &b[3]));
  for (int t = 0; t < OUT_TOKENS; t++)
    memcpy(shared + t * width, input + (OUT_TOKENS - 1 - t) * width, (size_t)width * sizeof *input);
  MOECL_TRY(check_upload(context, from, shared, OUT_TOKENS * (size_t)width, &b[4]));
  MOECL_TRY(check_upload_words(context, combine_gates, OUT_TOKENS, &b[5]));
  MOECL_TRY(check_upload(context, to, input + (SLOTS - OUT_TOKENS) * width,
                         OUT_TOKENS * (size_t)width, &b[6]));
  MOECL_TRY(check_upload_words(context, combine_offsets, FIRST_IDENTITY + 2, &b[7]));
  ocl_chain chain = {.context = context};
  const op_combine_io io = {.num_tokens = OUT_TOKENS,
                            .expert_output = b[0],
                            .assignment_slot = b[1],
                            .topk_weights = b[2],
                            .shared = b[4],
                            .shared_gate = b[5],
                            .hidden_states = b[6],
                            .expert_offsets = b[7],
                            .output = b[3]};
  MOECL_TRY(op_combine_enqueue(combine, &chain, &io));
  MOECL_TRY(moecl_buffer_read_wait(b[3], 0, bytes, raw));
  moecl_to_double(to, raw, OUT_TOKENS * (size_t)width, output);
  for (int i = 0; i < OUT_TOKENS * width; i++) {
    const double want = expect_combined(small, input, i / width, i % width);
    if (!(fabs(output[i] - want) <= 1e-2 * fabs(want)))
      return check_wrong(context, "combine", variant, "output", i, output[i], want);
  }
  return MOECL_OK;
}

moecl_status op_combine_self_check(moecl_context *context, const kernel_variant *variant,
                                   const moecl_layer_params *params, bool input_f32) {
  const moecl_layer_params small = {.hidden_size =
                                        variant->flags & KERNEL_EIGHTS ? MOST_WIDTH : 301,
                                    .num_experts = FIRST_IDENTITY + 1,
                                    .num_identity_experts = params->num_identity_experts > 0,
                                    .top_k = CHOICES,
                                    .dtype = params->dtype,
                                    .shared_intermediate_size = params->shared_intermediate_size,
                                    .shared_gate = params->shared_gate,
                                    .shared_scaling_factor = params->shared_scaling_factor,
                                    .weight_on_input = params->weight_on_input};
  op_combine combine;
  moecl_buffer *buffers[MOST_BUFFERS] = {0};
  moecl_status status = op_combine_create(context, variant, &small, input_f32, &combine);
  if (status == MOECL_OK && !ocl_kernel_is_checked(combine.combine)) {
    status = check_combine(context, variant, &small, &combine,
                           input_f32 ? MOECL_F32 : params->dtype, buffers);
    if (status == MOECL_OK) check_passed("combine", variant, combine.combine);
  }
  release_buffers(buffers, MOST_BUFFERS);
  op_combine_release(&combine);
  return status;
}

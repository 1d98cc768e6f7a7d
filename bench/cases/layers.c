// SPDX-License-Identifier: MIT
#include "layers.h"
#include "cases.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sizes are small: PoCL builds a program for every combination of activation,
 * bias and data type, and the reference is slow. */
#define SHAPE(h, i, e, k) .hidden_size = h, .intermediate_size = i, .num_experts = e, .top_k = k
#define BIASES .router_bias = true, .gate_up_bias = true, .down_bias = true
#define DEEPSEEK_V3                                                                                \
  .scoring = MOECL_SCORING_SIGMOID, .score_correction_bias = true, .num_expert_group = 4,          \
  .topk_group = 2, .group_score = MOECL_GROUP_TOP2_SUM, .renormalize = true,                       \
  .routed_scaling_factor = 2.5f

const moe_case moe_cases[] = {
    {"plain", {SHAPE(64, 96, 8, 2), .renormalize = true}, 100, CASE_NORMAL},
    {"odd", {SHAPE(67, 93, 13, 5)}, 257, CASE_NORMAL},
    {"no tokens", {SHAPE(64, 96, 8, 2), .renormalize = true}, 0, CASE_NORMAL},
    {"one token", {SHAPE(64, 96, 8, 2), .renormalize = true}, 1, CASE_NORMAL},
    {"three tokens", {SHAPE(67, 93, 13, 5)}, 3, CASE_NORMAL},
    {"one expert", {SHAPE(48, 33, 1, 1), .renormalize = true}, 70, CASE_NORMAL},
    {"one of everything", {SHAPE(1, 1, 1, 1)}, 1, CASE_NORMAL},
    {"narrow", {SHAPE(3, 2, 5, 2)}, 41, CASE_NORMAL},
    {"all experts", {SHAPE(40, 24, 6, 6)}, 50, CASE_NORMAL},
    {"all 64 experts", {SHAPE(32, 16, 64, 64), .renormalize = true}, 9, CASE_NORMAL},
    {"1024 experts", {SHAPE(32, 16, 1024, 64)}, 20, CASE_NORMAL},
    {"1024 experts, top 1", {SHAPE(33, 17, 1024, 1), .renormalize = true}, 130, CASE_SKEWED},
    {"deep", {SHAPE(1100, 20, 4, 2)}, 37, CASE_NORMAL}, /* past one block of K */
    {"wide", {SHAPE(20, 1100, 4, 2)}, 37, CASE_NORMAL},
    /* Multiples of 8, with tails in every tile. */
    {"eights", {SHAPE(264, 200, 8, 2), .renormalize = true}, 700, CASE_SKEWED},
    {"eights, biases", {SHAPE(136, 72, 24, 3), BIASES}, 1100, CASE_HOT},
    {"eights, four tokens", {SHAPE(264, 200, 16, 5), BIASES}, 4, CASE_NORMAL},
    {"eights, 33 tokens", {SHAPE(264, 200, 16, 5)}, 33, CASE_NORMAL},
    {"hot expert", {SHAPE(64, 96, 8, 1)}, 301, CASE_HOT},
    {"hot expert and others", {SHAPE(64, 96, 8, 3)}, 131, CASE_HOT},
    {"empty experts", {SHAPE(64, 96, 16, 4), .renormalize = true}, 90, CASE_EMPTY},
    {"skewed", {SHAPE(64, 48, 16, 2)}, 200, CASE_SKEWED},
    {"tied experts", {SHAPE(64, 48, 10, 3), .renormalize = true}, 65, CASE_TIED},
    {"geglu", {SHAPE(64, 50, 8, 2), .activation = MOECL_GEGLU, BIASES}, 90, CASE_NORMAL},
    {"relu", {SHAPE(67, 93, 8, 2), .activation = MOECL_RELU, BIASES}, 90, CASE_NORMAL},
    {"gelu", {SHAPE(64, 50, 8, 2), .activation = MOECL_GELU}, 90, CASE_NORMAL},
    {"geglu_tanh", {SHAPE(64, 56, 8, 2), .activation = MOECL_GEGLU_TANH, BIASES}, 90, CASE_NORMAL},
    {"gelu_tanh", {SHAPE(67, 93, 8, 2), .activation = MOECL_GELU_TANH}, 90, CASE_NORMAL},
    {"relu2", {SHAPE(64, 56, 8, 2), .activation = MOECL_RELU2, BIASES}, 90, CASE_NORMAL},
    /* Cut off on both sides. */
    {"clamped",
     {SHAPE(64, 56, 8, 2), .activation = MOECL_SWIGLU_CLAMPED, .swiglu_limit = 0.75f, BIASES},
     90,
     CASE_NORMAL},
    {"limited",
     {SHAPE(64, 56, 8, 2), .activation = MOECL_SWIGLU_LIMITED, .swiglu_limit = 0.75f, BIASES},
     90,
     CASE_NORMAL},
    {"limited SiLU, another limit for the shared expert",
     {SHAPE(67, 33, 8, 2), .activation = MOECL_SWIGLU_LIMITED_SILU, .swiglu_limit = 0.25f,
      .shared_intermediate_size = 71, .shared_swiglu_limit = 0.5f, .shared_scaling_factor = 0.3f},
     90,
     CASE_NORMAL},
    {"eights, limited, no limit for the shared expert, three tokens",
     {SHAPE(136, 72, 8, 2), .activation = MOECL_SWIGLU_LIMITED, .swiglu_limit = 0.5f,
      .shared_intermediate_size = 72, .shared_swiglu_limit = FLT_MAX, .shared_scaling_factor = 0.5f,
      .routed_scaling_factor = 0.5f},
     3,
     CASE_NORMAL},
    {"eights, shared expert with a gate and a factor",
     {SHAPE(136, 72, 8, 2), .activation = MOECL_SWIGLU_LIMITED_SILU, .swiglu_limit = 0.5f,
      .shared_intermediate_size = 40, .shared_gate = true, .shared_scaling_factor = 3},
     300,
     CASE_SKEWED},
    {"shared expert", {SHAPE(67, 33, 8, 2), .shared_intermediate_size = 71}, 90, CASE_NORMAL},
    {"shared expert, gate",
     {SHAPE(64, 40, 8, 2), .shared_intermediate_size = 88, .shared_gate = true, BIASES,
      .capacity_factor = 0.5},
     133,
     CASE_SKEWED},
    {"eights, shared expert",
     {SHAPE(264, 104, 8, 2), .shared_intermediate_size = 200, .shared_gate = true},
     700,
     CASE_NORMAL},
    {"eights, shared expert, three tokens",
     {SHAPE(136, 72, 8, 2), .shared_intermediate_size = 72},
     3,
     CASE_NORMAL},
    {"eights, shared expert with a gate, four tokens",
     {SHAPE(264, 104, 8, 3), BIASES, .shared_intermediate_size = 200, .shared_gate = true},
     4,
     CASE_NORMAL},
    {"eights, shared expert, capacity, two tokens",
     {SHAPE(136, 72, 8, 2), .shared_intermediate_size = 40, .capacity_factor = 0.5,
      .activation = MOECL_RELU2},
     2,
     CASE_NORMAL},
    {"eights, one expert", {SHAPE(264, 72, 1, 1)}, 300, CASE_NORMAL},
    {"weights on inputs", {SHAPE(67, 33, 8, 3), .weight_on_input = true, BIASES}, 90, CASE_NORMAL},
    {"eights, weights on inputs",
     {SHAPE(136, 72, 8, 1), .weight_on_input = true, .scoring = MOECL_SCORING_SIGMOID,
      .shared_intermediate_size = 48, .capacity_factor = 1.0},
     130,
     CASE_SKEWED},
    {"silu", {SHAPE(67, 93, 8, 2), .activation = MOECL_SILU}, 90, CASE_NORMAL},
    {"biases, odd", {SHAPE(67, 93, 13, 5), .renormalize = true, BIASES}, 119, CASE_SKEWED},
    {"capacity by position",
     {SHAPE(64, 48, 8, 3), .capacity_factor = 1.0, .drop_policy = MOECL_DROP_POSITION},
     257,
     CASE_SKEWED},
    {"capacity by probability",
     {SHAPE(64, 48, 8, 3), .capacity_factor = 1.0, .drop_policy = MOECL_DROP_PROBABILITY},
     257,
     CASE_SKEWED},
    {"capacity by position, ties",
     {SHAPE(64, 48, 8, 2), .capacity_factor = 1.25, .drop_policy = MOECL_DROP_POSITION},
     300,
     CASE_IDENTICAL},
    {"capacity by probability, ties",
     {SHAPE(64, 48, 8, 2), .capacity_factor = 1.25, .drop_policy = MOECL_DROP_PROBABILITY},
     300,
     CASE_IDENTICAL},
    {"capacity, hot expert",
     {SHAPE(64, 48, 8, 1), .capacity_factor = 0.5, .drop_policy = MOECL_DROP_PROBABILITY,
      .renormalize = true}, /* every weight is 1 */
     200,
     CASE_HOT},
    {"capacity by priority",
     {SHAPE(64, 48, 8, 3), .capacity_factor = 0.8, .drop_policy = MOECL_DROP_PRIORITIZED},
     257,
     CASE_SKEWED},
    {"capacity by priority, ties, renormalized after",
     {SHAPE(64, 48, 8, 2), .capacity_factor = 1.25, .drop_policy = MOECL_DROP_PRIORITIZED,
      .renormalize_after_capacity = true},
     300,
     CASE_IDENTICAL},
    {"nllb-moe",
     {SHAPE(64, 48, 8, 2), .capacity_factor = 0.7, .renormalize_after_capacity = true,
      .routed_scaling_factor = 0.8f, .activation = MOECL_RELU, BIASES},
     257,
     CASE_SKEWED},
    {"renormalized after capacity, three tokens",
     {SHAPE(136, 72, 8, 3), .capacity_factor = 0.5, .renormalize_after_capacity = true,
      .drop_policy = MOECL_DROP_PROBABILITY, .scoring = MOECL_SCORING_SIGMOID},
     3,
     CASE_NORMAL},
    {"renormalized after no capacity, weights on inputs",
     {SHAPE(136, 72, 8, 2), .renormalize_after_capacity = true, .weight_on_input = true},
     4,
     CASE_NORMAL},
    {"min_capacity",
     {SHAPE(64, 48, 16, 2), .capacity_factor = 0.01, .min_capacity = 3,
      .drop_policy = MOECL_DROP_POSITION},
     100,
     CASE_NORMAL},
    {"ample capacity",
     {SHAPE(64, 48, 8, 2), .capacity_factor = 1e30, .drop_policy = MOECL_DROP_PROBABILITY},
     64,
     CASE_NORMAL},
    {"deepseek-v3", {SHAPE(64, 48, 16, 4), DEEPSEEK_V3}, 90, CASE_SKEWED},
    {"deepseek-v3, three tokens", {SHAPE(64, 48, 16, 4), DEEPSEEK_V3}, 3, CASE_NORMAL},
    {"deepseek-v3, no tokens", {SHAPE(64, 48, 16, 4), DEEPSEEK_V3}, 0, CASE_NORMAL},
    {"deepseek-v3, eights", {SHAPE(136, 72, 24, 6), DEEPSEEK_V3, BIASES}, 1100, CASE_NORMAL},
    {"sigmoid, top 1", {SHAPE(64, 48, 8, 1), .scoring = MOECL_SCORING_SIGMOID}, 70, CASE_NORMAL},
    {"sparsemixer",
     {SHAPE(64, 48, 16, 2), .scoring = MOECL_SCORING_SPARSEMIXER, .sparsemixer_jitter = 0.2f},
     70,
     CASE_NORMAL},
    {"random second choice, capacity",
     {SHAPE(64, 48, 8, 2), .second_choice = MOECL_SECOND_RANDOM, .renormalize = true,
      .capacity_factor = 1.0},
     130,
     CASE_SKEWED},
    {"random second choice, four tokens", /* so few have kernels of their own */
     {SHAPE(264, 200, 16, 5), .second_choice = MOECL_SECOND_RANDOM},
     4,
     CASE_NORMAL},
    {"sampled second choice",
     {SHAPE(64, 48, 8, 2), .second_choice = MOECL_SECOND_SAMPLED, .renormalize = true},
     70,
     CASE_NORMAL},
    {"noisy top-k",
     {SHAPE(67, 48, 8, 2), .router_noise = true, .score_after_topk = true, .router_bias = true},
     80,
     CASE_NORMAL},
    {"noisy top-k, jitter, three tokens",
     {SHAPE(64, 48, 8, 2), .router_noise = true, .jitter = 0.1f},
     3,
     CASE_NORMAL},
    /* LongCat-Flash's rule; each token's choices are identities, others or both. */
    {"identity experts",
     {SHAPE(67, 48, 12, 3), .num_identity_experts = 5, .score_correction_bias = true,
      .routed_scaling_factor = 6, BIASES},
     257,
     CASE_SKEWED},
    {"eights, identity experts, shared expert with a gate",
     {SHAPE(136, 72, 8, 2), .num_identity_experts = 3, .shared_intermediate_size = 40,
      .shared_gate = true, .renormalize = true},
     700,
     CASE_NORMAL},
    {"eights, identity experts, four tokens", /* no kernels for few */
     {SHAPE(264, 200, 16, 5), .num_identity_experts = 8, .renormalize = true},
     4,
     CASE_NORMAL},
    {"all experts, one no identity",
     {SHAPE(64, 48, 8, 8), .num_identity_experts = 7, .scoring = MOECL_SCORING_SIGMOID},
     90,
     CASE_NORMAL},
    {"identity experts, capacity by position",
     {SHAPE(64, 48, 8, 3), .num_identity_experts = 4, .capacity_factor = 0.6},
     257,
     CASE_HOT},
    {"identity experts, capacity by probability, renormalized after",
     {SHAPE(64, 48, 8, 3), .num_identity_experts = 3, .capacity_factor = 0.6,
      .drop_policy = MOECL_DROP_PROBABILITY, .renormalize_after_capacity = true},
     257,
     CASE_SKEWED},
    {"eights, identity experts, capacity by priority, jitter",
     {SHAPE(136, 72, 8, 2), .num_identity_experts = 6, .capacity_factor = 0.7, .jitter = 0.1f,
      .drop_policy = MOECL_DROP_PRIORITIZED},
     300,
     CASE_IDENTICAL},
    /* Experts pick tokens (Zhou et al. 2022): two a token on average. */
    {"expert choice",
     {SHAPE(64, 48, 6, 6), .capacity_factor = 2.0 / 6, .drop_policy = MOECL_DROP_PROBABILITY},
     75,
     CASE_SKEWED},
    {"jitter", {SHAPE(67, 48, 8, 2), .jitter = 0.1f, .renormalize = true}, 80, CASE_NORMAL},
    {"jitter and capacity",
     {SHAPE(64, 48, 8, 2), .jitter = 0.01f, .capacity_factor = 1.0, BIASES},
     80,
     CASE_SKEWED},
};
const size_t moe_case_count = sizeof moe_cases / sizeof moe_cases[0];

const moe_case *case_find(const char *name) {
  for (size_t i = 0; i < moe_case_count; i++)
    if (strcmp(moe_cases[i].name, name) == 0) return &moe_cases[i];
  return NULL;
}

uint64_t case_seed(void) {
  const char *text = getenv("MOECL_TEST_SEED");
  return text && *text ? strtoull(text, NULL, 0) : 20260711;
}

size_t case_hidden_bytes(const case_data *data) {
  return (size_t)(data->source->num_tokens * data->layer.hidden_size) *
         moecl_dtype_size(data->layer.dtype);
}

/* ---- tensors ---- */

/* Standard deviations that keep logits and outputs around 1. */
static float scale_of(const moecl_layer_params *layer, moecl_tensor tensor) {
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT:
  case MOECL_ROUTER_NOISE_WEIGHT:
  case MOECL_GATE_UP_PROJ:
  case MOECL_SHARED_GATE_UP_PROJ:
  case MOECL_SHARED_GATE: return 1.0f / sqrtf((float)layer->hidden_size);
  case MOECL_DOWN_PROJ: return 1.0f / sqrtf((float)layer->intermediate_size);
  case MOECL_SHARED_DOWN_PROJ: return 1.0f / sqrtf((float)layer->shared_intermediate_size);
  default: return 0.5f;
  }
}

static void *draw(const case_data *data, moecl_dtype dtype, uint64_t stream, float scale,
                  size_t count) {
  void *values = malloc((count + 1) * sizeof(float));
  const moecl_random_params params = {.dtype = dtype,
                                      .distribution = MOECL_NORMAL,
                                      .scale = scale,
                                      .seed = data->seed,
                                      .stream = stream};
  if (values && moecl_random_host(values, count, &params) == MOECL_OK) return values;
  free(values);
  return NULL;
}

static double *to_values(moecl_dtype dtype, const void *tensor, size_t count) {
  double *values = malloc((count + 1) * sizeof *values);
  if (values) moecl_to_double(dtype, tensor, count, values);
  return values;
}

/* Hidden states of a few clusters, of which the first has half of the tokens. */
static void fill_skewed(case_data *data) {
  const int64_t width = data->layer.hidden_size;
  double *hidden = data->hidden_values;
  for (int64_t t = 4; t < data->source->num_tokens; t++) {
    const int64_t cluster = t % 2 ? 0 : t % 8 / 2;
    for (int64_t h = 0; h < width; h++)
      hidden[t * width + h] = hidden[cluster * width + h] + 0.3 * hidden[t * width + h];
  }
}

static void fill(case_data *data) {
  const int64_t tokens = data->source->num_tokens, width = data->layer.hidden_size;
  const int64_t experts = data->layer.num_experts;
  double *hidden = data->hidden_values, *router = data->values[MOECL_ROUTER_WEIGHT];
  switch (data->source->fill) {
  case CASE_NORMAL: break;
  case CASE_SKEWED: fill_skewed(data); break;
  case CASE_HOT:
  case CASE_EMPTY:
    for (int64_t t = 0; t < tokens; t++) hidden[t * width] = 2.0;
    for (int64_t e = 0; e < experts; e++) {
      const bool hot = data->source->fill == CASE_HOT;
      router[e * width] = hot ? (e == experts / 2 ? 5.0 : 0.0) : e % 2 ? -8.0 : 0.0;
    }
    break;
  case CASE_IDENTICAL:
    for (int64_t i = width; i < tokens * width; i++) hidden[i] = hidden[i - width];
    break;
  case CASE_TIED:
    for (int64_t e = 1; e < experts; e += 2)
      memcpy(router + e * width, router + (e - 1) * width, (size_t)width * sizeof *router);
    break;
  }
}

/* The doubles back to storage and forth, so that both are the same numbers. */
static void store(moecl_dtype dtype, double *values, void *tensor, size_t count) {
  moecl_from_double(dtype, values, count, tensor);
  moecl_to_double(dtype, tensor, count, values);
}

/* The same of a format that is no data type's, an item at a time. */
static bool store_items(case_data *data, moecl_tensor tensor) {
  const moecl_layer_params *layer = &data->layer;
  const size_t items = (size_t)moecl_layer_tensor_items(layer, tensor);
  const size_t size = (size_t)moecl_layer_tensor_size(layer, tensor);
  const size_t bytes = (size_t)moecl_layer_tensor_bytes(layer, tensor);
  free(data->tensor[tensor]);
  char *stored = data->tensor[tensor] = malloc(items * bytes + 1);
  for (size_t i = 0; stored && i < items; i++) {
    double *values = data->values[tensor] + i * size;
    moecl_layer_tensor_from_double(layer, tensor, values, stored + i * bytes);
    moecl_layer_tensor_to_double(layer, tensor, stored + i * bytes, values);
  }
  return stored != NULL;
}

/* Formats that are no data type's are made of fp32 numbers. */
static bool make_tensor(case_data *data, moecl_tensor tensor, size_t count) {
  const moecl_dtype dtype = moecl_layer_tensor_dtype(&data->layer, tensor);
  const moecl_dtype drawn = dtype == MOECL_DTYPE_COUNT ? MOECL_F32 : dtype;
  void *values = draw(data, drawn, (uint64_t)tensor + 1, scale_of(&data->layer, tensor), count);
  data->tensor[tensor] = values;
  data->values[tensor] = values ? to_values(drawn, values, count) : NULL;
  if (!data->values[tensor]) return false;
  if (dtype != MOECL_DTYPE_COUNT) return true;
  return store_items(data, tensor);
}

bool case_make(const moe_case *source, moecl_dtype dtype, uint64_t seed, case_data *data) {
  *data = (case_data){.source = source, .layer = source->layer, .seed = seed};
  data->layer.dtype = dtype;
  const size_t hidden = (size_t)(source->num_tokens * source->layer.hidden_size);
  data->hidden = draw(data, dtype, 0, 1.0f, hidden);
  data->hidden_values = data->hidden ? to_values(dtype, data->hidden, hidden) : NULL;
  bool ok = data->hidden_values != NULL;
  for (int i = 0; ok && i < MOECL_TENSOR_COUNT; i++) {
    const moecl_tensor tensor = (moecl_tensor)i;
    const size_t count = (size_t)(moecl_layer_tensor_items(&data->layer, tensor) *
                                  moecl_layer_tensor_size(&data->layer, tensor));
    if (count == 0) continue;
    ok = make_tensor(data, tensor, count);
  }
  if (!ok) {
    case_release(data);
    return false;
  }
  fill(data);
  store(dtype, data->hidden_values, data->hidden, hidden);
  store(dtype, data->values[MOECL_ROUTER_WEIGHT], data->tensor[MOECL_ROUTER_WEIGHT],
        (size_t)(data->layer.num_experts * data->layer.hidden_size));
  return true;
}

void case_release(case_data *data) {
  free(data->hidden);
  free(data->hidden_values);
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++) {
    free(data->tensor[i]);
    free(data->values[i]);
  }
  *data = (case_data){0};
}

/* ---- the reference ---- */

static void token_logits(const case_data *data, int64_t token, double *logits) {
  const double *hidden = data->hidden_values + token * data->layer.hidden_size;
  double noise[MOECL_MAX_EXPERTS];
  moecl_reference_logits(&data->layer, hidden, data->values[MOECL_ROUTER_WEIGHT],
                         data->values[MOECL_ROUTER_BIAS], data->seed, token, logits);
  if (!data->layer.router_noise) return;
  moecl_reference_logits(&data->layer, hidden, data->values[MOECL_ROUTER_NOISE_WEIGHT], NULL,
                         data->seed, token, noise);
  moecl_reference_add_noise(&data->layer, noise, data->seed, token, logits);
}

double *case_reference_logits(const case_data *data) {
  const int64_t tokens = data->source->num_tokens, experts = data->layer.num_experts;
  double *logits = malloc(((size_t)(tokens * experts) + 1) * sizeof *logits);
  for (int64_t t = 0; logits && t < tokens; t++) token_logits(data, t, logits + t * experts);
  return logits;
}

/* One expert's share of a tensor; NULL where the layer has no such tensor. */
static const double *share(const case_data *data, moecl_tensor tensor, int32_t expert) {
  const double *values = data->values[tensor];
  return values ? values + expert * moecl_layer_tensor_size(&data->layer, tensor) : NULL;
}

/* `input`: [H], scratch. */
static bool add_expert(const case_data *data, int64_t token, int32_t expert, double weight,
                       double *input, double *one, double *output) {
  const int64_t width = data->layer.hidden_size;
  const double *hidden = data->hidden_values + token * width;
  const bool on_input = data->layer.weight_on_input;
  for (int64_t h = 0; h < width; h++) input[h] = on_input ? weight * hidden[h] : hidden[h];
  if (moecl_reference_is_identity(&data->layer, expert))
    memcpy(one, input, (size_t)width * sizeof *one);
  else if (moecl_reference_expert(&data->layer, input, share(data, MOECL_GATE_UP_PROJ, expert),
                                  share(data, MOECL_GATE_UP_BIAS, expert),
                                  share(data, MOECL_DOWN_PROJ, expert),
                                  share(data, MOECL_DOWN_BIAS, expert), one) != MOECL_OK)
    return false;
  for (int64_t h = 0; h < width; h++)
    output[token * width + h] += on_input ? one[h] : weight * one[h];
  return true;
}

/* The shared expert is an expert without biases, of its own size. */
static bool add_shared(const case_data *data, int64_t token, double *one, double *output) {
  const int64_t width = data->layer.hidden_size;
  const double *hidden = data->hidden_values + token * width;
  const double *gate = data->values[MOECL_SHARED_GATE];
  if (data->layer.shared_intermediate_size == 0) return true;
  const moecl_layer_params shared = moecl_reference_shared(&data->layer);
  if (moecl_reference_expert(&shared, hidden, data->values[MOECL_SHARED_GATE_UP_PROJ], NULL,
                             data->values[MOECL_SHARED_DOWN_PROJ], NULL, one) != MOECL_OK)
    return false;
  const double weight = moecl_reference_shared_weight(&data->layer, hidden, gate);
  for (int64_t h = 0; h < width; h++) output[token * width + h] += weight * one[h];
  return true;
}

double *case_reference_output(const case_data *data, const moecl_routing *routing) {
  const int64_t tokens = data->source->num_tokens, width = data->layer.hidden_size;
  const int64_t top_k = data->layer.top_k;
  double *output = calloc((size_t)(tokens * width) + 1, sizeof *output);
  double *one = malloc((size_t)width * sizeof *one), *input = malloc((size_t)width * sizeof *one);
  bool ok = output && one && input;
  for (int64_t t = 0; ok && t < tokens; t++) {
    double weights[MOECL_MAX_TOP_K];
    moecl_reference_kept_weights(&data->layer, routing->topk_weights + t * top_k,
                                 routing->kept + t * top_k, weights);
    for (int64_t k = 0; ok && k < top_k; k++)
      if (routing->kept[t * top_k + k])
        ok = add_expert(data, t, routing->topk_ids[t * top_k + k], weights[k], input, one, output);
  }
  for (int64_t t = 0; ok && t < tokens; t++) ok = add_shared(data, t, one, output);
  free(one);
  free(input);
  if (ok) return output;
  free(output);
  return NULL;
}

/* ---- comparing ---- */

static void print_where(const case_data *data, const char *variant, const char *tensor) {
  fprintf(stderr, "case '%s', %s, %s, MOECL_TEST_SEED=%llu: %s: ", data->source->name,
          moecl_dtype_name(data->layer.dtype), variant, (unsigned long long)data->seed, tensor);
}

bool case_differs(const case_data *data, const char *variant, const char *tensor, int64_t index,
                  double got, double want) {
  print_where(data, variant, tensor);
  fprintf(stderr, "element %lld is %.9g, expected %.9g\n", (long long)index, got, want);
  return false;
}

bool case_compare(const case_data *data, const char *variant, const char *tensor, const double *got,
                  const double *want, size_t count, double tolerance) {
  const double error = moecl_relative_error(got, want, count);
  if (error <= tolerance) return true;
  print_where(data, variant, tensor);
  fprintf(stderr, "error %.3g, expected %.3g at most", error, tolerance);
  double squares = 0.0;
  for (size_t i = 0; i < count; i++) squares += want[i] * want[i];
  const double share_of_one = tolerance * sqrt(squares / (double)count);
  for (size_t i = 0; i < count; i++)
    if (!(fabs(got[i] - want[i]) <= share_of_one)) {
      fprintf(stderr, "; first at element %zu: %.9g, expected %.9g", i, got[i], want[i]);
      break;
    }
  fprintf(stderr, "\n");
  return false;
}

/* Logits within rounding; what follows is then compared from the device's own
 * logits, where no rounding can excuse a different choice. */
static bool check_logits(const case_data *data, const char *variant, const moecl_routing *routing,
                         const double *got) {
  double *want = case_reference_logits(data);
  const size_t count = (size_t)(routing->num_tokens * routing->num_experts);
  const bool ok = want && case_compare(data, variant, "router_logits", got, want, count, 1e-5);
  free(want);
  return ok;
}

static bool check_token(const case_data *data, const char *variant, const moecl_routing *routing,
                        int64_t token, const double *logits) {
  int32_t ids[MOECL_MAX_TOP_K];
  double weights[MOECL_MAX_TOP_K];
  const int64_t first = token * routing->top_k;
  const double *bias = data->values[MOECL_SCORE_CORRECTION_BIAS];
  logits += token * routing->num_experts;
  const int64_t k =
      case_choice_differs(&data->layer, logits, bias, data->seed, token, routing->topk_ids + first,
                          routing->topk_weights + first, 1e-5);
  if (k < 0) return true;
  moecl_reference_topk(&data->layer, logits, bias, data->seed, token, ids, weights, NULL);
  if (routing->topk_ids[first + k] != ids[k])
    return case_differs(data, variant, "topk_ids", first + k, routing->topk_ids[first + k], ids[k]);
  return case_differs(data, variant, "topk_weights", first + k, routing->topk_weights[first + k],
                      weights[k]);
}

/* From the reference's own logits: the set of chosen experts is the same
 * wherever the gap behind the last one exceeds rounding. */
static bool check_choice(const case_data *data, const char *variant, const moecl_routing *routing) {
  const int64_t experts = routing->num_experts, top_k = routing->top_k;
  double *logits = case_reference_logits(data);
  bool ok = logits != NULL;
  for (int64_t t = 0; ok && t < routing->num_tokens; t++) {
    int32_t ids[MOECL_MAX_TOP_K];
    double weights[MOECL_MAX_TOP_K];
    if (!(moecl_reference_topk(&data->layer, logits + t * experts,
                               data->values[MOECL_SCORE_CORRECTION_BIAS], data->seed, t, ids,
                               weights, NULL) > 1e-4))
      continue;
    for (int64_t k = 0; ok && k < top_k; k++) {
      bool found = false;
      for (int64_t j = 0; j < top_k; j++) found |= routing->topk_ids[t * top_k + j] == ids[k];
      if (!found) ok = case_differs(data, variant, "chosen experts of token", t, NAN, ids[k]);
    }
  }
  free(logits);
  return ok;
}

static bool check_priorities(const case_data *data, const char *variant,
                             const moecl_routing *routing) {
  const int64_t experts = routing->num_experts;
  const bool has =
      data->layer.capacity_factor > 0 && data->layer.drop_policy == MOECL_DROP_PRIORITIZED;
  if (has != (routing->token_priority != NULL))
    return case_differs(data, variant, "has token_priority", 0, !has, has);
  double *logits = malloc((size_t)experts * sizeof *logits);
  bool ok = logits != NULL;
  for (int64_t t = 0; ok && has && t < routing->num_tokens; t++) {
    moecl_to_double(MOECL_F32, routing->router_logits + t * experts, (size_t)experts, logits);
    const double got = routing->token_priority[t], want = moecl_reference_priority(logits, experts);
    if (!(fabs(got - want) <= 1e-5 * want))
      ok = case_differs(data, variant, "token_priority", t, got, want);
  }
  free(logits);
  return ok;
}

static bool check_capacity(const case_data *data, const char *variant,
                           const moecl_routing *routing) {
  const int64_t slots = routing->num_tokens * routing->top_k;
  uint8_t *kept = malloc((size_t)slots + 1);
  bool ok = kept && moecl_reference_capacity(&data->layer, routing->num_tokens, routing->topk_ids,
                                             routing->topk_weights, routing->token_priority,
                                             kept) == MOECL_OK;
  for (int64_t i = 0; ok && i < slots; i++)
    if (routing->kept[i] != kept[i])
      ok = case_differs(data, variant, "kept", i, routing->kept[i], kept[i]);
  free(kept);
  return ok;
}

static bool check_counts(const case_data *data, const char *variant, const moecl_routing *routing) {
  const int64_t slots = routing->num_tokens * routing->top_k;
  bool ok = true;
  for (int64_t e = 0; ok && e < routing->num_experts; e++) {
    int64_t before = 0, after = 0;
    for (int64_t i = 0; i < slots; i++)
      if (routing->topk_ids[i] == e) before++, after += routing->kept[i];
    if (routing->tokens_per_expert[e] != before)
      ok = case_differs(data, variant, "tokens_per_expert", e,
                        (double)routing->tokens_per_expert[e], (double)before);
    if (routing->tokens_per_expert_after_capacity[e] != after)
      ok = case_differs(data, variant, "tokens_per_expert_after_capacity", e,
                        (double)routing->tokens_per_expert_after_capacity[e], (double)after);
  }
  return ok;
}

bool case_check_routing(const case_data *data, const char *variant, const moecl_routing *routing) {
  if (routing->num_tokens != data->source->num_tokens)
    return case_differs(data, variant, "num_tokens", 0, (double)routing->num_tokens,
                        (double)data->source->num_tokens);
  const size_t count = (size_t)(routing->num_tokens * routing->num_experts);
  double *logits = to_values(MOECL_F32, routing->router_logits, count);
  bool ok = logits && check_logits(data, variant, routing, logits) &&
            check_choice(data, variant, routing);
  for (int64_t t = 0; ok && t < routing->num_tokens; t++)
    ok = check_token(data, variant, routing, t, logits);
  free(logits);
  return ok && check_priorities(data, variant, routing) && check_capacity(data, variant, routing) &&
         check_counts(data, variant, routing);
}

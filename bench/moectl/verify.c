/* A point against the double-precision reference.
 *
 * Router: the logits of sampled tokens are recomputed from their hidden states;
 * then every token's choice, in its order, and its weights from the device's own
 * logits, where ties are exact. Capacity and the counts are recomputed for all
 * tokens: integer work and exact. The experts' output of the sampled tokens is
 * recomputed from the device's choices; all other tokens' outputs must be
 * finite, and zero exactly where nothing was kept. Weights are drawn again, an
 * expert at a time: nothing is read back from the layer's packed copy. */
#include "cases.h"
#include "runner.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct sample {
  int64_t count;
  int64_t *tokens;      /* [count] */
  double *hidden;       /* [count, H] */
  double *expected;     /* [count, H] */
  double *actual;       /* [count, H] */
} sample;

/* About a second of plain C for the sampled tokens' experts, and half of one for
 * drawing and converting the experts they reach. */
enum { LEAST_TOKENS = 8 }; /* on the largest layers this takes longer */
static int64_t sample_size(const experiment_point *point) {
  const moecl_layer_params *layer = &point->layer;
  const double matrices = moecl_activation_is_gated(layer->activation) ? 3 : 2;
  const double per_expert = matrices * (double)layer->hidden_size * (double)layer->intermediate_size;
  const double per_token = per_expert * (double)layer->top_k +
                           (double)layer->num_experts * (double)layer->hidden_size;
  double count = floor(1e9 / per_token);
  /* Distinct experts cost a draw and a conversion each. */
  if (count * (double)layer->top_k * per_expert > 4e8 &&
      (double)layer->num_experts * per_expert > 4e8)
    count = floor(4e8 / (per_expert * (double)layer->top_k));
  if (count < LEAST_TOKENS) count = LEAST_TOKENS;
  if (count > 256) count = 256;
  return count < (double)point->num_tokens ? (int64_t)count : point->num_tokens;
}

static void sample_release(sample *sample) {
  free(sample->tokens);
  free(sample->hidden);
  free(sample->expected);
  free(sample->actual);
}

static moecl_status read_rows(const experiment_point *point, const moecl_buffer *buffer,
                              const sample *sample, double *rows) {
  const size_t hidden = (size_t)point->layer.hidden_size;
  const size_t bytes = hidden * moecl_dtype_size(point->layer.dtype);
  void *row = malloc(bytes);
  if (!row) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status = MOECL_OK;
  for (int64_t i = 0; status == MOECL_OK && i < sample->count; i++) {
    status = moecl_buffer_read_wait(buffer, (uint64_t)sample->tokens[i] * bytes, bytes, row);
    if (status == MOECL_OK)
      moecl_to_double(point->layer.dtype, row, hidden, rows + (size_t)i * hidden);
  }
  free(row);
  return status;
}

/* Tokens spread evenly from the first to the last. */
static moecl_status sample_take(const verify_input *input, sample *sample) {
  const experiment_point *point = input->point;
  const size_t hidden = (size_t)point->layer.hidden_size;
  sample->count = sample_size(point);
  const size_t count = (size_t)sample->count;
  sample->tokens = malloc((count + 1) * sizeof *sample->tokens);
  sample->hidden = malloc((count * hidden + 1) * sizeof(double));
  sample->expected = calloc(count * hidden + 1, sizeof(double));
  sample->actual = malloc((count * hidden + 1) * sizeof(double));
  if (!sample->tokens || !sample->hidden || !sample->expected || !sample->actual)
    return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t i = 0; i < sample->count; i++)
    sample->tokens[i] =
        sample->count > 1 ? i * (point->num_tokens - 1) / (sample->count - 1) : 0;
  moecl_status status = read_rows(point, input->hidden_states, sample, sample->hidden);
  if (status == MOECL_OK) status = read_rows(point, input->output, sample, sample->actual);
  return status;
}

/* Room for one item of each tensor of an expert, and for its way from the
 * device; the same for all experts. */
enum { EXPERT_TENSORS = MOECL_DOWN_BIAS + 1 - MOECL_GATE_UP_PROJ };
typedef struct weights {
  moecl_buffer *staging;
  void *expert[EXPERT_TENSORS]; /* in the layer's dtype; NULL where it has no such tensor */
  double *hidden, *output;      /* [sample,H]: of the tokens that reach the expert */
} weights;

static size_t item_bytes(const experiment_point *point, moecl_tensor tensor) {
  return (size_t)moecl_layer_tensor_size(&point->layer, tensor) *
         moecl_dtype_size(moecl_layer_tensor_dtype(&point->layer, tensor));
}

static moecl_status weights_make(const verify_input *input, const sample *sample,
                                 weights *weights) {
  const size_t elements = (size_t)(sample->count * input->point->layer.hidden_size);
  weights->hidden = malloc((elements + 1) * sizeof(double));
  weights->output = malloc((elements + 1) * sizeof(double));
  bool ok = weights->hidden && weights->output;
  for (int t = 0; ok && t < EXPERT_TENSORS; t++) {
    const size_t bytes = item_bytes(input->point, (moecl_tensor)(MOECL_GATE_UP_PROJ + t));
    if (bytes) ok = (weights->expert[t] = malloc(bytes)) != NULL;
  }
  return ok ? moecl_buffer_create(input->context, workload_staging_bytes(&input->point->layer),
                                  &weights->staging)
            : MOECL_ERROR_OUT_OF_HOST_MEMORY;
}

static void weights_release(weights *weights) {
  moecl_buffer_destroy(&weights->staging);
  for (int t = 0; t < EXPERT_TENSORS; t++) free(weights->expert[t]);
  free(weights->hidden);
  free(weights->output);
}

/* One item of a tensor, drawn again, into `values`. */
static moecl_status draw(const verify_input *input, const weights *weights, moecl_tensor tensor,
                         int64_t item, void *values) {
  const size_t bytes = item_bytes(input->point, tensor);
  if (bytes == 0) return MOECL_OK;
  const moecl_status status =
      workload_draw_weights(input->point, tensor, item, weights->staging);
  return status == MOECL_OK ? moecl_buffer_read_wait(weights->staging, 0, bytes, values) : status;
}

/* A tensor of one item as doubles, NULL where the layer has no such tensor. */
static moecl_status draw_doubles(const verify_input *input, const weights *weights,
                                 moecl_tensor tensor, double **values) {
  const size_t bytes = item_bytes(input->point, tensor);
  const moecl_dtype dtype = moecl_layer_tensor_dtype(&input->point->layer, tensor);
  const size_t count = bytes / moecl_dtype_size(dtype);
  *values = NULL;
  if (bytes == 0) return MOECL_OK;
  void *raw = malloc(bytes);
  *values = malloc(count * sizeof **values);
  const moecl_status status = raw && *values ? draw(input, weights, tensor, 0, raw)
                                             : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) moecl_to_double(dtype, raw, count, *values);
  free(raw);
  return status;
}

/* Where in the device's choice an expert stands; -1: it was not chosen. */
static int64_t choice_of(const int32_t *ids, int64_t top_k, int32_t expert) {
  for (int64_t k = 0; k < top_k; k++)
    if (ids[k] == expert) return k;
  return -1;
}

#define ROUTER_TOLERANCE 1e-4 /* fp32 sums and exponentials, with room */

/* The router's tensors, NULL where it has no such one. */
typedef struct router {
  double *weight, *bias, *noise, *correction_bias;
} router;

static void router_release(router *router) {
  free(router->weight);
  free(router->bias);
  free(router->noise);
  free(router->correction_bias);
}

static moecl_status router_make(const verify_input *input, const weights *weights, router *router) {
  moecl_status status = draw_doubles(input, weights, MOECL_ROUTER_WEIGHT, &router->weight);
  if (status == MOECL_OK) status = draw_doubles(input, weights, MOECL_ROUTER_BIAS, &router->bias);
  if (status == MOECL_OK)
    status = draw_doubles(input, weights, MOECL_ROUTER_NOISE_WEIGHT, &router->noise);
  if (status == MOECL_OK)
    status = draw_doubles(input, weights, MOECL_SCORE_CORRECTION_BIAS, &router->correction_bias);
  return status;
}

/* Sampled tokens' logits from their hidden states. */
static moecl_status check_logits(const verify_input *input, const sample *sample,
                                 const router *router, verify_result *result) {
  const moecl_layer_params *layer = &input->point->layer;
  const size_t experts = (size_t)layer->num_experts;
  const uint64_t seed = input->point->seed;
  double *logits = malloc(2 * experts * sizeof *logits);
  if (!logits) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t i = 0; i < sample->count; i++) {
    const int64_t token = sample->tokens[i];
    const double *hidden = sample->hidden + i * layer->hidden_size;
    moecl_reference_logits(layer, hidden, router->weight, router->bias, seed, token, logits);
    if (router->noise) {
      moecl_reference_logits(layer, hidden, router->noise, NULL, seed, token, logits + experts);
      moecl_reference_add_noise(layer, logits + experts, seed, token, logits);
    }
    moecl_to_double(MOECL_F32, input->routing->router_logits + token * layer->num_experts, experts,
                    logits + experts);
    result->topk_mismatches +=
        !(moecl_relative_error(logits + experts, logits, experts) <= ROUTER_TOLERANCE);
  }
  free(logits);
  return MOECL_OK;
}

/* One token's choice from the device's logits. */
static bool choice_differs(const verify_input *input, const router *router, int64_t token,
                           double *logits) {
  const moecl_layer_params *layer = &input->point->layer;
  const int64_t first = token * layer->top_k;
  moecl_to_double(MOECL_F32, input->routing->router_logits + token * layer->num_experts,
                  (size_t)layer->num_experts, logits);
  return case_choice_differs(layer, logits, router->correction_bias, input->point->seed, token,
                             input->routing->topk_ids + first, input->routing->topk_weights + first,
                             ROUTER_TOLERANCE) >= 0;
}

/* One token's priority, where the layer has them, from the device's logits. */
static bool priority_differs(const verify_input *input, int64_t token, double *logits) {
  const moecl_routing *routing = input->routing;
  if (!routing->token_priority) return false;
  moecl_to_double(MOECL_F32, routing->router_logits + token * routing->num_experts,
                  (size_t)routing->num_experts, logits);
  const double want = moecl_reference_priority(logits, routing->num_experts);
  return !(fabs((double)routing->token_priority[token] - want) <= ROUTER_TOLERANCE * want);
}

/* All tokens, or where that is too much work evenly spread ones; and the counts
 * before capacity. */
static moecl_status check_choices(const verify_input *input, const router *router,
                                  verify_result *result) {
  const moecl_routing *routing = input->routing;
  const double each = (double)routing->num_experts * (double)routing->top_k;
  const double share = (double)routing->num_tokens * each / 1e9;
  const int64_t stride = share > 1 ? (int64_t)ceil(share) : 1;
  const size_t experts = (size_t)routing->num_experts;
  const bool by_chance = input->point->layer.second_choice == MOECL_SECOND_RANDOM;
  double *logits = malloc(experts * sizeof *logits);
  int64_t *counts = calloc(experts, sizeof *counts);
  const moecl_status status = logits && counts ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t t = 0; status == MOECL_OK && t < routing->num_tokens; t += stride)
    result->topk_mismatches +=
        choice_differs(input, router, t, logits) || priority_differs(input, t, logits);
  for (int64_t i = 0; status == MOECL_OK && i < routing->num_tokens * routing->top_k; i++) {
    const int32_t id = routing->topk_ids[i];
    const bool not_kept = id == -1 && by_chance && i % routing->top_k > 0;
    if (id >= 0 && id < routing->num_experts) counts[id]++;
    else if (!not_kept) result->topk_mismatches++;
  }
  for (size_t e = 0; status == MOECL_OK && e < experts; e++)
    result->topk_mismatches += counts[e] != routing->tokens_per_expert[e];
  free(logits);
  free(counts);
  return status;
}

/* Every token's output: finite, and zero where nothing was kept. */
static moecl_status check_outputs(const verify_input *input, bool *sound) {
  const moecl_layer_params *layer = &input->point->layer;
  const size_t hidden = (size_t)layer->hidden_size;
  const size_t bytes = hidden * moecl_dtype_size(layer->dtype);
  const int64_t tokens = input->point->num_tokens;
  char *raw = malloc((size_t)tokens * bytes + 1);
  double *row = malloc(hidden * sizeof *row);
  moecl_status status = raw && row ? moecl_buffer_read_wait(input->output, 0,
                                                            (uint64_t)tokens * bytes, raw)
                                   : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  *sound = status == MOECL_OK;
  for (int64_t t = 0; status == MOECL_OK && t < tokens; t++) {
    bool kept = false;
    for (int64_t k = 0; k < layer->top_k; k++) kept |= input->routing->kept[t * layer->top_k + k];
    moecl_to_double(layer->dtype, raw + (size_t)t * bytes, hidden, row);
    kept |= layer->shared_intermediate_size > 0;
    for (size_t h = 0; h < hidden; h++) *sound = *sound && isfinite(row[h]) && (kept || row[h] == 0);
  }
  free(raw);
  free(row);
  return status;
}

static moecl_status check_capacity(const verify_input *input, verify_result *result) {
  const moecl_routing *routing = input->routing;
  const size_t slots = (size_t)(routing->num_tokens * routing->top_k);
  uint8_t *kept = malloc(slots + 1);
  int64_t *counts = calloc((size_t)routing->num_experts, sizeof *counts);
  moecl_status status =
      kept && counts
          ? moecl_reference_capacity(&input->point->layer, routing->num_tokens, routing->topk_ids,
                                     routing->topk_weights, routing->token_priority, kept)
          : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) {
    for (size_t i = 0; i < slots; i++)
      if (kept[i]) counts[routing->topk_ids[i]]++;
    result->capacity_ok =
        memcmp(kept, routing->kept, slots) == 0 &&
        memcmp(counts, routing->tokens_per_expert_after_capacity,
               (size_t)routing->num_experts * sizeof *counts) == 0;
  }
  free(kept);
  free(counts);
  return status;
}

/* The choice of sampled token `i` that kept the expert; -1: none. */
static int64_t kept_choice(const verify_input *input, const sample *sample, int64_t i,
                           int32_t expert) {
  const moecl_routing *routing = input->routing;
  const int64_t first = sample->tokens[i] * routing->top_k;
  const int64_t k = choice_of(routing->topk_ids + first, routing->top_k, expert);
  return k >= 0 && routing->kept[first + k] ? first + k : -1;
}

/* What choice number `choice`, of all tokens', is multiplied by. */
static double kept_weight(const verify_input *input, int64_t choice) {
  const moecl_layer_params *layer = &input->point->layer;
  const int64_t first = choice / layer->top_k * layer->top_k;
  double weights[MOECL_MAX_TOP_K];
  moecl_reference_kept_weights(layer, input->routing->topk_weights + first,
                               input->routing->kept + first, weights);
  return weights[choice - first];
}

/* Sampled token i as choice number `choice`'s expert reads it. */
static void copy_input(const verify_input *input, const sample *sample, int64_t i, int64_t choice,
                       double *to) {
  const moecl_layer_params *layer = &input->point->layer;
  const double weight = layer->weight_on_input ? kept_weight(input, choice) : 1.0;
  for (int64_t h = 0; h < layer->hidden_size; h++)
    to[h] = weight * sample->hidden[i * layer->hidden_size + h];
}

/* Adds one expert's weighted output to every sampled token that kept it. */
static moecl_status add_expert(const verify_input *input, sample *sample, weights *weights,
                               int32_t expert, bool *reached) {
  const moecl_layer_params *layer = &input->point->layer;
  const int64_t hidden = layer->hidden_size;
  int64_t count = 0, at = 0;
  for (int64_t i = 0; i < sample->count; i++)
    if (kept_choice(input, sample, i, expert) >= 0)
      copy_input(input, sample, i, kept_choice(input, sample, i, expert),
                 weights->hidden + count++ * hidden);
  *reached = count > 0;
  if (count == 0) return MOECL_OK;
  moecl_status status = MOECL_OK;
  for (int t = 0; status == MOECL_OK && t < EXPERT_TENSORS; t++)
    status = draw(input, weights, (moecl_tensor)(MOECL_GATE_UP_PROJ + t), expert,
                  weights->expert[t]);
  if (status == MOECL_OK)
    status = moecl_reference_expert_tokens(layer, count, weights->hidden, weights->expert[0],
                                           weights->expert[1], weights->expert[2],
                                           weights->expert[3], 0, weights->output);
  for (int64_t i = 0; status == MOECL_OK && i < sample->count; i++) {
    const int64_t choice = kept_choice(input, sample, i, expert);
    if (choice < 0) continue;
    const double weight = layer->weight_on_input ? 1.0 : kept_weight(input, choice);
    for (int64_t h = 0; h < hidden; h++)
      sample->expected[i * hidden + h] += weight * weights->output[at * hidden + h];
    at++;
  }
  return status;
}

/* Adds `output` of every sampled token, times what its gate lets through. */
static void add_gated(const moecl_layer_params *layer, const double *gate, sample *sample,
                      const double *output) {
  const int64_t hidden = layer->hidden_size;
  for (int64_t i = 0; i < sample->count; i++) {
    double logit = 0.0;
    for (int64_t h = 0; gate && h < hidden; h++) logit += gate[h] * sample->hidden[i * hidden + h];
    const double weight = gate ? 1.0 / (1.0 + exp(-logit)) : 1.0;
    for (int64_t h = 0; h < hidden; h++)
      sample->expected[i * hidden + h] += weight * output[i * hidden + h];
  }
}

/* Adds the shared expert: an expert without biases, of its own size. */
static moecl_status add_shared(const verify_input *input, sample *sample, weights *weights) {
  moecl_layer_params shared = input->point->layer;
  if (shared.shared_intermediate_size == 0) return MOECL_OK;
  shared.intermediate_size = shared.shared_intermediate_size;
  void *gate_up = malloc(item_bytes(input->point, MOECL_SHARED_GATE_UP_PROJ));
  void *down = malloc(item_bytes(input->point, MOECL_SHARED_DOWN_PROJ));
  double *gate = NULL;
  moecl_status status = gate_up && down ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) status = draw(input, weights, MOECL_SHARED_GATE_UP_PROJ, 0, gate_up);
  if (status == MOECL_OK) status = draw(input, weights, MOECL_SHARED_DOWN_PROJ, 0, down);
  if (status == MOECL_OK) status = draw_doubles(input, weights, MOECL_SHARED_GATE, &gate);
  if (status == MOECL_OK)
    status = moecl_reference_expert_tokens(&shared, sample->count, sample->hidden, gate_up, NULL,
                                           down, NULL, 0, weights->output);
  if (status == MOECL_OK) add_gated(&shared, gate, sample, weights->output);
  free(gate_up);
  free(down);
  free(gate);
  return status;
}

moecl_status verify_point(const verify_input *input, verify_result *result) {
  const moecl_layer_params *layer = &input->point->layer;
  sample sample = {0};
  weights weights = {0};
  *result = (verify_result){.ran = true, .tolerance = moe_tolerance(input->roundoff)};
  moecl_status status = sample_take(input, &sample);
  if (status == MOECL_OK) status = weights_make(input, &sample, &weights);
  router router = {0};
  if (status == MOECL_OK) status = router_make(input, &weights, &router);
  if (status == MOECL_OK) status = check_logits(input, &sample, &router, result);
  if (status == MOECL_OK) status = check_choices(input, &router, result);
  /* The checks below index by the device's ids. */
  if (status == MOECL_OK && result->topk_mismatches == 0) status = check_capacity(input, result);
  bool sound = false;
  if (status == MOECL_OK) status = check_outputs(input, &sound);
  for (int32_t e = 0; status == MOECL_OK && e < layer->num_experts; e++) {
    bool reached;
    status = add_expert(input, &sample, &weights, e, &reached);
    result->experts_checked += reached;
  }
  if (status == MOECL_OK) status = add_shared(input, &sample, &weights);
  if (status == MOECL_OK) {
    result->tokens_checked = sample.count;
    result->error = moecl_relative_error(sample.actual, sample.expected,
                                         (size_t)(sample.count * layer->hidden_size));
    if (!sound) result->error = INFINITY;
    result->ok = result->error <= result->tolerance && result->topk_mismatches == 0 &&
                 result->capacity_ok;
  }
  router_release(&router);
  weights_release(&weights);
  sample_release(&sample);
  return status;
}

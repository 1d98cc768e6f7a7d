// SPDX-License-Identifier: MIT
/* The experts' output of sampled tokens, by the reference, from the device's choices.
 * Weights are drawn again, an expert at a time. */
#include "moecl/reference.h"
#include "run/verify_parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where in the device's choice an expert stands; -1: it was not chosen. */
static int64_t choice_of(const int32_t *ids, int64_t top_k, int32_t expert) {
  for (int64_t k = 0; k < top_k; k++)
    if (ids[k] == expert) return k;
  return -1;
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

/* Sampled token i as choice number `choice`'s expert reads it; identities are at home. */
static moecl_status copy_input(const verify_input *input, const sample *sample, int64_t i,
                               int64_t choice, double *to) {
  const moecl_layer_params *layer = &input->point->layer;
  const moecl_format format = workload_dispatch_format(input->point);
  const int32_t expert = input->routing->topk_ids[choice];
  const double weight = layer->weight_on_input ? kept_weight(input, choice) : 1.0;
  moecl_status status = MOECL_OK;
  memcpy(to, sample->hidden + i * layer->hidden_size, (size_t)layer->hidden_size * sizeof *to);
  if (format != MOECL_FORMAT_DTYPE && !moecl_reference_is_identity(layer, expert))
    status = moecl_reference_round_rows(layer->dtype, format, 1, layer->hidden_size, to);
  for (int64_t h = 0; h < layer->hidden_size; h++) to[h] *= weight;
  return status;
}

/* An expert on the rows of sampled tokens; `expert` -1: the shared one. */
typedef struct expert_run {
  const moecl_layer_params *params;
  int64_t expert, count;
  int64_t token[VERIFY_MOST_TOKENS]; /* which of the sample a row is of */
  const double *hidden;              /* [count,H] */
  const void *tensors[EXPERT_TENSORS];
} expert_run;

/* What numbers the rows come by. */
static moecl_status observe(const expert_run *run, const double *output, overflow *overflow) {
  const int64_t hidden = run->params->hidden_size, width = run->params->intermediate_size;
  const bool shared = run->expert < 0;
  double *inner = malloc((size_t)(run->count * width) * sizeof *inner);
  const moecl_status status =
      inner ? moecl_reference_intermediate_tokens(run->params, run->count, run->hidden,
                                                  run->tensors[0], run->tensors[1], 0, inner)
            : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t i = 0; status == MOECL_OK && i < run->count; i++) {
    if (!shared)
      overflow_note(overflow, run->token[i], OVERFLOW_INPUT, run->expert, run->hidden + i * hidden,
                    hidden);
    overflow_note(overflow, run->token[i],
                  shared ? OVERFLOW_SHARED_INTERMEDIATE : OVERFLOW_INTERMEDIATE, run->expert,
                  inner + i * width, width);
    overflow_note(overflow, run->token[i], shared ? OVERFLOW_SHARED_OUTPUT : OVERFLOW_EXPERT_OUTPUT,
                  run->expert, output + i * hidden, hidden);
  }
  free(inner);
  return status;
}

/* `output` [count,H]. */
static moecl_status run_expert(const expert_run *run, overflow *overflow, double *output) {
  const moecl_status status =
      moecl_reference_expert_tokens(run->params, run->count, run->hidden, run->tensors[0],
                                    run->tensors[1], run->tensors[2], run->tensors[3], 0, output);
  return status == MOECL_OK && overflow ? observe(run, output, overflow) : status;
}

/* The same of a routed expert, with its weights drawn; an identity returns its input. */
static moecl_status run_routed(const verify_input *input, weights *weights, expert_run *run,
                               overflow *overflow) {
  moecl_status status = MOECL_OK;
  if (moecl_reference_is_identity(run->params, run->expert)) {
    memcpy(weights->output, run->hidden,
           (size_t)(run->count * run->params->hidden_size) * sizeof *weights->output);
    return MOECL_OK;
  }
  for (int t = 0; status == MOECL_OK && t < EXPERT_TENSORS; t++) {
    run->tensors[t] = weights->expert[t];
    status = verify_draw(input, weights, (moecl_tensor)(MOECL_GATE_UP_PROJ + t), run->expert,
                         weights->expert[t]);
  }
  return status == MOECL_OK ? run_expert(run, overflow, weights->output) : status;
}

/* Adds one expert's weighted output to every sampled token that kept it. */
static moecl_status add_expert(const verify_input *input, sample *sample, weights *weights,
                               int32_t expert, overflow *overflow, bool *reached) {
  const moecl_layer_params *layer = &input->point->layer;
  const int64_t hidden = layer->hidden_size;
  expert_run run = {.params = layer, .expert = expert, .hidden = weights->hidden};
  moecl_status status = MOECL_OK;
  for (int64_t i = 0; i < sample->count; i++) {
    const int64_t choice = kept_choice(input, sample, i, expert);
    if (choice < 0) continue;
    if (status == MOECL_OK)
      status = copy_input(input, sample, i, choice, weights->hidden + run.count * hidden);
    run.token[run.count++] = i;
  }
  *reached = run.count > 0;
  if (run.count == 0 || status != MOECL_OK) return status;
  status = run_routed(input, weights, &run, overflow);
  for (int64_t at = 0; status == MOECL_OK && at < run.count; at++) {
    const int64_t i = run.token[at];
    const double weight =
        layer->weight_on_input ? 1.0 : kept_weight(input, kept_choice(input, sample, i, expert));
    for (int64_t h = 0; h < hidden; h++)
      sample->expected[i * hidden + h] += weight * weights->output[at * hidden + h];
  }
  return status;
}

/* Adds `output` of every sampled token, times what its gate lets through. */
static void add_gated(const moecl_layer_params *layer, const double *gate, sample *sample,
                      const double *output) {
  const int64_t hidden = layer->hidden_size;
  for (int64_t i = 0; i < sample->count; i++) {
    const double weight = moecl_reference_shared_weight(layer, sample->hidden + i * hidden, gate);
    for (int64_t h = 0; h < hidden; h++)
      sample->expected[i * hidden + h] += weight * output[i * hidden + h];
  }
}

/* Adds the shared expert: an expert without biases, of its own size. */
static moecl_status add_shared(const verify_input *input, sample *sample, weights *weights,
                               overflow *overflow) {
  if (input->point->layer.shared_intermediate_size == 0) return MOECL_OK;
  const moecl_layer_params shared = moecl_reference_shared(&input->point->layer);
  void *gate_up = malloc(verify_item_bytes(input->point, MOECL_SHARED_GATE_UP_PROJ));
  void *down = malloc(verify_item_bytes(input->point, MOECL_SHARED_DOWN_PROJ));
  double *gate = NULL;
  expert_run run = {.params = &shared,
                    .expert = -1,
                    .count = sample->count,
                    .hidden = sample->hidden,
                    .tensors = {gate_up, NULL, down, NULL}};
  for (int64_t i = 0; i < sample->count; i++) run.token[i] = i;
  moecl_status status = gate_up && down ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK)
    status = verify_draw(input, weights, MOECL_SHARED_GATE_UP_PROJ, 0, gate_up);
  if (status == MOECL_OK) status = verify_draw(input, weights, MOECL_SHARED_DOWN_PROJ, 0, down);
  if (status == MOECL_OK) status = verify_draw_doubles(input, weights, MOECL_SHARED_GATE, &gate);
  if (status == MOECL_OK) status = run_expert(&run, overflow, weights->output);
  if (status == MOECL_OK) add_gated(&input->point->layer, gate, sample, weights->output);
  free(gate_up);
  free(down);
  free(gate);
  return status;
}

moecl_status verify_experts(const verify_input *input, sample *sample, weights *weights,
                            overflow *overflow, int64_t *experts_reached) {
  const moecl_layer_params *layer = &input->point->layer;
  moecl_status status = MOECL_OK;
  for (int32_t e = 0; status == MOECL_OK && e < layer->num_experts; e++) {
    bool reached;
    status = add_expert(input, sample, weights, e, overflow, &reached);
    *experts_reached += reached;
  }
  if (status == MOECL_OK) status = add_shared(input, sample, weights, overflow);
  for (int64_t i = 0; status == MOECL_OK && overflow && i < sample->count; i++)
    overflow_note(overflow, i, OVERFLOW_OUTPUT, -1, sample->expected + i * layer->hidden_size,
                  layer->hidden_size);
  return status;
}

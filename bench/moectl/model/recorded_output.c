// SPDX-License-Identifier: MIT
/* What the reference makes of recorded choices: the outputs of tokens whose experts or
 * weights are rightly others than ours. */
#include "model/recorded.h"
#include "run/verify_parts.h"
#include <stdlib.h>
#include <string.h>

/* Everything is kept: there is no capacity. */
static moecl_status make_routing(const output_case *of, moecl_routing *routing) {
  const size_t slots = (size_t)(of->num_tokens * of->params->top_k);
  *routing = (moecl_routing){.num_tokens = of->num_tokens,
                             .num_experts = of->params->num_experts,
                             .top_k = of->params->top_k,
                             .topk_ids = malloc(slots * sizeof(int32_t)),
                             .topk_weights = malloc(slots * sizeof(float)),
                             .kept = malloc(slots)};
  if (!routing->topk_ids || !routing->topk_weights || !routing->kept)
    return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (size_t i = 0; i < slots; i++) {
    routing->topk_ids[i] = (int32_t)of->ids[i];
    routing->topk_weights[i] = (float)of->weights[i];
    routing->kept[i] = of->ids[i] >= 0;
  }
  return MOECL_OK;
}

/* A token's hidden states as the layer gets them, in its dtype. */
static moecl_status copy_hidden(const output_case *of, int64_t token, double *row) {
  const size_t width = (size_t)of->params->hidden_size;
  void *stored = malloc(width * moecl_dtype_size(of->params->dtype));
  if (!stored) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_from_double(of->params->dtype, of->hidden + (size_t)token * width, width, stored);
  moecl_to_double(of->params->dtype, stored, width, row);
  free(stored);
  return MOECL_OK;
}

/* `count` tokens at once. */
static moecl_status compute(const output_case *of, const verify_input *input, const int64_t *tokens,
                            int64_t count, double *outputs) {
  const int64_t width = of->params->hidden_size;
  sample sample = {0};
  weights weights = {0};
  int64_t reached = 0;
  moecl_status status = verify_sample_make(input->point, count, &sample);
  if (status == MOECL_OK) status = verify_weights_make(input, &sample, &weights);
  for (int64_t i = 0; status == MOECL_OK && i < count; i++) {
    sample.tokens[i] = tokens[i];
    status = copy_hidden(of, tokens[i], sample.hidden + i * width);
  }
  if (status == MOECL_OK) status = verify_experts(input, &sample, &weights, NULL, &reached);
  for (int64_t i = 0; status == MOECL_OK && i < count; i++)
    memcpy(outputs + tokens[i] * width, sample.expected + i * width,
           (size_t)width * sizeof *outputs);
  verify_weights_release(&weights);
  verify_sample_release(&sample);
  return status;
}

moecl_status recorded_outputs(const output_case *of, double *outputs) {
  const checkpoint_source source = {.checkpoint = of->checkpoint, .layer = of->index};
  const experiment_point point = {
      .layer = *of->params, .num_tokens = of->num_tokens, .source = &source};
  moecl_routing routing;
  const verify_input input = {.context = of->context, .point = &point, .routing = &routing};
  int64_t tokens[VERIFY_MOST_TOKENS], count = 0;
  moecl_status status = make_routing(of, &routing);
  for (int64_t t = 0; status == MOECL_OK && t < of->num_tokens; t++) {
    if (of->wanted[t]) tokens[count++] = t;
    if (count == 0 || (count < VERIFY_MOST_TOKENS && t + 1 < of->num_tokens)) continue;
    status = compute(of, &input, tokens, count, outputs);
    count = 0;
  }
  moecl_routing_destroy(&routing);
  return status;
}

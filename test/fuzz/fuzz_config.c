// SPDX-License-Identifier: MIT
/* libFuzzer target: whatever the bytes, a config.json either is refused with one
 * message, or every layer that it describes has sound parameters.
 *
 *   fuzz_config -max_total_time=600 -dict=test/fuzz/model.dict NEW test/fuzz/seeds_config
 * where NEW is an empty folder that collects inputs. */
#include "model/describe.h"
#include "model/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
  if (!condition) abort(); /* how libFuzzer learns of a failure */
}

static void count_messages(void *user, moecl_log_level level, const char *message) {
  require(level == MOECL_LOG_ERROR && strncmp(message, "fuzz: ", 6) == 0);
  ++*(int *)user;
}

static void check_layer(const model_layer *layer) {
  const moecl_layer_params *params = &layer->params;
  require(moecl_layer_params_check(params, NULL, 0) == MOECL_OK);
  require(layer->number >= 0 && layer->stack != NULL);
  require(layer->is_moe || (params->num_experts == 1 && params->top_k == 1));
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++)
    require(moecl_layer_tensor_size(params, (moecl_tensor)t) >= 0);
}

/* Refused as a whole, or in formats that there are. */
static void check_quantization(const model_quantization *q) {
  require(!q->refused || (q->method && q->num_groups == 0));
  require(q->num_groups <= MODEL_MAX_GROUPS);
  for (size_t i = 0; i < q->num_groups; i++) {
    bool known;
    require(q->groups[i].format > MOECL_FORMAT_BF16 && q->groups[i].format < MOECL_FORMAT_COUNT);
    model_group_has(&q->groups[i], "model.layers.1.mlp.experts.0.gate_proj", &known);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const json_limits limits = {.depth = 64, .values = 100000, .python = true};
  int messages = 0;
  json_t *root;
  model_description description = {0};
  const moecl_log log = {count_messages, &messages};
  moecl_status status = json_parse(&log, "fuzz", "it", (const char *)data, size, limits, &root);
  require((status == MOECL_OK) == json_is_object(root));
  if (status == MOECL_OK) status = model_describe(&log, "fuzz", root, &description);
  require(messages == (status != MOECL_OK));
  require((status == MOECL_OK) == (description.num_layers > 0));
  for (int64_t i = 0; i < description.num_layers; i++) check_layer(&description.layers[i]);
  check_quantization(&description.quantization);
  model_description_free(&description);
  json_decref(root);
  return 0;
}

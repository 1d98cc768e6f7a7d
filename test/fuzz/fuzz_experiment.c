// SPDX-License-Identifier: MIT
/* libFuzzer target: whatever the bytes, an experiment either has sound points
 * or is refused with a message, and nothing leaks.
 *
 * Up to the first NUL the input is the file; every further NUL-ended piece is
 * one --set. To run for ten minutes:
 *   fuzz_experiment -max_total_time=600 -dict=test/fuzz/experiment.dict NEW test/fuzz/seeds configs
 * where NEW is an empty folder that collects inputs. */
#include "experiment/experiment.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
  if (!condition) abort(); /* how libFuzzer learns of a failure */
}

static void check_loaded(const experiment *experiment) {
  char label[256];
  require(experiment->num_points > 0 && experiment->num_points <= 10000);
  require(experiment->name != NULL && experiment->device != NULL);
  for (size_t i = 0; i < experiment->num_points; i += 1 + experiment->num_points / 16) {
    const experiment_point *point = &experiment->points[i];
    require(moecl_layer_params_check(&point->layer, NULL, 0) == MOECL_OK);
    require(point->num_tokens > 0 && point->num_tokens * point->layer.top_k <= INT32_MAX);
    require(moecl_expert_capacity(&point->layer, point->num_tokens) >= -1);
    experiment_point_label(experiment, i, label, sizeof label);
  }
  json_t *json = json_loads(experiment->resolved_json, 0, NULL);
  require(json_is_object(json));
  json_decref(json);
}

static void check_one(const char *text, size_t size, const experiment_override *overrides,
                      size_t num_overrides) {
  experiment experiment;
  char *error = NULL;
  if (experiment_parse(text, size, "configs/fuzz.yaml", overrides, num_overrides, &experiment,
                       &error)) {
    require(error == NULL);
    check_loaded(&experiment);
  } else {
    struct experiment zeros = {0};
    require(error != NULL && strlen(error) > 0);
    require(memcmp(&experiment, &zeros, sizeof zeros) == 0);
  }
  experiment_destroy(&experiment);
  free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  enum { MAX_OVERRIDES = 8 };
  experiment_override overrides[MAX_OVERRIDES];
  size_t num_overrides = 0;
  char *text = malloc(size + 1);
  if (text == NULL) return 0;
  memcpy(text, data, size);
  text[size] = '\0';
  size_t file_size = strlen(text);
  for (size_t at = file_size + 1; at < size && num_overrides < MAX_OVERRIDES;
       at += strlen(text + at) + 1)
    overrides[num_overrides++].assignment = text + at;
  check_one(text, file_size, overrides, num_overrides);
  if (file_size < size) check_one(text, size, NULL, 0); /* the NUL itself */
  free(text);
  return 0;
}

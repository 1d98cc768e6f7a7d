// SPDX-License-Identifier: MIT
/* results.json before anything is measured: what another program fills in, so that neither the
 * experiment's file nor its keys are read anywhere else. */
#include "base/json_text.h"
#include "experiment/settings.h"
#include "results/provenance.h"
#include "results/results_private.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

/* No time, no rate, nothing that ran. `error` is not freed. */
static point_result not_measured(size_t index, char *error) {
  point_result point = {.index = index,
                        .status = POINT_ERROR,
                        .error = error,
                        .tokens_per_s = NAN,
                        .tflops = NAN,
                        .gbytes_per_s = NAN,
                        .host_ms = NAN};
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    point.time_ms[stage] = (sample_summary){NAN, NAN, NAN};
  return point;
}

static json_t *defaults_json(void) {
  json_t *defaults = json_object();
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    json_t *value = schema_param(key) ? settings_json_default(key) : NULL;
    if (value) json_object_set_new(defaults, schema_param(key), value);
  }
  return defaults;
}

/* The text of results.json, as a value. */
static json_t *results_value(const experiment *plan) {
  static char error[] = "not measured";
  results all = {.experiment = plan, .kernels = {.hash = "none"}};
  all.points = calloc(plan->num_points + 1, sizeof *all.points);
  all.have = calloc(plan->num_points + 1, sizeof *all.have);
  json_t *run = provenance_now(plan);
  all.runs = run ? json_pack("[o]", run) : NULL;
  char *text = NULL;
  if (all.points && all.have && all.runs) {
    for (size_t i = 0; i < plan->num_points; i++) {
      all.points[i] = not_measured(i, error);
      all.have[i] = true;
    }
    text = results_json(&all);
  }
  json_t *value = text ? json_loads(text, 0, NULL) : NULL;
  free(text);
  json_decref(all.runs);
  free(all.points);
  free(all.have);
  return value;
}

char *results_to_fill(const experiment *plan) {
  json_t *root =
      json_pack("{s:o, s:o}", "defaults", defaults_json(), "results", results_value(plan));
  char *text = root ? json_text(root, 2) : NULL;
  json_decref(root);
  return text;
}

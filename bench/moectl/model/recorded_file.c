// SPDX-License-Identifier: MIT
/* A recording's tensors. */
#include "base/complain.h"
#include "model/recorded.h"
#include "run/workload.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

const char *quantity_name(quantity q) {
  static const char *const names[QUANTITIES] = {"router_logits", "topk_ids", "topk_weights",
                                                "output"};
  return names[q];
}

int64_t quantity_columns(const moecl_layer_params *params, quantity q) {
  return q == LOGITS ? params->num_experts : q == OUTPUT ? params->hidden_size : params->top_k;
}

/* A tensor [rows, columns], dimensions of 1 before them aside; rows -1: any, told in
 * *rows. False: bad input, which is complained about. */
static bool read_matrix(const moecl_safetensors *file, const char *name, int64_t *rows,
                        int64_t columns, double **values) {
  const char *path = moecl_safetensors_path(file);
  const moecl_safetensors_tensor *tensor = moecl_safetensors_find(file, name);
  char shape[RECORDING_SHAPE_TEXT];
  int first = 0;
  while (first < tensor->rank - 2 && tensor->shape[first] == 1) first++;
  if (tensor->rank - first != 2 || tensor->shape[first + 1] != columns ||
      (*rows >= 0 && tensor->shape[first] != *rows)) {
    complain("%s: tensor '%s': expected the shape [%s%.0" PRId64 ", %" PRId64 "], it has %s", path,
             name, *rows < 0 ? "num_tokens" : "", *rows < 0 ? 0 : *rows, columns,
             recording_shape(tensor, shape));
    return false;
  }
  *rows = tensor->shape[first];
  *values = malloc((size_t)tensor->count * sizeof **values + 1);
  if (!*values) {
    complain("no memory");
    return false;
  }
  if (moecl_safetensors_to_double(file, tensor, 0, tensor->count, *values) != MOECL_OK)
    return false;
  for (uint64_t i = 0; i < tensor->count; i++)
    if (!isfinite((*values)[i])) {
      complain("%s: tensor '%s': token %" PRIu64 " has a number that is not finite", path, name,
               i / (uint64_t)columns);
      return false;
    }
  return true;
}

static bool holds(const double *ids, int64_t count, double id) {
  for (int64_t k = 0; k < count; k++)
    if (ids[k] == id) return true;
  return false;
}

static bool ids_are_experts(const char *path, const moecl_layer_params *params,
                            const recorded *recorded) {
  const int64_t count = params->top_k;
  const double *ids = recorded->values[IDS];
  for (int64_t i = 0; ids && i < recorded->num_tokens * count; i++) {
    const char *why = NULL;
    if (ids[i] != floor(ids[i]) || ids[i] < -1 || ids[i] >= (double)params->num_experts) why = "";
    else if (ids[i] >= 0 && holds(ids + i / count * count, i % count, ids[i])) why = " twice";
    if (!why) continue;
    complain("%s: tensor 'topk_ids': token %" PRId64 " has %g%s, expected different experts, 0 to "
             "%" PRId64 ", or -1",
             path, i / count, ids[i], why, params->num_experts - 1);
    return false;
  }
  return true;
}

bool recorded_read(const moecl_safetensors *file, const moecl_layer_params *params, bool is_moe,
                   recorded *recorded) {
  const char *path = moecl_safetensors_path(file);
  int found = 0;
  *recorded = (struct recorded){.num_tokens = -1};
  if (!moecl_safetensors_find(file, "hidden_states")) {
    complain("%s: has no tensor 'hidden_states'", path);
    return false;
  }
  if (!read_matrix(file, "hidden_states", &recorded->num_tokens, params->hidden_size,
                   &recorded->hidden))
    return false;
  for (quantity q = 0; q < QUANTITIES; q++) {
    /* A dense layer has no router to be compared. */
    if (!moecl_safetensors_find(file, quantity_name(q)) || (!is_moe && q != OUTPUT)) continue;
    if (!read_matrix(file, quantity_name(q), &recorded->num_tokens, quantity_columns(params, q),
                     &recorded->values[q]))
      return false;
    found++;
  }
  if (found == 0)
    complain("%s: has nothing to compare with: expected router_logits, topk_ids, topk_weights or "
             "output",
             path);
  if (recorded->num_tokens == 0) complain("%s: has no tokens", path);
  return found > 0 && recorded->num_tokens > 0 && ids_are_experts(path, params, recorded);
}

void recorded_release(recorded *recorded) {
  free(recorded->hidden);
  for (quantity q = 0; q < QUANTITIES; q++) free(recorded->values[q]);
  *recorded = (struct recorded){0};
}

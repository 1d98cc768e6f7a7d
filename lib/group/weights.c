// SPDX-License-Identifier: MIT
/* Weights into a group's layer: what all need to all members of this
 * process, an expert's to those of its owners. */
#include "base/base.h"
#include "group/group.h"
#include <stdlib.h>

static bool is_expert(moecl_tensor tensor) {
  return tensor >= MOECL_GATE_UP_PROJ && tensor <= MOECL_DOWN_BIAS;
}

static moecl_status give_item(moecl_group_layer *layer, moecl_tensor tensor, int64_t item,
                              const void *src) {
  const group_placement *p = &layer->placement;
  if (!is_expert(tensor)) {
    for (int m = layer->group->begin; m < layer->group->end; m++)
      MOECL_TRY(moecl_layer_set_weights(layer->member[m].share, tensor, item, 1, src));
    return MOECL_OK;
  }
  for (int32_t c = p->first[item]; c < p->first[item + 1]; c++)
    if (group_has(layer->group, p->member[c]))
      MOECL_TRY(
          moecl_layer_set_weights(layer->member[p->member[c]].share, tensor, p->place[c], 1, src));
  return MOECL_OK;
}

moecl_status moecl_group_layer_set_weights(moecl_group_layer *layer, moecl_tensor tensor,
                                           int64_t first_expert, int64_t count, const void *src) {
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  const moecl_log *log = group_log(layer->group);
  const int64_t items =
      (unsigned)tensor < MOECL_TENSOR_COUNT ? moecl_layer_tensor_items(&layer->params, tensor) : 0;
  if (items == 0)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "set_weights: this layer has no tensor %d",
                     (int)tensor);
  if (first_expert < 0 || count < 0 || count > items || first_expert > items - count)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "set_weights: %lld items from item %lld on of tensor %d, which has %lld",
                     (long long)count, (long long)first_expert, (int)tensor, (long long)items);
  if (!src) return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "set_weights: src is NULL");
  const uint64_t one = moecl_layer_tensor_bytes(&layer->params, tensor);
  for (int64_t i = 0; i < count; i++)
    MOECL_TRY(give_item(layer, tensor, first_expert + i, (const char *)src + (uint64_t)i * one));
  return MOECL_OK;
}

/* ---- from a checkpoint ---- */

/* What only other processes' members have is theirs to read. */
static bool wants(const void *user, moecl_tensor tensor, int64_t item) {
  const moecl_group_layer *layer = user;
  const group_placement *p = &layer->placement;
  if (!is_expert(tensor)) return true;
  for (int32_t c = p->first[item]; c < p->first[item + 1]; c++)
    if (group_has(layer->group, p->member[c])) return true;
  return false;
}

static moecl_status load_item(void *user, moecl_tensor tensor, int64_t item, const void *values) {
  return give_item(user, tensor, item, values);
}

moecl_status moecl_group_layer_load(moecl_group_layer *layer, moecl_checkpoint *checkpoint,
                                    int64_t index) {
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  const layer_loading into = {&layer->params, group_log(layer->group), load_item, wants, layer};
  return layer_load_items(&into, checkpoint, index);
}

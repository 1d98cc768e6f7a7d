// SPDX-License-Identifier: MIT
/* How many rows go where: the first member's table, which all have. */
#include "group/group.h"

int64_t group_started(const moecl_group_layer *layer, int member, int bin, int which) {
  const int bins = layer->group->count * layer->chunks;
  return layer->starts[(member * bins + bin) * 2 + which];
}

int64_t group_part(const moecl_group_layer *layer, int member, int bin, int which) {
  return group_started(layer, member + 1, bin, which) - group_started(layer, member, bin, which);
}

int64_t group_before_bin(const moecl_group_layer *layer, int member, int bin, int which) {
  int64_t sum = 0;
  for (int b = 0; b < bin; b++) sum += group_part(layer, member, b, which);
  return sum;
}

int64_t group_before_chunk(const moecl_group_layer *layer, int owner, int chunk, int which) {
  int64_t sum = 0;
  for (int c = 0; c < chunk; c++)
    sum += group_started(layer, layer->group->count, owner * layer->chunks + c, which);
  return sum;
}

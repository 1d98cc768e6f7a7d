// SPDX-License-Identifier: MIT
/* How many rows go where: the first member's table, which all have. */
#include "base/base.h"
#include "base/grow.h"
#include "group/group.h"
#include <stdlib.h>

int64_t group_started(const moecl_group_layer *layer, int member, int bin, int which) {
  const int bins = layer->group->count * layer->chunks;
  return layer->starts[(member * bins + bin) * 2 + which];
}

int64_t group_part(const moecl_group_layer *layer, int member, int bin, int which) {
  return group_started(layer, member + 1, bin, which) - group_started(layer, member, bin, which);
}

/* ---- sums: of each member's parts before a bin, and behind those of each owner's rows before a
 * chunk. What is asked for is asked for each pair of members. ---- */

static int64_t *before_bin(const moecl_group_layer *layer, int member, int bin) {
  const int bins = layer->group->count * layer->chunks;
  return &layer->sums[(member * (bins + 1) + bin) * 2];
}

static int64_t *before_chunk(const moecl_group_layer *layer, int owner, int chunk) {
  return before_bin(layer, layer->group->count, 0) + (owner * (layer->chunks + 1) + chunk) * 2;
}

static moecl_status make_room(moecl_group_layer *layer) {
  const size_t members = (size_t)layer->group->count, chunks = (size_t)layer->chunks;
  const size_t count = 2 * members * (members * chunks + 1 + chunks + 1);
  int64_t *sums = base_grow(layer->sums, count, &layer->sums_room, sizeof *sums);
  if (!sums)
    return log_error(group_log(layer->group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  layer->sums = sums;
  return MOECL_OK;
}

static void add_up_member(moecl_group_layer *layer, int m, int which) {
  const int members = layer->group->count, chunks = layer->chunks;
  before_bin(layer, m, 0)[which] = before_chunk(layer, m, 0)[which] = 0;
  for (int b = 0; b < members * chunks; b++)
    before_bin(layer, m, b + 1)[which] =
        before_bin(layer, m, b)[which] + group_part(layer, m, b, which);
  for (int c = 0; c < chunks; c++)
    before_chunk(layer, m, c + 1)[which] =
        before_chunk(layer, m, c)[which] + group_started(layer, members, m * chunks + c, which);
}

moecl_status group_add_up(moecl_group_layer *layer) {
  MOECL_TRY(make_room(layer));
  for (int m = 0; m < layer->group->count; m++) {
    add_up_member(layer, m, GROUP_ROWS);
    add_up_member(layer, m, GROUP_SLOTS);
  }
  return MOECL_OK;
}

int64_t group_before_bin(const moecl_group_layer *layer, int member, int bin, int which) {
  return before_bin(layer, member, bin)[which];
}

int64_t group_before_chunk(const moecl_group_layer *layer, int owner, int chunk, int which) {
  return before_chunk(layer, owner, chunk)[which];
}

// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/check.h"
#include "op/permute/rounds.h"

/* Expert 3 is an identity expert; a choice is dropped, and all of the last token's are none. Slots
 * as they come: expert 0 has 0 and 1, expert 1 has 2 to 4, expert 2 has 5, expert 3 has 6 and 7.
 * They are to lie 2, 0, 1. */
enum { EXPERTS = 3, PLACES = 2, ROUNDS = 2, TOKENS = 5, TOP_K = 2, ALL = TOKENS * TOP_K };
enum { LIST = EXPERTS + ROUNDS * 2 * (PLACES + 1), NOBODY = -7 };

static const int32_t ids[ALL] = {1, 0, 3, 1, 2, 1, 0, 3, -1, -1};
static const int32_t slots[ALL] = {2, 0, 6, 3, 5, 4, 1, 7, -1, -1};
static const int32_t list[LIST] = {1, 1, -5, 0, 0, 1, 0, 0, 1, 1, 3, 6, 5, 6, 9};
static const int32_t moved[ALL] = {3, 1, 6, 4, 0, 5, 2, 7, -1, -1};
static const int32_t tokens[ALL] = {2, 0, 3, 0, 1, 2, 1, 3, NOBODY, NOBODY};
/* Of the second round. */
static const int32_t offsets[PLACES + 1] = {1, 3, 6}, tiles[PLACES + 1] = {5, 6, 9};

static moecl_status check(check_run *run, void *op) {
  moecl_buffer **b = run->buffer;
  int32_t nobody[ALL];
  for (int i = 0; i < ALL; i++) nobody[i] = NOBODY;
  MOECL_TRY(check_upload_words(run->context, ids, ALL, &b[0]));
  MOECL_TRY(check_upload_words(run->context, slots, ALL, &b[1]));
  MOECL_TRY(check_upload_words(run->context, list, LIST, &b[2]));
  for (int i = 3; i < 7; i++) MOECL_TRY(check_upload_words(run->context, nobody, ALL, &b[i]));
  const op_rounds_io io = {.num_tokens = TOKENS,
                           .topk_ids = b[0],
                           .assignment_slot = b[1],
                           .list = b[2],
                           .moved_slot = b[3],
                           .moved_token = b[4]};
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_rounds_enqueue_slots(op, &chain, &io));
  MOECL_TRY(op_rounds_enqueue_offsets(op, &chain, 1, b[2], b[5], b[6]));
  MOECL_TRY(check_ints(run, "moved_slot", b[3], moved, ALL));
  MOECL_TRY(check_ints(run, "moved_token", b[4], tokens, ALL));
  MOECL_TRY(check_ints(run, "expert_offsets", b[5], offsets, PLACES + 1));
  return check_ints(run, "tile_offsets", b[6], tiles, PLACES + 1);
}

moecl_status op_rounds_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc) {
  check_run run = {&op_rounds_kind, context, variant, {NULL}};
  const op_rounds_desc small = {.num_experts = EXPERTS, .places = PLACES, .top_k = TOP_K};
  op_rounds rounds;
  (void)desc;
  MOECL_TRY(check_begin(&run, &small, &rounds));
  return check_end(&run, &rounds, rounds.kernels, OP_ROUNDS_KERNELS, check);
}

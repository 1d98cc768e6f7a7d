// SPDX-License-Identifier: MIT
/* What the self-checks of operations that choose experts share (router, route): a small problem's
 * sizes, and the verdict on choices and lists. */
#ifndef MOECL_LIB_OP_ROUTER_CHECK_H
#define MOECL_LIB_OP_ROUTER_CHECK_H

#include "op/check.h"
#include "op/router/router.h"

enum {
  ROUTER_EXPERTS = 70, /* more in groups of equal size */
  ROUTER_MOST_EXPERTS = 96,
  ROUTER_TOP_K = 7,
  ROUTER_MOST_TOKENS = 21,
  ROUTER_MOST_CHOICES = ROUTER_MOST_TOKENS * ROUTER_TOP_K,
  ROUTER_SEED = 5,
  ROUTER_TILE_M = 2 /* of the GEMM that a permutation is for */
};

/* The rule on a small problem. */
desc_rule router_small(const desc_rule *rule);
/* The choices of io->num_tokens tokens, which are read into `ids`. */
moecl_status router_compare_choices(const check_run *run, const desc_rule *rule,
                                    const float *logits, const float *bias, const op_router_io *io,
                                    int32_t *ids);
/* Buffers of a permutation for so many tokens, from run->buffer[first] on, eight of them. */
enum { ROUTER_LISTS = 6 };
moecl_status router_make_lists(check_run *run, int first, const desc_rule *rule, int64_t num_tokens,
                               op_permute_io *lists);
/* The lists that should be made of the choices. */
moecl_status router_compare_lists(const check_run *run, const desc_rule *rule, const int32_t *ids,
                                  const op_permute_io *lists);

#endif

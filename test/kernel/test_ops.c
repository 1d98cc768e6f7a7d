// SPDX-License-Identifier: MIT
/* Operations one by one: permute and combine against plain C. */
#include "layers.h"
#include "op/combine/combine.h"
#include "ops.h"
#include "op/permute/scale.h"
#include "op/router/router.h"
#include <math.h>

static uint64_t random_state;

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t random_bits(void) {
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
static int64_t random_below(int64_t bound) { return (int64_t)(random_bits() % (uint64_t)bound); }
static float random_float(void) { return (float)(random_bits() >> 40) * 0x1p-24f; }

static void same_words(const char *what, const char *name, const moecl_buffer *buffer,
                       const int32_t *want, uint64_t count) {
  int32_t *got = allocate(count * 4);
  assert_ok(moecl_buffer_read_wait(buffer, 0, count * 4, got));
  for (uint64_t i = 0; i < count; i++)
    if (got[i] != want[i]) {
      fprintf(stderr, "%s, MOECL_TEST_SEED=%llu: %s[%llu] is %d, expected %d\n", what,
              (unsigned long long)case_seed(), name, (unsigned long long)i, got[i], want[i]);
      fail();
    }
  free(got);
}

/* ---- permute ---- */

typedef enum id_fill { IDS_RANDOM, IDS_HOT, IDS_SPARSE, IDS_HOLES } id_fill;

typedef struct permute_case {
  const char *name;
  int64_t tokens, experts, top_k;
  id_fill fill;
  double capacity_factor;
  int64_t min_capacity;
  moecl_drop_policy policy;
  int distinct_weights; /* 0: all different */
  int64_t identities;   /* the last experts, which have no capacity */
} permute_case;

/* Different ids for each token: all of random experts, expert 3 always first, a
 * few experts only, or with tokens routed nowhere. */
static void draw_ids(const permute_case *c, int32_t *ids) {
  const int64_t few = c->top_k * 2 < c->experts ? c->top_k * 2 : c->experts;
  for (int64_t t = 0; t < c->tokens; t++) {
    const bool nowhere = c->fill == IDS_HOLES && random_below(3) == 0;
    for (int64_t k = 0; k < c->top_k; k++) {
      bool again = true;
      while (again) {
        ids[k] = (int32_t)random_below(c->fill == IDS_SPARSE ? few : c->experts);
        if (c->fill == IDS_HOT && k == 0) ids[k] = (int32_t)(c->experts > 3 ? 3 : 0);
        again = false;
        for (int64_t j = 0; j < k; j++) again |= ids[j] == ids[k];
      }
    }
    for (int64_t k = 0; nowhere && k < c->top_k; k++) ids[k] = -1;
    ids += c->top_k;
  }
}

static void draw_weights(const permute_case *c, float *weights) {
  for (int64_t i = 0; i < c->tokens * c->top_k; i++)
    weights[i] =
        c->distinct_weights ? (float)random_below(c->distinct_weights) / 8 : random_float();
}

typedef struct permuted {
  int32_t *tokens_per_expert, *expert_offsets, *tile_offsets, *slot_token, *assignment_slot;
  int64_t slots;
} permuted;

/* The order in which an expert's assignments are listed. */
static int64_t listed(const moecl_layer_params *layer, int64_t tokens, int64_t p) {
  const bool by_choice = layer->capacity_factor > 0 && layer->drop_policy != MOECL_DROP_PROBABILITY;
  return by_choice ? p % tokens * layer->top_k + p / tokens : p;
}

/* Plain C: kept from the reference, then each expert's list, one after another. */
static void model(const moecl_layer_params *layer, int64_t tokens, int32_t tile_m,
                  const int32_t *ids, const float *weights, const float *priority, permuted *p) {
  const int64_t experts = layer->num_experts, all = tokens * layer->top_k;
  uint8_t *kept = allocate((size_t)all);
  int32_t *next = allocate((size_t)experts * 4);
  assert_ok(moecl_reference_capacity(layer, tokens, ids, weights, priority, kept));
  p->tokens_per_expert = allocate((size_t)experts * 4);
  p->expert_offsets = allocate(((size_t)experts + 1) * 4);
  p->tile_offsets = allocate(((size_t)experts + 1) * 4);
  p->slot_token = allocate((size_t)all * 4);
  p->assignment_slot = allocate((size_t)all * 4);
  for (int64_t i = 0; i < all; i++) {
    if (ids[i] < 0) continue;
    p->tokens_per_expert[ids[i]]++;
    p->expert_offsets[ids[i] + 1] += kept[i];
  }
  for (int64_t e = 0; e < experts; e++) {
    p->tile_offsets[e + 1] = p->tile_offsets[e] + (p->expert_offsets[e + 1] + tile_m - 1) / tile_m;
    p->expert_offsets[e + 1] += p->expert_offsets[e];
    next[e] = p->expert_offsets[e];
  }
  p->slots = p->expert_offsets[experts];
  for (int64_t q = 0; q < all; q++) {
    const int64_t i = listed(layer, tokens, q);
    p->assignment_slot[i] = -1;
    if (!kept[i]) continue;
    p->slot_token[next[ids[i]]] = (int32_t)(i / layer->top_k);
    p->assignment_slot[i] = next[ids[i]]++;
  }
  free(kept);
  free(next);
}

static void release_model(permuted *p) {
  free(p->tokens_per_expert);
  free(p->expert_offsets);
  free(p->tile_offsets);
  free(p->slot_token);
  free(p->assignment_slot);
}

/* Logits of which as many tokens have the same as have the same weights, and some
 * that are not numbers where a token is routed nowhere. */
static void draw_logits(const permute_case *c, const int32_t *ids, float *logits) {
  for (int64_t t = 0; t < c->tokens; t++)
    for (int64_t e = 0; e < c->experts; e++)
      logits[t * c->experts + e] =
          ids[t * c->top_k] < 0 && e == t % c->experts ? (t % 2 ? NAN : INFINITY)
          : c->distinct_weights                        ? (float)(t % c->distinct_weights * (e == 0))
                                                       : 8 * random_float();
}

/* The device's priorities, which rounding may order otherwise than the reference's. */
static float *read_priorities(const permute_case *c, const float *logits,
                              const moecl_buffer *buffer) {
  double *wide = allocate((size_t)c->experts * sizeof *wide);
  float *priority = allocate((size_t)c->tokens * sizeof *priority);
  assert_ok(moecl_buffer_read_wait(buffer, 0, (uint64_t)c->tokens * sizeof *priority, priority));
  for (int64_t t = 0; t < c->tokens; t++) {
    moecl_to_double(MOECL_F32, logits + t * c->experts, (size_t)c->experts, wide);
    const double want = moecl_reference_priority(wide, c->experts);
    if (fabs((double)priority[t] - want) <= 1e-5 * want) continue;
    fail_msg("%s: token_priority[%lld] is %.9g, expected %.9g", c->name, (long long)t,
             (double)priority[t], want);
  }
  free(wide);
  return priority;
}

static void same_lists(const permute_case *c, const op_permute_io *io, const permuted *want) {
  const uint64_t experts = (uint64_t)c->experts, all = (uint64_t)(c->tokens * c->top_k);
  same_words(c->name, "tokens_per_expert", io->tokens_per_expert, want->tokens_per_expert, experts);
  same_words(c->name, "expert_offsets", io->expert_offsets, want->expert_offsets, experts + 1);
  same_words(c->name, "tile_offsets", io->tile_offsets, want->tile_offsets, experts + 1);
  same_words(c->name, "assignment_slot", io->assignment_slot, want->assignment_slot, all);
  same_words(c->name, "slot_token", io->slot_token, want->slot_token, (uint64_t)want->slots);
}

static void check_permute(const permute_case *c, const kernel_variant *variant) {
  const moecl_layer_params layer = {.num_experts = c->experts,
                                    .num_identity_experts = c->identities,
                                    .top_k = c->top_k,
                                    .hidden_size = 1,
                                    .intermediate_size = 1,
                                    .capacity_factor = c->capacity_factor,
                                    .min_capacity = c->min_capacity,
                                    .drop_policy = c->policy};
  const uint64_t all = (uint64_t)(c->tokens * c->top_k), experts = (uint64_t)c->experts;
  int32_t *ids = allocate(all * 4);
  float *weights = allocate(all * 4), *logits = allocate((size_t)c->tokens * experts * 4);
  float *priority = NULL;
  draw_ids(c, ids);
  draw_weights(c, weights);
  draw_logits(c, ids, logits);
  permuted want;
  op_permute permute;
  const desc_dispatch dispatch = desc_dispatch_of(&layer);
  assert_ok(op_permute_kind.create(context, variant, &dispatch, &permute));
  moecl_buffer *b[] = {words(ids, all),
                       words(weights, all),
                       words(NULL, op_permute_most_blocks(c->tokens, c->top_k) * experts),
                       words(NULL, experts),
                       words(NULL, experts + 1),
                       words(NULL, experts + 1),
                       words(NULL, experts + 1),
                       words(NULL, all),
                       words(NULL, all),
                       words(NULL, all),
                       words(logits, (uint64_t)c->tokens * experts),
                       words(NULL, (uint64_t)c->tokens)};
  const op_permute_io io = {.num_tokens = c->tokens,
                            .logits = b[10],
                            .token_priority = b[11],
                            .topk_ids = b[0],
                            .topk_weights = b[1],
                            .block_counts = b[2],
                            .tokens_per_expert = b[3],
                            .expert_offsets = b[4],
                            .tile_offsets = b[5],
                            .all_offsets = b[6],
                            .slot_token = b[7],
                            .assignment_slot = b[8],
                            .order = b[9],
                            .tile_m = 48};
  ocl_chain chain = {.context = context};
  assert_ok(op_permute_enqueue(&permute, &chain, &io));
  if (desc_prioritizes(&dispatch)) priority = read_priorities(c, logits, b[11]);
  model(&layer, c->tokens, 48, ids, weights, priority, &want);
  same_lists(c, &io, &want);
  for (size_t i = 0; i < sizeof b / sizeof b[0]; i++) moecl_buffer_destroy(&b[i]);
  op_permute_kind.release(&permute);
  release_model(&want);
  free(ids);
  free(weights);
  free(logits);
  free(priority);
}

#define POSITION MOECL_DROP_POSITION
#define PRIORITIZED MOECL_DROP_PRIORITIZED
#define PROBABILITY MOECL_DROP_PROBABILITY
static const permute_case permute_cases[] = {
    {"one assignment", 1, 1, 1, IDS_RANDOM, 0, 0, POSITION, 0},
    {"one block exactly", 128, 8, 2, IDS_RANDOM, 0, 0, POSITION, 0},
    {"one more than a block", 257, 8, 1, IDS_RANDOM, 0, 0, POSITION, 0},
    {"many blocks", 30011, 60, 4, IDS_RANDOM, 0, 0, POSITION, 0},
    {"1024 experts", 700, 1024, 64, IDS_RANDOM, 0, 0, POSITION, 0},
    {"one expert has all", 5000, 1, 1, IDS_HOT, 0, 0, POSITION, 0},
    {"hot", 5000, 16, 2, IDS_HOT, 0, 0, POSITION, 0},
    {"empty experts", 999, 200, 3, IDS_SPARSE, 0, 0, POSITION, 0},
    {"nowhere", 999, 7, 3, IDS_HOLES, 0, 0, POSITION, 0},
    {"position", 3001, 13, 5, IDS_RANDOM, 0.9, 0, POSITION, 0},
    {"position, hot", 3001, 16, 2, IDS_HOT, 1.0, 0, POSITION, 0},
    {"position, many blocks", 30011, 60, 4, IDS_SPARSE, 1.0, 0, POSITION, 0},
    {"position, nowhere", 999, 7, 3, IDS_HOLES, 0.5, 0, POSITION, 0},
    {"position, min_capacity", 50, 1024, 4, IDS_HOT, 0.001, 2, POSITION, 0},
    {"position, identities", 3001, 13, 5, IDS_RANDOM, 0.5, 0, POSITION, 0, 7},
    {"position, all but one identities", 3001, 130, 2, IDS_HOT, 1.0, 0, POSITION, 0, 129},
    {"position, 1024 experts, identities", 700, 1024, 64, IDS_RANDOM, 0.8, 0, POSITION, 0, 1},
    {"probability, identities, ties", 3001, 13, 5, IDS_RANDOM, 0.5, 0, PROBABILITY, 5, 4},
    {"probability, all but one identities", 999, 7, 3, IDS_HOLES, 0.5, 0, PROBABILITY, 0, 6},
    {"prioritized, identities, ties", 3001, 13, 5, IDS_RANDOM, 0.5, 0, PRIORITIZED, 5, 12},
    {"probability", 3001, 13, 5, IDS_RANDOM, 0.9, 0, PROBABILITY, 0},
    {"probability, hot", 3001, 16, 2, IDS_HOT, 1.0, 0, PROBABILITY, 0},
    {"probability, many blocks", 30011, 60, 4, IDS_SPARSE, 1.0, 0, PROBABILITY, 0},
    {"probability, nowhere", 999, 7, 3, IDS_HOLES, 0.5, 0, PROBABILITY, 0},
    {"probability, 1024 experts", 300, 1024, 64, IDS_RANDOM, 0.8, 0, PROBABILITY, 0},
    {"probability, min_capacity", 50, 1024, 4, IDS_HOT, 0.001, 2, PROBABILITY, 0},
    {"probability, ties", 3001, 13, 5, IDS_RANDOM, 0.7, 0, PROBABILITY, 5},
    {"probability, all tied", 3001, 13, 5, IDS_HOT, 0.7, 0, PROBABILITY, 1}, /* weights of 0 */
    {"probability, enough for all", 300, 13, 5, IDS_HOT, 13.0, 0, PROBABILITY, 3},
    {"prioritized", 3001, 13, 5, IDS_RANDOM, 0.9, 0, PRIORITIZED, 0},
    {"prioritized, hot", 3001, 16, 2, IDS_HOT, 1.0, 0, PRIORITIZED, 0},
    {"prioritized, top 1", 1001, 16, 1, IDS_HOT, 0.7, 0, PRIORITIZED, 0},
    {"prioritized, nowhere", 999, 7, 3, IDS_HOLES, 0.5, 0, PRIORITIZED, 0},
    {"prioritized, 1024 experts", 300, 1024, 64, IDS_RANDOM, 0.8, 0, PRIORITIZED, 0},
    {"prioritized, a choice exactly", 40, 8, 8, IDS_RANDOM, 0.5, 0, PRIORITIZED, 0},
    {"prioritized, ties", 3001, 13, 5, IDS_RANDOM, 0.7, 0, PRIORITIZED, 5},
    {"prioritized, all tied", 3001, 13, 5, IDS_HOT, 0.7, 0, PRIORITIZED, 1},
    {"prioritized, enough for all", 300, 13, 5, IDS_HOT, 13.0, 0, PRIORITIZED, 3},
};

/* One work-item looks at an expert's list 31 times to find its smallest surviving key:
 * some drivers cut such loops short (MOECL_CAP_LONG_LOOPS). */
static bool cuts_short(const kernel_variant *variant, const permute_case *c) {
  enum { ROUNDS = 65535, PASSES = 32 };
  return variant->local == 1 && c->tokens * PASSES > ROUNDS &&
         !(context->info.capabilities & MOECL_CAP_LONG_LOOPS);
}

static bool takes_permute_case(const kernel_variant *variant, const permute_case *c) {
  const desc_dispatch dispatch = {.capacity_factor = c->capacity_factor, .counted = true};
  if (cuts_short(variant, c)) return false;
  return serves_here(variant, MOECL_F32) && kernel_variant_accepts(variant, &dispatch);
}

static void test_permute(void **state) {
  (void)state;
  const kernel_variant *variants = op_permute_table.rows;
  const size_t count = op_permute_table.count;
  for (size_t v = 0; v < count; v++)
    for (size_t i = 0; i < sizeof permute_cases / sizeof permute_cases[0]; i++)
      if (takes_permute_case(&variants[v], &permute_cases[i]))
        check_permute(&permute_cases[i], &variants[v]);
}

/* ---- permute behind routers by blocks ---- */

static const permute_case router_cases[] = {
    {"router, no tokens", 0, 16, 2, IDS_RANDOM},
    {"router, one token", 1, 17, 3, IDS_RANDOM},
    {"router, one expert", 20, 1, 1, IDS_RANDOM},
    {"router, the most of one launch", 32, 60, 8, IDS_RANDOM},
    {"router, one token more", 33, 60, 8, IDS_RANDOM},
    {"router, few nowhere", 30, 7, 3, IDS_HOLES},
    {"router, few of 1024 experts", 32, 1024, 64, IDS_RANDOM},
    {"router, 1024 experts", 75, 1024, 64, IDS_RANDOM},
    {"router, empty experts", 300, 200, 3, IDS_SPARSE},
    {"router, nowhere", 999, 7, 3, IDS_HOLES},
    {"router, a block of one token", 1025, 13, 5, IDS_HOT},
    {"router, long blocks", 5000, 33, 2, IDS_RANDOM},
};

/* A rule that chooses by logits alone, and one that does not and leaves choices out. */
static moecl_layer_params routed(const permute_case *c, bool drawn) {
  moecl_layer_params layer = {
      .num_experts = c->experts, .top_k = c->top_k, .hidden_size = 1, .intermediate_size = 1};
  if (!drawn) return layer;
  layer.scoring = MOECL_SCORING_SIGMOID;
  layer.score_correction_bias = true;
  layer.second_choice = MOECL_SECOND_RANDOM;
  return layer;
}

/* Logits by which tokens choose as draw_ids has it. */
static void draw_choices(const permute_case *c, float *logits) {
  for (int64_t t = 0; t < c->tokens; t++) {
    for (int64_t e = 0; e < c->experts; e++)
      logits[t * c->experts + e] = random_float() * 4 + (c->fill == IDS_HOT && e == 3 ? 5 : 0) +
                                   (c->fill == IDS_SPARSE && e < c->top_k * 2 ? 5 : 0);
    if (c->fill == IDS_HOLES && random_below(3) == 0)
      logits[t * c->experts + random_below(c->experts)] = NAN;
  }
}

/* Each block's choices of each expert. */
static int32_t *count_blocks(const permute_case *c, const int32_t *ids, uint64_t *count) {
  const int64_t each = op_permute_tokens_per_block(c->tokens);
  *count = c->tokens > 0 ? (uint64_t)((c->tokens + each - 1) / each * c->experts) : 0;
  int32_t *counts = allocate(*count * 4);
  for (int64_t i = 0; i < c->tokens * c->top_k; i++)
    if (ids[i] >= 0) counts[i / c->top_k / each * c->experts + ids[i]]++;
  return counts;
}

typedef struct lists {
  moecl_buffer *buffer[6];
  op_permute_io io;
} lists;

static lists make_lists(const permute_case *c, const op_router_io *router) {
  const uint64_t experts = (uint64_t)c->experts, all = (uint64_t)(c->tokens * c->top_k);
  lists made = {.buffer = {words(NULL, experts), words(NULL, experts + 1), words(NULL, experts + 1),
                           words(NULL, experts + 1), words(NULL, all + 1), words(NULL, all + 1)}};
  made.io = (op_permute_io){.num_tokens = c->tokens,
                            .topk_ids = router->topk_ids,
                            .topk_weights = router->topk_weights,
                            .block_counts = router->block_counts,
                            .tokens_per_expert = made.buffer[0],
                            .expert_offsets = made.buffer[1],
                            .tile_offsets = made.buffer[2],
                            .all_offsets = made.buffer[3],
                            .slot_token = made.buffer[4],
                            .assignment_slot = made.buffer[5],
                            .tile_m = 48};
  return made;
}

static void compare_lists(const permute_case *c, const moecl_layer_params *layer,
                          const int32_t *ids, const void *weights, lists *made) {
  permuted want;
  model(layer, c->tokens, 48, ids, weights, NULL, &want);
  same_lists(c, &made->io, &want);
  same_words(c->name, "all_offsets", made->io.all_offsets, want.expert_offsets,
             (uint64_t)c->experts + 1);
  release_model(&want);
  for (int i = 0; i < 6; i++) moecl_buffer_destroy(&made->buffer[i]);
}

/* The router counts and the permutation goes on from there; of few tokens, the router
 * alone makes the same choice and the lists of it. */
static void check_routed(const permute_case *c, bool drawn, const kernel_variant *variant,
                         const kernel_variant *second) {
  const moecl_layer_params layer = routed(c, drawn);
  const uint64_t all = (uint64_t)(c->tokens * c->top_k), experts = (uint64_t)c->experts;
  const uint64_t scores = (uint64_t)c->tokens * experts + 1; /* no buffer is empty */
  float *logits = allocate(scores * 4), *bias = allocate(experts * 4);
  int32_t *ids = allocate(all * 4), *weights = allocate(all * 4); /* fp32, as words */
  draw_choices(c, logits);
  for (uint64_t e = 0; e < experts; e++) bias[e] = random_float() / 8;
  const desc_rule rule = desc_rule_of(&layer);
  const desc_dispatch dispatch = desc_dispatch_of(&layer);
  op_router router;
  op_permute permute;
  assert_ok(op_router_kind.create(context, variant, &rule, &router));
  assert_ok(op_permute_kind.create(context, second, &dispatch, &permute));
  moecl_buffer *b[] = {words(logits, scores), words(bias, experts), words(NULL, all + 1),
                       words(NULL, all + 1),
                       words(NULL, op_permute_most_blocks(c->tokens, c->top_k) * experts + 1)};
  const op_router_io io = {.num_tokens = c->tokens,
                           .seed = case_seed(),
                           .logits = b[0],
                           .correction_bias = b[1],
                           .topk_ids = b[2],
                           .topk_weights = b[3],
                           .block_counts = b[4]};
  ocl_chain chain = {.context = context};
  if (c->tokens > 0) {
    uint64_t count;
    lists made = make_lists(c, &io);
    assert_ok(op_router_enqueue(&router, &chain, &io));
    assert_ok(op_permute_enqueue_counted(&permute, &chain, &made.io));
    assert_ok(moecl_buffer_read_wait(b[2], 0, all * 4, ids));
    assert_ok(moecl_buffer_read_wait(b[3], 0, all * 4, weights));
    int32_t *counts = count_blocks(c, ids, &count);
    same_words(c->name, "block_counts", b[4], counts, count);
    compare_lists(c, &layer, ids, weights, &made);
    free(counts);
  }
  if (op_router_can_permute(router.driver, permute.driver, c->tokens)) {
    lists made = make_lists(c, &io);
    assert_ok(moecl_buffer_fill_byte(b[2], 0, (all + 1) * 4, 0xcd));
    assert_ok(moecl_buffer_fill_byte(b[3], 0, (all + 1) * 4, 0xcd));
    assert_ok(op_router_enqueue_permuted(&router, &chain, &io, &made.io));
    same_words(c->name, "topk_ids", b[2], ids, all);
    same_words(c->name, "topk_weights", b[3], weights, all); /* the same bits */
    compare_lists(c, &layer, ids, weights, &made);
  }
  for (size_t i = 0; i < BASE_COUNT(b); i++) moecl_buffer_destroy(&b[i]);
  op_router_kind.release(&router);
  op_permute_kind.release(&permute);
  free(logits), free(bias), free(ids), free(weights);
}

/* This variant of the router with every permutation that goes on from counts. */
static size_t check_router_variant(const kernel_variant *variant) {
  const desc_dispatch dispatch = {.counted = true};
  size_t run = 0;
  for (size_t v = 0; v < op_permute_table.count; v++) {
    const kernel_variant *second = &op_permute_table.rows[v];
    if (!((const op_permute_driver *)second->driver)->counts || !serves_here(second, MOECL_F32) ||
        !kernel_variant_accepts(second, &dispatch))
      continue;
    for (size_t i = 0; i < BASE_COUNT(router_cases); i++, run++) {
      check_routed(&router_cases[i], false, variant, second);
      check_routed(&router_cases[i], true, variant, second);
    }
  }
  return run;
}

static void test_permute_routed(void **state) {
  size_t run = 0;
  (void)state;
  for (size_t v = 0; v < op_router_table.count; v++) {
    const kernel_variant *variant = &op_router_table.rows[v];
    const op_router_driver *driver = variant->driver;
    if (driver->by_block && serves_here(variant, MOECL_F32) &&
        kernel_variant_fits(variant, &context->info))
      run += check_router_variant(variant);
  }
  if (run == 0) skip(); /* no work-groups of that size */
}

/* ---- combine ---- */

/* Is `got` the exact number rounded to nearest, but for an fp32 sum's rounding? */
static bool is_nearest(moecl_dtype dtype, double got, double exact) {
  static const int bits[] = {24, 11, 8}; /* of the significands */
  int exponent;
  frexp(exact, &exponent);
  const double half = dtype == MOECL_F32 ? 0 : ldexp(1, exponent - bits[dtype] - 1);
  return fabs(got - exact) <= half + 1e-5 * fmax(fabs(exact), 1);
}

/* Of these forms: weights on the output or the input; no shared expert, one, one
 * with a gate. Rows of `values` behind the slots' are the shared expert's. With identity
 * experts the second half of the slots have no rows, which are NaN. */
enum { PLAIN_FORM, INPUT_FORM, SHARED_FORM, GATE_FORM, FORMS };

static void check_combine(const kernel_variant *variant, int64_t tokens, int64_t hidden,
                          int64_t top_k, moecl_dtype dtype, bool input_f32, int form,
                          bool identity) {
  const op_combine_desc desc = {.hidden_size = hidden,
                                .top_k = top_k,
                                .input = desc_format_of(input_f32 ? MOECL_F32 : dtype),
                                .output = desc_format_of(dtype),
                                .weighted = form != INPUT_FORM,
                                .shared = form >= SHARED_FORM,
                                .shared_gate = form == GATE_FORM,
                                .first_identity = identity ? 2 : 0};
  const moecl_dtype from = input_f32 ? MOECL_F32 : dtype;
  const size_t all = (size_t)(tokens * top_k), slot_rows = all + 1, out = (size_t)(tokens * hidden);
  const size_t rows = slot_rows + (size_t)tokens;
  double *values = allocate(rows * (size_t)hidden * 8), *want = allocate(out * 8);
  double *got = allocate(out * 8);
  void *raw = allocate(rows * (size_t)hidden * 4);
  int32_t *slots = allocate(all * 4);
  float *weights = allocate(all * 4), *factors = allocate((size_t)tokens * 4);
  const int32_t rowless = identity ? (int32_t)(slot_rows / 2) : (int32_t)slot_rows;
  const int32_t offsets[] = {0, 0, rowless, (int32_t)slot_rows, (int32_t)slot_rows};
  double *tokens_in = allocate(out * 8);
  moecl_buffer *states = NULL, *offset = words(offsets, 5);
  assert_ok(moecl_buffer_create(context, out * moecl_dtype_size(dtype), &states));
  for (size_t i = 0; i < out; i++) tokens_in[i] = random_float() - 0.5;
  moecl_from_double(dtype, tokens_in, out, raw);
  moecl_to_double(dtype, raw, out, tokens_in);
  assert_ok(moecl_buffer_write_wait(states, 0, moecl_buffer_size(states), raw));
  for (size_t i = 0; i < rows * (size_t)hidden; i++) {
    const int64_t slot = (int64_t)i / hidden;
    values[i] = slot >= rowless && slot < (int64_t)slot_rows ? NAN : random_float() - 0.5;
  }
  moecl_from_double(from, values, rows * (size_t)hidden, raw);
  moecl_to_double(from, raw, rows * (size_t)hidden, values);
  for (size_t i = 0; i < all; i++) {
    slots[i] = random_below(4) ? (int32_t)random_below((int64_t)slot_rows) : -1;
    if (i < (size_t)top_k) slots[i] = -1; /* the first token is dropped fully */
    weights[i] = random_float();
    const double weight = form == INPUT_FORM ? 1.0 : (double)weights[i];
    const int64_t token = (int64_t)i / top_k;
    const double *row =
        slots[i] >= rowless ? tokens_in + token * hidden : values + slots[i] * hidden;
    for (int64_t h = 0; slots[i] >= 0 && h < hidden; h++)
      want[token * hidden + h] += weight * row[h];
  }
  for (size_t i = 0; form >= SHARED_FORM && i < out; i++) {
    float *factor = &factors[i / (size_t)hidden];
    if (i % (size_t)hidden == 0) *factor = random_float();
    want[i] += (form == GATE_FORM ? (double)*factor : 1.0) * values[slot_rows * (size_t)hidden + i];
  }
  moecl_buffer *input = NULL, *output = NULL, *slot = words(slots, all),
               *weight = words(weights, all);
  assert_ok(moecl_buffer_create(context, rows * (size_t)hidden * moecl_dtype_size(from), &input));
  assert_ok(moecl_buffer_write_wait(input, 0, moecl_buffer_size(input), raw));
  const size_t row = (size_t)hidden * moecl_dtype_size(from);
  moecl_buffer *factor = words(factors, (size_t)tokens), *shared = NULL;
  assert_ok(moecl_buffer_create(context, (size_t)tokens * row, &shared));
  assert_ok(
      moecl_buffer_write_wait(shared, 0, (size_t)tokens * row, (char *)raw + slot_rows * row));
  assert_ok(moecl_buffer_create(context, out * moecl_dtype_size(dtype), &output));
  assert_ok(moecl_buffer_fill_byte(output, 0, moecl_buffer_size(output), 0xff));
  op_combine combine;
  assert_ok(op_combine_kind.create(context, variant, &desc, &combine));
  ocl_chain chain = {.context = context};
  const op_combine_io io = {.num_tokens = tokens,
                            .expert_output = input,
                            .assignment_slot = slot,
                            .topk_weights = weight,
                            .shared = shared,
                            .hidden_states = states,
                            .expert_offsets = offset,
                            .shared_gate = factor,
                            .output = output};
  assert_ok(op_combine_enqueue(&combine, &chain, &io));
  assert_ok(moecl_buffer_read_wait(output, 0, moecl_buffer_size(output), raw));
  moecl_to_double(dtype, raw, out, got);
  for (int64_t h = 0; form < SHARED_FORM && h < hidden; h++)
    assert_true(got[h] == 0.0 && !signbit(got[h]));
  for (size_t i = 0; i < out; i++) assert_true(is_nearest(dtype, got[i], want[i]));
  op_combine_kind.release(&combine);
  moecl_buffer *buffers[] = {input, output, slot, weight, factor, shared, states, offset};
  for (int i = 0; i < 8; i++) moecl_buffer_destroy(&buffers[i]);
  free(tokens_in), free(values), free(want), free(got), free(raw), free(slots), free(weights),
      free(factors);
}

static void test_combine(void **state) {
  static const int64_t sizes[][3] = {{20, 64, 2},  {33, 67, 5},  {3, 1, 1},
                                     {7, 257, 64}, {2, 3000, 3}, {5, 1032, 8}};
  const kernel_variant *variants = op_combine_table.rows;
  const size_t count = op_combine_table.count;
  (void)state;
  for (size_t v = 0; v < count; v++)
    for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
      if (!serves_here(&variants[v], (moecl_dtype)dtype)) continue;
      for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
        const desc_format *type = desc_format_of((moecl_dtype)dtype);
        const op_combine_desc desc = {.hidden_size = sizes[i / 2][1],
                                      .input = i % 2 ? desc_format_of(MOECL_F32) : type,
                                      .output = type};
        if (!kernel_variant_accepts(&variants[v], &desc)) continue;
        for (int form = 0; form < 2 * FORMS; form++)
          if (form != FORMS + INPUT_FORM) /* not with identity experts */
            check_combine(&variants[v], sizes[i / 2][0], sizes[i / 2][1], sizes[i / 2][2],
                          (moecl_dtype)dtype, i % 2, form % FORMS, form >= FORMS);
      }
    }
}

/* ---- weights on inputs ---- */

/* Rows by slot, exactly as rounded to fp32 and then to the storage type, also where
 * they are written as fp32. Nothing else is touched: the last slot has no row. */
static void check_scale(int64_t tokens, int64_t hidden, int64_t top_k, moecl_dtype dtype,
                        bool f32) {
  const op_scale_desc desc = {.hidden_size = hidden,
                              .top_k = top_k,
                              .rows = desc_format_of(f32 ? MOECL_F32 : dtype),
                              .rounded = desc_format_of(dtype)};
  const moecl_dtype row_type = f32 ? MOECL_F32 : dtype;
  const size_t all = (size_t)(tokens * top_k), width = (size_t)hidden;
  double *x = allocate((size_t)tokens * width * 8), *got = allocate((all + 1) * width * 8);
  void *raw = allocate((all + 1) * width * 4);
  int32_t *slots = allocate(all * 4);
  float *weights = allocate(all * 4);
  for (size_t i = 0; i < (size_t)tokens * width; i++) x[i] = random_float() - 0.5;
  moecl_from_double(dtype, x, (size_t)tokens * width, raw);
  moecl_to_double(dtype, raw, (size_t)tokens * width, x);
  x[0] = INFINITY;
  x[(size_t)tokens * width - 1] = NAN;
  for (size_t i = 0; i < all; i++) { /* every fifth one is dropped */
    slots[i] = i % 5 == 4 ? -1 : (int32_t)(all - 1 - i);
    weights[i] = random_float();
  }
  moecl_buffer *input = NULL, *scaled = NULL, *slot = words(slots, all);
  moecl_buffer *weight = words(weights, all);
  moecl_from_double(row_type, x, (size_t)tokens * width, raw);
  const size_t one = moecl_dtype_size(row_type);
  assert_ok(moecl_buffer_create(context, (size_t)tokens * width * one, &input));
  assert_ok(moecl_buffer_write_wait(input, 0, moecl_buffer_size(input), raw));
  assert_ok(moecl_buffer_create(context, (all + 1) * width * one, &scaled));
  assert_ok(moecl_buffer_fill_byte(scaled, 0, moecl_buffer_size(scaled), 0xff)); /* NaN */
  op_scale scale;
  assert_ok(op_scale_kind.create(context, op_scale_kind.table->rows, &desc, &scale));
  ocl_chain chain = {.context = context};
  const op_scale_io io = {.num_tokens = tokens,
                          .hidden = input,
                          .assignment_slot = slot,
                          .topk_weights = weight,
                          .scaled = scaled};
  assert_ok(op_scale_enqueue(&scale, &chain, &io));
  assert_ok(moecl_buffer_read_wait(scaled, 0, moecl_buffer_size(scaled), raw));
  moecl_to_double(row_type, raw, (all + 1) * width, got);
  for (size_t i = 0; i < all; i++)
    for (size_t h = 0; h < width; h++) {
      const double product = (float)(weights[i] * (float)x[i / (size_t)top_k * width + h]);
      double want;
      float bits; /* holds any storage type */
      moecl_from_double(dtype, &product, 1, &bits);
      moecl_to_double(dtype, &bits, 1, &want);
      const double is = got[(all - 1 - i) * width + h];
      assert_true(slots[i] < 0 || isnan(want) ? isnan(is) : is == want);
    }
  for (size_t h = 0; h < width; h++) assert_true(isnan(got[all * width + h]));
  op_scale_kind.release(&scale);
  moecl_buffer *buffers[] = {input, scaled, slot, weight};
  for (int i = 0; i < 4; i++) moecl_buffer_destroy(&buffers[i]);
  free(x), free(got), free(raw), free(slots), free(weights);
}

static void test_scale(void **state) {
  (void)state;
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++)
    for (int f32 = 0; f32 < 2; f32++) {
      check_scale(1, 1, 1, (moecl_dtype)dtype, f32);
      check_scale(9, 67, 3, (moecl_dtype)dtype, f32);
      check_scale(5, 1032, 2, (moecl_dtype)dtype, f32);
      check_scale(3, 2056, 11, (moecl_dtype)dtype, f32);
      check_scale(4, 1028, 5, (moecl_dtype)dtype, f32);
    }
}

static int seed_again(void **state) {
  (void)state;
  random_state = case_seed();
  return 0;
}

/* usage: test_ops [test] */
int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_permute, seed_again),
                                     cmocka_unit_test_setup(test_permute_routed, seed_again),
                                     cmocka_unit_test_setup(test_combine, seed_again),
                                     cmocka_unit_test_setup(test_scale, seed_again)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("ops", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}

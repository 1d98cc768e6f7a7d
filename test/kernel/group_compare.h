// SPDX-License-Identifier: MIT
/* A layer on a group beside the same one on one device: outputs, routing and statistics. */
#ifndef MOECL_TEST_GROUP_COMPARE_H
#define MOECL_TEST_GROUP_COMPARE_H

#include "group_run.h"

enum { HIDDEN = 40, INNER = 24, EXPERTS = 8, TOP_K = 3, TOKENS = 150 };

static const moecl_layer_params plain = {.hidden_size = HIDDEN,
                                         .intermediate_size = INNER,
                                         .num_experts = EXPERTS,
                                         .top_k = TOP_K,
                                         .batch_invariant = true};

typedef struct arrangement {
  int members;
  int64_t split[MOST_MEMBERS];
  int32_t chunks;
  double weights[MOST_MEMBERS]; /* zeros: even */
} arrangement;

static inline moecl_group_layer_params params_of(const arrangement *a) {
  double sum = 0;
  for (int m = 0; m < a->members; m++) sum += a->weights[m];
  return (moecl_group_layer_params){.placement = sum > 0 ? MOECL_PLACE_WEIGHTED : MOECL_PLACE_EVEN,
                                    .member_weights = a->weights,
                                    .chunks = a->chunks};
}

static inline void check_routing(const moecl_routing *got, const moecl_routing *want) {
  const size_t slots = (size_t)(want->num_tokens * want->top_k);
  assert_int_equal(got->num_tokens, want->num_tokens);
  assert_int_equal(got->capacity, want->capacity);
  assert_memory_equal(got->router_logits, want->router_logits,
                      (size_t)(want->num_tokens * want->num_experts) * sizeof(float));
  assert_memory_equal(got->topk_ids, want->topk_ids, slots * sizeof(int32_t));
  assert_memory_equal(got->topk_weights, want->topk_weights, slots * sizeof(float));
  assert_memory_equal(got->kept, want->kept, slots);
  assert_memory_equal(got->tokens_per_expert, want->tokens_per_expert,
                      (size_t)want->num_experts * sizeof(int64_t));
  assert_memory_equal(got->tokens_per_expert_after_capacity, want->tokens_per_expert_after_capacity,
                      (size_t)want->num_experts * sizeof(int64_t));
}

static inline void check_statistics(together *t, const moecl_routing *routing) {
  int64_t rows = 0, kept = 0;
  uint64_t sent = 0, received = 0, choices_sent = 0, choices_received = 0, copied = 0;
  const char *transport = moecl_group_transport(t->group);
  for (int m = 0; m < t->members; m++) {
    moecl_group_statistics s;
    assert_ok(moecl_group_layer_statistics_wait(t->layer, (size_t)m, &s));
    assert_int_equal(s.num_tokens, t->split[m]);
    assert_int_equal(s.experts, moecl_group_layer_experts(t->layer, (size_t)m, NULL, 0));
    rows += s.rows;
    sent += s.bytes_sent;
    received += s.bytes_received;
    choices_sent += s.choice_bytes_sent;
    choices_received += s.choice_bytes_received;
    copied += s.copied_bytes + s.stored_bytes;
    assert_true(s.stored_bytes == 0 || strstr(transport, "nvidia_peer"));
    assert_true(!(s.hidden_ms > s.transfer_ms) && s.kernels_ms <= s.layer_ms);
  }
  const int64_t experts = routing->num_experts - routing->num_identity_experts;
  for (int64_t e = 0; e < experts; e++) kept += routing->tokens_per_expert_after_capacity[e];
  assert_int_equal(rows, kept);
  /* An id and a weight a choice, and where there are priorities one a token, to all others. */
  const int64_t of_token = 8 * routing->top_k + (routing->token_priority ? 4 : 0);
  const int64_t choices = ranks.comm ? 0 : of_token * routing->num_tokens * (t->members - 1);
  assert_true((int64_t)choices_sent == choices && choices_received == choices_sent);
  /* Each side copies, or the sender alone, if not its experts' kernels; with several processes in
   * these. */
  const uint64_t once = sent + choices_sent;
  if (strstr(transport, "+nvidia_")) assert_in_range(copied, once, 2 * once);
  else assert_int_equal(copied, once * (strncmp(transport, "nvidia_", 7) == 0 ? 1 : 2));
  assert_true(sent == received && (t->members == 1 ? sent == 0 : sent > 0));
}

static inline void compare(const problem *p, const moecl_group_layer_params *params, int members,
                           const int64_t *split, const char *what) {
  moecl_routing want_routing, routing;
  moecl_status status;
  void *want = run_alone(p, 11, &want_routing);
  together t = make_together(p, params, members, split);
  void *got = run_together(&t, 11, &status);
  assert_ok(status);
  if (!same_output(&t, got, want))
    fail_msg("%s: the outputs of %d members differ from one device's", what, members);
  assert_ok(moecl_group_layer_read_routing_wait(t.layer, &routing));
  check_routing(&routing, &want_routing);
  check_statistics(&t, &routing);
  moecl_routing_destroy(&routing);
  moecl_routing_destroy(&want_routing);
  free_together(&t);
  free(got), free(want);
}

#endif

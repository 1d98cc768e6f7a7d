// SPDX-License-Identifier: MIT
/* What the router decided, and how evenly. */
#ifndef MOECL_ROUTING_H
#define MOECL_ROUTING_H

#include "moecl/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moecl_routing_statistics {
  /* Switch/GShard auxiliary loss as transformers' load_balancing_loss_func
   * computes it (without a mask): E * sum_e (assignments_e / T) *
   * mean_t softmax(logits)_te, T the tokens with finite logits. The softmax,
   * here and below, whatever the layer's scoring. */
  double load_balancing_loss;
  /* mean_t logsumexp(logits_t)^2 (ST-MoE, Zoph et al. 2022, equation 5). */
  double router_z_loss;
  /* mean_t of the entropy of softmax(logits_t), in nats. */
  double entropy;
  /* max_e / mean_e and standard deviation / mean_e (population) of
   * tokens_per_expert before capacity, over the E - Z experts that are no identity. */
  double max_mean_imbalance;
  double coefficient_of_variation;
  /* Dropped assignments over T*K; tokens that were routed nowhere, and second
   * choices that were not kept, had none to drop. */
  double dropped_fraction;
  /* The share of rows that padding every expert to the busiest one (after
   * capacity) would waste: 1 - kept / ((E - Z) * max_e), identity experts, which have
   * no rows, left out. moecl itself does not pad. */
  double padding_waste;
  /* Assignments to identity experts over T*K. */
  double identity_fraction;
  /* Tokens whose router logits are not finite. They are routed nowhere (topk_ids -1,
   * weights 0) and get nothing from the routed experts: output 0. A shared
   * expert still adds what it computes of the token, NaN if the token has a NaN.
   * They are left out of the three means over tokens above. */
  int64_t nonfinite_tokens;
  int64_t first_nonfinite_token; /* -1: none */
  /* Tokens of finite logits whose choice scores are not finite (a correction bias is
   * not, or takes them beyond fp32). They are routed nowhere likewise. */
  int64_t nonfinite_score_tokens;
  int64_t first_nonfinite_score_token; /* -1: none */
  /* Tokens that were routed and whose weights are all 0: their scores underflowed, so
   * the routed experts add nothing. */
  int64_t zero_weight_tokens;
  int64_t first_zero_weight_token; /* -1: none */
  uint64_t reserved[16];           /* zeros: see moecl.h */
} moecl_routing_statistics;

typedef struct moecl_routing {
  int64_t num_tokens, num_experts, top_k;
  int64_t num_identity_experts; /* the last ones */
  float *router_logits;         /* [T,E] */
  int32_t *topk_ids;            /* [T,K], in the order of choice; -1: none */
  float *topk_weights;          /* [T,K], before capacity: see moecl_reference_kept_weights */
  uint8_t *kept;                /* [T,K], 1: survived capacity */
  float *token_priority;        /* [T], of MOECL_DROP_PRIORITIZED with a capacity, else NULL: the
                                   largest share in the softmax of the token's logits */
  int64_t *tokens_per_expert;   /* [E], before capacity */
  int64_t *tokens_per_expert_after_capacity; /* [E] */
  int64_t capacity;                          /* assignments an expert may take; -1: dropless */
  moecl_routing_statistics statistics;
  uint64_t reserved[16]; /* zeros: see moecl.h */
} moecl_routing;

/* Waits: reads the routing of the layer's latest forward. Its workspace must
 * still be there and not have served another layer since
 * (MOECL_ERROR_NOT_READY). The arrays are host memory and belong to
 * *routing, which the caller releases with moecl_routing_destroy; what *routing held before
 * is not released, and on failure it is all zeros. Thread: the context's. */
MOECL_API moecl_status moecl_layer_read_routing_wait(moecl_layer *layer, moecl_routing *routing);
/* Releases the arrays and sets all to zeros. Thread-safe. */
MOECL_API void moecl_routing_destroy(moecl_routing *routing);

/* ceil(capacity_factor * T * K / E), where what rounding alone lifts above a whole
 * number is that number; with capacity_of_tokens ceil(capacity_factor * T) as double
 * precision has it. At least min_capacity; -1 for capacity_factor 0 (dropless), 0 for
 * NULL. In assignments. Thread-safe. */
MOECL_API int64_t moecl_expert_capacity(const moecl_layer_params *params, int64_t num_tokens);

/* The statistics from host arrays (shapes as in moecl_routing); host memory
 * only. T = 0 gives zeros, and so does NULL, also of router_logits and the two counts an
 * expert; the last two counts of tokens are 0 where topk_ids or topk_weights is NULL.
 * *statistics may be routing->statistics. Thread-safe. */
MOECL_API void moecl_routing_statistics_compute(const moecl_routing *routing,
                                                moecl_routing_statistics *statistics);

#ifdef __cplusplus
}
#endif
#endif

// SPDX-License-Identifier: MIT
/* A family of models as one row of data: how config.json states sizes and rule,
 * and what the tensors are called. The rows are in families.c and
 * families_newer.c; CONTRIBUTING.md explains how to add one. Expressions are those
 * of config.h; a member that a family has no use for is left out, which means 0,
 * false or "none". */
#ifndef MOECL_LIB_MODEL_FAMILY_H
#define MOECL_LIB_MODEL_FAMILY_H

#include "moecl/layer.h"

/* How a matrix lies in its file, where it is not [rows, columns] row-major. */
enum {
  FFN_TRANSPOSED = 1 << 0,      /* every matrix [columns, rows] */
  FFN_DOWN_TRANSPOSED = 1 << 1, /* down alone */
  FFN_INTERLEAVED = 1 << 2,     /* gate_up has gate, up, gate, up, ... */
  FFN_UP_FIRST = 1 << 3,        /* gate_up has all of up, then all of gate */
  FFN_FLAT = 1 << 4,            /* experts below each other in one matrix, [E rows, columns] */
  FFN_ONE_DOWN_BIAS = 1 << 5,   /* one down bias for all experts: the weights' sum must be 1 */
  FFN_EITHER = 1 << 6           /* stacked experts are transposed in some files and not in others:
                                   their shapes tell */
};

/* A feed-forward network's tensors, as patterns after the layer's prefix:
 * {expert} stands for the expert; without it, experts are stacked, [E, ...].
 * Alternatives are separated by '|'. Either gate and up, or gate_up, which is
 * both in one; plain networks have up alone. */
typedef struct family_ffn {
  const char *gate, *up, *gate_up, *down;
  const char *gate_bias, *up_bias, *gate_up_bias, *down_bias;
  const char *has_bias; /* NULL: where there are patterns for it */
  unsigned layout;
} family_ffn;

/* Which layers are MoE: those that the list of layer_types says, where it is there;
 * else first <= N <= last, N % step == phase, N not in dense_layers; if there is a list
 * of moe_layers, which may be a text, that instead of first and step. */
typedef struct family_stack {
  const char *prefixes; /* alternatives, with {layer} */
  const char *num_layers;
  const char *kinds; /* instead: keys of a text with a letter a layer, E for MoE, - for dense, or of
                        a list of words, "moe" and "mlp"; others have no feed-forward network and
                        are passed over */
  const char *layer_types; /* keys of a list with an entry a layer: "sparse", 1 or true for MoE */
  const char *first, *last;
  const char *step;                      /* NULL: every layer; 0: none */
  const char *sparse_layers;             /* how many are MoE: gives the step where `step`, which has
                                            no default then, is not there */
  const char *phase;                     /* NULL: step - 1 */
  const char *dense_layers, *moe_layers; /* keys of lists; dense_layers with a default (a=0,1) */
  const char *intermediate_size;         /* instead of the family's */
} family_stack;

typedef struct family {
  const char *name;
  const char *model_types; /* separated by '|' */
  const char *section;     /* where config.json keeps the text model, alternative paths
                              (a.b|a); NULL, or where none is there: at the top */
  const char *refused;     /* "use_bias|norm_topk_prob=1": keys whose value, where it is there and
                              not null, must be that, or false or 0; others ask for what no member
                              describes */
  const char *no_effect;   /* keys that change nothing in these layers, separated by spaces: those
                              of all models are in scripts/check_families.py, which reads this */
  family_stack stacks[2];  /* an encoder's first */

  const char *hidden_size, *intermediate_size, *num_experts, *top_k;
  const char *identity_experts;        /* beside num_experts */
  int least_experts;                   /* with fewer all layers are dense; 0: 1 */
  const char *dense_intermediate_size; /* NULL: intermediate_size */
  const char *shared_intermediate_size;
  const char *activation; /* a name, as transformers' ACT2FN has it */
  bool plain;             /* no gate */
  bool clamped;           /* gpt-oss's SwiGLU, whatever `activation` says */
  const char *swiglu_alpha, *swiglu_limit;
  /* Instead: what SiLU becomes where there is a limit, MOECL_SWIGLU_LIMITED or _SILU, and the
   * limits of the experts, the shared one and dense networks. NULL is none, and so is 0 where
   * that is the default. */
  moecl_activation limited;
  const char *expert_limit, *shared_limit, *dense_limit;

  moecl_scoring scoring;
  const char *scoring_key; /* a text that must be `scoring`'s name, where it is there, or one of
                              the names behind its '=' */
  const char *scorings;    /* instead: a text that names it */
  bool score_after_topk;
  const char *renormalize, *scale;
  const char *renormalize_epsilon, *renormalize_minimum;
  const char *groups, *topk_group;
  const char *groups_when; /* "key=value": groups count then only */
  moecl_group_score group_score;
  bool cut_groups_to_zero;
  const char *sparsemixer_jitter;
  const char *second_choice; /* "all", "random", "sampling" */
  bool weight_on_input;
  const char *shared_combination; /* a text, "sum" or "average" of routed and shared experts */
  const char *capacity_factor;    /* 0: capacity below */
  bool capacity_of_tokens;        /* it is a share of the tokens */
  const char *capacity;           /* tokens an expert takes */
  const char *prioritized;        /* flag: MOECL_DROP_PRIORITIZED */
  const char *renormalize_after_capacity;

  const char *router, *router_bias, *correction_bias, *noise; /* patterns */
  const char *has_router_bias, *has_correction_bias;          /* NULL: where there is a pattern */
  /* Patterns of vectors that are multiplied onto weights when these are read: the router
   * reads the experts' input without the weight of their norm, `router_norm` [H], but times
   * `router_scale` [H] and H^-0.5; route weights are multiplied by `expert_scale` [E]. */
  const char *router_norm, *router_scale, *expert_scale;
  family_ffn experts, shared, dense;
  family_ffn other_experts, other_shared, other_dense; /* how they are called and lie in other files
                                                          of the family: those with its `gate_up`,
                                                          or `down` where it has none */
  const char *shared_gate;
  const char *beside; /* what the layer has beside this network that sounds like a part of it;
                         names' first parts, each with a dot, alternatives with | */
} family;

/* The families of all files, 0 to model_num_families - 1; NULL after the last. */
const family *model_family_at(size_t index);
size_t model_num_families(void);

/* Those of families_newer.c. */
extern const family model_newer_families[];
extern const size_t model_num_newer_families;

#endif

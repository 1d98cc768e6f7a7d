// SPDX-License-Identifier: MIT
#include "experiment/schema.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *format_choice(int i) { return moecl_format_name((moecl_format)i); }
static const char *row_format_choice(int i) {
  return moecl_format_is_for_activations((moecl_format)i) ? moecl_format_name((moecl_format)i)
                                                          : NULL;
}
static const char *search_choice(int i) { return moecl_scale_search_name((moecl_scale_search)i); }
static const char *dtype_choice(int i) { return moecl_dtype_name((moecl_dtype)i); }
static const char *activation_choice(int i) { return moecl_activation_name((moecl_activation)i); }
static const char *drop_choice(int i) { return moecl_drop_policy_name((moecl_drop_policy)i); }
static const char *scoring_choice(int i) { return moecl_scoring_name((moecl_scoring)i); }
static const char *group_choice(int i) { return moecl_group_score_name((moecl_group_score)i); }
static const char *second_choice(int i) { return moecl_second_choice_name((moecl_second_choice)i); }
static const char *distribution_choice(int i) {
  static const char *const names[] = {"normal", "skewed", "file"};
  return i >= 0 && i < 3 ? names[i] : "?";
}

static const char *what_choice(int i) {
  static const char *const names[WHAT_COUNT] = {"layer", "block"};
  return i >= 0 && i < WHAT_COUNT ? names[i] : "?";
}
static const char *placement_choice(int i) {
  static const char *const names[PARALLEL_PLACEMENTS] = {"even", "compute", "capacity", "file",
                                                         "offload"};
  return i >= 0 && i < PARALLEL_PLACEMENTS ? names[i] : "?";
}
static const char *dispatch_choice(int i) {
  return i == MOECL_FORMAT_DTYPE || i == MOECL_FORMAT_FP8_G128 ? moecl_format_name((moecl_format)i)
                                                               : NULL;
}
static const char *eviction_choice(int i) { return moecl_eviction_name((moecl_eviction)i); }
static const char *norm_choice(int i) { return moecl_norm_name((moecl_norm)i); }
static const char *qk_norm_choice(int i) { return moecl_qk_norm_name((moecl_qk_norm)i); }
static const char *rope_choice(int i) { return moecl_rope_scaling_name((moecl_rope_scaling)i); }

static bool is_set(int64_t choice) { return choice != 0; } /* of those whose first is "none" */
static bool has_scales(int64_t i) {
  moecl_format_layout at;
  return moecl_format_get_layout((moecl_format)i, 1, 1, &at) == MOECL_OK &&
         (at.scales || at.matrix_scale);
}
static bool has_positions(int64_t i) { return i == MOECL_ROPE_LLAMA3 || i == MOECL_ROPE_YARN; }
static bool has_limit(int64_t i) { return moecl_activation_has_limit((moecl_activation)i); }

/* A key that is a parameter of a point has the name of its C member. */
#define IN_POINT(field) offsetof(experiment_point, field), sizeof(((experiment_point *)0)->field)
#define IN_EXPERIMENT(field) offsetof(experiment, field), sizeof(((experiment *)0)->field)
#define NOWHERE 0, 0
#define EXPERIMENT(member) #member, IN_EXPERIMENT(member)
#define MEASURE(member) "measure." #member, IN_EXPERIMENT(member)
#define POINT(member) #member, IN_POINT(member)
#define WORKLOAD(member) "workload." #member, IN_POINT(member)
#define LAYER(member) "layer." #member, IN_POINT(layer.member)
#define SHARED(member) "layer.shared." #member, IN_POINT(layer.member)
#define ROUTER(member) "layer.router." #member, IN_POINT(layer.member)
#define CAPACITY(member) "layer.capacity." #member, IN_POINT(layer.member)
#define NO_CHOICE NULL, 0
#define NO_RANGE 0, 0
#define ANY_COUNT 0, INT64_MAX
#define ANY_TEXT 0, 4000
#define MOST_LIMIT 1000000000000000000 /* as good as none, which checkpoints may have */

/* What a key needs to have an effect. */
#define ANY(key)                                                                                   \
  { key, true, 0, NULL }
#define ONE(key, choice)                                                                           \
  { key, false, choice, NULL }
#define WITH_LIMIT                                                                                 \
  { KEY_ACTIVATION, false, 0, has_limit }
#define WITH_SCALES                                                                                \
  { KEY_WEIGHT_FORMAT, false, 0, has_scales }
#define SKEWED ONE(KEY_DISTRIBUTION, WORKLOAD_SKEWED)
#define OF_BLOCK ONE(KEY_WHAT, WHAT_BLOCK)
#define PARALLEL(member) "parallel." #member, IN_POINT(parallel.member)
#define ATTENTION(member) "block.attention." #member, IN_POINT(block.attention.member)
#define ROPE(member) "block.rope.rope_" #member, IN_POINT(block.attention.rope.member)
#define NORM(member) "block.norm.norm_" #member, IN_POINT(block.norm.member)

static const schema_key keys[KEY_COUNT] = {
    [KEY_NAME] = {EXPERIMENT(name), TYPE_TEXT, OF_EXPERIMENT | NOT_WORK, 0, 100, NO_CHOICE, NULL,
                  "Names the results folder. Letters, digits, '.', '_' and '-', beginning with a "
                  "letter or digit. Default: the file's name."},
    [KEY_DEVICE] = {EXPERIMENT(device), TYPE_TEXT, OF_EXPERIMENT | NOT_WORK, ANY_TEXT, NO_CHOICE,
                    "auto",
                    "auto, gpu, cpu, accelerator, PLATFORM:DEVICE indices or part of a name; see "
                    "'moectl devices'. --device overrides it."},
    [KEY_SEED] = {POINT(seed), TYPE_INT, ALL_BITS, ANY_COUNT, NO_CHOICE, "0",
                  "Of all random numbers: weights, inputs, jitter. Same seed, same numbers on "
                  "every device. results.json writes one above 9223372036854775807 in quotes."},
    [KEY_CHECKPOINT] =
        {"layer.checkpoint", NOWHERE, TYPE_TEXT, OF_EXPERIMENT | NULLABLE, ANY_TEXT, NO_CHOICE,
         "null",
         "A model folder, relative to the experiment's folder (with --set: to the "
         "working directory): sizes, rule, dtype and weights are those of its layer "
         "layer.layer; with 'what: block' those of its block too. Beside it only top_k, the "
         "router's renormalize, routed_scaling_factor, second_choice and jitter, capacity, "
         "variants and dtype can be given, and of a block causal, sliding_window, scale and the "
         "rope's theta and scaling."},
    [KEY_CHECKPOINT_LAYER] = {"layer.layer", NOWHERE, TYPE_INT, OF_EXPERIMENT | NULLABLE, ANY_COUNT,
                              NO_CHOICE, "null",
                              "Which of the checkpoint's layers, from 0 on; 'moectl inspect' lists "
                              "them."},
    [KEY_HIDDEN_SIZE] = {LAYER(hidden_size), TYPE_INT, REQUIRED, 1, MOECL_MAX_SIZE, NO_CHOICE, NULL,
                         "H: the width of a token. Any size, odd ones too."},
    [KEY_INTERMEDIATE_SIZE] = {LAYER(intermediate_size), TYPE_INT, REQUIRED, 1, MOECL_MAX_SIZE,
                               NO_CHOICE, NULL, "I: the width inside an expert."},
    [KEY_NUM_EXPERTS] = {LAYER(num_experts), TYPE_INT, REQUIRED, 1, MOECL_MAX_EXPERTS, NO_CHOICE,
                         NULL, "E: how many experts a token chooses from."},
    [KEY_NUM_IDENTITY_EXPERTS] =
        {LAYER(num_identity_experts), TYPE_INT, 0, 0, MOECL_MAX_EXPERTS - 1, NO_CHOICE, "0",
         "The last so many of the E have no weights and return the token, "
         "times its route weight, as LongCat-Flash's zero experts do. They "
         "have no capacity. Fewer than num_experts; not with weight_on_input."},
    [KEY_TOP_K] = {LAYER(top_k), TYPE_INT, REQUIRED | WITH_CHECKPOINT, 1, MOECL_MAX_TOP_K,
                   NO_CHOICE, NULL, "K: experts per token, at most num_experts."},
    [KEY_ACTIVATION] = {LAYER(activation), TYPE_CHOICE, 0, NO_RANGE, activation_choice,
                        MOECL_ACTIVATION_COUNT, "swiglu",
                        "Those named ...glu... are gated (three matrices an expert), the others "
                        "plain (two). swiglu_clamped is gpt-oss's; swiglu_limited "
                        "(GLM-5-Next, Hunyuan 4) and swiglu_limited_silu (Step-3.5, its limit "
                        "after the SiLU) limit gate and up and are otherwise SwiGLU."},
    [KEY_SWIGLU_ALPHA] = {LAYER(swiglu_alpha), TYPE_REAL, MIN_OPEN, 0, 1000, NO_CHOICE, "1.702",
                          "swiglu_clamped: the factor in its sigmoid.",
                          .needs = {ONE(KEY_ACTIVATION, MOECL_SWIGLU_CLAMPED)}},
    [KEY_SWIGLU_LIMIT] = {LAYER(swiglu_limit), TYPE_REAL, MIN_OPEN, 0, MOST_LIMIT, NO_CHOICE, "7",
                          "Where gate and up are cut off, of activations that have a limit: "
                          "their names say so.",
                          .needs = {WITH_LIMIT}},
    [KEY_GATE_UP_BIAS] = {LAYER(gate_up_bias), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                          "Experts have a bias on their first matrix."},
    [KEY_DOWN_BIAS] = {LAYER(down_bias), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                       "Experts have a bias on their last matrix."},
    [KEY_SHARED_INTERMEDIATE_SIZE] =
        {SHARED(shared_intermediate_size), TYPE_INT, NULLABLE, 1, MOECL_MAX_SIZE, NO_CHOICE, "null",
         "The width inside a shared expert, which every token passes beside its k; "
         "null: none.",
         .old_name = "intermediate_size"},
    [KEY_SHARED_GATE] = {SHARED(shared_gate), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                         "The shared expert's output is multiplied by a sigmoid of its own, as "
                         "Qwen2-MoE does. Needs shared_intermediate_size.",
                         .old_name = "gate", .needs = {ANY(KEY_SHARED_INTERMEDIATE_SIZE)}},
    [KEY_SHARED_SWIGLU_LIMIT] = {SHARED(shared_swiglu_limit), TYPE_REAL, MIN_OPEN | NULLABLE, 0,
                                 MOST_LIMIT, NO_CHOICE, "null",
                                 "The shared expert's own swiglu_limit; null: the same.",
                                 .old_name = "swiglu_limit",
                                 .needs = {WITH_LIMIT, ANY(KEY_SHARED_INTERMEDIATE_SIZE)}},
    [KEY_SHARED_SCALING_FACTOR] =
        {SHARED(shared_scaling_factor), TYPE_REAL, MIN_OPEN, 0, 1000000, NO_CHOICE, "1",
         "Multiplies the shared expert's output. 0.5, with 0.5 for "
         "layer.router.routed_scaling_factor, averages it with the routed ones, as "
         "Cohere's MoE does.",
         .old_name = "scaling_factor", .needs = {ANY(KEY_SHARED_INTERMEDIATE_SIZE)}},
    [KEY_WEIGHT_FORMAT] = {"layer.weight_format", IN_POINT(layer.weight_format), TYPE_CHOICE,
                           WITH_CHECKPOINT, NO_RANGE, format_choice, MOECL_FORMAT_COUNT, "dtype",
                           "How the experts' weights are stored, the shared expert's too, so that "
                           "only they are narrow, or wide; dtype: as the rest. Their biases are "
                           "stored so too if it is a data type's format, else as dtype."},
    [KEY_SCALE_SEARCH] = {"layer.scale_search", IN_POINT(scale_search), TYPE_CHOICE,
                          WITH_CHECKPOINT, NO_RANGE, search_choice, MOECL_SCALE_SEARCH_COUNT,
                          "none",
                          "How weights get the scales of their format: none, of each block's "
                          "largest number; mse, of that scale and smaller ones the one with the "
                          "smallest squared error. Not of weights that a checkpoint has in that "
                          "format: theirs stay as they are.",
                          .needs = {WITH_SCALES}},
    [KEY_ACTIVATION_FORMAT] =
        {LAYER(activation_format), TYPE_CHOICE, WITH_CHECKPOINT, NO_RANGE, row_format_choice,
         MOECL_FORMAT_COUNT, "dtype",
         "What hidden states before gate_up and activated rows before down are rounded to on the "
         "device, by scales of each row, for the shared expert too (W8A8); dtype: they are not. "
         "fp8-g128 is DeepSeek-V3's."},
    [KEY_BATCH_INVARIANT] =
        {LAYER(batch_invariant), TYPE_BOOL, WITH_CHECKPOINT, NO_RANGE, NO_CHOICE, "false",
         "A row is summed in the same order whatever rows are beside it: a batch in parts, or on "
         "several devices, gives the same bits. Costs time where tokens are few."},
    [KEY_GROUPED_GEMM_VARIANT] = {LAYER(grouped_gemm_variant), TYPE_TEXT,
                                  AUTO_NULL | WITH_CHECKPOINT | NOT_WORK, ANY_TEXT, NO_CHOICE,
                                  "auto",
                                  "Grouped GEMM kernel by name, e.g. generic, cpu, clblast; auto: "
                                  "the best that serves. 'moectl devices' lists them.",
                                  .old_name = "variant"},
    [KEY_SCORING] =
        {ROUTER(scoring), TYPE_CHOICE, 0, NO_RANGE, scoring_choice, MOECL_SCORING_COUNT, "softmax",
         "What makes scores of logits. sparsemixer (Phi-3.5-MoE) is not with "
         "score_correction_bias, fewer than all groups or another second_choice than all. With "
         "top_k = num_experts, a capacity and 'drop_policy: probability', experts pick tokens "
         "(expert choice)."},
    [KEY_SCORE_AFTER_TOPK] =
        {ROUTER(score_after_topk), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
         "Chooses among logits and makes scores of the k chosen alone, as "
         "gpt-oss, Granite-MoE and JetMoE do. Not with score_correction_bias, fewer than all "
         "groups, or sparsemixer."},
    [KEY_SPARSEMIXER_JITTER] = {ROUTER(sparsemixer_jitter), TYPE_REAL, MIN_OPEN, 0, 1, NO_CHOICE,
                                "0.01",
                                "sparsemixer: how far behind a choice an expert still has a share, "
                                "half of it, relative.",
                                .needs = {ONE(KEY_SCORING, MOECL_SCORING_SPARSEMIXER)}},
    [KEY_RENORMALIZE] = {ROUTER(renormalize), TYPE_BOOL, WITH_CHECKPOINT, NO_RANGE, NO_CHOICE,
                         "true",
                         "Divides a token's k weights by their sum, as Mixtral and Qwen3 do and "
                         "OLMoE does not."},
    [KEY_RENORMALIZE_EPSILON] = {ROUTER(renormalize_epsilon), TYPE_REAL, NULLABLE | MIN_OPEN, 0,
                                 1000000, NO_CHOICE, "null",
                                 "renormalize: is added to that sum, as LFM2 adds 1e-6; null: "
                                 "1e-20 to sigmoid and sqrt_softplus scores (DeepSeek), else "
                                 "nothing.",
                                 .needs = {ONE(KEY_RENORMALIZE, true)}},
    [KEY_RENORMALIZE_MINIMUM] = {ROUTER(renormalize_minimum), TYPE_REAL, 0, 0, 1000000, NO_CHOICE,
                                 "0",
                                 "renormalize: what weights are divided by is at least this "
                                 "(ERNIE 4.5's moe_norm_min).",
                                 .needs = {ONE(KEY_RENORMALIZE, true)}},
    [KEY_ROUTED_SCALING_FACTOR] = {ROUTER(routed_scaling_factor), TYPE_REAL,
                                   MIN_OPEN | WITH_CHECKPOINT, 0, 1000000, NO_CHOICE, "1",
                                   "Multiplies the weights: DeepSeek's routed_scaling_factor.",
                                   .old_name = "scaling_factor"},
    [KEY_SCORE_CORRECTION_BIAS] =
        {ROUTER(score_correction_bias), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
         "Adds a bias to the scores that experts are chosen by, not to their "
         "weights: DeepSeek-V3's e_score_correction_bias.",
         .old_name = "correction_bias"},
    [KEY_NUM_EXPERT_GROUP] =
        {ROUTER(num_expert_group), TYPE_INT, NULLABLE, 1, MOECL_MAX_EXPERT_GROUPS, NO_CHOICE,
         "null",
         "Experts stand in so many groups of neighbours, a divisor of num_experts, and "
         "the k are chosen from the best topk_group of them; null: no groups.",
         .old_name = "groups"},
    [KEY_TOPK_GROUP] =
        {ROUTER(topk_group), TYPE_INT, NULLABLE, 1, MOECL_MAX_EXPERT_GROUPS, NO_CHOICE, "null",
         "How many of the groups, at most num_expert_group, and with at least top_k experts in "
         "them; needed with num_expert_group.",
         .old_name = "topk_groups"},
    [KEY_GROUP_SCORE] =
        {ROUTER(group_score), TYPE_CHOICE, 0, NO_RANGE, group_choice, MOECL_GROUP_SCORE_COUNT,
         "max",
         "What groups are compared by. max: their best expert (DeepSeek-V2); "
         "top2_sum: the sum of their two best (DeepSeek-V3), in groups of two experts or "
         "more.",
         .needs = {ANY(KEY_NUM_EXPERT_GROUP)}},
    [KEY_CUT_GROUPS_TO_ZERO] =
        {ROUTER(cut_groups_to_zero), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
         "Experts in groups that were not taken are chosen by score 0, which wins "
         "against negative ones, instead of not at all: A.X-K2, DeepSeek's first "
         "code. Matters with score_correction_bias.",
         .needs = {ANY(KEY_NUM_EXPERT_GROUP), ONE(KEY_SCORE_CORRECTION_BIAS, true)}},
    [KEY_SECOND_CHOICE] = {ROUTER(second_choice), TYPE_CHOICE, WITH_CHECKPOINT, NO_RANGE,
                           second_choice, MOECL_SECOND_CHOICE_COUNT, "all",
                           "Choices after the first. all: kept; random: each with probability "
                           "2 score (GShard, NLLB); sampled: the best of logits plus Gumbel noise "
                           "(NLLB), not with score_correction_bias, fewer than all groups, or "
                           "sparsemixer."},
    [KEY_ROUTER_NOISE] =
        {ROUTER(router_noise), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
         "Noisy top-k (Shazeer et al. 2017): each logit gets a normal number times "
         "softplus of a second projection; the paper's is with score_after_topk.",
         .old_name = "noise"},
    [KEY_WEIGHT_ON_INPUT] = {ROUTER(weight_on_input), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                             "The route weight multiplies an expert's input instead of its output, "
                             "as Llama 4 does."},
    [KEY_JITTER] = {ROUTER(jitter), TYPE_REAL, MAX_OPEN | WITH_CHECKPOINT, 0, 1, NO_CHOICE, "0",
                    "Multiplies each router input element by a number uniform in "
                    "[1-jitter, 1+jitter]; 0: off."},
    [KEY_ROUTER_BIAS] = {ROUTER(router_bias), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                         "Adds a bias to the router logits.", .old_name = "bias"},
    [KEY_ROUTER_VARIANT] = {ROUTER(router_variant), TYPE_TEXT,
                            AUTO_NULL | WITH_CHECKPOINT | NOT_WORK, ANY_TEXT, NO_CHOICE, "auto",
                            "Router kernel by name; auto: the best that serves.",
                            .old_name = "variant"},
    [KEY_CAPACITY_FACTOR] =
        {CAPACITY(capacity_factor), TYPE_REAL, NULLABLE | MIN_OPEN | WITH_CHECKPOINT, 0, 1000000,
         NO_CHOICE, "null",
         "An expert takes ceil(capacity_factor * T * K / E) assignments; null: dropless "
         "(no limit).",
         .old_name = "factor"},
    [KEY_CAPACITY_OF_TOKENS] =
        {CAPACITY(capacity_of_tokens), TYPE_BOOL, WITH_CHECKPOINT, NO_RANGE, NO_CHOICE, "false",
         "capacity_factor is a share of the tokens instead: ceil(capacity_factor * T), as "
         "NLLB-MoE has it.",
         .old_name = "of_tokens", .needs = {ANY(KEY_CAPACITY_FACTOR)}},
    [KEY_MIN_CAPACITY] = {CAPACITY(min_capacity), TYPE_INT, WITH_CHECKPOINT, ANY_COUNT, NO_CHOICE,
                          "0", "The least capacity, whatever the factor gives.",
                          .needs = {ANY(KEY_CAPACITY_FACTOR)}},
    [KEY_DROP_POLICY] = {CAPACITY(drop_policy), TYPE_CHOICE, WITH_CHECKPOINT, NO_RANGE, drop_choice,
                         MOECL_DROP_POLICY_COUNT, "position",
                         "Who stays when an expert is full. position: first choices before second "
                         "choices, then token order; the others go by a number first, the token's "
                         "or the assignment's: docs/routing.md.",
                         .needs = {ANY(KEY_CAPACITY_FACTOR)}},
    [KEY_RENORMALIZE_AFTER_CAPACITY] =
        {CAPACITY(renormalize_after_capacity), TYPE_BOOL, WITH_CHECKPOINT, NO_RANGE, NO_CHOICE,
         "false",
         "Divides a token's weights by the sum of those that were kept, as "
         "NLLB-MoE does.",
         .old_name = "renormalize"},
    [KEY_NUM_HEADS] = {ATTENTION(num_heads), TYPE_INT, NULLABLE, 1, MOECL_MAX_HEADS, NO_CHOICE,
                       "null", "Heads of queries; a block needs it.", .needs = {OF_BLOCK}},
    [KEY_NUM_KV_HEADS] = {ATTENTION(num_kv_heads), TYPE_INT, NULLABLE, 1, MOECL_MAX_HEADS,
                          NO_CHOICE, "null",
                          "Heads of keys and values, a divisor of num_heads: grouped-query "
                          "attention; null: as many (multi-head).",
                          .needs = {OF_BLOCK}},
    [KEY_HEAD_DIM] = {ATTENTION(head_dim), TYPE_INT, NULLABLE, 1, MOECL_MAX_HEAD_DIM, NO_CHOICE,
                      "null", "The width of a head; null: hidden_size / num_heads.",
                      .needs = {OF_BLOCK}},
    [KEY_CAUSAL] = {"block.attention.causal", IN_POINT(block.causal), TYPE_BOOL, WITH_CHECKPOINT,
                    NO_RANGE, NO_CHOICE, "true",
                    "A token looks at itself and those before it; false: at all (an encoder).",
                    .needs = {OF_BLOCK}},
    [KEY_SLIDING_WINDOW] = {ATTENTION(sliding_window), TYPE_INT, NULLABLE | WITH_CHECKPOINT, 1,
                            MOECL_MAX_POSITIONS, NO_CHOICE, "null",
                            "A token looks at those less than so many away, with 1 at itself "
                            "alone; null: at any distance.",
                            .needs = {OF_BLOCK}},
    [KEY_SINKS] = {ATTENTION(sinks), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                   "Each head has one more logit in its softmax, of no token, as gpt-oss has.",
                   .needs = {OF_BLOCK}},
    [KEY_QKV_BIAS] = {ATTENTION(qkv_bias), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                      "Biases of the projections to queries, keys and values.",
                      .needs = {OF_BLOCK}},
    [KEY_OUTPUT_BIAS] = {ATTENTION(output_bias), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                         "A bias of the projection back to hidden_size.", .needs = {OF_BLOCK}},
    [KEY_QK_NORM] = {ATTENTION(qk_norm), TYPE_CHOICE, 0, NO_RANGE, qk_norm_choice,
                     MOECL_QK_NORM_COUNT, "none",
                     "RMSNorm of queries and keys before they are rotated: of each head (Qwen3) "
                     "or of all of a token's at once (full: OLMoE).",
                     .needs = {OF_BLOCK}},
    [KEY_QK_NORM_EPSILON] = {ATTENTION(qk_norm_epsilon), TYPE_REAL, MIN_OPEN, 0, 1, NO_CHOICE,
                             "1e-05", "Of qk_norm.",
                             .needs = {OF_BLOCK, {KEY_QK_NORM, false, 0, is_set}}},
    [KEY_QK_NORM_PLUS_ONE] = {ATTENTION(qk_norm_plus_one), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE,
                              "false", "Of qk_norm: as norm_plus_one.",
                              .needs = {OF_BLOCK, {KEY_QK_NORM, false, 0, is_set}}},
    [KEY_SCALE] = {ATTENTION(scale), TYPE_REAL, NULLABLE | MIN_OPEN | WITH_CHECKPOINT, 0, 1000000,
                   NO_CHOICE, "null",
                   "Multiplies the products of queries and keys; null: head_dim^-1/2.",
                   .needs = {OF_BLOCK}},
    [KEY_RELATIVE_ATTENTION_NUM_BUCKETS] =
        {ATTENTION(relative_attention_num_buckets), TYPE_INT, NULLABLE, 2,
         MOECL_MAX_RELATIVE_BUCKETS, NO_CHOICE, "null",
         "T5's relative position bias: each head adds a number to a logit, by the bucket of the "
         "key's distance from the query, of so many (T5 and Switch: 32); null: none. It goes "
         "with 'rope_theta: null' and 'scale: 1' there.",
         .needs = {OF_BLOCK}},
    [KEY_RELATIVE_ATTENTION_MAX_DISTANCE] = {ATTENTION(relative_attention_max_distance), TYPE_INT,
                                             0, 2, MOECL_MAX_RELATIVE_DISTANCE, NO_CHOICE, "128",
                                             "The last bucket is of keys so far away and farther.",
                                             .needs = {OF_BLOCK,
                                                       ANY(KEY_RELATIVE_ATTENTION_NUM_BUCKETS)}},
    [KEY_CLIP_QKV] = {ATTENTION(clip_qkv), TYPE_REAL, NULLABLE | MIN_OPEN, 0, 1000000, NO_CHOICE,
                      "null",
                      "Queries and keys, before they are rotated, and values are cut to -clip_qkv "
                      "to clip_qkv, as OLMoE and DBRX may; null: they are not.",
                      .needs = {OF_BLOCK}},
    [KEY_ATTENTION_VARIANT] = {"block.attention.attention_variant",
                               IN_POINT(block.attention_variant), TYPE_TEXT,
                               AUTO_NULL | WITH_CHECKPOINT | NOT_WORK, ANY_TEXT, NO_CHOICE, "auto",
                               "Attention kernel by name: serial, generic, gpu, cpu or "
                               "nvidia_sm80; auto: the best that serves.",
                               .needs = {OF_BLOCK}},
    [KEY_ROPE_THETA] = {ROPE(theta), TYPE_REAL, NULLABLE | MIN_OPEN | WITH_CHECKPOINT, 1,
                        1000000000000, NO_CHOICE, "10000",
                        "The base of the rotary embedding's frequencies; null: there is none, and "
                        "attention knows no positions.",
                        .needs = {OF_BLOCK}},
    [KEY_ROPE_DIM] = {ROPE(dim), TYPE_INT, NULLABLE, 2, MOECL_MAX_HEAD_DIM, NO_CHOICE, "null",
                      "So many elements of a head are turned, an even number; null: all.",
                      .needs = {OF_BLOCK, ANY(KEY_ROPE_THETA)}},
    [KEY_ROPE_INTERLEAVED] = {ROPE(interleaved), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                              "Elements that are neighbours are turned together (GPT-J), else i "
                              "and i + rope_dim/2 (GPT-NeoX).",
                              .needs = {OF_BLOCK, ANY(KEY_ROPE_THETA)}},
    [KEY_ROPE_SCALING] = {ROPE(scaling), TYPE_CHOICE, WITH_CHECKPOINT, NO_RANGE, rope_choice,
                          MOECL_ROPE_SCALING_COUNT, "none",
                          "How frequencies are changed for contexts longer than those trained on.",
                          .needs = {OF_BLOCK, ANY(KEY_ROPE_THETA)}},
    [KEY_ROPE_FACTOR] = {ROPE(factor), TYPE_REAL, MIN_OPEN | WITH_CHECKPOINT, 0, 1000000, NO_CHOICE,
                         "1", "Of rope_scaling: how many times longer.",
                         .needs = {OF_BLOCK, {KEY_ROPE_SCALING, false, 0, is_set}}},
    [KEY_ROPE_ORIGINAL_POSITIONS] =
        {ROPE(original_positions), TYPE_REAL, MIN_OPEN | WITH_CHECKPOINT, 0, MOECL_MAX_POSITIONS,
         NO_CHOICE, "4096", "llama3, yarn: positions that the model was trained on.",
         .needs = {OF_BLOCK, {KEY_ROPE_SCALING, false, 0, has_positions}}},
    [KEY_ROPE_LOW_FREQ_FACTOR] = {ROPE(low_freq_factor), TYPE_REAL, MIN_OPEN, 0, 1000000, NO_CHOICE,
                                  "1",
                                  "llama3: frequencies of fewer turns than this in the "
                                  "original positions are divided by rope_factor.",
                                  .needs = {OF_BLOCK, ONE(KEY_ROPE_SCALING, MOECL_ROPE_LLAMA3)}},
    [KEY_ROPE_HIGH_FREQ_FACTOR] = {ROPE(high_freq_factor), TYPE_REAL, MIN_OPEN, 0, 1000000,
                                   NO_CHOICE, "4",
                                   "llama3: those of more turns than this stay; more than "
                                   "rope_low_freq_factor.",
                                   .needs = {OF_BLOCK, ONE(KEY_ROPE_SCALING, MOECL_ROPE_LLAMA3)}},
    [KEY_ROPE_BETA_FAST] = {ROPE(beta_fast), TYPE_REAL, MIN_OPEN, 0, 1000000, NO_CHOICE, "32",
                            "yarn: frequencies of more turns than this stay.",
                            .needs = {OF_BLOCK, ONE(KEY_ROPE_SCALING, MOECL_ROPE_YARN)}},
    [KEY_ROPE_BETA_SLOW] = {ROPE(beta_slow), TYPE_REAL, MIN_OPEN, 0, 1000000, NO_CHOICE, "1",
                            "yarn: those of fewer turns than this are divided by rope_factor.",
                            .needs = {OF_BLOCK, ONE(KEY_ROPE_SCALING, MOECL_ROPE_YARN)}},
    [KEY_ROPE_ATTENTION_FACTOR] =
        {ROPE(attention_factor), TYPE_REAL, NULLABLE | MIN_OPEN, 0, 1000000, NO_CHOICE, "null",
         "yarn: multiplies what is turned; null: 0.1 ln(rope_factor) + 1.",
         .needs = {OF_BLOCK, ONE(KEY_ROPE_SCALING, MOECL_ROPE_YARN)}},
    [KEY_ROPE_TRUNCATE] = {"block.rope.rope_truncate", IN_POINT(block.rope_truncate), TYPE_BOOL, 0,
                           NO_RANGE, NO_CHOICE, "true",
                           "yarn: the range of frequencies that are mixed ends at whole ones; "
                           "gpt-oss has false.",
                           .needs = {OF_BLOCK, ONE(KEY_ROPE_SCALING, MOECL_ROPE_YARN)}},
    [KEY_NORM_KIND] = {NORM(kind), TYPE_CHOICE, 0, NO_RANGE, norm_choice, MOECL_NORM_COUNT, "rms",
                       "Of both norms, before attention and before the layer: RMSNorm or "
                       "LayerNorm.",
                       .needs = {OF_BLOCK}},
    [KEY_NORM_EPSILON] = {NORM(epsilon), TYPE_REAL, MIN_OPEN, 0, 1, NO_CHOICE, "1e-05",
                          "Of both norms.", .needs = {OF_BLOCK}},
    [KEY_NORM_PLUS_ONE] = {NORM(plus_one), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false",
                           "Their weights are given as what they differ from 1 by (Gemma, "
                           "Qwen3-Next).",
                           .needs = {OF_BLOCK}},
    [KEY_NORM_BIAS] = {NORM(bias), TYPE_BOOL, 0, NO_RANGE, NO_CHOICE, "false", "They have biases.",
                       .needs = {OF_BLOCK}},
    [KEY_PARALLEL_EXPERTS] =
        {PARALLEL(experts), TYPE_INT, NULLABLE | NOT_WORK, 1, MOECL_MAX_GROUP_MEMBERS, NO_CHOICE,
         "null",
         "Expert parallelism: so many members share the experts and the tokens; null: one device "
         "has all, without a group."},
    [KEY_PARALLEL_DEVICES] =
        {"devices", IN_POINT(parallel.devices), TYPE_TEXT, AUTO_NULL | NOT_WORK | WORDS, ANY_TEXT,
         NO_CHOICE, "auto",
         "Of parallel.experts members, named as 'device' is: [0:0, 0:1], or a text with commas "
         "between them. Taken in turns where there are more members: a device is then a member "
         "several times. all: all that there are; "
         "auto: all members on the experiment's device. A list of lists is swept.",
         .old_name = "parallel.devices", .needs = {ANY(KEY_PARALLEL_EXPERTS)}},
    [KEY_PARALLEL_PLACEMENT] = {PARALLEL(placement), TYPE_CHOICE, NOT_WORK, NO_RANGE,
                                placement_choice, PARALLEL_PLACEMENTS, "even",
                                "even: as many experts to each member; compute: by compute units "
                                "times clock; capacity: by "
                                "the devices' memory; file: as placement_file says. offload, of "
                                "one device (experts: null or 1): those beyond 'cache' are in the "
                                "host's memory and brought when tokens choose them.",
                                .needs = {ANY(KEY_PARALLEL_EXPERTS)}},
    [KEY_PARALLEL_PLACEMENT_FILE] =
        {"parallel.placement_file", NOWHERE, TYPE_TEXT, OF_EXPERIMENT | NULLABLE | NOT_WORK,
         ANY_TEXT, NO_CHOICE, "null",
         "A JSON file, relative to the experiment's folder (with --set: to the working directory). "
         "[[0, 1], [2, 3]]: each member's experts. [12, 0, 7, 9]: what each expert has to do, "
         "which "
         "is evened out over however many members; so too from the results.json of a run, by its "
         "tokens_per_expert. The replicas are of the latter, too.",
         .needs = {ANY(KEY_PARALLEL_EXPERTS)}},
    [KEY_PARALLEL_REPLICAS] =
        {PARALLEL(replicas), TYPE_INT, NOT_WORK, 0, MOECL_MAX_EXPERTS, NO_CHOICE, "0",
         "The so many most loaded experts have a copy on every member, which share their rows. "
         "Most loaded in placement_file, if that says; else by what the router chooses for the "
         "point's inputs.",
         .needs = {ANY(KEY_PARALLEL_EXPERTS)}},
    [KEY_PARALLEL_CHUNKS] =
        {PARALLEL(chunks), TYPE_INT, NULLABLE | AUTO_NULL | NOT_WORK, 1, MOECL_MAX_GROUP_CHUNKS,
         NO_CHOICE, "null",
         "Parts of a member's experts whose rows travel while others are computed; null, or auto: "
         "as many as pay. Rows that are rounded (layer.activation_format) go at once.",
         .needs = {ANY(KEY_PARALLEL_EXPERTS), ONE(KEY_ACTIVATION_FORMAT, MOECL_FORMAT_DTYPE)}},
    [KEY_PARALLEL_TRANSPORT] =
        {PARALLEL(transport), TYPE_TEXT, AUTO_NULL | NOT_WORK, ANY_TEXT, NO_CHOICE, "auto",
         "How rows go from member to member: nvidia_peer, host, nvidia_copy; auto: the best that "
         "serves, never nvidia_copy, which has to be named. Between processes: nvidia_peer within "
         "a "
         "machine, asked for or by auto, where it serves; else MPI's messages. One that is named "
         "and serves no two members, or not those of one process, is an error; host always serves.",
         .needs = {ANY(KEY_PARALLEL_EXPERTS)}},
    [KEY_PARALLEL_DISPATCH_FORMAT] =
        {PARALLEL(dispatch_format), TYPE_CHOICE, 0, NO_RANGE, dispatch_choice, MOECL_FORMAT_COUNT,
         "dtype",
         "What tokens' rows are sent to experts as; fp8-g128: E4M3 with a scale for 128 columns, "
         "as "
         "DeepSeek-V3 does. All experts read the rounded rows, those on the token's own device "
         "too; "
         "the router and the shared expert do not. What comes back is never rounded.",
         .needs = {ANY(KEY_PARALLEL_EXPERTS)}},
    [KEY_PARALLEL_CACHE] =
        {PARALLEL(cache), TYPE_REAL, NULLABLE | MIN_OPEN | NOT_WORK, 0, MOECL_MAX_EXPERTS,
         NO_CHOICE, "null",
         "offload: experts that the device has room for: below 1 as a share of all, from 1 on so "
         "many; null: as many as fit into four fifths of its memory, and a matrix of all of them "
         "into the largest buffer that the driver states, or gives. 1 is one expert, not all.",
         .needs = {ONE(KEY_PARALLEL_PLACEMENT, PARALLEL_OFFLOAD)}},
    [KEY_PARALLEL_EVICTION] =
        {PARALLEL(eviction), TYPE_CHOICE, NOT_WORK, NO_RANGE, eviction_choice, MOECL_EVICTION_COUNT,
         "lru",
         "offload: which expert gives its place to one that is brought: lru, that was wanted least "
         "recently; lfu, least often.",
         .needs = {ONE(KEY_PARALLEL_PLACEMENT, PARALLEL_OFFLOAD)}},
    [KEY_DTYPE] = {"dtype", IN_POINT(layer.dtype), TYPE_CHOICE, WITH_CHECKPOINT, NO_RANGE,
                   dtype_choice, MOECL_DTYPE_COUNT, "fp32",
                   "Storage of inputs, weights and output. Sums are kept in fp32."},
    [KEY_NUM_TOKENS] = {WORKLOAD(num_tokens), TYPE_INT, REQUIRED, 1, INT32_MAX, NO_CHOICE, NULL,
                        "T: tokens in the batch; T * K is at most 2147483136."},
    [KEY_CONTEXT] = {WORKLOAD(context), TYPE_INT, 0, 0, MOECL_MAX_POSITIONS, NO_CHOICE, "0",
                     "Of a block: tokens of the sequence before the batch, whose keys and values "
                     "are in a cache. 0: prefill; with num_tokens 1: a decode step.",
                     .needs = {OF_BLOCK}},
    [KEY_DISTRIBUTION] = {WORKLOAD(distribution), TYPE_CHOICE, 0, NO_RANGE, distribution_choice, 3,
                          "normal",
                          "normal: independent tokens; skewed: clustered tokens that load experts "
                          "unevenly; file: hidden states recorded from a model."},
    [KEY_SKEW_EXPONENT] =
        {WORKLOAD(skew_exponent), TYPE_REAL, 0, 0, 100, NO_CHOICE, "1",
         "skewed: cluster r gets tokens in proportion to 1/r^skew_exponent; 0: even, "
         "1: Zipf's law.",
         .old_name = "exponent", .needs = {SKEWED}},
    [KEY_SKEW_CLUSTERS] = {WORKLOAD(skew_clusters), TYPE_INT, NULLABLE, 1, 65536, NO_CHOICE, "null",
                           "skewed: how many clusters; null: as many as experts.",
                           .old_name = "clusters", .needs = {SKEWED}},
    [KEY_SKEW_NOISE] = {WORKLOAD(skew_noise), TYPE_REAL, 0, 0, 1, NO_CHOICE, "0.5",
                        "skewed: a token's own share; 0: equal to its cluster's centre, 1: no "
                        "clusters at all.",
                        .old_name = "noise", .needs = {SKEWED}},
    [KEY_FILE] = {"workload.file", IN_EXPERIMENT(input_file), TYPE_TEXT, OF_EXPERIMENT | NULLABLE,
                  ANY_TEXT, NO_CHOICE, "null",
                  "file: a .safetensors or .npy file, relative to the experiment's folder (with "
                  "--set: to the working directory).",
                  .needs = {ONE(KEY_DISTRIBUTION, WORKLOAD_FILE)}},
    [KEY_TENSOR] = {"workload.tensor", IN_EXPERIMENT(input_tensor), TYPE_TEXT,
                    OF_EXPERIMENT | NULLABLE, ANY_TEXT, NO_CHOICE, "null",
                    "file: the tensor's name; null: hidden_states, else the only one.",
                    .needs = {ONE(KEY_DISTRIBUTION, WORKLOAD_FILE)}},
    [KEY_WHAT] = {"measure.what", IN_POINT(what), TYPE_CHOICE, 0, NO_RANGE, what_choice, WHAT_COUNT,
                  "layer",
                  "layer: the Mixture-of-Experts layer alone; block: the transformer block around "
                  "it, of the section block: norm, attention, norm, the layer, and residuals."},
    [KEY_WARMUP] = {MEASURE(warmup), TYPE_INT, OF_EXPERIMENT | NOT_WORK, 0, 1000000, NO_CHOICE, "3",
                    "Forward passes before the timed ones."},
    [KEY_ITERATIONS] = {MEASURE(iterations), TYPE_INT, OF_EXPERIMENT | NOT_WORK, 1, 1000000,
                        NO_CHOICE, "20",
                        "Timed forward passes at each point, all rounds together."},
    [KEY_ROUNDS] = {MEASURE(rounds), TYPE_INT, OF_EXPERIMENT | NULLABLE | NOT_WORK, 1, 1000,
                    NO_CHOICE, "null",
                    "All points are measured in turn, then again, so many times, with a share of "
                    "the iterations each time; null: 3 for points of a sweep that are made and "
                    "warmed up within 2 seconds, 1 for others."},
    [KEY_VERIFY] = {MEASURE(verify), TYPE_BOOL, OF_EXPERIMENT | NOT_WORK, NO_RANGE, NO_CHOICE,
                    "true", "Compares each point's output with the double-precision reference."},
};

const schema_key *schema_get(schema_id id) { return &keys[id]; }

bool schema_meets(const schema_need *need, int64_t choice) {
  return need->any || (need->is ? need->is(choice) : choice == need->choice);
}

schema_id schema_find(const char *name, size_t length) {
  for (int i = 0; i < KEY_COUNT; i++)
    if (strlen(keys[i].name) == length && memcmp(keys[i].name, name, length) == 0)
      return (schema_id)i;
  return KEY_COUNT;
}

const char *schema_old_name(const schema_key *key, char *text, size_t size) {
  if (key->old_name == NULL) return NULL;
  const char *dot = strrchr(key->name, '.');
  if (strchr(key->old_name, '.')) snprintf(text, size, "%s", key->old_name);
  else snprintf(text, size, "%.*s.%s", (int)(dot - key->name), key->name, key->old_name);
  return text;
}

schema_id schema_find_old(const char *name, size_t length) {
  char old[64];
  for (int i = 0; i < KEY_COUNT; i++)
    if (schema_old_name(&keys[i], old, sizeof old) && strlen(old) == length &&
        memcmp(name, old, length) == 0)
      return (schema_id)i;
  return KEY_COUNT;
}

const char *schema_param(const schema_key *key) {
  const char *dot = strrchr(key->name, '.');
  return key->flags & OF_EXPERIMENT ? NULL : dot == NULL ? key->name : dot + 1;
}

schema_id schema_find_param(const char *param) {
  for (int i = 0; i < KEY_COUNT; i++) {
    const char *name = schema_param(&keys[i]);
    if (name != NULL && strcmp(name, param) == 0) return (schema_id)i;
  }
  return KEY_COUNT;
}

bool schema_applies(const schema_key *key, const experiment_point *point) {
  const int64_t distribution = (int64_t)point->distribution, what = (int64_t)point->what;
  for (size_t i = 0; i < sizeof key->needs / sizeof key->needs[0]; i++) {
    const schema_need *need = &key->needs[i];
    if (need->key == KEY_DISTRIBUTION && !schema_meets(need, distribution)) return false;
    if (need->key == KEY_WHAT && !schema_meets(need, what)) return false;
  }
  return true;
}

bool schema_is_section(const char *name, size_t length) {
  for (int i = 0; i < KEY_COUNT; i++)
    if (strncmp(keys[i].name, name, length) == 0 && keys[i].name[length] == '.' &&
        memchr(name, '\0', length) == NULL)
      return length > 0;
  return false;
}

bool schema_is_of_layer(const schema_key *key) {
  return schema_param(key) != NULL &&
         (strncmp(key->name, "layer.", 6) == 0 || strcmp(key->name, "dtype") == 0);
}

bool schema_is_of_group(const schema_key *key) {
  return schema_param(key) != NULL &&
         (strncmp(key->name, "parallel.", 9) == 0 || strcmp(key->name, "devices") == 0);
}

bool schema_is_of_block(const schema_key *key) { return strncmp(key->name, "block.", 6) == 0; }

bool schema_needs_block(const schema_key *key) { return key->needs[0].key == KEY_WHAT; }

static void expected_range(const schema_key *key, char *buffer, size_t size) {
  const char *noun = key->type == TYPE_INT ? "an integer" : "a number";
  long long min = key->min, max = key->max;
  if (key->flags & ALL_BITS) snprintf(buffer, size, "%s from 0 to %" PRIu64, noun, UINT64_MAX);
  else if (key->flags & MIN_OPEN)
    snprintf(buffer, size, "%s greater than %lld, at most %lld", noun, min, max);
  else if (key->flags & MAX_OPEN)
    snprintf(buffer, size, "%s from %lld to less than %lld", noun, min, max);
  else snprintf(buffer, size, "%s from %lld to %lld", noun, min, max);
}

const char *schema_expected(const schema_key *key, char *buffer, size_t size) {
  size_t used = 0;
  switch (key->type) {
  case TYPE_INT:
  case TYPE_REAL: expected_range(key, buffer, size); break;
  case TYPE_BOOL: snprintf(buffer, size, "true or false"); break;
  case TYPE_TEXT: snprintf(buffer, size, "a text of 1 to %lld bytes", (long long)key->max); break;
  case TYPE_CHOICE:
    for (int i = 0; i < key->num_choices && used < size; i++)
      if (key->choice(i))
        used +=
            (size_t)snprintf(buffer + used, size - used, "%s%s", i > 0 ? ", " : "", key->choice(i));
    break;
  }
  used = strlen(buffer);
  if (key->flags & NULLABLE) snprintf(buffer + used, size - used, ", or null");
  return buffer;
}

void schema_store(const schema_key *key, const value *v, void *target) {
  char *at = (char *)target + key->offset;
  switch (key->type) {
  case TYPE_INT: memcpy(at, &v->integer, sizeof v->integer); break;
  case TYPE_BOOL: *(bool *)at = v->integer != 0; break;
  case TYPE_CHOICE: {
    int index = (int)v->integer; /* all enumerations here are int-sized */
    memcpy(at, &index, sizeof index);
    break;
  }
  case TYPE_REAL: {
    float narrow = (float)v->real;
    if (key->size == sizeof narrow) memcpy(at, &narrow, sizeof narrow);
    else memcpy(at, &v->real, sizeof v->real);
    break;
  }
  case TYPE_TEXT: {
    bool none = v->null || ((key->flags & AUTO_NULL) && strcmp(v->text, "auto") == 0);
    const char *text = none ? NULL : v->text;
    memcpy(at, &text, sizeof text);
    break;
  }
  }
}

/* 100, not 1e+02: an exponent only where people would write one too. */
static bool plain_enough(const char *text, double real) {
  const double magnitude = real < 0 ? -real : real;
  return strchr(text, 'e') == NULL || magnitude < 1e-4 || magnitude >= 1e15;
}

const char *schema_real_text(double real, char *buffer, size_t size) {
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(buffer, size, "%.*g", digits, real);
    if (strtod(buffer, NULL) == real && plain_enough(buffer, real)) break;
  }
  return buffer;
}

/* A float's own shortest decimal: 0.01f is not the double 0.01. */
static const char *float_text(float real, char *buffer, size_t size) {
  for (int digits = 1; digits <= 9; digits++) {
    snprintf(buffer, size, "%.*g", digits, (double)real);
    if (strtof(buffer, NULL) == real && plain_enough(buffer, (double)real)) break;
  }
  return buffer;
}

const char *schema_point_text(const schema_key *key, const experiment_point *point, char *buffer,
                              size_t size) {
  const char *at = (const char *)point + key->offset;
  int64_t integer = 0;
  double real = 0;
  float narrow = 0;
  int choice = 0;
  const char *text = NULL;
  switch (key->type) {
  case TYPE_INT:
    memcpy(&integer, at, sizeof integer);
    if ((key->flags & NULLABLE) && integer == 0) snprintf(buffer, size, "null");
    else if (key->flags & ALL_BITS) snprintf(buffer, size, "%" PRIu64, (uint64_t)integer);
    else snprintf(buffer, size, "%" PRId64, integer);
    break;
  case TYPE_BOOL: snprintf(buffer, size, "%s", *(const bool *)at ? "true" : "false"); break;
  case TYPE_CHOICE:
    memcpy(&choice, at, sizeof choice);
    snprintf(buffer, size, "%s", key->choice(choice));
    break;
  case TYPE_REAL:
    if (key->size == sizeof narrow) {
      memcpy(&narrow, at, sizeof narrow);
      /* Out of range, 0 is the parameters' way to say the default. */
      if (narrow == 0 && (key->flags & MIN_OPEN)) {
        snprintf(buffer, size, "%s", key->default_text);
        return buffer;
      }
      return float_text(narrow, buffer, size);
    }
    memcpy(&real, at, sizeof real);
    if ((key->flags & NULLABLE) && real == 0) snprintf(buffer, size, "null");
    else schema_real_text(real, buffer, size);
    break;
  case TYPE_TEXT:
    memcpy(&text, at, sizeof text);
    snprintf(buffer, size, "%s", text == NULL ? "auto" : text);
    break;
  }
  return buffer;
}

bool schema_same_layer(const experiment_point *a, const experiment_point *b) {
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    const bool counts = schema_is_of_layer(key) || i == KEY_WHAT || schema_is_of_group(key) ||
                        (a->what == WHAT_BLOCK && schema_is_of_block(key));
    if (counts &&
        memcmp((const char *)a + key->offset, (const char *)b + key->offset, key->size) != 0)
      return false;
  }
  return true;
}

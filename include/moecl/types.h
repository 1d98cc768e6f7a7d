// SPDX-License-Identifier: MIT
/* The data types and enumerations that other headers share. */
#ifndef MOECL_TYPES_H
#define MOECL_TYPES_H

#include "moecl/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Storage types. Arithmetic accumulates in fp32 whatever the storage. */
typedef enum moecl_dtype {
  MOECL_F32 = 0,
  MOECL_F16,  /* IEEE binary16 */
  MOECL_BF16, /* upper half of an IEEE binary32, rounded to nearest even */
  MOECL_DTYPE_COUNT
} moecl_dtype;

/* How a tensor is stored. The first ones are plain elements of a data type, row after row.
 *
 * The others are for weights: codes of 8 or 4 bits, which blocks of neighbours in a row (or of
 * rows, too) share a scale for. An element is its code's number, less the zero point where there
 * is one, times its scale, times the matrix' own scale. Such a matrix [rows][columns] is
 * 1. codes, row after row, each row ceil(columns * bits / 8) bytes; of 4-bit codes element 2i is
 *    the low half of byte i;
 * 2. scales [ceil(rows / rows of a block)][ceil(columns / columns of a block)];
 * 3. zero points, a byte each, [rows][ceil(columns / columns of a block)];
 * 4. the matrix' own scale, fp32;
 * each part that the format has beginning at a multiple of 16 bytes from the matrix' first, and
 * all together a multiple of 16 bytes (moecl_format_get_layout). What is between is not read.
 * Any number of rows and columns will do: blocks at the edges are smaller.
 *
 * Codes: int8 is two's complement. int4 is 0 to 15, less the zero point, and less 8 (-8 to 7)
 * where the format has none. E2M1 (0 to 6), E4M3 (to 448; 0x7f and 0xff are NaN) and E8M0 (powers
 * of two; 255 is NaN) are those of the OCP's 8-bit floating point and microscaling formats. */
typedef enum moecl_format {
  MOECL_FORMAT_DTYPE = 0, /* plain elements of the layer's dtype */
  MOECL_FORMAT_F32,
  MOECL_FORMAT_F16,
  MOECL_FORMAT_BF16,
  MOECL_FORMAT_INT8,      /* "int8": fp32 scales, one a row */
  MOECL_FORMAT_INT8_G128, /* fp32 scales for 128 columns of a row */
  MOECL_FORMAT_INT4_G32,  /* fp16 scales for 32 columns of a row; codes less 8 */
  MOECL_FORMAT_INT4_G64,
  MOECL_FORMAT_INT4_G128,
  MOECL_FORMAT_INT4_G32_ZP, /* the same with zero points, 0 to 15 */
  MOECL_FORMAT_INT4_G64_ZP,
  MOECL_FORMAT_INT4_G128_ZP,
  MOECL_FORMAT_MXFP4,     /* E2M1, E8M0 scales for 32 columns: OCP microscaling */
  MOECL_FORMAT_NVFP4,     /* E2M1, E4M3 scales for 16 columns, one fp32 scale for the matrix */
  MOECL_FORMAT_FP8,       /* E4M3, one fp32 scale for the matrix */
  MOECL_FORMAT_FP8_ROW,   /* E4M3, fp32 scales, one a row */
  MOECL_FORMAT_FP8_BLOCK, /* E4M3, fp32 scales for 128 rows of 128 columns: DeepSeek-V3 */
  MOECL_FORMAT_FP8_G128, /* E4M3, fp32 scales for 128 columns of a row: DeepSeek-V3's activations */
  MOECL_FORMAT_COUNT
} moecl_format;

/* How the scales of a format are chosen. MSE tries the scale that is rounded to the nearest for the
 * block's largest number and smaller ones, down to a half in steps of a 32nd (of scales of 8 bits
 * neighbouring codes: one above and one below of E8M0, one above and eight below of E4M3), and
 * takes the one of which the block's numbers have the smallest squared error, of equal ones the
 * largest. Of nvfp4 the blocks' scales are searched, not the matrix'. */
typedef enum moecl_scale_search {
  MOECL_SCALE_SEARCH_NONE = 0,
  MOECL_SCALE_SEARCH_MSE,
  MOECL_SCALE_SEARCH_COUNT
} moecl_scale_search;

/* The expert's feed-forward network. Gated networks compute
 * down(act(gate(x)) * up(x)), plain ones down(act(up(x))).
 * GELU is the exact form, x * Phi(x) with erf (PyTorch's default); the _TANH ones
 * are Hendrycks and Gimpel's approximation,
 * x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) ("gelu_pytorch_tanh"). */
typedef enum moecl_activation {
  MOECL_SWIGLU = 0,     /* gated, SiLU: Shazeer 2020, "GLU Variants Improve Transformer" */
  MOECL_GEGLU,          /* gated, GELU: the same paper */
  MOECL_RELU,           /* plain */
  MOECL_GELU,           /* plain */
  MOECL_SILU,           /* plain */
  MOECL_GEGLU_TANH,     /* gated */
  MOECL_GELU_TANH,      /* plain */
  MOECL_RELU2,          /* plain, max(x,0)^2: So et al. 2021, "Primer" */
  MOECL_SWIGLU_CLAMPED, /* gated, gpt-oss: g = min(gate, limit), u = clamp(up, -limit, limit),
                           g sigmoid(alpha g) (u + 1); see swiglu_alpha and swiglu_limit */
  MOECL_SWIGLU_LIMITED, /* gated: g and u cut off like that, SiLU(g) u (GLM-5-Next, Hunyuan 4) */
  MOECL_SWIGLU_LIMITED_SILU, /* gated: min(SiLU(g), limit) clamp(u, -limit, limit) (Step-3.5) */
  MOECL_ACTIVATION_COUNT
} moecl_activation;

/* How a router makes scores of logits. */
typedef enum moecl_scoring {
  MOECL_SCORING_SOFTMAX = 0,
  MOECL_SCORING_SIGMOID,       /* DeepSeek-V3, Llama 4 */
  MOECL_SCORING_SQRT_SOFTPLUS, /* sqrt(log(1 + exp(logit))) */
  MOECL_SCORING_SPARSEMIXER,   /* Phi-3.5-MoE at inference: choice k's weight is its share in a
                                  softmax over the experts not chosen before whose logit l is
                                  near the choice's own, m:
                                  (m - l) / max(|l|, m) <= 2 sparsemixer_jitter (Liu et al. 2024,
                                  "GRIN") */
  MOECL_SCORING_COUNT
} moecl_scoring;

/* What makes a group's score of its experts' choice scores. */
typedef enum moecl_group_score {
  MOECL_GROUP_MAX = 0,  /* the best one: DeepSeek-V2 */
  MOECL_GROUP_TOP2_SUM, /* the sum of the two best: DeepSeek-V3 */
  MOECL_GROUP_SCORE_COUNT
} moecl_group_score;

/* What becomes of choices after the first. */
typedef enum moecl_second_choice {
  MOECL_SECOND_ALL = 0, /* they are kept */
  MOECL_SECOND_RANDOM,  /* each is kept with probability min(1, 2 score), else it gets id -1 and
                           weight 0: GShard (Lepikhin et al. 2020), NLLB's policy "random" */
  MOECL_SECOND_SAMPLED, /* they are the best of logits plus Gumbel noise, the first one of logits
                           alone: NLLB's "sampling". Neither with groups nor with a correction
                           bias */
  MOECL_SECOND_CHOICE_COUNT
} moecl_second_choice;

/* Which assignments survive when an expert is chosen more often than its
 * capacity allows. */
typedef enum moecl_drop_policy {
  MOECL_DROP_POSITION = 0, /* all first choices before all second choices, then token order (GShard,
                              Lepikhin et al. 2020) */
  MOECL_DROP_PROBABILITY,  /* largest route weight first, ties in token order (Megatron-Core's
                              "probs") */
  MOECL_DROP_PRIORITIZED,  /* all first choices before all second choices, then the token whose best
                              expert has the largest share in the softmax of its logits, ties in
                              token  order (batch prioritized routing: Riquelme et al. 2021, "V-MoE")
                            */
  MOECL_DROP_POLICY_COUNT
} moecl_drop_policy;

/* What a norm divides a row by. */
typedef enum moecl_norm {
  MOECL_NORM_RMS = 0, /* its root mean square (Zhang and Sennrich 2019) */
  MOECL_NORM_LAYER,   /* its standard deviation, the mean subtracted first (Ba et al. 2016) */
  MOECL_NORM_COUNT
} moecl_norm;

/* What of queries and keys is divided by its root mean square before they are rotated. */
typedef enum moecl_qk_norm {
  MOECL_QK_NORM_NONE = 0,
  MOECL_QK_NORM_HEAD, /* each head by itself, all with the same weights: Qwen3 */
  MOECL_QK_NORM_FULL, /* all of a token's heads at once: OLMoE */
  MOECL_QK_NORM_COUNT
} moecl_qk_norm;

/* How the frequencies of a rotary embedding are changed for contexts that are longer than
 * those it was trained on. */
typedef enum moecl_rope_scaling {
  MOECL_ROPE_UNSCALED = 0,
  MOECL_ROPE_LINEAR, /* all are divided by the factor */
  MOECL_ROPE_LLAMA3, /* low ones are, high ones stay, those between are mixed: Llama 3.1 */
  MOECL_ROPE_YARN,   /* likewise, mixed by the pair's place; the magnitude changes too (Peng et
                        al. 2023) */
  MOECL_ROPE_SCALING_COUNT
} moecl_rope_scaling;

/* Which expert gives its place on the device to one that is brought (offload.h): never one that the
 * same forward still computes with. */
typedef enum moecl_eviction {
  MOECL_EVICT_LRU = 0, /* that was wanted least recently */
  MOECL_EVICT_LFU,     /* that was wanted least often: by forwards that had tokens for it, each
                          counting 1/64 less with every forward after it; of equal ones as above */
  MOECL_EVICTION_COUNT
} moecl_eviction;

/* Bytes of one element. 0 for a value outside the enumeration. Thread-safe. */
MOECL_API size_t moecl_dtype_size(moecl_dtype dtype);

/* Bytes of a row-major matrix, scales included. 0 for MOECL_FORMAT_DTYPE and values
 * outside the enumeration, UINT64_MAX where they do not fit 64 bits. Thread-safe. */
MOECL_API uint64_t moecl_format_bytes(moecl_format format, uint64_t rows, uint64_t columns);

/* Where the parts of a matrix are, in bytes from its first; 0: it has no such part. Codes, or
 * plain elements, come first. */
typedef struct moecl_format_layout {
  uint64_t bytes;                     /* of all */
  uint64_t row_bytes;                 /* of a row of codes */
  uint64_t scales, zero_points;       /* where they begin */
  uint64_t scale_rows, scale_columns; /* how many scales; zero points are [rows][scale_columns] */
  uint64_t matrix_scale;              /* where it is */
  uint64_t reserved[4];
} moecl_format_layout;
/* MOECL_ERROR_INVALID_ARGUMENT, and zeros, for MOECL_FORMAT_DTYPE, values outside the
 * enumeration, matrices of 2^62 bytes or more and NULL. Thread-safe. */
MOECL_API moecl_status moecl_format_get_layout(moecl_format format, uint64_t rows, uint64_t columns,
                                               moecl_format_layout *layout);

/* Lower-case names as YAML and results use them ("bf16", "swiglu",
 * "position"); "?" for a value outside the enumeration. Thread-safe. */
MOECL_API const char *moecl_dtype_name(moecl_dtype dtype);
MOECL_API const char *moecl_format_name(moecl_format format);
MOECL_API const char *moecl_scale_search_name(moecl_scale_search search);
MOECL_API const char *moecl_activation_name(moecl_activation activation);
MOECL_API const char *moecl_drop_policy_name(moecl_drop_policy policy);
MOECL_API const char *moecl_eviction_name(moecl_eviction eviction);
MOECL_API const char *moecl_scoring_name(moecl_scoring scoring);
MOECL_API const char *moecl_group_score_name(moecl_group_score score);
MOECL_API const char *moecl_second_choice_name(moecl_second_choice choice);
MOECL_API const char *moecl_norm_name(moecl_norm norm);
MOECL_API const char *moecl_qk_norm_name(moecl_qk_norm norm);
MOECL_API const char *moecl_rope_scaling_name(moecl_rope_scaling scaling);

/* True for those that activation_format may be: MOECL_FORMAT_DTYPE, and 8-bit codes whose fp32
 * scales are a row's own; false for others and values outside the enumeration. Thread-safe. */
MOECL_API bool moecl_format_is_for_activations(moecl_format format);

/* True for the forms of SwiGLU and GeGLU, which have a gate; false for plain ones and
 * values outside the enumeration. Thread-safe. */
MOECL_API bool moecl_activation_is_gated(moecl_activation activation);
/* True for those that swiglu_limit matters to; false for others and values outside the
 * enumeration. Thread-safe. */
MOECL_API bool moecl_activation_has_limit(moecl_activation activation);

/* Converts `count` elements of host memory between a storage type and double; src and dst
 * must not overlap. From double: rounds to nearest even; too large becomes infinite. Does
 * nothing for a NULL or a dtype outside the enumeration. Thread-safe. */
MOECL_API void moecl_to_double(moecl_dtype dtype, const void *src, size_t count, double *dst);
MOECL_API void moecl_from_double(moecl_dtype dtype, const double *src, size_t count, void *dst);

/* The same of a row-major matrix as `format` stores it, moecl_format_bytes of it. Formats with
 * scales: a scale is that of the largest magnitude of its block (int4 with zero points: of the
 * range of the block's numbers and 0), rounded as it is stored; then each element is the nearest
 * code, to even, numbers beyond the largest are that, and NaN is E4M3's or 0. A block of zeros has
 * scale 1. Large matrices are encoded on several threads. Nothing for MOECL_FORMAT_DTYPE.
 * Thread-safe. */
MOECL_API void moecl_format_to_double(moecl_format format, const void *src, uint64_t rows,
                                      uint64_t columns, double *dst);
MOECL_API void moecl_format_from_double(moecl_format format, const double *src, uint64_t rows,
                                        uint64_t columns, void *dst);

#ifdef __cplusplus
}
#endif
#endif

// SPDX-License-Identifier: MIT
/* The numbers that kernels and the library's C share: the host defines DTYPE, ACTIVATION
 * and the like before a source, as one of these. Macros alone, for `#if` in both languages.
 * lib/desc/types.c asserts that those with a public enumeration equal it. */
#ifndef MOECL_CL_COMMON_ENUMS_H
#define MOECL_CL_COMMON_ENUMS_H

/* What an element of a tensor is. Sources that know one format of rows get it as DTYPE;
 * those of GEMMs get WEIGHTS, BIASES, INPUT, OUTPUT and ROUNDED, what numbers of the output
 * are rounded to, however they are stored. The first ones are moecl_dtype's. */
#define ELEMENT_F32 0
#define ELEMENT_F16 1
#define ELEMENT_BF16 2
/* Codes and scales of formats that have scales: common/quantized.clh. */
#define ELEMENT_INT8 3
#define ELEMENT_INT4 4 /* 0 to 15; what is subtracted is the format's */
#define ELEMENT_E2M1 5
#define ELEMENT_E4M3 6
#define ELEMENT_E8M0 7
#define ELEMENT_NONE (-1)

/* ACTIVATION: what a GEMM's epilogue does to its sums. GATED says whether they come in
 * pairs: SwiGLU and SiLU are one number here. */
#define ACTIVATION_NONE 0
#define ACTIVATION_SILU 1
#define ACTIVATION_GELU 2
#define ACTIVATION_RELU 3
#define ACTIVATION_GELU_TANH 4
#define ACTIVATION_RELU2 5
#define ACTIVATION_SWIGLU_CLAMPED 6
#define ACTIVATION_SWIGLU_LIMITED 7
#define ACTIVATION_SWIGLU_LIMITED_SILU 8

/* PARTS: which kernels of a GEMM's source are in a program; where it is not defined, all are. */
#define PART_PACK 1
#define PART_GEMM 2
#define PART_FEW_TOKENS 4

/* SCORING: moecl_scoring. */
#define SCORING_SOFTMAX 0
#define SCORING_SIGMOID 1
#define SCORING_SQRT_SOFTPLUS 2
#define SCORING_SPARSEMIXER 3

/* GROUP_SCORE: moecl_group_score. */
#define GROUP_SCORE_MAX 0
#define GROUP_SCORE_TOP2_SUM 1

/* SECOND_CHOICE: moecl_second_choice. */
#define SECOND_CHOICE_ALL 0
#define SECOND_CHOICE_RANDOM 1
#define SECOND_CHOICE_SAMPLED 2

/* DRAWS: what random numbers are drawn; the first two are moecl_distribution. */
#define DRAWS_NORMAL 0
#define DRAWS_UNIFORM 1
#define DRAWS_SKEWED 2

#endif

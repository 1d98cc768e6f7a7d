// SPDX-License-Identifier: MIT
/* One grouped GEMM: each expert's rows times its packed weights, with bias and
 * activation in the epilogue. Ungrouped, its one "expert" owns all rows: the router's
 * logits, a shared expert. */
#ifndef MOECL_LIB_OP_GEMM_GEMM_H
#define MOECL_LIB_OP_GEMM_GEMM_H

#include "common/enums.h"
#include "op/op.h"
#include "op/places.h"

/* Kernels that a GEMM may have. The first serves any number of rows, and is there at once. */
typedef enum op_gemm_kernel_id {
  OP_GEMM_BASE,
  OP_GEMM_TALL,       /* tiles for many rows an expert */
  OP_GEMM_MIDDLE,     /* for some, between those and the lowest */
  OP_GEMM_FEW_ROWS,   /* for few */
  OP_GEMM_FEW_TOKENS, /* streams weights for every choice */
  OP_GEMM_KERNELS
} op_gemm_kernel_id;
enum { OP_GEMM_ALL_LATE = (1 << OP_GEMM_KERNELS) - 1 };
enum { OP_GEMM_PLACES = 8 }; /* of rows that are scattered, at most */

typedef struct op_gemm_desc {
  int64_t num_experts;
  int64_t spread; /* experts that rows are spread over, which kernels are chosen by: more than
                     num_experts where those take turns; 0: num_experts */
  int64_t n, k;   /* output columns and inner size; gated: weights have 2n rows */
  const desc_format *weights, *biases;
  const desc_format *input, *output;
  const desc_format *rounded;       /* numbers of the output are this format's, though they may be
                                       stored as a wider one; NULL: they are not rounded first */
  int epilogue;                     /* an ACTIVATION_ of common/enums.h */
  float swiglu_alpha, swiglu_limit; /* of those with a limit */
  bool gated, bias;
  bool ungrouped; /* num_experts is 1, and needs no lists of rows */
  bool gather;    /* slot s reads row slot_token[s] of the input, else row s */
  bool scatter;   /* slot s writes row slot_place[s] of several places, else row s of the output:
                     for variants that say so (KERNEL_SCATTERED_OUTPUT) */
  bool invariant; /* a row is summed in the same order whatever rows are beside it */
  bool exact;     /* factors are not rounded below their formats: experts are chosen by it */
  bool adds_shared, shared_gate; /* for few tokens: the combination has a shared expert's output,
                                    and times its gate */
  unsigned late; /* 1 << OP_GEMM_TALL and so on: those that have programs of their own are made by
                    op_gemm_prepare, when a plan first wants them; 0: all are made at once */
  char *told; /* the owner's text, of told_size bytes, that those which do not serve are added to,
                 for people; NULL: there is none */
  size_t told_size;
} op_gemm_desc;

/* Buffers of one launch. Of an ungrouped GEMM: input, output, scratch and rows. */
typedef struct op_gemm_io {
  const moecl_buffer *input, *slot_token, *expert_offsets, *tile_offsets, *output;
  const moecl_buffer *slot_place; /* of one that scatters, in place of the output: numbers of */
  const op_places *places;        /* rows in these places, OP_GEMM_PLACES at most */
  const moecl_buffer *scratch;    /* op_gemm_scratch bytes; NULL where that is 0 */
  int64_t rows;                   /* the most slots there can be; ungrouped: all rows */
  int64_t input_rows;  /* of `input`, where it has codes: its scales are behind them all */
  int64_t chosen_rows; /* what serves is chosen as for so many; 0: as for `rows` */
} op_gemm_io;

/* Few tokens, without permuting: every assignment t*top_k+j streams its expert's
 * weights. A GEMM that gathers writes row t*top_k+j for it; one that does not
 * reads that row, and writes row t, summed over j with topk_weights: combined, with
 * the shared expert's output where the description adds one. */
typedef struct op_gemm_few_tokens_io {
  const moecl_buffer *input, *topk_ids, *topk_weights, *output;
  const moecl_buffer *shared, *shared_gate; /* [T,n], [T] fp32 */
  int64_t num_tokens, top_k;
} op_gemm_few_tokens_io;

typedef struct op_gemm op_gemm;

extern const kernel_table op_gemm_table; /* the operation "grouped_gemm" */
extern const op_kind op_gemm_kind;       /* of an op_gemm_desc; makes an op_gemm * */

/* Does the variant take the problem? Rows of codes are for those alone that say that they read
 * them (KERNEL_CODED_INPUT), as rows that are scattered are for others. */
bool op_gemm_takes(const kernel_variant *variant, const op_gemm_desc *desc);

/* Predicates of rows. As weights: input and biases have the weights' format, and the output has it
 * or is fp32, unrounded. Multiples of 8: also n and k are multiples of 8; inexact: also not an
 * exact one, for arithmetic that rounds factors. Int8 codes: both weights and
 * rows are such; int8 weights: or rows, biases and outputs are as beside bf16 weights. 16
 * bits: beside weights with scales input and biases are of one type of 16 bits. Coded: rows are
 * 8-bit codes of the weights' kind, either with scales of 128 columns or of all; k is a multiple of
 * 16 and n of 8, and the rest is of one type of 16 bits, or the output fp32. Int8 multiples of 16:
 * such rows of int8 alone, any n, and the rest of any type. */
bool op_gemm_as_weights(const kernel_variant *variant, const void *desc);
bool op_gemm_int8_codes(const kernel_variant *variant, const void *desc);
bool op_gemm_int8_weights(const kernel_variant *variant, const void *desc);
bool op_gemm_int8_multiples_of_16(const kernel_variant *variant, const void *desc);
bool op_gemm_coded_multiples_of_16(const kernel_variant *variant, const void *desc);
bool op_gemm_16_bits_multiples_of_8(const kernel_variant *variant, const void *desc);
bool op_gemm_multiples_of_8(const kernel_variant *variant, const void *desc);
bool op_gemm_inexact_multiples_of_8(const kernel_variant *variant, const void *desc);

/* What sizes and choices below follow from, without kernels and device memory. */
moecl_status op_gemm_describe(moecl_context *context, const kernel_variant *variant,
                              const op_gemm_desc *desc, op_gemm **gemm);

/* Builds the kernels and allocates the packed weights, unchecked: op_create of op.h and
 * op_gemm_make_pair check first. */
moecl_status op_gemm_create_unchecked(moecl_context *context, const kernel_variant *variant,
                                      const op_gemm_desc *desc, op_gemm **gemm);
/* All but the description's sizes decide the program. A wrong answer is
 * MOECL_ERROR_BUILD, logged (op/check.h). Late kernels are not looked at: the first one has to
 * serve in their place. */
moecl_status op_gemm_self_check(moecl_context *context, const kernel_variant *variant,
                                const op_gemm_desc *desc);
/* The same of one late kernel alone. */
moecl_status op_gemm_self_check_late(moecl_context *context, const kernel_variant *variant,
                                     const op_gemm_desc *desc, op_gemm_kernel_id kernel);
void op_gemm_destroy(op_gemm **gemm);
/* Two that are there together or not at all, described or created. Both checks come before the
 * weights' memory is asked for: a variant that fails one gives way to the next. */
moecl_status op_gemm_make_pair(moecl_context *context, bool described,
                               const kernel_variant *variant, const op_gemm_desc *first_desc,
                               op_gemm **first, const op_gemm_desc *second_desc, op_gemm **second);

/* How a variant has activations that others store as `stored`: rows that GEMMs hand to each
 * other, and outputs that are to be added up. What it reads of rows that are rounded to codes:
 * those, or the numbers that they mean, as fp32, which rounds them no further. As less, activated
 * numbers would be so far off that many get another code. */
const desc_format *op_gemm_rows(const kernel_variant *variant, const desc_format *stored);
const desc_format *op_gemm_outputs(const kernel_variant *variant, const desc_format *stored);
const desc_format *op_gemm_quantized_rows(const kernel_variant *variant, const desc_format *codes);

/* Of a GEMM that was made, or described. */
const kernel_variant *op_gemm_variant(const op_gemm *gemm);
bool op_gemm_is_ungrouped(const op_gemm *gemm);
bool op_gemm_gathers(const op_gemm *gemm);
bool op_gemm_scatters(const op_gemm *gemm);

/* Enqueues packing `count` experts' canonical weights, or copying biases. */
moecl_status op_gemm_set_weights(op_gemm *gemm, int64_t first, int64_t count,
                                 const moecl_buffer *src, uint64_t offset_bytes);
moecl_status op_gemm_set_bias(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                              uint64_t offset_bytes);

/* What one expert has on the device: packed weights and where there is one its bias. Returns how
 * many parts those are; of a described GEMM they have no buffer. */
typedef struct op_gemm_part {
  moecl_buffer *buffer;
  uint64_t offset, bytes;
} op_gemm_part;
enum { OP_GEMM_PARTS = 2 };
int op_gemm_parts(const op_gemm *gemm, int64_t expert, op_gemm_part *parts);

/* Of a GEMM that was made, or described: bytes of the packed weights, of the largest buffer that
 * it holds, of all of them, and of the scratch that one launch over `rows` needs.
 * UINT64_MAX where they do not fit 64 bits. */
uint64_t op_gemm_packed_bytes(const op_gemm *gemm);
uint64_t op_gemm_largest_bytes(const op_gemm *gemm);
uint64_t op_gemm_bytes(const op_gemm *gemm);
uint64_t op_gemm_scratch(const op_gemm *gemm, int64_t rows);
/* The most rows of one tile when `rows` slots are spread over the experts: what
 * tile_offsets is the prefix of. Larger where experts have many rows, so that
 * weights are read less often; smaller where they have few. */
uint32_t op_gemm_tile_rows(const op_gemm *gemm, int64_t rows);
/* The same of variants that compute a tile whole, however few of its rows are there; 0: this one
 * ends where its rows end, as those do whose tiles have no size in variants.def, or whose driver
 * says so. */
uint32_t op_gemm_whole_tile_rows(const op_gemm *gemm, int64_t rows);
/* Which of its kernels serves so many rows, for people: "tiles of 64 rows". */
void op_gemm_explain(const op_gemm *gemm, int64_t rows, char *text, size_t size);

/* Makes the late kernel that so many rows want, or few tokens do, after its self-check; waits.
 * *lost: it was tried now, and does not serve; left as it is otherwise. Then others do its work,
 * with a warning, here and in the GEMM that was made with this one: what was asked above gets other
 * answers. While programs are noted to be built ahead (ocl_ahead_begin) it notes its own and makes
 * nothing. Errors: MOECL_ERROR_OUT_OF_HOST_MEMORY, MOECL_ERROR_OUT_OF_DEVICE_MEMORY; it may be
 * tried again. */
moecl_status op_gemm_prepare(op_gemm *gemm, int64_t rows, bool *lost);
moecl_status op_gemm_prepare_few_tokens(op_gemm *gemm, bool *lost);
/* Some do not serve. */
bool op_gemm_has_lost(const op_gemm *gemm);
/* Which of its kernels serves so many rows. */
op_gemm_kernel_id op_gemm_kernel_for(const op_gemm *gemm, int64_t rows);

moecl_status op_gemm_enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io);

/* Are there kernels for few tokens, and do they pay for so many? */
bool op_gemm_serves_few_tokens(const op_gemm *gemm, int64_t num_tokens);
moecl_status op_gemm_enqueue_few_tokens(op_gemm *gemm, ocl_chain *chain,
                                        const op_gemm_few_tokens_io *io);

#endif

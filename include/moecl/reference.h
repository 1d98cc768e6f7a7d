// SPDX-License-Identifier: MIT
/* The oracle: the layer in plain C and double precision, independent of the
 * kernels. Slow, host memory only, every call thread-safe. All matrices are row-major in
 * the canonical layouts of moecl_tensor.
 *
 * Every array is the caller's, of the shape that its call names, and arrays that are
 * written overlap no other. Parameters are such as moecl_layer_params_check takes. Where
 * params or an array is NULL that need not be, calls with a status give
 * MOECL_ERROR_INVALID_ARGUMENT, and others give 0 and write nothing. */
#ifndef MOECL_REFERENCE_H
#define MOECL_REFERENCE_H

#include "moecl/block.h"
#include "moecl/routing.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A block's first half, of a whole sequence from its first token on: hidden [T,H] and
 * `tensors` by moecl_block_tensor, each the numbers of one (NULL where the block has none), to
 * sum [T,H], what attention made and hidden, and normalized [T,H], which the layer reads. The
 * block's output is sum and what the layer makes of normalized.
 * MOECL_ERROR_OUT_OF_HOST_MEMORY if vectors in between cannot be had. */
MOECL_API moecl_status moecl_reference_attention(const moecl_block_params *params,
                                                 int64_t num_tokens, const double *hidden,
                                                 const double *const *tensors, double *sum,
                                                 double *normalized);

/* The same of `count` of its tokens alone, whose numbers are tokens [count], ascending: sum and
 * normalized are [count,H]. Keys and values are made of those tokens that these look at. Works on
 * `threads` threads, at most 64; 0: one a processor; the bits are the same whatever their number.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (also a number that is no token's, or out of order),
 * MOECL_ERROR_OUT_OF_HOST_MEMORY. */
MOECL_API moecl_status moecl_reference_attention_tokens(const moecl_block_params *params,
                                                        int64_t num_tokens, const double *hidden,
                                                        const double *const *tensors, int64_t count,
                                                        const int64_t *tokens, int threads,
                                                        double *sum, double *normalized);

/* The factor by which jitter multiplies element `element` of token `token`'s
 * router input: Philox4x32-10 with key {lo(seed), hi(seed)} and counter
 * {lo(token), hi(token), element / 4, 0x4a495454}; word element % 4 gives
 * u = (word >> 8) * 2^-24 in [0,1), the factor is fma(jitter, 2u-1, 1) in
 * fp32, and the product with the input is rounded to fp32. */
MOECL_API float moecl_reference_jitter(uint64_t seed, uint64_t token, uint32_t element,
                                       float jitter);

/* Router logits of one token: hidden [H], weight [E,H], bias [E] or NULL,
 * logits [E]. `token` is its index in the batch, for the jitter. */
MOECL_API void moecl_reference_logits(const moecl_layer_params *params, const double *hidden,
                                      const double *weight, const double *bias, uint64_t seed,
                                      int64_t token, double *logits);

/* The numbers that a router draws for an expert or a choice of a token, from
 * Philox4x32-10 with the jitter's key and counter {lo(token), hi(token),
 * index / 4, TAG}, word w = index % 4 of it:
 * - noise, a normal number for an expert (TAG 0x4e4f4953), by Box and Muller:
 *   sqrt(-2 ln u) times cos(2 pi v) where w is even, sin(2 pi v) where it is odd,
 *   with u = ((word >> 8) + 1) * 2^-24 of the even word, v = (word >> 8) * 2^-24 of
 *   the odd one;
 * - gumbel, -ln(-ln u) for an expert (TAG 0x47554d42), u = ((word >> 9) + 0.5) * 2^-23;
 * - keep, uniform in [0,1) for a choice (TAG 0x4b454550), (word >> 8) * 2^-24:
 *   choice k > 0 of MOECL_SECOND_RANDOM is kept where it is below 2 score. */
MOECL_API double moecl_reference_noise(uint64_t seed, uint64_t token, uint32_t expert);
MOECL_API double moecl_reference_gumbel(uint64_t seed, uint64_t token, uint32_t expert);
MOECL_API double moecl_reference_keep(uint64_t seed, uint64_t token, uint32_t choice);

/* Adds router_noise to one token's logits [E]: each gets moecl_reference_noise
 * times softplus of noise_logits [E], which are moecl_reference_logits of
 * MOECL_ROUTER_NOISE_WEIGHT without a bias. */
MOECL_API void moecl_reference_add_noise(const moecl_layer_params *params,
                                         const double *noise_logits, uint64_t seed, int64_t token,
                                         double *logits);

/* Top-k of one token from its logits [E], noise included: ids [K], weights [K],
 * scores [E] (of all experts, the softmax for MOECL_SCORING_SPARSEMIXER; may be
 * NULL). correction_bias [E], NULL where the layer has none; seed and token are
 * for second_choice. Logits or choice scores that are not finite, as fp32, give
 * ids -1, weights and scores 0.
 * Returns how far the choice is from another one, relative to the scores it was
 * made by: how far the best expert left out is behind the last one taken
 * (infinity when K = E or the ids are -1), or where that is less, the best group
 * left out behind the last one taken, a draw from what it decided, a logit from
 * sparsemixer's limit. Ids may be compared where this exceeds rounding; their
 * order where the weights differ by more. */
MOECL_API double moecl_reference_topk(const moecl_layer_params *params, const double *logits,
                                      const double *correction_bias, uint64_t seed, int64_t token,
                                      int32_t *ids, double *weights, double *scores);

/* The absolute error that a correct weight may have: devices may take scores below
 * 2^-126, the least normal fp32, for 0, before they are divided by the sum and scaled. */
MOECL_API double moecl_reference_weight_floor(const moecl_layer_params *params);

/* A token's place under MOECL_DROP_PRIORITIZED: the largest share in the softmax
 * of its logits [E]; 0 where one of them is not finite, as fp32. */
MOECL_API double moecl_reference_priority(const double *logits, int64_t num_experts);

/* Capacity: topk_ids and topk_weights [T,K] to kept [T,K]. token_priority [T] is
 * for MOECL_DROP_PRIORITIZED with a capacity, else it is not read and may be NULL.
 * Assignments of id -1 are not kept, those to identity experts always are. Other ids outside 0 to
 * E-1, weights and priorities that are not numbers are MOECL_ERROR_INVALID_ARGUMENT. */
MOECL_API moecl_status moecl_reference_capacity(const moecl_layer_params *params,
                                                int64_t num_tokens, const int32_t *topk_ids,
                                                const float *topk_weights,
                                                const float *token_priority, uint8_t *kept);

/* What one token's choices are multiplied by: its topk_weights [K], renormalized
 * after capacity where the layer does that, and 0 where not kept. weights [K]. */
MOECL_API void moecl_reference_kept_weights(const moecl_layer_params *params,
                                            const float *topk_weights, const uint8_t *kept,
                                            double *weights);

/* Is the expert, 0 to E-1, an identity expert? The calls below are of the others. */
MOECL_API bool moecl_reference_is_identity(const moecl_layer_params *params, int64_t expert);

/* One expert on one token: hidden [H] to output [H]. gate_up [2I,H] or [I,H];
 * down [H,I]; biases may be NULL. With an activation_format hidden and what is between the
 * matrices are rounded to it first. MOECL_ERROR_OUT_OF_HOST_MEMORY if the
 * intermediate vector cannot be had. */
MOECL_API moecl_status moecl_reference_expert(const moecl_layer_params *params,
                                              const double *hidden, const double *gate_up,
                                              const double *gate_up_bias, const double *down,
                                              const double *down_bias, double *output);

/* The same on several tokens at once, hidden [tokens,H] to output [tokens,H],
 * with the expert's tensors as moecl_layer_set_weights takes them, in the types that
 * moecl_layer_tensor_dtype says: converted a row at a time. Works on `threads` threads of its own,
 * at most 64; 0: one a processor. The bits are those of moecl_reference_expert, whatever their
 * number. Errors: MOECL_ERROR_INVALID_ARGUMENT (a negative number), MOECL_ERROR_OUT_OF_HOST_MEMORY.
 * Thread-safe. */
MOECL_API moecl_status moecl_reference_expert_tokens(const moecl_layer_params *params,
                                                     int64_t num_tokens, const double *hidden,
                                                     const void *gate_up, const void *gate_up_bias,
                                                     const void *down, const void *down_bias,
                                                     int threads, double *output);

/* Rounds rows [rows,columns] to a format that activation_format may be, and what its codes mean to
 * dtype: what experts read of rows that a group sends so (dispatch_format). Of MOECL_FORMAT_DTYPE
 * to dtype alone. Errors: MOECL_ERROR_INVALID_ARGUMENT, MOECL_ERROR_OUT_OF_HOST_MEMORY.
 * Thread-safe. */
MOECL_API moecl_status moecl_reference_round_rows(moecl_dtype dtype, moecl_format format,
                                                  int64_t rows, int64_t columns, double *values);

/* What is between the two matrices: the activated vectors
 * [tokens,I] that down is multiplied by, not rounded to an activation_format yet. Errors and
 * threads as above. Thread-safe. */
MOECL_API moecl_status moecl_reference_intermediate_tokens(const moecl_layer_params *params,
                                                           int64_t num_tokens, const double *hidden,
                                                           const void *gate_up,
                                                           const void *gate_up_bias, int threads,
                                                           double *intermediate);

/* The shared expert as the one expert of a layer, for the two calls above: its
 * size and limit, no biases. All zeros for NULL. */
MOECL_API moecl_layer_params moecl_reference_shared(const moecl_layer_params *params);
/* What its output for a token is multiplied by: shared_scaling_factor, times the
 * sigmoid of hidden [H] . gate [H]; gate is NULL where the layer has none. */
MOECL_API double moecl_reference_shared_weight(const moecl_layer_params *params,
                                               const double *hidden, const double *gate);

/* ||a - b|| / ||b|| over `count` elements; 0 when both are zero; infinity when
 * b is zero and a is not, when anything is not finite, and for NULL. */
MOECL_API double moecl_relative_error(const double *a, const double *b, size_t count);

/* The same, with b's elements taken for `floor` on average where they are smaller:
 * ||a - b|| / max(||b||, floor sqrt(count)). */
MOECL_API double moecl_relative_error_above(const double *a, const double *b, size_t count,
                                            double floor);
/* The size below which numbers of the type have less relative precision than its roundoff:
 * a device may take those
 * below the least normal one (2^-126) for 0, and fp16's are multiples of 2^-24. */
MOECL_API double moecl_relative_error_floor(moecl_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif

// SPDX-License-Identifier: MIT
/* A transformer block: norm, attention and its residual, norm, a Mixture-of-Experts layer as
 * the feed-forward network and its residual, in this order ("pre-norm"):
 *   y = x + o_proj(attention(qkv_proj(norm(x))))
 *   output = y + layer(norm(y))
 * Its forwards are of one sequence; tokens before it may be in a cache. */
#ifndef MOECL_BLOCK_H
#define MOECL_BLOCK_H

#include "moecl/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOECL_MAX_HEADS 1024
#define MOECL_MAX_HEAD_DIM 256
#define MOECL_MAX_POSITIONS 1073741823 /* tokens of a sequence, cached ones included */
#define MOECL_MAX_RELATIVE_BUCKETS 65536
#define MOECL_MAX_RELATIVE_DISTANCE 1048576

/* What is stored between the operations: x, y, keys, values and the layer's input and output
 * are of the layer's dtype; queries, attention's output and what the projections give are
 * that or fp32, as the GEMM's variant has its rows. Sums, logits and softmax are fp32. */

/* Letters in comments: T num_tokens, H hidden_size, N num_heads, M num_kv_heads, D head_dim. */

typedef struct moecl_norm_params {
  moecl_norm kind;
  float epsilon; /* 0: 1e-5; else greater than 0 */
  bool plus_one; /* weights are given as what they differ from 1 by (Gemma, Qwen3-Next) */
  bool bias;     /* there is one, [H] */
  uint64_t reserved[4];
} moecl_norm_params;

/* Rotary embedding: pairs of a head's first `dim` elements are turned by the token's position
 * times theta^(-2i/dim). */
typedef struct moecl_rope_params {
  double theta;     /* greater than 1; 0: there is none, and attention knows no positions */
  int64_t dim;      /* even, up to D; 0: D */
  bool interleaved; /* pairs are neighbours (GPT-J), else elements i and i + dim/2 (GPT-NeoX,
                       and so Llama's published weights) */
  moecl_rope_scaling scaling;
  double factor;             /* of all scalings, greater than 0 */
  double original_positions; /* of MOECL_ROPE_LLAMA3 and MOECL_ROPE_YARN: positions that the model
                                was trained on, greater than 0 */
  double low_freq_factor, high_freq_factor; /* of MOECL_ROPE_LLAMA3: the second is greater, the
                                               first greater than 0 */
  double beta_fast, beta_slow;              /* of MOECL_ROPE_YARN; 0: 32 and 1 */
  double attention_factor;                  /* likewise, what turned elements are multiplied by; 0:
                                               0.1 ln(factor) + 1, or 1 where factor is 1 or less */
  bool not_truncated; /* likewise: the range of pairs that are mixed ends where it does, not at
                         whole pairs (gpt-oss) */
  uint64_t reserved[8];
} moecl_rope_params;

typedef struct moecl_attention_params {
  int64_t num_heads;    /* N, 1 to MOECL_MAX_HEADS */
  int64_t num_kv_heads; /* M, a divisor of N; 0: N */
  int64_t head_dim;     /* D, 1 to MOECL_MAX_HEAD_DIM; 0: H / N, which is whole then */
  bool not_causal;      /* a token looks at all of them, else at itself and those before it */
  bool sinks;           /* each head has one more logit in the softmax, of no token (gpt-oss) */
  bool qkv_bias, output_bias;
  bool qk_norm_plus_one; /* as moecl_norm_params' */
  moecl_qk_norm qk_norm;
  float qk_norm_epsilon;  /* 0: 1e-5; else greater than 0 */
  float scale;            /* of the products of queries and keys, not below 0; 0: D^-1/2 */
  int64_t sliding_window; /* a token looks at those less than so many away from it, so with 1
                             at itself; 0: at any distance */
  moecl_rope_params rope;
  /* T5's relative position bias (Raffel et al. 2020): a number of MOECL_RELATIVE_BIAS, by the head
   * and by how far the key is from the query, is added to each logit. So many buckets, at least 4,
   * half of them for keys after the query (causal: at least 2, none for those). Half of a side's
   * are of one distance each, the others' widths grow with it up to the last, of max_distance and
   * more. 0: there is no bias. */
  int64_t relative_attention_num_buckets;
  int64_t relative_attention_max_distance; /* more than the distances with a bucket of their own;
                                              0: 128 */
  float clip_qkv; /* queries and keys, normalized and not rotated yet, and values are cut to
                     -clip_qkv to clip_qkv (OLMoE, DBRX), not below 0; 0: they are not */
  uint64_t reserved[13];
} moecl_attention_params;

typedef struct moecl_block_params {
  moecl_attention_params attention;
  moecl_norm_params attention_norm, feed_forward_norm;
  moecl_layer_params layer; /* its hidden_size, dtype and grouped_gemm_variant are the block's */
  /* A variant by name ("generic", "cpu"); NULL: the best that serves. One that cannot serve
   * here is MOECL_ERROR_UNSUPPORTED. */
  const char *attention_variant;
  uint64_t reserved[16];
} moecl_block_params;

/* The block's tensors beside its layer's, row-major, of the layer's dtype. */
typedef enum moecl_block_tensor {
  MOECL_ATTENTION_NORM = 0,     /* [H] */
  MOECL_ATTENTION_NORM_BIAS,    /* [H] */
  MOECL_QKV_PROJ,               /* [(N + 2M)D, H]: rows of q_proj, then k_proj, then v_proj */
  MOECL_QKV_BIAS,               /* [(N + 2M)D] */
  MOECL_Q_NORM,                 /* [D]; [ND] for MOECL_QK_NORM_FULL */
  MOECL_K_NORM,                 /* [D]; [MD] for MOECL_QK_NORM_FULL */
  MOECL_SINKS,                  /* [N] */
  MOECL_O_PROJ,                 /* [H, ND] */
  MOECL_O_BIAS,                 /* [H] */
  MOECL_FEED_FORWARD_NORM,      /* [H] */
  MOECL_FEED_FORWARD_NORM_BIAS, /* [H] */
  MOECL_RELATIVE_BIAS,          /* [relative_attention_num_buckets, N] */
  MOECL_BLOCK_TENSOR_COUNT
} moecl_block_tensor;

/* Checks params without a device: MOECL_OK, or MOECL_ERROR_INVALID_ARGUMENT with a sentence
 * in `message` (may be NULL; truncated to `size`), as moecl_layer_params_check, which it
 * calls. Thread-safe. */
MOECL_API moecl_status moecl_block_params_check(const moecl_block_params *params, char *message,
                                                size_t size);

/* Elements of a tensor; 0 where the block has no such tensor, and for NULL. For parameters
 * that moecl_block_params_check takes. Thread-safe. */
MOECL_API int64_t moecl_block_tensor_size(const moecl_block_params *params,
                                          moecl_block_tensor tensor);

typedef struct moecl_block moecl_block;

/* As moecl_layer_create: chooses variants, builds and checks the programs that every forward needs
 * (moecl_block_reserve builds the others), and allocates the weights, which are then given: the
 * block's own with moecl_block_set_weights, its layer's with moecl_layer_set_weights of
 * moecl_block_layer. Waits. Strings are copied. Errors: those of moecl_layer_create. Thread: the
 * context's. */
MOECL_API moecl_status moecl_block_create(moecl_context *context, const moecl_block_params *params,
                                          moecl_block **block);
/* Releases the block and its layer once work already enqueued on them is done. Does not wait.
 * Thread: the context's. */
MOECL_API void moecl_block_destroy(moecl_block **block);

/* The block's feed-forward network: for its weights, its variants, and the routing of the
 * block's latest forward. It is the block's and lives as long: it must not be destroyed.
 * NULL for NULL. Thread-safe. */
MOECL_API moecl_layer *moecl_block_layer(moecl_block *block);

/* Gives a whole tensor, from host memory or from a buffer, at an offset that is a multiple of
 * an element's size. What moecl_layer_set_weights says of copies, waiting and order is true
 * here too. Errors: MOECL_ERROR_INVALID_ARGUMENT (a tensor that the block does not have, a range
 * outside the buffer, a buffer of another context). Thread: the context's. */
MOECL_API moecl_status moecl_block_set_weights(moecl_block *block, moecl_block_tensor tensor,
                                               const void *src);
MOECL_API moecl_status moecl_block_set_weights_buffer(moecl_block *block, moecl_block_tensor tensor,
                                                      const moecl_buffer *src,
                                                      uint64_t offset_bytes);

/* Keys and values of a sequence's tokens, in the layout of the block's attention. */
typedef struct moecl_cache moecl_cache;

/* Room for so many tokens, 1 to MOECL_MAX_POSITIONS; it holds none yet. Errors:
 * MOECL_ERROR_INVALID_ARGUMENT, MOECL_ERROR_OUT_OF_DEVICE_MEMORY. Thread: the context's. */
MOECL_API moecl_status moecl_cache_create(moecl_block *block, int64_t capacity,
                                          moecl_cache **cache);
/* Releases it once work already enqueued on it is done. Thread: the context's. */
MOECL_API void moecl_cache_destroy(moecl_cache **cache);
/* How many tokens it holds, and its device bytes; 0 for NULL. Thread: the context's. */
MOECL_API int64_t moecl_cache_tokens(const moecl_cache *cache);
MOECL_API uint64_t moecl_cache_bytes(const moecl_cache *cache);
/* The next forward's tokens come after the first `tokens` ones: 0 begins another sequence,
 * fewer than it holds take tokens back, and as many as a forward ever left give these back,
 * for measuring the same step again. Errors: MOECL_ERROR_INVALID_ARGUMENT (more than that, or
 * fewer than 0). Thread: the context's. */
MOECL_API moecl_status moecl_cache_set_tokens(moecl_cache *cache, int64_t tokens);

/* Device bytes of the block's weights, its layer's included, and of one forward's workspace,
 * with or without a cache: as moecl_layer_weight_bytes and moecl_layer_workspace_size say.
 * Thread: the context's. */
MOECL_API uint64_t moecl_block_weight_bytes(const moecl_block *block);
MOECL_API uint64_t moecl_block_workspace_size(const moecl_block *block, int64_t num_tokens,
                                              bool cached);

/* As moecl_layer_reserve, for the block's forwards of up to num_tokens, with or without a cache:
 * its kernels, its layer's, and its own workspace. Errors: those of moecl_layer_reserve;
 * MOECL_ERROR_INVALID_ARGUMENT too for more than MOECL_MAX_POSITIONS tokens. Thread: the
 * context's. */
MOECL_API moecl_status moecl_block_reserve(moecl_block *block, int64_t num_tokens, bool cached);

/* As moecl_layer_memory, of a block and one forward of num_tokens; with a cache that has room
 * for `capacity` tokens, or where that is 0 without one. Errors: those of moecl_layer_memory;
 * MOECL_ERROR_INVALID_ARGUMENT too for more than MOECL_MAX_POSITIONS of either. Thread: the
 * context's. */
MOECL_API moecl_status moecl_block_memory(moecl_context *context, const moecl_block_params *params,
                                          int64_t num_tokens, int64_t capacity,
                                          moecl_memory *memory);
/* As moecl_plan_create, whose calls read it: the steps of a block's forward, its layer's among
 * them, and the tensors of both. Where there is a cache keys and values are inputs and
 * have its bytes. Errors: those of moecl_block_memory. Thread: the context's. */
MOECL_API moecl_status moecl_block_plan_create(moecl_context *context,
                                               const moecl_block_params *params, int64_t num_tokens,
                                               int64_t capacity, moecl_plan **plan);

typedef struct moecl_block_forward_params {
  int64_t num_tokens;                /* T, as the layer takes */
  const moecl_buffer *hidden_states; /* [T,H], dtype */
  moecl_buffer *output;              /* [T,H], dtype */
  moecl_cache *cache;      /* the tokens come after those that it holds, and are added to it; NULL:
                              there are no others */
  moecl_buffer *workspace; /* at least moecl_block_workspace_size bytes; NULL: the block's
                              own, grown when needed */
  uint64_t seed;           /* of what the router draws */
  moecl_event *const *wait_list; /* started after these; may be NULL */
  size_t wait_count;
  moecl_profile *profile; /* receives this forward's stage times; may be NULL */
  uint64_t reserved[16];  /* zeros: see moecl.h */
} moecl_block_forward_params;

/* Enqueues one forward on the context's queue and returns at once, but for the first of a number of
 * tokens that wants kernels which are not there yet. What moecl_layer_forward says of event, order,
 * overlap and objects in flight is true here too. The cache holds the tokens when the call returns,
 * and their keys and values when the forward is done. Errors: those of moecl_layer_forward;
 * MOECL_ERROR_INVALID_ARGUMENT too for a cache that is too small or of a block of another shape,
 * and without a cache for more than MOECL_MAX_POSITIONS tokens. After a failure the cache holds as
 * many tokens as before. Thread: the context's. */
MOECL_API moecl_status moecl_block_forward(moecl_block *block,
                                           const moecl_block_forward_params *params,
                                           moecl_event **event);

/* The variant that serves "norm", "rotary", "attention" or "projections", and in `reason`
 * (may be NULL) why, as of a layer; else what moecl_layer_variant says of the block's layer.
 * Thread: as that call's. */
MOECL_API const char *moecl_block_variant(const moecl_block *block, const char *operation,
                                          const char **reason);

#ifdef __cplusplus
}
#endif
#endif

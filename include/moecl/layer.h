// SPDX-License-Identifier: MIT
/* A Mixture-of-Experts layer: router, permute, grouped GEMM (gate/up),
 * grouped GEMM (down), combine. */
#ifndef MOECL_LAYER_H
#define MOECL_LAYER_H

#include "moecl/buffer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOECL_MAX_EXPERTS 1024
#define MOECL_MAX_TOP_K 64
#define MOECL_MAX_EXPERT_GROUPS 32
#define MOECL_EXPERT_CACHE_FITS -1 /* for expert_cache */
#define MOECL_MAX_SIZE 1073741823  /* of H and of I: 2I then fits 32-bit kernel arguments */
/* Token-expert pairs of one forward: row numbers on the device are 32-bit.
 * Element offsets are 64-bit. */
#define MOECL_MAX_ASSIGNMENTS 2147483136 /* 2^31 - 512 */

/* What is stored between the operations, the same in every variant:
 * - Activated rows, which down reads, have numbers of the layer's dtype: rounded to
 *   nearest even, and infinite beyond its range (of fp16 from 65520 on), as PyTorch's
 *   layers of that dtype have them. So an activated number that overflows makes the
 *   output infinite or NaN, whatever the weights that follow.
 * - Experts' outputs, the shared expert's too, are fp32 until they are combined. The
 *   exception are variants by matrix instructions ("nvidia_sm80", "nvidia_sm90", "amd_mfma",
 *   "intel_xmx16" and the like) and those by CPUs' units ("cpu_amx", "cpu_bf16", "cpu_int8",
 *   "cpu_amx_int8"), which would wait for twice the memory: they may round outputs to dtype, except
 * on the path for few tokens, and outputs beyond its range may then be infinite:
 *   moecl_layer_output_roundoff.
 * - Logits, scores, route weights and gates are fp32. The output is rounded once.
 * - Subnormal numbers may count as zeros in arithmetic: in "cpu_amx" and "cpu_bf16" they do. */

/* Letters in comments: T num_tokens, H hidden_size, I intermediate_size,
 * E num_experts, Z num_identity_experts, K top_k. */
typedef struct moecl_layer_params {
  int64_t hidden_size;       /* H, 1 to MOECL_MAX_SIZE; odd ones too */
  int64_t intermediate_size; /* I, 1 to MOECL_MAX_SIZE */
  int64_t num_experts;       /* E, 1 to 1024: what the router chooses from */
  /* The last Z of them, 0 to E-1, are identity experts, which have no weights and return
   * their input (LongCat-Flash's zero experts, MoE++'s copy experts): such a choice adds
   * the token times its route weight. The router knows no difference. They have no
   * capacity and drop nothing, but their choices count in T * K. Not with
   * weight_on_input. */
  int64_t num_identity_experts;
  int64_t top_k;     /* K, 1 to min(E, 64) */
  moecl_dtype dtype; /* of hidden_states, output and all weights, unless weight_format differs */
  /* Of the experts' matrices, the shared expert's too; of their biases where it is a data
   * type's, else those are of dtype. They are given and kept so and used as they are: with
   * dtype fp32 and weights in bf16 only the weights are bf16.
   * The grouped GEMM's general variants and those for CPUs take every pair of plain formats, those
   * for GPUs dtype's own alone; which take formats with scales moecl_variants_for_format tells. */
  moecl_format weight_format;
  moecl_activation activation;
  bool router_bias;   /* the router has a bias [E], added to the logits */
  bool gate_up_bias;  /* experts have a bias on gate/up ([E,2I] gated, [E,I] plain) */
  bool down_bias;     /* experts have a bias on down [E,H] */
  float swiglu_alpha; /* of MOECL_SWIGLU_CLAMPED, greater than 0; 0: 1.702 */
  float swiglu_limit; /* of it and of MOECL_SWIGLU_LIMITED*, greater than 0; 0: 7. For
                         no limit give a number that is never reached, as 1e18 */

  /* A shared expert that every token passes, added to the routed ones (Dai et
   * al. 2024, "DeepSeekMoE"): its intermediate size S (several shared experts of
   * one layer are one of their sizes' sum); 0: none. It has the layer's activation
   * and no biases. shared_gate: its output is multiplied by sigmoid(x . gate)
   * (Qwen2-MoE). */
  int64_t shared_intermediate_size;
  bool shared_gate;
  float shared_swiglu_limit;   /* the shared expert's own swiglu_limit; 0: the same */
  float shared_scaling_factor; /* multiplies its output, gated or not; 0: 1. A layer that
                                  averages routed and shared experts (Command A+, cohere2_moe)
                                  has 0.5 here and in routed_scaling_factor */
  bool weight_on_input;        /* the route weight multiplies the routed expert's input, rounded to
                                  dtype, instead of its output (Llama 4) */

  /* Router. Scores are made of the logits, plus noise where there is any; the K
   * experts of the largest choice scores are taken, in that order; ties go to the
   * lower expert id. The choice score is the score plus the correction bias.
   * Without that bias all scorings keep the logits' order, and logits that a score
   * can't tell apart any more still decide; only sums that groups are compared by
   * (MOECL_GROUP_TOP2_SUM) are of scores as fp32 has them. Experts in groups that were not taken
   * are out, unless cut_groups_to_zero. A weight is the expert's score (without
   * the bias), then divided by the sum of the weights that are kept (renormalize; see
   * there for what keeps the sum from 0), then multiplied by routed_scaling_factor. A
   * token with a logit or choice score that is not finite is routed nowhere: ids -1,
   * weights 0, and nothing from the routed experts. moecl_routing_statistics counts
   * such tokens, and those whose weights are all 0. */
  moecl_scoring scoring;
  bool score_after_topk;    /* the choice is among logits, the scores are made of the K chosen ones
                               alone (a softmax over K: Granite-MoE, JetMoE, gpt-oss). Not with
                               score_correction_bias, groups or MOECL_SCORING_SPARSEMIXER */
  float sparsemixer_jitter; /* of MOECL_SCORING_SPARSEMIXER; 0: 0.01 */
  /* Weights are divided by max(sum + renormalize_epsilon, renormalize_minimum).
   * Epsilon 0 is 1e-20 for sigmoid and sqrt-softplus scores, as in DeepSeek's code, and
   * nothing for shares in a softmax (LFM2 adds 1e-6); minimum 0 is none (ERNIE 4.5 has
   * 1e-12). Each 0, or from 2^-126, the least normal fp32, on: with sigmoids, that is as
   * good as none. Where the scores of all choices underflow fp32, either makes all
   * weights 0; shares that are divided by their sum alone are the softmax over the
   * choices, which never underflows. Without renormalize they mean nothing. */
  bool renormalize;
  float renormalize_epsilon, renormalize_minimum;
  float routed_scaling_factor; /* 0: 1 */
  bool score_correction_bias;  /* tensor MOECL_SCORE_CORRECTION_BIAS moves the choice alone:
                                  DeepSeek-V3's e_score_correction_bias */
  int64_t num_expert_group;    /* experts are in so many groups of neighbours, of which ... */
  int64_t topk_group;          /* ... the best so many are chosen from; both 0: no groups.
                                  At most MOECL_MAX_EXPERT_GROUPS of equal size, and of
                                  equally good ones the first */
  moecl_group_score group_score;
  bool cut_groups_to_zero; /* experts in groups that were not taken have choice score 0 instead of
                              none: they win against negative ones, which only a correction bias
                              makes (DeepSeek's first code, A.X-K2) */
  moecl_second_choice second_choice; /* other than MOECL_SECOND_ALL not with
                                        MOECL_SCORING_SPARSEMIXER, which takes neither groups nor
                                        score_correction_bias either */
  bool router_noise; /* noisy top-k (Shazeer et al. 2017, equation 4): each logit gets a normal
                        number times softplus of the router input times
                        MOECL_ROUTER_NOISE_WEIGHT: moecl_reference_noise. The paper's top-k is
                        with score_after_topk. moecl_layer_read_routing_wait gives the
                        logits with the noise added */
  /* Switch Transformer's jitter (Fedus et al. 2021, section 2.2): each router
   * input element is multiplied by a number uniform in [1-jitter, 1+jitter],
   * drawn from Philox keyed by the forward's seed, token and element. The
   * experts see the input without it. 0: off; in [0, 1). */
  float jitter;

  /* Capacity: an expert takes ceil(capacity_factor * T * K / E) assignments,
   * at least min_capacity. 0: dropless (no limit). A dropped assignment
   * contributes nothing; a token with all of its dropped gives zeros. */
  double capacity_factor;
  bool capacity_of_tokens; /* instead capacity_factor is a share of the tokens: an expert takes
                              ceil(capacity_factor * T), the product rounded to double first, as
                              NLLB-MoE computes it: 0.07 of 100 tokens is ceil(7 + 2^-50) = 8 */
  int64_t min_capacity;
  moecl_drop_policy drop_policy;
  bool renormalize_after_capacity; /* the weights of a token's kept choices are divided by their
                                      sum, or 2^-23 times routed_scaling_factor where that is
                                      more, and multiplied by routed_scaling_factor (NLLB-MoE) */

  /* A grouped GEMM variant by name ("generic", "cpu", "clblast", ...); NULL:
   * the best that serves. One that cannot serve here is
   * MOECL_ERROR_UNSUPPORTED. */
  const char *grouped_gemm_variant;
  const char *router_variant; /* likewise */

  /* What the experts' matrices multiply, the shared expert's too: MOECL_FORMAT_DTYPE (0), numbers
   * as they are; or each row of hidden states before gate_up (with weight_on_input of the weighted
   * ones), and each activated row before down, rounded to dtype and then to this format by
   * scales of its own, as moecl_format_from_double rounds it (W8A8; DeepSeek-V3's is
   * MOECL_FORMAT_FP8_G128). One of moecl_format_is_for_activations. A block of numbers that are not
   * all finite becomes NaN. The router does not see it. Variants multiply codes, and scales onto
   * the sums; or code times scale, rounded to fp32: those that do neither, for they take no fp32
   * rows, do not serve, as those for GPUs beside weights of fp16 or bf16. */
  moecl_format activation_format;
  uint32_t unused; /* was padding, which compiled programs may have anything in */

  /* A token's numbers hang on no other token of the batch but by capacity: GEMMs take the ways
   * on which a row is summed in the same order whatever rows are beside it, and leave those for few
   * rows out. So a batch in parts, or on the members of a group (group.h), gives the same bits.
   * Costs time where few tokens are computed. Not with the "clblast" baseline. */
  bool batch_invariant;

  /* Experts in host memory (offload.h): the device has room for so many of them, 1 to E - Z, and
   * the others' matrices are brought when tokens choose them, each in the place of one that is not
   * wanted. 0: all are on the device. MOECL_EXPERT_CACHE_FITS: as many as fit into four fifths of
   * the memory that the driver states, beside what the context has allocated before, and at most so
   * many that one matrix of all of them fits into one buffer: of max_allocation_bytes, or larger
   * where a trial says that the driver gives more than it states. Not with the "clblast" baseline,
   * in a block or in a group. */
  int64_t expert_cache;
  moecl_eviction eviction; /* whose place that is */
  uint64_t reserved[28];   /* zeros: see moecl.h */
} moecl_layer_params;

typedef struct moecl_layer moecl_layer;

/* The layer's tensors, canonical layout row-major, in the layer's dtype where
 * nothing else is said (moecl_layer_tensor_format). */
typedef enum moecl_tensor {
  MOECL_ROUTER_WEIGHT = 0,     /* [E,H], index 0 only (not per expert) */
  MOECL_ROUTER_BIAS,           /* [E], index 0 only */
  MOECL_GATE_UP_PROJ,          /* per expert [2I,H], gate rows first (formats with scales: the
                                  matrix of gate, then that of up); plain: up_proj [I,H] */
  MOECL_GATE_UP_BIAS,          /* per expert [2I] or [I] */
  MOECL_DOWN_PROJ,             /* per expert [H,I] */
  MOECL_DOWN_BIAS,             /* per expert [H] */
  MOECL_SCORE_CORRECTION_BIAS, /* [E], index 0 only, always fp32 */
  MOECL_ROUTER_NOISE_WEIGHT,   /* [E,H], index 0 only */
  MOECL_SHARED_GATE_UP_PROJ,   /* [2S,H] or [S,H], index 0 only */
  MOECL_SHARED_DOWN_PROJ,      /* [H,S], index 0 only */
  MOECL_SHARED_GATE,           /* [H], index 0 only */
  MOECL_TENSOR_COUNT
} moecl_tensor;

/* Checks params without a device: MOECL_OK, or MOECL_ERROR_INVALID_ARGUMENT
 * with a sentence naming field, value and what was expected in `message`
 * (may be NULL; truncated to `size`). Thread-safe. */
MOECL_API moecl_status moecl_layer_params_check(const moecl_layer_params *params, char *message,
                                                size_t size);

/* Chooses variants, builds the programs that any forward needs and allocates the packed weights,
 * whose contents are then given with moecl_layer_set_weights. Strings are copied. Waits: a
 * program's first use in a context checks it on a small problem. A variant that fails that, its
 * build or on the device is set aside with a warning and the next one serves, unless it was asked
 * for by name. Kernels that only some numbers of tokens want come with the first forward of such,
 * or with moecl_layer_reserve, checked alike: where one fails, others of its variant serve, with a
 * warning. Errors: MOECL_ERROR_INVALID_ARGUMENT, MOECL_ERROR_UNSUPPORTED, MOECL_ERROR_BUILD,
 * MOECL_ERROR_DEVICE, MOECL_ERROR_OUT_OF_HOST_MEMORY, MOECL_ERROR_OUT_OF_DEVICE_MEMORY. Thread: the
 * context's. */
MOECL_API moecl_status moecl_layer_create(moecl_context *context, const moecl_layer_params *params,
                                          moecl_layer **layer);
/* Releases the layer, its weights and its own workspace once work already enqueued on them
 * is done. Does not wait, but with expert_cache for copies from the host's memory. Thread: the
 * context's. */
MOECL_API void moecl_layer_destroy(moecl_layer **layer);

/* Elements of one item of `tensor` (one expert's share, or the whole router
 * tensor); 0 where the layer has no such tensor, and for NULL. For parameters that
 * moecl_layer_params_check takes, as are the next ones. Thread-safe. */
MOECL_API int64_t moecl_layer_tensor_size(const moecl_layer_params *params, moecl_tensor tensor);
/* Rows and columns of one item, whose product is its size; a bias is one row. Zeros where the
 * layer has no such tensor, and for NULL params. Either pointer may be NULL. Thread-safe. */
MOECL_API void moecl_layer_tensor_shape(const moecl_layer_params *params, moecl_tensor tensor,
                                        int64_t *rows, int64_t *columns);
/* Bytes of one item as it is given, scales included; 0 where the layer has no such tensor, and
 * for NULL. Thread-safe. */
MOECL_API uint64_t moecl_layer_tensor_bytes(const moecl_layer_params *params, moecl_tensor tensor);
/* The format that `tensor` is given in, never MOECL_FORMAT_DTYPE, whether the layer has it or
 * not; MOECL_FORMAT_F32 for NULL. Thread-safe. */
MOECL_API moecl_format moecl_layer_tensor_format(const moecl_layer_params *params,
                                                 moecl_tensor tensor);
/* The data type whose plain elements that format has, MOECL_DTYPE_COUNT where it is no data
 * type's; MOECL_F32 for NULL. Thread-safe. */
MOECL_API moecl_dtype moecl_layer_tensor_dtype(const moecl_layer_params *params,
                                               moecl_tensor tensor);

/* One item between numbers, rows x columns of them, and moecl_layer_tensor_bytes of it as it is
 * given. Gate and up are two matrices of I rows, each with its own scales, one behind the other.
 * Nothing for NULL. Thread-safe. */
MOECL_API void moecl_layer_tensor_to_double(const moecl_layer_params *params, moecl_tensor tensor,
                                            const void *item, double *dst);
MOECL_API void moecl_layer_tensor_from_double(const moecl_layer_params *params, moecl_tensor tensor,
                                              const double *src, void *item);

/* How many items a tensor has: E - Z, or 1 of those with index 0 only; 0 where the
 * layer has no such tensor. Thread-safe. */
MOECL_API int64_t moecl_layer_tensor_items(const moecl_layer_params *params, moecl_tensor tensor);

/* Gives weights and packs them for the chosen variant: `count` experts from
 * `first_expert` on (0 and 1 for router tensors), consecutive in memory, in
 * the tensor's format. The layer keeps its own packed copy: the source can be
 * reused or freed when the call (host) or the work enqueued by it (buffer) is
 * done. The host form waits until its copies are done; the buffer form only enqueues, and the
 * buffer may be destroyed right after it. Forwards that were enqueued before have the weights as
 * they were. After a failure the items are undefined: give them again. `offset_bytes` is a multiple
 * of an element's size, or of 16 for formats with scales. Errors: MOECL_ERROR_INVALID_ARGUMENT (a
 * tensor that the layer does not have, items that it does not have, a range outside the buffer, a
 * buffer of another context). Thread: the context's. */
MOECL_API moecl_status moecl_layer_set_weights(moecl_layer *layer, moecl_tensor tensor,
                                               int64_t first_expert, int64_t count,
                                               const void *src);
MOECL_API moecl_status moecl_layer_set_weights_buffer(moecl_layer *layer, moecl_tensor tensor,
                                                      int64_t first_expert, int64_t count,
                                                      const moecl_buffer *src,
                                                      uint64_t offset_bytes);

/* Device bytes the layer holds for its weights; 0 for NULL. Thread: the context's. */
MOECL_API uint64_t moecl_layer_weight_bytes(const moecl_layer *layer);
/* Bytes of workspace one forward of num_tokens needs. 0 where there is no such
 * forward: layer is NULL, num_tokens is negative or more than
 * MOECL_MAX_ASSIGNMENTS / K. UINT64_MAX, which no device has, where it would not
 * fit 64 bits. Thread: the context's. */
MOECL_API uint64_t moecl_layer_workspace_size(const moecl_layer *layer, int64_t num_tokens);

/* Has the layer's own workspace fit for forwards of up to num_tokens, in memory that the device has
 * found already, and all kernels built that they may want: the first such forward then waits for
 * neither. Waits, for a compiler for seconds, and where the workspace was smaller; it is never made
 * smaller. What the latest forward left (routing.h) is gone if it is in one that has to grow, else
 * still there. Weights may be given before or after. Errors: MOECL_ERROR_INVALID_ARGUMENT
 * (num_tokens, as of a forward), MOECL_ERROR_OUT_OF_HOST_MEMORY, MOECL_ERROR_OUT_OF_DEVICE_MEMORY.
 * Thread: the context's. */
MOECL_API moecl_status moecl_layer_reserve(moecl_layer *layer, int64_t num_tokens);

/* What a layer and one forward of num_tokens take on the device. */
typedef struct moecl_memory {
  uint64_t weight_bytes;         /* the layer's packed weights and biases, several buffers */
  uint64_t workspace_bytes;      /* one buffer: the layer's own, or the caller's */
  uint64_t hidden_bytes;         /* of the caller's hidden_states, and again of its output */
  uint64_t largest_buffer_bytes; /* the largest single one of all these buffers */
  uint64_t cache_bytes;          /* of a block's cache (block.h), two buffers; a layer has none */
  uint64_t host_bytes;           /* with expert_cache: packed matrices and biases of all experts, in
                                    the host's memory and not the device's */
  uint64_t reserved[6];          /* zeros: see moecl.h */
} moecl_memory;

/* Estimates the memory of a layer and one forward, without creating either. The
 * layer computes its own sizes in the same way, so the numbers are exact for the
 * variants that are asked for by name, and for the best that serve where none of
 * them is then set aside; what a created layer took is what
 * moecl_layer_weight_bytes and moecl_layer_workspace_size say. Not counted:
 * compiled programs, what moecl_layer_set_weights copies through (one expert, or 64 MiB of smaller
 * ones), and buffers that CLBlast makes for a while. What does not fit 64 bits is
 * UINT64_MAX. *memory is all zeros on failure.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (NULL, params, num_tokens),
 * MOECL_ERROR_UNSUPPORTED (no such variant here). Thread: the context's. */
MOECL_API moecl_status moecl_layer_memory(moecl_context *context, const moecl_layer_params *params,
                                          int64_t num_tokens, moecl_memory *memory);

/* The parts of a forward whose device time is measured. Later versions add theirs
 * before MOECL_STAGE_COUNT and leave these numbers as they are. */
typedef enum moecl_stage {
  MOECL_STAGE_ROUTER = 0,
  MOECL_STAGE_PERMUTE,
  MOECL_STAGE_GATE_UP,
  MOECL_STAGE_DOWN,
  MOECL_STAGE_SHARED, /* the shared expert */
  MOECL_STAGE_COMBINE,
  MOECL_STAGE_LAYER, /* from the first kernel's start to the last one's end */
  /* Of a block's forward (block.h), whose whole time is MOECL_STAGE_LAYER's */
  MOECL_STAGE_ATTENTION_NORM,
  MOECL_STAGE_QKV_PROJ,
  MOECL_STAGE_ROTARY, /* q/k norm, rotary embedding, cache */
  MOECL_STAGE_ATTENTION,
  MOECL_STAGE_O_PROJ,
  MOECL_STAGE_FEED_FORWARD_NORM, /* and the residual before it */
  MOECL_STAGE_RESIDUAL,
  MOECL_STAGE_COUNT
} moecl_stage;

/* "router", "layer"; "?" for a value outside the enumeration. A static string.
 * Thread-safe. */
MOECL_API const char *moecl_stage_name(moecl_stage stage);

/* Per-stage device times of one forward, from profiling events. A profile is the caller's
 * and serves one forward after another: each begins it anew. It may be destroyed before the
 * forward is done. Thread: the context's, for all its calls. */
typedef struct moecl_profile moecl_profile;
MOECL_API moecl_status moecl_profile_create(moecl_context *context, moecl_profile **profile);
MOECL_API void moecl_profile_destroy(moecl_profile **profile);
/* From the next forward on, times the layer alone, by its first and its last
 * kernel: stages read as NaN. An event for every kernel costs time between them
 * (on NVIDIA several microseconds each), which is not the layer's.
 * Thread: the context's. */
MOECL_API void moecl_profile_layer_only(moecl_profile *profile, bool layer_only);
/* Waits for the forward that was given the profile, then writes the milliseconds of the
 * stages below `count`, which is MOECL_STAGE_COUNT as the caller's header has it: a newer
 * library with more stages writes no more. NaN for a stage that the variant fuses into
 * another, and for all when the queue has no profiling or one of its times is not
 * credible: none was written, an end lies before its start, a layer takes less than a
 * microsecond or longer than the host's clock says passed.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (a NULL), MOECL_ERROR_DEVICE. */
MOECL_API moecl_status moecl_profile_read_wait(moecl_profile *profile, double *milliseconds,
                                               size_t count);

/* From the next forward on, keeps every kernel's times too, whatever layer_only says, in host
 * memory, for moecl_profile_kernels_wait. NULL is allowed. Thread: the context's. */
MOECL_API void moecl_profile_keep_kernels(moecl_profile *profile, bool keep);

/* One kernel of a forward. Milliseconds by two clocks: the host's since the forward was called, and
 * the device's since its first kernel's start. */
typedef struct moecl_kernel_times {
  const char *kernel; /* its function, "CLBlastSgemm" for all of one library GEMM's kernels; the
                         profile's, until its next forward */
  const char *step;   /* "gate_up", as moecl_plan_steps names it; a static string */
  moecl_stage stage;
  double enqueued_ms;      /* the host's: when it had been enqueued */
  double queued_ms;        /* the device's: the same moment, negative where that was before
                              the first start; NaN where the driver does not say */
  double start_ms, end_ms; /* the device's; NaN as moecl_profile_read_wait has it */
  uint64_t reserved[8];    /* zeros: see moecl.h */
} moecl_kernel_times;

/* Waits for the forward that was given the profile, then writes its kernels in the order in which
 * they were enqueued, at most `capacity` (`kernels` may be NULL for 0), and *count: how many there
 * are. None where the profile kept none. All have the device's times, or none has.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (a NULL), MOECL_ERROR_DEVICE, MOECL_ERROR_OUT_OF_HOST_MEMORY
 * (there was none to keep all of them); *count is then 0. Thread: the context's. */
MOECL_API moecl_status moecl_profile_kernels_wait(moecl_profile *profile,
                                                  moecl_kernel_times *kernels, size_t capacity,
                                                  size_t *count);

typedef struct moecl_forward_params {
  int64_t num_tokens;                /* T, 0 or more; T*K at most MOECL_MAX_ASSIGNMENTS */
  const moecl_buffer *hidden_states; /* [T,H], dtype, from the buffer's start (moecl_buffer_view
                                        makes a buffer of a part) */
  moecl_buffer *output;              /* [T,H], dtype, likewise */
  moecl_buffer *workspace; /* at least moecl_layer_workspace_size bytes; NULL: the layer's own,
                              grown when needed. One workspace serves one forward at a time;
                              layers may share one if they take turns. */
  uint64_t seed;           /* of what the router draws */
  moecl_event *const *wait_list; /* started after these; may be NULL. One that has failed
                                    fails the forward (MOECL_ERROR_DEVICE), and one that
                                    fails later the wait for the forward's event */
  size_t wait_count;
  moecl_profile *profile; /* receives this forward's stage times; may be NULL */
  bool measured;          /* for moecl_layer_offload_statistics_wait */
  uint64_t reserved[15];  /* zeros: see moecl.h */
} moecl_forward_params;

/* Enqueues one forward pass on the context's queue and returns at once. The
 * exceptions are the first of a number of tokens that wants kernels which are not there yet
 * (moecl_layer_reserve has them there), the "clblast" variant, a baseline that must read the counts
 * on the host and therefore waits for its router; and a layer with expert_cache, which waits for it
 * to know whom to bring, and so for all that was enqueued before.
 *
 * Event: `event` (may be NULL) receives one that completes with the output, and the work is
 * then sent to the device (clFlush). Without it, what comes next in the queue follows the
 * forward all the same; the work is sent when the caller flushes or waits.
 * Order: after everything enqueued before on the context's queue, in order or not, and
 * after the wait list; before everything enqueued after. Work on another queue goes
 * through wait_list and `event`. A forward of no tokens keeps this order too.
 * Overlap: output, hidden_states and workspace must share no memory
 * (MOECL_ERROR_INVALID_ARGUMENT where OpenCL says that they do). Forwards may share
 * hidden_states, and one forward's output may be the next one's hidden_states.
 * In flight: params and wait_list are the caller's again when the call returns, and every
 * object in them, the layer and the context too may be destroyed. The contents of
 * hidden_states, output and workspace are the forward's until the event completes.
 *
 * Errors: MOECL_ERROR_NOT_READY (weights were not set), MOECL_ERROR_INVALID_ARGUMENT
 * (num_tokens, a buffer that is too small, overlaps or is of another context, as an event
 * or the profile may be), MOECL_ERROR_DEVICE (an event of the wait list has failed),
 * MOECL_ERROR_OUT_OF_DEVICE_MEMORY (the layer's own workspace). On failure *event is NULL;
 * output and workspace are undefined where a part was enqueued already.
 * Thread: the context's. */
MOECL_API moecl_status moecl_layer_forward(moecl_layer *layer, const moecl_forward_params *params,
                                           moecl_event **event);

/* The variant that serves an operation ("router", "grouped_gemm", "permute",
 * "combine") and, in `reason` (may be NULL), why it was chosen, and behind a semicolon each of its
 * kernels that was set aside since: a forward or a moecl_layer_reserve that first wanted it found
 * that it does not serve here, and other kernels do its work. Static or layer-owned strings, valid
 * while the layer is, a reason's text until the next of those calls; NULL for NULL and an unknown
 * operation. Thread-safe without `reason`, else the context's. */
MOECL_API const char *moecl_layer_variant(const moecl_layer *layer, const char *operation,
                                          const char **reason);

/* How far the factors of the experts' products may be rounded, relatively, which
 * is what errors are to be measured by: 2^-24 for fp32, 2^-11 for fp16 and for fp32
 * as tf32 (the variant "nvidia_sm90_tf32", asked for by name only), 2^-8 for bf16; with an
 * activation_format at least 2^-11, for activated numbers that get a neighbouring code.
 * Sums are fp32 in all. 0 for NULL. Thread-safe. */
MOECL_API double moecl_layer_roundoff(const moecl_layer *layer);

/* How far an expert's output may be rounded, relatively, before it is multiplied by its
 * weight and combined: 2^-24 where it is kept as fp32, else the roundoff above. So where
 * a token's summands cancel, its output may be off by about this times the sum of their
 * sizes, beside what the roundoff of the products makes. 0 for NULL. Thread-safe. */
MOECL_API double moecl_layer_output_roundoff(const moecl_layer *layer);

/* Lists the variants of an operation that this device can run, best last, as
 * names (static strings); returns how many, writes at most `capacity` to `names` (may be
 * NULL). `format` is that of the weights, or of what is read where an operation has none. 0 for
 * NULL, MOECL_FORMAT_DTYPE and an unknown operation or format. Thread-safe. */
MOECL_API size_t moecl_variants_for_format(moecl_context *context, const char *operation,
                                           moecl_format format, const char **names,
                                           size_t capacity);
/* The same for the format that a data type has. */
MOECL_API size_t moecl_variants_available(moecl_context *context, const char *operation,
                                          moecl_dtype dtype, const char **names, size_t capacity);

/* Does the operation's variant of that name multiply on a device's matrix units, so that
 * moecl_peaks' flops_matrix is its limit? False for NULL and unknown names. Thread-safe. */
MOECL_API bool moecl_variant_uses_matrix_units(const char *operation, const char *variant);

#ifdef __cplusplus
}
#endif
#endif

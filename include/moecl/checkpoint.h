// SPDX-License-Identifier: MIT
/* Published checkpoints: a model folder with config.json and model.safetensors,
 * or shards and their model.safetensors.index.json, to layers.
 *
 * Opening reads config.json alone; the index is read when a tensor is first asked
 * for, and a shard mapped when one of its own is. What safetensors.h says of files that
 * become shorter holds here too. */
#ifndef MOECL_CHECKPOINT_H
#define MOECL_CHECKPOINT_H

#include "moecl/block.h"
#include "moecl/quantize.h"
#include "moecl/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moecl_checkpoint moecl_checkpoint;

typedef struct moecl_checkpoint_layer {
  /* Sizes, rule and dtype, the stored one where a layer can have it, else the one that config.json
   * names, else bf16; and the format of quantized weights (docs/models.md).
   * Training's jitter and the like are off. A dense feed-forward network is a
   * layer of one expert, top-1, whose router is all zeros. An absolute capacity
   * (Switch Transformers) is min_capacity beside a capacity_factor near 0. */
  moecl_layer_params params;
  bool is_moe;
  const char *prefix;       /* of its tensors' names: "model.layers.3." */
  const char *stored_dtype; /* "BF16", "F8_E4M3", ...; NULL: its tensors aren't there */
  const char *quantization; /* where its experts are codes with scales, config.json's quant_method;
                               else NULL. params.weight_format is the format that they are in */
  const char *remark;       /* why that is MOECL_FORMAT_DTYPE nevertheless, and the weights are
                               dequantized; NULL: it is not */
  const char *activations; /* config.json's key that asks for quantized activations, which the layer
                              has not: only its weights are; NULL: none does */
  uint64_t reserved[5];    /* zeros: see moecl.h */
} moecl_checkpoint_layer;

/* Opens the folder and describes every layer. Refused with one message naming
 * the file, and the key: a missing or malformed config.json; a model_type that no
 * family has (the message lists those that are known); sizes and rules out of range;
 * a folder without model.safetensors and index. A malformed index, or one with
 * shards outside the folder, is refused likewise, with MOECL_ERROR_IO, by the first
 * call that looks for a tensor.
 * `log` (may be NULL) and `log_user` receive the message, now and from later
 * calls with this checkpoint, until it is destroyed. `folder` is copied.
 * Errors: MOECL_ERROR_IO, MOECL_ERROR_UNSUPPORTED (an unknown family, or a rule
 * that layers don't have), MOECL_ERROR_INVALID_ARGUMENT,
 * MOECL_ERROR_OUT_OF_HOST_MEMORY. Thread-safe. */
MOECL_API moecl_status moecl_checkpoint_open(const char *folder, moecl_log_fn log, void *log_user,
                                             moecl_checkpoint **checkpoint);
/* Unmaps its files. Layers that were made from it keep their own copies. */
MOECL_API void moecl_checkpoint_destroy(moecl_checkpoint **checkpoint);

/* From here on one thread at a time uses a checkpoint. Strings and tensors are
 * its own and valid until it is destroyed. */

/* The family's name: "mixtral". */
MOECL_API const char *moecl_checkpoint_family(const moecl_checkpoint *checkpoint);
/* As config.json has it. */
MOECL_API const char *moecl_checkpoint_model_type(const moecl_checkpoint *checkpoint);

/* Feed-forward layers: those of the encoder, if there is one, then those of the
 * decoder. */
MOECL_API int64_t moecl_checkpoint_num_layers(const moecl_checkpoint *checkpoint);

/* Layer `index`, counted from 0. *layer is all zeros on failure.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT, MOECL_ERROR_IO (its shard),
 * MOECL_ERROR_OUT_OF_HOST_MEMORY. */
MOECL_API moecl_status moecl_checkpoint_get_layer(moecl_checkpoint *checkpoint, int64_t index,
                                                  moecl_checkpoint_layer *layer);

/* How many families there are, and their names; NULL out of range. Thread-safe. */
MOECL_API size_t moecl_checkpoint_num_families(void);
MOECL_API const char *moecl_checkpoint_family_name(size_t index);

/* What all tensors of all shards are together. */
typedef struct moecl_checkpoint_size {
  uint64_t bytes;
  uint64_t parameters;       /* elements of floating-point types, F8 included */
  uint64_t extra_parameters; /* of these, those of layers for next-token prediction,
                                which come after the last one and which a forward does not use */
  uint64_t other_bytes; /* of tensors of other types: quantized and packed ones, whose elements are
                           no parameters, or several */
  uint64_t reserved[4]; /* zeros: see moecl.h */
} moecl_checkpoint_size;

/* Opens all shards. *size is all zeros on failure.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT, MOECL_ERROR_IO, MOECL_ERROR_OUT_OF_HOST_MEMORY. */
MOECL_API moecl_status moecl_checkpoint_measure(moecl_checkpoint *checkpoint,
                                                moecl_checkpoint_size *size);

/* Are all tensors of layer `index` there, of the right shape and of types that
 * layers have, and is there none beside them? Reads none of their data. Errors as
 * moecl_checkpoint_read's; a tensor of the layer's feed-forward network that nothing
 * reads (a bias that the family's layers do not have, a scale) is MOECL_ERROR_UNSUPPORTED. */
MOECL_API moecl_status moecl_checkpoint_check(moecl_checkpoint *checkpoint, int64_t index);

/* Finds a tensor by its name in the files; *file (may be NULL) is the one that
 * has it. *tensor is NULL if there is none, which is no error.
 * Errors: MOECL_ERROR_IO, MOECL_ERROR_OUT_OF_HOST_MEMORY. */
MOECL_API moecl_status moecl_checkpoint_find(moecl_checkpoint *checkpoint, const char *name,
                                             const moecl_safetensors **file,
                                             const moecl_safetensors_tensor **tensor);

/* Reads item `item` (an expert; 0 for tensors that are not per expert) of a
 * layer's tensor in the canonical layout of moecl_tensor, converted to `dtype`:
 * moecl_layer_tensor_size elements of host memory; MOECL_SCORE_CORRECTION_BIAS is always
 * fp32. On failure `values` is undefined.
 * Factors that a family has and moecl's layers do not are multiplied into the weights, in
 * double and rounded once (Gemma 4): a norm and a scale into the router's weight, so that
 * it reads the same input as the experts, and a scale for each expert into down_proj.
 * Errors, each with one message naming file and tensor: MOECL_ERROR_IO (a tensor
 * is missing, has another shape, or an element is not a finite number, or not in
 * `dtype`'s range), MOECL_ERROR_UNSUPPORTED (a data type that layers don't have; a norm's
 * weight of 0 that the router's input is divided by),
 * MOECL_ERROR_INVALID_ARGUMENT, MOECL_ERROR_OUT_OF_HOST_MEMORY. */
MOECL_API moecl_status moecl_checkpoint_read(moecl_checkpoint *checkpoint, int64_t index,
                                             moecl_tensor tensor, int64_t item, moecl_dtype dtype,
                                             void *values);

/* The same as a layer of `params` is given it: moecl_layer_tensor_bytes of it. Weights that are
 * stored in params' weight_format have their codes and scales as they are in the files: where that
 * is the checkpoint's own (moecl_checkpoint_layer) it is that or an error. From one format to
 * another it goes by the numbers, in double. Of `params` the sizes, activation, dtype and
 * weight_format count. Errors: those of moecl_checkpoint_read; MOECL_ERROR_UNSUPPORTED for scales
 * that the format cannot hold, an expert that is stored otherwise than the first, and codes that
 * the family multiplies by other numbers; MOECL_ERROR_INVALID_ARGUMENT for other sizes than the
 * tensor's. On failure `values` is undefined. Thread: as moecl_checkpoint_read. */
MOECL_API moecl_status moecl_checkpoint_read_as(moecl_checkpoint *checkpoint, int64_t index,
                                                moecl_tensor tensor, int64_t item,
                                                const moecl_layer_params *params, void *values);

/* What the family multiplies the route weights of each expert by (Gemma 4's
 * per_expert_scale), to `scale` [E]; ones where it does not. moecl_checkpoint_read has
 * multiplied MOECL_DOWN_PROJ and MOECL_DOWN_BIAS by it, and the layer's route weights are
 * without it. Errors as moecl_checkpoint_read's. */
MOECL_API moecl_status moecl_checkpoint_read_expert_scale(moecl_checkpoint *checkpoint,
                                                          int64_t index, float *scale);

/* ---- quantizing a model ---- */

typedef struct moecl_checkpoint_quantize_params {
  moecl_format format; /* of the experts' matrices: one with scales */
  moecl_scale_search scale_search;
  /* Quantizes one matrix of host memory, as moecl_quantize_host does with params whose dtype is
   * MOECL_F32: moecl_format_bytes to `codes`. What it returns other than MOECL_OK ends the call. It
   * must not use the checkpoint. NULL: the host does, on several threads; moecl_quantize is
   * faster. */
  moecl_status (*quantize)(void *user, const moecl_quantize_params *params, const float *numbers,
                           void *codes);
  void *user;           /* is passed to it */
  uint64_t reserved[8]; /* zeros: see moecl.h */
} moecl_checkpoint_quantize_params;

/* Writes the model to a folder, which has to be new or empty, with the matrices of all MoE layers'
 * experts, routed and shared, in a format with scales. All other tensors are the same bytes, and so
 * are the folder's other files, without weights in other files and folders in it. Shards and index
 * are as the checkpoint's. config.json says it as other programs read it (quantization_config),
 * and what is not quantized:
 * - fp8-block: "fp8", as DeepSeek-V3;
 * - mxfp4: of gpt-oss "mxfp4"; of others compressed-tensors;
 * - all others: compressed-tensors.
 * moecl_checkpoint_read gives the numbers that the format has; of nvfp4 the matrix' scale is stored
 * as what is divided by, and comes back rounded once more in fp32. One expert's matrix at a time is
 * in host memory. After a failure the folder has no config.json, and may have other files.
 * Errors, each with one message: MOECL_ERROR_UNSUPPORTED (a model that is quantized already, or has
 * no experts; what the files of the format cannot express: experts that lie in one tensor, a
 * transposed one, columns that are no multiple of the block), MOECL_ERROR_IO (a file, a tensor
 * that is missing, an element that is not finite), MOECL_ERROR_INVALID_ARGUMENT (a parameter, a
 * folder with files in it), MOECL_ERROR_OUT_OF_HOST_MEMORY. */
MOECL_API moecl_status moecl_checkpoint_quantize(moecl_checkpoint *checkpoint,
                                                 const moecl_checkpoint_quantize_params *params,
                                                 const char *folder);

/* ---- the transformer block around a layer ---- */

/* Attention and norms around layer `index`, and the layer itself, as moecl_checkpoint_get_layer
 * has it. *params is all zeros on failure. Errors: those of moecl_checkpoint_get_layer;
 * MOECL_ERROR_UNSUPPORTED for models whose attention is not described (the message lists those
 * that are: mixtral, olmoe, qwen3_moe, gpt_oss) and for options that blocks do not have (dynamic
 * scaling of a rotary embedding). */
MOECL_API moecl_status moecl_checkpoint_get_block(moecl_checkpoint *checkpoint, int64_t index,
                                                  moecl_block_params *params);
/* As moecl_checkpoint_check, of the block's tensors too. */
MOECL_API moecl_status moecl_checkpoint_check_block(moecl_checkpoint *checkpoint, int64_t index);
/* As moecl_checkpoint_read, of a block's whole tensor: moecl_block_tensor_size elements. */
MOECL_API moecl_status moecl_checkpoint_read_block(moecl_checkpoint *checkpoint, int64_t index,
                                                   moecl_block_tensor tensor, moecl_dtype dtype,
                                                   void *values);
/* As moecl_layer_load, of a block and its layer. The block's options may be others than the
 * checkpoint's where they change no tensor. */
MOECL_API moecl_status moecl_block_load(moecl_block *block, moecl_checkpoint *checkpoint,
                                        int64_t index);

/* Gives all weights of checkpoint layer `index` to `layer`, whose sizes and
 * tensors must be the checkpoint's, in its own dtype. On the host it takes one
 * item beside the mapping. Waits. On failure the layer has some of the weights.
 * Errors: moecl_checkpoint_read's and moecl_layer_set_weights'; and
 * MOECL_ERROR_INVALID_ARGUMENT where the layer is another one.
 * Thread: the context's. */
MOECL_API moecl_status moecl_layer_load(moecl_layer *layer, moecl_checkpoint *checkpoint,
                                        int64_t index);

#ifdef __cplusplus
}
#endif
#endif

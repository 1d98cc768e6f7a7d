// SPDX-License-Identifier: MIT
/* The layer's insides, shared by layer.c (creation, weights), memory.c (sizes),
 * forward.c (one pass) and routing.c (reading back). */
#ifndef MOECL_LIB_LAYER_LAYER_H
#define MOECL_LIB_LAYER_LAYER_H

#include "kernel/choose.h"
#include "moecl/routing.h"
#include "op/combine.h"
#include "op/permute.h"
#include "op/router.h"
#include "op/scale.h"
#include "op/shared.h"

/* The workspace is one buffer, cut into regions; see region_bytes. */
typedef enum moe_region {
  REGION_HIDDEN_F32,
  REGION_ROUTER_INPUT,
  REGION_LOGITS,
  REGION_NOISE_LOGITS,
  REGION_TOPK_IDS,
  REGION_TOPK_WEIGHTS,
  REGION_BLOCK_COUNTS,
  REGION_TOKENS_PER_EXPERT,
  REGION_EXPERT_OFFSETS,
  REGION_TILE_OFFSETS,
  REGION_ALL_OFFSETS,
  REGION_SLOT_TOKEN,
  REGION_ASSIGNMENT_SLOT,
  REGION_ORDER,
  REGION_TOKEN_PRIORITY,
  REGION_KEPT_WEIGHTS,
  REGION_SCALED,
  REGION_ACTIVATED,
  REGION_EXPERT_OUTPUT,
  REGION_SHARED_ACTIVATED,
  REGION_SHARED_OUTPUT,
  REGION_SHARED_GATE,
  REGION_SCRATCH,
  REGION_COUNT
} moe_region;

typedef struct moe_workspace {
  ocl_views views; /* the regions; views.parent is the buffer that was cut */
  int64_t num_tokens;
  moecl_buffer *region[REGION_COUNT];
} moe_workspace;

typedef enum moe_operation {
  OPERATION_ROUTER,
  OPERATION_PERMUTE,
  OPERATION_GROUPED_GEMM,
  OPERATION_COMBINE,
  OPERATION_COUNT
} moe_operation;

struct moecl_layer {
  moecl_context *context;
  moecl_layer_params params; /* the variant names are not kept */
  op_router router;
  op_permute permute;
  op_scale scale;
  op_gemm *gate_up, *down;
  op_shared shared;
  op_combine combine;
  bool f32_activations; /* the experts' GEMMs read and write fp32 rows */
  bool f32_outputs;     /* experts' outputs, the shared one's too, are fp32 until combined */
  const kernel_variant *variant[OPERATION_COUNT];
  char reason[OPERATION_COUNT][128];
  uint8_t *is_set[MOECL_TENSOR_COUNT]; /* one flag an item */
  int64_t missing;                     /* items not set yet */
  moecl_buffer *own_workspace;
  moe_workspace workspace; /* of the latest forward */
};

typedef bool (*moe_accepts_fn)(void *user, const kernel_variant *variant);
typedef moecl_status (*moe_try_fn)(void *user, const kernel_variant *variant);

/* The clamped SwiGLU's constants, defaults put in. */
float moe_swiglu_alpha(const moecl_layer_params *params);
float moe_swiglu_limit(const moecl_layer_params *params);
float moe_shared_swiglu_limit(const moecl_layer_params *params);

/* Does the variant write experts' outputs as fp32? */
bool moe_outputs_f32(const kernel_variant *variant);
/* The shape of gate/up, or of down, in a variant. */
op_gemm_shape moe_expert_shape(const moecl_layer_params *params, const kernel_variant *variant,
                               bool down);
/* Does the variant take the experts of `user`, a layer? */
bool moe_accepts_experts(void *user, const kernel_variant *variant);
/* With the experts' variant known: do they read hidden states as fp32 that are
 * stored as something else? */
bool moe_converts_for_experts(const moecl_layer *layer);
/* The logits' GEMM follows the experts' variant, where that takes them: a
 * library baseline would have to read its counts on the host, others don't take
 * the router's sizes or an fp32 input. `try_variant` gets the layer. */
moecl_status moe_choose_logits(moecl_layer *layer, const char *asked, moe_try_fn try_variant);
/* The shared expert follows likewise; it reads and writes rows as the experts do. */
moecl_status moe_choose_shared(moecl_layer *layer, const char *asked, moe_try_fn try_variant);
op_gemm_shape moe_shared_shape(const moecl_layer *layer, bool down);
/* Can there be a forward of so many tokens? Logged. */
moecl_status moe_check_tokens(moecl_context *context, const moecl_layer_params *params,
                              int64_t num_tokens);

/* Bytes of a region for num_tokens; 0 where the layer has no use for it. */
uint64_t moe_region_bytes(const moecl_layer *layer, moe_region region, int64_t num_tokens);

/* Cuts `buffer` into layer->workspace, unless it already is so. */
moecl_status moe_workspace_cut(moecl_layer *layer, moecl_buffer *buffer, int64_t num_tokens);

#endif

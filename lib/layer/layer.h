// SPDX-License-Identifier: MIT
/* The layer's insides. parts.c chooses and makes its operations, or describes them;
 * build.c puts them into a plan, by the alternatives of paths.c; forward.c runs it, and offload.c
 * where experts are in the host's memory (expert_cache.c: which of them are not); weights.c fills
 * it; memory.c, plan.c and routing.c answer questions. */
#ifndef MOECL_LIB_LAYER_LAYER_H
#define MOECL_LIB_LAYER_LAYER_H

#include "moecl/checkpoint.h"
#include "moecl/routing.h"
#include "op/combine/combine.h"
#include "op/gate/gate.h"
#include "op/gemm/gemm.h"
#include "op/permute/permute.h"
#include "op/permute/rounds.h"
#include "op/permute/scale.h"
#include "op/quantize/quantize.h"
#include "op/route/route.h"
#include "op/router/prepare.h"
#include "op/router/router.h"
#include "plan/space.h"

typedef enum layer_operation {
  LAYER_ROUTER,
  LAYER_PERMUTE,
  LAYER_GROUPED_GEMM,
  LAYER_COMBINE,
  LAYER_OPERATION_COUNT
} layer_operation;

/* Where a plan is cut whose experts are in the host's memory: before `routed` it is found out which
 * are wanted, before `apart` is what needs none of them, those from `first` on and before `end` are
 * run for every round. */
typedef struct layer_cuts {
  int routed, apart, first, end;
  bool at_once; /* there is one round: all have to be there */
} layer_cuts;

/* The tensors of a layer's plans, by their place in them. */
typedef struct layer_tensors {
  int hidden_states, output, hidden_f32, router_input, logits, noise_logits, correction_bias;
  int topk_ids, topk_weights, block_counts, tokens_per_expert, expert_offsets, tile_offsets;
  int all_offsets, slot_token, slot_place, assignment_slot, order, token_priority, kept_weights;
  int hidden_quantized, scaled_quantized, activated_quantized, shared_quantized;
  int scaled, activated, expert_output, shared_activated, shared_output, shared_gate, scratch;
  int round_list, moved_slot, moved_token, round_offsets, round_tiles; /* of experts in rounds */
  layer_cuts cuts;                                                     /* likewise */
} layer_tensors;

typedef struct layer_plan {
  plan plan;
  layer_tensors at;
} layer_plan;

typedef struct layer_offload layer_offload;

struct moecl_layer {
  moecl_context *context;
  moecl_layer_params params;           /* the variant names are not kept */
  int64_t own_experts;                 /* with matrices that are here: all, but in a share */
  bool is_share;                       /* of a group's layer */
  bool f32_outputs;                    /* experts' outputs are fp32, whatever a variant has */
  bool scatters;                       /* and are stored where a list says: of a share whose variant
                                          can */
  int64_t places;                      /* experts that the device has room for: those, or some */
  bool described;                      /* its operations have no kernels and hold no memory */
  unsigned late;                       /* kernels of GEMMs that come with the plans that want them:
                                          op_gemm_desc's */
  const desc_format *stored;           /* of hidden states, output and the router */
  const desc_format *weights, *biases; /* of the experts */
  const desc_format *rows;             /* of hidden states as experts have them, and activated */
  const desc_format *quantized;        /* what rows are rounded to for GEMMs; NULL: they are not */
  const desc_format *inputs;           /* of what the experts' GEMMs read: rows; of quantized ones
                                          codes, or as fp32 what they mean */
  const desc_format *outputs;          /* of experts' outputs until they are combined */
  desc_dispatch dispatch;
  op_gemm *gate_up, *down, *logits;
  op_gemm *noise;                        /* NULL: no noise */
  op_gemm *shared_gate_up, *shared_down; /* NULL: no shared expert */
  op_prepare convert, jitter;            /* has_convert; params.jitter > 0 */
  op_noise add_noise;                    /* params.router_noise */
  op_router router;
  op_route route; /* its variant is NULL where there is none */
  op_permute permute;
  op_scale scale;                              /* params.weight_on_input */
  op_rounds rounds;                            /* layer_offloads */
  op_gate gate;                                /* has_gate */
  op_quantize quantize_hidden, quantize_inner; /* quantized */
  op_quantize quantize_shared;                 /* and there is a shared expert */
  op_combine combine;
  bool has_convert, has_gate;
  moecl_buffer *correction_bias; /* [E] fp32; NULL without one */
  const kernel_variant *variant[LAYER_OPERATION_COUNT];
  char reason[LAYER_OPERATION_COUNT][OP_REASON_SIZE];
  uint8_t *is_set[MOECL_TENSOR_COUNT]; /* one flag an item */
  int64_t missing;                     /* items not set yet */
  layer_offload *offload;              /* NULL: experts are on the device, or it is described */

  moecl_buffer *staging; /* of weights from host memory: there as long as some are missing, or */
  bool loading;          /* all of a checkpoint's are being given, for the first time or again */

  plan_space space;
  /* What the latest forward left, its own or that of a plan which its steps are a part of. */
  struct {
    const plan *plan; /* NULL: there was none */
    const layer_tensors *at;
    const plan_space *space;
  } ran;
};

/* ---- layer.c ---- */

/* Those of layer_operation. */
extern const op_kind *const layer_kinds[LAYER_OPERATION_COUNT];

/* Each of a layer's operations; zeros where it does not have that one. */
typedef struct layer_part {
  const op_kind *kind;
  size_t at; /* in moecl_layer */
} layer_part;
enum { LAYER_PARTS = 19 };
extern const layer_part layer_parts[LAYER_PARTS];

/* ---- parts.c ---- */

/* Makes a layer, or describes one: without kernels and memory, to build plans of. Checks
 * `params`, and logs what is wrong with them. Destroyed by moecl_layer_destroy. */
moecl_status layer_make(moecl_context *context, const moecl_layer_params *params, bool described,
                        moecl_layer **layer);

/* Builds the programs that the layer made of these parameters will ask for, several at a time;
 * own_experts as in layer_make_share, 0: all. What goes wrong shows when the layer is made. */
void layer_build_ahead(moecl_context *context, const moecl_layer_params *params,
                       int64_t own_experts);

/* A group's share of a layer: all of it but the matrices of other members' experts; its own ones,
 * 1 or more, are numbered from 0 on. With f32_outputs these are fp32, as those of members of
 * another kind. Where the variant can, it scatters them. Its forward is the group's. */
moecl_status layer_make_share(moecl_context *context, const moecl_layer_params *params,
                              int64_t own_experts, bool f32_outputs, moecl_layer **layer);
/* How many items of a tensor are here. */
int64_t layer_items(const moecl_layer *layer, moecl_tensor tensor);

/* Are experts in the host's memory? */
static inline bool layer_offloads(const moecl_layer *layer) {
  return layer->params.expert_cache != 0;
}

/* ---- offload.c ---- */

/* The host's memory, and what is kept of who is where. */
moecl_status layer_offload_make(moecl_layer *layer);
void layer_offload_release(layer_offload **offload); /* waits for copies */
/* Place 0 is nobody's from now on, whatever comes of what is packed there. */
void layer_offload_vacate(moecl_layer *layer);
/* Takes an expert's tensor, packed at place 0, to the host's memory; enqueued. */
moecl_status layer_offload_keep(moecl_layer *layer, moecl_tensor tensor, int64_t expert);
/* Host bytes of all experts; also of a described layer. */
uint64_t layer_host_bytes(const moecl_layer *layer);
/* Runs the plan, in the layer's space, `bound` to what it is for. */
moecl_status layer_offload_run(moecl_layer *layer, const moecl_forward_params *params,
                               const layer_plan *built, const moecl_buffer **bound,
                               moecl_event **event);

/* ---- load.c ---- */

/* What takes a checkpoint's items, as moecl_layer_tensor_format has them. */
typedef struct layer_loading {
  const moecl_layer_params *params;
  const moecl_log *log;
  moecl_status (*give)(void *user, moecl_tensor tensor, int64_t item, const void *values);
  /* False: it is not read. NULL: all are. */
  bool (*wants)(const void *user, moecl_tensor tensor, int64_t item);
  void *user;
} layer_loading;
moecl_status layer_load_items(const layer_loading *into, moecl_checkpoint *checkpoint,
                              int64_t index);

/* ---- weights.c ---- */

void layer_release_staging(moecl_layer *layer);

/* ---- routing.c ---- */

/* The arrays of a routing whose sizes are set; what there is after a failure is for
 * moecl_routing_destroy. */
moecl_status layer_allocate_routing(const moecl_layer *layer, moecl_routing *routing);

/* ---- paths.c ---- */

/* Is it worth streaming the chosen experts' weights for each token by itself? */
bool layer_takes_few_tokens_path(const moecl_layer *layer, int64_t num_tokens);

typedef struct layer_builder {
  const moecl_layer *layer;
  plan *plan;
  layer_tensors *at;
} layer_builder;

/* Ways to the same result. Of the rows of one part, the first that applies is taken. */
typedef struct layer_path {
  const char *part, *name;
  const char *why;                                               /* it is taken, where it applies */
  bool (*applies)(const moecl_layer *layer, int64_t num_tokens); /* NULL: always */
  void (*build)(layer_builder *builder);                         /* NULL: it has no step */
} layer_path;
extern const layer_path layer_paths[]; /* in the order of a forward; ended by part NULL */

/* ---- build.c ---- */

void layer_plan_build(const moecl_layer *layer, int64_t num_tokens, layer_plan *built);
/* How they are made, with key 0. */
plan_builder layer_plans(const moecl_layer *layer);
/* The layer's plan for so many tokens. */
moecl_status layer_plan_for(moecl_layer *layer, int64_t num_tokens, layer_plan **found);
/* Adds the layer's tensors and steps to a plan: from `hidden_states` to `output`, which are
 * tensors of the plan, [T,H] as the layer stores them. */
void layer_append(const moecl_layer *layer, plan *plan, int hidden_states, int output,
                  layer_tensors *at);
/* Binds the weights that are tensors of the steps. */
void layer_bind(const moecl_layer *layer, const layer_tensors *at, const moecl_buffer **bound);
/* For plans of parts of a layer: all its tensors, with so many rows of experts. */
void layer_add_tensors(layer_builder *b, uint64_t slots);
/* Logits, and the choice; priorities; lists, with weights renormalized after capacity; the shared
 * expert; experts whose rows are `input`; the combination. */
void layer_build_choice(layer_builder *b);
void layer_build_priorities(layer_builder *b);
void layer_build_lists(layer_builder *b);
void layer_build_shared(layer_builder *b);
/* What the experts multiply: `hidden_states` converted, weighted and quantized as the layer has
 * it. Returns which tensor that is in. */
int layer_build_expert_rows(layer_builder *b);
/* Of tensors of the names' plan, whose step names are the caller's. */
void layer_build_expert_gemms(layer_builder *b, const char *gate_up, const char *down, int input,
                              int64_t slots);
void layer_build_combine(layer_builder *b);
/* Steps that paths.c's rows are made of. */
void layer_build_jitter(layer_builder *b);
void layer_build_convert(layer_builder *b);
void layer_build_routing_at_once(layer_builder *b);
void layer_build_fused_routing(layer_builder *b);
void layer_build_counted_routing(layer_builder *b);
void layer_build_routing(layer_builder *b);
void layer_build_kept_weights(layer_builder *b);
void layer_build_scaled_rows(layer_builder *b);
void layer_build_few_tokens_experts(layer_builder *b);
void layer_build_few_tokens_brought(layer_builder *b);
void layer_build_experts(layer_builder *b);
void layer_build_rounds(layer_builder *b);

/* ---- explain.c ---- */

/* Adds the weights that are no tensors of the layer's steps. */
void layer_list_weights(const moecl_layer *layer, moecl_plan *made);

/* ---- memory.c ---- */

/* moecl_layer_memory of a layer that was made, or described. */
moecl_status layer_memory(const moecl_layer *layer, int64_t num_tokens, moecl_memory *memory);
/* More than 2^58 elements, of which the tensors hold 64 bytes or less each. */
bool layer_is_beyond_64_bits(const moecl_layer_params *params, int64_t num_tokens);
/* Can there be a forward of so many tokens? Logged. */
moecl_status layer_check_tokens(moecl_context *context, const moecl_layer_params *params,
                                int64_t num_tokens);
/* And could a device have memory for it? */
moecl_status layer_check_reserve(moecl_context *context, const moecl_layer_params *params,
                                 int64_t num_tokens);

#endif

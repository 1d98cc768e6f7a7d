// SPDX-License-Identifier: MIT
/* One point's tensors to a safetensors file, so that anyone can check the
 * engine with their own framework. Weights stream through one staging buffer. */
#include "run/runner.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_TENSORS = 36 };

static const char *const dtype_names[MOECL_DTYPE_COUNT] = {"F32", "F16", "BF16"};

typedef struct plan {
  dump_tensor tensors[MAX_TENSORS];
  size_t count;
} plan;

static void add(plan *plan, const char *name, const char *dtype, int64_t a, int64_t b, int64_t c) {
  dump_tensor *tensor = &plan->tensors[plan->count++];
  *tensor = (dump_tensor){name, dtype, {a, b, c}, c ? 3 : b ? 2 : 1};
}

/* The data type's name. What is in no data type is written as fp32 numbers. */
static const char *dumped_as(const moecl_layer_params *layer, moecl_tensor tensor) {
  const moecl_dtype dtype = moecl_layer_tensor_dtype(layer, tensor);
  return dtype_names[dtype == MOECL_DTYPE_COUNT ? MOECL_F32 : dtype];
}

static const char *const block_names[MOECL_BLOCK_TENSOR_COUNT] = {
    [MOECL_ATTENTION_NORM] = "attention_norm.weight",
    [MOECL_ATTENTION_NORM_BIAS] = "attention_norm.bias",
    [MOECL_QKV_PROJ] = "attention.qkv_proj",
    [MOECL_QKV_BIAS] = "attention.qkv_bias",
    [MOECL_Q_NORM] = "attention.q_norm",
    [MOECL_K_NORM] = "attention.k_norm",
    [MOECL_SINKS] = "attention.sinks",
    [MOECL_O_PROJ] = "attention.o_proj",
    [MOECL_O_BIAS] = "attention.o_bias",
    [MOECL_FEED_FORWARD_NORM] = "feed_forward_norm.weight",
    [MOECL_FEED_FORWARD_NORM_BIAS] = "feed_forward_norm.bias",
    [MOECL_RELATIVE_BIAS] = "attention.relative_bias"};

/* Of a block: the tokens before, and its weights. */
static void plan_block(plan *plan, const experiment_point *point) {
  const char *dtype = dtype_names[point->layer.dtype];
  const int64_t hidden = point->layer.hidden_size, heads = point->block.attention.num_heads;
  if (point->what != WHAT_BLOCK) return;
  const moecl_block_params params = experiment_block_params(point);
  if (point->context > 0) add(plan, "context_states", dtype, point->context, hidden, 0);
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const int64_t size = moecl_block_tensor_size(&params, (moecl_block_tensor)i);
    if (i == MOECL_QKV_PROJ) add(plan, block_names[i], dtype, size / hidden, hidden, 0);
    else if (i == MOECL_O_PROJ) add(plan, block_names[i], dtype, hidden, size / hidden, 0);
    else if (i == MOECL_RELATIVE_BIAS && size > 0)
      add(plan, block_names[i], dtype, size / heads, heads, 0);
    else if (size > 0) add(plan, block_names[i], dtype, size, 0, 0);
  }
}

/* In the order in which they are written below. */
static plan make_plan(const experiment_point *point) {
  const moecl_layer_params *p = &point->layer;
  const char *dtype = dtype_names[p->dtype];
  const bool gated = moecl_activation_is_gated(p->activation);
  const int64_t rows = gated ? 2 * p->intermediate_size : p->intermediate_size;
  const int64_t experts = moecl_layer_tensor_items(p, MOECL_DOWN_PROJ);
  plan plan = {.count = 0};
  add(&plan, "hidden_states", dtype, point->num_tokens, p->hidden_size, 0);
  plan_block(&plan, point);
  add(&plan, "router.weight", dtype, p->num_experts, p->hidden_size, 0);
  if (p->router_bias) add(&plan, "router.bias", dtype, p->num_experts, 0, 0);
  add(&plan, gated ? "experts.gate_up_proj" : "experts.up_proj", dumped_as(p, MOECL_GATE_UP_PROJ),
      experts, rows, p->hidden_size);
  if (p->gate_up_bias)
    add(&plan, gated ? "experts.gate_up_proj_bias" : "experts.up_proj_bias",
        dumped_as(p, MOECL_GATE_UP_BIAS), experts, rows, 0);
  add(&plan, "experts.down_proj", dumped_as(p, MOECL_DOWN_PROJ), experts, p->hidden_size,
      p->intermediate_size);
  if (p->down_bias)
    add(&plan, "experts.down_proj_bias", dumped_as(p, MOECL_DOWN_BIAS), experts, p->hidden_size, 0);
  if (p->score_correction_bias) add(&plan, "router.correction_bias", "F32", p->num_experts, 0, 0);
  if (p->router_noise) add(&plan, "router.noise_weight", dtype, p->num_experts, p->hidden_size, 0);
  if (p->shared_intermediate_size > 0) {
    const int64_t size = p->shared_intermediate_size;
    add(&plan, gated ? "shared.gate_up_proj" : "shared.up_proj",
        dumped_as(p, MOECL_SHARED_GATE_UP_PROJ), gated ? 2 * size : size, p->hidden_size, 0);
    add(&plan, "shared.down_proj", dumped_as(p, MOECL_SHARED_DOWN_PROJ), p->hidden_size, size, 0);
  }
  if (p->shared_gate) add(&plan, "shared.gate", dtype, p->hidden_size, 0, 0);
  add(&plan, "router_logits", "F32", point->num_tokens, p->num_experts, 0);
  add(&plan, "topk_ids", "I32", point->num_tokens, p->top_k, 0);
  add(&plan, "topk_weights", "F32", point->num_tokens, p->top_k, 0);
  add(&plan, "kept", "U8", point->num_tokens, p->top_k, 0);
  if (p->capacity_factor > 0 && p->drop_policy == MOECL_DROP_PRIORITIZED)
    add(&plan, "token_priority", "F32", point->num_tokens, 0, 0);
  add(&plan, "output", dtype, point->num_tokens, p->hidden_size, 0);
  return plan;
}

static bool oops(char **error, const char *text) {
  if (!*error) *error = strdup(text);
  return false;
}

static bool write_buffer(dump *dump, const moecl_buffer *buffer, uint64_t bytes, char **error) {
  void *data = malloc(bytes + 1);
  if (!data) return oops(error, "no memory for the dump");
  const bool ok = moecl_buffer_read_wait(buffer, 0, bytes, data) == MOECL_OK
                      ? dump_write(dump, data, bytes, error)
                      : oops(error, "a buffer could not be read for the dump");
  free(data);
  return ok;
}

/* A drawn item. */
static bool write_item(dump *dump, const moecl_layer_params *layer, moecl_tensor tensor,
                       const moecl_buffer *drawn, char **error) {
  const uint64_t bytes = moecl_layer_tensor_bytes(layer, tensor);
  if (moecl_layer_tensor_dtype(layer, tensor) != MOECL_DTYPE_COUNT)
    return write_buffer(dump, drawn, bytes, error);
  const size_t count = (size_t)moecl_layer_tensor_size(layer, tensor);
  void *stored = malloc(bytes);
  double *numbers = malloc(count * sizeof *numbers);
  float *values = malloc(count * sizeof *values);
  bool ok = stored && numbers && values ? true : oops(error, "no memory for the dump");
  if (ok && moecl_buffer_read_wait(drawn, 0, bytes, stored) != MOECL_OK)
    ok = oops(error, "a buffer could not be read for the dump");
  if (ok) {
    moecl_layer_tensor_to_double(layer, tensor, stored, numbers);
    moecl_from_double(MOECL_F32, numbers, count, values);
    ok = dump_write(dump, values, count * sizeof *values, error);
  }
  free(stored);
  free(numbers);
  free(values);
  return ok;
}

static bool write_weights(dump *dump, const dump_input *input, char **error) {
  const experiment_point *point = input->point;
  for (int tensor = 0; tensor < MOECL_TENSOR_COUNT; tensor++) {
    const uint64_t bytes = workload_staging_bytes(point);
    const int64_t items = moecl_layer_tensor_items(&point->layer, (moecl_tensor)tensor);
    moecl_buffer *staging = NULL;
    if (items && moecl_buffer_create(input->context, bytes, &staging) != MOECL_OK)
      return oops(error, "no device memory for the dump");
    bool ok = true;
    for (int64_t item = 0; ok && item < items; item++)
      ok = *input->interrupted ? oops(error, "interrupted during the dump")
           : workload_draw_weights(point, (moecl_tensor)tensor, item, staging) == MOECL_OK
               ? write_item(dump, &point->layer, (moecl_tensor)tensor, staging, error)
               : oops(error, "weights could not be drawn for the dump");
    moecl_buffer_destroy(&staging);
    if (!ok) return false;
  }
  return true;
}

static bool write_block(dump *dump, const dump_input *input, char **error) {
  const experiment_point *point = input->point;
  bool ok = !input->context_states || write_buffer(dump, input->context_states,
                                                   moecl_buffer_size(input->context_states), error);
  for (int i = 0; ok && i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const uint64_t bytes = workload_block_bytes(point, (moecl_block_tensor)i);
    moecl_buffer *drawn = NULL;
    if (bytes == 0) continue;
    if (moecl_buffer_create(input->context, bytes, &drawn) != MOECL_OK)
      return oops(error, "no device memory for the dump");
    ok = workload_draw_block_weights(point, (moecl_block_tensor)i, drawn) == MOECL_OK
             ? write_buffer(dump, drawn, bytes, error)
             : oops(error, "weights could not be drawn for the dump");
    moecl_buffer_destroy(&drawn);
  }
  return ok;
}

bool dump_point(const dump_input *input, const char *path, char **error) {
  const moecl_routing *routing = input->routing;
  const plan plan = make_plan(input->point);
  const size_t slots = (size_t)(routing->num_tokens * routing->top_k);
  const uint64_t rows = moecl_buffer_size(input->output);
  dump *dump = dump_open(path, plan.tensors, plan.count, error);
  if (!dump) return false;
  bool ok =
      write_buffer(dump, input->hidden_states, rows, error) && write_block(dump, input, error) &&
      write_weights(dump, input, error) &&
      dump_write(dump, routing->router_logits,
                 (size_t)(routing->num_tokens * routing->num_experts) * sizeof(float), error) &&
      dump_write(dump, routing->topk_ids, slots * sizeof(int32_t), error) &&
      dump_write(dump, routing->topk_weights, slots * sizeof(float), error) &&
      dump_write(dump, routing->kept, slots, error) &&
      (!routing->token_priority ||
       dump_write(dump, routing->token_priority, (size_t)routing->num_tokens * sizeof(float),
                  error)) &&
      write_buffer(dump, input->output, rows, error);
  char *closing = NULL;
  ok = dump_close(&dump, ok ? error : &closing) && ok;
  free(closing); /* an incomplete file complains too; the first error is the one to tell */
  return ok;
}

// SPDX-License-Identifier: MIT
/* moectl inspect: what a model folder holds, and whether this device could hold it. */
#include "base/files.h"
#include "cli/moectl.h"
#include "experiment/problems.h"
#include "experiment/schema.h"
#include "base/wrap.h"
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The forward whose memory is printed. */
enum { FORWARD_TOKENS = 4096 };

/* Memory is printed of weights in each data type, and as quantized ones are stored. */
enum { AS_STORED = MOECL_DTYPE_COUNT, MEMORY_ROWS };

typedef struct layer_kind { /* layers that are alike in all that is shown */
  moecl_checkpoint_layer layer;
  json_t *params;
  char *refused; /* why no layer can be made of it; NULL: one can */
  int64_t *indices;
  int64_t count;
} layer_kind;

typedef struct inspection {
  const options *options;
  moecl_checkpoint *checkpoint;
  moecl_context *context; /* NULL: there is no device */
  layer_kind *kinds;
  size_t num_kinds;
  int64_t num_layers, num_moe;
  moecl_checkpoint_size size;
  uint64_t idle; /* parameters of the experts that a token is not sent to */
  char *message; /* the checkpoint's latest one */
} inspection;

/* ---- looking ---- */

/* The layer's parameters under the names that experiments and results have. */
static json_t *params_json(const moecl_layer_params *params) {
  const experiment_point point = {.layer = *params};
  json_t *object = json_object();
  char text[96];
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    const char *param = schema_param(key);
    if (!param || strncmp(key->name, "layer.", 6) != 0 || (key->flags & AUTO_NULL)) continue;
    schema_point_text(key, &point, text, sizeof text);
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    json_object_set_new(object, param, value ? value : json_string(text));
  }
  return object;
}

static uint64_t expert_size(const moecl_layer_params *params) {
  int64_t size = 0;
  for (int t = MOECL_GATE_UP_PROJ; t <= MOECL_DOWN_BIAS; t++)
    size += moecl_layer_tensor_size(params, (moecl_tensor)t);
  return (uint64_t)size;
}

static uint64_t layer_size(const moecl_checkpoint_layer *layer) {
  uint64_t size = 0;
  for (int t = layer->is_moe ? 0 : MOECL_GATE_UP_PROJ; t < MOECL_TENSOR_COUNT; t++)
    size += (uint64_t)moecl_layer_tensor_items(&layer->params, (moecl_tensor)t) *
            (uint64_t)moecl_layer_tensor_size(&layer->params, (moecl_tensor)t);
  return size;
}

/* Of a token that chooses no identity experts, where it can. */
static uint64_t idle_size(const moecl_layer_params *params) {
  const int64_t experts = moecl_layer_tensor_items(params, MOECL_DOWN_PROJ);
  return experts > params->top_k ? (uint64_t)(experts - params->top_k) * expert_size(params) : 0;
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && !strcmp(a, b)); }

/* The kind of a layer, which can be loaded or not, a new one if it is like none
 * before; NULL: no memory. */
static layer_kind *kind_of(inspection *in, const moecl_checkpoint_layer *layer, bool refused) {
  json_t *params = params_json(&layer->params);
  for (size_t i = 0; i < in->num_kinds; i++) {
    layer_kind *kind = &in->kinds[i];
    if (kind->layer.is_moe != layer->is_moe || kind->layer.params.dtype != layer->params.dtype ||
        !same_text(kind->layer.stored_dtype, layer->stored_dtype) ||
        !same_text(kind->layer.quantization, layer->quantization) ||
        !kind->layer.remark != !layer->remark || (kind->refused != NULL) != refused ||
        !json_equal(kind->params, params))
      continue;
    json_decref(params);
    return kind;
  }
  layer_kind *kinds = realloc(in->kinds, (in->num_kinds + 1) * sizeof *kinds);
  int64_t *indices = malloc((size_t)in->num_layers * sizeof *indices);
  if (kinds) in->kinds = kinds;
  if (!kinds || !indices || !params) {
    free(indices);
    json_decref(params);
    return NULL;
  }
  kinds[in->num_kinds] = (layer_kind){.layer = *layer, .params = params, .indices = indices};
  return &kinds[in->num_kinds++];
}

/* A layer whose tensors have types that no layer takes, or names of another format,
 * is worth showing; one whose tensors contradict config.json is not. */
static moecl_status look_at(inspection *in, int64_t index) {
  moecl_checkpoint_layer layer;
  moecl_status status = moecl_checkpoint_get_layer(in->checkpoint, index, &layer);
  if (status != MOECL_OK) return status;
  status = moecl_checkpoint_check(in->checkpoint, index);
  if (status != MOECL_OK && status != MOECL_ERROR_UNSUPPORTED && layer.stored_dtype) return status;
  layer_kind *kind = kind_of(in, &layer, status != MOECL_OK);
  if (!kind) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  kind->indices[kind->count++] = index;
  in->num_moe += layer.is_moe;
  in->idle += idle_size(&layer.params);
  if (status != MOECL_OK && !kind->refused)
    kind->refused = format_text("%s", in->message ? in->message : moecl_status_string(status));
  return MOECL_OK;
}

static moecl_status look(inspection *in) {
  in->num_layers = moecl_checkpoint_num_layers(in->checkpoint);
  for (int64_t i = 0; i < in->num_layers; i++) {
    const moecl_status status = look_at(in, i);
    if (status != MOECL_OK) return status;
  }
  return moecl_checkpoint_measure(in->checkpoint, &in->size);
}

/* Of packed tensors nobody can tell how many parameters they are: at most as many as
 * scales and the like may have elements, one in a hundred. */
static bool are_counted(const inspection *in) {
  return in->size.other_bytes <= in->size.bytes / 100;
}

static uint64_t active(const inspection *in) {
  const uint64_t met = in->size.parameters - in->size.extra_parameters;
  return in->idle < met ? met - in->idle : 0;
}

/* What a row of memory is called; NULL: the kind has none. */
static const char *row_name(const layer_kind *kind, int row) {
  if (row < MOECL_DTYPE_COUNT) return moecl_dtype_name((moecl_dtype)row);
  const moecl_format format = kind->layer.params.weight_format;
  return format == MOECL_FORMAT_DTYPE ? NULL : moecl_format_name(format);
}

/* Memory of a layer of the kind in a data type, or AS_STORED; false: it is not known. */
static bool memory_of(const inspection *in, const layer_kind *kind, int row, moecl_memory *memory) {
  moecl_layer_params params = kind->layer.params;
  if (row < MOECL_DTYPE_COUNT) {
    params.dtype = (moecl_dtype)row;
    params.weight_format = MOECL_FORMAT_DTYPE;
  }
  const int64_t most = MOECL_MAX_ASSIGNMENTS / params.top_k;
  return moecl_layer_memory(in->context, &params, FORWARD_TOKENS < most ? FORWARD_TOKENS : most,
                            memory) == MOECL_OK;
}

/* Of the experts' matrices, scales and all, as they are stored. */
static double bits_a_weight(const moecl_layer_params *params) {
  double bits = 0, weights = 0;
  const moecl_tensor matrices[] = {MOECL_GATE_UP_PROJ, MOECL_DOWN_PROJ, MOECL_SHARED_GATE_UP_PROJ,
                                   MOECL_SHARED_DOWN_PROJ};
  for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
    const double items = (double)moecl_layer_tensor_items(params, matrices[i]);
    bits += 8 * items * (double)moecl_layer_tensor_bytes(params, matrices[i]);
    weights += items * (double)moecl_layer_tensor_size(params, matrices[i]);
  }
  return bits / weights;
}

/* Weights of so many layers, one workspace, input and output. */
static bool device_holds(const inspection *in, const moecl_memory *memory, int64_t layers) {
  const moecl_device_info *device = moecl_context_device(in->context);
  const double bytes = (double)memory->weight_bytes * (double)layers +
                       (double)memory->workspace_bytes + 2.0 * (double)memory->hidden_bytes;
  return bytes <= (double)device->global_memory_bytes &&
         memory->largest_buffer_bytes <= device->max_allocation_bytes;
}

/* Weights of all layers in a data type, or AS_STORED where any is quantized, and the memory for one
 * forward through them, of which one layer's workspace serves all; false: it is not known. */
static bool memory_of_all(const inspection *in, int row, moecl_memory *all) {
  bool any = row < MOECL_DTYPE_COUNT;
  *all = (moecl_memory){0};
  for (size_t i = 0; i < in->num_kinds; i++) any = any || row_name(&in->kinds[i], row);
  if (!any) return false;
  for (size_t i = 0; i < in->num_kinds; i++) {
    moecl_memory one;
    if (!memory_of(in, &in->kinds[i], row, &one)) return false;
    all->weight_bytes += one.weight_bytes * (uint64_t)in->kinds[i].count;
    if (one.workspace_bytes > all->workspace_bytes) all->workspace_bytes = one.workspace_bytes;
    if (one.hidden_bytes > all->hidden_bytes) all->hidden_bytes = one.hidden_bytes;
    if (one.largest_buffer_bytes > all->largest_buffer_bytes)
      all->largest_buffer_bytes = one.largest_buffer_bytes;
  }
  return true;
}

/* ---- text ---- */

/* "0-2", "1-47 by 2", "0,5,7". */
static void print_indices(const layer_kind *kind) {
  const int64_t *at = kind->indices, last = at[kind->count - 1];
  const int64_t step = kind->count > 1 ? at[1] - at[0] : 1;
  bool even = kind->count > 2 || step == 1;
  for (int64_t i = 1; i < kind->count; i++) even = even && at[i] - at[i - 1] == step;
  if (kind->count == 1) printf("layer %" PRId64, *at);
  else if (even && step == 1) printf("layers %" PRId64 " to %" PRId64, *at, last);
  else if (even) printf("layers %" PRId64 " to %" PRId64 " by %" PRId64, *at, last, step);
  for (int64_t i = 0; !even && i < kind->count; i++)
    printf("%s%" PRId64, i ? "," : "layers ", at[i]);
}

/* 46.7 B, 1.3 M: as people name models. */
static const char *count_text(uint64_t count, char text[32]) {
  static const char *const units[] = {"", " thousand", " million", " billion", " trillion"};
  double value = (double)count;
  int unit = 0;
  for (; value >= 999.5 && unit < 4; unit++) value /= 1000;
  snprintf(text, 32, unit ? "%.3g%s" : "%.0f%s", value, units[unit]);
  return text;
}

static void print_rule(const moecl_layer_params *p) {
  printf("  router: top %" PRId64 " of %s", p->top_k,
         p->score_after_topk ? "the logits, then " : "");
  printf("%s%s", moecl_scoring_name(p->scoring), p->score_after_topk ? " over those" : "");
  if (p->router_bias) printf(", a bias");
  if (p->score_correction_bias) printf(", a correction bias");
  if (p->num_expert_group > 0)
    printf(", in %" PRId64 " of %" PRId64 " groups (by %s)", p->topk_group, p->num_expert_group,
           moecl_group_score_name(p->group_score));
  if (p->second_choice != MOECL_SECOND_ALL)
    printf(", second choice %s", moecl_second_choice_name(p->second_choice));
  if (p->renormalize) printf(", renormalized");
  if (p->renormalize && p->renormalize_epsilon > 0)
    printf(" plus %g", (double)p->renormalize_epsilon);
  if (p->renormalize && p->renormalize_minimum > 0)
    printf(" by %g at least", (double)p->renormalize_minimum);
  if (p->routed_scaling_factor != 0 && p->routed_scaling_factor != 1)
    printf(", times %g", (double)p->routed_scaling_factor);
  if (p->weight_on_input) printf(", weights on the experts' input");
  const int64_t capacity = moecl_expert_capacity(p, FORWARD_TOKENS);
  if (capacity >= 0)
    printf(", an expert takes %" PRId64 " of %d tokens%s%s", capacity, FORWARD_TOKENS,
           p->drop_policy == MOECL_DROP_PRIORITIZED ? " by priority" : "",
           p->renormalize_after_capacity ? ", renormalized" : "");
  putchar('\n');
}

static void print_memory(const inspection *in, const layer_kind *kind) {
  char weights[32], workspace[32];
  const char *stored = row_name(kind, AS_STORED);
  const int first = kind->refused ? 18 : stored && strlen(stored) > 6 ? (int)strlen(stored) : 6;
  printf("  %-*s  %10s  %10s  %4s", first, kind->refused ? "one of these sizes" : "memory",
         "weights", "workspace", "fits");
  if (kind->count > 1) printf("  all %" PRId64 " layers fit", kind->count);
  putchar('\n');
  for (int row = 0; row < MEMORY_ROWS; row++) {
    moecl_memory memory;
    if (!row_name(kind, row) || !memory_of(in, kind, row, &memory)) continue;
    printf("  %-*s  %10s  %10s  %4s", first, row_name(kind, row),
           bytes_text(memory.weight_bytes, weights), bytes_text(memory.workspace_bytes, workspace),
           device_holds(in, &memory, 1) ? "yes" : "no");
    if (kind->count > 1) printf("  %s", device_holds(in, &memory, kind->count) ? "yes" : "no");
    putchar('\n');
  }
}

static void print_quantization(const moecl_checkpoint_layer *layer) {
  if (!layer->quantization) return;
  printf("  quantized: %s", layer->quantization);
  if (layer->params.weight_format != MOECL_FORMAT_DTYPE)
    printf(", taken as %s, %.4g bits a weight in all",
           moecl_format_name(layer->params.weight_format), bits_a_weight(&layer->params));
  putchar('\n');
  if (layer->remark) printf("  %s\n", layer->remark);
  if (layer->activations)
    printf("  %s: activations are not quantized, the weights alone are\n", layer->activations);
}

static void print_kind(const inspection *in, const layer_kind *kind) {
  const moecl_layer_params *p = &kind->layer.params;
  char all[32], met[32];
  putchar('\n');
  print_indices(kind);
  printf(" (%s%s): %s, stored as %s\n", kind->count > 1 ? "the first is " : "", kind->layer.prefix,
         kind->layer.is_moe ? "MoE" : "dense",
         kind->layer.stored_dtype ? kind->layer.stored_dtype : "(tensors of other names)");
  if (kind->refused) printf("  cannot be loaded: %s\n", kind->refused);
  print_quantization(&kind->layer);
  printf("  hidden %" PRId64 ", ", p->hidden_size);
  if (p->num_identity_experts > 0)
    printf("%" PRId64 " identity experts and ", p->num_identity_experts);
  if (kind->layer.is_moe)
    printf("%" PRId64 " experts of ", p->num_experts - p->num_identity_experts);
  printf("intermediate %" PRId64 ", %s%s", p->intermediate_size,
         moecl_activation_name(p->activation), p->gate_up_bias || p->down_bias ? ", biases" : "");
  if (p->shared_intermediate_size > 0)
    printf(", shared expert of %" PRId64 "%s", p->shared_intermediate_size,
           p->shared_gate ? " with a gate" : "");
  if (p->shared_scaling_factor > 0) printf(" times %g", (double)p->shared_scaling_factor);
  printf("\n  parameters: %s", count_text(layer_size(&kind->layer), all));
  if (idle_size(p) > 0)
    printf(", %s active per token", count_text(layer_size(&kind->layer) - idle_size(p), met));
  putchar('\n');
  if (kind->layer.is_moe) print_rule(p);
  if (in->context) print_memory(in, kind);
}

static void print_memory_of_all(const inspection *in) {
  char bytes[32];
  bool first = true;
  for (int row = 0; in->context && row < MEMORY_ROWS; row++) {
    moecl_memory all;
    if (!memory_of_all(in, row, &all)) continue;
    printf("%s%s %s (%s)", first ? "all layers  weights in " : ", ",
           row == AS_STORED ? "as stored" : moecl_dtype_name((moecl_dtype)row),
           bytes_text(all.weight_bytes, bytes), device_holds(in, &all, 1) ? "fits" : "too much");
    first = false;
  }
  if (!first) putchar('\n');
}

static void print_size(const inspection *in) {
  char all[32], met[32], extra[32], bytes[32];
  if (are_counted(in))
    printf("parameters  %s in all, %s active per token", count_text(in->size.parameters, all),
           count_text(active(in), met));
  else printf("parameters  not known: tensors are packed (quantized)");
  if (in->size.extra_parameters > 0)
    printf(", %s in next-token-prediction layers", count_text(in->size.extra_parameters, extra));
  printf("; %s\n", bytes_text(in->size.bytes, bytes));
}

static void print_text(const inspection *in) {
  const char *type = moecl_checkpoint_model_type(in->checkpoint);
  char bytes[32], shown[100];
  printf("family      %s (model_type %s)\n", moecl_checkpoint_family(in->checkpoint),
         printable(type, strlen(type), shown, sizeof shown));
  printf("layers      %" PRId64 ": %" PRId64 " MoE, %" PRId64 " dense\n", in->num_layers,
         in->num_moe, in->num_layers - in->num_moe);
  print_size(in);
  if (in->context)
    printf("device      %s, %s as its driver states; workspace below is for %d tokens\n",
           moecl_context_device(in->context)->name,
           bytes_text(moecl_context_device(in->context)->global_memory_bytes, bytes),
           FORWARD_TOKENS);
  print_memory_of_all(in);
  for (size_t i = 0; i < in->num_kinds; i++) print_kind(in, &in->kinds[i]);
}

/* ---- JSON ---- */

static json_t *memory_json(const inspection *in, const layer_kind *kind) {
  json_t *object = json_object();
  for (int row = 0; in->context && row < MEMORY_ROWS; row++) {
    moecl_memory memory;
    if (!row_name(kind, row) || !memory_of(in, kind, row, &memory)) continue;
    json_object_set_new(
        object, row_name(kind, row),
        json_pack("{s:I, s:I, s:I, s:b, s:b}", "weight_bytes", (json_int_t)memory.weight_bytes,
                  "workspace_bytes", (json_int_t)memory.workspace_bytes, "largest_buffer_bytes",
                  (json_int_t)memory.largest_buffer_bytes, "fits", device_holds(in, &memory, 1),
                  "all_fit", device_holds(in, &memory, kind->count)));
  }
  return object;
}

static json_t *memory_of_all_json(const inspection *in) {
  json_t *object = json_object();
  for (int row = 0; in->context && row < MEMORY_ROWS; row++) {
    moecl_memory all;
    if (memory_of_all(in, row, &all))
      json_object_set_new(object, row == AS_STORED ? "stored" : moecl_dtype_name((moecl_dtype)row),
                          json_pack("{s:I, s:b}", "weight_bytes", (json_int_t)all.weight_bytes,
                                    "fits", device_holds(in, &all, 1)));
  }
  return object;
}

static json_t *count_json(const inspection *in, uint64_t count) {
  return are_counted(in) ? json_integer((json_int_t)count) : json_null();
}

static json_t *kind_json(const inspection *in, const layer_kind *kind) {
  json_t *indices = json_array();
  for (int64_t i = 0; i < kind->count; i++)
    json_array_append_new(indices, json_integer(kind->indices[i]));
  const moecl_checkpoint_layer *layer = &kind->layer;
  const uint64_t size = layer_size(layer);
  return json_pack(
      "{s:o, s:b, s:s, s:s?, s:s?, s:s?, s:s?, s:o, s:s?, s:O, s:I, s:I, s:o}", "layers", indices,
      "moe", layer->is_moe, "first_prefix", layer->prefix, "stored_dtype", layer->stored_dtype,
      "quantization", layer->quantization, "dequantized_because", layer->remark,
      "activations_not_quantized", layer->activations, "bits_a_weight",
      layer->params.weight_format == MOECL_FORMAT_DTYPE ? json_null()
                                                        : json_real(bits_a_weight(&layer->params)),
      "cannot_be_loaded", kind->refused, "params", kind->params, "parameters", (json_int_t)size,
      "active_parameters", (json_int_t)(size - idle_size(&kind->layer.params)), "memory",
      memory_json(in, kind));
}

static bool print_json(const inspection *in) {
  json_t *kinds = json_array();
  for (size_t i = 0; i < in->num_kinds; i++)
    json_array_append_new(kinds, kind_json(in, &in->kinds[i]));
  json_t *device =
      in->context ? json_pack("{s:s, s:I}", "name", moecl_context_device(in->context)->name,
                              "global_memory_bytes",
                              (json_int_t)moecl_context_device(in->context)->global_memory_bytes)
                  : json_null();
  json_t *root = json_pack(
      "{s:s, s:s, s:I, s:I, s:o, s:o, s:I, s:I, s:o, s:i, s:o, s:o}", "family",
      moecl_checkpoint_family(in->checkpoint), "model_type",
      moecl_checkpoint_model_type(in->checkpoint), "num_layers", (json_int_t)in->num_layers,
      "num_moe_layers", (json_int_t)in->num_moe, "parameters", count_json(in, in->size.parameters),
      "active_parameters", count_json(in, active(in)), "extra_parameters",
      (json_int_t)in->size.extra_parameters, "bytes", (json_int_t)in->size.bytes, "device", device,
      "memory_num_tokens", FORWARD_TOKENS, "all_layers", memory_of_all_json(in), "kinds", kinds);
  /* A stream that failed is reported at the end, as for every command. */
  const bool ok = root && (json_dumpf(root, stdout, JSON_INDENT(2)) == 0 || ferror(stdout));
  putchar('\n');
  json_decref(root);
  return ok;
}

/* ---- the command ---- */

/* What memory would be taken is printed where there is a device; one that was asked
 * for must be there. */
static int open_device(inspection *in) {
  moecl_device_info *devices = NULL;
  size_t count = 0;
  const bool none = moecl_devices_list(&devices, &count) != MOECL_OK || count == 0;
  moecl_devices_destroy(&devices);
  if (none && !in->options->device) return EXIT_ALL_OK;
  return open_context(in->options, in->options->device, &in->context);
}

static int show(inspection *in) {
  moecl_status status =
      moecl_checkpoint_open(in->options->file, keep_error, &in->message, &in->checkpoint);
  if (status == MOECL_OK) status = look(in);
  if (status != MOECL_OK) {
    complain("%s", in->message ? in->message : moecl_status_string(status));
    return status == MOECL_ERROR_OUT_OF_HOST_MEMORY ? EXIT_POINT_FAILED : EXIT_USAGE;
  }
  const int code = open_device(in);
  if (code != EXIT_ALL_OK) return code;
  if (!in->options->json) {
    print_text(in);
    return EXIT_ALL_OK;
  }
  if (print_json(in)) return EXIT_ALL_OK;
  complain("no memory");
  return EXIT_POINT_FAILED;
}

int command_inspect(const options *options) {
  inspection in = {.options = options};
  const int code = show(&in);
  for (size_t i = 0; i < in.num_kinds; i++) {
    json_decref(in.kinds[i].params);
    free(in.kinds[i].refused);
    free(in.kinds[i].indices);
  }
  free(in.kinds);
  free(in.message);
  moecl_context_destroy(&in.context);
  moecl_checkpoint_destroy(&in.checkpoint);
  return code;
}

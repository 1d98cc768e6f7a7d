/* moectl inspect: what a model folder holds, and whether this device could hold it. */
#include "files.h"
#include "moectl.h"
#include "schema.h"
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The forward that memory is told for. */
enum { FORWARD_TOKENS = 4096 };

typedef struct layer_kind { /* layers that are alike in all that is shown */
  moecl_checkpoint_layer layer;
  json_t *params;
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
  uint64_t elements, bytes, idle; /* idle: of the experts that a token is not sent to */
} inspection;

/* ---- looking ---- */

/* The layer's parameters under the names that experiments and results have. */
static json_t *params_json(const moecl_layer_params *params) {
  const experiment_point point = {.layer = *params};
  json_t *object = json_object();
  char text[96];
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    if (!key->param || strncmp(key->name, "layer.", 6) != 0 || (key->flags & AUTO_NULL)) continue;
    schema_point_text(key, &point, text, sizeof text);
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    json_object_set_new(object, key->param, value ? value : json_string(text));
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

static uint64_t idle_size(const moecl_layer_params *params) {
  return (uint64_t)(params->num_experts - params->top_k) * expert_size(params);
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && !strcmp(a, b)); }

/* The kind of a layer, a new one if it is like none before; NULL: no memory. */
static layer_kind *kind_of(inspection *in, const moecl_checkpoint_layer *layer) {
  json_t *params = params_json(&layer->params);
  for (size_t i = 0; i < in->num_kinds; i++) {
    layer_kind *kind = &in->kinds[i];
    if (kind->layer.is_moe != layer->is_moe || kind->layer.params.dtype != layer->params.dtype ||
        !same_text(kind->layer.stored_dtype, layer->stored_dtype) ||
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

static moecl_status look(inspection *in) {
  in->num_layers = moecl_checkpoint_num_layers(in->checkpoint);
  for (int64_t i = 0; i < in->num_layers; i++) {
    moecl_checkpoint_layer layer;
    const moecl_status status = moecl_checkpoint_get_layer(in->checkpoint, i, &layer);
    if (status != MOECL_OK) return status;
    layer_kind *kind = kind_of(in, &layer);
    if (!kind) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
    kind->indices[kind->count++] = i;
    in->num_moe += layer.is_moe;
    in->idle += idle_size(&layer.params);
  }
  return moecl_checkpoint_count(in->checkpoint, &in->elements, &in->bytes);
}

static uint64_t active(const inspection *in) {
  return in->idle < in->elements ? in->elements - in->idle : 0;
}

/* Memory of a layer of the kind in a data type; false: it cannot be told. */
static bool memory_of(const inspection *in, const layer_kind *kind, moecl_dtype dtype,
                      moecl_memory *memory) {
  moecl_layer_params params = kind->layer.params;
  params.dtype = dtype;
  const int64_t most = MOECL_MAX_ASSIGNMENTS / params.top_k;
  return moecl_layer_memory(in->context, &params, FORWARD_TOKENS < most ? FORWARD_TOKENS : most,
                            memory) == MOECL_OK;
}

/* Weights of so many layers, one workspace, input and output. */
static bool device_holds(const inspection *in, const moecl_memory *memory, int64_t layers) {
  const moecl_device_info *device = moecl_context_device(in->context);
  const double bytes = (double)memory->weight_bytes * (double)layers +
                       (double)memory->workspace_bytes + 2.0 * (double)memory->hidden_bytes;
  return bytes <= (double)device->global_memory_bytes &&
         memory->largest_buffer_bytes <= device->max_allocation_bytes;
}

/* ---- text ---- */

/* "0-2", "1-47 by 2", "0,5,7". */
static void print_indices(const layer_kind *kind) {
  const int64_t *at = kind->indices, last = at[kind->count - 1];
  const int64_t step = kind->count > 1 ? at[1] - at[0] : 1;
  bool even = kind->count > 2 || step == 1;
  for (int64_t i = 1; i < kind->count; i++)
    even = even && at[i] - at[i - 1] == step;
  if (kind->count == 1)
    printf("layer %" PRId64, *at);
  else if (even && step == 1)
    printf("layers %" PRId64 " to %" PRId64, *at, last);
  else if (even)
    printf("layers %" PRId64 " to %" PRId64 " by %" PRId64, *at, last, step);
  for (int64_t i = 0; !even && i < kind->count; i++)
    printf("%s%" PRId64, i ? "," : "layers ", at[i]);
}

/* 46.7 B, 1.3 M: as people name models. */
static const char *count_text(uint64_t count, char text[32]) {
  static const char *const units[] = {"", " thousand", " million", " billion", " trillion"};
  double value = (double)count;
  int unit = 0;
  for (; value >= 999.5 && unit < 4; unit++)
    value /= 1000;
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

static const char *bytes_text(uint64_t bytes, char text[32]) {
  static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = (double)bytes;
  int unit = 0;
  for (; value >= 1023.5 && unit < 4; unit++)
    value /= 1024;
  snprintf(text, 32, "%.4g %s", value, units[unit]);
  return text;
}

static void print_memory(const inspection *in, const layer_kind *kind) {
  char weights[32], workspace[32];
  for (int d = 0; d < MOECL_DTYPE_COUNT; d++) {
    moecl_memory memory;
    if (!memory_of(in, kind, (moecl_dtype)d, &memory)) continue;
    printf("  %s: %s of weights, %s of workspace; fits: %s", moecl_dtype_name((moecl_dtype)d),
           bytes_text(memory.weight_bytes, weights), bytes_text(memory.workspace_bytes, workspace),
           device_holds(in, &memory, 1) ? "yes" : "no");
    if (kind->count > 1)
      printf(", all %" PRId64 " layers: %s", kind->count,
             device_holds(in, &memory, kind->count) ? "yes" : "no");
    putchar('\n');
  }
}

static void print_kind(const inspection *in, const layer_kind *kind) {
  const moecl_layer_params *p = &kind->layer.params;
  char all[32], met[32];
  putchar('\n');
  print_indices(kind);
  printf(": %s, stored as %s\n", kind->layer.is_moe ? "MoE" : "dense",
         kind->layer.stored_dtype ? kind->layer.stored_dtype : "(tensors of other names)");
  printf("  hidden %" PRId64 ", ", p->hidden_size);
  if (kind->layer.is_moe) printf("%" PRId64 " experts of ", p->num_experts);
  printf("intermediate %" PRId64 ", %s%s", p->intermediate_size,
         moecl_activation_name(p->activation), p->gate_up_bias || p->down_bias ? ", biases" : "");
  if (p->shared_intermediate_size > 0)
    printf(", shared expert of %" PRId64 "%s", p->shared_intermediate_size,
           p->shared_gate ? " with a gate" : "");
  printf("\n  parameters: %s, a token meets %s\n", count_text(layer_size(&kind->layer), all),
         count_text(layer_size(&kind->layer) - idle_size(p), met));
  if (kind->layer.is_moe) print_rule(p);
  if (in->context) print_memory(in, kind);
}

static void print_text(const inspection *in) {
  char all[32], met[32], bytes[32];
  printf("family      %s (model_type %s)\n", moecl_checkpoint_family(in->checkpoint),
         moecl_checkpoint_model_type(in->checkpoint));
  printf("layers      %" PRId64 ": %" PRId64 " MoE, %" PRId64 " dense\n", in->num_layers,
         in->num_moe, in->num_layers - in->num_moe);
  printf("parameters  %s in all, a token meets %s; %s\n", count_text(in->elements, all),
         count_text(active(in), met), bytes_text(in->bytes, bytes));
  if (in->context)
    printf("device      %s, %s; workspace below is for %d tokens\n",
           moecl_context_device(in->context)->name,
           bytes_text(moecl_context_device(in->context)->global_memory_bytes, bytes),
           FORWARD_TOKENS);
  for (size_t i = 0; i < in->num_kinds; i++)
    print_kind(in, &in->kinds[i]);
}

/* ---- JSON ---- */

static json_t *memory_json(const inspection *in, const layer_kind *kind) {
  json_t *object = json_object();
  for (int d = 0; in->context && d < MOECL_DTYPE_COUNT; d++) {
    moecl_memory memory;
    if (!memory_of(in, kind, (moecl_dtype)d, &memory)) continue;
    json_object_set_new(
        object, moecl_dtype_name((moecl_dtype)d),
        json_pack("{s:I, s:I, s:I, s:b, s:b}", "weight_bytes", (json_int_t)memory.weight_bytes,
                  "workspace_bytes", (json_int_t)memory.workspace_bytes, "largest_buffer_bytes",
                  (json_int_t)memory.largest_buffer_bytes, "fits", device_holds(in, &memory, 1),
                  "all_fit", device_holds(in, &memory, kind->count)));
  }
  return object;
}

static json_t *kind_json(const inspection *in, const layer_kind *kind) {
  json_t *indices = json_array();
  for (int64_t i = 0; i < kind->count; i++)
    json_array_append_new(indices, json_integer(kind->indices[i]));
  const uint64_t size = layer_size(&kind->layer);
  return json_pack("{s:o, s:b, s:s, s:s?, s:O, s:I, s:I, s:o}", "layers", indices, "moe",
                   kind->layer.is_moe, "first_prefix", kind->layer.prefix, "stored_dtype",
                   kind->layer.stored_dtype, "params", kind->params, "parameters", (json_int_t)size,
                   "active_parameters", (json_int_t)(size - idle_size(&kind->layer.params)),
                   "memory", memory_json(in, kind));
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
  json_t *root = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:i, s:o}", "family",
                           moecl_checkpoint_family(in->checkpoint), "model_type",
                           moecl_checkpoint_model_type(in->checkpoint), "num_layers",
                           (json_int_t)in->num_layers, "num_moe_layers", (json_int_t)in->num_moe,
                           "parameters", (json_int_t)in->elements, "active_parameters",
                           (json_int_t)active(in), "bytes", (json_int_t)in->bytes, "device", device,
                           "memory_num_tokens", FORWARD_TOKENS, "kinds", kinds);
  const bool ok = root && (json_dumpf(root, stdout, JSON_INDENT(2)) == 0 || ferror(stdout));
  putchar('\n');
  json_decref(root);
  return ok;
}

/* ---- the command ---- */

/* What memory would be taken is told where there is a device; one that was asked
 * for must be there. */
static int open_device(inspection *in) {
  const moecl_context_params params = {
      .device = in->options->device, .log = log_to_stderr, .log_user = (void *)in->options};
  moecl_device_info *devices = NULL;
  size_t count = 0;
  const bool none = moecl_devices_list(&devices, &count) != MOECL_OK || count == 0;
  moecl_devices_destroy(&devices);
  if (none && !in->options->device) return EXIT_ALL_OK;
  const moecl_status status = moecl_context_create(&params, &in->context);
  if (status == MOECL_OK) return EXIT_ALL_OK;
  complain("the device could not be opened: %s; see 'moectl devices'", moecl_status_string(status));
  return status == MOECL_ERROR_NO_DEVICE ? EXIT_NO_DEVICE : EXIT_POINT_FAILED;
}

static int show(inspection *in) {
  const moecl_status status = look(in);
  if (status == MOECL_ERROR_OUT_OF_HOST_MEMORY) complain("no memory");
  if (status != MOECL_OK) return EXIT_USAGE;
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
  if (moecl_checkpoint_open(options->file, log_to_stderr, (void *)options, &in.checkpoint) !=
      MOECL_OK)
    return EXIT_USAGE;
  const int code = show(&in);
  for (size_t i = 0; i < in.num_kinds; i++) {
    json_decref(in.kinds[i].params);
    free(in.kinds[i].indices);
  }
  free(in.kinds);
  moecl_context_destroy(&in.context);
  moecl_checkpoint_destroy(&in.checkpoint);
  return code;
}

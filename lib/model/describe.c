// SPDX-License-Identifier: MIT
#include "model/describe.h"

#include "base/base.h"
#include "model/config.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = 1000 };

/* Of gate and up: none reaches it. */
static const float NO_LIMIT = 1e18f;

/* ---- the family ---- */

/* Is `name` one of "a|b|c"? */
static bool among(const char *name, const char *names) {
  const size_t size = strlen(name);
  for (const char *at = names; at; at = strchr(at, '|')) {
    at += *at == '|';
    const size_t length = strcspn(at, "|");
    if (length == size && memcmp(at, name, size) == 0) return true;
    if (!at[length]) return false;
  }
  return false;
}

static moecl_status unknown_family(const moecl_log *log, const char *path, const char *model_type) {
  base_text known = {0};
  for (size_t i = 0; i < model_num_families(); i++)
    base_text_addf(&known, "%s%s", i ? ", " : "", model_family_at(i)->name);
  const moecl_status status =
      log_error(log, MOECL_ERROR_UNSUPPORTED, "%s: model_type '%.100s' is not known; known are %s",
                path, model_type, known.failed ? "too many to list" : known.data);
  base_text_free(&known);
  return status;
}

static const family *family_of(json_t *root, const char **model_type) {
  *model_type = json_string_value(json_object_get(root, "model_type"));
  for (size_t i = 0; *model_type && i < model_num_families(); i++)
    if (among(*model_type, model_family_at(i)->model_types)) return model_family_at(i);
  return NULL;
}

/* The model's own family, or where a model that also sees or hears is not known,
 * that of its text model. */
static moecl_status find_family(const moecl_log *log, const char *path, json_t **root,
                                model_description *description) {
  json_t *text = json_object_get(*root, "text_config");
  const char *inner;
  description->family = family_of(*root, &description->model_type);
  if (!description->model_type)
    return log_error(log, MOECL_ERROR_IO, "%s: has no text 'model_type'", path);
  if (description->family) return MOECL_OK;
  description->family = family_of(text, &inner);
  if (!description->family) return unknown_family(log, path, description->model_type);
  description->model_type = inner;
  *root = text;
  return MOECL_OK;
}

/* ---- which layers are MoE ---- */

static bool holds(json_t *list, int64_t number) {
  size_t i;
  json_t *value;
  json_array_foreach(list, i, value) {
    if (json_is_integer(value) && json_integer_value(value) == number) return true;
  }
  return false;
}

static json_t *list_of(const model_config *config, const char *key) {
  return key ? config_find(config, key, strlen(key)) : NULL;
}

/* Is it in "0,1,2"? */
static bool is_in_text(const char *list, int64_t number) {
  for (const char *at = list; at; at = strchr(at, ',')) {
    at += *at == ',';
    char *end;
    const long long value = strtoll(at, &end, 10);
    if (end > at && value == number) return true;
  }
  return false;
}

/* Is it in a list, which may be a text? */
static bool is_among(json_t *list, int64_t number) {
  return json_is_string(list) ? is_in_text(json_string_value(list), number) : holds(list, number);
}

/* Is the layer in the list that "key" or "key=0,1" means? */
static bool is_listed(const model_config *config, const char *expression, int64_t number) {
  if (!expression) return false;
  const size_t keys = strcspn(expression, "=");
  json_t *list = config_find(config, expression, keys);
  return list || !expression[keys] ? is_among(list, number)
                                   : is_in_text(expression + keys + 1, number);
}

/* What the list of layers' types says of one. */
static moecl_status read_type(const model_config *config, const char *keys, json_t *types,
                              int64_t number, bool *is_moe) {
  json_t *type = json_array_get(types, (size_t)number);
  const char *word = json_string_value(type);
  if (word && (strcmp(word, "sparse") == 0 || strcmp(word, "dense") == 0)) *is_moe = *word == 's';
  else if (json_is_boolean(type) || json_is_integer(type))
    *is_moe = json_is_true(type) || json_integer_value(type) != 0;
  else
    return log_error(config->log, MOECL_ERROR_IO,
                     "%s: the list '%s' says nothing of layer %lld, expected \"dense\" or "
                     "\"sparse\", or a flag for MoE",
                     config->path, keys, (long long)number);
  return MOECL_OK;
}

/* A model of a MoE family may have no experts, or too few for a router. */
static moecl_status has_experts(const model_config *config, const family *family, bool *enough) {
  int64_t experts;
  MOECL_TRY(config_integer(config, family->num_experts, 0, MOECL_MAX_EXPERTS, &experts));
  *enough = experts >= (family->least_experts ? family->least_experts : 1);
  return MOECL_OK;
}

/* Every how many layers one is MoE. Where their number is given instead, the step is
 * the layers by it, and as many as the layers where there are none: as Switch
 * Transformers has it, whose second layer is MoE then. */
static moecl_status read_step(const model_config *config, const family_stack *stack,
                              int64_t *step) {
  int64_t layers, sparse;
  if (!stack->sparse_layers || list_of(config, stack->step))
    return config_integer(config, stack->step ? stack->step : "1", 0, INT32_MAX, step);
  MOECL_TRY(config_integer(config, stack->num_layers, 0, MAX_LAYERS, &layers));
  MOECL_TRY(config_integer(config, stack->sparse_layers, 0, INT32_MAX, &sparse));
  *step = sparse > 0 ? layers / sparse : layers;
  return MOECL_OK;
}

static moecl_status decide_moe(const model_config *config, const family *family,
                               const family_stack *stack, int64_t number, bool *is_moe) {
  int64_t first, last, step, phase;
  bool enough;
  if (stack->kinds) return MOECL_OK; /* its letter says so */
  *is_moe = false;
  MOECL_TRY(has_experts(config, family, &enough));
  if (!enough) return MOECL_OK;
  json_t *types = list_of(config, stack->layer_types);
  if (json_is_array(types)) return read_type(config, stack->layer_types, types, number, is_moe);
  MOECL_TRY(config_integer(config, stack->first, 0, INT32_MAX, &first));
  MOECL_TRY(config_integer(config, stack->last, -1, INT32_MAX, &last));
  MOECL_TRY(read_step(config, stack, &step));
  MOECL_TRY(config_integer(config, stack->phase, 0, INT32_MAX, &phase));
  json_t *moe = list_of(config, stack->moe_layers);
  const int64_t at = stack->phase ? phase : step - 1;
  const bool in_step = step > 0 && number % step == at % step;
  *is_moe = (moe || number >= first) && (!stack->last || last < 0 || number <= last) &&
            (moe ? is_among(moe, number) : in_step) &&
            !is_listed(config, stack->dense_layers, number);
  return MOECL_OK;
}

/* ---- a layer's parameters ---- */

static moecl_status read_activation(const model_config *config, const family *family,
                                    moecl_activation *activation) {
  static const struct {
    const char *names;
    int gated, plain; /* -1: there is none */
  } all[] = {{"silu|swish", MOECL_SWIGLU, MOECL_SILU},
             {"gelu", MOECL_GEGLU, MOECL_GELU},
             {"gelu_new|gelu_pytorch_tanh|gelu_fast", MOECL_GEGLU_TANH, MOECL_GELU_TANH},
             {"relu", -1, MOECL_RELU},
             {"relu2|relu_squared", -1, MOECL_RELU2}};
  char buffer[32];
  const char *name;
  *activation = MOECL_SWIGLU_CLAMPED;
  if (family->clamped) return MOECL_OK;
  MOECL_TRY(config_text(config, family->activation, buffer, sizeof buffer, &name));
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    const int found = family->plain ? all[i].plain : all[i].gated;
    if (!among(name, all[i].names) || found < 0) continue;
    *activation = (moecl_activation)found;
    return MOECL_OK;
  }
  return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: the activation '%.100s' of %s experts is not known", config->path, name,
                   family->plain ? "plain" : "gated");
}

/* What is 0 where the family has no expression for it and cannot be 0 where it has. */
/* As fp32, and not rounded to 0, which would be the default. */
static float narrow(double value) {
  return value != 0 && fabs(value) < FLT_MIN ? copysignf(FLT_MIN, (float)value) : (float)value;
}

static moecl_status read_positive(const model_config *config, const char *expression,
                                  double *value) {
  MOECL_TRY(config_number(config, expression, value));
  if (!expression || (*value > 0 && *value <= 1e6)) return MOECL_OK;
  return log_error(config->log, MOECL_ERROR_IO,
                   "%s: '%s' is %g, expected more than 0 and at most 1e6", config->path, expression,
                   *value);
}

static moecl_status read_bias(const model_config *config, const family_ffn *ffn,
                              moecl_layer_params *params) {
  bool has = true;
  if (ffn->has_bias) MOECL_TRY(config_flag(config, ffn->has_bias, &has));
  params->gate_up_bias = has && (ffn->up_bias || ffn->gate_up_bias);
  params->down_bias = has && ffn->down_bias;
  return MOECL_OK;
}

/* A limit of gate and up; 0 without. */
static moecl_status read_limit(const model_config *config, const char *expression, float *limit) {
  double value;
  *limit = 0;
  MOECL_TRY(config_number(config, expression, &value));
  const char *by_default = expression ? strpbrk(expression, "=:") : NULL;
  if (!expression || (value == 0 && by_default && base_parse_double(by_default + 1, NULL) == 0))
    return MOECL_OK;
  *limit = narrow(value);
  if (value > 0 && value <= NO_LIMIT) return MOECL_OK;
  return log_error(config->log, MOECL_ERROR_IO,
                   "%s: '%s' is %g, expected more than 0 and at most %g", config->path, expression,
                   value, (double)NO_LIMIT);
}

/* SiLU's limits, of the shared expert too; without any it stays what it is. */
static moecl_status read_limits(const model_config *config, const family *family, bool is_moe,
                                moecl_layer_params *params) {
  float limit, shared = 0;
  MOECL_TRY(read_limit(config, is_moe ? family->expert_limit : family->dense_limit, &limit));
  if (params->shared_intermediate_size > 0)
    MOECL_TRY(read_limit(config, family->shared_limit, &shared));
  if (limit == 0 && shared == 0) return MOECL_OK;
  if (params->activation != MOECL_SWIGLU)
    return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: a limit of gate and up is known with SiLU alone", config->path);
  params->activation = family->limited;
  params->swiglu_limit = limit > 0 ? limit : NO_LIMIT;
  if (params->shared_intermediate_size > 0)
    params->shared_swiglu_limit = shared > 0 ? shared : NO_LIMIT;
  return MOECL_OK;
}

/* A member that is there when its pattern is, and the flag, where there is one,
 * says so. */
static moecl_status read_presence(const model_config *config, const char *pattern, const char *flag,
                                  bool *is_there) {
  *is_there = pattern != NULL;
  return pattern && flag ? config_flag(config, flag, is_there) : MOECL_OK;
}

static moecl_status read_groups(const model_config *config, const family *family,
                                moecl_layer_params *params) {
  if (family->groups_when) {
    const size_t keys = strcspn(family->groups_when, "=");
    const char *text = json_string_value(config_find(config, family->groups_when, keys));
    if (!text || strcmp(text, family->groups_when + keys + 1) != 0) return MOECL_OK;
  }
  int64_t groups, best;
  MOECL_TRY(config_integer(config, family->groups, 0, MOECL_MAX_EXPERTS, &groups));
  MOECL_TRY(config_integer(config, family->topk_group, 0, MOECL_MAX_EXPERTS, &best));
  if (groups <= 1) return MOECL_OK; /* one group is none */
  if (params->num_experts % groups != 0 || best < 1 || best > groups ||
      params->top_k > best * (params->num_experts / groups))
    return log_error(
        config->log, MOECL_ERROR_IO,
        "%s: %lld groups, of which %lld are taken, do not suit top-%lld of %lld experts",
        config->path, (long long)groups, (long long)best, (long long)params->top_k,
        (long long)params->num_experts);
  params->num_expert_group = groups;
  params->topk_group = best;
  params->group_score = family->group_score;
  params->cut_groups_to_zero = family->cut_groups_to_zero;
  return MOECL_OK;
}

/* A text out of two; *second: it is the second one. */
static moecl_status read_either(const model_config *config, const char *expression,
                                const char *first, const char *other, bool *second) {
  char buffer[32];
  const char *text;
  MOECL_TRY(config_text(config, expression, buffer, sizeof buffer, &text));
  *second = text && strcmp(text, other) == 0;
  if (!text || *second || strcmp(text, first) == 0) return MOECL_OK;
  return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: '%s' is '%.100s', expected '%s' or '%s'", config->path, expression, text,
                   first, other);
}

/* An average is a sum with both halved. */
static moecl_status read_combination(const model_config *config, const family *family,
                                     moecl_layer_params *params) {
  bool averages;
  MOECL_TRY(read_either(config, family->shared_combination, "sum", "average", &averages));
  if (!averages || params->shared_intermediate_size == 0) return MOECL_OK;
  params->shared_scaling_factor = 0.5f;
  params->routed_scaling_factor =
      0.5f * (params->routed_scaling_factor == 0 ? 1 : params->routed_scaling_factor);
  return MOECL_OK;
}

static moecl_status read_scoring(const model_config *config, const family *family,
                                 moecl_layer_params *params) {
  const char *key = family->scoring_key, *given = NULL;
  params->scoring = family->scoring;
  params->score_after_topk = family->score_after_topk;
  if (family->scorings) {
    bool sigmoid;
    MOECL_TRY(read_either(config, family->scorings, "softmax", "sigmoid", &sigmoid));
    params->scoring = sigmoid ? MOECL_SCORING_SIGMOID : MOECL_SCORING_SOFTMAX;
    return MOECL_OK;
  }
  const size_t size = key ? strcspn(key, "=") : 0;
  const char *names = key && key[size] ? key + size + 1 : moecl_scoring_name(family->scoring);
  if (key) given = json_string_value(config_find(config, key, size));
  if (!given || among(given, names)) return MOECL_OK;
  return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: %.*s is '%.100s', but family %s has '%s'", config->path, (int)size, key,
                   given, family->name, names);
}

static moecl_status read_second_choice(const model_config *config, const family *family,
                                       moecl_layer_params *params) {
  static const char *const names[] = {"all", "random", "sampling"};
  char buffer[32];
  const char *name;
  if (!family->second_choice) return MOECL_OK;
  MOECL_TRY(config_text(config, family->second_choice, buffer, sizeof buffer, &name));
  for (int i = 0; i < MOECL_SECOND_CHOICE_COUNT; i++)
    if (strcmp(names[i], name) == 0) params->second_choice = (moecl_second_choice)i;
  /* NLLB-MoE normalizes then as if all had been kept, the layer those that were. */
  if (params->second_choice == MOECL_SECOND_RANDOM && params->renormalize)
    return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: second_expert_policy 'random' is not known beside weights that are "
                     "normalized before",
                     config->path);
  if (strcmp(names[params->second_choice], name) == 0) return MOECL_OK;
  return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: second_expert_policy '%.100s' is not known", config->path, name);
}

/* A capacity that does not depend on the tokens is a minimum beside next to
 * nothing. */
static moecl_status read_capacity(const model_config *config, const family *family,
                                  moecl_layer_params *params) {
  bool prioritized;
  MOECL_TRY(config_flag(config, family->prioritized, &prioritized));
  if (prioritized) params->drop_policy = MOECL_DROP_PRIORITIZED;
  MOECL_TRY(
      config_flag(config, family->renormalize_after_capacity, &params->renormalize_after_capacity));
  MOECL_TRY(config_number(config, family->capacity_factor, &params->capacity_factor));
  params->capacity_of_tokens = family->capacity_of_tokens && params->capacity_factor > 0;
  if (params->capacity_factor > 0 || !family->capacity) return MOECL_OK;
  params->capacity_factor = 1e-300;
  return config_integer(config, family->capacity, 1, INT32_MAX, &params->min_capacity);
}

static moecl_status read_rule(const model_config *config, const family *family,
                              moecl_layer_params *params) {
  double scale, jitter, epsilon, minimum;
  MOECL_TRY(read_scoring(config, family, params));
  MOECL_TRY(config_flag(config, family->renormalize, &params->renormalize));
  MOECL_TRY(config_number(config, family->renormalize_epsilon, &epsilon));
  MOECL_TRY(config_number(config, family->renormalize_minimum, &minimum));
  params->renormalize_epsilon = narrow(epsilon);
  params->renormalize_minimum = narrow(minimum);
  MOECL_TRY(read_positive(config, family->scale, &scale));
  params->routed_scaling_factor = scale == 1 ? 0 : narrow(scale);
  MOECL_TRY(read_combination(config, family, params));
  MOECL_TRY(config_number(config, family->sparsemixer_jitter, &jitter));
  /* 0 would be the default; next to nothing is as good. */
  params->sparsemixer_jitter = family->sparsemixer_jitter && jitter == 0 ? FLT_MIN : narrow(jitter);
  params->weight_on_input = family->weight_on_input;
  MOECL_TRY(
      read_presence(config, family->router_bias, family->has_router_bias, &params->router_bias));
  MOECL_TRY(read_presence(config, family->correction_bias, family->has_correction_bias,
                          &params->score_correction_bias));
  params->router_noise = family->noise != NULL;
  MOECL_TRY(read_groups(config, family, params));
  MOECL_TRY(read_second_choice(config, family, params));
  return read_capacity(config, family, params);
}

static moecl_status read_moe(const model_config *config, const family *family,
                             const family_stack *stack, moecl_layer_params *params) {
  const char *size =
      stack->intermediate_size ? stack->intermediate_size : family->intermediate_size;
  MOECL_TRY(config_integer(config, size, 1, MOECL_MAX_SIZE, &params->intermediate_size));
  MOECL_TRY(
      config_integer(config, family->num_experts, 1, MOECL_MAX_EXPERTS, &params->num_experts));
  MOECL_TRY(config_integer(config, family->identity_experts, 0, MOECL_MAX_EXPERTS,
                           &params->num_identity_experts));
  params->num_experts += params->num_identity_experts;
  MOECL_TRY(config_integer(config, family->top_k, 1, MOECL_MAX_TOP_K, &params->top_k));
  MOECL_TRY(config_integer(config, family->shared_intermediate_size, 0, MOECL_MAX_SIZE,
                           &params->shared_intermediate_size));
  params->shared_gate = params->shared_intermediate_size > 0 && family->shared_gate;
  MOECL_TRY(read_bias(config, &family->experts, params));
  return read_rule(config, family, params);
}

static moecl_status read_dense(const model_config *config, const family *family,
                               const family_stack *stack, moecl_layer_params *params) {
  const char *size = stack->intermediate_size          ? stack->intermediate_size
                     : family->dense_intermediate_size ? family->dense_intermediate_size
                                                       : family->intermediate_size;
  if (!family->dense.down)
    return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: layer %lld is dense, which family %s has no tensor names for",
                     config->path, (long long)config->layer, family->name);
  params->num_experts = params->top_k = 1;
  MOECL_TRY(config_integer(config, size, 1, MOECL_MAX_SIZE, &params->intermediate_size));
  return read_bias(config, &family->dense, params);
}

static moecl_status read_layer(const model_config *config, const family *family,
                               model_layer *layer) {
  moecl_layer_params *params = &layer->params;
  double alpha, limit;
  char message[256];
  MOECL_TRY(decide_moe(config, family, layer->stack, layer->number, &layer->is_moe));
  MOECL_TRY(config_integer(config, family->hidden_size, 1, MOECL_MAX_SIZE, &params->hidden_size));
  MOECL_TRY(read_activation(config, family, &params->activation));
  MOECL_TRY(read_positive(config, family->swiglu_alpha, &alpha));
  MOECL_TRY(read_positive(config, family->swiglu_limit, &limit));
  params->swiglu_alpha = narrow(alpha);
  params->swiglu_limit = narrow(limit);
  MOECL_TRY(layer->is_moe ? read_moe(config, family, layer->stack, params)
                          : read_dense(config, family, layer->stack, params));
  MOECL_TRY(read_limits(config, family, layer->is_moe, params));
  const moecl_status status = moecl_layer_params_check(params, message, sizeof message);
  if (status == MOECL_OK) return MOECL_OK;
  return log_error(config->log, MOECL_ERROR_IO, "%s: layer %lld: %s", config->path,
                   (long long)layer->number, message);
}

/* ---- all layers ---- */

/* How many layers a stack has, and the text or list that says of what kind they are,
 * if it has one. */
static moecl_status count_layers(const model_config *config, const family_stack *stack,
                                 json_t **kinds, int64_t *count) {
  *kinds = list_of(config, stack->kinds);
  if (!stack->kinds) return config_integer(config, stack->num_layers, 0, MAX_LAYERS, count);
  *count = (int64_t)(json_is_array(*kinds) ? json_array_size(*kinds) : json_string_length(*kinds));
  if (!json_is_array(*kinds) && !json_is_string(*kinds))
    return log_error(config->log, MOECL_ERROR_IO,
                     "%s: has no key '%s', a text with a letter a layer or a list with a word a "
                     "layer, which family %s needs",
                     config->path, stack->kinds, config->family);
  if (*count <= MAX_LAYERS) return MOECL_OK;
  return log_error(config->log, MOECL_ERROR_IO, "%s: '%s' is of more than %d layers", config->path,
                   stack->kinds, MAX_LAYERS);
}

/* Has the layer a feed-forward network, and is that MoE? */
static void look_at_kind(json_t *kinds, int64_t number, bool *has_ffn, bool *is_moe) {
  const char *text = json_string_value(kinds);
  const char *word = json_string_value(json_array_get(kinds, (size_t)number));
  *is_moe = text ? text[number] == 'E' : word && strcmp(word, "moe") == 0;
  *has_ffn = !kinds || *is_moe || (text ? text[number] == '-' : word && strcmp(word, "mlp") == 0);
}

static moecl_status read_stack(model_config *config, const family_stack *stack,
                               model_description *description) {
  int64_t count;
  json_t *kinds;
  config->layer = 0;
  MOECL_TRY(count_layers(config, stack, &kinds, &count));
  description->stack_layers[stack - description->family->stacks] = count;
  const size_t room = (size_t)(description->num_layers + count + 1);
  model_layer *layers = realloc(description->layers, room * sizeof *layers);
  if (!layers) return log_error(config->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  description->layers = layers;
  for (int64_t i = 0; i < count; i++) {
    bool has_ffn, is_moe;
    look_at_kind(kinds, i, &has_ffn, &is_moe);
    if (!has_ffn) continue;
    model_layer *layer = &layers[description->num_layers];
    *layer = (model_layer){.stack = stack, .number = i, .is_moe = is_moe};
    config->layer = i;
    MOECL_TRY(read_layer(config, description->family, layer));
    description->num_layers++;
  }
  return MOECL_OK;
}

static moecl_status describe(const moecl_log *log, const char *path, json_t *root,
                             model_description *description) {
  json_t *whole = root;
  MOECL_TRY(find_family(log, path, &root, description));
  const family *family = description->family;
  model_config config = {.log = log, .path = path, .family = family->name, .root = root};
  json_t *section =
      family->section ? config_find(&config, family->section, strlen(family->section)) : NULL;
  if (json_is_object(section)) config.root = section;
  description->root = config.root;
  MOECL_TRY(config_refuse(&config, family->refused));
  for (size_t i = 0; i < 2 && family->stacks[i].prefixes; i++)
    MOECL_TRY(read_stack(&config, &family->stacks[i], description));
  if (description->num_layers == 0)
    return log_error(log, MOECL_ERROR_IO, "%s: the model has no layers", path);
  return model_quantization_read(log, path, whole, config.root, &description->quantization);
}

moecl_status model_describe(const moecl_log *log, const char *path, json_t *root,
                            model_description *description) {
  *description = (model_description){0};
  const moecl_status status = describe(log, path, root, description);
  if (status != MOECL_OK) model_description_free(description);
  return status;
}

void model_description_free(model_description *description) {
  for (int64_t i = 0; i < description->num_layers; i++) free(description->layers[i].remark);
  free(description->layers);
  model_quantization_free(&description->quantization);
  *description = (model_description){0};
}

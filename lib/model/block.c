// SPDX-License-Identifier: MIT
/* The transformer block around a layer: attention and norms, from config.json and the files. A
 * row for each kind of model whose attention a moecl_block_params can say; others are refused.
 * Defaults are those of the configuration classes of transformers. */
#include "base/base.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a block's tensors are called, behind its prefix. */
typedef struct block_names {
  const char *prefix;  /* with {layer}; NULL: the layer's */
  const char *network; /* what the feed-forward network's begin with; NULL: attention's begin with
                          "self_attn.", norms' first part ends with "norm" */
  const char *tensors[MOECL_BLOCK_TENSOR_COUNT];
  const char *qkv_weights[3], *qkv_biases[3];
} block_names;

typedef struct block_row {
  const char *model_type;
  const block_names *names;
  const char *refused; /* as a family's */
  const char *num_heads, *num_kv_heads, *head_dim;
  const char *epsilon; /* of all norms */
  moecl_norm norm;     /* of the block; those of queries and keys are RMSNorm */
  bool norm_bias;
  const char *bias;     /* flag: of q, k, v and o; NULL: there are none */
  const char *qkv_bias; /* flag: of q, k and v alone; NULL: as `bias` */
  moecl_qk_norm qk_norm;
  const char *has_qk_norm; /* flag; NULL: there is one */
  bool sinks;
  const char *clip;                /* of queries, keys and values; NULL, or no such key: none */
  const char *window, *has_window; /* the second a flag; NULL: where the first is not 0 */
  /* Which layers have one without layer_types: all, but for what is said here. */
  bool windows_alternate;    /* every other layer */
  bool windows_listed;       /* none */
  bool windows_need_list;    /* nobody knows: there has to be one */
  const char *windows_from;  /* not those before this one */
  const char *windows_below; /* not this one and those behind it */
  const char *full_every;    /* not the last of each so many */
  const char *rope_theta;    /* NULL: nothing is rotated */
  const char *window_theta;  /* of layers with windows; then rope_parameters has a section for each
                                kind of layer. NULL: all are rotated alike */
  bool rope_in_windows;      /* where some layers have a window, only those are rotated */
  bool interleaved;          /* pairs are neighbours */
  const char *rotary_factor; /* the share of a head that is turned; NULL: all of it */
  const char *rotary_dim;    /* key: how many elements that is, where no share is said */
  bool encoder;              /* blocks of the family's first stack, whose tokens look at all others;
                                those of the second have attention to its output too */
  const char *scale;         /* of products of queries and keys; NULL: head_dim^-1/2 */
  const char *num_buckets, *max_distance; /* of a relative bias, which all blocks have from the
                                             first one */
} block_row;

/* What all of them refuse: factors that are not YaRN's; and most: parts of heads that are not
 * turned. */
#define REFUSED_SCALES                                                                             \
  "rope_parameters.mscale|rope_parameters.mscale_all_dim|rope_scaling.mscale|"                     \
  "rope_scaling.mscale_all_dim"
#define REFUSED                                                                                    \
  "partial_rotary_factor=1|rope_parameters.partial_rotary_factor=1|"                               \
  "rope_scaling.partial_rotary_factor=1|" REFUSED_SCALES

#define ROTARY_FACTOR                                                                              \
  "rope_parameters.partial_rotary_factor|rope_scaling.partial_rotary_factor|partial_rotary_factor"
#define ROPE_THETA "rope_parameters.rope_theta|rope_scaling.rope_theta|rope_theta"

#define DECODER_NAMES(SINKS)                                                                       \
  {                                                                                                \
    .tensors = {[MOECL_ATTENTION_NORM] = "input_layernorm.weight",                                 \
                [MOECL_ATTENTION_NORM_BIAS] = "input_layernorm.bias",                              \
                [MOECL_Q_NORM] = "self_attn.q_norm.weight",                                        \
                [MOECL_K_NORM] = "self_attn.k_norm.weight",                                        \
                [MOECL_SINKS] = "self_attn." SINKS,                                                \
                [MOECL_O_PROJ] = "self_attn.o_proj.weight",                                        \
                [MOECL_O_BIAS] = "self_attn.o_proj.bias",                                          \
                [MOECL_FEED_FORWARD_NORM] = "post_attention_layernorm.weight",                     \
                [MOECL_FEED_FORWARD_NORM_BIAS] = "post_attention_layernorm.bias"},                 \
    .qkv_weights = {"self_attn.q_proj.weight", "self_attn.k_proj.weight",                          \
                    "self_attn.v_proj.weight"},                                                    \
    .qkv_biases = {                                                                                \
      "self_attn.q_proj.bias",                                                                     \
      "self_attn.k_proj.bias",                                                                     \
      "self_attn.v_proj.bias"                                                                      \
    }                                                                                              \
  }

static const block_names decoder_names = DECODER_NAMES("sinks");
static const block_names flint_names = DECODER_NAMES("softmax_offset");

static const block_names t5_names = {
    .prefix = "encoder.block.{layer}.",
    .network = "layer.1.mlp.",
    .tensors = {[MOECL_ATTENTION_NORM] = "layer.0.layer_norm.weight",
                [MOECL_O_PROJ] = "layer.0.SelfAttention.o.weight",
                [MOECL_FEED_FORWARD_NORM] = "layer.1.layer_norm.weight",
                [MOECL_RELATIVE_BIAS] = "layer.0.SelfAttention.relative_attention_bias.weight"},
    .qkv_weights = {"layer.0.SelfAttention.q.weight", "layer.0.SelfAttention.k.weight",
                    "layer.0.SelfAttention.v.weight"}};

static const block_row rows[] = {{.model_type = "mixtral",
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=32",
                                  .num_kv_heads = "num_key_value_heads=8:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.00001",
                                  .window = "sliding_window:0",
                                  .rope_theta = "rope_parameters.rope_theta|rope_theta=1000000"},
                                 {.model_type = "olmoe",
                                  .refused = REFUSED,
                                  .clip = "clip_qkv",
                                  .num_heads = "num_attention_heads=16",
                                  .num_kv_heads = "num_key_value_heads:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.00001",
                                  .bias = "attention_bias=0",
                                  .qk_norm = MOECL_QK_NORM_FULL,
                                  .rope_theta = "rope_parameters.rope_theta|rope_theta=10000"},
                                 {.model_type = "qwen3_moe",
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=32",
                                  .num_kv_heads = "num_key_value_heads=4:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.000001",
                                  .bias = "attention_bias=0",
                                  .qk_norm = MOECL_QK_NORM_HEAD,
                                  .window = "sliding_window=4096:0",
                                  .has_window = "use_sliding_window=0",
                                  .rope_theta = "rope_parameters.rope_theta|rope_theta=10000"},
                                 {.model_type = "gpt_oss",
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=64",
                                  .num_kv_heads = "num_key_value_heads=8:0",
                                  .head_dim = "head_dim=64:0",
                                  .epsilon = "rms_norm_eps=0.00001",
                                  .bias = "attention_bias=1",
                                  .sinks = true,
                                  .window = "sliding_window=128:0",
                                  .windows_alternate = true,
                                  .rope_theta = "rope_parameters.rope_theta|rope_theta=150000"},
                                 {.model_type = "qwen2_moe",
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=16",
                                  .num_kv_heads = "num_key_value_heads=16:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.000001",
                                  .qkv_bias = "qkv_bias=1",
                                  .window = "sliding_window=4096:0",
                                  .has_window = "use_sliding_window=0",
                                  .windows_alternate = true,
                                  .windows_below = "max_window_layers=28",
                                  .rope_theta = ROPE_THETA "=10000"},
                                 {.model_type = "dots1",
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=32",
                                  .num_kv_heads = "num_key_value_heads=32:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.000001",
                                  .bias = "attention_bias=0",
                                  .qk_norm = MOECL_QK_NORM_HEAD,
                                  .window = "sliding_window=4096:0",
                                  .windows_from = "max_window_layers=62",
                                  .rope_theta = ROPE_THETA "=10000"},
                                 {.model_type = "solar_open",
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=64",
                                  .num_kv_heads = "num_key_value_heads=8:0",
                                  .head_dim = "head_dim=128:0",
                                  .epsilon = "rms_norm_eps=0.00001",
                                  .qkv_bias = "attention_bias=0",
                                  .rope_theta = ROPE_THETA "=1000000"},
                                 {.model_type = "hy_v3",
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=64",
                                  .num_kv_heads = "num_key_value_heads=8:0",
                                  .head_dim = "head_dim=128:0",
                                  .epsilon = "rms_norm_eps=0.00001",
                                  .bias = "attention_bias=0",
                                  .qk_norm = MOECL_QK_NORM_HEAD,
                                  .rope_theta = ROPE_THETA "=11158840"},
                                 {.model_type = "exaone_moe",
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=32",
                                  .num_kv_heads = "num_key_value_heads=32:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.00001",
                                  .qk_norm = MOECL_QK_NORM_HEAD,
                                  .window = "sliding_window=4096:0",
                                  .full_every = "sliding_window_pattern=4",
                                  .rope_in_windows = true,
                                  .rope_theta = ROPE_THETA "=10000"},
                                 {.model_type = "minimax_m2",
                                  .refused = "use_qk_norm=1|qk_norm_type=per_layer|" REFUSED_SCALES,
                                  .num_heads = "num_attention_heads=48",
                                  .num_kv_heads = "num_key_value_heads=8:0",
                                  .head_dim = "head_dim=128:0",
                                  .epsilon = "rms_norm_eps=0.000001",
                                  .qk_norm = MOECL_QK_NORM_FULL,
                                  .rotary_factor = ROTARY_FACTOR "=1",
                                  .rotary_dim = "rotary_dim",
                                  .rope_theta = ROPE_THETA "=5000000"},
                                 {.model_type = "glm4_moe",
                                  .refused = REFUSED_SCALES,
                                  .num_heads = "num_attention_heads=96",
                                  .num_kv_heads = "num_key_value_heads=8:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.00001",
                                  .qkv_bias = "attention_bias=0",
                                  .qk_norm = MOECL_QK_NORM_HEAD,
                                  .has_qk_norm = "use_qk_norm=0",
                                  .rotary_factor = ROTARY_FACTOR "=0.5",
                                  .rope_theta = ROPE_THETA "=10000"},
                                 {.model_type = "ernie4_5_moe",
                                  .refused = "compression_ratio=1|" REFUSED,
                                  .num_heads = "num_attention_heads=20",
                                  .num_kv_heads = "num_key_value_heads=4:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.00001",
                                  .interleaved = true,
                                  .rope_theta = ROPE_THETA "=500000"},
                                 {.model_type = "phimoe",
                                  .refused = "rope_parameters.short_mscale|"
                                             "rope_parameters.long_mscale|"
                                             "rope_scaling.short_mscale|"
                                             "rope_scaling.long_mscale|" REFUSED,
                                  .num_heads = "num_attention_heads=32",
                                  .num_kv_heads = "num_key_value_heads=8:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.00001",
                                  .norm = MOECL_NORM_LAYER,
                                  .norm_bias = true,
                                  .bias = "attention_bias=0",
                                  .window = "sliding_window:0",
                                  .rope_theta = ROPE_THETA "=1000000"},
                                 {.model_type = "mellum",
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=32",
                                  .num_kv_heads = "num_key_value_heads=4:0",
                                  .head_dim = "head_dim=128:0",
                                  .epsilon = "rms_norm_eps=0.000001",
                                  .bias = "attention_bias=0",
                                  .qk_norm = MOECL_QK_NORM_HEAD,
                                  .window = "sliding_window=1024:0",
                                  .windows_listed = true,
                                  .rope_theta = "rope_parameters.rope_theta=500000",
                                  .window_theta = "rope_parameters.rope_theta=10000"},
                                 {.model_type = "granitemoe",
                                  .refused = "residual_multiplier=1|" REFUSED,
                                  .num_heads = "num_attention_heads=32",
                                  .num_kv_heads = "num_key_value_heads:0",
                                  .head_dim = "head_dim:0",
                                  .epsilon = "rms_norm_eps=0.000001",
                                  .bias = "attention_bias=0",
                                  .scale = "attention_multiplier=1",
                                  .rope_theta = ROPE_THETA "=10000"},
                                 {.model_type = "flint",
                                  .names = &flint_names,
                                  .refused = REFUSED,
                                  .num_heads = "num_attention_heads=32",
                                  .num_kv_heads = "num_key_value_heads=4:0",
                                  .head_dim = "head_dim=128:0",
                                  .epsilon = "rms_norm_eps=0.000001",
                                  .bias = "attention_bias=0",
                                  .qk_norm = MOECL_QK_NORM_HEAD,
                                  .sinks = true,
                                  .window = "sliding_window=513",
                                  .windows_need_list = true,
                                  .rope_in_windows = true,
                                  .rope_theta = ROPE_THETA "=10000"},
                                 {.model_type = "switch_transformers",
                                  .names = &t5_names,
                                  .num_heads = "num_heads|num_attention_heads=12",
                                  .head_dim = "d_kv=64",
                                  .epsilon = "layer_norm_epsilon=0.000001",
                                  .encoder = true,
                                  .scale = "1",
                                  .num_buckets = "relative_attention_num_buckets=32",
                                  .max_distance = "relative_attention_max_distance=128"}};

static const block_names *names_of(const block_row *row) {
  return row->names ? row->names : &decoder_names;
}

/* ---- config.json ---- */

static moecl_status find_row(const moecl_checkpoint *checkpoint, const block_row **found) {
  const char *model_type = checkpoint->description.model_type;
  base_text known = {0};
  *found = NULL;
  for (size_t i = 0; i < BASE_COUNT(rows); i++) {
    if (strcmp(rows[i].model_type, model_type) == 0) *found = &rows[i];
    base_text_addf(&known, "%s%s", i ? ", " : "", rows[i].model_type);
  }
  const moecl_status status =
      *found ? MOECL_OK
             : log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                         "%s: the attention of model_type '%.100s' is not described here, only "
                         "its layers are; blocks are read of %s",
                         checkpoint->config_path, model_type, known.failed ? "others" : known.data);
  base_text_free(&known);
  return status;
}

#define ROPE_KEY(name) "rope_parameters." name "|rope_scaling." name

static moecl_status read_yarn(const model_config *config, moecl_rope_params *rope) {
  bool truncate;
  MOECL_TRY(config_number(config, ROPE_KEY("beta_fast") "=32", &rope->beta_fast));
  MOECL_TRY(config_number(config, ROPE_KEY("beta_slow") "=1", &rope->beta_slow));
  MOECL_TRY(config_number(config, ROPE_KEY("attention_factor") ":0", &rope->attention_factor));
  MOECL_TRY(config_flag(config, ROPE_KEY("truncate") "=1", &truncate));
  rope->not_truncated = !truncate;
  return MOECL_OK;
}

/* Its scaling. */
static moecl_status read_rope(const model_config *config, moecl_rope_params *rope) {
  char buffer[32];
  const char *type;
  MOECL_TRY(config_text(config, ROPE_KEY("rope_type") "|rope_scaling.type=default", buffer,
                        sizeof buffer, &type));
  if (strcmp(type, "default") == 0) return MOECL_OK;
  const bool linear = strcmp(type, "linear") == 0, llama3 = strcmp(type, "llama3") == 0;
  if (!linear && !llama3 && strcmp(type, "yarn") != 0)
    return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: rope_type is '%.60s', expected default, linear, llama3 or yarn",
                     config->path, type);
  MOECL_TRY(config_number(config, ROPE_KEY("factor"), &rope->factor));
  rope->scaling = linear ? MOECL_ROPE_LINEAR : llama3 ? MOECL_ROPE_LLAMA3 : MOECL_ROPE_YARN;
  if (linear) return MOECL_OK;
  MOECL_TRY(config_number(config,
                          ROPE_KEY("original_max_position_embeddings") "|max_position_embeddings",
                          &rope->original_positions));
  if (!llama3) return read_yarn(config, rope);
  MOECL_TRY(config_number(config, ROPE_KEY("low_freq_factor"), &rope->low_freq_factor));
  return config_number(config, ROPE_KEY("high_freq_factor"), &rope->high_freq_factor);
}

/* Has this layer a window, where no list says so? */
static moecl_status has_window_by_rule(const model_config *config, const block_row *row,
                                       bool *has) {
  int64_t bound;
  *has = !row->windows_listed && (!row->windows_alternate || config->layer % 2 == 0);
  if (row->windows_from) {
    MOECL_TRY(config_integer(config, row->windows_from, 0, INT32_MAX, &bound));
    *has = *has && config->layer >= bound;
  }
  if (row->windows_below) {
    MOECL_TRY(config_integer(config, row->windows_below, 0, INT32_MAX, &bound));
    *has = *has && config->layer < bound;
  }
  if (row->full_every) {
    MOECL_TRY(config_integer(config, row->full_every, 1, INT32_MAX, &bound));
    *has = *has && (config->layer + 1) % bound != 0;
  }
  return MOECL_OK;
}

/* Is the layer of those with a window, if the model has them? */
static moecl_status has_window(const model_config *config, const block_row *row, bool *has) {
  json_t *types = config_find(config, "layer_types", strlen("layer_types"));
  const char *type = json_string_value(json_array_get(types, (size_t)config->layer));
  const bool sliding = type && strcmp(type, "sliding_attention") == 0;
  bool any = true;
  *has = false;
  if (!row->window) return MOECL_OK;
  if (row->has_window) MOECL_TRY(config_flag(config, row->has_window, &any));
  if (!types && row->windows_need_list)
    return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: has no list 'layer_types', and which layers of a %s model have a window "
                     "is not described here without it",
                     config->path, row->model_type);
  if (!types) {
    MOECL_TRY(has_window_by_rule(config, row, has));
    *has = *has && any;
    return MOECL_OK;
  }
  *has = any && sliding;
  if (sliding || (type && strcmp(type, "full_attention") == 0)) return MOECL_OK;
  return log_error(config->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: the list 'layer_types' says '%.60s' of layer %lld, expected "
                   "sliding_attention or full_attention",
                   config->path, type ? type : "nothing", (long long)config->layer);
}

/* That of the model's layers with windows; 0: there are none. */
static moecl_status read_window(const model_config *config, const block_row *row, int64_t *window) {
  return config_integer(config, row->window, 0, MOECL_MAX_POSITIONS, window);
}

/* A number greater than `above`: 0 would be a default, or none. */
static moecl_status read_above(const model_config *config, const char *expression, double above,
                               double *value) {
  MOECL_TRY(config_number(config, expression, value));
  if (*value > above) return MOECL_OK;
  return log_error(config->log, MOECL_ERROR_IO, "%s: '%.*s' is %g, expected more than %g",
                   config->path, (int)strcspn(expression, "="), expression, *value, above);
}

/* How many of a head's elements are turned; 0: all. */
static moecl_status read_rotary_dim(const model_config *config, const block_row *row,
                                    int64_t head_dim, int64_t *dim) {
  double factor;
  *dim = 0;
  if (row->rotary_dim && config_find(config, row->rotary_dim, strlen(row->rotary_dim)) &&
      !config_find(config, ROTARY_FACTOR, strlen(ROTARY_FACTOR)))
    return config_integer(config, row->rotary_dim, 2, head_dim, dim);
  if (!row->rotary_factor) return MOECL_OK;
  MOECL_TRY(read_above(config, row->rotary_factor, 0, &factor));
  const double turned = (double)head_dim * factor;
  if (!(turned >= 2 && factor <= 1))
    return log_error(config->log, MOECL_ERROR_IO,
                     "%s: partial_rotary_factor is %g, expected a share of a head's %lld elements "
                     "that has two or more",
                     config->path, factor, (long long)head_dim);
  *dim = (int64_t)turned;
  return MOECL_OK;
}

static moecl_status read_rotary(const model_config *config, const block_row *row, const char *theta,
                                int64_t head_dim, moecl_rope_params *rope) {
  rope->interleaved = row->interleaved;
  MOECL_TRY(read_above(config, theta, 1, &rope->theta));
  MOECL_TRY(read_rotary_dim(config, row, head_dim, &rope->dim));
  return read_rope(config, rope);
}

/* Where each kind of layer has its own section of rope_parameters: read as config.json would be
 * with that alone. */
static moecl_status read_rotary_of_kind(const model_config *config, const block_row *row,
                                        bool sliding, int64_t head_dim, moecl_rope_params *rope) {
  const char *kind = sliding ? "sliding_attention" : "full_attention";
  json_t *kinds = config_find(config, "rope_parameters", strlen("rope_parameters"));
  json_t *section = json_object_get(kinds, kind);
  if (kinds && !json_is_object(section))
    return log_error(config->log, MOECL_ERROR_IO, "%s: 'rope_parameters' has no section '%s'",
                     config->path, kind);
  model_config own = *config;
  own.root = json_copy(config->root);
  moecl_status status = MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (own.root && (!section || json_object_set(own.root, "rope_parameters", section) == 0))
    status = config_refuse(&own, row->refused);
  else log_error(config->log, status, "no host memory");
  if (status == MOECL_OK)
    status = read_rotary(&own, row, sliding ? row->window_theta : row->rope_theta, head_dim, rope);
  json_decref(own.root);
  return status;
}

/* What queries and keys know of positions. `sliding`: the layer is of those with a window. */
static moecl_status read_positions(const model_config *config, const block_row *row, bool sliding,
                                   int64_t hidden_size, moecl_attention_params *attention) {
  int64_t window;
  const int64_t head_dim =
      attention->head_dim ? attention->head_dim : hidden_size / attention->num_heads;
  MOECL_TRY(read_window(config, row, &window));
  if (sliding) attention->sliding_window = window;
  if (!row->rope_theta || (row->rope_in_windows && window > 0 && !sliding)) return MOECL_OK;
  if (row->window_theta)
    return read_rotary_of_kind(config, row, sliding, head_dim, &attention->rope);
  return read_rotary(config, row, row->rope_theta, head_dim, &attention->rope);
}

static moecl_status read_relative(const model_config *config, const block_row *row,
                                  moecl_attention_params *attention) {
  if (!row->num_buckets) return MOECL_OK;
  MOECL_TRY(config_integer(config, row->num_buckets, 1, MOECL_MAX_RELATIVE_BUCKETS,
                           &attention->relative_attention_num_buckets));
  return config_integer(config, row->max_distance, 1, MOECL_MAX_RELATIVE_DISTANCE,
                        &attention->relative_attention_max_distance);
}

/* One greater than 0, in fp32, where it stays that. */
static moecl_status read_float(const model_config *config, const char *expression, float *value) {
  double read;
  MOECL_TRY(read_above(config, expression, 0, &read));
  *value = read > (double)FLT_MAX ? INFINITY : read < (double)FLT_MIN ? FLT_MIN : (float)read;
  return MOECL_OK;
}

/* 0 would cut all away, and is nobody's. */
static moecl_status read_clip(const model_config *config, const block_row *row, float *clip) {
  if (!row->clip || !config_find(config, row->clip, strlen(row->clip))) return MOECL_OK;
  return read_float(config, row->clip, clip);
}

static moecl_status read_biases(const model_config *config, const block_row *row,
                                moecl_attention_params *attention) {
  MOECL_TRY(config_flag(config, row->bias, &attention->output_bias));
  attention->qkv_bias = attention->output_bias;
  return row->qkv_bias ? config_flag(config, row->qkv_bias, &attention->qkv_bias) : MOECL_OK;
}

/* Those of the block, and of queries and keys. */
static moecl_status read_norms(const model_config *config, const block_row *row,
                               moecl_block_params *params) {
  moecl_attention_params *attention = &params->attention;
  moecl_norm_params norm = {.kind = row->norm, .bias = row->norm_bias};
  bool has_qk_norm = true;
  if (row->has_qk_norm) MOECL_TRY(config_flag(config, row->has_qk_norm, &has_qk_norm));
  MOECL_TRY(read_float(config, row->epsilon, &norm.epsilon));
  params->attention_norm = params->feed_forward_norm = norm;
  if (!has_qk_norm || row->qk_norm == MOECL_QK_NORM_NONE) return MOECL_OK;
  attention->qk_norm = row->qk_norm;
  attention->qk_norm_epsilon = norm.epsilon;
  return MOECL_OK;
}

static moecl_status read_params(const model_config *config, const block_row *row,
                                moecl_block_params *params) {
  moecl_attention_params *attention = &params->attention;
  bool sliding;
  MOECL_TRY(config_refuse(config, row->refused));
  MOECL_TRY(config_integer(config, row->num_heads, 1, MOECL_MAX_HEADS, &attention->num_heads));
  MOECL_TRY(
      config_integer(config, row->num_kv_heads, 0, MOECL_MAX_HEADS, &attention->num_kv_heads));
  MOECL_TRY(config_integer(config, row->head_dim, 0, MOECL_MAX_HEAD_DIM, &attention->head_dim));
  MOECL_TRY(read_biases(config, row, attention));
  MOECL_TRY(read_norms(config, row, params));
  attention->sinks = row->sinks;
  attention->not_causal = row->encoder;
  if (row->scale) MOECL_TRY(read_float(config, row->scale, &attention->scale));
  MOECL_TRY(has_window(config, row, &sliding));
  MOECL_TRY(read_positions(config, row, sliding, params->layer.hidden_size, attention));
  MOECL_TRY(read_relative(config, row, attention));
  return read_clip(config, row, &attention->clip_qkv);
}

/* Not of a decoder behind an encoder. */
static moecl_status check_stack(const moecl_checkpoint *checkpoint, int64_t index,
                                const block_row *row) {
  const model_description *description = &checkpoint->description;
  const model_layer *layer = &description->layers[index];
  if (!row->encoder || layer->stack == &description->family->stacks[0]) return MOECL_OK;
  return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                   "%s: layer %lld is number %lld of %s's decoder, whose blocks also look at the "
                   "encoder's output: that attention is not described here; expected a layer of "
                   "the encoder, 0 to %lld",
                   checkpoint->config_path, (long long)index, (long long)layer->number,
                   row->model_type, (long long)description->stack_layers[0] - 1);
}

moecl_status moecl_checkpoint_get_block(moecl_checkpoint *checkpoint, int64_t index,
                                        moecl_block_params *params) {
  moecl_checkpoint_layer stored;
  const block_row *row;
  char message[256];
  if (!params) return MOECL_ERROR_INVALID_ARGUMENT;
  *params = (moecl_block_params){0};
  if (!checkpoint) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(moecl_checkpoint_get_layer(checkpoint, index, &stored));
  MOECL_TRY(find_row(checkpoint, &row));
  MOECL_TRY(check_stack(checkpoint, index, row));
  const model_config config = {.log = &checkpoint->log,
                               .path = checkpoint->config_path,
                               .family = checkpoint->description.family->name,
                               .root = checkpoint->description.root,
                               .layer = checkpoint->description.layers[index].number};
  moecl_block_params read = {.layer = stored.params};
  MOECL_TRY(read_params(&config, row, &read));
  if (moecl_block_params_check(&read, message, sizeof message) != MOECL_OK)
    return log_error(&checkpoint->log, MOECL_ERROR_IO, "%s: layer %lld: %s",
                     checkpoint->config_path, (long long)config.layer, message);
  *params = read;
  return MOECL_OK;
}

/* ---- tensors ---- */

/* A tensor's parts in the files, below each other: rows, and columns (0: a vector). */
typedef struct parts {
  const char *pattern[3];
  int64_t rows[3], columns;
  int count;
} parts;

static parts parts_of(const moecl_block_params *params, const block_names *names,
                      moecl_block_tensor tensor) {
  const moecl_attention_params *attention = &params->attention;
  const int64_t hidden = params->layer.hidden_size;
  const int64_t size = moecl_block_tensor_size(params, tensor);
  const int64_t kv_heads = attention->num_kv_heads ? attention->num_kv_heads : attention->num_heads;
  const int64_t queries = moecl_block_tensor_size(params, MOECL_O_PROJ) / hidden;
  const int64_t keys = queries / attention->num_heads * kv_heads;
  const bool whole = tensor == MOECL_QKV_PROJ;
  if (size == 0) return (parts){.count = 0};
  if (whole || tensor == MOECL_QKV_BIAS) {
    const char *const *three = whole ? names->qkv_weights : names->qkv_biases;
    return (parts){.pattern = {three[0], three[1], three[2]},
                   .rows = {queries, keys, keys},
                   .columns = whole ? hidden : 0,
                   .count = 3};
  }
  const bool is_matrix = tensor == MOECL_O_PROJ || tensor == MOECL_RELATIVE_BIAS;
  const int64_t columns = tensor == MOECL_O_PROJ ? queries : attention->num_heads;
  return (parts){.pattern = {names->tensors[tensor]},
                 .rows = {is_matrix ? size / columns : size},
                 .columns = is_matrix ? columns : 0,
                 .count = 1};
}

/* Whose block has the tensor: the layer's own, or the first one for all. */
static int64_t owner_of(moecl_block_tensor tensor, int64_t number) {
  return tensor == MOECL_RELATIVE_BIAS ? 0 : number;
}

/* Where the tensor's parts are looked for: a layer with the block's prefix. */
typedef struct place {
  family_stack stack;
  model_layer layer;
} place;

static void find_place(const moecl_checkpoint *checkpoint, int64_t index, const block_names *names,
                       moecl_block_tensor tensor, place *place) {
  place->layer = checkpoint->description.layers[index];
  if (!names->prefix) return;
  place->stack = (family_stack){.prefixes = names->prefix};
  place->layer.stack = &place->stack;
  place->layer.number = owner_of(tensor, place->layer.number);
}

moecl_status moecl_checkpoint_read_block(moecl_checkpoint *checkpoint, int64_t index,
                                         moecl_block_tensor tensor, moecl_dtype dtype,
                                         void *values) {
  moecl_block_params params;
  const block_row *row;
  place place;
  if (!checkpoint) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!values || (unsigned)dtype >= MOECL_DTYPE_COUNT ||
      (unsigned)tensor >= MOECL_BLOCK_TENSOR_COUNT)
    return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: values is NULL, or there is no dtype %d or no tensor %d",
                     checkpoint->folder, (int)dtype, (int)tensor);
  MOECL_TRY(moecl_checkpoint_get_block(checkpoint, index, &params));
  MOECL_TRY(find_row(checkpoint, &row));
  const parts parts = parts_of(&params, names_of(row), tensor);
  if (parts.count == 0)
    return log_error(&checkpoint->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: the block of layer %lld has no tensor %d", checkpoint->folder,
                     (long long)index, (int)tensor);
  find_place(checkpoint, index, names_of(row), tensor, &place);
  char *at = values;
  for (int i = 0; i < parts.count; i++) {
    MOECL_TRY(model_read_whole(checkpoint, &place.layer, parts.pattern[i], parts.rows[i],
                               parts.columns, dtype, at));
    at += (size_t)(parts.rows[i] * (parts.columns ? parts.columns : 1)) * moecl_dtype_size(dtype);
  }
  return MOECL_OK;
}

/* Is the tensor, `tail` behind the prefix of block `number`, one that is read? */
static bool is_read(const moecl_block_params *params, const block_names *names, int64_t number,
                    const char *tail) {
  for (int t = 0; t < MOECL_BLOCK_TENSOR_COUNT; t++) {
    const moecl_block_tensor tensor = (moecl_block_tensor)t;
    const parts parts = parts_of(params, names, tensor);
    if (owner_of(tensor, number) != number) continue;
    for (int i = 0; i < parts.count; i++)
      if (strcmp(tail, parts.pattern[i]) == 0) return true;
  }
  return strcmp(tail, "self_attn.rotary_emb.inv_freq") == 0; /* older files'; computed here */
}

/* Is it of attention, or a norm? */
static bool is_of_block(const block_names *names, const char *tail) {
  const char *dot = strchr(tail, '.');
  if (names->network) return strncmp(tail, names->network, strlen(names->network)) != 0;
  return strncmp(tail, "self_attn.", 10) == 0 ||
         (dot && dot - tail >= 4 && strncmp(dot - 4, "norm", 4) == 0);
}

/* A tensor of attention, or a norm, that nothing reads is a part of what the block does. */
static moecl_status check_unread(const moecl_checkpoint *checkpoint,
                                 const moecl_block_params *params, const block_names *names,
                                 int64_t number, const char *prefix) {
  const size_t size = strlen(prefix);
  for (size_t i = model_first_name(checkpoint, prefix);; i++) {
    const char *file, *name = model_name_at(checkpoint, i, &file);
    if (!name || strncmp(name, prefix, size) != 0) return MOECL_OK;
    const char *tail = name + size;
    if (!is_of_block(names, tail) || is_read(params, names, number, tail)) continue;
    return log_error(&checkpoint->log, MOECL_ERROR_UNSUPPORTED,
                     "%s: tensor '%.300s' is of attention or a norm, and a %s block has none of "
                     "that name",
                     file, name, checkpoint->description.model_type);
  }
}

/* The block's prefix: the layer's, without what is behind it of the network's. */
static moecl_status find_unread(const moecl_checkpoint *checkpoint,
                                const moecl_block_params *params, const block_names *names,
                                int64_t number, const char *layer_prefix) {
  const size_t size = strlen(layer_prefix), tail = names->network ? strlen(names->network) : 0;
  char *prefix = strndup(layer_prefix, size - (tail < size ? tail : 0));
  if (!prefix) return log_error(&checkpoint->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const moecl_status status = check_unread(checkpoint, params, names, number, prefix);
  free(prefix);
  return status;
}

moecl_status moecl_checkpoint_check_block(moecl_checkpoint *checkpoint, int64_t index) {
  moecl_checkpoint_layer stored;
  moecl_block_params params;
  const block_row *row;
  MOECL_TRY(moecl_checkpoint_check(checkpoint, index));
  MOECL_TRY(moecl_checkpoint_get_layer(checkpoint, index, &stored));
  MOECL_TRY(moecl_checkpoint_get_block(checkpoint, index, &params));
  MOECL_TRY(find_row(checkpoint, &row));
  const block_names *names = names_of(row);
  for (int t = 0; t < MOECL_BLOCK_TENSOR_COUNT; t++) {
    const parts parts = parts_of(&params, names, (moecl_block_tensor)t);
    place place;
    find_place(checkpoint, index, names, (moecl_block_tensor)t, &place);
    for (int i = 0; i < parts.count; i++)
      MOECL_TRY(model_check_whole(checkpoint, &place.layer, parts.pattern[i], parts.rows[i],
                                  parts.columns));
  }
  return find_unread(checkpoint, &params, names, checkpoint->description.layers[index].number,
                     stored.prefix);
}

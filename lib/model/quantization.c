// SPDX-License-Identifier: MIT
#include "model/quantization.h"

#include "base/base.h"
#include "model/config.h"
#include "model/name_pattern.h"
#include <stdlib.h>
#include <string.h>

/* ---- the rows ---- */

static const uint8_t awq_lanes[] = {0, 4, 1, 5, 2, 6, 3, 7};

#define BYTES                                                                                      \
  { .unit = 8 }
#define WORDS                                                                                      \
  { .unit = 32 }
#define WORDS_OF_ROWS                                                                              \
  { .unit = 32, .along_rows = true }

/* What compressed-tensors' configuration says of weights, whatever the layout. */
#define COMPRESSED(layout)                                                                         \
  .method = "compressed-tensors", .when = "format=", .is = layout, .type = "type=int",             \
  .bits = "num_bits=8", .strategy = "strategy=tensor", .group_size = "group_size:0",               \
  .block = "block_structure", .symmetric = "symmetric=1", .scales = ".weight_scale",               \
  .unread = ".input_scale|.input_zero_point|.weight_zero_point|.input_global_scale"
#define GPTQ(layout)                                                                               \
  .method = "gptq", .when = "checkpoint_format=gptq", .is = layout, .type = "=int",                \
  .bits = "bits", .strategy = "=group", .group_size = "group_size=128", .symmetric = "sym=1",      \
  .codes = ".qweight", .scales = ".scales", .zero_points = ".qzeros", .group_index = ".g_idx",     \
  .code_types = "I32", .packing = {.unit = 32, .transposed = true},                                \
  .zero_packing = {.unit = 32, .transposed = true, .along_rows = true}, .offset_binary = true

static const model_scheme schemes[] = {
    {.method = "mxfp4", /* gpt-oss */
     .type = "=float",
     .bits = "4",
     .strategy = "=group",
     .group_size = "32",
     .symmetric = "1",
     .codes = "_blocks",
     .scales = "_scales",
     .code_types = "U8",
     .packing = {.unit = 8, .in_blocks = true}},

    {.method = "fp8", /* DeepSeek-V3 */
     .type = "=float",
     .bits = "8",
     .strategy = "=block",
     .block = "weight_block_size",
     .symmetric = "1",
     .expected = "fmt=e4m3",
     .codes = ".weight",
     .scales = ".weight_scale_inv",
     .unread = ".input_scale|.input_scale_inv|.activation_scale",
     .code_types = "F8_E4M3",
     .packing = BYTES},

    {.method = "fp8",
     .type = "=float",
     .bits = "8",
     .strategy = "=tensor",
     .symmetric = "1",
     .expected = "fmt=e4m3",
     .codes = ".weight",
     .scales = ".weight_scale|.weight_scale_inv",
     .unread = ".input_scale|.activation_scale",
     .code_types = "F8_E4M3",
     .packing = BYTES},

    {.method = "fbgemm_fp8",
     .type = "=float",
     .bits = "8",
     .strategy = "=channel",
     .symmetric = "1",
     .codes = ".weight",
     .scales = ".weight_scale",
     .unread = ".input_scale_ub",
     .code_types = "F8_E4M3",
     .packing = BYTES},

    {COMPRESSED("pack-quantized"), .codes = ".weight_packed", .zero_points = ".weight_zero_point",
     .group_index = ".weight_g_idx", .shape = ".weight_shape", .code_types = "I32",
     .packing = WORDS, .zero_packing = WORDS_OF_ROWS, .offset_binary = true},

    {COMPRESSED("int-quantized"), .codes = ".weight", .code_types = "I8", .packing = BYTES},
    {COMPRESSED("float-quantized"), .codes = ".weight", .code_types = "F8_E4M3", .packing = BYTES},
    {COMPRESSED("naive-quantized"), .codes = ".weight", .code_types = "F8_E4M3|I8",
     .packing = BYTES},

    {COMPRESSED("nvfp4-pack-quantized"), .codes = ".weight_packed",
     .matrix_scale = ".weight_global_scale", .code_types = "U8", .packing = BYTES,
     .reciprocal = true},

    {COMPRESSED("mxfp4-pack-quantized"), .codes = ".weight_packed", .code_types = "U8",
     .packing = BYTES},

    {.method = "awq",
     .type = "=int",
     .bits = "bits|w_bit",
     .strategy = "=group",
     .group_size = "group_size|q_group_size=128",
     .symmetric = "0", /* zero points are always in the files */
     .expected = "version=gemm",
     .codes = ".qweight",
     .scales = ".scales",
     .zero_points = ".qzeros",
     .code_types = "I32",
     .packing = {.unit = 32, .transposed = true, .along_rows = true, .lanes = awq_lanes},
     .zero_packing = {.unit = 32, .transposed = true, .along_rows = true, .lanes = awq_lanes}},

    {GPTQ("gptq"), .zero_offset = 1},
    {GPTQ("gptq_v2")},
};

/* What asks for more than these rows describe, wherever it is: other numbers for some modules,
 * matrices that weights are multiplied by, sparse ones. */
static const char *const refused_keys[] = {"dynamic", "transform_config", "sparsity_config"};

/* ---- messages ---- */

typedef struct reading {
  base_text refused;    /* the message, once there is one */
  model_config config;  /* logs to it */
  json_t *root, *group; /* quantization_config, and one of its config_groups or NULL */
  const char *method;
} reading;

static void keep(void *user, moecl_log_level level, const char *message) {
  base_text *text = user;
  (void)level;
  if (text->size == 0) base_text_addf(text, "%s", message);
}

__attribute__((format(printf, 2, 3))) static moecl_status refuse(reading *r, const char *format,
                                                                 ...) {
  va_list args;
  char text[512];
  va_start(args, format);
  base_vformat(text, sizeof text, format, args);
  va_end(args);
  return log_error(r->config.log, MOECL_ERROR_UNSUPPORTED, "%s: quantization_config: %s",
                   r->config.path, text);
}

/* ---- choosing a row ---- */

/* Of the group, else of what is around it. */
static json_t *find_around(const reading *r, const char *key, size_t size) {
  json_t *value = r->group ? json_object_getn(r->group, key, size) : NULL;
  if (!value || json_is_null(value)) value = json_object_getn(r->root, key, size);
  return json_is_null(value) ? NULL : value;
}

/* "key=a"'s text. */
static const char *text_around(const reading *r, const char *expression) {
  const size_t size = strcspn(expression, "=");
  const char *text = json_string_value(find_around(r, expression, size));
  return text ? text : expression + size + (expression[size] != '\0');
}

static bool has_block(const reading *r, const model_scheme *scheme) {
  return json_array_size(json_object_get(r->config.root, scheme->block)) > 0;
}

static moecl_status choose_scheme(reading *r, const model_scheme **chosen) {
  const char *when = NULL;
  for (size_t i = 0; i < BASE_COUNT(schemes); i++) {
    const model_scheme *scheme = &schemes[i];
    if (strcmp(scheme->method, r->method) != 0) continue;
    when = scheme->when;
    if (when && strcmp(text_around(r, when), scheme->is) != 0) continue;
    *chosen = scheme;
    /* A key of a list tells two rows of one method from each other. */
    if (when || !scheme->block || has_block(r, scheme)) return MOECL_OK;
    *chosen = NULL;
  }
  if (when)
    return refuse(r, "quant_method '%.40s' with %.*s '%.100s' is not known", r->method,
                  (int)strcspn(when, "="), when, text_around(r, when));
  base_text known = {0};
  for (size_t i = 0; i < BASE_COUNT(schemes); i++)
    if (i == 0 || strcmp(schemes[i].method, schemes[i - 1].method) != 0)
      base_text_addf(&known, "%s%s", i ? ", " : "", schemes[i].method);
  const moecl_status status = refuse(r, "quant_method '%.100s' is not known; known are %s",
                                     r->method, known.failed ? "too many to list" : known.data);
  base_text_free(&known);
  return status;
}

/* ---- which format its numbers are ---- */

typedef struct numbers {
  const char *type, *strategy;
  int64_t bits, group_size, block_rows, block_columns;
  bool symmetric;
} numbers;

static moecl_status read_block(reading *r, const model_scheme *scheme, numbers *n) {
  const json_t *list = json_object_get(r->config.root, scheme->block);
  const json_t *rows = json_array_get(list, 0), *columns = json_array_get(list, 1);
  if (json_array_size(list) != 2 || !json_is_integer(rows) || !json_is_integer(columns))
    return refuse(r, "'%s' is not a list of two whole numbers", scheme->block);
  n->block_rows = json_integer_value(rows);
  n->block_columns = json_integer_value(columns);
  return MOECL_OK;
}

static moecl_status read_numbers(reading *r, const model_scheme *scheme, numbers *n, char type[32],
                                 char strategy[32]) {
  const model_config *config = &r->config;
  MOECL_TRY(config_text(config, scheme->type, type, 32, &n->type));
  MOECL_TRY(config_text(config, scheme->strategy, strategy, 32, &n->strategy));
  MOECL_TRY(config_integer(config, scheme->bits, 1, 64, &n->bits));
  MOECL_TRY(config_integer(config, scheme->group_size, -1, INT32_MAX, &n->group_size));
  MOECL_TRY(config_flag(config, scheme->symmetric, &n->symmetric));
  return strcmp(n->strategy, "block") == 0 ? read_block(r, scheme, n) : MOECL_OK;
}

static int element_of(const numbers *n) {
  if (strcmp(n->type, "int") == 0)
    return n->bits == 8 ? ELEMENT_INT8 : n->bits == 4 ? ELEMENT_INT4 : ELEMENT_NONE;
  if (strcmp(n->type, "float") == 0)
    return n->bits == 8 ? ELEMENT_E4M3 : n->bits == 4 ? ELEMENT_E2M1 : ELEMENT_NONE;
  return ELEMENT_NONE;
}

static bool is_format(const desc_format *format, const numbers *n) {
  const bool in_groups = strstr(n->strategy, "group") && n->group_size > 0;
  const bool in_rows = strcmp(n->strategy, "channel") == 0 ||
                       (strcmp(n->strategy, "group") == 0 && n->group_size == -1);
  if (!desc_is_quantized(format) || format->element != element_of(n) ||
      format->zero_points != !n->symmetric)
    return false;
  if (format->scale == ELEMENT_NONE) return strcmp(n->strategy, "tensor") == 0;
  if (strcmp(n->strategy, "block") == 0)
    return format->scale_rows > 1 && format->scale_rows == n->block_rows &&
           format->block == n->block_columns;
  return format->scale_rows == 1 &&
         (format->block ? in_groups && format->block == n->group_size : in_rows);
}

/* Adds ", key value", by the name that the file gives it. */
static void add_number(base_text *text, const char *expression, const char *otherwise,
                       int64_t value) {
  const bool is_key = expression && !(*expression >= '0' && *expression <= '9');
  const char *key = is_key ? expression : otherwise;
  base_text_addf(text, ", %.*s %lld", (int)strcspn(key, "=|:"), key, (long long)value);
}

static moecl_status no_format(reading *r, const model_scheme *scheme, const numbers *n) {
  base_text text = {0};
  base_text_addf(&text, "type '%.20s'", n->type);
  add_number(&text, scheme->bits, "bits", n->bits);
  if (strcmp(n->strategy, "block") == 0)
    base_text_addf(&text, ", %s [%lld, %lld]", scheme->block, (long long)n->block_rows,
                   (long long)n->block_columns);
  else if (strstr(n->strategy, "group"))
    add_number(&text, scheme->group_size, "group_size", n->group_size);
  else base_text_addf(&text, ", strategy '%.20s'", n->strategy);
  base_text_addf(&text, "%s is no weight format; those are", n->symmetric ? "" : ", not symmetric");
  const char *before = " ";
  for (int f = MOECL_FORMAT_DTYPE + 1; f < MOECL_FORMAT_COUNT; f++)
    if (desc_is_quantized(&desc_formats[f])) {
      base_text_addf(&text, "%s%s", before, desc_formats[f].name);
      before = ", ";
    }
  r->refused.failed = r->refused.failed || text.failed;
  const moecl_status status = refuse(r, "%s", text.failed ? "" : text.data);
  base_text_free(&text);
  return status;
}

/* What the format's codes are called in files; NULL where the scheme has other codes. */
const char *model_code_types(const model_scheme *scheme, const desc_format *format) {
  const char *bytes = format->element == ELEMENT_E4M3   ? "F8_E4M3"
                      : format->element == ELEMENT_INT8 ? "I8"
                                                        : NULL;
  const bool words = strcmp(scheme->code_types, "I32") == 0;
  if (!bytes || (words && format->element == ELEMENT_INT8)) return scheme->code_types;
  return strstr(scheme->code_types, bytes) ? bytes : NULL;
}

/* Are codes and scales of the format where the scheme has them? */
static bool has_parts(const model_scheme *scheme, const desc_format *format) {
  const bool two_scales = format->matrix_scale && format->scale != ELEMENT_NONE;
  return two_scales == (scheme->matrix_scale != NULL) && model_code_types(scheme, format);
}

static moecl_status find_format(reading *r, const model_scheme *scheme, moecl_format *format) {
  numbers n = {0};
  char type[32], strategy[32];
  MOECL_TRY(read_numbers(r, scheme, &n, type, strategy));
  if (scheme->offset_binary && strcmp(n.type, "int") != 0) return no_format(r, scheme, &n);
  for (int f = MOECL_FORMAT_DTYPE + 1; f < MOECL_FORMAT_COUNT; f++)
    if (is_format(&desc_formats[f], &n) && has_parts(scheme, &desc_formats[f])) {
      *format = (moecl_format)f;
      return MOECL_OK;
    }
  return no_format(r, scheme, &n);
}

/* ---- reading ---- */

static moecl_status check_expected(reading *r, const char *expected) {
  const size_t size = expected ? strcspn(expected, "=") : 0;
  json_t *value = expected ? find_around(r, expected, size) : NULL;
  const char *text = json_string_value(value);
  const size_t length = expected ? strlen(expected + size + 1) : 0;
  if (!value ||
      (text && strlen(text) == length && base_same_letters(text, expected + size + 1, length)))
    return MOECL_OK;
  return refuse(r, "%.*s is '%.100s', expected '%s'", (int)size, expected, text ? text : "no text",
                expected + size + 1);
}

static moecl_status check_refused(reading *r) {
  for (size_t i = 0; i < BASE_COUNT(refused_keys); i++) {
    json_t *value = json_object_get(r->root, refused_keys[i]);
    const char *kind = json_string_value(json_object_get(value, "format"));
    const bool is_nothing = !value || json_is_null(value) || json_is_false(value) ||
                            (json_is_object(value) && json_object_size(value) == 0) ||
                            (kind && strcmp(kind, "dense") == 0);
    if (!is_nothing)
      return refuse(r, "'%s' asks for what is not known of quantized weights, expected none",
                    refused_keys[i]);
  }
  return MOECL_OK;
}

static void look_at_activations(const reading *r, model_quantization *q) {
  static const char *const keys[] = {"input_activations", "activation_scheme"};
  for (size_t i = 0; i < BASE_COUNT(keys); i++) {
    json_t *value = find_around(r, keys[i], strlen(keys[i]));
    if (value && !q->activations) q->activations = keys[i];
  }
}

/* One set of numbers, of all modules or of a group's. */
static moecl_status read_group(reading *r, model_quantization *q) {
  model_quantized_group *group = &q->groups[q->num_groups];
  if (q->num_groups == MODEL_MAX_GROUPS)
    return refuse(r, "has more than %d config_groups", (int)MODEL_MAX_GROUPS);
  json_t *weights = r->group ? json_object_get(r->group, "weights") : r->root;
  if (r->group && !json_is_object(weights)) return MOECL_OK; /* of activations alone */
  r->config.root = weights;
  *group =
      (model_quantized_group){.targets = r->group ? json_object_get(r->group, "targets") : NULL};
  MOECL_TRY(choose_scheme(r, &group->scheme));
  MOECL_TRY(check_expected(r, group->scheme->expected));
  MOECL_TRY(find_format(r, group->scheme, &group->format));
  look_at_activations(r, q);
  q->num_groups++;
  return MOECL_OK;
}

static moecl_status read_all(reading *r, model_quantization *q) {
  const char *name;
  json_t *group, *groups = json_object_get(r->root, "config_groups");
  MOECL_TRY(check_refused(r));
  /* Other methods may have such a key for others to read. */
  if (!json_is_object(groups) || strcmp(r->method, "compressed-tensors") != 0)
    return read_group(r, q);
  json_object_foreach(groups, name, group) {
    r->group = group;
    MOECL_TRY(read_group(r, q));
  }
  return q->num_groups > 0 ? MOECL_OK : refuse(r, "config_groups has no group with weights");
}

/* Older files of compressed-tensors call it otherwise. */
static json_t *find_config(json_t *root) {
  static const char *const names[] = {"quantization_config", "compression_config"};
  for (size_t i = 0; i < BASE_COUNT(names); i++) {
    json_t *found = json_object_get(root, names[i]);
    if (found && !json_is_null(found)) return found;
  }
  return NULL;
}

moecl_status model_quantization_read(const moecl_log *log, const char *path, json_t *root,
                                     json_t *section, model_quantization *q) {
  *q = (model_quantization){0};
  json_t *found = find_config(root);
  if (!found) found = find_config(section);
  if (!found) return MOECL_OK;
  reading r = {.root = found, .method = json_string_value(json_object_get(found, "quant_method"))};
  const moecl_log to_text = {.fn = keep, .user = &r.refused};
  r.config = (model_config){.log = &to_text, .path = path, .root = found, .family = r.method};
  q->method = r.method ? r.method : "no method named";
  const moecl_status status = !json_is_object(found) || !r.method
                                  ? refuse(&r, "has no text 'quant_method'")
                                  : read_all(&r, q);
  if (status == MOECL_OK) return MOECL_OK;
  q->num_groups = 0;
  if (!r.refused.failed && r.refused.data) {
    q->refused = r.refused.data;
    return MOECL_OK;
  }
  base_text_free(&r.refused);
  return log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

void model_quantization_free(model_quantization *q) {
  free(q->refused);
  *q = (model_quantization){0};
}

/* ---- targets ---- */

bool model_group_has(const model_quantized_group *group, const char *name, bool *known) {
  size_t i;
  json_t *target;
  *known = true;
  if (!group->targets) return true;
  json_array_foreach(group->targets, i, target) {
    const char *text = json_string_value(target);
    if (!text) continue;
    if (strcmp(text, name) == 0 || strcmp(text, "Linear") == 0) return true;
    if (strncmp(text, "re:", 3) != 0) continue;
    const name_match match = name_match_expression(text + 3, name);
    if (match == NAME_MATCHES) return true;
    *known = *known && match != NAME_UNKNOWN;
  }
  return false;
}

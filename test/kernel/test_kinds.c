// SPDX-License-Identifier: MIT
/* The table of all operations: every one is found by its name, and checks itself on every
 * variant that serves this device, of descriptions that differ in all that decides a program.
 * An operation without a description here fails the test. */
#include "../unit/unit.h"
#include "base/base.h"
#include "op/attention/attention.h"
#include "op/combine/combine.h"
#include "op/dispatch/dispatch.h"
#include "op/encode/encode.h"
#include "op/gate/gate.h"
#include "op/gemm/gemm.h"
#include "op/norm/norm.h"
#include "op/permute/permute.h"
#include "op/permute/rounds.h"
#include "op/permute/scale.h"
#include "op/quantize/quantize.h"
#include "op/random/random.h"
#include "op/rotary/rotary.h"
#include "op/route/route.h"
#include "op/router/prepare.h"
#include "op/router/router.h"

static moecl_context *context;
static test_log messages;

/* ---- descriptions ---- */

/* Room for any operation's description, and for what is made of it. */
typedef union description {
  op_prepare_desc prepare;
  op_noise_desc noise;
  desc_rule router;
  op_route_desc route;
  desc_dispatch permute;
  op_scale_desc scale;
  op_rounds_desc rounds;
  op_gemm_desc gemm;
  op_gate_desc gate;
  op_combine_desc combine;
  op_norm_desc norm;
  op_rotary_desc rotary;
  op_attention_desc attention;
  op_quantize_desc quantize;
  op_encode_desc encode;
  op_random_desc random;
  op_dispatch_desc dispatch;
  op_rows_desc gather_rows;
  op_pack_desc pack_rows;
} description;

typedef union operation {
  op_prepare prepare;
  op_noise noise;
  op_router router;
  op_route route;
  op_permute permute;
  op_scale scale;
  op_rounds rounds;
  op_gemm *gemm;
  op_gate gate;
  op_combine combine;
  op_norm norm;
  op_rotary rotary;
  op_attention attention;
  op_quantize quantize;
  op_encode encode;
  op_random random;
  op_dispatch dispatch;
  op_rows gather_rows;
  op_copies copy_words;
  op_pack pack_rows;
} operation;

/* Each makes the i-th description of numbers of a format, rows among them of `rows`; false:
 * there are no more. */
typedef bool (*describe_fn)(int i, const desc_format *format, const desc_format *rows,
                            description *d);

static bool describe_prepare(int i, const desc_format *format, const desc_format *rows,
                             description *d) {
  (void)rows;
  d->prepare = (op_prepare_desc){.hidden_size = 64, .input = format, .jitter = i ? 0.125f : 0};
  return i < 2;
}

static bool describe_noise(int i, const desc_format *format, const desc_format *rows,
                           description *d) {
  (void)format, (void)rows;
  d->noise = (op_noise_desc){.num_experts = 8};
  return i < 1;
}

static bool describe_router(int i, const desc_format *format, const desc_format *rows,
                            description *d) {
  (void)format, (void)rows;
  d->router = (desc_rule){.num_experts = i == 3 ? 300 : 64,
                          .top_k = 4,
                          .scoring = i == 1 ? MOECL_SCORING_SIGMOID : MOECL_SCORING_SOFTMAX,
                          .sparsemixer_jitter = 0.01f,
                          .renormalize = i % 2,
                          .routed_scaling_factor = 1,
                          .score_correction_bias = i == 1,
                          .num_expert_group = i == 2 ? 8 : 0,
                          .topk_group = i == 2 ? 4 : 0};
  return i < 4;
}

static bool describe_route(int i, const desc_format *format, const desc_format *rows,
                           description *d) {
  description rule;
  const bool more = describe_router(i, format, rows, &rule);
  d->route =
      (op_route_desc){.rule = rule.router, .hidden_size = 64, .stored = format, .bias = i == 1};
  return more;
}

static bool describe_permute(int i, const desc_format *format, const desc_format *rows,
                             description *d) {
  (void)format, (void)rows;
  d->permute = (desc_dispatch){.num_experts = 8,
                               .top_k = 2,
                               .capacity_factor = i > 0 ? 1 : 0,
                               .drop_policy = i == 2   ? MOECL_DROP_PRIORITIZED
                                              : i == 3 ? MOECL_DROP_PROBABILITY
                                                       : MOECL_DROP_POSITION,
                               .renormalize_after_capacity = i == 3,
                               .routed_scaling_factor = 1.5f,
                               .counted = i == 0};
  return i < 4;
}

static bool describe_scale(int i, const desc_format *format, const desc_format *rows,
                           description *d) {
  d->scale = (op_scale_desc){.hidden_size = i < 2 ? 64 : 65,
                             .top_k = 2,
                             .rows = i % 2 ? desc_format_of(MOECL_F32) : rows,
                             .rounded = format};
  return i < 4;
}

static bool describe_gemm(int i, const desc_format *format, const desc_format *rows,
                          description *d) {
  static const moecl_format scaled[] = {MOECL_FORMAT_INT8,         MOECL_FORMAT_INT4_G32,
                                        MOECL_FORMAT_INT4_G128_ZP, MOECL_FORMAT_MXFP4,
                                        MOECL_FORMAT_NVFP4,        MOECL_FORMAT_FP8_BLOCK};
  /* Rows of codes beside weights of codes, or of plain elements. */
  static const moecl_format coded[][2] = {{MOECL_FORMAT_INT8, MOECL_FORMAT_INT8},
                                          {MOECL_FORMAT_INT8_G128, MOECL_FORMAT_INT8_G128},
                                          {MOECL_FORMAT_FP8, MOECL_FORMAT_FP8_ROW},
                                          {MOECL_FORMAT_FP8_BLOCK, MOECL_FORMAT_FP8_G128},
                                          {MOECL_FORMAT_DTYPE, MOECL_FORMAT_FP8_G128}};
  const int plain = 2, end = plain + (int)BASE_COUNT(scaled), all = end + (int)BASE_COUNT(coded);
  const moecl_format *pair = i < end ? NULL : coded[(size_t)(i - end) % BASE_COUNT(coded)];
  d->gemm =
      (op_gemm_desc){.num_experts = 2,
                     .n = 16,
                     .k = 8,
                     .weights = i >= plain && i < end ? &desc_formats[scaled[i - plain]] : format,
                     .biases = format,
                     .input = i % 2 ? desc_format_of(MOECL_F32) : rows,
                     .output = i % 2 ? desc_format_of(MOECL_F32) : rows,
                     .epilogue = i % 2 ? ACTIVATION_NONE : ACTIVATION_SILU,
                     .gated = i % 2 == 0,
                     .gather = i % 2 == 0,
                     .bias = i % 2 == 1};
  if (pair) {
    if (pair[0] != MOECL_FORMAT_DTYPE) d->gemm.weights = &desc_formats[pair[0]];
    d->gemm.input = &desc_formats[pair[1]];
  }
  if (i >= all) { /* rows that are scattered, of both formats */
    d->gemm = (op_gemm_desc){.num_experts = 2, .n = 16, .k = 8, .bias = i > all, .scatter = true};
    d->gemm.weights = d->gemm.biases = format;
    d->gemm.input = rows;
    d->gemm.output = i > all ? desc_format_of(MOECL_F32) : rows;
  }
  return i < all + 2;
}

static bool describe_gate(int i, const desc_format *format, const desc_format *rows,
                          description *d) {
  (void)rows;
  d->gate = (op_gate_desc){.hidden_size = 64, .format = format, .gated = i, .factor = -2.5f};
  return i < 2;
}

static bool describe_combine(int i, const desc_format *format, const desc_format *rows,
                             description *d) {
  (void)rows;
  d->combine = (op_combine_desc){.hidden_size = 64,
                                 .top_k = 2,
                                 .input = i == 1 ? desc_format_of(MOECL_F32) : format,
                                 .output = format,
                                 .weighted = i != 1,
                                 .shared = i > 0,
                                 .shared_gate = i == 2,
                                 .first_identity = i == 3 ? 4 : 0};
  return i < 4;
}

static bool describe_norm(int i, const desc_format *format, const desc_format *rows,
                          description *d) {
  (void)rows;
  const desc_format *f32 = desc_format_of(MOECL_F32);
  d->norm = (op_norm_desc){.norm = {.kind = i == 1 ? MOECL_NORM_LAYER : MOECL_NORM_RMS,
                                    .size = 64,
                                    .epsilon = 1e-6,
                                    .plus_one = i == 2,
                                    .bias = i == 1},
                           .stored = format,
                           .residual = i == 0   ? NULL
                                       : i == 1 ? format
                                                : f32,
                           .output = i == 2   ? NULL
                                     : i == 1 ? f32
                                              : format};
  return i < 3;
}

static bool describe_rotary(int i, const desc_format *format, const desc_format *rows,
                            description *d) {
  (void)rows;
  d->rotary = (op_rotary_desc){
      .attention = {.num_heads = 8,
                    .num_kv_heads = 2,
                    .head_dim = 24,
                    .qk_norm = (moecl_qk_norm)i,
                    .qk_norm_epsilon = 1e-6,
                    .qk_norm_plus_one = i == 1,
                    .clip = i == 2 ? 8 : 0,
                    .rotary = {.dim = i == 2 ? 24 : 8, .theta = 1e4, .interleaved = i == 1}},
      .layout = {i == 1 ? 1 : 16, i == 1 ? 24 : 32},
      .cache = format,
      .rows = i == 0 ? format : desc_format_of(MOECL_F32)};
  return i < 3;
}

static bool describe_attention(int i, const desc_format *format, const desc_format *rows,
                               description *d) {
  if (i > 0) rows = desc_format_of(MOECL_F32);
  d->attention = (op_attention_desc){.attention = {.num_heads = 8,
                                                   .num_kv_heads = i == 0 ? 8 : 2,
                                                   .head_dim = i == 1 ? 24 : 64,
                                                   .causal = i != 1 && i != 3,
                                                   .window = i == 2 ? 100 : 0,
                                                   .scale = 0.125,
                                                   .sinks = i == 2,
                                                   .relative = {i == 3 ? 32 : 0, i == 3 ? 128 : 0}},
                                     .cache = format,
                                     .rows = rows,
                                     .output = rows};
  return i < 4;
}

/* Each format of codes: as they are, as fp32, as the rows'. */
static bool describe_quantize(int i, const desc_format *format, const desc_format *rows,
                              description *d) {
  static const moecl_format codes[] = {MOECL_FORMAT_INT8, MOECL_FORMAT_INT8_G128,
                                       MOECL_FORMAT_FP8_ROW, MOECL_FORMAT_FP8_G128};
  const int outputs = 3, end = outputs * (int)BASE_COUNT(codes);
  const desc_format *of = &desc_formats[codes[i < end ? i / outputs : 0]];
  (void)format;
  d->quantize = (op_quantize_desc){.columns = 64,
                                   .rows = rows,
                                   .codes = of,
                                   .output = i % outputs == 0   ? of
                                             : i % outputs == 1 ? desc_format_of(MOECL_F32)
                                                                : rows};
  return i < end;
}

/* Each kind of block, one of them searched: test_encode.c has all formats. */
static bool describe_encode(int i, const desc_format *format, const desc_format *rows,
                            description *d) {
  static const moecl_format codes[] = {MOECL_FORMAT_INT8, MOECL_FORMAT_INT4_G32_ZP,
                                       MOECL_FORMAT_NVFP4, MOECL_FORMAT_FP8,
                                       MOECL_FORMAT_FP8_BLOCK};
  const int end = (int)BASE_COUNT(codes);
  (void)rows;
  d->encode = (op_encode_desc){.numbers = format,
                               .codes = &desc_formats[codes[i < end ? i : 0]],
                               .search = i == 3 ? MOECL_SCALE_SEARCH_MSE : MOECL_SCALE_SEARCH_NONE};
  return i < end;
}

static bool describe_random(int i, const desc_format *format, const desc_format *rows,
                            description *d) {
  (void)rows;
  d->random = (op_random_desc){.format = format,
                               .draws = i,
                               .scale = 1,
                               .hidden_size = 8,
                               .num_clusters = 2,
                               .exponent = 1,
                               .noise = 0.5f};
  return i <= DRAWS_SKEWED;
}

static bool describe_dispatch(int i, const desc_format *format, const desc_format *rows,
                              description *d) {
  (void)format, (void)rows;
  d->dispatch = (op_dispatch_desc){
      .num_experts = 8, .top_k = 2, .members = 2, .own = 4, .weighted = i == 1, .placed = i == 2};
  return i < 3;
}

/* Each unit that rows are made of. */
static bool describe_rows(int i, const desc_format *format, const desc_format *rows,
                          description *d) {
  (void)format, (void)rows;
  d->gather_rows = (op_rows_desc){.row_bytes = 48u << 1 >> i};
  return i < 6;
}

/* There is nothing to describe. */
static bool describe_copies(int i, const desc_format *format, const desc_format *rows,
                            description *d) {
  (void)format, (void)rows, (void)d;
  return i < 1;
}

static bool describe_pack(int i, const desc_format *format, const desc_format *rows,
                          description *d) {
  (void)format;
  d->pack_rows = (op_pack_desc){100, rows, &desc_formats[MOECL_FORMAT_FP8_G128]};
  return i < 1;
}

static bool describe_rounds(int i, const desc_format *format, const desc_format *rows,
                            description *d) {
  (void)format, (void)rows;
  d->rounds = (op_rounds_desc){.num_experts = 8, .places = 3, .top_k = 2};
  return i < 1;
}

static const struct {
  const char *name;
  describe_fn describe;
} descriptions[] = {{"prepare", describe_prepare},   {"noise", describe_noise},
                    {"router", describe_router},     {"route", describe_route},
                    {"permute", describe_permute},   {"scale_rows", describe_scale},
                    {"grouped_gemm", describe_gemm}, {"gate", describe_gate},
                    {"combine", describe_combine},   {"norm", describe_norm},
                    {"rotary", describe_rotary},     {"attention", describe_attention},
                    {"quantize", describe_quantize}, {"encode", describe_encode},
                    {"random", describe_random},     {"dispatch", describe_dispatch},
                    {"gather_rows", describe_rows},  {"copy_words", describe_copies},
                    {"pack_rows", describe_pack},    {"rounds", describe_rounds}};

static describe_fn describe_of(const op_kind *kind) {
  for (size_t i = 0; i < BASE_COUNT(descriptions); i++)
    if (strcmp(descriptions[i].name, kind->table->operation) == 0) return descriptions[i].describe;
  fail_msg("%s has no description in this test", kind->table->operation);
  return NULL;
}

/* ---- the walk ---- */

/* What one variant makes of one description: the check passes, and is not run again for
 * the operation itself, which holds as many bytes as it was described to. */
static void check_one(const op_kind *kind, const kernel_variant *variant, const description *d) {
  operation made, described;
  assert_true(kind->size <= sizeof made);
  const moecl_status status = kind->self_check(context, variant, d);
  if (status != MOECL_OK)
    fail_msg("%s variant '%s': %s\n%s", kind->table->operation, variant->name,
             moecl_status_string(status), messages.text.data ? messages.text.data : "");
  base_text_free(&messages.text);
  assert_ok(op_create(kind, context, variant, d, &made));
  assert_int_equal(test_log_count(&messages, "passes its self-check"), 0);
  assert_ok(kind->describe(context, variant, d, &described));
  if (kind->bytes) assert_true(kind->bytes(&made) == kind->bytes(&described));
  kind->release(&made);
  kind->release(&described);
}

/* Some variants want dedicated local memory for speed; any device can check what they
 * compute. Those that nobody could ask for here are left out. */
static bool serves_here(const kernel_variant *variant, moecl_dtype dtype) {
  const uint32_t capabilities = context->info.capabilities | MOECL_CAP_LOCAL_MEMORY;
  return kernel_variant_serves(variant, desc_format_of(dtype), capabilities) &&
         kernel_variant_fits(variant, &context->info);
}

/* The problem, and the format of its weights? Of those with scales each beside one data type. */
static bool takes(const op_kind *kind, const kernel_variant *variant, moecl_dtype dtype,
                  const description *d) {
  if (kind != &op_gemm_kind) return kernel_variant_accepts(variant, d);
  if (!op_gemm_takes(variant, &d->gemm)) return false;
  const desc_format *weights = d->gemm.weights;
  const size_t number = (size_t)(weights - desc_formats);
  return kernel_variant_takes(variant, weights) &&
         (!desc_is_quantized(weights) || number % MOECL_DTYPE_COUNT == (size_t)dtype);
}

/* A row's checks of all descriptions with numbers of a format; returns how many. */
static size_t check_row(const op_kind *kind, const kernel_variant *variant, moecl_dtype dtype) {
  const bool f32 = variant->traits & KERNEL_F32_ACTIVATIONS;
  const desc_format *format = desc_format_of(dtype);
  const desc_format *rows = f32 ? desc_format_of(MOECL_F32) : format;
  const describe_fn describe = describe_of(kind);
  description d;
  size_t checked = 0;
  memset(&d, 0, sizeof d);
  for (int i = 0; serves_here(variant, dtype) && describe(i, format, rows, &d); i++) {
    if (!takes(kind, variant, dtype, &d)) continue;
    check_one(kind, variant, &d);
    checked++;
  }
  return checked;
}

static void test_self_checks(void **state) {
  (void)state;
  for (const op_kind *const *kind = op_kinds; *kind; kind++) {
    const kernel_table *table = (*kind)->table;
    size_t checked = 0;
    for (size_t v = 0; v < table->count; v++)
      for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++)
        checked += check_row(*kind, &table->rows[v], (moecl_dtype)dtype);
    if (checked == 0) fail_msg("no variant of %s serves here", table->operation);
  }
}

/* Names are different, and every row says all that has to be there. */
static void test_rows(void **state) {
  operation zeros;
  (void)state;
  for (const op_kind *const *kind = op_kinds; *kind; kind++) {
    const op_kind *row = *kind;
    assert_ptr_equal(op_find(row->table->operation), row);
    assert_true(row->table->count > 0);
    assert_true(row->describe && row->create && row->self_check && row->release);
    memset(&zeros, 0, sizeof zeros);
    if (row->bytes) assert_true(row->bytes(&zeros) == 0);
    row->release(&zeros);
  }
  assert_null(op_find("nonsense"));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows),
                                     cmocka_unit_test(test_self_checks)};
  skip_without_device();
  messages.level = MOECL_LOG_DEBUG;
  const moecl_context_params params = {.log = test_log_add, .log_user = &messages};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("kinds", tests, NULL, NULL);
  moecl_context_destroy(&context);
  base_text_free(&messages.text);
  return failed ? 1 : 0;
}

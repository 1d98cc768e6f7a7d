// SPDX-License-Identifier: MIT
/* Which variant serves where others fail: kernels are spoilt in a copy of cl/,
 * and the layer that is created with them tells what it made of that. */
#include "kernel/choose.h"
#include "op/combine/combine.h"
#include "op/quantize/quantize.h"
#include "op/route/route.h"
#include "op/router/router.h"
#include "spoilt_layer.h"

/* ---- a better variant fails, the next one serves ---- */

typedef struct fallback {
  const char *file, *from, *to;
  const char *gemm, *router; /* what then serves */
  const char *message;
} fallback;

#define CPU_GEMM "grouped_gemm/cpu.cl"
#define WRONG_SIZE "reqd_work_group_size(2, 1, 1)"
#define RIGHT_SIZE "reqd_work_group_size(1, 1, 1)"
static const fallback fallbacks[] = {
    {CPU_GEMM, "activate_gated(low, high)", "activate_gated(high, low)", "generic", "cpu",
     "'cpu' fails its self-check"},
    {CPU_GEMM, "typedef", "no type", "generic", "cpu", "cpu.cl did not compile"},
    {CPU_GEMM, RIGHT_SIZE, WRONG_SIZE, "generic", "cpu", "clEnqueueNDRangeKernel failed"},
    {CPU_GEMM, "gemm(const __global float *a,", "gemm(int more, const __global float *a,",
     "generic", "cpu", "clSetKernelArg failed"},
    /* Only the logits': not the router's fault, and the experts keep theirs. */
    {CPU_GEMM, "#ifndef VECTOR_WIDTH",
     "#if BIAS && !GATHER\n#error no logits\n#endif\n#ifndef VECTOR_WIDTH", "cpu", "cpu",
     "grouped_gemm variant 'cpu' is set aside"},
    {"router/choose_token.clh", "best[at - 1] < x", "best[at - 1] <= x", "cpu", "generic",
     "router variant 'cpu' fails its self-check"},
    {"router/choose_token.clh", "best_id[k];", "best_id[k]", "cpu", "generic",
     "router/cpu.cl did not compile"},
    {"router/cpu.cl", RIGHT_SIZE, WRONG_SIZE, "cpu", "generic",
     "router variant 'cpu' is set aside"},
};

/* What serves in a context, the first time and when it was found out before. */
static void check_served(moecl_context *context, test_log *log, const fallback *f) {
  moecl_layer *layer = NULL;
  const char *reason;
  base_text_free(&log->text);
  assert_ok(moecl_layer_create(context, &params, &layer));
  assert_string_equal(moecl_layer_variant(layer, "grouped_gemm", &reason), f->gemm);
  assert_int_equal(strstr(reason, "better ones") != NULL, strcmp(f->gemm, "cpu") != 0);
  assert_string_equal(moecl_layer_variant(layer, "router", &reason), f->router);
  assert_int_equal(strstr(reason, "better ones") != NULL, strcmp(f->router, "cpu") != 0);
  assert_true(test_log_has(log, f->message));
  assert_int_equal(test_log_count(log, "is set aside"), 1);
  assert_int_equal(errors(log), 0);
  assert_int_equal(moecl_context_take_errors(context, NULL, 0), 0);
  moecl_layer_destroy(&layer);
}

static void check_fallback(const fallback *f) {
  test_log log = {0};
  spoil(f->file, f->from, f->to);
  moecl_context *context = open_context(&log);
  check_served(context, &log, f);
  check_served(context, &log, f);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

static void test_fallback(void **state) {
  (void)state;
  if (!has_capability(MOECL_CAP_CPU)) {
    printf("SKIP: no device on which another variant comes before the generic one\n");
    skip();
  }
  for (size_t i = 0; i < sizeof fallbacks / sizeof fallbacks[0]; i++) check_fallback(&fallbacks[i]);
}

/* ---- the only one fails ---- */

/* Where single work-items are all there is, nothing comes behind them. */
static void test_failure(void **state) {
  moecl_layer_params with = params;
  const char *const combine = "combine variant 'serial' fails its self-check";
  const char *const permute = "permute variant 'serial' fails its self-check";
  (void)state;
  check_failure(true, "combine/generic.cl", "fma(weight,", "fma(-weight,", &with, MOECL_ERROR_BUILD,
                combine);
  check_failure(true, "combine/generic.cl", "reqd_work_group_size(LOCAL, 1, 1)", WRONG_SIZE, &with,
                MOECL_ERROR_BUILD, "kernel combine needs work-groups of 2, here are 1");
  with.shared_intermediate_size = 24;
  check_failure(true, "combine/generic.cl", ", input_load(shared, at)", ", -input_load(shared, at)",
                &with, MOECL_ERROR_BUILD, combine);
  with.shared_gate = true;
  check_failure(true, "combine/generic.cl", "? shared_gate[token]", "? shared_gate[0]", &with,
                MOECL_ERROR_BUILD, combine);
  with.shared_gate = false, with.shared_intermediate_size = 0;
  with.weight_on_input = true;
  check_failure(true, "combine/generic.cl", " : 1.0f;", " : 2.0f;", &with, MOECL_ERROR_BUILD,
                combine);
  with.weight_on_input = false;
  with.num_identity_experts = 1;
  check_failure(true, "combine/generic.cl", "identity += weight", "identity = weight", &with,
                MOECL_ERROR_BUILD, combine);
  check_failure(true, "combine/generic.cl", "slot >= first_without_row", "slot > first_without_row",
                &with, MOECL_ERROR_BUILD, combine);
  check_failure(true, "combine/generic.cl", "fma(identity,", "fma(-identity,", &with,
                MOECL_ERROR_BUILD, combine);
  with.num_identity_experts = 0;
  check_failure(true, "permute/serial.cl", "counts[e]++;\n#if", "++counts[e];\n#if", &with,
                MOECL_ERROR_BUILD, permute);
  with.capacity_factor = 1;
  check_failure(true, "permute/serial.cl", "slot < expert_offsets[e + 1]",
                "slot <= expert_offsets[e + 1]", &with, MOECL_ERROR_BUILD, permute);
  check_failure(true, "permute/serial.cl", "&& e < limited", "", &with, MOECL_ERROR_BUILD, permute);
  check_failure(true, "permute/serial.cl", "e < limited", "e < limited - 1", &with,
                MOECL_ERROR_BUILD, permute);
  check_failure(true, "permute/order.clh", "* top_k + k;", "* top_k + top_k - 1 - k;", &with,
                MOECL_ERROR_BUILD, permute);
  with.drop_policy = MOECL_DROP_PROBABILITY;
  check_failure(true, "permute/serial.cl", "ties-- > 0", "ties-- >= 0", &with, MOECL_ERROR_BUILD,
                permute);
  with.drop_policy = MOECL_DROP_PRIORITIZED;
  check_failure(true, "permute/priority.cl", "1.0f / sums[0]", "2.0f / sums[0] - sums[0]", &with,
                MOECL_ERROR_BUILD, permute);
  check_failure(true, "permute/serial.cl", "choice < last ||", "", &with, MOECL_ERROR_BUILD,
                permute);
  with.renormalize_after_capacity = true;
  check_failure(true, "permute/kept_weights.cl", "/ sum * SCALE", "* SCALE", &with,
                MOECL_ERROR_BUILD, permute);
}

/* ---- operations of one kernel ---- */

/* In a layer of bf16 whose experts take fp32 there is one of each; `serial` does on any device. */
static const moecl_layer_params with_all = {.dtype = MOECL_BF16,
                                            .grouped_gemm_variant = "serial",
                                            .hidden_size = 40,
                                            .intermediate_size = 24,
                                            .num_experts = 6,
                                            .top_k = 2,
                                            .jitter = 0.125f,
                                            .router_noise = true,
                                            .shared_intermediate_size = 24,
                                            .shared_gate = true,
                                            .weight_on_input = true};

typedef struct plant {
  const char *file, *from, *to;
  const char *operation;
  bool odd;       /* of a hidden size that is no multiple of 8 */
  bool f32;       /* of fp32 */
  bool no_gate;   /* of a shared expert with a factor instead */
  bool full_size; /* of work-groups with more than a work-item */
} plant;

static const plant plants[] = {
    /* The first of prepare is the conversion, the second the jitter. */
    {"router/prepare.cl", "#define TIMES(x, factor) (x)", "#define TIMES(x, factor) ((x) + 1.0f)",
     "prepare"},
    {"router/prepare.cl", "TIMES(storage_load(hidden_states, i)",
     "TIMES(storage_load(hidden_states, 0)", "prepare"},
    {"router/prepare.cl", "(u)-1.0f", "(u)-0.99999f", "prepare"},
    {"router/prepare.cl", "(uint)(seed >> 32));", "0u);", "prepare"},
    {"router/prepare.cl", "(uint)part * BLOCKS, jitter", "(uint)part * 3, jitter", "prepare"},
    {"router/noise.cl", "fmax(x, 0.0f)", "fmax(x, -1.0f)", "noise"},
    {"router/noise.cl", "log1p(exp(-fabs(x)))", "exp(-fabs(x))", "noise"},
    {"router/noise.cl", "draw_noise(seed, first_token + token,", "draw_noise(seed, first_token,",
     "noise"},
    {"router/draws.clh", "expert & 1 ? sinpi(turn)", "expert & 1 ? cospi(turn)", "noise"},
    {"permute/scale_rows.cl", "row_store(topk_weights[k] * x", "row_store(topk_weights[0] * x",
     "scale_rows"},
    {"permute/scale_rows.cl", "if (slot >= 0) row_store", "if (slot > 0) row_store", "scale_rows"},
    {"permute/scale_rows.cl", "(float4)(round_value(v.x)", "(float4)((v.x)", "scale_rows"},
    {"permute/scale_rows.cl", "v = round_value(v);", "", "scale_rows", .odd = true},
    {"permute/scale_rows.cl", "column >= (ulong)hidden_size", "column + 1 >= (ulong)hidden_size",
     "scale_rows", .odd = true, .f32 = true},
    {"shared/gate.cl", "exp(-part[0])", "exp(part[0])", "gate"},
    {"shared/gate.cl", "gate[token] = FACTOR", "gate[0] = FACTOR", "gate"},
    {"shared/gate.cl", "part[0]))", "min(part[0], 30.0f)))", "gate", .f32 = true},
    {"shared/gate.cl", "half_size = LOCAL / 2", "half_size = LOCAL / 4", "gate", .full_size = true},
    {"shared/gate.cl", "h += LOCAL", "h += hidden_size", "gate", .full_size = true},
    {"shared/gate.cl", "gate[get_global_id(0)] = FACTOR;",
     "gate[get_global_id(0)] = get_global_id(0) == 5 ? 1.0f : FACTOR;", "gate", .no_gate = true},
    {"permute/priority.cl", "isfinite(logits[e]) ? fmax(best, logits[e]) : INFINITY",
     "fmax(best, logits[e])", "permute"},
};

static void test_one_kernel(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof plants / sizeof plants[0]; i++) {
    const plant *p = &plants[i];
    moecl_layer_params with = with_all;
    char message[96];
    if (p->odd) with.hidden_size = 41;
    if (p->f32) with.dtype = MOECL_F32;
    if (p->no_gate) with.shared_gate = false, with.shared_scaling_factor = 2;
    if (strcmp(p->operation, "permute") == 0)
      with.capacity_factor = 1, with.drop_policy = MOECL_DROP_PRIORITIZED;
    snprintf(message, sizeof message, "%s variant '%s' fails its self-check", p->operation,
             strcmp(p->operation, "permute") == 0 ? "serial" : "generic");
    check_failure(!p->full_size, p->file, p->from, p->to, &with, MOECL_ERROR_BUILD, message);
  }
}

/* Of quantized rows the scales, the codes' steps and signs, blocks and what is not finite. A layer
 * would take one variant: each that can run here has to show the mistakes of what it is made of. */
typedef struct quantize_plant {
  moecl_format format;
  bool numbers; /* as fp32, not codes */
  const char *file, *from, *to;
} quantize_plant;

/* How many variants have it; all of them must fail. */
static size_t check_quantize_plant(const quantize_plant *plant) {
  const desc_format *codes = &desc_formats[plant->format], *f32 = desc_format_of(MOECL_F32);
  const op_quantize_desc desc = {2120, f32, codes, plant->numbers ? f32 : codes};
  const bool in_all = strcmp(plant->file, "quantize/codes.clh") == 0;
  test_log log = {0};
  size_t tried = 0;
  spoil(plant->file, plant->from, plant->to);
  moecl_context *context = open_context(&log);
  context->info.capabilities |= MOECL_CAP_LOCAL_MEMORY; /* what the GPUs' needs to be fast */
  for (size_t v = 0; v < op_quantize_table.count; v++) {
    const kernel_variant *row = &op_quantize_table.rows[v];
    op_quantize quantize;
    char message[96];
    if ((!in_all && strcmp(plant->file, row->source) != 0) ||
        (row->required & ~context->info.capabilities) || !kernel_variant_fits(row, &context->info))
      continue;
    tried++;
    snprintf(message, sizeof message, "quantize variant '%s' fails its self-check", row->name);
    if (op_create(&op_quantize_kind, context, row, &desc, &quantize) != MOECL_ERROR_BUILD ||
        !test_log_has(&log, message))
      fail_msg("%s: '%s' in place of '%s' is not seen in '%s'", plant->file, plant->to, plant->from,
               row->name);
  }
  moecl_context_destroy(&context);
  base_text_free(&log.text);
  return tried;
}

static void test_quantize(void **state) {
  static const char codes[] = "quantize/codes.clh", generic[] = "quantize/generic.cl",
                    gpu[] = "quantize/gpu.cl";
  static const quantize_plant wrong[] = {
      {MOECL_FORMAT_FP8_ROW, true, codes, "RECIPROCAL, about)", "0.0f, about)"},
      {MOECL_FORMAT_FP8_ROW, true, codes, "0x3c800000u)", "0x3c000000u)"},
      {MOECL_FORMAT_FP8_G128, true, codes, "0x01800000u", "0x02000000u"},
      {MOECL_FORMAT_INT8, true, codes, "n += ", "n += 1.0f + "},
      {MOECL_FORMAT_INT8, true, codes, "b.inverse), value)", "b.inverse), 1.0f)"},
      {MOECL_FORMAT_INT8, true, codes, "scale_of(as_float(largest))", "scale_of(1.0f)"},
      {MOECL_FORMAT_INT8, true, codes, "largest < INFINITE", "largest <= INFINITE"},
      {MOECL_FORMAT_FP8_G128, true, generic, "group % blocks", "group % 2"},
      {MOECL_FORMAT_INT8_G128, true, generic, "number * block.stored", "number * block.scale"},
      {MOECL_FORMAT_INT8_G128, true, generic, "first + BLOCK, columns)",
       "first + BLOCK - 1, columns)"},
      {MOECL_FORMAT_FP8_G128, false, generic, "[group] =", "[group % 2] ="},
      {MOECL_FORMAT_FP8_G128, false, gpu, "(size_t)first / BLOCK", "(size_t)first / BLOCK % 2"},
      {MOECL_FORMAT_FP8_G128, true, gpu, "lid / ITEMS * ITEMS + i", "lid / ITEMS % 2 * ITEMS + i"},
      {MOECL_FORMAT_INT8_G128, true, gpu, "block) * block.stored", "block) * block.scale"},
      {MOECL_FORMAT_INT8, true, gpu, "i < ITEMS / 16; i++) value", "i < 1; i++) value"},
      {MOECL_FORMAT_INT8, true, gpu, "max(largest, largest_of(", "(largest_of("}};
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(wrong); i++) assert_true(check_quantize_plant(&wrong[i]) > 0);
}

/* Of quantized weights the scales, ties, signs, what is not finite, edges and the search. */
static void test_encode(void **state) {
  static const struct {
    moecl_format format;
    const char *from, *to;
    moecl_scale_search search;
  } wrong[] = {{MOECL_FORMAT_INT8, "RECIPROCAL, about)", "0.0f, about)"},
               {MOECL_FORMAT_INT8, "magnitude > INFINITE)", "magnitude >= INFINITE)"},
               {MOECL_FORMAT_INT4_G32_ZP, "range.least = (uint)", "range.least = 0 * (uint)"},
               {MOECL_FORMAT_INT4_G128, "(odd & (above == 0.0f))", "(above == 0.0f)"},
               {MOECL_FORMAT_MXFP4, "power - 2 + 127", "power - 1 + 127"},
               {MOECL_FORMAT_NVFP4, "all.power - unit), all.part", "all.power - unit), 1.0f"},
               {MOECL_FORMAT_FP8, "select(code, (uints)(0x7f), is_nan)", "code"},
               {MOECL_FORMAT_FP8, "low ? 1 : 0", "low ? 0 : 1", MOECL_SCALE_SEARCH_MSE},
               {MOECL_FORMAT_FP8_BLOCK, "min((long)SCALE_ROWS, rows - row)", "rows - row"},
               {MOECL_FORMAT_MXFP4, "error < least", "error <= least", MOECL_SCALE_SEARCH_MSE}};
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(wrong); i++) {
    test_log log = {0};
    moecl_buffer *numbers = NULL, *codes = NULL;
    const moecl_quantize_params one = {.format = wrong[i].format,
                                       .scale_search = wrong[i].search,
                                       .matrices = 1,
                                       .rows = 1,
                                       .columns = 1};
    spoil("encode/generic.cl", wrong[i].from, wrong[i].to);
    moecl_context *context = open_context(&log);
    context->info.max_work_group_size = 1;
    assert_ok(moecl_buffer_create(context, 4, &numbers));
    assert_ok(moecl_buffer_create(context, 64, &codes));
    if (moecl_quantize(&one, numbers, 0, codes, 0) != MOECL_ERROR_BUILD ||
        !test_log_has(&log, "encode variant 'serial' fails its self-check"))
      fail_msg("'%s' in place of '%s' is not seen", wrong[i].to, wrong[i].from);
    moecl_buffer_destroy(&numbers);
    moecl_buffer_destroy(&codes);
    moecl_context_destroy(&context);
    base_text_free(&log.text);
  }
}

/* Rows of codes: whose scales, of which block, and where they are. */
static void test_coded_rows(void **state) {
  static const char *const wrong[][2] = {{"a + scales))[scale]", "a + scales))[scale + 1]"},
                                         {"+ (size_t)column / block;", ";"},
                                         {"= row / (size_t)k *", "= 0 *"},
                                         {"CODE(INPUT)(a", "1.0f + CODE(INPUT)(a"}};
  moecl_layer_params with = params;
  (void)state;
  with.weight_format = MOECL_FORMAT_INT8, with.activation_format = MOECL_FORMAT_INT8_G128;
  with.grouped_gemm_variant = "generic";
  for (size_t i = 0; i < BASE_COUNT(wrong); i++)
    check_failure(false, "grouped_gemm/generic.cl", wrong[i][0], wrong[i][1], &with,
                  MOECL_ERROR_BUILD, "grouped_gemm variant 'generic' fails its self-check");
}

/* Where the kernel that multiplies codes fails, the next one gets the numbers that they mean. */
static void test_codes_set_aside(void **state) {
  test_log log = {0};
  moecl_layer *layer = NULL;
  moecl_layer_params with = params;
  (void)state;
  with.weight_format = MOECL_FORMAT_INT8, with.activation_format = MOECL_FORMAT_INT8;
  with.shared_intermediate_size = 24;
  spoil("grouped_gemm/generic.cl", "CODE(INPUT)(a", "1.0f + CODE(INPUT)(a");
  moecl_context *context = open_context(&log);
  context->info.capabilities &= MOECL_CAP_LONG_LOOPS; /* what asks for more is no candidate */
  assert_ok(moecl_layer_create(context, &with, &layer));
  assert_string_equal(moecl_layer_variant(layer, "grouped_gemm", NULL), "serial");
  assert_true(test_log_has(&log, "grouped_gemm variant 'generic' fails its self-check"));
  assert_int_equal(errors(&log), 0);
  assert_true(desc_is_f32(layer->inputs));
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

/* Random numbers are drawn without a layer. */
static const struct {
  const char *from, *to;
  bool uniform, skewed;
} random_plants[] = {
    {"a >> 16", "a >> 15", false, false},
    {"draw_normal(d.z, d.w) * factor", "draw_normal(d.z, d.z) * factor", false, false},
    {"if (16 * i >= count) return;", "if (16 * i + 16 >= count) return;", false, false},
    {"i < (uint)count; i++)", "i <= (uint)count; i++)", false, false},
    {"y = x >> 32", "y = 0", false, false},
    {"(uint)(seed >> 32)));", "0u));", false, false},
    {"as_int8(a >> 8)", "as_int8(a >> 9)", true, false},
    {"(draw < thresholds[middle])", "(draw > thresholds[middle])", false, true},
    {"TAG_CENTRE, stream", "0, stream", false, true},
    {"clusters[t] * row_blocks", "clusters[0] * row_blocks", false, true},
};

static moecl_status fill(moecl_context *context, bool uniform, bool skewed) {
  const moecl_random_params alike = {.scale = 1,
                                     .distribution = uniform ? MOECL_UNIFORM : MOECL_NORMAL};
  const moecl_skewed_params rows = {.num_tokens = 1, .hidden_size = 4, .num_clusters = 1};
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(context, 64, &buffer));
  const moecl_status status =
      skewed ? moecl_fill_skewed(buffer, &rows) : moecl_fill_random(buffer, 0, 4, &alike);
  moecl_buffer_destroy(&buffer);
  return status;
}

/* A draw of the other kinds may be right all the same. */
static void test_random(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof random_plants / sizeof random_plants[0]; i++) {
    const bool uniform = random_plants[i].uniform, skewed = random_plants[i].skewed;
    test_log log = {0};
    spoil("random/random.cl", random_plants[i].from, random_plants[i].to);
    moecl_context *context = open_context(&log);
    for (int again = 0; again < 2; again++) {
      base_text_free(&log.text);
      assert_int_equal(fill(context, uniform, skewed), MOECL_ERROR_BUILD);
      assert_true(test_log_has(&log, "random variant 'generic' fails its self-check"));
    }
    if (skewed) assert_ok(fill(context, false, false));
    moecl_context_destroy(&context);
    base_text_free(&log.text);
  }
}

static bool is_best(const char *operation, const char *name) {
  test_log log = {0};
  moecl_layer *layer = NULL;
  spoil("permute/generic.cl", "", ""); /* sources as they are */
  moecl_context *context = open_context(&log);
  assert_ok(moecl_layer_create(context, &params, &layer));
  const bool best = strcmp(moecl_layer_variant(layer, operation, NULL), name) == 0;
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
  return best;
}

static void check_set_aside(const char *from, const char *to, const moecl_layer_params *with) {
  test_log log = {0};
  moecl_layer *layer = NULL;
  spoil("permute/generic.cl", from, to);
  moecl_context *context = open_context(&log);
  assert_ok(moecl_layer_create(context, with, &layer));
  assert_string_equal(moecl_layer_variant(layer, "permute", NULL), "serial");
  assert_true(test_log_has(&log, "permute variant 'generic' fails its self-check"));
  assert_int_equal(test_log_count(&log, "is set aside"), 1);
  assert_int_equal(errors(&log), 0);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

/* What is wrong in the portable permutation, single work-items do right. */
static void test_permute_set_aside(void **state) {
  moecl_layer_params with = params;
  (void)state;
  if (!is_best("permute", "generic")) {
    fprintf(stderr, "SKIP: another variant serves before the generic one\n");
    skip();
  }
  check_set_aside("(j < lid)", "(j > lid)", &with);
  with.capacity_factor = 1;
  check_set_aside("slot < expert_offsets[e + 1]", "slot <= expert_offsets[e + 1]", &with);
  with.drop_policy = MOECL_DROP_PROBABILITY;
  check_set_aside("tie_rank < ties", "tie_rank <= ties", &with);
  with.drop_policy = MOECL_DROP_PRIORITIZED;
  check_set_aside("choice < last ||", "", &with);
}

/* Asked for by name: an error, whoever else could serve. */
static void test_asked(void **state) {
  moecl_layer_params with = params;
  (void)state;
  with.router_variant = "generic";
  check_failure(false, "router/rule.clh", "a == b && ia < ib", "a == b && ia > ib", &with,
                MOECL_ERROR_BUILD, "router variant 'generic' fails its self-check");
  check_failure(false, "router/generic.cl", "reqd_work_group_size(LOCAL, 1, 1)", WRONG_SIZE, &with,
                MOECL_ERROR_DEVICE, "router variant 'generic' cannot serve");
  with.router_variant = NULL;
  with.grouped_gemm_variant = "generic";
  check_failure(false, "grouped_gemm/generic.cl", "activate_gated(v, u)", "activate_gated(u, v)",
                &with, MOECL_ERROR_BUILD, "grouped_gemm variant 'generic' fails its self-check");
}

/* Has the device what the variant takes? */
static bool fits_here(const kernel_table *table, const char *name) {
  moecl_context *context = NULL;
  const kernel_variant *row = table->rows;
  assert_ok(moecl_context_create(NULL, &context));
  while (strcmp(row->name, name) != 0) row++;
  const moecl_device_info *device = moecl_context_device(context);
  const bool fits =
      kernel_variant_fits(row, device) && (row->required & ~device->capabilities) == 0;
  moecl_context_destroy(&context);
  return fits;
}

/* Of a router by blocks its counts and the lists that it makes itself are looked at, too. */
static void test_by_block(void **state) {
  static const char *const wrong[][2] = {
      {"counts[block * num_experts + e] = bins[e];", "counts[block * num_experts + e] = 1;"},
      {"counts[block * num_experts + e]", "counts[e]"},
      {"start[e] = 0;", "start[e] = e == 5;"},
      {"num_tokens * top_k, top_k,", "num_tokens * top_k - 1, top_k,"}};
  moecl_layer_params with = params;
  (void)state;
  if (!fits_here(&op_router_table, "by_block")) {
    printf("SKIP: the device has too little local memory for 'by_block'\n");
    skip();
  }
  with.router_variant = "by_block";
  for (size_t i = 0; i < BASE_COUNT(wrong); i++)
    check_failure(false, "router/by_block.clh", wrong[i][0], wrong[i][1], &with, MOECL_ERROR_BUILD,
                  "router variant 'by_block' fails its self-check");
}

/* Routing in one launch is a shortcut: a layer that has not got it takes the steps. */
static void test_route_set_aside(void **state) {
  static const char *const wrong[][2] = {
      {"+ (uint)count - 1)", "+ (uint)count - 2)"}, /* the last but one */
      {"atomic_max(counter, begin);", ";"},         /* none is, from the second launch on */
      {"open_counter(arrived, begin,", "open_counter(arrived, 0,"},
      {"if (writes && lid == 0) out.", "if (lid < 0) out."},
      {"token % MASK_BITS)", "token % (MASK_BITS / 2))"},
      {"chooses ? first + tokens", "chooses ? first + tokens - 1"},
      {"t < tokens && e < experts", "t < tokens && e + 1 < experts"}};
  moecl_layer_params with = params;
  (void)state;
  if (!fits_here(&op_router_table, "by_block") || !fits_here(&op_route_table, "by_block")) skip();
  with.router_variant = "by_block";
  for (size_t i = 0; i < BASE_COUNT(wrong); i++) {
    test_log log = {0};
    moecl_layer *layer = NULL;
    spoil("route/route.clh", wrong[i][0], wrong[i][1]);
    moecl_context *context = open_context(&log);
    assert_ok(moecl_layer_create(context, &with, &layer));
    if (layer->route.variant ||
        !test_log_has(&log, "route variant 'by_block' fails its self-check") || errors(&log) > 0)
      fail_msg("'%s' in place of '%s': %s", wrong[i][1], wrong[i][0],
               log.text.data ? log.text.data : "");
    assert_int_equal(moecl_context_take_errors(context, NULL, 0), 0);
    moecl_layer_destroy(&layer);
    moecl_context_destroy(&context);
    base_text_free(&log.text);
  }
}

/* What is wrong in the last row alone, of a GEMM, of the tokens, of the lists: a
 * self-check looks at all of them. */
static void test_last_row(void **state) {
  moecl_layer_params with = params;
  (void)state;
  check_failure(true, "combine/generic.cl", "ELEMENT_STORE(OUTPUT)(sum[i],",
                "ELEMENT_STORE(OUTPUT)(token == 2 ? 1.0f : sum[i],", &with, MOECL_ERROR_BUILD,
                "combine variant 'serial' fails its self-check");
  check_failure(true, "permute/serial.cl", "slot_token[slot] = assignment / top_k;",
                "slot_token[slot] = assignment == 601 ? 0 : assignment / top_k;", &with,
                MOECL_ERROR_BUILD, "permute variant 'serial' fails its self-check");
  with.router_variant = "generic";
  check_failure(false, "router/generic.cl", "topk_weights[k] = score;",
                "topk_weights[k] = token == 8 ? 2.0f * score : score;", &with, MOECL_ERROR_BUILD,
                "router variant 'generic' fails its self-check");
  with.router_variant = NULL;
  with.grouped_gemm_variant = "generic";
  check_failure(false, "grouped_gemm/generic.cl", "output_store(v, OUTPUT_ROW(",
                "output_store(first_slot + r == 249 ? v + 1.0f : v, OUTPUT_ROW(", &with,
                MOECL_ERROR_BUILD, "grouped_gemm variant 'generic' fails its self-check");
  /* The router's logits have lists of their own. */
  check_failure(false, "grouped_gemm/ungrouped.cl", " + (rows % tile_m != 0)", "", &with,
                MOECL_ERROR_BUILD, "grouped_gemm variant 'generic' fails its self-check");
  check_failure(false, "grouped_gemm/ungrouped.cl", "expert_offsets[1] = rows",
                "expert_offsets[1] = rows - 1", &with, MOECL_ERROR_BUILD,
                "grouped_gemm variant 'generic' fails its self-check");
}

/* ---- one path for all ---- */

typedef struct trial {
  moecl_context *context;
  moecl_status first; /* the first variant's end; the others serve */
  size_t tried;
} trial;

static moecl_status try_one(void *user, const kernel_variant *variant) {
  trial *t = user;
  if (t->tried++ > 0 || t->first == MOECL_OK) return MOECL_OK;
  return log_error(&t->context->log, t->first, "the trial of '%s'", variant->name);
}

/* What sets a variant aside, and what stops the choice. */
static void test_choose(void **state) {
  static const struct {
    moecl_status first;
    size_t tried;
  } cases[] = {{MOECL_OK, 1},
               {MOECL_ERROR_BUILD, 2},
               {MOECL_ERROR_DEVICE, 2},
               {MOECL_ERROR_UNSUPPORTED, 2},
               {MOECL_ERROR_IO, 2},
               {MOECL_ERROR_OUT_OF_HOST_MEMORY, 1},
               {MOECL_ERROR_OUT_OF_DEVICE_MEMORY, 1}};
  test_log log = {.level = MOECL_LOG_DEBUG};
  const moecl_context_params with = {.log = test_log_add, .log_user = &log};
  moecl_context *context = NULL;
  (void)state;
  assert_ok(moecl_context_create(&with, &context));
  context->info.capabilities |= MOECL_CAP_CPU; /* there are two candidates then */
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    trial t = {.context = context, .first = cases[i].first};
    const kernel_choice choice = {.table = &op_router_table,
                                  .format = desc_format_of(MOECL_F32),
                                  .try_variant = try_one,
                                  .user = &t};
    const kernel_variant *chosen;
    size_t set_aside;
    const bool serves = cases[i].tried > 1 || cases[i].first == MOECL_OK;
    base_text_free(&log.text);
    assert_int_equal(kernel_choose(context, &choice, &chosen, &set_aside),
                     serves ? MOECL_OK : cases[i].first);
    assert_int_equal(t.tried, cases[i].tried);
    assert_int_equal(set_aside, cases[i].tried - 1);
    assert_int_equal(errors(&log) > 0, !serves);
    assert_int_equal(test_log_count(&log, "the trial of"), cases[i].first != MOECL_OK);
    log_write(&context->log, MOECL_LOG_ERROR, "errors are errors again");
    assert_true(test_log_has(&log, "0 errors are errors again"));
  }
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

/* ---- checked once ---- */

static size_t checks_of_a_layer(moecl_context *context, test_log *log,
                                const moecl_layer_params *with) {
  moecl_layer *layer = NULL;
  base_text_free(&log->text);
  assert_ok(moecl_layer_create(context, with, &layer));
  moecl_layer_destroy(&layer);
  return test_log_count(log, "passes its self-check");
}

static void test_checked_once(void **state) {
  moecl_layer_params with = params;
  test_log log = {0};
  (void)state;
  spoil("router/cpu.cl", "topk", "topk"); /* nothing */
  moecl_context *context = open_new_context(&log);
  /* gate/up, down, logits and their lists, router, permute, combine */
  assert_int_equal(checks_of_a_layer(context, &log, &with), 7);
  assert_int_equal(checks_of_a_layer(context, &log, &with), 0);
  with.hidden_size = 64, with.num_experts = 9; /* sizes are no part of a program */
  assert_int_equal(checks_of_a_layer(context, &log, &with), 0);
  with.renormalize = true;
  assert_int_equal(checks_of_a_layer(context, &log, &with), 1);
  with.capacity_factor = 1;
  assert_int_equal(checks_of_a_layer(context, &log, &with), 1);
  with.dtype = MOECL_BF16; /* all but router and permute, and perhaps a conversion */
  assert_in_range(checks_of_a_layer(context, &log, &with), 4, 5);
  assert_int_equal(checks_of_a_layer(context, &log, &with), 0);
  moecl_context *other = open_new_context(&log);
  assert_int_equal(checks_of_a_layer(other, &log, &params), 7);
  moecl_context_destroy(&other);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

/* usage: test_variants [test] */
int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_fallback),
                                     cmocka_unit_test(test_failure),
                                     cmocka_unit_test(test_one_kernel),
                                     cmocka_unit_test(test_random),
                                     cmocka_unit_test(test_by_block),
                                     cmocka_unit_test(test_route_set_aside),
                                     cmocka_unit_test(test_permute_set_aside),
                                     cmocka_unit_test(test_asked),
                                     cmocka_unit_test(test_last_row),
                                     cmocka_unit_test(test_choose),
                                     cmocka_unit_test(test_checked_once),
                                     cmocka_unit_test(test_quantize),
                                     cmocka_unit_test(test_encode),
                                     cmocka_unit_test(test_coded_rows),
                                     cmocka_unit_test(test_codes_set_aside)};
  skip_without_device();
  return cmocka_run_group_tests_name("variants", tests, make_root, remove_root);
}

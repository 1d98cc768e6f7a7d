// SPDX-License-Identifier: MIT
#include "ocl/program.h"
#include <stdio.h>
#include <string.h>

/* A kernel whose arguments are `buffers` buffers of 16 KiB, run once by one
 * work-group of `local`; reads `bytes` of the first back. */
static moecl_status run_probe(moecl_context *context, const char *source, const char *entry,
                              int buffers, uint32_t local, void *result, size_t bytes) {
  char defines[32];
  ocl_kernel *kernel = NULL;
  moecl_buffer *memory[2] = {0};
  ocl_chain chain = {.context = context};
  snprintf(defines, sizeof defines, "LOCAL %u\n", local);
  moecl_status status = ocl_kernel_create(context, source, defines, entry, &kernel);
  for (int i = 0; status == MOECL_OK && i < buffers; i++) {
    status = moecl_buffer_create(context, 16384, &memory[i]);
    if (status == MOECL_OK) status = ocl_kernel_arg_buffer(kernel, (uint32_t)i, memory[i]);
  }
  if (status == MOECL_OK) status = ocl_launch(&chain, kernel, 1, local);
  if (status == MOECL_OK) status = moecl_buffer_read_wait(memory[0], 0, bytes, result);
  for (int i = 0; i < buffers; i++) moecl_buffer_destroy(&memory[i]);
  ocl_kernel_destroy(&kernel);
  return status;
}

/* a/b to the nearest integer, ties to even. */
static uint32_t round_even(uint32_t a, uint32_t b) {
  uint32_t q = a / b, r = a % b;
  return q + (2 * r > b || (2 * r == b && q % 2));
}

static bool basic_works(moecl_context *context) {
  uint32_t got[64];
  if (run_probe(context, "probe/basic.cl", "basic", 2, ocl_local_size(context, 64), got,
                sizeof got) != MOECL_OK)
    return false;
  for (uint32_t i = 0; i < 64; i++) {
    uint32_t want = round_even(i, 4) | (0x3f80u + round_even(i, 2)) << 8 | 1u << 24;
    if (got[63 - i] != want) return false;
  }
  return true;
}

static bool ptx_sm80_works(moecl_context *context) {
  float got[128];
  if (run_probe(context, "probe/nvidia_sm80.cl", "ptx_sm80", 1, 32, got, sizeof got) != MOECL_OK)
    return false;
  for (int r = 0; r < 16; r++)
    for (int c = 0; c < 8; c++) {
      float want = 0;
      for (int k = 0; k < 16; k++) want += (float)((r + k % 3 - 1) * (c - 2 + k % 2));
      if (got[r * 8 + c] != want) return false;
    }
  return true;
}

static bool ptx_sm90a_works(moecl_context *context) {
  float got[64 * 16];
  if (run_probe(context, "probe/nvidia_sm90.cl", "ptx_sm90", 2, 128, got, sizeof got) != MOECL_OK)
    return false;
  for (int r = 0; r < 64; r++)
    for (int c = 0; c < 16; c++) {
      float want = 0;
      for (int k = 0; k < 64; k++) want += (float)((r % 5 + k % 3 - 2) * (c % 4 - 1 + k % 2));
      if (got[r * 16 + c] != want) return false;
    }
  return true;
}

/* A work-group's waves each multiply matrices of their own, in fp16 and in bf16. Waves that are
 * not as wide as the kernel takes them to be give another answer. */
static bool wave_matrices_work(moecl_context *context, const char *source, int waves) {
  enum { LOCAL = 256, SIDE = 16, MOST_PRODUCTS = 16 };
  float got[MOST_PRODUCTS][SIDE][SIDE];
  if (run_probe(context, source, "matrices", 1, LOCAL, got, sizeof got) != MOECL_OK) return false;
  for (int p = 0; p < 2 * waves; p++)
    for (int r = 0; r < SIDE; r++)
      for (int c = 0; c < SIDE; c++) {
        float want = 0;
        for (int k = 0; k < SIDE; k++) want += (float)((r + k % 3 - p) * (c - 2 + k % 5));
        if (got[p][r][c] != want) return false;
      }
  return true;
}

static bool mfma_works(moecl_context *context) {
  return wave_matrices_work(context, "probe/amd_mfma.cl", 4);
}

static bool wmma_works(moecl_context *context) {
  return wave_matrices_work(context, "probe/amd_wmma.cl", 8);
}

/* One sub-group of `lanes`: bf16, then fp16. */
static bool subgroup_matrix_works(moecl_context *context, uint32_t lanes) {
  enum { ROWS = 8, MOST_LANES = 16 };
  float got[2 * ROWS * MOST_LANES];
  if (run_probe(context, "probe/subgroup_matrix.cl", "subgroup_matrix", 2, lanes, got,
                sizeof got) != MOECL_OK)
    return false;
  for (uint32_t i = 0; i < 2 * ROWS * lanes; i++) {
    const int r = (int)(i / lanes % ROWS), c = (int)(i % lanes);
    float want = (float)(r - c);
    for (int k = 0; k < 16; k++) want += (float)((r + k % 3 - 1) * (c - 2 + k % 2));
    if (got[i] != want) return false;
  }
  return true;
}
static bool subgroup_matrix_8_works(moecl_context *context) {
  return subgroup_matrix_works(context, 8);
}
static bool subgroup_matrix_16_works(moecl_context *context) {
  return subgroup_matrix_works(context, 16);
}

static bool avx512_bf16_works(moecl_context *context) {
  float got[16];
  if (run_probe(context, "probe/cpu_dot.cl", "dot_bf16_pairs", 1, 1, got, sizeof got) != MOECL_OK)
    return false;
  for (int i = 0; i < 16; i++)
    if (got[i] != (float)(i + (i - 3) * (i % 5) + 2 * i * (1 - i % 3))) return false;
  return true;
}

static bool avx512_int8_works(moecl_context *context) {
  int32_t got[16];
  if (run_probe(context, "probe/cpu_dot.cl", "dot_int8_fours", 1, 1, got, sizeof got) != MOECL_OK)
    return false;
  for (int i = 0; i < 16; i++) {
    int want = i;
    for (int byte = 0; byte < 4; byte++) want += (255 - i - byte) * (i % 5 - 2 * byte);
    if (got[i] != want) return false;
  }
  return true;
}

/* What probe/cpu_amx.cl has of `depth` products. */
enum { TILE_ROWS = 11, TILE_COLUMNS = 16 };
static int tile_sum(int r, int c, int depth) {
  int sum = 0;
  for (int k = 0; k < depth; k++) sum += (r + k % 3 - 1) * (c - 2 + k % 2);
  return sum;
}

static bool amx_bf16_works(moecl_context *context) {
  float got[TILE_ROWS * TILE_COLUMNS];
  if (run_probe(context, "probe/cpu_amx.cl", "tiles_bf16", 1, 1, got, sizeof got) != MOECL_OK)
    return false;
  for (int i = 0; i < TILE_ROWS * TILE_COLUMNS; i++)
    if (got[i] != (float)tile_sum(i / TILE_COLUMNS, i % TILE_COLUMNS, 32)) return false;
  return true;
}

static bool amx_int8_works(moecl_context *context) {
  int32_t got[TILE_ROWS * TILE_COLUMNS];
  if (run_probe(context, "probe/cpu_amx.cl", "tiles_int8", 1, 1, got, sizeof got) != MOECL_OK)
    return false;
  for (int i = 0; i < TILE_ROWS * TILE_COLUMNS; i++)
    if (got[i] != tile_sum(i / TILE_COLUMNS, i % TILE_COLUMNS, 64)) return false;
  return true;
}

static bool integer_dot_works(moecl_context *context) {
  int32_t got[64];
  uint32_t state = 1;
  if (run_probe(context, "probe/integer_dot.cl", "integer_dot", 1, 1, got, sizeof got) != MOECL_OK)
    return false;
  for (int i = 0; i < 64; i++) {
    const uint32_t a = i == 0 ? 0x80808080u : state * 1664525u + 1013904223u;
    state = state * 1664525u + 1013904223u;
    const uint32_t b = i < 2 ? 0x80808080u : state * 1664525u + 1013904223u;
    state = state * 1664525u + 1013904223u;
    int32_t want = 1000 * i;
    for (int at = 0; at < 32; at += 8) want += (int8_t)(a >> at) * (int8_t)(b >> at);
    if (got[i] != want) return false;
  }
  return true;
}

/* Device and host count alike beyond 65,535 rounds. What a device left early, and is right
 * as far as it came, is the right program all the same: the cache isn't blamed. */
static bool long_loops_work(moecl_context *context) {
  enum { OUTER = 300, INNER = 1000 };
  uint32_t got[2] = {0}, want = 1, rounds = 0;
  ocl_kernel *kernel = NULL;
  moecl_buffer *out = NULL;
  ocl_chain chain = {.context = context};
  moecl_status status = ocl_kernel_create(context, "probe/loops.cl", NULL, "loops", &kernel);
  if (status == MOECL_OK) status = moecl_buffer_create(context, sizeof got, &out);
  if (status == MOECL_OK) status = ocl_kernel_args(kernel, "bii", out, OUTER, INNER);
  if (status == MOECL_OK) status = ocl_launch(&chain, kernel, 1, 1);
  if (status == MOECL_OK) status = moecl_buffer_read_wait(out, 0, sizeof got, got);
  moecl_buffer_destroy(&out);
  ocl_kernel_destroy(&kernel);
  for (; rounds < got[1] && rounds < OUTER * INNER; rounds++)
    want = want * 1664525u + (rounds / INNER ^ rounds % INNER);
  if (status != MOECL_OK || got[0] != want || rounds == 0) return false;
  context->programs->checked = true; /* the newest is the probe's */
  return got[1] == OUTER * INNER;
}

/* A probe's failure is an answer, not an error of the call. */
void ocl_log_demoted(void *user, moecl_log_level level, const char *message) {
  log_write(user, level == MOECL_LOG_ERROR ? MOECL_LOG_DEBUG : level, "%s", message);
}

/* What the disk cache had may be another program: then the one built from source
 * is asked. */
static bool works(moecl_context *context, bool (*probe)(moecl_context *)) {
  const bool right = probe(context) || (ocl_programs_distrust(context) > 0 && probe(context));
  if (right) context->programs->checked = true; /* the newest is the probe's */
  return right;
}

/* Instructions of a processor: of this machine's alone can be known that they may be tried. */
static void probe_cpu(moecl_context *context) {
  static const struct {
    uint32_t capability;
    bool (*works)(moecl_context *);
  } probes[] = {{MOECL_CAP_AVX512_BF16, avx512_bf16_works},
                {MOECL_CAP_AVX512_INT8, avx512_int8_works},
                {MOECL_CAP_AMX_BF16, amx_bf16_works},
                {MOECL_CAP_AMX_INT8, amx_int8_works}};
  const uint32_t host = ocl_host_cpu_capabilities();
  for (size_t i = 0; i < BASE_COUNT(probes); i++)
    if (host & probes[i].capability && works(context, probes[i].works))
      context->info.capabilities |= probes[i].capability;
}

static void run_all(moecl_context *context, const moecl_log *log) {
  if (!works(context, basic_works)) {
    context->info.capabilities &= ~(uint32_t)MOECL_CAP_LOCAL_MEMORY;
    log_write(log, MOECL_LOG_WARNING,
              "%s fails the basic probe (rounding, fma, local memory): expect wrong results",
              context->info.name);
  }
  if (works(context, long_loops_work)) context->info.capabilities |= MOECL_CAP_LONG_LOOPS;
  else
    log_write(log, MOECL_LOG_WARNING,
              "%s leaves long loops early (the driver's limit): results are wrong where one "
              "work-item takes more than 65,535 rounds, such as sizes beyond that or 1024 experts "
              "with top_k 64; verify what you run, or choose another device",
              context->info.name);
  /* Only compilers of this kind may see inline PTX: others can crash on it. So with the builtins
   * further down, which others need not be asked for whenever a context is made. */
  if ((ocl_device_has(context->device, "cl_nv_compiler_options") ||
       ocl_device_has(context->device, "cl_nv_device_attribute_query")) &&
      works(context, ptx_sm80_works)) {
    context->info.capabilities |= MOECL_CAP_PTX_SM80;
    if (works(context, ptx_sm90a_works)) context->info.capabilities |= MOECL_CAP_PTX_SM90A;
  }
  if (ocl_device_has(context->device, "cl_amd_device_attribute_query")) {
    if (works(context, mfma_works)) context->info.capabilities |= MOECL_CAP_MFMA;
    else if (works(context, wmma_works)) context->info.capabilities |= MOECL_CAP_WMMA;
  }
  /* Of the two sizes a device has one: the instruction in the other is undefined. */
  if (ocl_device_has(context->device, "cl_intel_subgroup_matrix_multiply_accumulate")) {
    if (ocl_least_subgroup(context->device) == 8 && works(context, subgroup_matrix_8_works))
      context->info.capabilities |= MOECL_CAP_SUBGROUP_MATRIX_8;
    if (ocl_least_subgroup(context->device) == 16 && works(context, subgroup_matrix_16_works))
      context->info.capabilities |= MOECL_CAP_SUBGROUP_MATRIX_16;
  }
  if (context->info.type == MOECL_DEVICE_CPU) probe_cpu(context);
  if (ocl_device_has(context->device, "cl_khr_integer_dot_product") &&
      works(context, integer_dot_works))
    context->info.capabilities |= MOECL_CAP_INTEGER_DOT;
  log_write(log, MOECL_LOG_DEBUG, "capabilities 0x%x", context->info.capabilities);
}

/* Probes judge the device, by the sources this library was made with: another
 * kernel_dir doesn't change the answer. */
void ocl_probe_capabilities(moecl_context *context) {
  moecl_log log = context->log;
  char *kernel_dir = context->kernel_dir;
  context->log = (moecl_log){ocl_log_demoted, &log, NULL};
  context->kernel_dir = NULL;
  run_all(context, &log);
  context->log = log;
  context->kernel_dir = kernel_dir;
}

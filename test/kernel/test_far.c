// SPDX-License-Identifier: MIT
/* Operations on more than 2^32 elements. */
#include "op/combine/combine.h"
#include "op/gemm/driver.h"
#include "ops.h"
#include <sys/mman.h>
#ifdef __GLIBC__
#include <malloc.h> /* mallopt */
#endif

/* A row so far into a matrix of `width` columns that its elements' numbers need
 * more than 32 bits, signed or not. The memory before it is never touched. */
static int32_t far_row(int64_t width) { return (int32_t)((INT64_C(1) << 32) / width + 5); }

/* A matrix of gigabytes of which little is used. */
typedef struct far_memory {
  moecl_buffer *buffer;
  char *host; /* NULL: all of it is the buffer's */
  uint64_t bytes;
} far_memory;

/* Kernels on a CPU work in the host's memory as it is: where the driver refuses
 * buffers of this size, a small one at the beginning of as much of the host's
 * serves, and what lies behind its end is read and written on the host. */
static bool host_memory(far_memory *far) {
  cl_int code;
  if (!(context->info.capabilities & MOECL_CAP_CPU)) return false;
  far->host = mmap(NULL, far->bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (far->host == MAP_FAILED) return false;
  cl_mem mem = clCreateBuffer(context->cl, CL_MEM_USE_HOST_PTR, 4096, far->host, &code);
  assert_int_equal(code, CL_SUCCESS);
  assert_ok(moecl_buffer_wrap(context, mem, &far->buffer));
  clReleaseMemObject(mem);
  return true;
}

/* Where there is no such memory, the test is skipped. */
static far_memory far_buffer(uint64_t bytes) {
  far_memory far = {.bytes = bytes};
  const moecl_status status = moecl_buffer_create(context, bytes, &far.buffer);
  if (status == MOECL_ERROR_OUT_OF_DEVICE_MEMORY && !host_memory(&far)) {
    printf("SKIP: the device does not give %llu bytes\n", (unsigned long long)bytes);
    skip();
  }
  assert_non_null(far.buffer);
  return far;
}

static void far_release(far_memory *far) {
  assert_ok(moecl_context_finish_wait(context));
  moecl_buffer_destroy(&far->buffer);
  if (far->host) assert_int_equal(munmap(far->host, far->bytes), 0);
}

static void far_write(far_memory *far, uint64_t offset, uint64_t bytes, const void *src) {
  if (far->host) memcpy(far->host + offset, src, bytes);
  else assert_ok(moecl_buffer_write_wait(far->buffer, offset, bytes, src));
}

static void far_read(far_memory *far, uint64_t offset, uint64_t bytes, void *dst) {
  assert_ok(moecl_context_finish_wait(context));
  if (far->host) memcpy(dst, far->host + offset, bytes);
  else assert_ok(moecl_buffer_read_wait(far->buffer, offset, bytes, dst));
}

/* What lies beyond 2^32 elements: input rows and output rows of the same
 * numbers; input rows alone, that are gathered; or the last expert's weights. */
typedef enum far_part { FAR_SLOTS, FAR_GATHERED, FAR_WEIGHTS } far_part;

typedef struct far_case {
  far_part part;
  int64_t experts, n, k;
  bool gated;
  moecl_dtype dtype;
} far_case;

enum { FAR_ROWS = 3 };

/* One expert is made; room for all is put in its weights' place. Only the last
 * one's are set: row c weighs 1 + c % 7, and 2 where it is an up projection. */
static far_memory set_far_weights(const far_case *c, op_gemm *gemm) {
  far_memory all = far_buffer((uint64_t)c->experts * gemm->driver->packed_bytes(gemm));
  const int64_t rows = c->gated ? 2 * c->n : c->n;
  const size_t count = (size_t)(rows * c->k);
  double *values = allocate(count * 8);
  void *raw = allocate(count * 2);
  moecl_buffer *weights = NULL;
  for (size_t i = 0; i < count; i++) {
    const int64_t row = (int64_t)i / c->k;
    values[i] = row < c->n ? (double)(1 + row % 7) : 2;
  }
  moecl_from_double(c->dtype, values, count, raw);
  assert_ok(moecl_buffer_create(context, count * 2, &weights));
  assert_ok(moecl_buffer_write_wait(weights, 0, count * 2, raw));
  moecl_buffer_destroy(&gemm->weights);
  gemm->weights = all.buffer;
  gemm->desc.num_experts = c->experts;
  assert_ok(op_gemm_set_weights(gemm, c->experts - 1, 1, weights, 0));
  moecl_buffer_destroy(&weights);
  free(values), free(raw);
  return all;
}

/* Row r, from `first` on, has r + 1 ones in its first columns, then zeros, so
 * that sums are small. */
static far_memory far_input(const far_case *c, moecl_dtype type, int32_t first) {
  const uint64_t row = (uint64_t)c->k * moecl_dtype_size(type);
  double *values = allocate((size_t)(FAR_ROWS * c->k) * 8);
  void *raw = allocate(FAR_ROWS * row);
  far_memory input = far_buffer(((uint64_t)first + FAR_ROWS) * row);
  for (int64_t i = 0; i < FAR_ROWS * c->k; i++) values[i] = i % c->k <= i / c->k;
  moecl_from_double(type, values, (size_t)(FAR_ROWS * c->k), raw);
  far_write(&input, (uint64_t)first * row, FAR_ROWS * row, raw);
  free(values), free(raw);
  return input;
}

static void check_far_output(const far_case *c, const char *variant, moecl_dtype type,
                             far_memory *output, int32_t first) {
  const uint64_t row = (uint64_t)c->n * moecl_dtype_size(type);
  double *values = allocate((size_t)(FAR_ROWS * c->n) * 8);
  void *raw = allocate(FAR_ROWS * row);
  far_read(output, (uint64_t)first * row, FAR_ROWS * row, raw);
  moecl_to_double(type, raw, (size_t)(FAR_ROWS * c->n), values);
  for (int64_t i = 0; i < FAR_ROWS * c->n; i++) {
    const int64_t slot = i / c->n, ones = c->part == FAR_GATHERED ? FAR_ROWS - slot : slot + 1;
    const int64_t want = ones * (1 + i % c->n % 7) * (c->gated ? 2 * ones : 1);
    if (values[i] == (double)want) continue;
    fprintf(stderr, "%s, E=%lld N=%lld K=%lld: element %lld is %g, expected %lld\n", variant,
            (long long)c->experts, (long long)c->n, (long long)c->k, (long long)i, values[i],
            (long long)want);
    fail();
  }
  free(values), free(raw);
}

static op_gemm_desc far_desc(const kernel_variant *variant, const far_case *c) {
  const bool f32 = variant->traits & KERNEL_F32_ACTIVATIONS;
  return (op_gemm_desc){.num_experts = 1,
                        .n = c->n,
                        .k = c->k,
                        .weights = desc_format_of(c->dtype),
                        .biases = desc_format_of(c->dtype),
                        .gated = c->gated,
                        .gather = c->part == FAR_GATHERED,
                        .input = desc_format_of(f32 ? MOECL_F32 : c->dtype),
                        .output = desc_format_of(f32 ? MOECL_F32 : c->dtype)};
}

/* Three rows, all of them the last expert's. */
static void check_far_gemm(const kernel_variant *variant, const far_case *c) {
  const op_gemm_desc desc = far_desc(variant, c);
  const moecl_dtype type = desc.input->element;
  const int32_t far = c->part == FAR_WEIGHTS ? 0 : far_row(c->n > c->k ? c->n : c->k);
  const int32_t slot = c->part == FAR_GATHERED ? 0 : far;
  const int32_t tokens[FAR_ROWS] = {far + 2, far + 1, far};
  int32_t offsets[MOECL_MAX_EXPERTS + 1], tiles[MOECL_MAX_EXPERTS + 1] = {0};
  for (int64_t e = 0; e < c->experts; e++) offsets[e] = slot;
  offsets[c->experts] = slot + FAR_ROWS;
  tiles[c->experts] = 1;
  op_gemm *gemm = NULL;
  assert_ok(op_gemm_create_unchecked(context, variant, &desc, &gemm));
  far_memory weights = set_far_weights(c, gemm), input = far_input(c, type, far);
  far_memory output =
      far_buffer(((uint64_t)slot + FAR_ROWS) * (uint64_t)c->n * moecl_dtype_size(type));
  moecl_buffer *b[] = {words(tokens, FAR_ROWS), words(offsets, (uint64_t)c->experts + 1),
                       words(tiles, (uint64_t)c->experts + 1),
                       words(NULL, op_gemm_scratch(gemm, FAR_ROWS) / 4)};
  ocl_chain chain = {.context = context};
  const op_gemm_io io = {.input = input.buffer,
                         .slot_token = b[0],
                         .expert_offsets = b[1],
                         .tile_offsets = b[2],
                         .output = output.buffer,
                         .scratch = b[3],
                         .rows = FAR_ROWS};
  if (variant->traits & KERNEL_LIBRARY && slot > 0) { /* 32-bit by nature: refused, not wrong */
    assert_int_equal(op_gemm_enqueue(gemm, &chain, &io), MOECL_ERROR_UNSUPPORTED);
  } else {
    assert_ok(op_gemm_enqueue(gemm, &chain, &io));
    check_far_output(c, variant->name, type, &output, slot);
  }
  gemm->weights = NULL; /* far_release's */
  op_gemm_destroy(&gemm);
  far_release(&weights), far_release(&input), far_release(&output);
  for (size_t i = 0; i < sizeof b / sizeof b[0]; i++) moecl_buffer_destroy(&b[i]);
}

/* meson has glibc write over all memory that is allocated or freed
 * (MALLOC_PERTURB_); gigabytes of it are better left alone. */
static int leave_memory_alone(void **state) {
  (void)state;
#ifdef M_PERTURB
  mallopt(M_PERTURB, 0);
#endif
  return 0;
}

/* Every variant that takes these sizes; all of them take multiples of 8. */
static void check_far(far_part part, uint32_t library, int64_t experts, int64_t n, int64_t k,
                      bool gated) {
  const kernel_variant *variants = op_gemm_table.rows;
  const size_t count = op_gemm_table.count;
  const far_case c = {part, experts, n, k, gated, part == FAR_WEIGHTS ? MOECL_F16 : MOECL_BF16};
  for (size_t v = 0; v < count; v++) {
    if (!kernel_variant_serves(&variants[v], desc_format_of(c.dtype), context->info.capabilities) ||
        (variants[v].traits & KERNEL_LIBRARY) != library)
      continue;
    const op_gemm_desc desc = far_desc(&variants[v], &c);
    const bool accepts = kernel_variant_accepts(&variants[v], &desc);
    assert_true(accepts || n % 8 || k % 8);
    if (accepts) check_far_gemm(&variants[v], &c);
  }
}

static void test_far_slots(void **state) {
  (void)state;
  check_far(FAR_SLOTS, 0, 1, 70001, 4, false);
  check_far(FAR_SLOTS, 0, 1, 70001, 4, true);
  check_far(FAR_SLOTS, 0, 1, 4, 70001, false);
  check_far(FAR_SLOTS, 0, 1, 70008, 8, false);
  check_far(FAR_SLOTS, 0, 1, 70008, 8, true);
  check_far(FAR_SLOTS, 0, 1, 8, 70008, false);
}

static void test_far_gathered(void **state) {
  (void)state;
  check_far(FAR_GATHERED, 0, 1, 4, 70001, false);
  check_far(FAR_GATHERED, 0, 1, 8, 70008, false);
}

/* In fp16, whose packed elements are as many as its weights for every variant:
 * the even sizes fill whole tiles of the largest there are. */
static void test_far_weights(void **state) {
  (void)state;
  if (context->info.capabilities & MOECL_CAP_LONG_LOOPS) {
    check_far(FAR_WEIGHTS, 0, 1000, 32, 140001, false);
    check_far(FAR_WEIGHTS, 0, 1000, 16, 140001, true);
  } else {
    printf("SKIP: K=140001: this driver leaves long loops early\n");
  }
  check_far(FAR_WEIGHTS, 0, 1000, 128, 35008, false);
  check_far(FAR_WEIGHTS, 0, 1000, 64, 35008, true);
}

static void test_far_library(void **state) {
  (void)state;
  check_far(FAR_SLOTS, KERNEL_LIBRARY, 1, 70001, 4, false);
  check_far(FAR_SLOTS, KERNEL_LIBRARY, 1, 4, 70001, false);
  check_far(FAR_GATHERED, KERNEL_LIBRARY, 1, 4, 70001, false);
}

/* Needs a buffer of that size itself, to cut the last expert's part from it. */
static void test_far_library_weights(void **state) {
  moecl_buffer *all = NULL;
  (void)state;
  if (moecl_buffer_create(context, UINT64_C(1000) * 32 * 70016 * 4, &all) != MOECL_OK) {
    printf("SKIP: the device has no buffer of 2^31 fp32 elements\n");
    skip();
  }
  moecl_buffer_destroy(&all);
  check_far(FAR_WEIGHTS, KERNEL_LIBRARY, 1000, 32, 70001, false);
}

/* A token's rows lie at the beginning of expert_output and beyond 2^32. */
static void check_far_combine(const kernel_variant *variant) {
  enum { WIDTH = 70008 };
  const op_combine_desc desc = {.hidden_size = WIDTH,
                                .top_k = 2,
                                .input = desc_format_of(MOECL_BF16),
                                .output = desc_format_of(MOECL_BF16),
                                .weighted = true};
  const int32_t slots[2] = {0, far_row(WIDTH)};
  const float weights[2] = {0.5f, 2.0f};
  const uint64_t row = WIDTH * 2, at = (uint64_t)slots[1] * row;
  uint16_t *raw = allocate(row);
  double *values = allocate(WIDTH * 8);
  far_memory input = far_buffer(at + row);
  moecl_buffer *output = NULL;
  moecl_buffer *slot = words(slots, 2), *weight = words(weights, 2);
  op_combine combine;
  assert_ok(moecl_buffer_create(context, row, &output));
  for (int64_t i = 0; i < WIDTH; i++) values[i] = (double)(i % 32);
  moecl_from_double(MOECL_BF16, values, WIDTH, raw);
  far_write(&input, 0, row, raw);
  far_write(&input, at, row, raw);
  assert_ok(op_combine_kind.create(context, variant, &desc, &combine));
  ocl_chain chain = {.context = context};
  const op_combine_io io = {.num_tokens = 1,
                            .expert_output = input.buffer,
                            .assignment_slot = slot,
                            .topk_weights = weight,
                            .output = output};
  assert_ok(op_combine_enqueue(&combine, &chain, &io));
  assert_ok(moecl_buffer_read_wait(output, 0, row, raw));
  moecl_to_double(MOECL_BF16, raw, WIDTH, values);
  for (int64_t i = 0; i < WIDTH; i++) assert_true(values[i] == 2.5 * (double)(i % 32));
  op_combine_kind.release(&combine);
  far_release(&input);
  moecl_buffer *buffers[] = {output, slot, weight};
  for (int i = 0; i < 3; i++) moecl_buffer_destroy(&buffers[i]);
  free(raw), free(values);
}

static void test_far_combine(void **state) {
  const kernel_variant *variants = op_combine_table.rows;
  const size_t count = op_combine_table.count;
  (void)state;
  for (size_t v = 0; v < count; v++)
    if (serves_here(&variants[v], MOECL_BF16)) check_far_combine(&variants[v]);
}

/* usage: test_far [test] */
int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_far_slots, leave_memory_alone),
      cmocka_unit_test_setup(test_far_gathered, leave_memory_alone),
      cmocka_unit_test_setup(test_far_weights, leave_memory_alone),
      cmocka_unit_test_setup(test_far_library, leave_memory_alone),
      cmocka_unit_test_setup(test_far_library_weights, leave_memory_alone),
      cmocka_unit_test_setup(test_far_combine, leave_memory_alone)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("far", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}

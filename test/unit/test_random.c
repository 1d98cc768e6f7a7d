// SPDX-License-Identifier: MIT
#include "unit.h"
#include <Random123/philox.h>
#include <math.h>

/* Random123's kat_vectors for philox4x32, 10 rounds. */
static const struct {
  uint32_t counter[4], key[2], want[4];
} known[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

static uint64_t join(uint32_t low, uint32_t high) { return (uint64_t)high << 32 | low; }

/* What include/moecl/random.h says element i is, from the words of a block. */
static float centred_normal(uint32_t a, uint32_t b) {
  return (float)((int)((a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16)) - 131070);
}

/* The known words come out of host and device as numbers: seed, stream and
 * index are the vectors' key and counter. Indices beyond 2^63 can't be
 * reached by an even element number, so those vectors stay with the host. */
static void test_known_answers(void **state) {
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    philox4x32_ctr_t counter;
    philox4x32_key_t key;
    memcpy(counter.v, known[i].counter, sizeof counter.v);
    memcpy(key.v, known[i].key, sizeof key.v);
    philox4x32_ctr_t r = philox4x32(counter, key);
    assert_memory_equal(r.v, known[i].want, sizeof r.v);
    uint64_t block = join(known[i].counter[0], known[i].counter[1]);
    if (block > UINT64_MAX / 2) continue;
    moecl_random_params params = {.dtype = MOECL_F32,
                                  .distribution = MOECL_UNIFORM,
                                  .scale = 8388608.0f, /* makes the 24 bits visible */
                                  .seed = join(known[i].key[0], known[i].key[1]),
                                  .stream = join(known[i].counter[2], known[i].counter[3]),
                                  .first_index = 2 * block};
    float host[2], device[2];
    moecl_buffer *buffer = NULL;
    assert_ok(moecl_random_host(host, 2, &params));
    assert_ok(moecl_buffer_create(*state, sizeof device, &buffer));
    assert_ok(moecl_fill_random(buffer, 0, 2, &params));
    assert_ok(moecl_buffer_read_wait(buffer, 0, sizeof device, device));
    moecl_buffer_destroy(&buffer);
    for (int e = 0; e < 2; e++) {
      float want = (float)((int32_t)(known[i].want[2 * e] >> 8) - 8388608);
      assert_true(host[e] == want && device[e] == want);
    }
  }
}

/* Device and host, bit for bit; what lies around the range stays. */
static void compare(moecl_context *context, const moecl_random_params *params, uint64_t offset,
                    uint64_t count) {
  size_t size = moecl_dtype_size(params->dtype);
  uint64_t bytes = (offset + count + 3) * size;
  unsigned char *got = malloc(bytes), *want = malloc(bytes);
  moecl_buffer *buffer = NULL;
  assert_true(got && want);
  memset(want, 0x5a, bytes);
  assert_ok(moecl_random_host(want + offset * size, count, params));
  assert_ok(moecl_buffer_create(context, bytes, &buffer));
  assert_ok(moecl_buffer_fill_byte(buffer, 0, bytes, 0x5a));
  assert_ok(moecl_fill_random(buffer, offset, count, params));
  assert_ok(moecl_buffer_read_wait(buffer, 0, bytes, got));
  assert_memory_equal(got, want, bytes);
  moecl_buffer_destroy(&buffer);
  free(got);
  free(want);
}

static void test_device_is_host(void **state) {
  const uint64_t counts[] = {0, 1, 2, 15, 16, 17, 1023, 1024, 1025, 100003};
  const float scales[] = {1.0f, 0.02f, -3.7f, 0.0f, 1e-4f, 1e30f};
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++)
    for (int distribution = MOECL_NORMAL; distribution <= MOECL_UNIFORM; distribution++) {
      moecl_random_params params = {.dtype = (moecl_dtype)dtype,
                                    .distribution = (moecl_distribution)distribution,
                                    .scale = 1,
                                    .seed = UINT64_C(0x123456789abcdef0),
                                    .stream = UINT64_C(0xfedcba9876543210)};
      for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        compare(*state, &params, i, counts[i]);
      for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        params.scale = scales[i];
        params.first_index = (UINT64_C(1) << 33) - 20 + 2 * i; /* the counter's carry */
        compare(*state, &params, 1, 777);
      }
    }
}

static void test_chunks_agree(void **state) {
  (void)state;
  moecl_random_params params = {.dtype = MOECL_BF16, .scale = 1, .seed = 3, .stream = 4};
  uint16_t whole[1000], part[400];
  assert_ok(moecl_random_host(whole, 1000, &params));
  params.first_index = 600;
  assert_ok(moecl_random_host(part, 400, &params));
  assert_memory_equal(whole + 600, part, sizeof part);
}

static void test_moments(void **state) {
  (void)state;
  enum { N = 200000 };
  float *x = malloc(N * sizeof *x);
  assert_non_null(x);
  for (int distribution = MOECL_NORMAL; distribution <= MOECL_UNIFORM; distribution++) {
    moecl_random_params params = {
        .distribution = (moecl_distribution)distribution, .scale = 2, .seed = 1};
    double sum = 0, squares = 0, want = distribution == MOECL_NORMAL ? 4 : 4.0 / 3;
    assert_ok(moecl_random_host(x, N, &params));
    for (int i = 0; i < N; i++) {
      sum += x[i];
      squares += (double)x[i] * x[i];
      if (distribution == MOECL_UNIFORM) assert_true(x[i] >= -2 && x[i] < 2);
    }
    assert_true(fabs(sum / N) < 0.02);
    assert_true(fabs(squares / N / want - 1) < 0.02);
  }
  free(x);
}

static void test_arguments(void **state) {
  moecl_buffer *buffer = NULL;
  float value;
  const moecl_random_params bad[] = {{.dtype = MOECL_DTYPE_COUNT, .scale = 1},
                                     {.distribution = (moecl_distribution)2, .scale = 1},
                                     {.scale = NAN},
                                     {.scale = INFINITY},
                                     {.scale = 1, .first_index = 1}};
  const moecl_random_params good = {.scale = 1};
  assert_ok(moecl_buffer_create(*state, 64, &buffer));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(moecl_fill_random(buffer, 0, 1, &bad[i]), MOECL_ERROR_INVALID_ARGUMENT);
    assert_int_equal(moecl_random_host(&value, 1, &bad[i]), MOECL_ERROR_INVALID_ARGUMENT);
  }
  assert_int_equal(moecl_fill_random(buffer, 0, 17, &good), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_fill_random(buffer, UINT64_MAX, 2, &good), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_fill_random(buffer, 1, UINT64_MAX, &good), MOECL_ERROR_INVALID_ARGUMENT);
  assert_ok(moecl_fill_random(buffer, 16, 0, &good));
  moecl_skewed_params skewed = {.num_tokens = 4, .hidden_size = 4, .num_clusters = 2};
  assert_ok(moecl_fill_skewed(buffer, &skewed));
  skewed.num_tokens = 5;
  assert_int_equal(moecl_fill_skewed(buffer, &skewed), MOECL_ERROR_INVALID_ARGUMENT);
  skewed.num_tokens = INT64_MAX;
  assert_int_equal(moecl_fill_skewed(buffer, &skewed), MOECL_ERROR_INVALID_ARGUMENT);
  skewed.num_tokens = 1;
  skewed.noise = NAN;
  assert_int_equal(moecl_fill_skewed(buffer, &skewed), MOECL_ERROR_INVALID_ARGUMENT);
  moecl_buffer_destroy(&buffer);
}

static philox4x32_ctr_t draw(uint64_t index, uint32_t tag, const moecl_skewed_params *p) {
  philox4x32_ctr_t counter = {{(uint32_t)index, (uint32_t)(index >> 32) | tag, (uint32_t)p->stream,
                               (uint32_t)(p->stream >> 32)}};
  philox4x32_key_t key = {{(uint32_t)p->seed, (uint32_t)(p->seed >> 32)}};
  return philox4x32(counter, key);
}

/* The cluster of token t, by walking Zipf's law. */
static uint64_t cluster_of(uint64_t t, const moecl_skewed_params *p) {
  double total = 0, sum = 0, u = draw(t, 0x80000000u, p).v[0];
  for (int64_t c = 1; c <= p->num_clusters; c++) total += pow((double)c, -(double)p->exponent);
  for (int64_t c = 1; c < p->num_clusters; c++) {
    sum += pow((double)c, -(double)p->exponent);
    if (u < floor(sum / total * 4294967296.0)) return (uint64_t)c - 1;
  }
  return (uint64_t)p->num_clusters - 1;
}

static void check_skewed(moecl_context *context, const moecl_skewed_params *p) {
  uint64_t rows = (uint64_t)p->num_tokens, width = (uint64_t)p->hidden_size;
  uint64_t blocks = (width + 1) / 2;
  size_t size = moecl_dtype_size(p->dtype), bytes = (size_t)(rows * width) * size;
  double deviation = sqrt(4294967295.0 / 3), noise = p->noise;
  float centre = (float)(sqrt(1 - noise * noise) / deviation), own = (float)(noise / deviation);
  unsigned char *got = malloc(bytes), *want = malloc(bytes);
  moecl_buffer *buffer = NULL;
  assert_true(got && want);
  for (uint64_t t = 0; t < rows; t++)
    for (uint64_t h = 0; h < width; h++) {
      philox4x32_ctr_t c = draw(cluster_of(t, p) * blocks + h / 2, 0x40000000u, p);
      philox4x32_ctr_t o = draw(t * blocks + h / 2, 0, p);
      size_t odd = h % 2 * 2;
      float noisy = centred_normal(o.v[odd], o.v[odd + 1]) * own;
      double v = fmaf(centred_normal(c.v[odd], c.v[odd + 1]), centre, noisy);
      moecl_from_double(p->dtype, &v, 1, want + (t * width + h) * size);
    }
  assert_ok(moecl_buffer_create(context, bytes, &buffer));
  assert_ok(moecl_fill_skewed(buffer, p));
  assert_ok(moecl_buffer_read_wait(buffer, 0, bytes, got));
  assert_memory_equal(got, want, bytes);
  moecl_buffer_destroy(&buffer);
  free(got);
  free(want);
}

static void test_skewed(void **state) {
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
    moecl_skewed_params p = {.dtype = (moecl_dtype)dtype,
                             .num_tokens = 67,
                             .hidden_size = 33,
                             .seed = 9,
                             .stream = 1,
                             .num_clusters = 10,
                             .exponent = 1,
                             .noise = 0.3f};
    check_skewed(*state, &p);
    p.hidden_size = 1;
    p.noise = 1;
    check_skewed(*state, &p);
    p.hidden_size = 2000;
    p.num_clusters = 1;
    p.noise = 0;
    check_skewed(*state, &p);
    p.hidden_size = 64;
    p.num_clusters = 1000;
    p.exponent = 0;
    check_skewed(*state, &p);
  }
}

/* More rows than one launch takes: the last row still follows the first's law. */
static void test_skewed_many_rows(void **state) {
  moecl_skewed_params p = {.dtype = MOECL_F32,
                           .num_tokens = 65535 + 40,
                           .hidden_size = 3,
                           .seed = 2,
                           .num_clusters = 4,
                           .exponent = 1,
                           .noise = 0.5f};
  check_skewed(*state, &p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_known_answers),    cmocka_unit_test(test_device_is_host),
      cmocka_unit_test(test_chunks_agree),     cmocka_unit_test(test_moments),
      cmocka_unit_test(test_arguments),        cmocka_unit_test(test_skewed),
      cmocka_unit_test(test_skewed_many_rows),
  };
  skip_without_device();
  return cmocka_run_group_tests(tests, set_up_context, tear_down_context);
}

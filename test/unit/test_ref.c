// SPDX-License-Identifier: MIT
/* The reference against answers worked out by hand. */
#include "unit.h"
#include "moecl/reference.h"
#include <math.h>

static bool near(double got, double want) {
  return fabs(got - want) <= 1e-14 * fmax(1, fabs(want));
}
#define assert_near(got, want) assert_true(near(got, want))

static moecl_layer_params routed(int64_t experts, int64_t top_k, bool renormalize) {
  return (moecl_layer_params){.hidden_size = 1,
                              .intermediate_size = 1,
                              .num_experts = experts,
                              .top_k = top_k,
                              .renormalize = renormalize};
}

/* ---- top-k ---- */

/* Scores 1/10, 2/10, 4/10, 3/10. */
static void test_topk(void **state) {
  const double logits[4] = {log(1), log(2), log(4), log(3)};
  double weights[2], scores[4];
  int32_t ids[2];
  (void)state;
  moecl_layer_params params = routed(4, 2, false);
  const double gap = moecl_reference_topk(&params, logits, NULL, 0, 0, ids, weights, scores);
  assert_int_equal(ids[0], 2);
  assert_int_equal(ids[1], 3);
  assert_near(weights[0], 0.4);
  assert_near(weights[1], 0.3);
  const double all[4] = {0.1, 0.2, 0.4, 0.3};
  for (int e = 0; e < 4; e++) assert_near(scores[e], all[e]);
  assert_near(gap, 1.0 - 2.0 / 3.0); /* expert 1 is behind expert 3 */
  params.renormalize = true;
  moecl_reference_topk(&params, logits, NULL, 0, 0, ids, weights, NULL);
  assert_near(weights[0], 4.0 / 7.0);
  assert_near(weights[1], 3.0 / 7.0);
}

static void check_ids(const double *logits, int64_t experts, int64_t top_k, const int32_t *want) {
  const moecl_layer_params params = routed(experts, top_k, true);
  int32_t ids[8];
  double weights[8], sum = 0;
  moecl_reference_topk(&params, logits, NULL, 0, 0, ids, weights, NULL);
  for (int64_t k = 0; k < top_k; k++) {
    assert_int_equal(ids[k], want[k]);
    assert_true(k == 0 || weights[k] <= weights[k - 1]);
    sum += weights[k];
  }
  assert_near(sum, 1.0);
}

static void test_ties(void **state) {
  (void)state;
  check_ids((double[]){0, 0, 0, 0}, 4, 3, (int32_t[]){0, 1, 2});
  check_ids((double[]){1, 2, 2, 1, 2}, 5, 4, (int32_t[]){1, 2, 4, 0});
  check_ids((double[]){-1, 5, -1, 5}, 4, 4, (int32_t[]){1, 3, 0, 2});
  check_ids((double[]){-0.0, 0.0}, 2, 1, (int32_t[]){0});
  const moecl_layer_params params = routed(3, 1, false);
  int32_t id;
  double weight;
  assert_true(moecl_reference_topk(&params, (double[]){2, 2, 1}, NULL, 0, 0, &id, &weight, NULL) ==
              0.0);
}

static void test_all_and_one(void **state) {
  int32_t ids[3];
  double weights[3];
  (void)state;
  moecl_layer_params params = routed(3, 3, false);
  const double logits[3] = {log(2), log(3), log(5)}, want[3] = {0.5, 0.3, 0.2};
  assert_true(isinf(moecl_reference_topk(&params, logits, NULL, 0, 0, ids, weights, NULL)));
  for (int k = 0; k < 3; k++) {
    assert_int_equal(ids[k], 2 - k);
    assert_near(weights[k], want[k]);
  }
  params = routed(1, 1, false);
  assert_true(isinf(moecl_reference_topk(&params, (double[]){-7}, NULL, 0, 0, ids, weights, NULL)));
  assert_int_equal(ids[0], 0);
  assert_true(weights[0] == 1.0);
}

/* Logits so far apart that scores underflow are still in order. */
static void test_far(void **state) {
  const moecl_layer_params params = routed(4, 3, true);
  int32_t ids[3];
  double weights[3];
  (void)state;
  moecl_reference_topk(&params, (double[]){-3000, 1e30, -2000, 0}, NULL, 0, 0, ids, weights, NULL);
  assert_int_equal(ids[0], 1);
  assert_int_equal(ids[1], 3);
  assert_int_equal(ids[2], 2);
  assert_true(weights[0] == 1.0 && weights[1] == 0.0 && weights[2] == 0.0);
}

static void test_nonfinite(void **state) {
  static const double bad[] = {NAN, INFINITY, -INFINITY, 1e39, -1e39}; /* the last: not in fp32 */
  const moecl_layer_params params = routed(3, 2, true);
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    const double logits[3] = {1, bad[i], 2};
    int32_t ids[2] = {5, 5};
    double weights[2] = {5, 5}, scores[3] = {5, 5, 5};
    assert_true(isinf(moecl_reference_topk(&params, logits, NULL, 0, 0, ids, weights, scores)));
    for (int k = 0; k < 2; k++) assert_true(ids[k] == -1 && weights[k] == 0.0);
    for (int e = 0; e < 3; e++) assert_true(scores[e] == 0.0);
  }
}

/* ---- logits and jitter ---- */

static void test_logits(void **state) {
  moecl_layer_params params = routed(3, 1, false);
  const double hidden[2] = {1.5, -2}, weight[6] = {1, 0, 0, 1, 2, 3}, bias[3] = {0.5, 0, -1};
  double logits[3];
  (void)state;
  params.hidden_size = 2;
  moecl_reference_logits(&params, hidden, weight, NULL, 0, 0, logits);
  assert_true(logits[0] == 1.5 && logits[1] == -2 && logits[2] == -3);
  moecl_reference_logits(&params, hidden, weight, bias, 0, 0, logits);
  assert_true(logits[0] == 2 && logits[1] == -2 && logits[2] == -4);
}

/* Philox4x32-10 once more, held to its authors' known answers (Random123's
 * kat_vectors). */
static void philox(uint32_t counter[4], uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; round++) {
    const uint64_t a = (uint64_t)0xD2511F53u * counter[0], b = (uint64_t)0xCD9E8D57u * counter[2];
    const uint32_t next[4] = {(uint32_t)(b >> 32) ^ counter[1] ^ k0, (uint32_t)b,
                              (uint32_t)(a >> 32) ^ counter[3] ^ k1, (uint32_t)a};
    memcpy(counter, next, sizeof next);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

static void test_philox(void **state) {
  static const uint32_t known[3][10] = {
      {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
      {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
       0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
      {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
       0x94fdcceb, 0x5001e420, 0x24126ea1}};
  (void)state;
  for (int i = 0; i < 3; i++) {
    uint32_t counter[4];
    memcpy(counter, known[i], sizeof counter);
    philox(counter, known[i][4], known[i][5]);
    assert_memory_equal(counter, known[i] + 6, sizeof counter);
  }
}

static float jitter_again(uint64_t seed, uint64_t token, uint32_t element, float jitter) {
  uint32_t counter[4] = {(uint32_t)token, (uint32_t)(token >> 32), element / 4, 0x4a495454u};
  philox(counter, (uint32_t)seed, (uint32_t)(seed >> 32));
  const float u = (float)(counter[element % 4] >> 8) * 0x1p-24f;
  return fmaf(jitter, 2.0f * u - 1.0f, 1.0f);
}

static void test_jitter(void **state) {
  static const uint64_t seeds[] = {0, 1, 42, UINT64_C(0x123456789abcdef0), UINT64_MAX};
  double sum = 0;
  (void)state;
  for (int s = 0; s < 5; s++)
    for (uint64_t token = 0; token < 40; token++)
      for (uint32_t element = 0; element < 50; element++) {
        const uint64_t far = token % 2 ? token : token << 33;
        const float got = moecl_reference_jitter(seeds[s], far, element, 0.25f);
        assert_true(got == jitter_again(seeds[s], far, element, 0.25f));
        assert_true(got >= 0.75f && got <= 1.25f);
        sum += got;
      }
  /* 10,000 draws of deviation 0.25/sqrt(3): 5 deviations of the mean. */
  assert_true(fabs(sum / 10000 - 1) < 5 * 0.25 / sqrt(3) / 100);
  assert_true(moecl_reference_jitter(7, 7, 7, 0.0f) == 1.0f);
  assert_true(moecl_reference_jitter(1, 2, 3, 0.5f) != moecl_reference_jitter(2, 2, 3, 0.5f));
  assert_true(moecl_reference_jitter(1, 2, 3, 0.5f) != moecl_reference_jitter(1, 3, 3, 0.5f));
  assert_true(moecl_reference_jitter(1, 2, 3, 0.5f) != moecl_reference_jitter(1, 2, 2, 0.5f));
}

/* Logits of jittered input: products rounded to fp32, factors of the element's
 * own place, also past the first block that is drawn. */
static void test_jittered_logits(void **state) {
  enum { H = 1100 };
  static double hidden[H], weight[H];
  moecl_layer_params params = routed(1, 1, false);
  (void)state;
  params.hidden_size = H;
  params.jitter = 0.1f;
  for (int at = 0; at < H; at += 99) {
    double logit;
    for (int h = 0; h < H; h++) hidden[h] = (float)(h + 1) / 3, weight[h] = h == at;
    moecl_reference_logits(&params, hidden, weight, NULL, 9, 4, &logit);
    assert_true(logit == (double)((float)hidden[at] * jitter_again(9, 4, (uint32_t)at, 0.1f)));
  }
}

/* ---- capacity ---- */

static moecl_layer_params limited(double factor, int64_t least, moecl_drop_policy policy) {
  moecl_layer_params params = routed(3, 2, false);
  params.capacity_factor = factor;
  params.min_capacity = least;
  params.drop_policy = policy;
  return params;
}

/* Four tokens, three experts, two choices. */
static const int32_t chosen[8] = {0, 1, 1, 0, 0, 2, 0, 1};
static const float weight_of[8] = {0.5f, 0.3f, 0.9f, 0.6f, 0.7f, 0.1f, 0.7f, 0.2f};
static const float priority_of[4] = {0.25f, 0.5f, 0.75f, 0.75f};

static void check_kept(const moecl_layer_params *params, const uint8_t *want) {
  uint8_t kept[8];
  memset(kept, 7, sizeof kept);
  assert_ok(moecl_reference_capacity(params, 4, chosen, weight_of, priority_of, kept));
  assert_memory_equal(kept, want, sizeof kept);
}

static void test_capacity(void **state) {
  (void)state;
  moecl_layer_params params;
  /* Dropless, whatever the policy; nobody needs priorities for that. */
  for (int policy = 0; policy < MOECL_DROP_POLICY_COUNT; policy++) {
    uint8_t kept[8] = {0};
    const int32_t ids[8] = {0, 1, 1, -1, 0, 2, 0, 1};
    params = limited(0, 1, (moecl_drop_policy)policy);
    check_kept(&params, (uint8_t[]){1, 1, 1, 1, 1, 1, 1, 1});
    assert_ok(moecl_reference_capacity(&params, 4, ids, weight_of, NULL, kept));
    assert_memory_equal(kept, ((uint8_t[]){1, 1, 1, 0, 1, 1, 1, 1}), sizeof kept);
  }
  /* ceil(0.75 * 4 * 2 / 3) = 2. Expert 0 is the first choice of tokens 0, 2 and
   * 3 and the second of 1: 0 and 2 stay. Expert 1: first choice of 1, then 0. */
  params = limited(0.75, 0, MOECL_DROP_POSITION);
  check_kept(&params, (uint8_t[]){1, 1, 1, 0, 1, 1, 0, 0});
  /* Expert 0's weights are .5, .6, .7, .7; expert 1's .3, .9, .2. */
  params = limited(0.75, 0, MOECL_DROP_PROBABILITY);
  check_kept(&params, (uint8_t[]){0, 1, 1, 0, 1, 1, 1, 0});
  /* One each: of the two .7 the earlier token's. */
  params = limited(0.1, 0, MOECL_DROP_PROBABILITY);
  check_kept(&params, (uint8_t[]){0, 0, 1, 0, 1, 1, 0, 0});
  params = limited(0.1, 0, MOECL_DROP_POSITION);
  check_kept(&params, (uint8_t[]){1, 0, 1, 0, 0, 1, 0, 0});
  /* Expert 0's first choices are of tokens 0, 2 and 3, the second of 1; expert 1's
   * first one of 1, then of 0 and 3. */
  params = limited(0.75, 0, MOECL_DROP_PRIORITIZED);
  check_kept(&params, (uint8_t[]){0, 0, 1, 0, 1, 1, 1, 1});
  params = limited(0.1, 0, MOECL_DROP_PRIORITIZED);
  check_kept(&params, (uint8_t[]){0, 0, 1, 0, 1, 1, 0, 0});
  params = limited(0.1, 3, MOECL_DROP_PRIORITIZED);
  check_kept(&params, (uint8_t[]){1, 1, 1, 0, 1, 1, 1, 1});
  /* min_capacity lifts it to 3. */
  params = limited(0.1, 3, MOECL_DROP_PROBABILITY);
  check_kept(&params, (uint8_t[]){0, 1, 1, 1, 1, 1, 1, 1});
  params = limited(0.1, 3, MOECL_DROP_POSITION);
  check_kept(&params, (uint8_t[]){1, 1, 1, 0, 1, 1, 1, 1});
}

static void test_capacity_edges(void **state) {
  moecl_layer_params params = limited(0.4, 0, MOECL_DROP_POSITION);
  uint8_t kept[4] = {9, 9, 9, 9};
  (void)state;
  assert_ok(moecl_reference_capacity(&params, 0, NULL, NULL, NULL, kept)); /* T = 0 */
  assert_int_equal(kept[0], 9);
  /* A token routed nowhere takes no place. */
  const int32_t ids[4] = {-1, -1, 0, 1};
  const float weights[4] = {0, 0, 0.6f, 0.4f}, priority[2] = {0, 1}, nan_priority[2] = {0, NAN};
  for (int policy = 0; policy < MOECL_DROP_POLICY_COUNT; policy++) {
    params.drop_policy = (moecl_drop_policy)policy;
    assert_ok(moecl_reference_capacity(&params, 2, ids, weights, priority, kept));
    assert_memory_equal(kept, ((uint8_t[]){0, 0, 1, 1}), 4);
  }
  const int32_t high[4] = {0, 1, 3, 0}, low[4] = {0, 1, -2, 0};
  const float nan_weight[4] = {1, 1, NAN, 1};
  const moecl_status invalid = MOECL_ERROR_INVALID_ARGUMENT;
  assert_int_equal(moecl_reference_capacity(&params, 2, high, weights, priority, kept), invalid);
  assert_int_equal(moecl_reference_capacity(&params, 2, low, weights, priority, kept), invalid);
  assert_int_equal(moecl_reference_capacity(&params, 2, ids, nan_weight, priority, kept), invalid);
  assert_int_equal(moecl_reference_capacity(&params, 2, ids, weights, nan_priority, kept), invalid);
  assert_int_equal(moecl_reference_capacity(&params, 2, ids, weights, NULL, kept), invalid);
  params.drop_policy = MOECL_DROP_POSITION;
  assert_ok(moecl_reference_capacity(&params, 2, ids, weights, NULL, kept));
  assert_int_equal(moecl_reference_capacity(&params, -1, ids, weights, NULL, kept), invalid);
}

static void test_priority(void **state) {
  const double logits[3] = {0, log(2), log(5)};
  (void)state;
  assert_true(near(moecl_reference_priority(logits, 3), 5.0 / 8));
  assert_true(near(moecl_reference_priority(logits, 1), 1));
  near(moecl_reference_priority((double[]){1, INFINITY}, 2), 0);
  near(moecl_reference_priority((double[]){1, NAN}, 2), 0);
}

static void test_kept_weights(void **state) {
  moecl_layer_params params = routed(8, 3, false);
  const float weights[3] = {0.5f, 0.25f, 0.125f}, little[3] = {0.5f, 0x1p-25f, 0};
  double got[3];
  (void)state;
  moecl_reference_kept_weights(&params, weights, (uint8_t[]){1, 0, 1}, got);
  assert_true(near(got[0], 0.5));
  assert_true(near(got[1], 0));
  assert_true(near(got[2], 0.125));
  params.renormalize_after_capacity = true;
  moecl_reference_kept_weights(&params, weights, (uint8_t[]){1, 0, 1}, got);
  assert_true(near(got[0], 0.8));
  assert_true(near(got[1], 0));
  assert_true(near(got[2], 0.2));
  moecl_reference_kept_weights(&params, weights, (uint8_t[]){0, 0, 0}, got);
  assert_true(near(got[0], 0));
  assert_true(near(got[1], 0));
  assert_true(near(got[2], 0));
  moecl_reference_kept_weights(&params, little, (uint8_t[]){0, 1, 0}, got);
  assert_true(near(got[1], 0.25));  /* 2^-25 of at least 2^-23 */
  params.routed_scaling_factor = 2; /* which the weights have already */
  moecl_reference_kept_weights(&params, weights, (uint8_t[]){0, 1, 1}, got);
  assert_true(near(got[0], 0));
  assert_true(near(got[1], 4.0 / 3));
  assert_true(near(got[2], 2.0 / 3));
  moecl_reference_kept_weights(&params, little, (uint8_t[]){0, 1, 0}, got);
  assert_true(near(got[1], 0.25));
}

/* 3-4-5: off by 1 in numbers of size 5, which a floor of 10 makes 10 sqrt(2). */
static void test_error_floor(void **state) {
  const double a[] = {4, 4}, b[] = {3, 4}, none[] = {0, 0}, little[] = {1e-42, -3e-43};
  (void)state;
  assert_true(near(moecl_relative_error(a, b, 2), 0.2));
  assert_true(near(moecl_relative_error_above(a, b, 2, 1), 0.2));
  assert_true(near(moecl_relative_error_above(a, b, 2, 10), 0.1 / sqrt(2)));
  assert_true(near(moecl_relative_error_above(none, b, 2, 3), 1));
  /* Denormals that a device took for 0, and numbers that it may not. */
  const double floor = moecl_relative_error_floor(MOECL_F32);
  assert_true(moecl_relative_error_above(none, little, 2, floor) < 1e-10);
  assert_true(moecl_relative_error_above(none, (double[]){1e-30, 0}, 2, floor) > 0.5);
  assert_true(isinf(moecl_relative_error_above((double[]){NAN, 0}, little, 2, floor)));
}

/* ---- experts ---- */

/* H = I = 1, hidden 2: gate 0.5 and up 3 make 1 and 6; down is 10. */
static double expert_of_one(moecl_activation activation, double hidden) {
  const moecl_layer_params params = {.hidden_size = 1,
                                     .intermediate_size = 1,
                                     .num_experts = 1,
                                     .top_k = 1,
                                     .activation = activation};
  const double gate_up[2] = {0.5, 3}, down = 10;
  double output = NAN;
  assert_ok(moecl_reference_expert(&params, &hidden, gate_up, NULL, &down, NULL, &output));
  return output;
}

static void test_activations(void **state) {
  const double silu = 0.7310585786300049, gelu = 0.8413447460685429; /* of 1 */
  (void)state;
  assert_near(expert_of_one(MOECL_SWIGLU, 2), silu * 6 * 10);
  assert_near(expert_of_one(MOECL_GEGLU, 2), gelu * 6 * 10);
  assert_near(expert_of_one(MOECL_RELU, 2), 10.0);
  assert_near(expert_of_one(MOECL_GELU, 2), gelu * 10);
  assert_near(expert_of_one(MOECL_SILU, 2), silu * 10);
  assert_near(expert_of_one(MOECL_SWIGLU, -2), (silu - 1) * -6 * 10); /* silu(-1) = silu(1) - 1 */
  assert_near(expert_of_one(MOECL_GELU, -2), (gelu - 1) * 10);
  assert_true(expert_of_one(MOECL_RELU, -2) == 0.0);
  assert_near(expert_of_one(MOECL_RELU2, 4), 4.0 * 10);
  assert_true(expert_of_one(MOECL_RELU2, -2) == 0.0);
  assert_near(expert_of_one(MOECL_GELU_TANH, 2), 0.8411919906082768 * 10); /* PyTorch's */
  assert_near(expert_of_one(MOECL_GEGLU_TANH, 2), 0.8411919906082768 * 6 * 10);
  /* Nothing cancels far below 0: it is x sigmoid(2u). */
  for (double x = -4; x > -9; x -= 1) {
    const double u = sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x);
    const double want = 10 * x * exp(2 * u) / (1 + exp(2 * u));
    assert_true(fabs(expert_of_one(MOECL_GELU_TANH, 2 * x) - want) <= 1e-12 * fabs(want));
  }
  assert_true(expert_of_one(MOECL_GELU_TANH, -2e10) == 0);
  /* NaN stays NaN. */
  for (int activation = 0; activation < MOECL_ACTIVATION_COUNT; activation++)
    assert_true(isnan(expert_of_one((moecl_activation)activation, NAN)));
  for (int activation = 0; activation < MOECL_ACTIVATION_COUNT; activation++) {
    assert_true(expert_of_one((moecl_activation)activation, 0) == 0.0);
    assert_true(isfinite(expert_of_one((moecl_activation)activation, -1e6)));
  }
}

/* gpt-oss's: with alpha 1 and limit 3, gate 1 lets silu(1) (up + 1) through; larger
 * gates are cut off, smaller ones are not, up is on both sides. */
static double clamped(double gate, double up) {
  const moecl_layer_params params = {.hidden_size = 1,
                                     .intermediate_size = 1,
                                     .num_experts = 1,
                                     .top_k = 1,
                                     .activation = MOECL_SWIGLU_CLAMPED,
                                     .swiglu_alpha = 1.0f,
                                     .swiglu_limit = 3.0f};
  const double one = 1, gate_up[2] = {gate, up};
  double output = NAN;
  assert_ok(moecl_reference_expert(&params, &one, gate_up, NULL, &one, NULL, &output));
  return output;
}
static void test_clamped(void **state) {
  const double silu_1 = 0.7310585786300049, silu_3 = 3 * 0.9525741268224334;
  (void)state;
  assert_near(clamped(1, 2), silu_1 * 3);
  assert_near(clamped(1, 50), silu_1 * 4);
  assert_near(clamped(1, -50), silu_1 * -2);
  assert_near(clamped(80, 0), silu_3);
  assert_near(clamped(-1, 0), silu_1 - 1);
  assert_true(fabs(clamped(-80, 0)) < 1e-30);
}

/* The others cut at 3: before the SiLU, whose value there is 3 sigmoid(3), or behind. */
static double cut_off(moecl_activation activation, double gate, double up, float limit) {
  const moecl_layer_params params = {.hidden_size = 1,
                                     .intermediate_size = 1,
                                     .num_experts = 1,
                                     .top_k = 1,
                                     .activation = activation,
                                     .swiglu_limit = limit};
  const double one = 1, gate_up[2] = {gate, up};
  double output = NAN;
  assert_ok(moecl_reference_expert(&params, &one, gate_up, NULL, &one, NULL, &output));
  return output;
}
static void test_limited(void **state) {
  const double silu_1 = 0.7310585786300049, silu_3 = 3 * 0.9525741268224334;
  const moecl_activation before = MOECL_SWIGLU_LIMITED, behind = MOECL_SWIGLU_LIMITED_SILU;
  (void)state;
  for (int i = 0; i < 2; i++) {
    const moecl_activation a = i ? behind : before;
    assert_near(cut_off(a, 1, 2, 3), silu_1 * 2);
    assert_near(cut_off(a, 1, 50, 3), silu_1 * 3);
    assert_near(cut_off(a, 1, -50, 3), silu_1 * -3);
    assert_near(cut_off(a, -1, 2, 3), (silu_1 - 1) * 2);
    assert_true(fabs(cut_off(a, -80, 1, 3)) < 1e-30);
    assert_near(cut_off(a, 50, 1, 0), i ? 7 : 7 * 0.9990889488055994); /* 7 by default */
    assert_near(cut_off(a, 1e6, -1e6, 1e18f), -1e12);
    assert_true(isnan(cut_off(a, NAN, 1, 3)) && isnan(cut_off(a, 1, NAN, 3)));
  }
  assert_near(cut_off(before, 80, 1, 3), silu_3);
  assert_near(cut_off(behind, 80, 1, 3), 3);
  assert_near(cut_off(before, 3.1, 1, 3), silu_3);
  assert_near(cut_off(behind, 3.1, 1, 3), 3.1 * 0.9568927450589139);
}

/* The shared expert's size, limit and factor are its own. */
static void test_shared(void **state) {
  const moecl_layer_params params = {.hidden_size = 2,
                                     .intermediate_size = 5,
                                     .num_experts = 4,
                                     .top_k = 2,
                                     .activation = MOECL_SWIGLU_LIMITED_SILU,
                                     .swiglu_limit = 3,
                                     .gate_up_bias = true,
                                     .down_bias = true,
                                     .shared_intermediate_size = 7,
                                     .shared_swiglu_limit = 4,
                                     .shared_scaling_factor = 0.5f};
  moecl_layer_params other = params;
  const double hidden[2] = {1, 2}, gate[2] = {3, -1.5};
  (void)state;
  const moecl_layer_params shared = moecl_reference_shared(&params);
  assert_true(shared.intermediate_size == 7 && shared.num_experts == 1 && shared.top_k == 1);
  assert_true(shared.swiglu_limit == 4 && !shared.gate_up_bias && !shared.down_bias);
  assert_true(moecl_reference_shared_weight(&params, hidden, NULL) == 0.5);
  assert_true(moecl_reference_shared_weight(&params, hidden, gate) == 0.25);
  other.shared_swiglu_limit = other.shared_scaling_factor = 0;
  assert_true(moecl_reference_shared(&other).swiglu_limit == 3);
  assert_true(moecl_reference_shared_weight(&other, hidden, NULL) == 1);
}

/* ReLU, H = 2, I = 3, every number by hand. */
static void test_expert_sizes(void **state) {
  const moecl_layer_params params = {.hidden_size = 2,
                                     .intermediate_size = 3,
                                     .num_experts = 1,
                                     .top_k = 1,
                                     .activation = MOECL_RELU};
  const double hidden[2] = {1, 2}, up[6] = {1, 1, -1, 0, 0, 1}, up_bias[3] = {0, 3, -4};
  const double down[6] = {1, 2, 3, 4, 5, 6}, down_bias[2] = {0.5, -0.5};
  double output[2];
  (void)state;
  assert_ok(moecl_reference_expert(&params, hidden, up, NULL, down, NULL, output));
  assert_true(output[0] == 3 + 3 * 2 && output[1] == 4 * 3 + 6 * 2); /* inner: 3 0 2 */
  assert_ok(moecl_reference_expert(&params, hidden, up, up_bias, down, down_bias, output));
  assert_true(output[0] == 3 + 2 * 2 + 0.5 && output[1] == 4 * 3 + 5 * 2 - 0.5); /* 3 2 0 */
}

/* Rows are rounded before each matrix, in blocks of scale 1 here: 0.6 and 0.7 become 1, and 19,
 * which is as far from 18 as from 20, E4M3's even one. */
static void test_expert_quantized(void **state) {
  moecl_layer_params params = {.hidden_size = 2,
                               .intermediate_size = 2,
                               .num_experts = 1,
                               .top_k = 1,
                               .activation = MOECL_RELU,
                               .activation_format = MOECL_FORMAT_INT8};
  const double hidden[2] = {127, 0.6}, up[4] = {1, 0, 0, 0.7}, down[4] = {1, 10, 0, 0};
  const double wide[2] = {448, 19}, same[4] = {1, 0, 0, 1};
  double output[2];
  (void)state;
  assert_ok(moecl_reference_expert(&params, hidden, up, NULL, down, NULL, output));
  assert_true(output[0] == 127 + 10 * 1 && output[1] == 0);
  params.activation_format = MOECL_FORMAT_FP8_ROW;
  assert_ok(moecl_reference_expert(&params, wide, same, NULL, down, NULL, output));
  assert_true(output[0] == 448 + 10 * 20);
  assert_true(hidden[1] == 0.6 && wide[1] == 19); /* the caller's stay */
  /* What is between is given as it is activated: of rows that are rounded. */
  const float stored[4] = {1, 0, 0, 0.5f};
  params.activation_format = MOECL_FORMAT_INT8;
  assert_ok(moecl_reference_intermediate_tokens(&params, 1, hidden, stored, NULL, 1, output));
  assert_true(output[0] == 127 && output[1] == 0.5);
}

/* Gated with I = 2: gate rows come first, in weights and biases. */
static void test_gate_first(void **state) {
  const moecl_layer_params params = {.hidden_size = 1,
                                     .intermediate_size = 2,
                                     .num_experts = 1,
                                     .top_k = 1,
                                     .activation = MOECL_SWIGLU};
  const double hidden = 1, gate_up[4] = {100, 200, 2, 3}, bias[4] = {0, 0, 10, 20};
  const double down[2] = {1, 1};
  double output;
  (void)state;
  assert_ok(moecl_reference_expert(&params, &hidden, gate_up, bias, down, NULL, &output));
  assert_near(output, 100.0 * 12 + 200.0 * 23); /* silu(100) is 100 */
}

/* Numbers that every storage type holds exactly, and sums that depend on their
 * order. */
static double *exact_values(size_t count, uint32_t seed) {
  double *values = malloc(count * sizeof *values);
  assert_non_null(values);
  for (size_t i = 0; i < count; i++) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = ((double)(seed >> 27) - 15.5) * pow(2, (double)(seed >> 8 & 15) - 12);
  }
  return values;
}

static void *stored(moecl_dtype dtype, const double *values, size_t count) {
  void *bytes = malloc(count * moecl_dtype_size(dtype));
  assert_non_null(bytes);
  moecl_from_double(dtype, values, count, bytes);
  return bytes;
}

/* Several tokens on any number of threads, from storage: the bits of one after
 * the other in doubles. Sizes are odd, fewer rows than threads among them. */
static void check_tokens(moecl_dtype dtype, moecl_activation activation, int64_t h, int64_t n) {
  enum { TOKENS = 5 };
  const moecl_layer_params params = {.hidden_size = h,
                                     .intermediate_size = n,
                                     .num_experts = 1,
                                     .top_k = 1,
                                     .dtype = dtype,
                                     .activation = activation};
  const size_t rows = (size_t)n * (moecl_activation_is_gated(activation) ? 2 : 1);
  const size_t sizes[4] = {rows * (size_t)h, rows, (size_t)(h * n), (size_t)h};
  static const int threads[] = {1, 2, 3, 7, 64, 1000, 0};
  double *hidden = exact_values((size_t)(TOKENS * h), 1), *values[4];
  void *bytes[4];
  for (int i = 0; i < 4; i++) {
    values[i] = exact_values(sizes[i], (uint32_t)i + 2);
    bytes[i] = stored(dtype, values[i], sizes[i]);
  }
  double *want = malloc((size_t)(TOKENS * h) * sizeof *want);
  double *got = malloc((size_t)(TOKENS * h) * sizeof *got);
  assert_true(want && got);
  for (int64_t t = 0; t < TOKENS; t++)
    assert_ok(moecl_reference_expert(&params, hidden + t * h, values[0], values[1], values[2],
                                     values[3], want + t * h));
  for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++) {
    memset(got, 0xff, (size_t)(TOKENS * h) * sizeof *got);
    assert_ok(moecl_reference_expert_tokens(&params, TOKENS, hidden, bytes[0], bytes[1], bytes[2],
                                            bytes[3], threads[i], got));
    assert_memory_equal(got, want, (size_t)(TOKENS * h) * sizeof *got);
  }
  for (int i = 0; i < 4; i++) free(values[i]), free(bytes[i]);
  free(hidden), free(want), free(got);
}

static void test_expert_tokens(void **state) {
  (void)state;
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
    check_tokens((moecl_dtype)dtype, MOECL_SWIGLU, 67, 93);
    check_tokens((moecl_dtype)dtype, MOECL_RELU, 5, 29);
    check_tokens((moecl_dtype)dtype, MOECL_GEGLU, 130, 3);
  }
  const moecl_layer_params params = {
      .hidden_size = 1, .intermediate_size = 1, .num_experts = 1, .top_k = 1};
  const moecl_status invalid = MOECL_ERROR_INVALID_ARGUMENT;
  double value = 1;
  assert_ok(moecl_reference_expert_tokens(&params, 0, NULL, NULL, NULL, NULL, NULL, 0, NULL));
  assert_int_equal(
      moecl_reference_expert_tokens(&params, -1, &value, &value, NULL, &value, NULL, 0, &value),
      invalid);
  assert_int_equal(
      moecl_reference_expert_tokens(&params, 1, &value, &value, NULL, &value, NULL, -1, &value),
      invalid);
}

/* ---- the error measure ---- */

static void test_relative_error(void **state) {
  const double zero[2] = {0, 0}, b[2] = {3, 4}, a[2] = {3, 4.5}, bad[2] = {NAN, 4};
  const double infinite[2] = {INFINITY, 4};
  (void)state;
  assert_true(moecl_relative_error(b, b, 2) == 0.0);
  assert_near(moecl_relative_error(a, b, 2), 0.1);
  assert_true(moecl_relative_error(zero, b, 2) == 1.0);
  assert_true(moecl_relative_error(zero, zero, 2) == 0.0);
  assert_true(moecl_relative_error(NULL, NULL, 0) == 0.0);
  assert_true(isinf(moecl_relative_error(b, zero, 2)));
  assert_true(isinf(moecl_relative_error(bad, b, 2)) && isinf(moecl_relative_error(b, bad, 2)));
  assert_true(isinf(moecl_relative_error(infinite, infinite, 2)));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_topk),
      cmocka_unit_test(test_ties),
      cmocka_unit_test(test_all_and_one),
      cmocka_unit_test(test_far),
      cmocka_unit_test(test_error_floor),
      cmocka_unit_test(test_nonfinite),
      cmocka_unit_test(test_logits),
      cmocka_unit_test(test_philox),
      cmocka_unit_test(test_jitter),
      cmocka_unit_test(test_jittered_logits),
      cmocka_unit_test(test_capacity),
      cmocka_unit_test(test_capacity_edges),
      cmocka_unit_test(test_priority),
      cmocka_unit_test(test_kept_weights),
      cmocka_unit_test(test_activations),
      cmocka_unit_test(test_clamped),
      cmocka_unit_test(test_limited),
      cmocka_unit_test(test_shared),
      cmocka_unit_test(test_expert_sizes),
      cmocka_unit_test(test_expert_tokens),
      cmocka_unit_test(test_gate_first),
      cmocka_unit_test(test_relative_error),
      cmocka_unit_test(test_expert_quantized),
  };
  return cmocka_run_group_tests_name("reference", tests, NULL, NULL);
}

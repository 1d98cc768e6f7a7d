// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "common/enums.h"
#include "moecl/random.h"
#include <string.h>

/* Kernels get these as numbers. */
#define SAME(public, kernels)                                                                      \
  _Static_assert((int)(public) == (kernels), #public " in cl/common/enums.h")
SAME(MOECL_F32, ELEMENT_F32);
SAME(MOECL_F16, ELEMENT_F16);
SAME(MOECL_BF16, ELEMENT_BF16);
SAME(MOECL_SCORING_SOFTMAX, SCORING_SOFTMAX);
SAME(MOECL_SCORING_SIGMOID, SCORING_SIGMOID);
SAME(MOECL_SCORING_SQRT_SOFTPLUS, SCORING_SQRT_SOFTPLUS);
SAME(MOECL_SCORING_SPARSEMIXER, SCORING_SPARSEMIXER);
SAME(MOECL_SCORING_COUNT, SCORING_SPARSEMIXER + 1);
SAME(MOECL_GROUP_MAX, GROUP_SCORE_MAX);
SAME(MOECL_GROUP_TOP2_SUM, GROUP_SCORE_TOP2_SUM);
SAME(MOECL_GROUP_SCORE_COUNT, GROUP_SCORE_TOP2_SUM + 1);
SAME(MOECL_SECOND_ALL, SECOND_CHOICE_ALL);
SAME(MOECL_SECOND_RANDOM, SECOND_CHOICE_RANDOM);
SAME(MOECL_SECOND_SAMPLED, SECOND_CHOICE_SAMPLED);
SAME(MOECL_SECOND_CHOICE_COUNT, SECOND_CHOICE_SAMPLED + 1);
SAME(MOECL_NORMAL, DRAWS_NORMAL);
SAME(MOECL_UNIFORM, DRAWS_UNIFORM);

const char *moecl_status_string(moecl_status status) {
  switch (status) {
  case MOECL_OK: return "success";
  case MOECL_ERROR_INVALID_ARGUMENT: return "an argument is out of its documented range";
  case MOECL_ERROR_OUT_OF_HOST_MEMORY: return "out of host memory";
  case MOECL_ERROR_OUT_OF_DEVICE_MEMORY: return "out of device memory";
  case MOECL_ERROR_NO_DEVICE: return "no OpenCL device, or none that matches the choice";
  case MOECL_ERROR_DEVICE: return "an OpenCL call failed";
  case MOECL_ERROR_BUILD: return "a kernel did not compile, or failed its self-check";
  case MOECL_ERROR_UNSUPPORTED: return "what was asked for is not supported here";
  case MOECL_ERROR_IO: return "a file could not be read or written";
  case MOECL_ERROR_NOT_READY: return "not ready: something must be set or done first";
  }
  return "unknown status";
}

const char *moecl_drop_policy_name(moecl_drop_policy policy) {
  static const char *const names[] = {"position", "probability", "prioritized"};
  return (unsigned)policy < MOECL_DROP_POLICY_COUNT ? names[policy] : "?";
}

const char *moecl_eviction_name(moecl_eviction eviction) {
  static const char *const names[] = {"lru", "lfu"};
  return (unsigned)eviction < MOECL_EVICTION_COUNT ? names[eviction] : "?";
}

const char *moecl_scale_search_name(moecl_scale_search search) {
  static const char *const names[] = {"none", "mse"};
  return (unsigned)search < MOECL_SCALE_SEARCH_COUNT ? names[search] : "?";
}

const char *moecl_scoring_name(moecl_scoring scoring) {
  static const char *const names[] = {"softmax", "sigmoid", "sqrt_softplus", "sparsemixer"};
  return (unsigned)scoring < MOECL_SCORING_COUNT ? names[scoring] : "?";
}

const char *moecl_group_score_name(moecl_group_score score) {
  static const char *const names[] = {"max", "top2_sum"};
  return (unsigned)score < MOECL_GROUP_SCORE_COUNT ? names[score] : "?";
}

const char *moecl_second_choice_name(moecl_second_choice choice) {
  static const char *const names[] = {"all", "random", "sampled"};
  return (unsigned)choice < MOECL_SECOND_CHOICE_COUNT ? names[choice] : "?";
}

const char *moecl_norm_name(moecl_norm norm) {
  static const char *const names[] = {"rms", "layer"};
  return (unsigned)norm < MOECL_NORM_COUNT ? names[norm] : "?";
}

const char *moecl_qk_norm_name(moecl_qk_norm norm) {
  static const char *const names[] = {"none", "head", "full"};
  return (unsigned)norm < MOECL_QK_NORM_COUNT ? names[norm] : "?";
}

const char *moecl_rope_scaling_name(moecl_rope_scaling scaling) {
  static const char *const names[] = {"none", "linear", "llama3", "yarn"};
  return (unsigned)scaling < MOECL_ROPE_SCALING_COUNT ? names[scaling] : "?";
}

/* A binary format of 16 bits: sign, exponent, `mantissa` bits of fraction. */
typedef struct format16 {
  int mantissa, bias;
} format16;
static const format16 f16 = {10, 15}, bf16 = {7, 127};

/* Rounds once, from the double itself: through float would round twice. */
static uint16_t narrow(double value, format16 format) {
  const uint64_t fraction = (UINT64_C(1) << 52) - 1;
  uint64_t u;
  memcpy(&u, &value, sizeof u);
  uint64_t sign = u >> 63 << 15;
  uint64_t infinity = (uint64_t)(2 * format.bias + 1) << format.mantissa;
  int shift = 52 - format.mantissa;
  u &= UINT64_MAX >> 1;
  if (u > UINT64_C(0x7ff) << 52) /* NaN: keep the top of its payload, made quiet */
    return (uint16_t)(sign | infinity | UINT64_C(1) << (format.mantissa - 1) |
                      (u & fraction) >> shift);
  int exponent = (int)(u >> 52) - 1023 + format.bias;
  if (exponent > 2 * format.bias) return (uint16_t)(sign | infinity);
  uint64_t bits;
  if (exponent > 0) {
    bits = (uint64_t)exponent << 52 | (u & fraction);
  } else { /* subnormal, or too small even for that */
    shift += 1 - exponent;
    if (shift > 54) return (uint16_t)sign;
    bits = UINT64_C(1) << 52 | (u & fraction);
  }
  /* Nearest even; a carry out of the fraction moves on to the next exponent
   * and from the largest number to infinity, as it should. */
  bits += (UINT64_C(1) << (shift - 1)) - 1 + (bits >> shift & 1);
  return (uint16_t)(sign | bits >> shift);
}

static double widen(uint16_t value, format16 format) {
  uint64_t sign = (uint64_t)(value >> 15) << 63;
  uint64_t exponent = (uint64_t)(value & 0x7fff) >> format.mantissa;
  uint64_t fraction = value & ((1u << format.mantissa) - 1);
  uint64_t u;
  double result;
  if (exponent == 0) { /* fraction * 2^(1 - bias - mantissa), exact */
    uint64_t scale = (uint64_t)(1023 + 1 - format.bias - format.mantissa) << 52;
    memcpy(&result, &scale, sizeof result);
    result *= (double)fraction;
    return sign ? -result : result;
  }
  if (exponent == (uint64_t)(2 * format.bias + 1)) exponent = 0x7ff;
  else exponent += 1023 - (uint64_t)format.bias;
  u = sign | exponent << 52 | fraction << (52 - format.mantissa);
  memcpy(&result, &u, sizeof result);
  return result;
}

void moecl_to_double(moecl_dtype dtype, const void *src, size_t count, double *dst) {
  if (!src || !dst) return;
  if (dtype == MOECL_F32) {
    const float *from = src;
    for (size_t i = 0; i < count; i++) dst[i] = from[i];
  } else if (dtype == MOECL_F16 || dtype == MOECL_BF16) {
    const uint16_t *from = src;
    format16 format = dtype == MOECL_F16 ? f16 : bf16;
    for (size_t i = 0; i < count; i++) dst[i] = widen(from[i], format);
  }
}

void moecl_from_double(moecl_dtype dtype, const double *src, size_t count, void *dst) {
  if (!src || !dst) return;
  if (dtype == MOECL_F32) {
    float *to = dst;
    for (size_t i = 0; i < count; i++) to[i] = (float)src[i];
  } else if (dtype == MOECL_F16 || dtype == MOECL_BF16) {
    uint16_t *to = dst;
    format16 format = dtype == MOECL_F16 ? f16 : bf16;
    for (size_t i = 0; i < count; i++) to[i] = narrow(src[i], format);
  }
}

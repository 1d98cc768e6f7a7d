// SPDX-License-Identifier: MIT
#include "ref/activation.h"
#include <math.h>

static double silu(double x) { return x / (1 + exp(-x)); }

/* By erfc: no cancellation below 0. */
static double gelu(double x) { return 0.5 * x * erfc(-x * 0.70710678118654752440); }

/* 1 + tanh(u); below 0 as sech(u)^2 / (1 - tanh(u)), where nothing cancels. */
static double one_plus_tanh(double u) {
  return u < 0 ? 1 / (cosh(u) * cosh(u) * (1 - tanh(u))) : 1 + tanh(u);
}
static double gelu_tanh(double x) { /* sqrt(2/pi) */
  return 0.5 * x * one_plus_tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x));
}

static double cut_above(double x, double limit) { return x > limit ? limit : x; }
static double cut_both(double x, double limit) { return x < -limit ? -limit : cut_above(x, limit); }

double ref_activate(moecl_activation activation, double x) {
  switch (activation) {
  case MOECL_SILU: return silu(x);
  case MOECL_GELU: return gelu(x);
  case MOECL_GELU_TANH: return gelu_tanh(x);
  case MOECL_RELU: return x < 0 ? 0 : x;
  case MOECL_RELU2: return x < 0 ? 0 : x * x;
  default: return NAN;
  }
}

double ref_activate_gated(moecl_activation activation, double gate, double up, double alpha,
                          double limit) {
  switch (activation) {
  case MOECL_SWIGLU: return silu(gate) * up;
  case MOECL_GEGLU: return gelu(gate) * up;
  case MOECL_GEGLU_TANH: return gelu_tanh(gate) * up;
  case MOECL_SWIGLU_CLAMPED:
    gate = cut_above(gate, limit);
    return gate / (1 + exp(-alpha * gate)) * (cut_both(up, limit) + 1);
  case MOECL_SWIGLU_LIMITED: return silu(cut_above(gate, limit)) * cut_both(up, limit);
  case MOECL_SWIGLU_LIMITED_SILU: return cut_above(silu(gate), limit) * cut_both(up, limit);
  default: return NAN;
  }
}

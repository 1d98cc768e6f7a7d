// SPDX-License-Identifier: MIT
#include "desc/activation.h"
#include "common/enums.h"
#include <stddef.h>

/* name, the kernels' number, gated, with a limit */
static const desc_activation activations[] = {
    [MOECL_SWIGLU] = {"swiglu", ACTIVATION_SILU, true, false},
    [MOECL_GEGLU] = {"geglu", ACTIVATION_GELU, true, false},
    [MOECL_RELU] = {"relu", ACTIVATION_RELU, false, false},
    [MOECL_GELU] = {"gelu", ACTIVATION_GELU, false, false},
    [MOECL_SILU] = {"silu", ACTIVATION_SILU, false, false},
    [MOECL_GEGLU_TANH] = {"geglu_tanh", ACTIVATION_GELU_TANH, true, false},
    [MOECL_GELU_TANH] = {"gelu_tanh", ACTIVATION_GELU_TANH, false, false},
    [MOECL_RELU2] = {"relu2", ACTIVATION_RELU2, false, false},
    [MOECL_SWIGLU_CLAMPED] = {"swiglu_clamped", ACTIVATION_SWIGLU_CLAMPED, true, true},
    [MOECL_SWIGLU_LIMITED] = {"swiglu_limited", ACTIVATION_SWIGLU_LIMITED, true, true},
    [MOECL_SWIGLU_LIMITED_SILU] = {"swiglu_limited_silu", ACTIVATION_SWIGLU_LIMITED_SILU, true,
                                   true},
};
_Static_assert(sizeof activations / sizeof activations[0] == MOECL_ACTIVATION_COUNT,
               "a row for each activation");

const desc_activation *desc_activation_of(moecl_activation activation) {
  return (unsigned)activation < MOECL_ACTIVATION_COUNT ? &activations[activation] : NULL;
}

moecl_activation desc_activation_find(int kernel, bool gated) {
  int i = 0;
  while (i < MOECL_ACTIVATION_COUNT &&
         (activations[i].kernel != kernel || activations[i].gated != gated))
    i++;
  return (moecl_activation)i;
}

const char *moecl_activation_name(moecl_activation activation) {
  const desc_activation *row = desc_activation_of(activation);
  return row ? row->name : "?";
}

bool moecl_activation_is_gated(moecl_activation activation) {
  const desc_activation *row = desc_activation_of(activation);
  return row && row->gated;
}

bool moecl_activation_has_limit(moecl_activation activation) {
  const desc_activation *row = desc_activation_of(activation);
  return row && row->has_limit;
}

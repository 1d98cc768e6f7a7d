// SPDX-License-Identifier: MIT
/* How many assignments an expert takes. */
#include "desc/rule.h"
#include "moecl/routing.h"
#include <math.h>

int64_t desc_expert_capacity(const desc_dispatch *dispatch, int64_t num_tokens) {
  if (dispatch->capacity_factor == 0.0) return -1;
  double assignments = (double)num_tokens * (double)dispatch->top_k;
  double exact = dispatch->capacity_factor * assignments / (double)dispatch->num_experts;
  /* A factor such as 1.1 is not representable: 1.1 times 10 assignments an
   * expert must give 11, not ceil(11.000000000000002) = 12. The factor's own
   * rounding and the two operations' are together below 2^-51 of the value,
   * so an integer that near is the one that was meant. */
  double nearest = nearbyint(exact);
  double rounded = fabs(exact - nearest) <= exact * 0x1p-51 ? nearest : ceil(exact);
  if (dispatch->capacity_of_tokens) rounded = ceil(dispatch->capacity_factor * (double)num_tokens);
  if (assignments > 0) rounded = fmax(rounded, 1); /* of a product that underflows, too */
  /* Beyond any number of assignments; also keeps the conversion defined. */
  int64_t capacity = rounded < 0x1p62 ? (int64_t)rounded : INT64_C(1) << 62;
  return capacity > dispatch->min_capacity ? capacity : dispatch->min_capacity;
}

int64_t moecl_expert_capacity(const moecl_layer_params *params, int64_t num_tokens) {
  if (!params) return 0;
  const desc_dispatch dispatch = desc_dispatch_of(params);
  return desc_expert_capacity(&dispatch, num_tokens);
}

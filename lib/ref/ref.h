// SPDX-License-Identifier: MIT
/* The reference of single operations, for their self-checks: what
 * include/moecl/reference.h says of the calls of the same names, without a layer. */
#ifndef MOECL_LIB_REF_REF_H
#define MOECL_LIB_REF_REF_H

#include "desc/rule.h"

double ref_topk(const desc_rule *rule, const double *logits, const double *correction_bias,
                uint64_t seed, int64_t token, int32_t *ids, double *weights, double *scores);
double ref_weight_floor(const desc_rule *rule);
moecl_status ref_capacity(const desc_dispatch *dispatch, int64_t num_tokens,
                          const int32_t *topk_ids, const float *topk_weights,
                          const float *token_priority, uint8_t *kept);
void ref_kept_weights(const desc_dispatch *dispatch, const float *topk_weights, const uint8_t *kept,
                      double *weights);

#endif

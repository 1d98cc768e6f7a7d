// SPDX-License-Identifier: MIT
#include "ref/ref.h"
#include <math.h>

void ref_rotate(const desc_rotary *rotary, int64_t position, double *head) {
  const double magnitude = desc_rotary_magnitude(rotary);
  const int64_t pairs = rotary->dim / 2;
  for (int64_t i = 0; i < pairs; i++) {
    double *a = &head[rotary->interleaved ? 2 * i : i];
    double *b = &head[rotary->interleaved ? 2 * i + 1 : i + pairs];
    const double angle = (double)position * desc_rotary_frequency(rotary, i);
    const double c = magnitude * cos(angle), s = magnitude * sin(angle);
    const double turned = *a * c - *b * s;
    *b = *a * s + *b * c;
    *a = turned;
  }
}

void ref_clip(const desc_attention *attention, int64_t count, double *values) {
  const double most = attention->clip;
  for (int64_t i = 0; most > 0 && i < count; i++)
    values[i] = values[i] > most ? most : values[i] < -most ? -most : values[i];
}

/* In place: each head, or all at once, then the cut and the turns. */
void ref_prepare_heads(const desc_attention *attention, int64_t num_heads, int64_t position,
                       const double *norm_weight, double *heads) {
  const int64_t dim = attention->head_dim;
  desc_norm norm = {
      .size = dim, .epsilon = attention->qk_norm_epsilon, .plus_one = attention->qk_norm_plus_one};
  if (attention->qk_norm == MOECL_QK_NORM_FULL) norm.size = num_heads * dim;
  for (int64_t at = 0; attention->qk_norm != MOECL_QK_NORM_NONE && at < num_heads * dim;
       at += norm.size)
    ref_norm(&norm, heads + at, norm_weight, NULL, heads + at);
  ref_clip(attention, num_heads * dim, heads);
  for (int64_t head = 0; head < num_heads; head++)
    ref_rotate(&attention->rotary, position, heads + head * dim);
}

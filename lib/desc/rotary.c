// SPDX-License-Identifier: MIT
/* The frequencies of rotary embeddings. */
#include "desc/attention.h"
#include <math.h>

static const double PI = 3.14159265358979323846;

/* Long waves are stretched, short ones kept: by how often one fits into the positions that
 * the model was trained on. */
static double llama3(const desc_rotary *rotary, double frequency) {
  const double turns = rotary->original_positions * frequency / (2 * PI);
  const double low = rotary->low_freq_factor, high = rotary->high_freq_factor;
  if (turns < low) return frequency / rotary->factor;
  if (turns > high) return frequency;
  const double kept = (turns - low) / (high - low);
  return (1 - kept) * frequency / rotary->factor + kept * frequency;
}

/* The pair, a fraction too, that turns so often in the positions trained on. */
static double pair_of_turns(const desc_rotary *rotary, double turns) {
  return (double)rotary->dim * log(rotary->original_positions / (turns * 2 * PI)) /
         (2 * log(rotary->theta));
}

static double yarn(const desc_rotary *rotary, int64_t pair, double frequency) {
  double first = pair_of_turns(rotary, rotary->beta_fast);
  double last = pair_of_turns(rotary, rotary->beta_slow);
  if (!rotary->not_truncated) {
    first = floor(first);
    last = ceil(last);
  }
  first = fmax(first, 0);
  last = fmin(last, (double)rotary->dim - 1);
  if (first == last) last += 0.001; /* as transformers keeps the ramp from being infinite */
  const double stretched = fmin(fmax(((double)pair - first) / (last - first), 0), 1);
  return stretched * frequency / rotary->factor + (1 - stretched) * frequency;
}

double desc_rotary_frequency(const desc_rotary *rotary, int64_t pair) {
  const double frequency = pow(rotary->theta, -2.0 * (double)pair / (double)rotary->dim);
  switch (rotary->scaling) {
  case MOECL_ROPE_LINEAR: return frequency / rotary->factor;
  case MOECL_ROPE_LLAMA3: return llama3(rotary, frequency);
  case MOECL_ROPE_YARN: return yarn(rotary, pair, frequency);
  default: return frequency;
  }
}

double desc_rotary_magnitude(const desc_rotary *rotary) {
  return rotary->scaling == MOECL_ROPE_YARN ? rotary->attention_factor : 1;
}

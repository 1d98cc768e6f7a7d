// SPDX-License-Identifier: MIT
#include "desc/attention.h"
#include <math.h>

static int64_t side_of(const desc_relative *relative, bool causal) {
  return causal ? relative->num_buckets : relative->num_buckets / 2;
}

int64_t desc_relative_exact(const desc_relative *relative, bool causal) {
  return side_of(relative, causal) / 2;
}

/* Models were trained with buckets that were found in fp32, where a distance on the edge of two
 * falls into one or the other by rounding: the same roundings are made here, of a logarithm that
 * is the same on every host. */
static int64_t wide_bucket(const desc_relative *relative, int64_t buckets, int64_t exact,
                           int64_t distance) {
  const float times = (float)distance / (float)exact;
  const float most = (float)log((double)relative->max_distance / (double)exact);
  const float share = (float)log((double)times) / most;
  const int64_t bucket = exact + (int64_t)(share * (float)(buckets - exact));
  return bucket < buckets ? bucket : buckets - 1;
}

int64_t desc_relative_bucket(const desc_relative *relative, bool causal, int64_t distance) {
  const int64_t buckets = side_of(relative, causal), exact = desc_relative_exact(relative, causal);
  const int64_t first = distance > 0 && !causal ? buckets : 0;
  const int64_t apart = distance <= 0 ? -distance : causal ? 0 : distance;
  return first + (apart < exact ? apart : wide_bucket(relative, buckets, exact, apart));
}

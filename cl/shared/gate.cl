// SPDX-License-Identifier: MIT
/* What the shared expert's output is multiplied by: gate[t] = FACTOR times, where
 * the layer has a gate, sigmoid(hidden[t] . weight), one work-group a token; always
 * summed in the same order. Defines: DTYPE, GATED (the layer has a gate), FACTOR;
 * LOCAL, a power of two. */
#include "common/types.clh"

#if GATED
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
shared_gate(const __global storage_t *hidden, const __global storage_t *weight,
            __global float *gate, long hidden_size) {
  __local float part[LOCAL];
  const int lid = (int)get_local_id(0);
  const size_t token = get_group_id(0);
  float sum = 0.0f;
  for (long h = lid; h < hidden_size; h += LOCAL)
    sum = fma(storage_load(hidden, token * (size_t)hidden_size + (size_t)h),
              storage_load(weight, (size_t)h), sum);
  part[lid] = sum;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int half_size = LOCAL / 2; half_size > 0; half_size /= 2) {
    if (lid < half_size) part[lid] += part[lid + half_size];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  if (lid == 0) gate[token] = FACTOR / (1.0f + exp(-part[0]));
}
#else
__kernel void shared_factor(__global float *gate) { gate[get_global_id(0)] = FACTOR; }
#endif

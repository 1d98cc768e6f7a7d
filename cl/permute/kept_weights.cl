// SPDX-License-Identifier: MIT
/* Route weights renormalized after capacity: those of a token's kept choices divided
 * by their sum, or EPSILON where that is more, times SCALE. Defines: SCALE, EPSILON.
 * A work-item a token. */
__kernel void kept_weights(const __global float *topk_weights, const __global int *assignment_slot,
                           __global float *weights, int num_tokens, int top_k) {
  const size_t token = get_global_id(0);
  if (token >= (size_t)num_tokens) return;
  const size_t first = token * (size_t)top_k;
  float sum = 0.0f;
  for (int k = 0; k < top_k; k++)
    sum += assignment_slot[first + k] >= 0 ? topk_weights[first + k] : 0.0f;
  sum = fmax(sum, EPSILON);
  for (int k = 0; k < top_k; k++)
    weights[first + k] =
        assignment_slot[first + k] >= 0 ? topk_weights[first + k] / sum * SCALE : 0.0f;
}

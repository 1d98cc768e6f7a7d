// SPDX-License-Identifier: MIT
/* Batch prioritized routing: token_priority[t] = the largest share in the softmax of
 * the token's logits, 0 where one of them is not finite. A work-group a token.
 * Defines: LOCAL, a power of two. */

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
prioritize(const __global float *logits, __global float *token_priority, int num_experts) {
  __local float most[LOCAL], sums[LOCAL];
  const int lid = (int)get_local_id(0);
  const size_t token = get_group_id(0);
  logits += token * (size_t)num_experts;
  float best = -INFINITY;
  for (int e = lid; e < num_experts; e += LOCAL)
    best = isfinite(logits[e]) ? fmax(best, logits[e]) : INFINITY; /* which stays the most */
  most[lid] = best;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int half_size = LOCAL / 2; half_size > 0; half_size /= 2) {
    if (lid < half_size) most[lid] = fmax(most[lid], most[lid + half_size]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  float sum = 0.0f;
  for (int e = lid; e < num_experts; e += LOCAL) sum += exp(logits[e] - most[0]);
  sums[lid] = sum;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int half_size = LOCAL / 2; half_size > 0; half_size /= 2) {
    if (lid < half_size) sums[lid] += sums[lid + half_size];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  if (lid == 0) token_priority[token] = isfinite(most[0]) ? 1.0f / sums[0] : 0.0f;
}

/* Softmax over all experts and top-k, one work-item a token: no barriers, and
 * a sorted insertion list that a typical row touches a few times only.
 * Defines: RENORMALIZE 0 or 1. Same rules as generic.cl. */
#define MAX_TOP_K 64

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
topk(const __global float *logits, __global int *topk_ids, __global float *topk_weights,
     int num_experts, int top_k) {
  float best[MAX_TOP_K];
  int best_id[MAX_TOP_K];
  const size_t token = get_group_id(0);
  logits += token * (size_t)num_experts;
  topk_ids += token * (size_t)top_k;
  topk_weights += token * (size_t)top_k;

  int finite = 1;
  int filled = 0;
  for (int e = 0; e < num_experts; e++) {
    const float x = logits[e];
    finite &= isfinite(x) != 0;
    if (filled == top_k && !(x > best[top_k - 1])) continue;
    /* Behind equal ones: ties stay with the lower id. */
    int at = filled < top_k ? filled++ : top_k - 1;
    for (; at > 0 && best[at - 1] < x; at--) {
      best[at] = best[at - 1];
      best_id[at] = best_id[at - 1];
    }
    best[at] = x;
    best_id[at] = e;
  }
  if (!finite) {
    for (int k = 0; k < top_k; k++) {
      topk_ids[k] = -1;
      topk_weights[k] = 0.0f;
    }
    return;
  }

  float denominator = 0.0f;
#if RENORMALIZE /* the full softmax's denominator cancels out */
  for (int k = 0; k < top_k; k++) denominator += exp(best[k] - best[0]);
#else
  for (int e = 0; e < num_experts; e++) denominator += exp(logits[e] - best[0]);
#endif
  for (int k = 0; k < top_k; k++) {
    topk_ids[k] = best_id[k];
    topk_weights[k] = exp(best[k] - best[0]) / denominator;
  }
}

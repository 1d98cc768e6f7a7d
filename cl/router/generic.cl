/* Softmax over all experts and top-k, one work-group a token.
 * Defines: RENORMALIZE 0 or 1; BIAS 0 or 1 (already in the logits when 0).
 * Any E up to 1024, any K up to E: K rounds of a tree reduction. Ties go to
 * the lower expert id because the comparison orders (logit, -id).
 *
 * A token with a logit that is not finite is routed nowhere: ids -1, weights 0. */
#define LOCAL 64
#define MAX_EXPERTS 1024

static inline bool better(float a, int ia, float b, int ib) { return a > b || (a == b && ia < ib); }

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
topk(const __global float *logits, __global int *topk_ids, __global float *topk_weights,
     int num_experts, int top_k) {
  __local float row[MAX_EXPERTS];
  __local float value[LOCAL];
  __local int index[LOCAL];
  const size_t token = get_group_id(0);
  const int lid = (int)get_local_id(0);
  logits += token * (size_t)num_experts;
  topk_ids += token * (size_t)top_k;
  topk_weights += token * (size_t)top_k;

  /* Load, with the row's maximum and whether all of it is finite. */
  float maximum = -INFINITY;
  int finite = 1;
  for (int e = lid; e < num_experts; e += LOCAL) {
    const float x = logits[e];
    row[e] = x;
    finite &= isfinite(x) != 0;
    maximum = fmax(maximum, x);
  }
  value[lid] = maximum;
  index[lid] = finite;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = LOCAL / 2; step > 0; step /= 2) {
    if (lid < step) {
      value[lid] = fmax(value[lid], value[lid + step]);
      index[lid] &= index[lid + step];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  maximum = value[0];
  finite = index[0];
  barrier(CLK_LOCAL_MEM_FENCE);
  if (!finite) { /* uniform over the work-group */
    for (int k = lid; k < top_k; k += LOCAL) {
      topk_ids[k] = -1;
      topk_weights[k] = 0.0f;
    }
    return;
  }

  /* The softmax's denominator, summed in a fixed order. */
  float sum = 0.0f;
  for (int e = lid; e < num_experts; e += LOCAL) sum += exp(row[e] - maximum);
  value[lid] = sum;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = LOCAL / 2; step > 0; step /= 2) {
    if (lid < step) value[lid] += value[lid + step];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  const float denominator = value[0];

  for (int k = 0; k < top_k; k++) {
    float best = -INFINITY;
    int best_id = MAX_EXPERTS;
    for (int e = lid; e < num_experts; e += LOCAL)
      if (better(row[e], e, best, best_id)) {
        best = row[e];
        best_id = e;
      }
    barrier(CLK_LOCAL_MEM_FENCE); /* the round before still reads value[0], index[0] */
    value[lid] = best;
    index[lid] = best_id;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int step = LOCAL / 2; step > 0; step /= 2) {
      if (lid < step && better(value[lid + step], index[lid + step], value[lid], index[lid])) {
        value[lid] = value[lid + step];
        index[lid] = index[lid + step];
      }
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float score = exp(value[0] - maximum) / denominator;
    if (lid == 0) {
      topk_ids[k] = index[0];
      topk_weights[k] = score;
      row[index[0]] = -INFINITY; /* taken; logits are finite, so it can't win again */
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
#if RENORMALIZE
  /* By the work-item that wrote them. A sum carried through the rounds above,
   * over their barriers, comes out wrong on PoCL 3.1. */
  if (lid == 0) {
    float chosen = 0.0f;
    for (int k = 0; k < top_k; k++) chosen += topk_weights[k];
    for (int k = 0; k < top_k; k++) topk_weights[k] /= chosen;
  }
#endif
}

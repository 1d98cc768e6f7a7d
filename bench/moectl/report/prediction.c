// SPDX-License-Identifier: MIT
#include "report/prediction.h"
#include <math.h>

/* ---- of what ---- */

/* False: something is not known, or nothing was sent. */
static bool basis_of(const results *all, size_t index, prediction_basis *basis) {
  const point_parallel *parallel = &all->points[index].parallel;
  double rows = 0, kernels = 0, sent = 0, received = 0, copied = 0, choices = 0, transfer = 0,
         tokens = 0, stored = 0, most = 0;
  const double members = (double)parallel->num_members;
  if (!point_has_loads(all, index) || parallel->num_members < 2) return false;
  for (size_t m = 0; m < parallel->num_members; m++) {
    const point_member *one = &parallel->members[m];
    rows += (double)one->rows;
    most = fmax(most, (double)one->rows);
    stored += (double)one->stored_bytes;
    tokens += (double)one->num_tokens;
    kernels += one->kernels_ms;
    transfer += one->transfer_ms;
    choices += (double)one->choice_bytes_sent;
    copied += (double)one->copied_bytes;
    sent += (double)(one->bytes_sent + one->choice_bytes_sent);
    received += (double)(one->bytes_received + one->choice_bytes_received);
  }
  if (copied == 0) copied = sent + received; /* of results of earlier versions */
  sent -= stored;                            /* by copies */
  received -= stored;
  *basis =
      (prediction_basis){.index = index,
                         .tokens = tokens / members,
                         .choices = rows / tokens,
                         .row_ms = kernels / rows,
                         .bytes_per_ms = copied / transfer,
                         .received = (copied - sent) / received,
                         .choice_bytes = choices / members / (members - 1),
                         .hidden = parallel->hidden_share,
                         .row_bytes = (double)parallel->row_bytes,
                         .output_row_bytes = (double)parallel->output_row_bytes,
                         .stores = stored > 0,
                         .down_row_ms = all->points[index].time_ms[MOECL_STAGE_DOWN].median / most};
  return rows > 0 && kernels > 0 && transfer > 0 && received > 0 && isfinite(basis->row_ms) &&
         isfinite(basis->bytes_per_ms) && isfinite(basis->hidden) && parallel->row_bytes > 0 &&
         (!basis->stores || isfinite(basis->down_row_ms));
}

bool prediction_find_basis(const results *all, prediction_basis *basis) {
  prediction_basis one;
  bool found = false;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (!basis_of(all, i, &one) || (found && one.tokens <= basis->tokens)) continue;
    *basis = one;
    found = true;
  }
  return found;
}

/* ---- what ---- */

/* A device's share of all rows: its neighbours' in the order of experts, placed evenly. */
static double share_of(const moecl_routing *routing, int64_t device, int64_t devices) {
  const int64_t experts = routing->num_experts - routing->num_identity_experts;
  const int64_t *loads = routing->tokens_per_expert_after_capacity;
  double own = 0, sum = 0;
  for (int64_t e = 0; e < experts; e++) {
    sum += (double)loads[e];
    if (e >= device * experts / devices && e < (device + 1) * experts / devices)
      own += (double)loads[e];
  }
  return sum > 0 ? own / sum : 0;
}

/* Rows once to each device with an expert of their token, whose choices are independent. */
typedef struct spread {
  double most;    /* the busiest device's share of all rows */
  double reached; /* devices that a token goes to */
  double comes;   /* of the busiest device: the share of tokens that go there */
} spread;

static spread spread_over(const moecl_routing *routing, const prediction_basis *basis,
                          int64_t devices) {
  spread spread = {0, 0, 0};
  for (int64_t d = 0; d < devices; d++) {
    const double share = share_of(routing, d, devices), goes = 1 - pow(1 - share, basis->choices);
    spread.most = fmax(spread.most, share);
    spread.reached += goes;
    spread.comes = fmax(spread.comes, goes);
  }
  return spread;
}

/* Of the busiest device, which waits for all that others send it and has its own copies of a part:
 * rows to experts, then outputs, if copies carry those. */
static double transfer_ms(const prediction_basis *basis, double imbalance, double others,
                          double tokens_out, double tokens_in, double outputs) {
  const double f = basis->received;
  const double there = fmax(tokens_in, tokens_out + f * tokens_in);
  const double back = basis->stores ? 0 : (imbalance + f) * outputs;
  return (there + back + (1 + f) * others * basis->choice_bytes) / basis->bytes_per_ms;
}

bool prediction_make(const results *all, const prediction_basis *basis, int64_t devices,
                     prediction *made) {
  const moecl_routing *routing = &all->points[basis->index].routing;
  const double count = (double)devices, others = count - 1;
  if (devices < 1 || devices > routing->num_experts - routing->num_identity_experts) return false;
  const spread spread = spread_over(routing, basis, devices);
  const double rows = basis->tokens * basis->choices; /* of a device in the mean */
  const double tokens_out = others / count * basis->tokens * spread.reached * basis->row_bytes;
  const double tokens_in = others * basis->tokens * spread.comes * basis->row_bytes;
  const double outputs = others / count * rows * basis->output_row_bytes;
  made->imbalance = count * spread.most;
  made->bytes = tokens_out + outputs;
  made->compute_ms = basis->row_ms * rows * made->imbalance;
  made->transfer_ms = transfer_ms(basis, made->imbalance, others, tokens_out, tokens_in, outputs);
  made->late_ms =
      basis->stores
          ? made->imbalance * fmax(0, outputs / basis->bytes_per_ms - basis->down_row_ms * rows)
          : 0;
  made->layer_ms = made->compute_ms + (1 - basis->hidden) * made->transfer_ms + made->late_ms;
  made->speed = count * basis->row_ms * rows / made->layer_ms;
  return true;
}

// SPDX-License-Identifier: MIT
/* Of points on several devices: what more of them gain, what placement evens out, and what still
 * more would do, which is a prediction. */
#include "report/prediction.h"
#include "report/report_parts.h"
#include "base/list.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* The least and the most of a quantity; a NaN is none. */
typedef struct span {
  double least, most;
} span;
static const span nothing = {INFINITY, -INFINITY};

static void widen(span *to, double value) {
  if (!isfinite(value)) return;
  to->least = fmin(to->least, value);
  to->most = fmax(to->most, value);
}

/* "1.9x to 3.4x", or one number where both read alike. */
static void put_span(const span *of, double times, const char *unit, FILE *file) {
  char low[NUMBER_SIZE], high[NUMBER_SIZE];
  number_text(times * of->least, low, sizeof low);
  number_text(times * of->most, high, sizeof high);
  if (strcmp(low, high) != 0) fprintf(file, "%s%s to ", low, unit);
  fprintf(file, "%s%s", high, unit);
}

/* Does a list of devices name one alone? NULL: the experiment's. */
static bool names_one(const char *devices) {
  size_t length, other;
  const char *first = devices ? list_next(devices, &length) : NULL;
  if (!first) return true;
  for (const char *at = first; (at = list_next(at, &other)) != NULL; at += other)
    if (other != length || strncmp(at, first, length) != 0) return false;
  return length != strlen("all") || strncmp(first, "all", length) != 0;
}

/* On how many of this machine's devices members are, as they say (point_member); 0: nobody knows,
 * as of processes, or in results of earlier versions. */
static size_t count_devices(const point_parallel *parallel) {
  size_t count = 0;
  for (size_t m = 0; m < parallel->num_members; m++) {
    const char *device = parallel->members[m].device;
    bool seen = false;
    if (!strchr(device, '(') || strstr(device, ", rank ")) return 0;
    for (size_t before = 0; before < m; before++)
      seen = seen || strcmp(parallel->members[before].device, device) == 0;
    count += !seen;
  }
  return count;
}

/* Are all members contexts of one device? Of processes nobody knows whose machines they were on. */
static bool is_one_device(const results *all, size_t index) {
  return names_one(all->experiment->points[index].parallel.devices) &&
         !results_of_processes(&all->points[index].parallel);
}

/* ---- what more devices gain ---- */

bool report_scaling(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  const size_t axis = grid_find(plan, "experts");
  span speed = nothing, hidden = nothing, imbalance = nothing, share = nothing;
  int64_t most = 1, from = 1;
  bool alone = true;
  size_t devices = SIZE_MAX;
  if (axis == plan->num_axes) return false;
  for (size_t i = 0; i < plan->num_points; i++)
    if (isfinite(picture_value(all, PICTURE_SCALING, i)) && plan->points[i].parallel.experts > most)
      most = plan->points[i].parallel.experts;
  for (size_t i = 0; i < plan->num_points && most > 1; i++) {
    const point_parallel *parallel = &all->points[i].parallel;
    const double times = picture_value(all, PICTURE_SCALING, i);
    if (plan->points[i].parallel.experts != most || !isfinite(times)) continue;
    const int64_t fewest = pictures_scaling_from(all, i);
    if (fewest == most) continue; /* compared with itself */
    if (fewest > from) from = fewest;
    widen(&speed, times);
    widen(&share, 100 * times / (double)most);
    widen(&hidden, 100 * parallel->hidden_share);
    widen(&imbalance, parallel->member_imbalance);
    alone = alone && is_one_device(all, i);
    const size_t own = count_devices(parallel);
    if (own < devices) devices = own;
  }
  if (!(speed.most > 0)) return false;
  fprintf(file, "%" PRId64 " members do ", most);
  put_span(&speed, 1, "x", file);
  fputs(" the tokens per second of one (", file);
  put_span(&share, 1, "%", file);
  fputs(" of the ideal)", file);
  if (from > 1) fprintf(file, ", if %" PRId64 " do %" PRId64 "x: one was not measured", from, from);
  if (alone) fputs(", all on one device, which they share", file);
  else if (devices > 0 && (int64_t)devices < most)
    fprintf(file, ", on %zu device%s, which they share", devices, devices == 1 ? "" : "s");
  if (imbalance.most > 0) {
    fputs("; the busiest has ", file);
    put_span(&imbalance, 1, "x", file);
    fputs(" the mean rows", file);
  }
  if (hidden.most >= 0) {
    fputs(", and ", file);
    put_span(&hidden, 1, "%", file);
    fputs(" of the copying is hidden", file);
  }
  fputc('.', file);
  return true;
}

/* ---- what placement evens out ---- */

static bool put_placements(const results *all, size_t axis, const char *between, FILE *file) {
  const experiment *plan = all->experiment;
  const char *before = "The busiest member has ";
  char text[LABEL_SIZE];
  for (size_t digit = 0; digit < plan->axes[axis].count; digit++) {
    span imbalance = nothing;
    for (size_t i = 0; i < plan->num_points; i++)
      if (grid_digit(plan, axis, i) == digit && point_ran(all, i) &&
          all->points[i].parallel.num_members > 1)
        widen(&imbalance, all->points[i].parallel.member_imbalance);
    if (!(imbalance.most > 0)) continue;
    grid_value_text(plan, axis, digit * grid_stride(plan, axis), text, sizeof text);
    fprintf(file, "%s%s", between, before);
    put_span(&imbalance, 1, "x", file);
    fprintf(file, " the mean rows with %s=%s", plan->axes[axis].param, text);
    before = ", ", between = "";
  }
  if (*before == ',') fputc('.', file);
  return *before == ',';
}

bool report_placements(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  static const char *const params[] = {"placement", "replicas"};
  bool any = false;
  for (size_t i = 0; i < sizeof params / sizeof *params; i++) {
    const size_t axis = grid_find(plan, params[i]);
    if (axis < plan->num_axes && put_placements(all, axis, any ? " " : "", file)) any = true;
  }
  return any;
}

/* ---- a prediction ---- */

static void put_model(const prediction_basis *basis, FILE *file) {
  fprintf(
      file,
      "## Prediction\n\n**PREDICTION: nothing in this table was measured.** It is what N devices "
      "would do, each with as many tokens as a device had in point %zu (T = %.0f), if they were as "
      "fast and joined by as fast links, and tokens were spread as there: time = c k T I + (1 - h) "
      "(max(A, D + f A) + %s(1 + f) (N - 1) C) / r%s, and one device alone would take c k T. ",
      basis->index, basis->tokens, basis->stores ? "" : "(I + f) R + ",
      basis->stores ? " + I max(0, R / r - d k T)" : "");
}

/* Of outputs that no copy carries. */
static void put_stored(const prediction_basis *basis, FILE *file) {
  char d[NUMBER_SIZE];
  if (!basis->stores) return;
  fprintf(file,
          "Outputs are stored where they are combined by the experts' second GEMM, beside its "
          "products: they count as far as they take longer than that, d = %s us a row. ",
          number_text(1e3 * basis->down_row_ms, d, sizeof d));
}

static void put_basis(const results *all, const prediction_basis *basis, FILE *file) {
  const point_parallel *parallel = &all->points[basis->index].parallel;
  const char *transport = parallel->transport;
  const bool processes = results_of_processes(parallel);
  char c[NUMBER_SIZE], r[NUMBER_SIZE], k[NUMBER_SIZE], h[NUMBER_SIZE], f[NUMBER_SIZE];
  put_model(basis, file);
  put_stored(basis, file);
  fprintf(
      file,
      "From the point: c = %s us of kernels a row; k = %s rows a token; h = %s%% of copying "
      "hidden; "
      "r = %s MB/s of a device's copies, by the transport `%s`; f = %s%% of the bytes that come to "
      "a device are in copies of its own, beside all that it sends; C = %.0f bytes of choices, ids "
      "and weights, to each other device. From its tokens_per_expert, experts being placed evenly "
      "and choices independent: I, the busiest device's rows over the mean; D, bytes of a device's "
      "tokens to others, %.0f once to each that has an expert of a token; A, of those that come to "
      "the busiest from others; R, bytes that come back to a device, %.0f for each choice. That "
      "many links are as fast as few, that a device gets no more than r either, and that rows an "
      "expert stay as many, is assumed. What each device does for the whole batch, which grows "
      "with N, is left out: the lists of all choices%s.\n\n",
      number_text(1e3 * basis->row_ms, c, sizeof c), number_text(basis->choices, k, sizeof k),
      number_text(100 * basis->hidden, h, sizeof h),
      number_text(1e-3 * basis->bytes_per_ms, r, sizeof r), transport,
      number_text(100 * basis->received, f, sizeof f), basis->choice_bytes, basis->row_bytes,
      basis->output_row_bytes, processes ? ", and how processes gather their ids and weights" : "");
  if (is_one_device(all, basis->index))
    fputs(
        "The members were contexts of one device, which they shared: this says nothing of several "
        "devices, but how it is reckoned.\n\n",
        file);
}

static void put_prediction(int64_t devices, const prediction_basis *basis, const prediction *made,
                           FILE *file) {
  const double cells[] = {made->imbalance,  made->bytes / (1u << 20),
                          made->compute_ms, made->layer_ms - made->compute_ms,
                          made->layer_ms,   1e3 * (double)devices * basis->tokens / made->layer_ms,
                          made->speed,      100 * made->speed / (double)devices};
  char text[NUMBER_SIZE];
  fprintf(file, "| %" PRId64 " |", devices);
  for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
    fprintf(file, " %s |", number_text(cells[i], text, sizeof text));
  fputc('\n', file);
}

void report_prediction(const results *all, FILE *file) {
  prediction_basis basis;
  prediction made;
  if (!prediction_find_basis(all, &basis) || !prediction_make(all, &basis, 8, &made)) return;
  put_basis(all, &basis, file);
  fputs(
      "| devices | imbalance | MiB to others and back | compute ms | copying not hidden ms | layer "
      "ms | tokens/s | times one device | % of ideal |\n"
      "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
      file);
  for (int64_t devices = 8; devices <= 64; devices *= 2)
    if (prediction_make(all, &basis, devices, &made)) put_prediction(devices, &basis, &made, file);
  fputs("\nMore devices than experts are left out.\n\n", file);
}

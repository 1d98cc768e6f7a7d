/* moectl verify: a layer of a model folder on recorded hidden states, beside what was
 * recorded of it elsewhere. */
#include "moectl.h"
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a recording may have, each [T, columns]. */
typedef enum quantity { LOGITS = 0, IDS, WEIGHTS, OUTPUT, QUANTITIES } quantity;
static const char *const names[QUANTITIES] = {"router_logits", "topk_ids", "topk_weights",
                                              "output"};

typedef struct comparison {
  double error;          /* ||ours - recorded|| / ||recorded||; of ids: the share that differs */
  int64_t differ, first; /* tokens; the first of them */
} comparison;

typedef struct verification {
  const options *options;
  moecl_checkpoint *checkpoint;
  int64_t index;
  moecl_checkpoint_layer stored;
  moecl_layer_params params;
  moecl_safetensors *file;
  int64_t num_tokens;
  double *hidden;               /* [T,H] */
  double *recorded[QUANTITIES]; /* NULL: not in the file */
  double *ours[QUANTITIES];
  double *correction_bias; /* [E] or NULL */
  bool *at_tie;            /* [T]: other experts, and rightly so */
  int64_t ties;
  moecl_context *context;
  moecl_layer *layer;
} verification;

static int64_t columns_of(const verification *v, quantity q) {
  return q == LOGITS   ? v->params.num_experts
         : q == OUTPUT ? v->params.hidden_size
                       : v->params.top_k;
}

/* ---- the recording ---- */

/* A tensor [rows, columns], dimensions of 1 before them aside; rows -1: any, told in
 * *rows. False: bad input, which is complained about. */
static bool read_matrix(const verification *v, const char *name, int64_t *rows, int64_t columns,
                        double **values) {
  const char *path = v->options->io;
  const moecl_safetensors_tensor *tensor = moecl_safetensors_find(v->file, name);
  int first = 0;
  while (first < tensor->rank - 2 && tensor->shape[first] == 1)
    first++;
  if (tensor->rank - first != 2 || tensor->shape[first + 1] != columns ||
      (*rows >= 0 && tensor->shape[first] != *rows)) {
    complain("%s: tensor '%s': expected the shape [%s%.0" PRId64 ", %" PRId64 "]", path, name,
             *rows < 0 ? "num_tokens" : "", *rows < 0 ? 0 : *rows, columns);
    return false;
  }
  *rows = tensor->shape[first];
  *values = malloc((size_t)tensor->count * sizeof **values + 1);
  if (!*values) {
    complain("no memory");
    return false;
  }
  if (moecl_safetensors_to_double(v->file, tensor, 0, tensor->count, *values) != MOECL_OK)
    return false;
  for (uint64_t i = 0; i < tensor->count; i++)
    if (!isfinite((*values)[i])) {
      complain("%s: tensor '%s': token %" PRIu64 " has a number that is not finite", path, name,
               i / (uint64_t)columns);
      return false;
    }
  return true;
}

static int64_t place_of(const double *ids, int64_t count, double id) {
  for (int64_t k = 0; k < count; k++)
    if (ids[k] == id) return k;
  return -1;
}

static bool ids_are_experts(const verification *v) {
  const int64_t count = v->params.top_k;
  const double *ids = v->recorded[IDS];
  for (int64_t i = 0; ids && i < v->num_tokens * count; i++) {
    const char *why = NULL;
    if (ids[i] != floor(ids[i]) || ids[i] < -1 || ids[i] >= (double)v->params.num_experts)
      why = "";
    else if (ids[i] >= 0 && place_of(ids + i / count * count, i % count, ids[i]) >= 0)
      why = " twice";
    if (!why) continue;
    complain("%s: tensor 'topk_ids': token %" PRId64 " has %g%s, expected different experts, 0 to "
             "%" PRId64 ", or -1",
             v->options->io, i / count, ids[i], why, v->params.num_experts - 1);
    return false;
  }
  return true;
}

static bool read_recording(verification *v) {
  int found = 0;
  if (!moecl_safetensors_find(v->file, "hidden_states")) {
    complain("%s: has no tensor 'hidden_states'", v->options->io);
    return false;
  }
  v->num_tokens = -1;
  if (!read_matrix(v, "hidden_states", &v->num_tokens, v->params.hidden_size, &v->hidden))
    return false;
  for (quantity q = 0; q < QUANTITIES; q++) {
    /* A dense layer has no router to be compared. */
    if (!moecl_safetensors_find(v->file, names[q]) || (!v->stored.is_moe && q != OUTPUT)) continue;
    if (!read_matrix(v, names[q], &v->num_tokens, columns_of(v, q), &v->recorded[q])) return false;
    found++;
  }
  if (found == 0)
    complain("%s: has nothing to compare with: expected router_logits, topk_ids, topk_weights or "
             "output",
             v->options->io);
  if (v->num_tokens == 0) complain("%s: has no tokens", v->options->io);
  return found > 0 && v->num_tokens > 0 && ids_are_experts(v);
}

/* The data type that is asked for, else that of the recorded hidden states. */
static bool choose_dtype(verification *v) {
  const moecl_safetensors_tensor *hidden = moecl_safetensors_find(v->file, "hidden_states");
  v->params.dtype = MOECL_F32;
  if (hidden) moecl_safetensors_dtype(hidden, &v->params.dtype);
  if (!v->options->dtype) return true;
  for (int d = 0; d < MOECL_DTYPE_COUNT; d++)
    if (strcmp(v->options->dtype, moecl_dtype_name((moecl_dtype)d)) == 0) {
      v->params.dtype = (moecl_dtype)d;
      return true;
    }
  complain("--dtype: '%s', expected fp32, fp16 or bf16", v->options->dtype);
  return false;
}

static bool parse_layer(verification *v) {
  char *end;
  errno = 0;
  const long long index = strtoll(v->options->layer, &end, 10);
  v->index = index;
  const int64_t count = moecl_checkpoint_num_layers(v->checkpoint);
  const bool digits = isdigit((unsigned char)*v->options->layer);
  if (digits && !errno && *end == '\0' && index < count) return true;
  complain("--layer: '%s', expected 0 to %" PRId64, v->options->layer, count - 1);
  return false;
}

static bool open_input(verification *v) {
  const options *o = v->options;
  if (!o->layer || !o->io) {
    complain("'moectl verify' needs --layer N and --io FILE; see 'moectl help'");
    return false;
  }
  if (moecl_checkpoint_open(o->file, log_to_stderr, (void *)o, &v->checkpoint) != MOECL_OK ||
      !parse_layer(v) ||
      moecl_checkpoint_get_layer(v->checkpoint, v->index, &v->stored) != MOECL_OK ||
      moecl_checkpoint_check(v->checkpoint, v->index) != MOECL_OK ||
      moecl_safetensors_open(o->io, log_to_stderr, (void *)o, &v->file) != MOECL_OK)
    return false;
  v->params = v->stored.params;
  return choose_dtype(v) && read_recording(v);
}

/* ---- running ---- */

static moecl_status run_forward(verification *v, moecl_buffer *hidden, moecl_buffer *output,
                                void *host) {
  const size_t count = (size_t)(v->num_tokens * v->params.hidden_size);
  const size_t bytes = count * moecl_dtype_size(v->params.dtype);
  moecl_from_double(v->params.dtype, v->hidden, count, host);
  moecl_status status = moecl_buffer_write_wait(hidden, 0, bytes, host);
  const moecl_forward_params forward = {
      .num_tokens = v->num_tokens, .hidden_states = hidden, .output = output};
  if (status == MOECL_OK) status = moecl_layer_forward(v->layer, &forward, NULL);
  if (status == MOECL_OK) status = moecl_buffer_read_wait(output, 0, bytes, host);
  if (status == MOECL_OK) moecl_to_double(v->params.dtype, host, count, v->ours[OUTPUT]);
  return status;
}

static moecl_status read_routing(verification *v) {
  moecl_routing routing;
  const moecl_status status = moecl_layer_read_routing_wait(v->layer, &routing);
  if (status != MOECL_OK) return status;
  moecl_to_double(MOECL_F32, routing.router_logits, (size_t)(v->num_tokens * v->params.num_experts),
                  v->ours[LOGITS]);
  const int64_t top_k = v->params.top_k;
  for (int64_t i = 0; i < v->num_tokens * top_k; i++)
    v->ours[IDS][i] = routing.topk_ids[i];
  for (int64_t t = 0; t < v->num_tokens; t++)
    moecl_reference_kept_weights(&v->params, routing.topk_weights + t * top_k,
                                 routing.kept + t * top_k, v->ours[WEIGHTS] + t * top_k);
  moecl_routing_destroy(&routing);
  return status;
}

static moecl_status read_correction_bias(verification *v) {
  if (!v->params.score_correction_bias) return MOECL_OK;
  const size_t experts = (size_t)v->params.num_experts;
  float *bias = malloc(experts * sizeof *bias);
  v->correction_bias = malloc(experts * sizeof *v->correction_bias);
  moecl_status status = bias && v->correction_bias
                            ? moecl_checkpoint_read(v->checkpoint, v->index,
                                                    MOECL_SCORE_CORRECTION_BIAS, 0, MOECL_F32, bias)
                            : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) moecl_to_double(MOECL_F32, bias, experts, v->correction_bias);
  free(bias);
  return status;
}

static moecl_status run(verification *v) {
  const size_t bytes =
      (size_t)(v->num_tokens * v->params.hidden_size) * moecl_dtype_size(v->params.dtype);
  moecl_buffer *hidden = NULL, *output = NULL;
  void *host = malloc(bytes);
  bool memory = host && (v->at_tie = calloc((size_t)v->num_tokens, sizeof *v->at_tie)) != NULL;
  for (quantity q = 0; q < QUANTITIES; q++)
    memory = (v->ours[q] = malloc((size_t)(v->num_tokens * columns_of(v, q)) * sizeof(double))) &&
             memory;
  moecl_status status = memory ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) status = moecl_buffer_create(v->context, bytes, &hidden);
  if (status == MOECL_OK) status = moecl_buffer_create(v->context, bytes, &output);
  if (status == MOECL_OK) status = run_forward(v, hidden, output, host);
  if (status == MOECL_OK) status = read_routing(v);
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&output);
  free(host);
  return status;
}

/* ---- comparing ---- */

static double tolerance(const verification *v) {
  return v->params.dtype == MOECL_F32 ? 1e-5 : 1e-2;
}

static double norm(const double *values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++)
    sum += values[i] * values[i];
  return sqrt(sum);
}

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The one in the middle; sorts them. */
static double median(double *values, int64_t count) {
  qsort(values, (size_t)count, sizeof *values, by_size);
  return values[count / 2];
}

/* A token alone may be further off: where experts' outputs cancel, what is left of
 * them has their rounding, which in 16 bits is most of the tolerance. */
static double token_tolerance(const verification *v) {
  return tolerance(v) * (v->params.dtype == MOECL_F32 ? 1 : 3);
}

/* Rows against rows, those of tokens at a tie aside if `skip`. A token differs where
 * its row is further off than token_tolerance of its own length, or of the usual row's
 * where that is longer (the median: one row may be a thousand times as long); where
 * none is and yet all together are, the one that is furthest off does. */
static comparison compare_rows(const verification *v, const double *ours, const double *recorded,
                               int64_t columns, bool skip, double *lengths) {
  comparison c = {.first = -1};
  for (int64_t t = 0; t < v->num_tokens; t++)
    lengths[t] = norm(recorded + t * columns, columns);
  const double usual = median(lengths, v->num_tokens);
  double off = 0, all = 0, furthest = -1;
  int64_t worst = -1;
  for (int64_t t = 0; t < v->num_tokens; t++) {
    if (skip && v->at_tie[t]) continue;
    const double *a = ours + t * columns, *b = recorded + t * columns;
    double distance = 0;
    for (int64_t i = 0; i < columns; i++)
      distance += (a[i] - b[i]) * (a[i] - b[i]);
    const double length = norm(b, columns);
    off += distance;
    all += length * length;
    if (distance > furthest) furthest = distance, worst = t;
    /* Written so that NaN differs. */
    if (isfinite(distance) && sqrt(distance) <= token_tolerance(v) * (length > usual ? length : usual)) continue;
    if (c.differ++ == 0) c.first = t;
  }
  c.error = all > 0 ? sqrt(off / all) : off > 0 ? INFINITY : 0;
  if (c.differ == 0 && !(c.error <= tolerance(v))) c = (comparison){c.error, 1, worst};
  return c;
}

typedef enum choice { CHOICE_SAME, CHOICE_TIE, CHOICE_OTHER } choice;

/* Does the choice follow the scores alone? A group, a limit or a draw that hangs on
 * rounding may bring in experts whose scores are far off. */
static bool is_by_score(const moecl_layer_params *params) {
  return params->num_expert_group == 0 && params->scoring != MOECL_SCORING_SPARSEMIXER &&
         params->second_choice == MOECL_SECOND_ALL;
}

/* Are all of `a` that are missing in `b` within `rounding` of the last one taken? */
static bool near_the_edge(const double *a, const double *b, int64_t count, const double *scores,
                          double edge, double rounding) {
  for (int64_t k = 0; k < count; k++)
    if (place_of(b, count, a[k]) < 0 &&
        !(a[k] >= 0 && fabs(scores[(int64_t)a[k]] - edge) <= rounding))
      return false;
  return true;
}

/* A token's experts beside the recorded ones, `scores` being what they were chosen by
 * and `usual` how large those commonly are. Another order is a tie where the scores
 * that order them differ by rounding; other experts are one where all that were
 * exchanged do so. */
static choice judge(const verification *v, const double *ours, const double *theirs, double gap,
                    const double *scores, double usual) {
  const int64_t count = v->params.top_k;
  double edge = INFINITY;
  bool same = true;
  for (int64_t k = 0; k < count; k++) {
    if (ours[k] >= 0) edge = fmin(edge, scores[(int64_t)ours[k]]);
    same = same && place_of(ours, count, theirs[k]) >= 0 && place_of(theirs, count, ours[k]) >= 0;
  }
  const double rounding = tolerance(v) * fmax(usual, isfinite(edge) ? fabs(edge) : 0);
  if (!same && !is_by_score(&v->params)) return gap <= tolerance(v) ? CHOICE_TIE : CHOICE_OTHER;
  if (!same)
    return near_the_edge(ours, theirs, count, scores, edge, rounding) &&
                   near_the_edge(theirs, ours, count, scores, edge, rounding)
               ? CHOICE_TIE
               : CHOICE_OTHER;
  for (int64_t k = 0; k < count; k++)
    if (ours[k] != theirs[k] &&
        (ours[k] < 0 || theirs[k] < 0 ||
         !(fabs(scores[(int64_t)ours[k]] - scores[(int64_t)theirs[k]]) <=
           fmax(rounding, tolerance(v) * fabs(scores[(int64_t)ours[k]])))))
      return CHOICE_OTHER;
  return CHOICE_SAME;
}

/* `scores`: [2E], scratch. */
static choice compare_choice(const verification *v, int64_t token, double *scores) {
  const int64_t count = v->params.top_k, experts = v->params.num_experts;
  double *sizes = scores + experts;
  const double *ours = v->ours[IDS] + token * count, *theirs = v->recorded[IDS] + token * count;
  const double *logits = v->ours[LOGITS] + token * v->params.num_experts;
  int32_t ids[MOECL_MAX_TOP_K];
  double weights[MOECL_MAX_TOP_K];
  if (memcmp(ours, theirs, (size_t)count * sizeof *ours) == 0) return CHOICE_SAME;
  const double gap =
      moecl_reference_topk(&v->params, logits, v->correction_bias, 0, token, ids, weights, scores);
  for (int64_t e = 0; e < experts; e++) {
    scores[e] = v->correction_bias ? scores[e] + v->correction_bias[e] : logits[e];
    sizes[e] = fabs(scores[e]);
  }
  return judge(v, ours, theirs, gap, scores, median(sizes, experts));
}

static moecl_status compare_ids(verification *v, comparison *c) {
  double *scores = malloc(2 * (size_t)v->params.num_experts * sizeof *scores);
  if (!scores) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  *c = (comparison){.first = -1};
  for (int64_t t = 0; t < v->num_tokens; t++) {
    const choice choice = compare_choice(v, t, scores);
    v->at_tie[t] = choice == CHOICE_TIE;
    v->ties += choice == CHOICE_TIE;
    if (choice == CHOICE_OTHER && c->differ++ == 0) c->first = t;
  }
  c->error = (double)c->differ / (double)v->num_tokens;
  free(scores);
  return MOECL_OK;
}

/* Our weights in the order of the recorded ids. */
static void order_weights(verification *v) {
  const int64_t k_count = v->params.top_k;
  double ordered[MOECL_MAX_TOP_K];
  for (int64_t t = 0; v->recorded[IDS] && t < v->num_tokens; t++) {
    double *weights = v->ours[WEIGHTS] + t * k_count;
    for (int64_t k = 0; k < k_count; k++) {
      const int64_t place =
          place_of(v->ours[IDS] + t * k_count, k_count, v->recorded[IDS][t * k_count + k]);
      ordered[k] = place < 0 ? 0 : weights[place];
    }
    memcpy(weights, ordered, (size_t)k_count * sizeof *weights);
  }
}

static void print_comparison(const verification *v, quantity q, const comparison *c) {
  printf("%-14s  ", names[q]);
  if (q == IDS)
    printf("%10s  %9s", c->differ ? "differ" : "same", "ties only");
  else
    printf("%10.2e  %9.0e", c->error, tolerance(v));
  printf("  %18" PRId64 "%s\n", c->differ, c->differ ? "  <-" : "");
}

/* The verdict; true: nothing differs. Where every token chose otherwise, at ties or
 * not, nothing was shown. */
static bool conclude(const verification *v, const comparison *c) {
  int64_t first = -1;
  quantity where = LOGITS;
  for (quantity q = 0; q < QUANTITIES; q++)
    if (v->recorded[q] && c[q].first >= 0 && (first < 0 || c[q].first < first)) {
      first = c[q].first;
      where = q;
    }
  if (v->ties)
    printf("%" PRId64 " token%s other experts at a tie within rounding: weights and output left "
           "out\n",
           v->ties, v->ties == 1 ? " has" : "s have");
  if (first >= 0)
    printf("first mismatching token: %" PRId64 " (%s)\n", first, names[where]);
  else if (v->ties == v->num_tokens)
    printf("no token has the recorded experts: nothing could be compared\n");
  else
    printf("all %stokens agree\n", v->ties ? "other " : "");
  return first < 0 && v->ties < v->num_tokens;
}

/* Prints all; *same: nothing differs. Ids first, as tokens at a tie are left out of
 * what follows from them. */
static moecl_status compare(verification *v, bool *same) {
  comparison c[QUANTITIES];
  double *lengths = malloc((size_t)v->num_tokens * sizeof *lengths);
  moecl_status status = lengths ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK && v->recorded[IDS]) status = compare_ids(v, &c[IDS]);
  if (status == MOECL_OK) {
    order_weights(v);
    printf("%-14s  %10s  %9s  %18s\n", "tensor", "error", "tolerance", "tokens that differ");
    for (quantity q = 0; q < QUANTITIES; q++) {
      if (!v->recorded[q]) continue;
      if (q != IDS)
        c[q] = compare_rows(v, v->ours[q], v->recorded[q], columns_of(v, q), q != LOGITS, lengths);
      print_comparison(v, q, &c[q]);
    }
    *same = conclude(v, c);
  }
  free(lengths);
  return status;
}

/* ---- the command ---- */

/* Weights that cannot be read are bad input, whatever else fails is not. The library
 * has told why. */
static int load_weights(verification *v) {
  moecl_status status = moecl_layer_create(v->context, &v->params, &v->layer);
  const bool created = status == MOECL_OK;
  if (created) status = moecl_layer_load(v->layer, v->checkpoint, v->index);
  if (status == MOECL_OK) status = read_correction_bias(v);
  if (status == MOECL_OK) return EXIT_ALL_OK;
  return created && (status == MOECL_ERROR_IO || status == MOECL_ERROR_UNSUPPORTED)
             ? EXIT_USAGE
             : EXIT_POINT_FAILED;
}

static int verify(verification *v) {
  bool same = false;
  printf("%s, layer %" PRId64 " (%s): %s, %s, %" PRId64 " tokens, %s\n",
         moecl_checkpoint_family(v->checkpoint), v->index, v->stored.prefix,
         v->stored.is_moe ? "MoE" : "dense", moecl_dtype_name(v->params.dtype), v->num_tokens,
         moecl_context_device(v->context)->name);
  moecl_status status = run(v);
  if (status == MOECL_OK) status = compare(v, &same);
  if (status == MOECL_OK) return same ? EXIT_ALL_OK : EXIT_POINT_FAILED;
  complain("the layer could not be run: %s", moecl_status_string(status));
  return EXIT_POINT_FAILED;
}

int command_verify(const options *options) {
  verification v = {.options = options};
  int code = open_input(&v) ? open_context(options, options->device, &v.context) : EXIT_USAGE;
  if (code == EXIT_ALL_OK) code = load_weights(&v);
  if (code == EXIT_ALL_OK) code = verify(&v);
  for (quantity q = 0; q < QUANTITIES; q++) {
    free(v.recorded[q]);
    free(v.ours[q]);
  }
  free(v.hidden);
  free(v.correction_bias);
  free(v.at_tie);
  moecl_layer_destroy(&v.layer);
  moecl_context_destroy(&v.context);
  moecl_safetensors_destroy(&v.file);
  moecl_checkpoint_destroy(&v.checkpoint);
  return code;
}

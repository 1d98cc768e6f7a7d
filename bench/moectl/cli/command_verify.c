// SPDX-License-Identifier: MIT
/* moectl verify: a layer of a model folder, or the block around it, on recorded hidden states,
 * beside what was recorded of it elsewhere. */
#include "cli/moectl.h"
#include "model/recorded.h"
#include "base/suggest.h"
#include "run/verify_parts.h"
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KINDS = 6 }; /* of what a choice may be otherwise: recorded.h's bits */

typedef struct verification {
  const options *options;
  moecl_checkpoint *checkpoint;
  int64_t index;
  moecl_checkpoint_layer stored;
  moecl_layer_params params;
  moecl_block_params block_params; /* --block */
  moecl_safetensors *file;
  recorded recorded;
  double *ours[QUANTITIES];
  double *correction_bias; /* [E] or NULL */
  bool *not_ours;          /* [T]: other experts or weights, and rightly so */
  bool *left_out;          /* [T]: of those the ones whose output is not known */
  int64_t kinds[KINDS];    /* tokens by bit of compare_choice */
  moecl_context *context;
  moecl_block *block; /* --block; else NULL */
  moecl_layer *layer; /* the block's, or its own */
} verification;

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
  const char *meant = suggest_dtype(v->options->dtype);
  complain("--dtype: '%s', expected fp32, fp16 or bf16%s%s%s", v->options->dtype,
           meant ? "; did you mean '" : "", meant ? meant : "", meant ? "'?" : "");
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

/* Hidden states alone, as workloads may have them, are nothing to compare with. */
static bool is_npy(const char *path) {
  char start[6] = "";
  FILE *file = fopen(path, "rb");
  if (!file) return false; /* reported when it is opened */
  const bool found = fread(start, 1, 6, file) == 6 && memcmp(start, "\x93NUMPY", 6) == 0;
  fclose(file);
  if (found)
    complain("%s: is a .npy file, which holds one tensor; expected a safetensors file with "
             "'hidden_states' and what to compare ('moectl help models'), as save_file of "
             "Python's safetensors.numpy writes it",
             path);
  return found;
}

/* Is what is asked of the checkpoint there? */
static bool find_stored(verification *v) {
  moecl_status status = moecl_checkpoint_get_layer(v->checkpoint, v->index, &v->stored);
  if (status == MOECL_OK && v->options->block)
    status = moecl_checkpoint_get_block(v->checkpoint, v->index, &v->block_params);
  if (status == MOECL_OK)
    status = v->options->block ? moecl_checkpoint_check_block(v->checkpoint, v->index)
                               : moecl_checkpoint_check(v->checkpoint, v->index);
  return status == MOECL_OK;
}

static bool open_input(verification *v) {
  const options *o = v->options;
  if (!o->layer || !o->io) {
    complain("'moectl verify' needs %s%s%s; see 'moectl help verify'",
             o->layer ? "" : "--layer N, one of the folder's", o->layer || o->io ? "" : ", and ",
             o->io ? "" : "--io FILE, a recording");
    return false;
  }
  if (is_npy(o->io)) return false;
  if (moecl_checkpoint_open(o->file, log_to_stderr, (void *)o, &v->checkpoint) != MOECL_OK ||
      !parse_layer(v) || !find_stored(v) ||
      moecl_safetensors_open(o->io, log_to_stderr, (void *)o, &v->file) != MOECL_OK)
    return false;
  v->params = v->stored.params;
  if (!choose_dtype(v)) return false;
  v->block_params.layer.dtype = v->params.dtype;
  return recorded_read(v->file, &v->params, v->stored.is_moe, &v->recorded);
}

/* ---- running ---- */

static moecl_status forward(verification *v, const moecl_buffer *hidden, moecl_buffer *output) {
  const moecl_forward_params layer = {
      .num_tokens = v->recorded.num_tokens, .hidden_states = hidden, .output = output};
  const moecl_block_forward_params block = {
      .num_tokens = v->recorded.num_tokens, .hidden_states = hidden, .output = output};
  return v->block ? moecl_block_forward(v->block, &block, NULL)
                  : moecl_layer_forward(v->layer, &layer, NULL);
}

static moecl_status run_forward(verification *v, moecl_buffer *hidden, moecl_buffer *output,
                                void *host) {
  const size_t count = (size_t)(v->recorded.num_tokens * v->params.hidden_size);
  const size_t bytes = count * moecl_dtype_size(v->params.dtype);
  moecl_from_double(v->params.dtype, v->recorded.hidden, count, host);
  moecl_status status = moecl_buffer_write_wait(hidden, 0, bytes, host);
  if (status == MOECL_OK) status = forward(v, hidden, output);
  if (status == MOECL_OK) status = moecl_buffer_read_wait(output, 0, bytes, host);
  if (status == MOECL_OK) moecl_to_double(v->params.dtype, host, count, v->ours[OUTPUT]);
  return status;
}

static moecl_status read_routing(verification *v) {
  moecl_routing routing;
  const moecl_status status = moecl_layer_read_routing_wait(v->layer, &routing);
  if (status != MOECL_OK) return status;
  moecl_to_double(MOECL_F32, routing.router_logits,
                  (size_t)(v->recorded.num_tokens * v->params.num_experts), v->ours[LOGITS]);
  const int64_t top_k = v->params.top_k;
  for (int64_t i = 0; i < v->recorded.num_tokens * top_k; i++)
    v->ours[IDS][i] = routing.topk_ids[i];
  for (int64_t t = 0; t < v->recorded.num_tokens; t++)
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
      (size_t)(v->recorded.num_tokens * v->params.hidden_size) * moecl_dtype_size(v->params.dtype);
  moecl_buffer *hidden = NULL, *output = NULL;
  void *host = malloc(bytes);
  bool memory = host && (v->left_out = calloc((size_t)v->recorded.num_tokens, 1)) != NULL &&
                (v->not_ours = calloc((size_t)v->recorded.num_tokens, 1)) != NULL;
  for (quantity q = 0; q < QUANTITIES; q++)
    memory =
        (v->ours[q] = malloc((size_t)(v->recorded.num_tokens * quantity_columns(&v->params, q)) *
                             sizeof(double))) &&
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

/* A token alone may be further off: where experts' outputs cancel, what is left of
 * them has their rounding, which in 16 bits is most of the tolerance. */
static double token_tolerance(const verification *v) {
  return tolerance(v) * (v->params.dtype == MOECL_F32 ? 1 : 3);
}

static const double *row_of(const verification *v, const double *rows, quantity q, int64_t token) {
  return rows ? rows + token * quantity_columns(&v->params, q) : NULL;
}

/* Recorded weights are those that multiply. Ours are without the family's numbers of the
 * experts, which down_proj has: so the recorded ones are divided by them. Of an expert
 * whose number is 0 there is no weight to compare. */
static moecl_status divide_weights(verification *v) {
  float scale[MOECL_MAX_EXPERTS];
  double *weights = v->recorded.values[WEIGHTS];
  const double *ids = v->recorded.values[IDS] ? v->recorded.values[IDS] : v->ours[IDS];
  if (!weights) return MOECL_OK;
  const moecl_status status = moecl_checkpoint_read_expert_scale(v->checkpoint, v->index, scale);
  if (status != MOECL_OK) return status;
  for (int64_t i = 0; i < v->recorded.num_tokens * v->params.top_k; i++) {
    const double by = ids[i] < 0 ? 1 : (double)scale[(int64_t)ids[i]];
    if (by != 0) weights[i] /= by;
    else if (weights[i] == 0 && ids[i] == v->ours[IDS][i]) weights[i] = v->ours[WEIGHTS][i];
  }
  return MOECL_OK;
}

/* Judges every token's choice. Our weights become those that the recorded ones are to
 * be compared with, in the recorded ids' order. */
static void compare_choices(verification *v, comparison *c) {
  *c = (comparison){.first = -1};
  for (int64_t t = 0; v->stored.is_moe && t < v->recorded.num_tokens; t++) {
    double expected[MOECL_MAX_TOP_K];
    double *weights = v->ours[WEIGHTS] + t * v->params.top_k;
    const choice_case choice = {.params = &v->params,
                                .correction_bias = v->correction_bias,
                                .tolerance = tolerance(v),
                                .token = t,
                                .logits = row_of(v, v->ours[LOGITS], LOGITS, t),
                                .ids = row_of(v, v->ours[IDS], IDS, t),
                                .weights = weights,
                                .their_logits = row_of(v, v->recorded.values[LOGITS], LOGITS, t),
                                .their_ids = row_of(v, v->recorded.values[IDS], IDS, t),
                                .their_weights =
                                    row_of(v, v->recorded.values[WEIGHTS], WEIGHTS, t)};
    const unsigned found = compare_choice(&choice, expected);
    memcpy(weights, expected, (size_t)v->params.top_k * sizeof *weights);
    v->not_ours[t] = found & CHOICE_NOT_OURS;
    v->left_out[t] = v->not_ours[t] && (v->params.capacity_factor > 0 ||
                                        (found & CHOICE_MASK && !choice.their_weights));
    for (int kind = 0; kind < KINDS; kind++) v->kinds[kind] += found >> kind & 1;
    if (found & CHOICE_OTHER && c->differ++ == 0) c->first = t;
  }
  c->error = (double)c->differ / (double)v->recorded.num_tokens;
}

/* Our outputs become the reference's where the recorded choice is not ours, and that
 * one's is to be had. */
static moecl_status compute_outputs(verification *v) {
  const double *ids = v->recorded.values[IDS];
  int64_t wanted = 0;
  for (int64_t t = 0; t < v->recorded.num_tokens; t++) {
    v->not_ours[t] = v->not_ours[t] && !v->left_out[t];
    wanted += v->not_ours[t];
  }
  const output_case of = {.context = v->context,
                          .checkpoint = v->checkpoint,
                          .index = v->index,
                          .params = &v->params,
                          .block = v->block ? &v->block_params : NULL,
                          .num_tokens = v->recorded.num_tokens,
                          .hidden = v->recorded.hidden,
                          .ids = ids ? ids : v->ours[IDS],
                          .weights = v->ours[WEIGHTS],
                          .wanted = v->not_ours};
  return wanted > 0 && v->recorded.values[OUTPUT] ? recorded_outputs(&of, v->ours[OUTPUT])
                                                  : MOECL_OK;
}

/* Every logit counts. So do the weights of tokens at a tie, unless a capacity may have
 * dropped something else. */
static bool compare_numbers(const verification *v, quantity q, comparison *c) {
  const bool skips = q == OUTPUT || (q == WEIGHTS && v->params.capacity_factor > 0);
  const row_rule rule = {tolerance(v), token_tolerance(v), skips ? v->left_out : NULL};
  return compare_rows(&rule, v->recorded.num_tokens, quantity_columns(&v->params, q), v->ours[q],
                      v->recorded.values[q], c);
}

static void print_comparison(const verification *v, quantity q, const comparison *c) {
  printf("%-14s  ", quantity_name(q));
  if (q == IDS) printf("%10s  %9s", c->differ ? "differ" : "same", "ties only");
  else printf("%10.2e  %9.0e", c->error, tolerance(v));
  printf("  %18" PRId64 "%s\n", c->differ, c->differ ? "  <-" : "");
}

/* What is otherwise and yet no mistake, a line each. */
static void print_kinds(const verification *v) {
  static const struct {
    unsigned bit;
    const char *text;
  } kinds[] = {
      {CHOICE_REORDERED, "the same experts in another order than by score; weights are compared "
                         "expert by expert"},
      {CHOICE_WEIGHTLESS, "other experts among those of weight 0, whose scores are too small for "
                          "fp32: they add nothing to the output"},
      {CHOICE_TIE, "other experts at a tie within rounding"},
      {CHOICE_MASK, "weights for an expert on the other side of sparsemixer's limit, within "
                    "rounding"},
      {CHOICE_ROUNDED, "weights that follow from the recorded logits, which are rounded ones of "
                       "ours"},
  };
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    for (int kind = 0; kind < KINDS; kind++)
      if (kinds[i].bit == 1u << kind && v->kinds[kind])
        printf("%" PRId64 " token%s %s\n", v->kinds[kind], v->kinds[kind] == 1 ? " has" : "s have",
               kinds[i].text);
}

static int64_t count_of(const verification *v, const bool *tokens) {
  int64_t count = 0;
  for (int64_t t = 0; t < v->recorded.num_tokens; t++) count += tokens[t];
  return count;
}

static void print_outputs(const verification *v, int64_t others, int64_t left_out) {
  if (!v->recorded.values[OUTPUT]) return;
  if (others > 0)
    printf("%" PRId64 " of these: output compared with what the reference makes of the recorded "
           "choice\n",
           others);
  if (left_out > 0) printf("%" PRId64 " of these: output left out\n", left_out);
}

/* Numbers too large for the data type that the layer is run in are no mistake of its. */
static void print_nonfinite(const verification *v) {
  const int64_t width = v->params.hidden_size;
  int64_t count = 0, first = -1;
  double largest = 0;
  for (int64_t i = v->recorded.num_tokens * width - 1; i >= 0; i--) {
    if (v->recorded.values[OUTPUT]) largest = fmax(largest, fabs(v->recorded.values[OUTPUT][i]));
    if (isfinite(v->ours[OUTPUT][i])) continue;
    count += i / width != first;
    first = i / width;
  }
  if (count == 0) return;
  const double limit = overflow_limit(v->params.dtype);
  printf("%" PRId64 " token%s outputs of ours that are not finite, the first is token %" PRId64
         ": %s's largest number is %.6g",
         count, count == 1 ? " has" : "s have", first, moecl_dtype_name(v->params.dtype), limit);
  if (largest > limit) printf(", and the recorded output goes up to %.6g", largest);
  printf("%s\n", v->params.dtype == MOECL_F16 ? "; try --dtype bf16 or fp32" : "");
}

/* The verdict; true: nothing differs. Where every token chose otherwise, ours was not
 * shown to be right, unless there was no output to show it. */
static bool conclude(const verification *v, const comparison *c) {
  const int64_t others = count_of(v, v->not_ours), left_out = count_of(v, v->left_out);
  const bool has_shown = others + left_out < v->recorded.num_tokens ||
                         (!v->recorded.values[OUTPUT] && v->recorded.values[WEIGHTS] && !left_out);
  int64_t first = -1;
  quantity where = LOGITS;
  for (quantity q = 0; q < QUANTITIES; q++)
    if (v->recorded.values[q] && c[q].first >= 0 && (first < 0 || c[q].first < first)) {
      first = c[q].first;
      where = q;
    }
  print_kinds(v);
  print_outputs(v, others, left_out);
  print_nonfinite(v);
  if (first >= 0)
    printf("first mismatching token: %" PRId64 " (%s)\n", first, quantity_name(where));
  else if (!has_shown)
    printf("no token has the recorded experts with their weights: nothing could be compared\n");
  else printf("all %stokens agree\n", others + left_out ? "other " : "");
  return first < 0 && has_shown;
}

/* Prints all; *same: nothing differs. Choices first, as they say which tokens are left
 * out of what follows from them. */
static moecl_status compare(verification *v, bool *same) {
  comparison c[QUANTITIES];
  moecl_status status = divide_weights(v);
  if (status != MOECL_OK) return status;
  compare_choices(v, &c[IDS]);
  status = compute_outputs(v);
  if (status != MOECL_OK) return status;
  printf("%-14s  %10s  %9s  %18s\n", "tensor", "error", "tolerance", "tokens that differ");
  for (quantity q = 0; q < QUANTITIES; q++) {
    if (!v->recorded.values[q]) continue;
    if (q != IDS && !compare_numbers(v, q, &c[q])) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
    print_comparison(v, q, &c[q]);
  }
  *same = conclude(v, c);
  return MOECL_OK;
}

/* ---- the command ---- */

/* Weights that cannot be read are bad input, whatever else fails is not. The library
 * has reported why. */
static int load_weights(verification *v) {
  const bool block = v->options->block;
  moecl_status status = block ? moecl_block_create(v->context, &v->block_params, &v->block)
                              : moecl_layer_create(v->context, &v->params, &v->layer);
  const bool created = status == MOECL_OK;
  if (block) v->layer = moecl_block_layer(v->block);
  if (created)
    status = block ? moecl_block_load(v->block, v->checkpoint, v->index)
                   : moecl_layer_load(v->layer, v->checkpoint, v->index);
  if (status == MOECL_OK) status = read_correction_bias(v);
  if (status == MOECL_OK) return EXIT_ALL_OK;
  return created && (status == MOECL_ERROR_IO || status == MOECL_ERROR_UNSUPPORTED)
             ? EXIT_USAGE
             : EXIT_POINT_FAILED;
}

static int verify(verification *v) {
  bool same = false;
  printf("%s, %s %" PRId64 " (%s): %s, %s, %" PRId64 " tokens, %s\n",
         moecl_checkpoint_family(v->checkpoint), v->block ? "block" : "layer", v->index,
         v->stored.prefix, v->stored.is_moe ? "MoE" : "dense", moecl_dtype_name(v->params.dtype),
         v->recorded.num_tokens, moecl_context_device(v->context)->name);
  moecl_status status = run(v);
  if (status == MOECL_OK) status = compare(v, &same);
  if (status == MOECL_OK) return same ? EXIT_ALL_OK : EXIT_POINT_FAILED;
  complain("the %s could not be run: %s", v->block ? "block" : "layer",
           moecl_status_string(status));
  return EXIT_POINT_FAILED;
}

int command_verify(const options *options) {
  verification v = {.options = options};
  int code = open_input(&v) ? open_context(options, options->device, &v.context) : EXIT_USAGE;
  if (code == EXIT_ALL_OK) code = load_weights(&v);
  if (code == EXIT_ALL_OK) code = verify(&v);
  for (quantity q = 0; q < QUANTITIES; q++) free(v.ours[q]);
  recorded_release(&v.recorded);
  free(v.correction_bias);
  free(v.left_out);
  free(v.not_ours);
  if (!v.block) moecl_layer_destroy(&v.layer);
  moecl_block_destroy(&v.block);
  moecl_context_destroy(&v.context);
  moecl_safetensors_destroy(&v.file);
  moecl_checkpoint_destroy(&v.checkpoint);
  return code;
}

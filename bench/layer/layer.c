// SPDX-License-Identifier: MIT
/* Times the experts of one layer, round by round, for bench/peers/formats.py:
 *
 *   layer_times --shape H:I:E:K [--format bf16] [--activations F] [--variant V] [--device cpu]
 *               [--threads N]
 *
 * answers lines of standard input with lines of JSON on standard output, after a first one that
 * says who answers:
 *   tokens T   draws inputs of T tokens, runs the layer once on each and checks it: the routing of
 *              each, the error beside double precision on the stored weights, the bytes of weights
 *              that one reads on average
 *   run S      medians of S seconds of forwards, in milliseconds: on the device of gate_up and
 *              down, in which rows are gathered and activated ("experts"), and of the whole
 *              "layer"; by the host's clock, of forwards back to back ("wall"), and what the
 *              process had of processors' time meanwhile ("processors"). Inputs are taken in
 *              turn, so many that few tokens find no experts in a cache
 *   read       GB/s of N threads that only read
 * The layer is a gated one (SwiGLU); its experts have two sets of weights in turn, which is what
 * makes formats soon stored. They are separate in memory. */
#include "timing.h"
#include "layer/reading.h"
#include <moecl/moecl.h>

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SETS = 2, MOST_SAMPLES = 4096, MOST_INPUTS = 16, CHECKED = 2, READ_FLOATS = 1 << 26 };

typedef struct bench {
  moecl_context *context;
  moecl_layer_params params;
  moecl_layer *layer;
  moecl_profile *profile;
  void *gate_up[SETS], *down[SETS]; /* as they are stored */
  int64_t tokens;
  int inputs; /* how many, taken in turn */
  moecl_buffer *input[MOST_INPUTS], *output;
  int threads;  /* of reading */
  float *plain; /* what is read */
} bench;

static void must(const char *what, moecl_status status) {
  if (status == MOECL_OK) return;
  fprintf(stderr, "layer_times: %s: %s\n", what, moecl_status_string(status));
  exit(1);
}

static void *allocate(size_t bytes) {
  void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!p) must("memory", MOECL_ERROR_OUT_OF_HOST_MEMORY);
  return p;
}

/* ---- weights ---- */

/* One item in its format, drawn so that numbers stay of order one. */
static void *draw_item(const bench *b, moecl_tensor tensor, uint64_t stream) {
  int64_t rows, columns;
  moecl_layer_tensor_shape(&b->params, tensor, &rows, &columns);
  const size_t count = (size_t)(rows * columns);
  const moecl_random_params random = {.dtype = MOECL_F32,
                                      .scale = (float)(1 / sqrt((double)columns)),
                                      .seed = 42,
                                      .stream = stream};
  float *values = allocate(count * sizeof *values);
  double *numbers = allocate(count * sizeof *numbers);
  void *stored = allocate((size_t)moecl_layer_tensor_bytes(&b->params, tensor));
  must("random", moecl_random_host(values, count, &random));
  moecl_to_double(MOECL_F32, values, count, numbers);
  moecl_layer_tensor_from_double(&b->params, tensor, numbers, stored);
  free(values);
  free(numbers);
  return stored;
}

/* Draws one set of a tensor and gives it to every experts' item of that set. */
static void *set_items(bench *b, moecl_tensor tensor, int set, int sets) {
  const uint64_t bytes = moecl_layer_tensor_bytes(&b->params, tensor);
  void *stored = draw_item(b, tensor, (uint64_t)(100 * tensor + set));
  moecl_buffer *from = NULL;
  must("buffer", moecl_buffer_create(b->context, bytes, &from));
  must("weights", moecl_buffer_write_wait(from, 0, bytes, stored));
  for (int64_t e = set; e < moecl_layer_tensor_items(&b->params, tensor); e += sets)
    must("weights", moecl_layer_set_weights_buffer(b->layer, tensor, e, 1, from, 0));
  must("weights", moecl_context_finish_wait(b->context));
  moecl_buffer_destroy(&from);
  return stored;
}

static void set_weights(bench *b) {
  free(set_items(b, MOECL_ROUTER_WEIGHT, 0, 1));
  for (int set = 0; set < SETS; set++) {
    b->gate_up[set] = set_items(b, MOECL_GATE_UP_PROJ, set, SETS);
    b->down[set] = set_items(b, MOECL_DOWN_PROJ, set, SETS);
  }
}

/* ---- one number of tokens ---- */

static moecl_buffer *draw_rows(const bench *b, int64_t tokens, uint64_t stream) {
  moecl_buffer *rows = NULL;
  const uint64_t count = (uint64_t)(tokens * b->params.hidden_size);
  const moecl_random_params random = {
      .dtype = b->params.dtype, .scale = 1, .seed = 42, .stream = stream};
  must("buffer", moecl_buffer_create(b->context, count * moecl_dtype_size(b->params.dtype), &rows));
  must("random", moecl_fill_random(rows, 0, count, &random));
  return rows;
}

static void forward(bench *b, int number, moecl_profile *profile) {
  const moecl_forward_params params = {.num_tokens = b->tokens,
                                       .hidden_states = b->input[number % b->inputs],
                                       .output = b->output,
                                       .profile = profile};
  must("forward", moecl_layer_forward(b->layer, &params, NULL));
}

static void forward_stages(bench *b, int number, double *stages) {
  forward(b, number, b->profile);
  must("profile", moecl_profile_read_wait(b->profile, stages, MOECL_STAGE_COUNT));
}

static void read_row(const bench *b, const moecl_buffer *rows, int64_t row, double *to) {
  const uint64_t hidden = (uint64_t)b->params.hidden_size;
  const uint64_t bytes = hidden * moecl_dtype_size(b->params.dtype);
  void *stored = allocate((size_t)bytes);
  must("read", moecl_buffer_read_wait(rows, (uint64_t)row * bytes, bytes, stored));
  moecl_to_double(b->params.dtype, stored, hidden, to);
  free(stored);
}

/* The error of one token's output, relative to its norm, with the choice that was made. */
static double error_of(const bench *b, int number, const moecl_routing *routing, int64_t token) {
  const int64_t hidden = b->params.hidden_size, k = b->params.top_k;
  double *rows = allocate((size_t)hidden * 4 * sizeof *rows);
  double *input = rows, *got = rows + hidden, *one = got + hidden, *sum = one + hidden;
  double off = 0, size = 0;
  read_row(b, b->input[number], token, input);
  read_row(b, b->output, token, got);
  memset(sum, 0, (size_t)hidden * sizeof *sum);
  for (int64_t i = 0; i < k; i++) {
    const int set = routing->topk_ids[token * k + i] % SETS;
    must("reference", moecl_reference_expert_tokens(&b->params, 1, input, b->gate_up[set], NULL,
                                                    b->down[set], NULL, 0, one));
    for (int64_t h = 0; h < hidden; h++)
      sum[h] += (double)routing->topk_weights[token * k + i] * one[h];
  }
  for (int64_t h = 0; h < hidden; h++) {
    off += (got[h] - sum[h]) * (got[h] - sum[h]);
    size += sum[h] * sum[h];
  }
  free(rows);
  return sqrt(off / size);
}

static void end(bench *b) {
  for (int i = 0; i < b->inputs; i++) moecl_buffer_destroy(&b->input[i]);
  moecl_buffer_destroy(&b->output);
}

/* The layer on one input: prints the choice, gives the error of its last token, of the first
 * inputs, and how many experts have tokens. */
static int64_t begin_input(bench *b, int number, double *error) {
  moecl_routing routing;
  b->input[number] = draw_rows(b, b->tokens, 1000 + (uint64_t)number);
  forward(b, number, NULL);
  must("routing", moecl_layer_read_routing_wait(b->layer, &routing));
  *error = number < CHECKED ? error_of(b, number, &routing, b->tokens - 1) : 0;
  int64_t active = 0;
  for (int64_t e = 0; e < routing.num_experts; e++) active += routing.tokens_per_expert[e] > 0;
  printf("%s[", number ? ", " : "");
  for (int64_t i = 0; i < b->tokens * routing.top_k; i++)
    printf("%s%d", i ? "," : "", routing.topk_ids[i]);
  printf("]");
  moecl_routing_destroy(&routing);
  return active;
}

static void begin(bench *b, int64_t tokens) {
  const double all_twice = 2.0 * (double)b->params.num_experts;
  const int wanted = (int)(all_twice / (double)(tokens * b->params.top_k));
  double error, worst = 0;
  int64_t active = 0;
  end(b);
  b->tokens = tokens;
  b->output = draw_rows(b, tokens, 1);
  printf("{\"tokens\": %lld, \"ids\": [", (long long)tokens);
  for (b->inputs = 0; b->inputs < MOST_INPUTS && (b->inputs < wanted || b->inputs == 0);) {
    active += begin_input(b, b->inputs++, &error);
    worst = error <= worst ? worst : error; /* NaN is the worst */
  }
  const uint64_t bytes = moecl_layer_tensor_bytes(&b->params, MOECL_GATE_UP_PROJ) +
                         moecl_layer_tensor_bytes(&b->params, MOECL_DOWN_PROJ);
  printf("], \"error\": %.3g, \"weight_bytes\": %.0f}\n", isfinite(worst) ? worst : 1e30,
         (double)bytes * (double)active / b->inputs);
}

/* Milliseconds a forward by the clock, back to back for about so many seconds, and what the
 * process has of processors' time in that. */
static double measure_wall(bench *b, double seconds, double each_ms, double *processors) {
  const double fit = seconds * 1e3 / each_ms;
  const int count = fit < 1 ? 1 : fit > MOST_SAMPLES ? MOST_SAMPLES : (int)fit;
  must("forward", moecl_context_finish_wait(b->context));
  const clock_t spent = clock();
  const double from = reading_clock();
  for (int i = 0; i < count; i++) forward(b, i, NULL);
  must("forward", moecl_context_finish_wait(b->context));
  *processors = 1e3 * (double)(clock() - spent) / CLOCKS_PER_SEC / count;
  return 1e3 * (reading_clock() - from) / count;
}

/* A third of the time each: stages, whose events cost GPUs time, the whole layer, the clock. */
static void run(bench *b, double seconds) {
  static double experts[MOST_SAMPLES], layer[MOST_SAMPLES];
  double stages[MOECL_STAGE_COUNT];
  int count = 0, whole = 0;
  forward_stages(b, 0, stages); /* what another process left in caches is no sample */
  const double begun = reading_clock();
  do {
    forward_stages(b, count + 1, stages);
    experts[count++] = stages[MOECL_STAGE_GATE_UP] + stages[MOECL_STAGE_DOWN];
  } while (count < MOST_SAMPLES && reading_clock() < begun + seconds / 3);
  moecl_profile_layer_only(b->profile, true);
  do {
    forward_stages(b, whole + 1, stages);
    layer[whole++] = stages[MOECL_STAGE_LAYER];
  } while (whole < MOST_SAMPLES && reading_clock() < begun + seconds * 2 / 3);
  moecl_profile_layer_only(b->profile, false);
  const double layer_ms = timing_median(layer, whole);
  double processors;
  const double wall = measure_wall(b, seconds / 3, layer_ms, &processors);
  printf("{\"experts\": %.6g, \"layer\": %.6g, \"wall\": %.6g, \"processors\": %.6g, "
         "\"samples\": %d}\n",
         timing_median(experts, count), layer_ms, wall, processors, count);
}

static void read_plain(bench *b) {
  if (!b->plain) {
    b->plain = allocate(READ_FLOATS * sizeof *b->plain);
    for (size_t i = 0; i < READ_FLOATS; i++) b->plain[i] = 1.0f;
  }
  double rates[5];
  for (int i = 0; i < 5; i++) rates[i] = reading_rate(b->plain, READ_FLOATS, b->threads);
  printf("{\"read\": %.4g}\n", timing_median(rates, 5));
}

/* ---- the command ---- */

static void usage(void) {
  fprintf(stderr,
          "usage: layer_times --shape H:I:E:K [--format F] [--activations F] [--variant V]\n"
          "                   [--device D] [--threads N]\n"
          "reads lines \"tokens T\", \"run SECONDS\" and \"read\"\n");
  exit(2);
}

static moecl_format parse_format(const char *text) {
  for (int i = MOECL_FORMAT_DTYPE; i < MOECL_FORMAT_COUNT; i++)
    if (strcmp(text, moecl_format_name((moecl_format)i)) == 0) return (moecl_format)i;
  usage();
  return MOECL_FORMAT_DTYPE;
}

/* Hidden states are of the format where that is a data type, else bf16. */
static void set_format(moecl_layer_params *params, const char *text) {
  params->weight_format = parse_format(text);
  params->dtype = MOECL_BF16;
  for (int i = 0; i < MOECL_DTYPE_COUNT; i++)
    if (strcmp(text, moecl_dtype_name((moecl_dtype)i)) == 0) params->dtype = (moecl_dtype)i;
}

static void parse(int argc, char **argv, bench *b, moecl_context_params *context) {
  static const struct option options[] = {{"shape", required_argument, NULL, 's'},
                                          {"format", required_argument, NULL, 'f'},
                                          {"variant", required_argument, NULL, 'v'},
                                          {"activations", required_argument, NULL, 'a'},
                                          {"device", required_argument, NULL, 'd'},
                                          {"threads", required_argument, NULL, 't'},
                                          {NULL, 0, NULL, 0}};
  long long h = 0, i = 0, e = 0, k = 0;
  set_format(&b->params, "bf16");
  for (int letter; (letter = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (letter == 's' && sscanf(optarg, "%lld:%lld:%lld:%lld", &h, &i, &e, &k) == 4) continue;
    if (letter == 'f') set_format(&b->params, optarg);
    else if (letter == 'v') b->params.grouped_gemm_variant = optarg;
    else if (letter == 'a') b->params.activation_format = parse_format(optarg);
    else if (letter == 'd') context->device = optarg;
    else if (letter == 't') b->threads = atoi(optarg);
    else usage();
  }
  if (optind != argc || b->threads < 1 || b->threads > READING_MAX_THREADS) usage();
  b->params.hidden_size = h;
  b->params.intermediate_size = i;
  b->params.num_experts = e;
  b->params.top_k = k;
  b->params.activation = MOECL_SWIGLU;
  b->params.renormalize = true;
  char message[256];
  if (moecl_layer_params_check(&b->params, message, sizeof message) == MOECL_OK) return;
  fprintf(stderr, "layer_times: %s\n", message);
  exit(2);
}

static void serve(bench *b) {
  char line[128];
  while (fgets(line, sizeof line, stdin)) {
    long long tokens;
    double seconds;
    if (sscanf(line, "tokens %lld", &tokens) == 1 && tokens > 0) begin(b, tokens);
    else if (sscanf(line, "run %lf", &seconds) == 1 && b->tokens) run(b, seconds);
    else if (strcmp(line, "read\n") == 0) read_plain(b);
    else usage();
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  bench b = {.threads = 1};
  moecl_context_params with = {.device = "cpu", .log = timing_log};
  parse(argc, argv, &b, &with);
  must("context", moecl_context_create(&with, &b.context));
  must("layer", moecl_layer_create(b.context, &b.params, &b.layer));
  must("profile", moecl_profile_create(b.context, &b.profile));
  set_weights(&b);
  printf("{\"device\": \"%s\", \"variant\": \"%s\"}\n", moecl_context_device(b.context)->name,
         moecl_layer_variant(b.layer, "grouped_gemm", NULL));
  fflush(stdout);
  serve(&b);
  end(&b);
  moecl_profile_destroy(&b.profile);
  moecl_layer_destroy(&b.layer);
  moecl_context_destroy(&b.context);
  for (int set = 0; set < SETS; set++) {
    free(b.gate_up[set]);
    free(b.down[set]);
  }
  free(b.plain);
  return 0;
}

// SPDX-License-Identifier: MIT
/* What a bf16 layer costs before its first forward, and after its last:
 *
 *   start_times --shape H:I:E:K [--tokens T] [--before T,...] [--device gpu] [--threads N]
 *               [--no-reserve] [--programs]
 *
 * Prints a line of JSON: seconds of the context, of the layer (its programs built by N threads, 0:
 * as the library chooses), of weights from host memory with their GB/s, of the first forward of one
 * token, or of each number of tokens that --before lists, of reserving, of the first
 * and the second forward of T tokens, of destroying layer and context. Whether programs are built
 * or found is for the caches to say: MOECL_CACHE_DIR, and the driver's own (CUDA_CACHE_PATH).
 * --programs lists what was built, and in how long: with --threads 1, one after the other. */
#include "base/parallel.h"
#include "ocl/ocl.h"
#include <moecl/moecl.h>

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_BEFORE = 8 };

typedef struct run {
  moecl_layer_params params;
  int64_t tokens, before[MOST_BEFORE];
  int num_before;
  int threads;
  bool reserve, programs;
  const char *device;
  double since; /* when the message before was logged */
} run;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void must(const char *what, moecl_status status) {
  if (status == MOECL_OK) return;
  fprintf(stderr, "start_times: %s: %s\n", what, moecl_status_string(status));
  exit(1);
}

static void print_log(void *user, moecl_log_level level, const char *message) {
  run *r = user;
  const double at = now();
  if (level <= MOECL_LOG_WARNING || (r->programs && strncmp(message, "built", 5) == 0))
    fprintf(stderr, "%7.3f s %s\n", at - r->since, message);
  r->since = at;
}

/* ---- weights: numbers that are no zeros, in memory that is there ---- */

typedef struct fill {
  uint16_t *to;
} fill;

static void fill_range(void *user, int part, int64_t first, int64_t end) {
  uint16_t *to = ((fill *)user)->to;
  (void)part;
  for (int64_t i = first; i < end; i++)
    to[i] = (uint16_t)(0x3c00 + (i * 2654435761 >> 7 & 0xff) + (i & 1) * 0x8000);
}

static double set_weights(const run *r, moecl_layer *layer, double *bytes) {
  double seconds = 0;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const moecl_tensor tensor = (moecl_tensor)t;
    const int64_t items = moecl_layer_tensor_items(&r->params, tensor);
    const uint64_t each = moecl_layer_tensor_bytes(&r->params, tensor);
    /* A part of the experts is given again and again: memory of hosts is soon gone. */
    const int64_t part = items < 16 ? items : 16;
    if (items == 0) continue;
    fill values = {aligned_alloc(4096, (size_t)((each * (uint64_t)part + 4095) / 4096 * 4096))};
    if (!values.to) must("memory", MOECL_ERROR_OUT_OF_HOST_MEMORY);
    base_parallel(base_threads(0), (int64_t)(each * (uint64_t)part / 2), fill_range, &values);
    const double begun = now();
    for (int64_t i = 0; i < items; i += part)
      must("weights", moecl_layer_set_weights(layer, tensor, i, items - i < part ? items - i : part,
                                              values.to));
    seconds += now() - begun;
    *bytes += (double)each * (double)items;
    free(values.to);
  }
  return seconds;
}

/* ---- the course of events ---- */

static double forward(moecl_context *context, moecl_layer *layer,
                      const moecl_forward_params *with) {
  const double begun = now();
  must("forward", moecl_layer_forward(layer, with, NULL));
  must("forward", moecl_context_finish_wait(context));
  return now() - begun;
}

static moecl_buffer *rows(moecl_context *context, const run *r) {
  const uint64_t bytes = (uint64_t)(r->tokens * r->params.hidden_size) * 2;
  moecl_buffer *made = NULL;
  must("buffer", moecl_buffer_create(context, bytes, &made));
  must("buffer", moecl_buffer_fill_byte(made, 0, bytes, 0x3c));
  must("buffer", moecl_context_finish_wait(context));
  return made;
}

static void run_once(run *r) {
  moecl_context *context;
  moecl_layer *layer;
  double bytes = 0, at = r->since = now();
  const moecl_context_params with = {.device = r->device, .log = print_log, .log_user = r};
  must("context", moecl_context_create(&with, &context));
  if (r->threads > 0) context->build_threads = r->threads;
  const double opened = now() - at;
  at = r->since = now();
  must("layer", moecl_layer_create(context, &r->params, &layer));
  const double made = now() - at, filled = set_weights(r, layer, &bytes);
  moecl_forward_params params = {.hidden_states = rows(context, r), .output = rows(context, r)};
  double before[MOST_BEFORE];
  for (int i = 0; i < r->num_before; i++) { /* kernels of their own, and what weights still need */
    params.num_tokens = r->before[i];
    before[i] = forward(context, layer, &params);
  }
  params.num_tokens = r->tokens;
  at = now();
  if (r->reserve) must("reserve", moecl_layer_reserve(layer, r->tokens));
  const double reserved = now() - at;
  const double first = forward(context, layer, &params), second = forward(context, layer, &params);
  at = now();
  moecl_layer_destroy(&layer);
  const double destroyed = now() - at;
  moecl_buffer *hidden = (moecl_buffer *)params.hidden_states;
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&params.output);
  at = now();
  moecl_context_destroy(&context);
  printf("{\"threads\": %d, \"context_s\": %.4f, \"layer_s\": %.4f, \"weights_s\": %.4f, "
         "\"weights_GB_s\": %.2f, \"before_ms\": [",
         r->threads, opened, made, filled, bytes * 1e-9 / filled);
  for (int i = 0; i < r->num_before; i++) printf("%s%.2f", i ? ", " : "", 1e3 * before[i]);
  printf("], \"reserve_ms\": %.2f, \"first_ms\": %.2f, \"second_ms\": %.2f, "
         "\"destroy_ms\": %.2f, \"close_ms\": %.2f}\n",
         1e3 * reserved, 1e3 * first, 1e3 * second, 1e3 * destroyed, 1e3 * (now() - at));
}

/* ---- the command ---- */

static void usage(void) {
  fprintf(stderr, "usage: start_times --shape H:I:E:K [--tokens T] [--before T,...] [--device D]\n"
                  "                   [--threads N] [--no-reserve] [--programs]\n");
  exit(2);
}

/* Numbers of tokens, of which none is larger than --tokens in the end. */
static void parse_before(const char *list, run *r) {
  char *end;
  for (r->num_before = 0; *list; list = *end ? end + 1 : end) {
    if (r->num_before == MOST_BEFORE) usage();
    r->before[r->num_before] = strtoll(list, &end, 10);
    if (end == list || (*end && *end != ',') || r->before[r->num_before++] < 1) usage();
  }
}

static bool fits(const run *r) {
  for (int i = 0; i < r->num_before; i++)
    if (r->before[i] > r->tokens) return false;
  return r->tokens > 0;
}

static void parse(int argc, char **argv, run *r) {
  static const struct option options[] = {
      {"shape", required_argument, NULL, 's'},   {"tokens", required_argument, NULL, 't'},
      {"before", required_argument, NULL, 'b'},  {"device", required_argument, NULL, 'd'},
      {"threads", required_argument, NULL, 'n'}, {"no-reserve", no_argument, NULL, 'r'},
      {"programs", no_argument, NULL, 'p'},      {NULL, 0, NULL, 0}};
  long long h = 0, i = 0, e = 0, k = 0;
  for (int letter; (letter = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (letter == 's' && sscanf(optarg, "%lld:%lld:%lld:%lld", &h, &i, &e, &k) == 4) continue;
    if (letter == 't') r->tokens = atoll(optarg);
    else if (letter == 'b') parse_before(optarg, r);
    else if (letter == 'd') r->device = optarg;
    else if (letter == 'n') r->threads = atoi(optarg);
    else if (letter == 'r') r->reserve = false;
    else if (letter == 'p') r->programs = true;
    else usage();
  }
  r->params = (moecl_layer_params){.hidden_size = h,
                                   .intermediate_size = i,
                                   .num_experts = e,
                                   .top_k = k,
                                   .dtype = MOECL_BF16,
                                   .activation = MOECL_SWIGLU,
                                   .renormalize = true};
  char message[256];
  if (optind != argc || !fits(r)) usage();
  if (moecl_layer_params_check(&r->params, message, sizeof message) == MOECL_OK) return;
  fprintf(stderr, "start_times: %s\n", message);
  exit(2);
}

int main(int argc, char **argv) {
  run r = {.tokens = 16384, .before = {1}, .num_before = 1, .reserve = true, .device = "gpu"};
  parse(argc, argv, &r);
  run_once(&r);
  return 0;
}

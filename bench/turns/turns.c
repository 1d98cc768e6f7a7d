// SPDX-License-Identifier: MIT
/* moecl's side of bench/peers/nvidia.py: one bf16 layer (SwiGLU, softmax over the top k,
 * renormalized) whose weights and inputs are those of the others.
 *
 *   layer_turns --shape H:I:E:K --window FILE [--device gpu]
 *
 * FILE is memory that both sides map: what is given lies at its beginning. Lines of standard input
 * are answered with lines of JSON on standard output, after a first one that says who answers:
 *   weights TENSOR FIRST COUNT  takes so many items of router, gate_up or down: GB/s
 *   tokens T SETS               takes SETS inputs of T tokens, one behind the other, and leaves the
 *                               output of the first in the window: the experts that have tokens
 *   burst N                     milliseconds a forward, N back to back, by the host's clock
 *   load N                      the same of the second half of N
 *   device N                    the median of N, enqueued back to back, by the device's clock
 *   idle N PAUSE                the median of N forwards by themselves, from the call to the
 *                               output, each after so many milliseconds without one
 *
 * Inputs are taken in turn. */
#include "timing.h"
#include <moecl/moecl.h>

#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_SETS = 16, MOST_SAMPLES = 256 };

typedef struct turns {
  moecl_context *context;
  moecl_layer_params params;
  moecl_layer *layer;
  moecl_profile *profiles[MOST_SAMPLES];
  char *window;
  uint64_t window_bytes;
  int64_t tokens;
  int sets;
  moecl_buffer *input[MOST_SETS], *output;
} turns;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "layer_turns: %s: %s\n", what, why);
  exit(1);
}

static void must(const char *what, moecl_status status) {
  if (status != MOECL_OK) fail(what, moecl_status_string(status));
}

/* ---- what is given ---- */

static const char *window(const turns *t, uint64_t bytes) {
  if (bytes > t->window_bytes) fail("window", "it is smaller than what it is to hold");
  return t->window;
}

static void take_weights(turns *t, const char *name, int64_t first, int64_t count) {
  static const struct {
    const char *name;
    moecl_tensor tensor;
  } names[] = {
      {"router", MOECL_ROUTER_WEIGHT}, {"gate_up", MOECL_GATE_UP_PROJ}, {"down", MOECL_DOWN_PROJ}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strcmp(name, names[i].name) != 0) continue;
    const moecl_tensor tensor = names[i].tensor;
    const uint64_t bytes = (uint64_t)count * moecl_layer_tensor_bytes(&t->params, tensor);
    const char *from = window(t, bytes);
    const double begun = timing_now_ms();
    must("weights", moecl_layer_set_weights(t->layer, tensor, first, count, from));
    printf("{\"GB_s\": %.3g}\n", (double)bytes * 1e-6 / (timing_now_ms() - begun));
    return;
  }
  fail("weights", name);
}

static void forward(turns *t, int number, moecl_profile *profile) {
  const moecl_forward_params params = {.num_tokens = t->tokens,
                                       .hidden_states = t->input[number % t->sets],
                                       .output = t->output,
                                       .profile = profile};
  must("forward", moecl_layer_forward(t->layer, &params, NULL));
}

static void finish(turns *t) { must("forward", moecl_context_finish_wait(t->context)); }

/* How many experts have tokens of one input. */
static int64_t count_active(turns *t, int number) {
  moecl_routing routing;
  int64_t active = 0;
  forward(t, number, NULL);
  must("routing", moecl_layer_read_routing_wait(t->layer, &routing));
  for (int64_t e = 0; e < routing.num_experts; e++) active += routing.tokens_per_expert[e] > 0;
  moecl_routing_destroy(&routing);
  return active;
}

static void release_rows(turns *t) {
  for (int i = 0; i < t->sets; i++) moecl_buffer_destroy(&t->input[i]);
  moecl_buffer_destroy(&t->output);
  t->sets = 0;
}

static void take_tokens(turns *t, int64_t tokens, int sets) {
  const uint64_t bytes =
      (uint64_t)(tokens * t->params.hidden_size) * moecl_dtype_size(t->params.dtype);
  const char *from = window(t, bytes * (uint64_t)sets);
  release_rows(t);
  t->tokens = tokens;
  must("buffer", moecl_buffer_create(t->context, bytes, &t->output));
  for (; t->sets < sets; t->sets++) {
    moecl_buffer **input = &t->input[t->sets];
    must("buffer", moecl_buffer_create(t->context, bytes, input));
    must("buffer", moecl_buffer_write_wait(*input, 0, bytes, from + bytes * (uint64_t)t->sets));
  }
  must("reserve", moecl_layer_reserve(t->layer, tokens));
  printf("{\"active\": [");
  for (int i = 0; i < sets; i++) printf("%s%lld", i ? ", " : "", (long long)count_active(t, i));
  printf("]}\n");
  forward(t, 0, NULL);
  must("output", moecl_buffer_read_wait(t->output, 0, bytes, t->window));
}

/* ---- times ---- */

static double burst(turns *t, int count) {
  finish(t);
  const double begun = timing_now_ms();
  for (int i = 0; i < count; i++) forward(t, i, NULL);
  finish(t);
  return (timing_now_ms() - begun) / count;
}

static double by_device(turns *t, int count) {
  static double times[MOST_SAMPLES];
  double stages[MOECL_STAGE_COUNT];
  if (count > MOST_SAMPLES) count = MOST_SAMPLES;
  for (int i = 0; i < count; i++) {
    if (t->profiles[i]) continue;
    must("profile", moecl_profile_create(t->context, &t->profiles[i]));
    moecl_profile_layer_only(t->profiles[i], true);
  }
  finish(t);
  for (int i = 0; i < count; i++) forward(t, i, t->profiles[i]);
  for (int i = 0; i < count; i++) {
    must("profile", moecl_profile_read_wait(t->profiles[i], stages, MOECL_STAGE_COUNT));
    times[i] = stages[MOECL_STAGE_LAYER];
  }
  return timing_median(times, count);
}

static double from_idle(turns *t, int count, double pause_ms) {
  static double times[MOST_SAMPLES];
  if (count > MOST_SAMPLES) count = MOST_SAMPLES;
  finish(t);
  for (int i = 0; i < count; i++) {
    usleep((useconds_t)(1e3 * pause_ms));
    const double begun = timing_now_ms();
    forward(t, i, NULL);
    finish(t);
    times[i] = timing_now_ms() - begun;
  }
  return timing_median(times, count);
}

/* ---- the command ---- */

static void usage(void) {
  fprintf(stderr, "usage: layer_turns --shape H:I:E:K --window FILE [--device D]\n"
                  "reads lines \"weights TENSOR FIRST COUNT\", \"tokens T SETS\", \"burst N\", "
                  "\"load N\", \"device N\", \"idle N PAUSE\"\n");
  exit(2);
}

static void map_window(turns *t, const char *path) {
  struct stat info;
  const int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0 || fstat(file, &info) != 0 || info.st_size == 0) fail(path, "cannot be opened");
  t->window_bytes = (uint64_t)info.st_size;
  t->window = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (t->window == MAP_FAILED) fail(path, "cannot be mapped");
  close(file);
}

static void parse(int argc, char **argv, turns *t, moecl_context_params *context) {
  static const struct option options[] = {{"shape", required_argument, NULL, 's'},
                                          {"window", required_argument, NULL, 'w'},
                                          {"device", required_argument, NULL, 'd'},
                                          {NULL, 0, NULL, 0}};
  long long h = 0, i = 0, e = 0, k = 0;
  for (int letter; (letter = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (letter == 's' && sscanf(optarg, "%lld:%lld:%lld:%lld", &h, &i, &e, &k) == 4) continue;
    if (letter == 'w') map_window(t, optarg);
    else if (letter == 'd') context->device = optarg;
    else usage();
  }
  if (optind != argc || !t->window) usage();
  t->params = (moecl_layer_params){.hidden_size = h,
                                   .intermediate_size = i,
                                   .num_experts = e,
                                   .top_k = k,
                                   .dtype = MOECL_BF16,
                                   .activation = MOECL_SWIGLU,
                                   .renormalize = true};
  char message[256];
  if (moecl_layer_params_check(&t->params, message, sizeof message) != MOECL_OK)
    fail("shape", message);
}

static void serve(turns *t) {
  char line[256], name[16];
  while (fgets(line, sizeof line, stdin)) {
    long long a = 0, b = 0;
    double pause = 0;
    if (sscanf(line, "weights %15s %lld %lld", name, &a, &b) == 3) take_weights(t, name, a, b);
    else if (sscanf(line, "tokens %lld %lld", &a, &b) == 2 && a > 0 && b > 0 && b <= MOST_SETS)
      take_tokens(t, a, (int)b);
    else if (t->sets == 0) usage();
    else if (sscanf(line, "burst %lld", &a) == 1 && a > 0)
      printf("{\"ms\": %.6g}\n", burst(t, (int)a));
    else if (sscanf(line, "load %lld", &a) == 1 && a > 1) {
      burst(t, (int)(a / 2));
      printf("{\"ms\": %.6g}\n", burst(t, (int)(a / 2)));
    } else if (sscanf(line, "device %lld", &a) == 1 && a > 0)
      printf("{\"ms\": %.6g}\n", by_device(t, (int)a));
    else if (sscanf(line, "idle %lld %lf", &a, &pause) == 2 && a > 0 && pause >= 0)
      printf("{\"ms\": %.6g}\n", from_idle(t, (int)a, pause));
    else usage();
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  turns t = {0};
  moecl_context_params with = {.device = "gpu", .log = timing_log};
  parse(argc, argv, &t, &with);
  const moecl_status opened = moecl_context_create(&with, &t.context);
  if (opened == MOECL_ERROR_NO_DEVICE) {
    printf("{\"no_device\": true}\n");
    return 3;
  }
  must("context", opened);
  must("layer", moecl_layer_create(t.context, &t.params, &t.layer));
  printf("{\"device\": \"%s\", \"variant\": \"%s\", \"version\": \"%s\"}\n",
         moecl_context_device(t.context)->name, moecl_layer_variant(t.layer, "grouped_gemm", NULL),
         moecl_version());
  fflush(stdout);
  serve(&t);
  release_rows(&t);
  for (int i = 0; i < MOST_SAMPLES; i++) moecl_profile_destroy(&t.profiles[i]);
  moecl_layer_destroy(&t.layer);
  moecl_context_destroy(&t.context);
  return 0;
}

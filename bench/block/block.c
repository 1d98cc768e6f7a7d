// SPDX-License-Identifier: MIT
/* Times the transformer block of a published model, point by point, for bench/peers/block.py:
 *
 *   block_times MODEL [--dtype bf16] [--device gpu] [--seconds 0.2] [--attention VARIANT]
 *
 * reads "TOKENS CONTEXT" lines on standard input and answers each with a line of JSON on standard
 * output: medians in milliseconds of one forward of TOKENS new tokens behind CONTEXT cached ones,
 * back to back by the host's clock ("wall"), from the first kernel's start to the last one's end
 * ("device"), and of every stage. Weights and inputs are random; inputs are taken in turn. */
#include "timing.h"
#include <moecl/moecl.h>

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { INPUTS = 3, ROUNDS = 7, MOST_SAMPLES = 64 };

typedef struct model {
  const char *name;
  moecl_block_params params;
} model;

#define HEADS(N, M, THETA)                                                                         \
  .num_heads = N, .num_kv_heads = M, .head_dim = 128, .rope = {.theta = THETA}
#define NORMS .attention_norm = {.epsilon = 1e-5f}, .feed_forward_norm = {.epsilon = 1e-5f}
static const model models[] = {
    {"mixtral",
     {.attention = {HEADS(32, 8, 1e6)},
      NORMS,
      .layer = {.hidden_size = 4096,
                .intermediate_size = 14336,
                .num_experts = 8,
                .top_k = 2,
                .renormalize = true}}},
    {"olmoe",
     {.attention = {HEADS(16, 16, 1e4), .qk_norm = MOECL_QK_NORM_FULL},
      NORMS,
      .layer = {.hidden_size = 2048, .intermediate_size = 1024, .num_experts = 64, .top_k = 8}}},
    {"qwen3",
     {.attention = {HEADS(32, 4, 1e6), .qk_norm = MOECL_QK_NORM_HEAD},
      NORMS,
      .layer = {.hidden_size = 2048,
                .intermediate_size = 768,
                .num_experts = 128,
                .top_k = 8,
                .renormalize = true}}},
    /* For trying the program itself. */
    {"tiny",
     {.attention = {.num_heads = 4, .num_kv_heads = 2, .head_dim = 32, .rope = {.theta = 1e4}},
      NORMS,
      .layer = {.hidden_size = 128,
                .intermediate_size = 64,
                .num_experts = 8,
                .top_k = 2,
                .renormalize = true}}},
};

typedef struct bench {
  moecl_context *context;
  moecl_block_params params;
  moecl_block *block;
  moecl_profile *profile;
  double seconds;     /* of each round */
  moecl_cache *cache; /* of the point's context; NULL: none */
  int64_t tokens, cached;
  moecl_buffer *input[INPUTS], *output;
} bench;

/* ---- small things ---- */

static void must(const char *what, moecl_status status) {
  if (status == MOECL_OK) return;
  fprintf(stderr, "block_times: %s: %s\n", what, moecl_status_string(status));
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- weights: normal, scaled so that all numbers stay of order one ---- */

static moecl_buffer *draw(bench *b, int64_t count, double scale, uint64_t stream) {
  moecl_buffer *buffer = NULL;
  const moecl_random_params random = {.dtype = b->params.layer.dtype,
                                      .distribution = MOECL_NORMAL,
                                      .scale = (float)scale,
                                      .seed = 42,
                                      .stream = stream};
  const uint64_t bytes = (uint64_t)count * moecl_dtype_size(b->params.layer.dtype);
  must("buffer", moecl_buffer_create(b->context, bytes, &buffer));
  must("random", moecl_fill_random(buffer, 0, (uint64_t)count, &random));
  return buffer;
}

static void draw_layer(bench *b) {
  moecl_layer *layer = moecl_block_layer(b->block);
  const moecl_layer_params *params = &b->params.layer;
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++) {
    const moecl_tensor tensor = (moecl_tensor)i;
    int64_t rows, columns;
    const int64_t items = moecl_layer_tensor_items(params, tensor);
    moecl_layer_tensor_shape(params, tensor, &rows, &columns);
    for (int64_t item = 0; item < items; item++) {
      moecl_buffer *from =
          draw(b, rows * columns, 1 / sqrt((double)columns), (uint64_t)(1000 + i * 2000 + item));
      must("weights", moecl_layer_set_weights_buffer(layer, tensor, item, 1, from, 0));
      moecl_buffer_destroy(&from);
    }
  }
}

static bool is_projection(moecl_block_tensor tensor) {
  return tensor == MOECL_QKV_PROJ || tensor == MOECL_O_PROJ;
}

static void draw_block(bench *b) {
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const moecl_block_tensor tensor = (moecl_block_tensor)i;
    const int64_t size = moecl_block_tensor_size(&b->params, tensor);
    if (size == 0) continue;
    const int64_t inputs = tensor == MOECL_O_PROJ
                               ? b->params.attention.num_heads * b->params.attention.head_dim
                               : b->params.layer.hidden_size;
    moecl_buffer *from =
        draw(b, size, is_projection(tensor) ? 1 / sqrt((double)inputs) : 1, (uint64_t)i);
    must("weights", moecl_block_set_weights_buffer(b->block, tensor, from, 0));
    moecl_buffer_destroy(&from);
  }
  draw_layer(b);
  must("weights", moecl_context_finish_wait(b->context));
}

/* ---- one point ---- */

static void forward(bench *b, const moecl_buffer *input, int64_t tokens, moecl_buffer *output,
                    moecl_profile *profile) {
  const moecl_block_forward_params params = {.num_tokens = tokens,
                                             .hidden_states = input,
                                             .output = output,
                                             .cache = b->cache,
                                             .profile = profile};
  must("forward", moecl_block_forward(b->block, &params, NULL));
}

/* The point's step once more: the cache as it was before it. */
static void step(bench *b, int number, moecl_profile *profile) {
  if (b->cache) must("cache", moecl_cache_set_tokens(b->cache, b->cached));
  forward(b, b->input[number % INPUTS], b->tokens, b->output, profile);
}

static void begin(bench *b, int64_t tokens, int64_t cached) {
  const int64_t hidden = b->params.layer.hidden_size;
  b->tokens = tokens;
  b->cached = cached;
  for (int i = 0; i < INPUTS; i++) b->input[i] = draw(b, tokens * hidden, 1, 900000 + (uint64_t)i);
  b->output = draw(b, tokens * hidden, 1, 910000);
  must("reserve", moecl_block_reserve(b->block, tokens > cached ? tokens : cached, cached > 0));
  if (cached == 0) return;
  must("cache", moecl_cache_create(b->block, tokens + cached, &b->cache));
  moecl_buffer *before = draw(b, cached * hidden, 1, 920000);
  moecl_buffer *after = draw(b, cached * hidden, 1, 920001);
  forward(b, before, cached, after, NULL);
  must("context", moecl_context_finish_wait(b->context));
  moecl_buffer_destroy(&before);
  moecl_buffer_destroy(&after);
}

static void end(bench *b) {
  for (int i = 0; i < INPUTS; i++) moecl_buffer_destroy(&b->input[i]);
  moecl_buffer_destroy(&b->output);
  moecl_cache_destroy(&b->cache);
}

/* Milliseconds a forward, `count` of them back to back. */
static double run(bench *b, int count) {
  const double from = now();
  for (int i = 0; i < count; i++) step(b, i, NULL);
  must("forward", moecl_context_finish_wait(b->context));
  return (now() - from) * 1e3 / count;
}

static double measure_wall(bench *b) {
  double rounds[ROUNDS];
  run(b, 2);
  const double each = run(b, 3) * 1e-3;
  const double fit = b->seconds / ROUNDS / each;
  const int count = fit < 1 ? 1 : fit > 2000 ? 2000 : (int)fit;
  run(b, count);
  for (int i = 0; i < ROUNDS; i++) rounds[i] = run(b, count);
  return timing_median(rounds, ROUNDS);
}

/* Medians of `samples` profiled forwards by stage. */
static void measure_stages(bench *b, bool whole_only, int samples, double *stages) {
  double all[MOECL_STAGE_COUNT][MOST_SAMPLES];
  int count[MOECL_STAGE_COUNT] = {0};
  moecl_profile_layer_only(b->profile, whole_only);
  for (int i = 0; i < samples; i++) {
    double times[MOECL_STAGE_COUNT];
    step(b, i, b->profile);
    must("profile", moecl_profile_read_wait(b->profile, times, MOECL_STAGE_COUNT));
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
      if (!isnan(times[stage])) all[stage][count[stage]++] = times[stage];
  }
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
    stages[stage] = timing_median(all[stage], count[stage]);
}

static void print_number(const char *name, double value) {
  if (isnan(value)) printf("\"%s\": null", name);
  else printf("\"%s\": %.6g", name, value);
}

static void print_variants(const bench *b) {
  static const char *const names[] = {"norm",      "projections",  "rotary",
                                      "attention", "grouped_gemm", "router"};
  const char *before = "";
  printf(", \"variants\": {");
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++, before = ", ")
    printf("%s\"%s\": \"%s\"", before, names[i], moecl_block_variant(b->block, names[i], NULL));
  printf("}");
}

static void measure_point(bench *b, int64_t tokens, int64_t cached) {
  double whole[MOECL_STAGE_COUNT], stages[MOECL_STAGE_COUNT];
  begin(b, tokens, cached);
  const double wall = measure_wall(b);
  const double fit = b->seconds * 1e3 / wall;
  const int samples = fit < 3 ? 3 : fit > MOST_SAMPLES ? MOST_SAMPLES : (int)fit;
  measure_stages(b, true, samples, whole);
  measure_stages(b, false, samples, stages);
  printf("{\"tokens\": %lld, \"context\": %lld, ", (long long)tokens, (long long)cached);
  print_number("wall", wall);
  printf(", ");
  print_number("device", whole[MOECL_STAGE_LAYER]);
  printf(", \"stages\": {");
  const char *before = "";
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    if (stage == MOECL_STAGE_LAYER || isnan(stages[stage])) continue;
    printf("%s", before);
    print_number(moecl_stage_name((moecl_stage)stage), stages[stage]);
    before = ", ";
  }
  printf("}");
  print_variants(b);
  printf("}\n");
  fflush(stdout);
  end(b);
}

/* ---- the command ---- */

static void usage(void) {
  fprintf(stderr, "usage: block_times MODEL [--dtype fp32|fp16|bf16] [--device D] [--seconds S] "
                  "[--attention VARIANT]\nMODEL: ");
  for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
    fprintf(stderr, "%s%s", i ? ", " : "", models[i].name);
  fprintf(stderr, "\nreads lines of \"TOKENS CONTEXT\"\n");
  exit(2);
}

static moecl_dtype parse_dtype(const char *text) {
  for (int i = 0; i < MOECL_DTYPE_COUNT; i++)
    if (strcmp(text, moecl_dtype_name((moecl_dtype)i)) == 0) return (moecl_dtype)i;
  usage();
  return MOECL_F32;
}

static void parse(int argc, char **argv, bench *b, moecl_context_params *context) {
  static const struct option options[] = {{"dtype", required_argument, NULL, 't'},
                                          {"device", required_argument, NULL, 'd'},
                                          {"seconds", required_argument, NULL, 's'},
                                          {"attention", required_argument, NULL, 'a'},
                                          {NULL, 0, NULL, 0}};
  moecl_dtype dtype = MOECL_BF16;
  const char *attention = NULL;
  for (int letter; (letter = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (letter == 't') dtype = parse_dtype(optarg);
    else if (letter == 'd') context->device = optarg;
    else if (letter == 's') b->seconds = strtod(optarg, NULL);
    else if (letter == 'a') attention = optarg;
    else usage();
  }
  if (optind + 1 != argc || !(b->seconds > 0)) usage();
  const size_t count = sizeof models / sizeof models[0];
  size_t i = 0;
  while (i < count && strcmp(models[i].name, argv[optind]) != 0) i++;
  if (i == count) usage();
  b->params = models[i].params;
  b->params.layer.activation = MOECL_SWIGLU;
  b->params.layer.dtype = dtype;
  b->params.attention_variant = attention;
}

int main(int argc, char **argv) {
  bench b = {.seconds = 0.2};
  moecl_context_params with = {.log = timing_log};
  char line[128];
  parse(argc, argv, &b, &with);
  must("context", moecl_context_create(&with, &b.context));
  must("block", moecl_block_create(b.context, &b.params, &b.block));
  must("profile", moecl_profile_create(b.context, &b.profile));
  draw_block(&b);
  printf("{\"device\": \"%s\"}\n", moecl_context_device(b.context)->name);
  fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    long long tokens, cached;
    if (sscanf(line, "%lld %lld", &tokens, &cached) != 2 || tokens < 1 || cached < 0) usage();
    measure_point(&b, tokens, cached);
  }
  moecl_profile_destroy(&b.profile);
  moecl_block_destroy(&b.block);
  moecl_context_destroy(&b.context);
  return 0;
}

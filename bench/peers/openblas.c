// SPDX-License-Identifier: MIT
/* moecl's CPU grouped GEMMs beside OpenBLAS on the same ragged counts.
 *
 * For each number of tokens per expert a layer of the "cpu" variant runs with
 * a profile; its routing gives every expert's rows. OpenBLAS then multiplies
 * the same shapes, one sgemm per expert and projection: fp32 weights whatever
 * the layer's dtype, rows already gathered and no activation, which is
 * generous to OpenBLAS. moecl's time is its gate_up and down stages (gather
 * and activation included). The peers take turns; a pause lets OpenBLAS's
 * threads, which spin after a call, go to sleep. Medians over the rounds.
 *
 * Build (Debian: libopenblas-pthread-dev):
 *   cc -O2 -std=gnu11 -Ibench bench/peers/openblas.c -o peer_openblas \
 *      $(pkg-config --cflags --libs moecl openblas) -lm -lpthread
 * Check the core name that is printed: OpenBLAS may mistake the processor;
 * OPENBLAS_CORETYPE and OPENBLAS_NUM_THREADS set it right. */
#include "layer/reading.h"
#include <moecl/moecl.h>

#include <cblas.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_POINTS = 32, MAX_ROUNDS = 101 };

typedef struct options {
  const char *device;
  int64_t experts, top_k, hidden, intermediate;
  moecl_dtype dtype;
  int64_t tokens_per_expert[MAX_POINTS];
  int points, rounds, pause_ms;
  float skew, noise;
} options;

/* OpenBLAS's share: one expert's operands after another, all fp32. */
typedef struct peer {
  float *gate_up, *down;               /* [E][2I][H], [E][H][I] */
  float *rows, *middle, *act, *output; /* [S][H], [S][2I], [S][I], [S][H] */
} peer;

static void fail(const char *what, moecl_status status) {
  fprintf(stderr, "openblas: %s: %s\n", what, moecl_status_string(status));
  exit(1);
}

static void must(const char *what, moecl_status status) {
  if (status != MOECL_OK) fail(what, status);
}

static void print_log(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "moecl: %s\n", message);
}

static void pause_for(int milliseconds) {
  struct timespec t = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
  nanosleep(&t, NULL);
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double median(const double *values, int count) {
  double sorted[MAX_ROUNDS];
  memcpy(sorted, values, (size_t)count * sizeof *values);
  qsort(sorted, (size_t)count, sizeof *sorted, by_value);
  return count % 2 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
}

static float *floats(int64_t count) {
  const size_t bytes = ((size_t)count * sizeof(float) + 4095) / 4096 * 4096;
  float *p = aligned_alloc(4096, bytes ? bytes : 4096);
  if (!p) fail("host memory", MOECL_ERROR_OUT_OF_HOST_MEMORY);
  return p;
}

/* The values do not matter for the time as long as they are ordinary ones. */
static float *filled(int64_t count) {
  float *p = floats(count);
  uint32_t state = 1;
  for (int64_t i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    p[i] = (float)(int32_t)state * (0.05f / 2147483648.0f);
  }
  return p;
}

/* ---- the two contestants ---- */

static void times_transposed(const float *rows, const float *weight, float *out, int64_t m,
                             int64_t n, int64_t k) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, 1.0f, rows, (int)k,
              weight, (int)k, 0.0f, out, (int)n);
}

/* Milliseconds of both projections of all experts. */
static double run_peer(const options *o, const peer *p, const int64_t *counts) {
  const int64_t h = o->hidden, i = o->intermediate;
  const double start = reading_clock();
  int64_t slot = 0;
  for (int64_t e = 0; e < o->experts; slot += counts[e++])
    if (counts[e])
      times_transposed(p->rows + slot * h, p->gate_up + e * 2 * i * h, p->middle + slot * 2 * i,
                       counts[e], 2 * i, h);
  slot = 0;
  for (int64_t e = 0; e < o->experts; slot += counts[e++])
    if (counts[e])
      times_transposed(p->act + slot * i, p->down + e * h * i, p->output + slot * h, counts[e], h,
                       i);
  return 1e3 * (reading_clock() - start);
}

static void set_weights(moecl_context *context, moecl_layer *layer,
                        const moecl_layer_params *params) {
  const moecl_tensor tensors[] = {MOECL_ROUTER_WEIGHT, MOECL_GATE_UP_PROJ, MOECL_DOWN_PROJ};
  for (int t = 0; t < 3; t++) {
    const int64_t size = moecl_layer_tensor_size(params, tensors[t]);
    const int64_t items = tensors[t] == MOECL_ROUTER_WEIGHT ? 1 : params->num_experts;
    const int64_t inputs =
        tensors[t] == MOECL_DOWN_PROJ ? params->intermediate_size : params->hidden_size;
    moecl_buffer *source;
    must("weights",
         moecl_buffer_create(context, (uint64_t)size * moecl_dtype_size(params->dtype), &source));
    for (int64_t e = 0; e < items; e++) {
      const moecl_random_params random = {.dtype = params->dtype,
                                          .scale = 1.0f / sqrtf((float)inputs),
                                          .seed = 1,
                                          .stream = (uint64_t)t << 32 | (uint64_t)e};
      must("weights", moecl_fill_random(source, 0, (uint64_t)size, &random));
      must("weights", moecl_layer_set_weights_buffer(layer, tensors[t], e, 1, source, 0));
    }
    must("weights", moecl_context_finish_wait(context));
    moecl_buffer_destroy(&source);
  }
}

static void run_layer(moecl_layer *layer, const moecl_forward_params *forward,
                      double milliseconds[MOECL_STAGE_COUNT]) {
  must("forward", moecl_layer_forward(layer, forward, NULL));
  must("profile", moecl_profile_read_wait(forward->profile, milliseconds, MOECL_STAGE_COUNT));
}

static void run_point(const options *o, moecl_context *context, moecl_layer *layer, peer *p,
                      int64_t per_expert, int threads) {
  const int64_t h = o->hidden, i = o->intermediate;
  int64_t tokens = (per_expert * o->experts + o->top_k - 1) / o->top_k;
  const uint64_t bytes = (uint64_t)(tokens * h) * moecl_dtype_size(o->dtype);
  moecl_buffer *hidden, *output;
  moecl_profile *profile;
  must("hidden states", moecl_buffer_create(context, bytes, &hidden));
  must("output", moecl_buffer_create(context, bytes, &output));
  must("profile", moecl_profile_create(context, &profile));
  const moecl_skewed_params skewed = {.dtype = o->dtype,
                                      .num_tokens = tokens,
                                      .hidden_size = h,
                                      .seed = 2,
                                      .num_clusters = o->experts,
                                      .exponent = o->skew,
                                      .noise = o->noise};
  must("hidden states", moecl_fill_skewed(hidden, &skewed));
  const moecl_forward_params forward = {
      .num_tokens = tokens, .hidden_states = hidden, .output = output, .profile = profile};

  /* The first round is not counted: kernels are generated, pages touched. */
  double stage[MOECL_STAGE_COUNT];
  run_layer(layer, &forward, stage);
  moecl_routing routing;
  must("routing", moecl_layer_read_routing_wait(layer, &routing));
  const int64_t *counts = routing.tokens_per_expert_after_capacity;
  int64_t slots = 0, most = 0, active = 0;
  for (int64_t e = 0; e < o->experts; e++) {
    slots += counts[e];
    active += counts[e] > 0;
    if (counts[e] > most) most = counts[e];
  }
  p->rows = filled(slots * h);
  p->middle = filled(slots * 2 * i);
  p->act = filled(slots * i);
  p->output = filled(slots * h);
  run_peer(o, p, counts);

  double blas[MAX_ROUNDS], gemm[MAX_ROUNDS], layer_over[MAX_ROUNDS], ratio[MAX_ROUNDS],
      read[MAX_ROUNDS];
  for (int r = 0; r < o->rounds; r++) {
    pause_for(o->pause_ms);
    run_layer(layer, &forward, stage);
    gemm[r] = stage[MOECL_STAGE_GATE_UP] + stage[MOECL_STAGE_DOWN];
    layer_over[r] = stage[MOECL_STAGE_LAYER] / gemm[r];
    read[r] = reading_rate(p->gate_up, o->experts * 2 * i * h, threads);
    blas[r] = run_peer(o, p, counts);
    ratio[r] = blas[r] / gemm[r];
  }
  const double flop = 2.0 * (double)slots * (double)(3 * i * h);
  const double weight_gb =
      1e-9 * (double)active * (double)(3 * i * h) * (double)moecl_dtype_size(o->dtype);
  const double blas_ms = median(blas, o->rounds), gemm_ms = median(gemm, o->rounds);
  const double weight_rate = weight_gb / (1e-3 * gemm_ms), read_rate = median(read, o->rounds);
  printf("%6lld %7lld %6lld %6lld | %9.2f %7.1f | %9.2f %7.1f | %6.2f | %6.1f %6.1f %4.0f%% | "
         "%6.2f\n",
         (long long)per_expert, (long long)tokens, (long long)active, (long long)most, blas_ms,
         flop / blas_ms * 1e-6, gemm_ms, flop / gemm_ms * 1e-6, median(ratio, o->rounds),
         weight_rate, read_rate, 100.0 * weight_rate / read_rate, median(layer_over, o->rounds));
  fflush(stdout);

  free(p->rows);
  free(p->middle);
  free(p->act);
  free(p->output);
  moecl_routing_destroy(&routing);
  moecl_profile_destroy(&profile);
  moecl_buffer_destroy(&output);
  moecl_buffer_destroy(&hidden);
}

static void usage(FILE *to) {
  fprintf(to, "usage: peer_openblas [options]\n"
              "  --experts E        64    --top-k K           8\n"
              "  --hidden H         2048  --intermediate I    1024\n"
              "  --dtype D          fp32  fp16 or bf16: of the layer; OpenBLAS has fp32\n"
              "  --tokens-per-expert LIST 1,4,8,16,32,64,128,256 (on average)\n"
              "  --skew S           0.5   Zipf exponent of the token clusters; 0: even\n"
              "  --noise N          0.7   share of a token that is its own\n"
              "  --rounds R         7     --pause-ms P        150\n"
              "  --device D         cpu\n");
}

static moecl_dtype parse_dtype(const char *name) {
  for (int d = 0; d < MOECL_DTYPE_COUNT; d++)
    if (!strcmp(name, moecl_dtype_name((moecl_dtype)d))) return (moecl_dtype)d;
  fprintf(stderr, "openblas: --dtype %s: expected", name);
  for (int d = 0; d < MOECL_DTYPE_COUNT; d++)
    fprintf(stderr, " %s", moecl_dtype_name((moecl_dtype)d));
  fprintf(stderr, "\n");
  exit(2);
}

static int64_t parse_integer(const char *name, const char *text, int64_t least, int64_t most) {
  char *end;
  const long long value = strtoll(text, &end, 10);
  if (*end || end == text || value < least || value > most) {
    fprintf(stderr, "openblas: --%s %s: expected a whole number from %lld to %lld\n", name, text,
            (long long)least, (long long)most);
    exit(2);
  }
  return value;
}

static void parse_points(options *o, const char *list) {
  char *copy = strdup(list), *save = NULL;
  if (!copy) fail("host memory", MOECL_ERROR_OUT_OF_HOST_MEMORY);
  o->points = 0;
  for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
    if (o->points == MAX_POINTS) break;
    o->tokens_per_expert[o->points++] = parse_integer("tokens-per-expert", item, 1, 1 << 20);
  }
  free(copy);
}

static void parse(options *o, int argc, char **argv) {
  static const struct option names[] = {{"experts", 1, 0, 'e'},
                                        {"top-k", 1, 0, 'k'},
                                        {"hidden", 1, 0, 'h'},
                                        {"intermediate", 1, 0, 'i'},
                                        {"dtype", 1, 0, 'd'},
                                        {"tokens-per-expert", 1, 0, 't'},
                                        {"skew", 1, 0, 's'},
                                        {"noise", 1, 0, 'n'},
                                        {"rounds", 1, 0, 'r'},
                                        {"pause-ms", 1, 0, 'p'},
                                        {"device", 1, 0, 'D'},
                                        {"help", 0, 0, '?'},
                                        {0}};
  *o = (options){.device = "cpu",
                 .experts = 64,
                 .top_k = 8,
                 .hidden = 2048,
                 .intermediate = 1024,
                 .rounds = 7,
                 .pause_ms = 150,
                 .skew = 0.5f,
                 .noise = 0.7f};
  parse_points(o, "1,4,8,16,32,64,128,256");
  for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (c) {
    case 'e': o->experts = parse_integer("experts", optarg, 1, MOECL_MAX_EXPERTS); break;
    case 'k': o->top_k = parse_integer("top-k", optarg, 1, MOECL_MAX_TOP_K); break;
    case 'h': o->hidden = parse_integer("hidden", optarg, 1, 1 << 20); break;
    case 'i': o->intermediate = parse_integer("intermediate", optarg, 1, 1 << 20); break;
    case 'd': o->dtype = parse_dtype(optarg); break;
    case 't': parse_points(o, optarg); break;
    case 's': o->skew = strtof(optarg, NULL); break;
    case 'n': o->noise = strtof(optarg, NULL); break;
    case 'r': o->rounds = (int)parse_integer("rounds", optarg, 1, MAX_ROUNDS); break;
    case 'p': o->pause_ms = (int)parse_integer("pause-ms", optarg, 0, 60000); break;
    case 'D': o->device = optarg; break;
    default: usage(stderr); exit(2);
    }
}

int main(int argc, char **argv) {
  options o;
  parse(&o, argc, argv);
  moecl_context *context;
  must("context", moecl_context_create(
                      &(moecl_context_params){.device = o.device, .log = print_log}, &context));
  const moecl_layer_params params = {.hidden_size = o.hidden,
                                     .intermediate_size = o.intermediate,
                                     .num_experts = o.experts,
                                     .top_k = o.top_k,
                                     .dtype = o.dtype,
                                     .activation = MOECL_SWIGLU,
                                     .renormalize = true,
                                     .grouped_gemm_variant = "cpu"};
  char message[256];
  if (moecl_layer_params_check(&params, message, sizeof message) != MOECL_OK) {
    fprintf(stderr, "openblas: %s\n", message);
    return 2;
  }
  moecl_layer *layer;
  must("layer", moecl_layer_create(context, &params, &layer));
  set_weights(context, layer, &params);
  peer p = {.gate_up = filled(o.experts * 2 * o.intermediate * o.hidden),
            .down = filled(o.experts * o.hidden * o.intermediate)};

  int threads = openblas_get_num_threads();
  if (threads > READING_MAX_THREADS) threads = READING_MAX_THREADS;
  const moecl_device_info *device = moecl_context_device(context);
  printf("device: %s, %u compute units; moecl %s, grouped GEMM \"%s\"\n", device->name,
         device->compute_units, moecl_version(), moecl_layer_variant(layer, "grouped_gemm", NULL));
  printf("OpenBLAS: core %s, %d threads, fp32\n", openblas_get_corename(), threads);
  printf("layer: %lld experts, top %lld, hidden %lld, intermediate %lld, SwiGLU, weights %s\n",
         (long long)o.experts, (long long)o.top_k, (long long)o.hidden, (long long)o.intermediate,
         moecl_dtype_name(o.dtype));
  printf("rows per expert as routed (clusters' exponent %g, noise %g); medians of %d rounds\n\n",
         (double)o.skew, (double)o.noise, o.rounds);
  printf("  rows/          active   most |      OpenBLAS     |  moecl gate_up+down |  times |   "
         "GB/s  plain      | layer/\n");
  printf("expert  tokens experts   rows |        ms  GFLOP/s |        ms  GFLOP/s | faster | "
         "weights  read share | GEMMs\n");
  for (int point = 0; point < o.points; point++)
    run_point(&o, context, layer, &p, o.tokens_per_expert[point], threads);

  free(p.gate_up);
  free(p.down);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  return 0;
}

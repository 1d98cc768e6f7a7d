// SPDX-License-Identifier: MIT
/* Times ggml's, which is llama.cpp's, experts on the CPU, round by round, for
 * bench/peers/formats.py:
 *
 *   peer_ggml --shape H:I:E:K --type q8_0 [--layout stored|repacked] [--threads N]
 *
 * answers lines of standard input with lines of JSON on standard output, after a first one that
 * says who answers, or why it can't:
 *   tokens T N ID...   N inputs of T tokens, and T * K experts of each; the error beside double
 *                      precision on the weights as they are stored
 *   run S              median of S seconds of graphs, in milliseconds, the inputs in turn
 * A graph is what llama.cpp has for experts: MUL_MAT_ID of gate and of up, SwiGLU, MUL_MAT_ID of
 * down. Weights are in the buffers that llama.cpp takes: as stored, or repacked for the processor
 * where ggml has that for MUL_MAT_ID. Experts have two sets of weights in turn.
 *
 * Build against ggml's CPU backend (docs/benchmarks.md has the commands):
 *   cc -O2 -std=gnu11 bench/peers/ggml.c -o peer_ggml -I GGML/include -L BUILD/src \
 *      -lggml -lggml-cpu -lggml-base -lstdc++ -lpthread -lm */
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SETS = 2, MOST_SAMPLES = 4096 };

typedef struct bench {
  int64_t h, i, e, k;
  enum ggml_type type;
  bool repacked;
  int threads;
  ggml_backend_t backend;
  struct ggml_threadpool *pool;
  struct ggml_context *weights;
  struct ggml_tensor *gate, *up, *down;
  void *stored[3][SETS]; /* of gate, up, down, one expert each */
  /* of one number of tokens: */
  int64_t tokens, inputs;
  int32_t *chosen; /* [inputs][tokens][k] */
  float *hidden;   /* [tokens][h] */
  struct ggml_context *point;
  ggml_backend_buffer_t memory;
  struct ggml_cgraph *graph;
  struct ggml_tensor *input, *ids, *output;
} bench;

static void fail(const char *what) {
  fprintf(stderr, "peer_ggml: %s\n", what);
  exit(1);
}

static void *allocate(size_t bytes) {
  void *p = malloc(bytes ? bytes : 1);
  if (!p) fail("out of memory");
  return p;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* About normal, of unit variance: four uniform numbers. */
static void draw(float *to, int64_t count, double scale, uint64_t seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (int64_t i = 0; i < count; i++) {
    double sum = -2;
    for (int j = 0; j < 4; j++) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      sum += (double)(state >> 11) * 0x1p-53;
    }
    to[i] = (float)(sum * sqrt(3) * scale);
  }
}

/* ---- weights ---- */

static ggml_backend_buffer_type_t buffers(bool repacked) {
  if (!repacked) return ggml_backend_cpu_buffer_type();
  ggml_backend_dev_t device = ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
  ggml_backend_dev_get_extra_bufts_t get =
      (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
          ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts");
  for (ggml_backend_buffer_type_t *one = get ? get(device) : NULL; one && *one; one++)
    if (strstr(ggml_backend_buft_name(*one), "REPACK")) return *one;
  return NULL;
}

/* One set's matrices of all experts; those of a set are the same. */
static void set_weights(bench *b, struct ggml_tensor *tensor, int which) {
  const int64_t columns = tensor->ne[0], rows = tensor->ne[1];
  const size_t one = ggml_row_size(b->type, columns) * (size_t)rows;
  float *values = allocate((size_t)(rows * columns) * sizeof *values);
  char *all = allocate(one * (size_t)b->e);
  for (int set = 0; set < SETS; set++) {
    draw(values, rows * columns, 1 / sqrt((double)columns), (uint64_t)(10 * which + set + 1));
    b->stored[which][set] = allocate(one);
    ggml_quantize_chunk(b->type, values, b->stored[which][set], 0, rows, columns, NULL);
  }
  for (int64_t e = 0; e < b->e; e++) memcpy(all + (size_t)e * one, b->stored[which][e % SETS], one);
  ggml_backend_tensor_set(tensor, all, 0, ggml_nbytes(tensor)); /* repacking takes it as a whole */
  free(values);
  free(all);
}

/* ---- one number of tokens ---- */

static struct ggml_context *metadata(void) {
  struct ggml_context *context = ggml_init((struct ggml_init_params){
      .mem_size = 32 * ggml_tensor_overhead() + ggml_graph_overhead(), .no_alloc = true});
  if (!context) fail("out of memory");
  return context;
}

static void build_graph(bench *b) {
  const int64_t tokens = b->tokens;
  struct ggml_context *c = b->point = metadata();
  b->input = ggml_new_tensor_3d(c, GGML_TYPE_F32, b->h, 1, tokens);
  b->ids = ggml_new_tensor_2d(c, GGML_TYPE_I32, b->k, tokens);
  struct ggml_tensor *gate = ggml_mul_mat_id(c, b->gate, b->input, b->ids);
  struct ggml_tensor *up = ggml_mul_mat_id(c, b->up, b->input, b->ids);
  b->output = ggml_mul_mat_id(c, b->down, ggml_swiglu_split(c, gate, up), b->ids);
  b->graph = ggml_new_graph(c);
  ggml_build_forward_expand(b->graph, b->output);
  b->memory = ggml_backend_alloc_ctx_tensors(c, b->backend);
  if (!b->memory) fail("out of memory");
}

/* Does the backend multiply weights that lie so? */
static bool is_supported(bench *b) {
  ggml_backend_dev_t device = ggml_backend_get_device(b->backend);
  b->tokens = 1;
  build_graph(b);
  bool supported = true;
  for (int i = 0; i < ggml_graph_n_nodes(b->graph); i++)
    supported &= ggml_backend_dev_supports_op(device, ggml_graph_node(b->graph, i));
  return supported;
}

static void end_point(bench *b) {
  if (b->memory) ggml_backend_buffer_free(b->memory);
  if (b->point) ggml_free(b->point);
  free(b->chosen);
  free(b->hidden);
  b->memory = NULL;
  b->point = NULL;
  b->chosen = NULL;
  b->hidden = NULL;
  b->tokens = 0;
}

static void compute(bench *b) {
  if (ggml_backend_graph_compute(b->backend, b->graph) != GGML_STATUS_SUCCESS)
    fail("a graph failed");
}

/* to[rows] = one expert's matrix times x, in double. */
static void multiply(const bench *b, const void *stored, int64_t rows, int64_t columns,
                     const double *x, double *to) {
  const size_t row_bytes = ggml_row_size(b->type, columns);
  float *row = allocate((size_t)columns * sizeof *row);
  for (int64_t r = 0; r < rows; r++) {
    ggml_get_type_traits(b->type)->to_float((const char *)stored + (size_t)r * row_bytes, row,
                                            columns);
    to[r] = 0;
    for (int64_t c = 0; c < columns; c++) to[r] += row[c] * x[c];
  }
  free(row);
}

/* The relative error of the expert's output of one choice of a token of input 0. */
static double error_of(bench *b, int64_t token, int64_t choice) {
  double *x = allocate((size_t)(2 * b->h + 2 * b->i) * sizeof *x);
  double *gate = x + b->h, *up = gate + b->i, *want = up + b->i;
  float *got = allocate((size_t)b->h * sizeof *got);
  const int set = b->chosen[token * b->k + choice] % SETS;
  double off = 0, size = 0;
  for (int64_t c = 0; c < b->h; c++) x[c] = b->hidden[token * b->h + c];
  multiply(b, b->stored[0][set], b->i, b->h, x, gate);
  multiply(b, b->stored[1][set], b->i, b->h, x, up);
  for (int64_t c = 0; c < b->i; c++) gate[c] *= up[c] / (1 + exp(-gate[c]));
  multiply(b, b->stored[2][set], b->h, b->i, gate, want);
  ggml_backend_tensor_get(b->output, got, (size_t)((token * b->k + choice) * b->h) * sizeof *got,
                          (size_t)b->h * sizeof *got);
  for (int64_t c = 0; c < b->h; c++) {
    off += (got[c] - want[c]) * (got[c] - want[c]);
    size += want[c] * want[c];
  }
  free(x);
  free(got);
  return sqrt(off / size);
}

/* Inputs differ in their choices, which is what they are there for. */
static void choose(bench *b, int64_t number) {
  const int64_t each = b->tokens * b->k;
  ggml_backend_tensor_set(b->ids, b->chosen + number % b->inputs * each, 0, ggml_nbytes(b->ids));
}

static void begin(bench *b) {
  b->hidden = allocate((size_t)(b->tokens * b->h) * sizeof *b->hidden);
  build_graph(b);
  draw(b->hidden, b->tokens * b->h, 1, 99);
  ggml_backend_tensor_set(b->input, b->hidden, 0, ggml_nbytes(b->input));
  choose(b, 0);
  compute(b);
  const double first = error_of(b, 0, 0), last = error_of(b, b->tokens - 1, b->k - 1);
  const double error = first > last ? first : last;
  printf("{\"tokens\": %lld, \"error\": %.3g}\n", (long long)b->tokens,
         isfinite(first + last) ? error : 1e30);
}

static void run(bench *b, double seconds) {
  static double samples[MOST_SAMPLES];
  const double end = now() + seconds;
  int count = 0;
  ggml_threadpool_resume(b->pool);
  compute(b); /* what another process left in caches is no sample */
  do {
    choose(b, count);
    const double begun = now();
    compute(b);
    samples[count++] = 1e3 * (now() - begun);
  } while (count < MOST_SAMPLES && now() < end);
  ggml_threadpool_pause(b->pool); /* its threads would wait in a loop */
  qsort(samples, (size_t)count, sizeof *samples, by_value);
  printf("{\"experts\": %.6g, \"samples\": %d}\n",
         0.5 * (samples[count / 2] + samples[(count - 1) / 2]), count);
}

/* ---- the command ---- */

static void usage(void) {
  fprintf(stderr, "usage: peer_ggml --shape H:I:E:K --type T [--layout stored|repacked] "
                  "[--threads N]\nreads lines \"tokens T ID...\" and \"run SECONDS\"\n");
  exit(2);
}

static enum ggml_type parse_type(const char *text) {
  for (int t = 0; t < GGML_TYPE_COUNT; t++)
    if (ggml_type_name((enum ggml_type)t) && !strcmp(text, ggml_type_name((enum ggml_type)t)))
      return (enum ggml_type)t;
  usage();
  return GGML_TYPE_COUNT;
}

static void parse(int argc, char **argv, bench *b) {
  static const struct option options[] = {{"shape", required_argument, NULL, 's'},
                                          {"type", required_argument, NULL, 't'},
                                          {"layout", required_argument, NULL, 'l'},
                                          {"threads", required_argument, NULL, 'n'},
                                          {NULL, 0, NULL, 0}};
  for (int letter; (letter = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    long long h, i, e, k;
    if (letter == 's' && sscanf(optarg, "%lld:%lld:%lld:%lld", &h, &i, &e, &k) == 4)
      b->h = h, b->i = i, b->e = e, b->k = k;
    else if (letter == 't') b->type = parse_type(optarg);
    else if (letter == 'l' && !strcmp(optarg, "repacked")) b->repacked = true;
    else if (letter == 'n') b->threads = atoi(optarg);
    else if (letter != 'l' || strcmp(optarg, "stored") != 0) usage();
  }
  const int64_t block = b->type == GGML_TYPE_COUNT ? 1 : ggml_blck_size(b->type);
  if (optind != argc || b->h < 1 || b->i < 1 || b->k < 1 || b->e < b->k || b->threads < 1 ||
      b->type == GGML_TYPE_COUNT || b->h % block || b->i % block)
    usage();
}

static void create(bench *b) {
  struct ggml_threadpool_params pool = ggml_threadpool_params_default(b->threads);
  b->backend = ggml_backend_cpu_init();
  b->pool = ggml_threadpool_new(&pool);
  if (!b->backend || !b->pool) fail("the CPU backend could not be made");
  ggml_backend_cpu_set_n_threads(b->backend, b->threads);
  ggml_backend_cpu_set_threadpool(b->backend, b->pool);
  b->weights = metadata();
  b->gate = ggml_new_tensor_3d(b->weights, b->type, b->h, b->i, b->e);
  b->up = ggml_new_tensor_3d(b->weights, b->type, b->h, b->i, b->e);
  b->down = ggml_new_tensor_3d(b->weights, b->type, b->i, b->h, b->e);
}

static void leave(const char *why) {
  printf("{\"unsuitable\": \"%s\"}\n", why);
  exit(0);
}

/* Inputs, tokens and their experts, from a line behind its first word. */
static void read_point(bench *b, const char *line) {
  char *at;
  end_point(b);
  b->tokens = strtoll(line, &at, 10);
  b->inputs = strtoll(at, &at, 10);
  if (b->tokens < 1 || b->tokens > 1 << 22 || b->inputs < 1 || b->inputs > 1024) usage();
  const int64_t count = b->inputs * b->tokens * b->k;
  b->chosen = allocate((size_t)count * sizeof *b->chosen);
  for (int64_t i = 0; i < count; i++) {
    const char *from = at;
    const long id = strtol(from, &at, 10);
    if (at == from || id < 0 || id >= b->e) usage();
    b->chosen[i] = (int32_t)id;
  }
  begin(b);
}

int main(int argc, char **argv) {
  bench b = {.type = GGML_TYPE_COUNT, .threads = 1};
  char *line = NULL;
  size_t room = 0;
  parse(argc, argv, &b);
  create(&b);
  ggml_backend_buffer_type_t type = buffers(b.repacked);
  if (!type) leave("this ggml repacks nothing");
  if (!ggml_backend_alloc_ctx_tensors_from_buft(b.weights, type)) fail("out of memory");
  if (!is_supported(&b)) leave("this ggml does not multiply such weights so, on this processor");
  set_weights(&b, b.gate, 0);
  set_weights(&b, b.up, 1);
  set_weights(&b, b.down, 2);
  printf("{\"device\": \"ggml %s, %s, avx512 %d, vnni %d, avx512-bf16 %d, amx-int8 %d\"}\n",
         ggml_version(), ggml_backend_buft_name(type), ggml_cpu_has_avx512(),
         ggml_cpu_has_avx512_vnni(), ggml_cpu_has_avx512_bf16(), ggml_cpu_has_amx_int8());
  fflush(stdout);
  while (getline(&line, &room, stdin) > 0) {
    double seconds;
    if (strncmp(line, "tokens ", 7) == 0) read_point(&b, line + 7);
    else if (sscanf(line, "run %lf", &seconds) == 1 && b.tokens) run(&b, seconds);
    else usage();
    fflush(stdout);
  }
  return 0;
}

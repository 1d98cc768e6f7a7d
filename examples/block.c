// SPDX-License-Identifier: MIT
/* A transformer block of random weights: a prompt into the cache, then tokens one at a time. All of
 * them at once, without a cache, have to give the same.
 *
 *   cc block.c $(pkg-config --cflags --libs moecl) -o block && ./block */
#include <inttypes.h>
#include <math.h>
#include <moecl/moecl.h>
#include <stdio.h>
#include <stdlib.h>

enum { PROMPT = 16, STEPS = 4, T = PROMPT + STEPS }; /* tokens */
enum { H = 128, I = 256, E = 8, K = 2 };             /* sizes, experts, experts a token */
enum { HEADS = 8, KV_HEADS = 4 };

/* Everything that has to be released, in the order of creation. Destroying NULL does nothing. */
typedef struct program {
  moecl_context *context;
  moecl_block *block;
  moecl_cache *cache;
  moecl_buffer *input, *output;
  moecl_routing routing;
} program;

static void release(program *p) {
  moecl_routing_destroy(&p->routing);
  moecl_buffer_destroy(&p->output);
  moecl_buffer_destroy(&p->input);
  moecl_cache_destroy(&p->cache);
  moecl_block_destroy(&p->block);
  moecl_context_destroy(&p->context);
}

/* Calls return a status; the log says what was wrong with what. */
static void print_log(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "moecl: %s\n", message);
}

#define TRY(call)                                                                                  \
  do {                                                                                             \
    const moecl_status status_ = (call);                                                           \
    if (status_ != MOECL_OK) return status_;                                                       \
  } while (0)

/* So many numbers of a stream of its own; NULL: no memory. */
static float *draw(int64_t count, int stream) {
  const moecl_random_params random = {
      .distribution = MOECL_NORMAL, .scale = 0.1f, .stream = (uint64_t)stream};
  float *drawn = malloc((size_t)count * sizeof *drawn);
  if (drawn && moecl_random_host(drawn, (uint64_t)count, &random) == MOECL_OK) return drawn;
  free(drawn);
  return NULL;
}

/* The block's own tensors, each as a whole. */
static moecl_status set_block_weights(moecl_block *block, const moecl_block_params *params) {
  for (int t = 0; t < MOECL_BLOCK_TENSOR_COUNT; t++) {
    const int64_t size = moecl_block_tensor_size(params, (moecl_block_tensor)t);
    if (size == 0) continue; /* the block has no such tensor */
    float *drawn = draw(size, t);
    if (!drawn) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
    const moecl_status status = moecl_block_set_weights(block, (moecl_block_tensor)t, drawn);
    free(drawn); /* it was copied */
    TRY(status);
  }
  return MOECL_OK;
}

/* Its layer's: the router's, and the matrices of all experts. */
static moecl_status set_layer_weights(moecl_layer *layer, const moecl_layer_params *params) {
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const moecl_tensor tensor = (moecl_tensor)t;
    const int64_t items = moecl_layer_tensor_items(params, tensor);
    if (items == 0) continue;
    float *drawn = draw(items * moecl_layer_tensor_size(params, tensor), 50 + t);
    if (!drawn) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
    const moecl_status status = moecl_layer_set_weights(layer, tensor, 0, items, drawn);
    free(drawn);
    TRY(status);
  }
  return MOECL_OK;
}

/* Tokens first to first + count - 1 through the block, behind those that the cache holds, if there
 * is one. Here hidden states are drawn, and token t has the same in every call; in a model they are
 * the embedding of the token that was chosen, or what the block before gave. */
static moecl_status forward(program *p, int first, int count, moecl_cache *cache, float *output) {
  const uint64_t elements = (uint64_t)count * H;
  const moecl_random_params states = {
      .distribution = MOECL_NORMAL, .scale = 1, .stream = 100, .first_index = (uint64_t)first * H};
  const moecl_block_forward_params params = {
      .num_tokens = count, .hidden_states = p->input, .output = p->output, .cache = cache};
  TRY(moecl_fill_random(p->input, 0, elements, &states));
  TRY(moecl_block_forward(p->block, &params, NULL)); /* returns at once */
  return moecl_buffer_read_wait(p->output, 0, elements * sizeof(float), output);
}

static moecl_status prepare(program *p) {
  const moecl_context_params settings = {.log = print_log}; /* .device = "gpu", or "cpu" */
  TRY(moecl_context_create(&settings, &p->context));

  /* Norms' weights are drawn around 1. */
  const moecl_block_params params = {
      .attention = {.num_heads = HEADS, .num_kv_heads = KV_HEADS, .rope = {.theta = 1e4}},
      .attention_norm = {.plus_one = true},
      .feed_forward_norm = {.plus_one = true},
      .layer = {.hidden_size = H,
                .intermediate_size = I,
                .num_experts = E,
                .top_k = K,
                .dtype = MOECL_F32,
                .activation = MOECL_SWIGLU,
                .renormalize = true}};
  TRY(moecl_block_create(p->context, &params, &p->block)); /* builds its kernels */
  TRY(set_block_weights(p->block, &params));
  TRY(set_layer_weights(moecl_block_layer(p->block), &params.layer));
  /* Memory and all kernels for a prompt and for steps, so that no forward waits for them. */
  TRY(moecl_block_reserve(p->block, PROMPT, true));
  TRY(moecl_cache_create(p->block, T, &p->cache)); /* of one sequence */
  TRY(moecl_buffer_create(p->context, T * H * sizeof(float), &p->input));
  return moecl_buffer_create(p->context, T * H * sizeof(float), &p->output);
}

/* Each token's output, from a prompt and steps, and from all at once. */
static moecl_status run(program *p, float *stepped, float *at_once) {
  TRY(prepare(p));
  TRY(forward(p, 0, PROMPT, p->cache, stepped));
  for (int t = PROMPT; t < T; t++) TRY(forward(p, t, 1, p->cache, stepped + t * H));
  TRY(moecl_layer_read_routing_wait(moecl_block_layer(p->block),
                                    &p->routing)); /* the last step's */
  return forward(p, 0, T, NULL, at_once);
}

/* The largest difference over the largest number. */
static double error_of(const float *found, const float *wanted) {
  double difference = 0, largest = 0;
  for (int i = 0; i < T * H; i++) {
    if (!isfinite(found[i])) return INFINITY;
    const double away = fabs((double)found[i] - (double)wanted[i]);
    if (away > difference) difference = away;
    if (fabs((double)wanted[i]) > largest) largest = fabs((double)wanted[i]);
  }
  return difference / largest;
}

/* Kernels for one token may sum in another order than those for many: fp32 has 24 bits, and a block
 * some hundred sums one upon the other. */
static bool print(const program *p, const float *stepped, const float *at_once) {
  const double error = error_of(stepped, at_once), tolerance = 1e-5;
  const float *last = stepped + (T - 1) * H;
  printf("device: %s\n", moecl_context_device(p->context)->name);
  printf("attention: %s\n", moecl_block_variant(p->block, "attention", NULL));
  printf("cache: %" PRId64 " tokens, %" PRIu64 " bytes\n", moecl_cache_tokens(p->cache),
         moecl_cache_bytes(p->cache));
  printf("token %d: experts %d %d, output %.4f %.4f %.4f\n", T - 1, p->routing.topk_ids[0],
         p->routing.topk_ids[1], (double)last[0], (double)last[1], (double)last[2]);
  printf(
      "a prompt of %d tokens and %d steps beside all %d at once: %s (error %.1e, at most %.0e)\n",
      PROMPT, STEPS, T, error <= tolerance ? "the same" : "not the same", error, tolerance);
  return error <= tolerance;
}

int main(void) {
  program p = {0};
  static float stepped[T * H], at_once[T * H];
  const moecl_status status = run(&p, stepped, at_once);
  const bool same = status == MOECL_OK && print(&p, stepped, at_once);
  if (status != MOECL_OK) fprintf(stderr, "block: %s\n", moecl_status_string(status));
  release(&p);
  return same ? EXIT_SUCCESS : EXIT_FAILURE;
}

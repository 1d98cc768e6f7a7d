// SPDX-License-Identifier: MIT
/* A Mixture-of-Experts layer of random weights, one forward on the default device, its
 * output and where the router sent the tokens.
 *
 *   cc forward.c $(pkg-config --cflags --libs moecl) -o forward && ./forward */
#include <inttypes.h>
#include <moecl/moecl.h>
#include <stdio.h>
#include <stdlib.h>

enum { T = 16, H = 128, I = 256, E = 8, K = 2 }; /* tokens, sizes, experts, experts a token */

/* Everything that has to be released, in the order of creation. Destroying NULL does nothing. */
typedef struct program {
  moecl_context *context;
  moecl_layer *layer;
  moecl_buffer *input, *output;
  moecl_event *done;
  moecl_routing routing;
} program;

static void release(program *p) {
  moecl_routing_destroy(&p->routing);
  moecl_event_destroy(&p->done);
  moecl_buffer_destroy(&p->output);
  moecl_buffer_destroy(&p->input);
  moecl_layer_destroy(&p->layer);
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

/* Draws every tensor of the layer on the device, one item (an expert, or a whole router
 * tensor) at a time. A stream of random numbers is the same on every device. */
static moecl_status set_random_weights(program *p, const moecl_layer_params *params) {
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const moecl_tensor tensor = (moecl_tensor)t;
    const int64_t items = moecl_layer_tensor_items(params, tensor);
    const uint64_t size = (uint64_t)moecl_layer_tensor_size(params, tensor);
    const moecl_dtype dtype = moecl_layer_tensor_dtype(params, tensor);
    moecl_buffer *drawn;
    if (items == 0) continue; /* the layer has no such tensor */
    TRY(moecl_buffer_create(p->context, size * moecl_dtype_size(dtype), &drawn));
    moecl_status status = MOECL_OK;
    for (int64_t item = 0; item < items && status == MOECL_OK; item++) {
      const moecl_random_params random = {.dtype = dtype,
                                          .distribution = MOECL_NORMAL,
                                          .scale = 0.1f,
                                          .stream = (uint64_t)t,
                                          .first_index = (uint64_t)item * size};
      status = moecl_fill_random(drawn, 0, size, &random);
      if (status == MOECL_OK)
        status = moecl_layer_set_weights_buffer(p->layer, tensor, item, 1, drawn, 0);
    }
    moecl_buffer_destroy(&drawn); /* what is enqueued on it still runs */
    TRY(status);
  }
  return MOECL_OK;
}

static moecl_status run(program *p, float output[T * H]) {
  const moecl_context_params settings = {.log = print_log}; /* .device = "gpu", or "cpu" */
  TRY(moecl_context_create(&settings, &p->context));

  const moecl_layer_params params = {.hidden_size = H,
                                     .intermediate_size = I,
                                     .num_experts = E,
                                     .top_k = K,
                                     .dtype = MOECL_F32,
                                     .activation = MOECL_SWIGLU,
                                     .renormalize = true};
  TRY(moecl_layer_create(p->context, &params, &p->layer)); /* builds its kernels */
  TRY(set_random_weights(p, &params));

  const uint64_t bytes = T * H * sizeof(float);
  const moecl_random_params states = {.distribution = MOECL_NORMAL, .scale = 1, .stream = 100};
  TRY(moecl_buffer_create(p->context, bytes, &p->input));
  TRY(moecl_buffer_create(p->context, bytes, &p->output));
  TRY(moecl_fill_random(p->input, 0, T * H, &states));

  const moecl_forward_params forward = {
      .num_tokens = T, .hidden_states = p->input, .output = p->output};
  TRY(moecl_layer_forward(p->layer, &forward, &p->done)); /* returns at once */
  TRY(moecl_event_wait(p->done));
  TRY(moecl_buffer_read_wait(p->output, 0, bytes, output));
  return moecl_layer_read_routing_wait(p->layer, &p->routing);
}

static void print(const program *p, const float *output) {
  const moecl_routing *routing = &p->routing;
  printf("device: %s\n", moecl_context_device(p->context)->name);
  printf("grouped GEMM: %s\n", moecl_layer_variant(p->layer, "grouped_gemm", NULL));
  printf("tokens per expert:");
  for (int e = 0; e < E; e++) printf(" %" PRId64, routing->tokens_per_expert[e]);
  printf("\nbusiest expert over the mean: %.2f\n", routing->statistics.max_mean_imbalance);
  printf("token 0: experts %d %d, weights %.4f %.4f, output %.4f %.4f %.4f\n", routing->topk_ids[0],
         routing->topk_ids[1], (double)routing->topk_weights[0], (double)routing->topk_weights[1],
         (double)output[0], (double)output[1], (double)output[2]);
}

int main(void) {
  program p = {0};
  static float output[T * H];
  const moecl_status status = run(&p, output);
  if (status == MOECL_OK) print(&p, output);
  else fprintf(stderr, "forward: %s\n", moecl_status_string(status));
  release(&p);
  return status == MOECL_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

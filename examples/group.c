// SPDX-License-Identifier: MIT
/* forward.c's layer with its experts on a group of devices: those that are named, or the default
 * one twice. Each member has some of the tokens, and gets their outputs.
 *
 *   cc group.c $(pkg-config --cflags --libs moecl) -o group && ./group 0:0 0:1 */
#include <inttypes.h>
#include <moecl/moecl.h>
#include <stdio.h>
#include <stdlib.h>

enum { T = 16, H = 128, I = 256, E = 8, K = 2 }; /* tokens, sizes, experts, experts a token */
enum { MOST_MEMBERS = 8 };

/* Everything that has to be released, in the order of creation. Destroying NULL does nothing. */
typedef struct program {
  size_t members;
  const char *devices[MOST_MEMBERS]; /* NULL: the default one */
  moecl_context *context[MOST_MEMBERS];
  moecl_group *group;
  moecl_group_layer *layer;
  moecl_buffer *input[MOST_MEMBERS], *output[MOST_MEMBERS];
  moecl_event *done[MOST_MEMBERS];
  moecl_routing routing;
} program;

static void release(program *p) {
  moecl_routing_destroy(&p->routing);
  for (size_t m = 0; m < p->members; m++) {
    moecl_event_destroy(&p->done[m]);
    moecl_buffer_destroy(&p->output[m]);
    moecl_buffer_destroy(&p->input[m]);
  }
  moecl_group_layer_destroy(&p->layer);
  moecl_group_destroy(&p->group);
  for (size_t m = 0; m < p->members; m++) moecl_context_destroy(&p->context[m]);
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

/* Draws every tensor of the layer on the host, all its items at once. The group gives what all
 * members need to all, and an expert's matrices to its owner alone. */
static moecl_status set_random_weights(moecl_group_layer *layer, const moecl_layer_params *params) {
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const moecl_tensor tensor = (moecl_tensor)t;
    const int64_t items = moecl_layer_tensor_items(params, tensor);
    const uint64_t count = (uint64_t)(items * moecl_layer_tensor_size(params, tensor));
    const moecl_random_params random = {
        .distribution = MOECL_NORMAL, .scale = 0.1f, .stream = (uint64_t)t};
    if (items == 0) continue; /* the layer has no such tensor */
    float *drawn = malloc(count * sizeof *drawn);
    moecl_status status = drawn ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
    if (status == MOECL_OK) status = moecl_random_host(drawn, count, &random);
    if (status == MOECL_OK) status = moecl_group_layer_set_weights(layer, tensor, 0, items, drawn);
    free(drawn);
    TRY(status);
  }
  return MOECL_OK;
}

/* A member's part of the hidden states, as forward.c draws them, on its own device. */
static moecl_status make_tokens(program *p, size_t m, moecl_group_tokens *tokens) {
  const int64_t first = T * (int64_t)m / (int64_t)p->members;
  const int64_t count = T * (int64_t)(m + 1) / (int64_t)p->members - first;
  const uint64_t bytes = (uint64_t)count * H * sizeof(float);
  const moecl_random_params states = {
      .distribution = MOECL_NORMAL, .scale = 1, .stream = 100, .first_index = (uint64_t)first * H};
  TRY(moecl_buffer_create(p->context[m], bytes, &p->input[m]));
  TRY(moecl_buffer_create(p->context[m], bytes, &p->output[m]));
  TRY(moecl_fill_random(p->input[m], 0, (uint64_t)count * H, &states));
  *tokens = (moecl_group_tokens){
      .num_tokens = count, .hidden_states = p->input[m], .output = p->output[m]};
  return MOECL_OK;
}

static moecl_status run(program *p, float *output) {
  moecl_group_tokens tokens[MOST_MEMBERS];
  for (size_t m = 0; m < p->members; m++) {
    const moecl_context_params settings = {.device = p->devices[m], .log = print_log};
    TRY(moecl_context_create(&settings, &p->context[m]));
  }
  TRY(moecl_group_create(p->context, p->members, NULL, &p->group));

  const moecl_group_layer_params params = {.layer = {.hidden_size = H,
                                                     .intermediate_size = I,
                                                     .num_experts = E,
                                                     .top_k = K,
                                                     .dtype = MOECL_F32,
                                                     .activation = MOECL_SWIGLU,
                                                     .renormalize = true}};
  TRY(moecl_group_layer_create(p->group, &params, &p->layer)); /* builds its kernels */
  TRY(set_random_weights(p->layer, &params.layer));
  for (size_t m = 0; m < p->members; m++) TRY(make_tokens(p, m, &tokens[m]));

  const moecl_group_forward_params forward = {.tokens = tokens, .measured = true};
  TRY(moecl_group_layer_forward(p->layer, &forward, p->done));
  for (size_t m = 0; m < p->members; m++) {
    const uint64_t bytes = moecl_buffer_size(p->output[m]);
    TRY(moecl_event_wait(p->done[m]));
    TRY(moecl_buffer_read_wait(p->output[m], 0, bytes, output));
    output += bytes / sizeof *output;
  }
  return moecl_group_layer_read_routing_wait(p->layer, &p->routing);
}

static moecl_status print(const program *p, const float *output) {
  const moecl_routing *routing = &p->routing;
  printf("transport: %s\n", moecl_group_transport(p->group));
  for (size_t m = 0; m < p->members; m++) {
    moecl_group_statistics s;
    TRY(moecl_group_layer_statistics_wait(p->layer, m, &s));
    printf("member %d, %s: %" PRId64 " experts, %" PRId64 " tokens, %" PRId64 " rows, %" PRIu64
           " bytes sent\n",
           (int)m, moecl_context_device(p->context[m])->name, s.experts, s.num_tokens, s.rows,
           s.bytes_sent);
  }
  printf("token 0: experts %d %d, weights %.4f %.4f, output %.4f %.4f %.4f\n", routing->topk_ids[0],
         routing->topk_ids[1], (double)routing->topk_weights[0], (double)routing->topk_weights[1],
         (double)output[0], (double)output[1], (double)output[2]);
  return MOECL_OK;
}

int main(int argc, char **argv) {
  program p = {.members = 2};
  static float output[T * H];
  if (argc > 1) p.members = argc - 1 < MOST_MEMBERS ? (size_t)argc - 1 : MOST_MEMBERS;
  for (size_t m = 0; argc > 1 && m < p.members; m++) p.devices[m] = argv[m + 1];
  moecl_status status = run(&p, output);
  if (status == MOECL_OK) status = print(&p, output);
  if (status != MOECL_OK) fprintf(stderr, "group: %s\n", moecl_status_string(status));
  release(&p);
  return status == MOECL_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

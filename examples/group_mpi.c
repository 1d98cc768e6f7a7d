// SPDX-License-Identifier: MIT
/* group.c's layer with its experts on several processes, a member each, on the default device or
 * the one that is named, in turns. Each has some of the tokens, and gets their outputs.
 *
 *   mpicc group_mpi.c $(pkg-config --cflags --libs moecl) -o group_mpi
 *   mpirun -n 2 ./group_mpi 0:0 0:1 */
#include <inttypes.h>
#include <moecl/moecl.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { T = 16, H = 128, I = 256, E = 8, K = 2 }; /* tokens, sizes, experts, experts a token */

/* Everything that has to be released, in the order of creation. Destroying NULL does nothing. */
typedef struct program {
  int rank, count;
  const char *device; /* NULL: the default one */
  moecl_context *context;
  moecl_group *group;
  moecl_group_layer *layer;
  moecl_buffer *input, *output;
  moecl_event *done;
  moecl_routing routing;
} program;

static void release(program *p) {
  moecl_routing_destroy(&p->routing);
  moecl_event_destroy(&p->done);
  moecl_buffer_destroy(&p->output);
  moecl_buffer_destroy(&p->input);
  moecl_group_layer_destroy(&p->layer);
  moecl_group_destroy(&p->group); /* before MPI_Finalize */
  moecl_context_destroy(&p->context);
}

/* Calls return a status; the log says what was wrong with what. Where another process is at fault
 * it says which. */
static void print_log(void *user, moecl_log_level level, const char *message) {
  const program *p = user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "rank %d: moecl: %s\n", p->rank, message);
}

#define TRY(call)                                                                                  \
  do {                                                                                             \
    const moecl_status status_ = (call);                                                           \
    if (status_ != MOECL_OK) return status_;                                                       \
  } while (0)

/* Draws every tensor of the layer on the host, all its items at once. What other processes' members
 * have is passed over: a program that reads weights reads its own experts', which
 * moecl_group_layer_experts lists. */
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

/* This process's part of the hidden states, as forward.c draws them. */
static moecl_status make_tokens(program *p, moecl_group_tokens *tokens) {
  const int64_t first = (int64_t)T * p->rank / p->count;
  const int64_t count = (int64_t)T * (p->rank + 1) / p->count - first;
  const uint64_t bytes = (uint64_t)count * H * sizeof(float);
  const moecl_random_params states = {
      .distribution = MOECL_NORMAL, .scale = 1, .stream = 100, .first_index = (uint64_t)first * H};
  TRY(moecl_buffer_create(p->context, bytes, &p->input));
  TRY(moecl_buffer_create(p->context, bytes, &p->output));
  TRY(moecl_fill_random(p->input, 0, (uint64_t)count * H, &states));
  *tokens =
      (moecl_group_tokens){.num_tokens = count, .hidden_states = p->input, .output = p->output};
  return MOECL_OK;
}

/* The group's calls are made by all processes, with the same parameters but for what is their own;
 * where one fails, it fails on all. */
static moecl_status run(program *p) {
  const MPI_Comm world = MPI_COMM_WORLD; /* copied by the group */
  const moecl_context_params settings = {.device = p->device, .log = print_log, .log_user = p};
  const moecl_group_params across = {.mpi_comm = &world};
  moecl_group_tokens tokens;
  TRY(moecl_context_create(&settings, &p->context));
  TRY(moecl_group_create(&p->context, 1, &across, &p->group));

  const moecl_group_layer_params params = {.layer = {.hidden_size = H,
                                                     .intermediate_size = I,
                                                     .num_experts = E,
                                                     .top_k = K,
                                                     .dtype = MOECL_F32,
                                                     .activation = MOECL_SWIGLU,
                                                     .renormalize = true}};
  TRY(moecl_group_layer_create(p->group, &params, &p->layer)); /* builds its kernels */
  TRY(set_random_weights(p->layer, &params.layer));
  TRY(make_tokens(p, &tokens));

  const moecl_group_forward_params forward = {.tokens = &tokens, .measured = true};
  TRY(moecl_group_layer_forward(p->layer, &forward, &p->done));
  TRY(moecl_event_wait(p->done));
  return moecl_group_layer_read_routing_wait(p->layer, &p->routing);
}

/* All ask for all members' statistics; the first process, which has token 0, prints. */
static moecl_status print(const program *p) {
  const moecl_routing *routing = &p->routing;
  float output[3];
  if (p->rank == 0) printf("transport: %s\n", moecl_group_transport(p->group));
  for (size_t m = 0; m < moecl_group_size(p->group); m++) {
    moecl_group_statistics s;
    TRY(moecl_group_layer_statistics_wait(p->layer, m, &s));
    if (p->rank == 0)
      printf("member %d: %" PRId64 " experts, %" PRId64 " tokens, %" PRId64 " rows, %" PRIu64
             " bytes sent\n",
             (int)m, s.experts, s.num_tokens, s.rows, s.bytes_sent);
  }
  if (p->rank > 0) return MOECL_OK;
  TRY(moecl_buffer_read_wait(p->output, 0, sizeof output, output));
  printf("token 0: experts %d %d, weights %.4f %.4f, output %.4f %.4f %.4f\n", routing->topk_ids[0],
         routing->topk_ids[1], (double)routing->topk_weights[0], (double)routing->topk_weights[1],
         (double)output[0], (double)output[1], (double)output[2]);
  return MOECL_OK;
}

int main(int argc, char **argv) {
  program p = {.rank = 0};
  int level;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level); /* OpenCL drivers have threads */
  MPI_Comm_rank(MPI_COMM_WORLD, &p.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &p.count);
  if (argc > 1) p.device = argv[1 + p.rank % (argc - 1)];
  moecl_status status = run(&p);
  if (status == MOECL_OK) status = print(&p);
  if (status != MOECL_OK) fprintf(stderr, "rank %d: %s\n", p.rank, moecl_status_string(status));
  release(&p);
  if (status != MOECL_OK)
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE); /* others may wait for this one */
  MPI_Finalize();
  return EXIT_SUCCESS;
}

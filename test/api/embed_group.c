// SPDX-License-Identifier: MIT
/* An embedder's program with a layer on several devices, from beginning to end: it makes a group,
 * runs a batch, looks at what each member had to do, places the experts by that anew with a copy
 * of the busiest one on every member, and finds the same bits, which are those of one device, and
 * the reference's numbers. Members are contexts on the default device, in the place of which any
 * devices may stand. Built against the installed library through pkg-config by embed.sh. */
#include <inttypes.h>
#include <moecl/moecl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { T = 60, H = 64, I = 96, E = 8, K = 2 };
enum { MEMBERS = 3 };
static const int64_t tokens_of[MEMBERS] = {20, 0, 40}; /* a member may have none */

#define CHECK(call)                                                                                \
  do {                                                                                             \
    const moecl_status status_ = (call);                                                           \
    if (status_ != MOECL_OK) {                                                                     \
      fprintf(stderr, "line %d, %s: %s\n", __LINE__, #call, moecl_status_string(status_));         \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)
#define REQUIRE(condition)                                                                         \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "line %d: not %s\n", __LINE__, #condition);                                  \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

/* Calls return a status; the log says what was wrong with what. */
static void print_log(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "moecl: %s\n", message);
}

/* Without batch_invariant a member with few tokens may sum in another order than one device that
 * has all. */
static const moecl_layer_params layer_params = {.hidden_size = H,
                                                .intermediate_size = I,
                                                .num_experts = E,
                                                .top_k = K,
                                                .dtype = MOECL_F32,
                                                .activation = MOECL_SWIGLU,
                                                .renormalize = true,
                                                .batch_invariant = true};

static float hidden[T * H], router[E * H], gate_up[E * 2 * I * H], down[E * H * I];

static void draw(float *values, size_t count, float scale, uint64_t stream) {
  const moecl_random_params params = {
      .distribution = MOECL_NORMAL, .scale = scale, .seed = 7, .stream = stream};
  CHECK(moecl_random_host(values, count, &params));
}

/* ---- one device, to compare with ---- */

static void run_alone(moecl_context *context, float *output) {
  moecl_layer *layer;
  moecl_buffer *in, *out;
  moecl_event *done;
  CHECK(moecl_layer_create(context, &layer_params, &layer));
  CHECK(moecl_layer_set_weights(layer, MOECL_ROUTER_WEIGHT, 0, 1, router));
  CHECK(moecl_layer_set_weights(layer, MOECL_GATE_UP_PROJ, 0, E, gate_up));
  CHECK(moecl_layer_set_weights(layer, MOECL_DOWN_PROJ, 0, E, down));
  CHECK(moecl_buffer_create(context, sizeof hidden, &in));
  CHECK(moecl_buffer_create(context, sizeof hidden, &out));
  CHECK(moecl_buffer_write_wait(in, 0, sizeof hidden, hidden));
  const moecl_forward_params forward = {.num_tokens = T, .hidden_states = in, .output = out};
  CHECK(moecl_layer_forward(layer, &forward, &done));
  CHECK(moecl_event_wait(done));
  CHECK(moecl_buffer_read_wait(out, 0, sizeof hidden, output));
  moecl_event_destroy(&done);
  moecl_buffer_destroy(&in);
  moecl_buffer_destroy(&out);
  moecl_layer_destroy(&layer);
}

/* ---- a group ---- */

/* Each member's tokens, and where their outputs go, on its own device. */
typedef struct batch {
  moecl_buffer *in[MEMBERS], *out[MEMBERS];
  moecl_group_tokens tokens[MEMBERS];
} batch;

static batch make_batch(const moecl_group *group) {
  batch b = {{NULL}, {NULL}, {{0}}};
  const float *from = hidden;
  for (size_t m = 0; m < MEMBERS; from += tokens_of[m++] * H) {
    const uint64_t bytes = (uint64_t)tokens_of[m] * H * sizeof(float);
    if (bytes == 0) continue; /* then it needs no buffers */
    CHECK(moecl_buffer_create(moecl_group_context(group, m), bytes, &b.in[m]));
    CHECK(moecl_buffer_create(moecl_group_context(group, m), bytes, &b.out[m]));
    CHECK(moecl_buffer_write_wait(b.in[m], 0, bytes, from));
    b.tokens[m] = (moecl_group_tokens){
        .num_tokens = tokens_of[m], .hidden_states = b.in[m], .output = b.out[m]};
  }
  return b;
}

static void free_batch(batch *b) {
  for (size_t m = 0; m < MEMBERS; m++) {
    moecl_buffer_destroy(&b->in[m]);
    moecl_buffer_destroy(&b->out[m]);
  }
}

static moecl_group_layer *make_layer(moecl_group *group, const moecl_group_layer_params *params) {
  moecl_group_layer *layer;
  CHECK(moecl_group_layer_create(group, params, &layer));
  /* What all members need goes to all, an expert's matrices to its owners alone. */
  CHECK(moecl_group_layer_set_weights(layer, MOECL_ROUTER_WEIGHT, 0, 1, router));
  CHECK(moecl_group_layer_set_weights(layer, MOECL_GATE_UP_PROJ, 0, E, gate_up));
  CHECK(moecl_group_layer_set_weights(layer, MOECL_DOWN_PROJ, 0, E, down));
  return layer;
}

/* A forward returns when what is left is enqueued: outputs are there behind the events. */
static void forward(moecl_group_layer *layer, const batch *b, float *output) {
  moecl_event *done[MEMBERS];
  const moecl_group_forward_params params = {.tokens = b->tokens, .measured = true};
  CHECK(moecl_group_layer_forward(layer, &params, done));
  for (size_t m = 0; m < MEMBERS; m++) {
    const uint64_t bytes = (uint64_t)tokens_of[m] * H * sizeof(float);
    CHECK(moecl_event_wait(done[m]));
    if (bytes > 0) CHECK(moecl_buffer_read_wait(b->out[m], 0, bytes, output));
    output += tokens_of[m] * H;
    moecl_event_destroy(&done[m]);
  }
}

/* Returns the rows of the busiest member. */
static int64_t describe(const char *what, moecl_group_layer *layer) {
  int64_t most = 0, rows = 0;
  for (size_t m = 0; m < MEMBERS; m++) {
    moecl_group_statistics s;
    CHECK(moecl_group_layer_statistics_wait(layer, m, &s));
    printf("%s: member %d has %" PRId64 " experts and %" PRId64 " tokens, computed %" PRId64
           " rows, sent %" PRIu64 " bytes\n",
           what, (int)m, s.experts, s.num_tokens, s.rows, s.bytes_sent);
    if (s.rows > most) most = s.rows;
    rows += s.rows;
  }
  REQUIRE(rows == T * K); /* nothing is dropped */
  return most;
}

/* Experts by what they had to do: lists for all but the busiest, which every member gets. */
static moecl_group_layer *place_by_load(moecl_group *group, const moecl_routing *routing) {
  int64_t loads[E];
  int32_t lists[E], busiest = 0;
  size_t sizes[MEMBERS];
  memcpy(loads, routing->tokens_per_expert, sizeof loads);
  for (int32_t e = 1; e < E; e++)
    if (loads[e] > loads[busiest]) busiest = e;
  loads[busiest] = 0; /* all share it */
  CHECK(moecl_group_balance(loads, E, MEMBERS, lists, sizes));
  const moecl_group_layer_params params = {.layer = layer_params,
                                           .placement = MOECL_PLACE_GIVEN,
                                           .lists = lists,
                                           .list_sizes = sizes,
                                           .replicated = &busiest,
                                           .num_replicated = 1};
  return make_layer(group, &params);
}

/* ---- the reference, from the routing that the group reports ---- */

static double error_of(const moecl_routing *routing, const float *output) {
  static double states[T * H], actual[T * H], expected[T * H], first[E * 2 * I * H],
      last[E * H * I];
  double one[H];
  moecl_to_double(MOECL_F32, hidden, T * H, states);
  moecl_to_double(MOECL_F32, output, T * H, actual);
  moecl_to_double(MOECL_F32, gate_up, E * 2 * I * H, first);
  moecl_to_double(MOECL_F32, down, E * H * I, last);
  for (int i = 0; i < T * K; i++) {
    const int e = routing->topk_ids[i], t = i / K;
    CHECK(moecl_reference_expert(&layer_params, states + t * H, first + e * 2 * I * H, NULL,
                                 last + e * H * I, NULL, one));
    for (int h = 0; h < H; h++) expected[t * H + h] += (double)routing->topk_weights[i] * one[h];
  }
  return moecl_relative_error(actual, expected, T * H);
}

int main(void) {
  static float alone[T * H], even[T * H], balanced[T * H];
  moecl_context *contexts[MEMBERS];
  moecl_group *group;
  moecl_routing routing;
  const moecl_context_params settings = {.log = print_log};
  for (int m = 0; m < MEMBERS; m++) {
    const moecl_status status = moecl_context_create(&settings, &contexts[m]);
    if (status == MOECL_ERROR_NO_DEVICE) {
      printf("SKIP: no OpenCL device\n");
      return 77;
    }
    CHECK(status);
  }
  draw(hidden, T * H, 1, 1);
  draw(router, E * H, 0.125f, 2);
  draw(gate_up, E * 2 * I * H, 0.125f, 3);
  draw(down, E * H * I, 0.1f, 4);

  CHECK(moecl_group_create(contexts, MEMBERS, NULL, &group));
  printf("%d members, rows go by %s\n", (int)moecl_group_size(group), moecl_group_transport(group));
  batch b = make_batch(group);
  const moecl_group_layer_params params = {.layer = layer_params}; /* even placement */
  moecl_group_layer *layer = make_layer(group, &params);
  forward(layer, &b, even);
  CHECK(moecl_group_layer_read_routing_wait(layer, &routing));
  const int64_t before = describe("even", layer);
  moecl_group_layer_destroy(&layer);

  layer = place_by_load(group, &routing);
  forward(layer, &b, balanced);
  const int64_t after = describe("by load", layer);
  run_alone(contexts[0], alone);
  const double error = error_of(&routing, even);
  printf("error %.2e; the busiest member computed %" PRId64 " rows, and by load %" PRId64 "\n",
         error, before, after);
  REQUIRE(error < 1e-5);
  REQUIRE(after <= before);
  REQUIRE(memcmp(even, alone, sizeof even) == 0);
  REQUIRE(memcmp(balanced, alone, sizeof balanced) == 0);

  moecl_routing_destroy(&routing);
  moecl_group_layer_destroy(&layer);
  free_batch(&b);
  moecl_group_destroy(&group);
  for (int m = 0; m < MEMBERS; m++) moecl_context_destroy(&contexts[m]);
  return 0;
}

// SPDX-License-Identifier: MIT
/* What copy engines do beside OpenCL's kernels, on two of NVIDIA's GPUs of one host:
 *
 *   engine_times [--devices 0:0,0:1] [--rounds 40]
 *
 * "handover": a kernel's word, rows, a number, a kernel that waits for it, by the host's clock;
 * rows go by kernels; by an engine, which waits for the word and writes the number; by one that
 * copies the number; or by one to which the host says that the kernel has ended. "rates": copies in
 * a row, both GPUs idle or full of a kernel. "beside": when an engine goes on whose word comes
 * while the GPU is full; forwards of a layer while an engine waits, and while engines copy. Every
 * word that is moved is compared. All waits are bounded. Takes less than a minute. */
#include "timing.h"
#include "base/base.h"
#include "ocl/ocl.h"
#include <moecl/moecl.h>

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_ROUNDS = 50, LOCAL = 64, PUT_LOCAL = 256, FLAG_WORDS = 32, NUMBERS = 1024 };
enum { NUMBER_LINE, READY_LINE, NEVER_LINE, LINES }; /* of flags */
#define MOST_BYTES (UINT64_C(256) << 20)
#define WAIT_NS UINT64_C(200000000)
#define LIMIT_NS UINT64_C(3000000000)

typedef struct area {
  moecl_buffer *near, *far; /* as its owner has it, and the other one */
  ocl_mapping mapped;
} area;

typedef struct side {
  moecl_context *context;
  ocl_sharer *sharer;
  ocl_engine *engine;
  area source, arrival, flags, numbers;
  moecl_buffer *counts; /* wrong words, and a wait that gave up */
  cl_program program;
  cl_kernel fill, check, busy;
  ocl_kernel *put, *set, *await;
} side;

static side sides[2];
static uint32_t number; /* of the latest handover */

static void stop(const char *what, const char *why) {
  fprintf(stderr, "engine_times: %s: %s\n", what, why);
  fflush(NULL);
  _exit(1); /* what is under way may not end */
}

static void must(const char *what, moecl_status status) {
  if (status != MOECL_OK) stop(what, moecl_status_string(status));
}

static void must_cl(const char *what, cl_int code) {
  if (code != CL_SUCCESS) stop(what, ocl_error_name(code));
}

/* ---- kernels of its own ---- */

static const char text[] =
    "static inline ulong now(void) { ulong t; asm volatile(\"mov.u64 %0, %%globaltimer;\" : "
    "\"=l\"(t)); return t; }\n"
    "__kernel void busy(ulong ns) { const ulong begin = now(); while (now() - begin < ns); }\n"
    "__kernel void fill(__global uint *to, uint seed, ulong words) {\n"
    "  for (ulong i = get_global_id(0); i < words; i += get_global_size(0))\n"
    "    to[i] = ((uint)i ^ seed) * 2654435761u;\n"
    "}\n"
    "__kernel void check(const __global uint *of, uint seed, ulong words, __global uint *wrong) {\n"
    "  uint bad = 0;\n"
    "  for (ulong i = get_global_id(0); i < words; i += get_global_size(0))\n"
    "    bad += of[i] != ((uint)i ^ seed) * 2654435761u;\n"
    "  if (bad) atomic_add(wrong, bad);\n"
    "}\n";

static cl_kernel kernel_of(const side *s, const char *name) {
  cl_int code;
  cl_kernel kernel = clCreateKernel(s->program, name, &code);
  must_cl(name, code);
  return kernel;
}

static void make_kernels(side *s) {
  const char *source = text;
  char defines[128];
  cl_int code;
  s->program = clCreateProgramWithSource(s->context->cl, 1, &source, NULL, &code);
  must_cl("clCreateProgramWithSource", code);
  must_cl("clBuildProgram",
          clBuildProgram(s->program, 1, &s->context->device, "-cl-std=CL1.2", NULL, NULL));
  s->fill = kernel_of(s, "fill"), s->check = kernel_of(s, "check"), s->busy = kernel_of(s, "busy");
  snprintf(defines, sizeof defines, "LOCAL %d\nPUT_LOCAL %d\nFLAG_WORDS %d\n", LOCAL, PUT_LOCAL,
           FLAG_WORDS);
  const char *file = "dispatch/nvidia_peer.cl";
  must(file, ocl_kernel_create(s->context, file, defines, "put", &s->put));
  must(file, ocl_kernel_create(s->context, file, defines, "set_flags", &s->set));
  must(file, ocl_kernel_create(s->context, file, defines, "await_flags", &s->await));
}

static void launch(const side *s, cl_kernel kernel, size_t local) {
  const size_t global = local * 2 * (size_t)s->context->info.compute_units;
  must_cl("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(s->context->queue, kernel, 1, NULL,
                                                           &global, &local, 0, NULL, NULL));
  must_cl("clFlush", clFlush(s->context->queue));
}

static void set_words(cl_kernel kernel, const moecl_buffer *words, uint32_t seed, uint64_t bytes) {
  const cl_ulong count = bytes / 4;
  must_cl("argument", clSetKernelArg(kernel, 0, sizeof words->mem, &words->mem));
  must_cl("argument", clSetKernelArg(kernel, 1, sizeof seed, &seed));
  must_cl("argument", clSetKernelArg(kernel, 2, sizeof count, &count));
}

static void fill(const side *s, const area *area, uint32_t seed, uint64_t bytes) {
  set_words(s->fill, area->near, seed, bytes);
  launch(s, s->fill, 256);
}

static void check(const side *s, const area *area, uint32_t seed, uint64_t bytes) {
  set_words(s->check, area->near, seed, bytes);
  must_cl("argument", clSetKernelArg(s->check, 3, sizeof s->counts->mem, &s->counts->mem));
  launch(s, s->check, 256);
}

/* Fills the GPU for so long. */
static void keep_busy(const side *s, double ms) {
  const cl_ulong ns = (cl_ulong)(ms * 1e6);
  must_cl("argument", clSetKernelArg(s->busy, 0, sizeof ns, &ns));
  launch(s, s->busy, 1024);
}

static void finish(const side *s) { must("finish", moecl_context_finish_wait(s->context)); }

static void finish_engine(side *s, const char *what) {
  bool done;
  must(what, ocl_engine_finish_wait(s->engine, LIMIT_NS, &done));
  if (!done) stop(what, "an engine did not end within 3 s");
}

/* ---- two sides ---- */

static void make_area(int owner, uint64_t bytes, area *area) {
  ocl_engine *engines[] = {sides[0].engine, sides[1].engine};
  ocl_shared shared;
  must("memory", ocl_shared_create(sides[owner].sharer, bytes, &shared));
  must("import", ocl_shared_import(&shared, sides[owner].context, &area->near));
  must("import", ocl_shared_import(&shared, sides[!owner].context, &area->far));
  must("mapping", ocl_mapping_create(engines, 2, &shared, &area->mapped));
  ocl_shared_close(&shared);
}

static void make_areas(int m) {
  side *s = &sides[m];
  uint32_t numbers[NUMBERS];
  const uint64_t words = NUMBERS * sizeof *numbers;
  for (uint32_t i = 0; i < NUMBERS; i++) numbers[i] = i;
  make_area(m, MOST_BYTES, &s->source);
  make_area(m, MOST_BYTES, &s->arrival);
  make_area(m, LINES * FLAG_WORDS * 4, &s->flags);
  make_area(m, words, &s->numbers);
  must("flags", moecl_buffer_fill_byte(s->flags.near, 0, LINES * FLAG_WORDS * 4, 0));
  must("numbers", moecl_buffer_write_wait(s->numbers.near, 0, words, numbers));
  must("counts", moecl_buffer_create(s->context, 4, &s->counts));
  must("counts", moecl_buffer_fill_byte(s->counts, 0, 4, 0));
  finish(s);
}

static void open_sides(char *devices) {
  const char *why = NULL;
  char *rest = NULL;
  for (int m = 0; m < 2; m++) {
    side *s = &sides[m];
    const moecl_context_params params = {.device = strtok_r(m ? NULL : devices, ",", &rest),
                                         .log = timing_log};
    must("context", moecl_context_create(&params, &s->context));
    if ((why = ocl_sharer_create(s->context, &s->sharer))) stop("memory", why);
    const double begin = timing_now_ms();
    if ((why = ocl_engine_create(s->sharer, &s->engine))) stop("engine", why);
    printf("engine %d: made in %.0f ms\n", m, timing_now_ms() - begin);
    make_kernels(s);
  }
  const ocl_device_mark other = ocl_sharer_mark(sides[1].sharer);
  if ((why = ocl_sharer_refuses(sides[0].sharer, &other))) stop("peer", why);
  for (int m = 0; m < 2; m++) make_areas(m);
}

static void close_area(area *area) {
  ocl_mapping_release(&area->mapped);
  moecl_buffer_destroy(&area->near);
  moecl_buffer_destroy(&area->far);
}

static void close_side(side *s) {
  close_area(&s->source), close_area(&s->arrival), close_area(&s->flags), close_area(&s->numbers);
  moecl_buffer_destroy(&s->counts);
  clReleaseKernel(s->fill), clReleaseKernel(s->check), clReleaseKernel(s->busy);
  clReleaseProgram(s->program);
  ocl_kernel_destroy(&s->put), ocl_kernel_destroy(&s->set), ocl_kernel_destroy(&s->await);
}

static uint64_t line_of(const side *s, int line) {
  return s->flags.mapped.address + (uint64_t)line * FLAG_WORDS * 4;
}

/* ---- handover, from the first to the second ---- */

typedef enum way { BY_KERNELS, BY_ENGINE, NUMBER_COPIED, BY_HOST, WAYS } way;
static const char *const ways[] = {"kernels", "engine", "engine, number copied", "host, engine"};

static void run(const side *s, ocl_kernel *kernel, uint64_t groups, uint32_t local) {
  ocl_chain chain = {.context = s->context};
  must("launch", ocl_launch(&chain, kernel, groups, local));
  must("flush", ocl_chain_end(&chain, NULL));
}

static void set(const side *s, const moecl_buffer *flags, int line) {
  must("arguments", ocl_kernel_args(s->set, "bbbbbbbbuuu", flags, flags, flags, flags, flags, flags,
                                    flags, flags, 1u, (uint32_t)line, number));
  run(s, s->set, 1, LOCAL);
}

static void await(const side *s) {
  must("arguments", ocl_kernel_args(s->await, "bbuuuuuL", s->flags.near, s->counts,
                                    (uint32_t)NUMBER_LINE, 0u, 0u, 1u, number, WAIT_NS));
  run(s, s->await, 1, LOCAL);
}

static void put(side *s, const side *to, uint64_t bytes) {
  const uint64_t zero = 0, units = bytes / 16, groups = base_div_up(units, PUT_LOCAL);
  must("arguments",
       ocl_kernel_args(s->put, "bbLLL", s->source.near, to->arrival.far, zero, zero, units));
  run(s, s->put, groups < 1024 ? groups : 1024, PUT_LOCAL);
  set(s, to->flags.far, NUMBER_LINE);
}

static void wait_by_host(const side *s) {
  cl_event mark;
  bool done = false;
  must("mark", ocl_queue_mark(s->context, &mark));
  while (!done) must("look", ocl_event_look(s->context, mark, &done));
  ocl_event_let_go(&mark);
}

static void copy(side *s, const side *to, uint64_t bytes) {
  must("copy",
       ocl_engine_copy(s->engine, s->source.mapped.address, to->arrival.mapped.address, bytes));
}

static void send(way way, side *s, const side *to, uint64_t bytes) {
  if (way == BY_KERNELS) {
    put(s, to, bytes);
    return;
  }
  if (way == BY_HOST) wait_by_host(s);
  else set(s, s->flags.near, READY_LINE);
  if (way != BY_HOST) must("await", ocl_engine_await(s->engine, line_of(s, READY_LINE), number));
  copy(s, to, bytes);
  const uint64_t from = s->numbers.mapped.address + number % NUMBERS * 4;
  must("tell", way == NUMBER_COPIED ? ocl_engine_copy(s->engine, from, line_of(to, NUMBER_LINE), 4)
                                    : ocl_engine_tell(s->engine, line_of(to, NUMBER_LINE), number));
}

static double hand_over(way way, uint64_t bytes) {
  side *from = &sides[0], *to = &sides[1];
  number++;
  fill(from, &from->source, number, bytes);
  finish(from);
  const double begin = timing_now_ms();
  send(way, from, to, bytes);
  await(to);
  finish(to);
  const double ms = timing_now_ms() - begin;
  check(to, &to->arrival, number, bytes);
  finish(to);
  if (way != BY_KERNELS) finish_engine(from, ways[way]);
  return ms;
}

static void time_handovers(int rounds) {
  static const uint64_t sizes[] = {4096, 512 << 10, 4 << 20, 16 << 20};
  double ms[MOST_ROUNDS];
  for (int w = 0; w < WAYS; w++) {
    printf("handover, us, %-22s", ways[w]);
    for (size_t i = 0; i < BASE_COUNT(sizes); i++) {
      for (int r = 0; r < rounds; r++) ms[r] = hand_over((way)w, sizes[i]);
      const double median = timing_median(ms, rounds);
      printf("  %6llu KiB %7.1f (%.1f to %.1f)", (unsigned long long)sizes[i] >> 10, 1e3 * median,
             1e3 * ms[0], 1e3 * ms[rounds - 1]);
    }
    printf("\n");
  }
}

/* ---- rates ---- */

/* Milliseconds of one of `count` copies by each of so many engines. */
static double copy_row(int engines, uint64_t bytes, int count, double busy_ms) {
  const uint32_t seed = ++number;
  for (int m = 0; m < 2; m++) fill(&sides[m], &sides[m].source, seed, bytes);
  for (int m = 0; m < 2; m++) fill(&sides[m], &sides[m].arrival, ~seed, bytes);
  for (int m = 0; m < 2; m++) finish(&sides[m]);
  for (int m = 0; m < 2 && busy_ms > 0; m++) keep_busy(&sides[m], busy_ms);
  for (const double until = timing_now_ms() + (busy_ms > 0 ? 0.5 : 0); timing_now_ms() < until;)
    ;
  const double begin = timing_now_ms();
  for (int i = 0; i < count; i++)
    for (int m = 0; m < engines; m++) copy(&sides[m], &sides[!m], bytes);
  for (int m = 0; m < engines; m++) finish_engine(&sides[m], "copies");
  const double ms = (timing_now_ms() - begin) / count;
  for (int m = 0; m < engines; m++) check(&sides[!m], &sides[!m].arrival, seed, bytes);
  for (int m = 0; m < 2; m++) finish(&sides[m]);
  return ms;
}

static double median_row(int engines, uint64_t bytes, double busy_ms) {
  enum { SAMPLES = 7 };
  double ms[SAMPLES];
  const int count = bytes > (UINT64_C(32) << 20) ? 4 : 16;
  copy_row(engines, bytes, count, busy_ms);
  for (int i = 0; i < SAMPLES; i++) ms[i] = copy_row(engines, bytes, count, busy_ms);
  return timing_median(ms, SAMPLES);
}

static void time_rates(void) {
  static const uint64_t sizes[] = {64 << 10, 512 << 10, 4 << 20, 16 << 20, 64 << 20, MOST_BYTES};
  for (size_t i = 0; i < BASE_COUNT(sizes); i++) {
    const double bytes = (double)sizes[i], one = median_row(1, sizes[i], 0),
                 both = median_row(2, sizes[i], 0), full = median_row(2, sizes[i], 10);
    printf("rates, %6llu KiB: one way %8.4f ms %6.1f GB/s, both %8.4f ms %6.1f, both beside full "
           "GPUs (10 ms) %8.4f ms %6.1f\n",
           (unsigned long long)sizes[i] >> 10, one, bytes / one * 1e-6, both, bytes / both * 1e-6,
           full, bytes / full * 1e-6);
  }
}

/* ---- beside kernels ---- */

/* The word comes between two kernels that fill the GPU: 2 ms before it, and 8 behind. */
static double beside_full(uint64_t bytes) {
  side *from = &sides[0], *to = &sides[1];
  number++;
  fill(from, &from->source, number, bytes);
  finish(from);
  keep_busy(from, 2);
  const double begin = timing_now_ms();
  set(from, from->flags.near, READY_LINE);
  keep_busy(from, 8);
  must("await", ocl_engine_await(from->engine, line_of(from, READY_LINE), number));
  copy(from, to, bytes);
  must("tell", ocl_engine_tell(from->engine, line_of(to, NUMBER_LINE), number));
  finish_engine(from, "beside a full GPU");
  const double ms = timing_now_ms() - begin;
  finish(from);
  check(to, &to->arrival, number, bytes);
  finish(to);
  return ms;
}

typedef struct layer {
  moecl_layer *layer;
  moecl_buffer *hidden, *output;
} layer;

enum { HIDDEN = 2048, TOKENS = 4096, FORWARDS = 30 };

static void fill_tensor(const side *s, moecl_layer *layer, const moecl_layer_params *params,
                        moecl_tensor tensor) {
  const moecl_random_params random = {.dtype = MOECL_BF16, .scale = 0.02f, .seed = 1};
  const uint64_t bytes = moecl_layer_tensor_bytes(params, tensor);
  moecl_buffer *item = NULL;
  must("buffer", moecl_buffer_create(s->context, bytes, &item));
  must("random", moecl_fill_random(item, 0, bytes / 2, &random));
  for (int64_t i = 0; i < moecl_layer_tensor_items(params, tensor); i++)
    must("weights", moecl_layer_set_weights_buffer(layer, tensor, i, 1, item, 0));
  finish(s);
  moecl_buffer_destroy(&item);
}

static void make_layer(const side *s, layer *l) {
  const moecl_layer_params params = {.hidden_size = HIDDEN,
                                     .intermediate_size = 1024,
                                     .num_experts = 64,
                                     .top_k = 8,
                                     .dtype = MOECL_BF16};
  const moecl_random_params random = {.dtype = MOECL_BF16, .scale = 1, .seed = 2};
  must("layer", moecl_layer_create(s->context, &params, &l->layer));
  fill_tensor(s, l->layer, &params, MOECL_ROUTER_WEIGHT);
  fill_tensor(s, l->layer, &params, MOECL_GATE_UP_PROJ);
  fill_tensor(s, l->layer, &params, MOECL_DOWN_PROJ);
  must("buffer", moecl_buffer_create(s->context, TOKENS * HIDDEN * 2, &l->hidden));
  must("buffer", moecl_buffer_create(s->context, TOKENS * HIDDEN * 2, &l->output));
  must("random", moecl_fill_random(l->hidden, 0, TOKENS * HIDDEN, &random));
}

static void forwards(const side *s, const layer *l, int count) {
  const moecl_forward_params params = {
      .num_tokens = TOKENS, .hidden_states = l->hidden, .output = l->output};
  for (int i = 0; i < count; i++) must("forward", moecl_layer_forward(l->layer, &params, NULL));
  must_cl("clFlush", clFlush(s->context->queue));
}

/* Milliseconds of a forward, of several in a row, beside so many copies each way. */
static double time_forwards(const layer *l, int copies, uint64_t bytes, double *copies_ms) {
  const uint32_t seed = ++number;
  for (int m = 0; m < 2; m++) fill(&sides[m], &sides[m].source, seed, bytes);
  forwards(&sides[0], l, 1);
  for (int m = 0; m < 2; m++) finish(&sides[m]);
  const double begin = timing_now_ms();
  forwards(&sides[0], l, FORWARDS);
  const double enqueued = timing_now_ms();
  for (int i = 0; i < copies; i++)
    for (int m = 0; m < 2; m++) copy(&sides[m], &sides[!m], bytes);
  for (int m = 0; m < 2 && copies > 0; m++) finish_engine(&sides[m], "copies beside forwards");
  *copies_ms = (timing_now_ms() - enqueued) / (copies ? copies : 1);
  finish(&sides[0]);
  const double ms = (timing_now_ms() - begin) / FORWARDS;
  for (int m = 0; m < 2 && copies > 0; m++) check(&sides[m], &sides[m].arrival, seed, bytes);
  for (int m = 0; m < 2; m++) finish(&sides[m]);
  return ms;
}

static void time_beside_layer(void) {
  const uint64_t bytes = 64 << 20;
  layer l = {0};
  double unused, beside;
  make_layer(&sides[0], &l);
  time_forwards(&l, 0, 0, &unused);
  const double alone = time_forwards(&l, 0, 0, &unused), copied = median_row(2, bytes, 0);
  const int copies = (int)(0.6 * FORWARDS * alone / copied);
  must("await", ocl_engine_await(sides[0].engine, line_of(&sides[0], NEVER_LINE), 1));
  const double waiting = time_forwards(&l, 0, 0, &unused);
  must("interrupt", ocl_engine_interrupt(sides[0].engine, line_of(&sides[0], NEVER_LINE), 1));
  finish_engine(&sides[0], "a wait that was interrupted");
  const double full = time_forwards(&l, copies, bytes, &beside);
  printf("beside: a forward of 4096 tokens %.4f ms alone, %.4f while an engine waits, %.4f beside "
         "%d copies of 64 MiB each way, of %.4f ms (alone %.4f)\n",
         alone, waiting, full, copies, beside, copied);
  moecl_layer_destroy(&l.layer);
  moecl_buffer_destroy(&l.hidden);
  moecl_buffer_destroy(&l.output);
}

static void time_beside(void) {
  enum { SAMPLES = 9 };
  static const uint64_t sizes[] = {4096, 512 << 10, 64 << 20};
  double ms[SAMPLES];
  for (size_t i = 0; i < BASE_COUNT(sizes); i++) {
    for (int r = 0; r < SAMPLES; r++) ms[r] = beside_full(sizes[i]);
    const double median = timing_median(ms, SAMPLES);
    printf("beside: the word comes 2 ms after the start, the GPU is full for 8 more: %6llu KiB are "
           "over after %.3f ms (%.3f to %.3f)\n",
           (unsigned long long)sizes[i] >> 10, median, ms[0], ms[SAMPLES - 1]);
  }
  time_beside_layer();
}

int main(int argc, char **argv) {
  static const struct option options[] = {{"devices", required_argument, NULL, 'd'},
                                          {"rounds", required_argument, NULL, 'r'},
                                          {NULL, 0, NULL, 0}};
  char devices[256] = "0:0,0:1";
  int rounds = 40;
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (c == 'd') snprintf(devices, sizeof devices, "%s", optarg);
    else if (c == 'r') rounds = atoi(optarg);
    else return 2;
  }
  open_sides(devices);
  time_handovers(rounds < 1 ? 1 : rounds > MOST_ROUNDS ? MOST_ROUNDS : rounds);
  time_rates();
  time_beside();
  for (int m = 0; m < 2; m++) {
    uint32_t wrong;
    must("counts", moecl_buffer_read_wait(sides[m].counts, 0, sizeof wrong, &wrong));
    printf("device %d: %u wrong words (1 may be a wait that gave up)\n", m, wrong);
  }
  for (int m = 0; m < 2; m++) close_side(&sides[m]);
  for (int m = 0; m < 2; m++) {
    ocl_engine_destroy(&sides[m].engine);
    ocl_sharer_destroy(&sides[m].sharer);
    moecl_context_destroy(&sides[m].context);
  }
  return 0;
}

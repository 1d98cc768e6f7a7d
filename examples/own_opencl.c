// SPDX-License-Identifier: MIT
/* The layer of forward.c in a program that has OpenCL objects of its own: its context,
 * queue, buffers and events. Nothing is copied between the program's memory and moecl's,
 * and the host waits once, at the end.
 *
 *   cc own_opencl.c $(pkg-config --cflags --libs moecl) -o own_opencl && ./own_opencl */
#include <moecl/moecl.h>
#include <moecl/opencl.h>
#include <stdio.h>
#include <stdlib.h>

enum { T = 16, H = 128, I = 256, E = 8, K = 2 };

/* A program this small ends where something fails; what it holds goes with it. */
static void check(moecl_status status, const char *what) {
  if (status == MOECL_OK) return;
  fprintf(stderr, "%s: %s\n", what, moecl_status_string(status));
  exit(EXIT_FAILURE);
}
static void check_cl(cl_int code, const char *what) {
  if (code == CL_SUCCESS) return;
  fprintf(stderr, "%s: OpenCL error %d\n", what, (int)code);
  exit(EXIT_FAILURE);
}
static void print_log(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "moecl: %s\n", message);
}

/* ---- the program's own side ---- */

typedef struct own {
  cl_device_id device;
  cl_context context;
  cl_command_queue queue;
  cl_mem weights, input, output; /* weights: [E,H] router, [E,2I,H] gate_up, [E,H,I] down */
} own;

enum { ROUTER = E * H, GATE_UP = E * 2 * I * H, DOWN = E * H * I };
enum { WEIGHTS = ROUTER + GATE_UP + DOWN };

static cl_mem make_buffer(const own *o, size_t elements, float *host) {
  cl_int code;
  const cl_mem_flags flags = CL_MEM_READ_WRITE | (host ? CL_MEM_COPY_HOST_PTR : 0);
  cl_mem mem = clCreateBuffer(o->context, flags, elements * sizeof(float), host, &code);
  check_cl(code, "clCreateBuffer");
  return mem;
}

/* In place of the program's own numbers: the streams that forward.c draws. */
static void draw(float *values, uint64_t count, float scale, uint64_t stream) {
  const moecl_random_params random = {
      .distribution = MOECL_NORMAL, .scale = scale, .stream = stream};
  check(moecl_random_host(values, count, &random), "random numbers");
}

static own open_own(void) {
  own o = {0};
  cl_int code;
  cl_platform_id platform;
  check_cl(clGetPlatformIDs(1, &platform, NULL), "no OpenCL device: clGetPlatformIDs");
  check_cl(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &o.device, NULL),
           "no OpenCL device: clGetDeviceIDs");
  o.context = clCreateContext(NULL, 1, &o.device, NULL, NULL, &code);
  check_cl(code, "clCreateContext");
  o.queue = clCreateCommandQueueWithProperties(o.context, o.device, NULL, &code);
  check_cl(code, "clCreateCommandQueueWithProperties");
  float *host = malloc(WEIGHTS * sizeof *host);
  check(host ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY, "weights");
  draw(host, ROUTER, 0.1f, MOECL_ROUTER_WEIGHT);
  draw(host + ROUTER, GATE_UP, 0.1f, MOECL_GATE_UP_PROJ);
  draw(host + ROUTER + GATE_UP, DOWN, 0.1f, MOECL_DOWN_PROJ);
  o.weights = make_buffer(&o, WEIGHTS, host);
  o.input = make_buffer(&o, T * H, NULL);
  o.output = make_buffer(&o, T * H, NULL);
  free(host);
  return o;
}

static void close_own(own *o) {
  check_cl(clReleaseMemObject(o->weights), "clReleaseMemObject");
  check_cl(clReleaseMemObject(o->input), "clReleaseMemObject");
  check_cl(clReleaseMemObject(o->output), "clReleaseMemObject");
  check_cl(clReleaseCommandQueue(o->queue), "clReleaseCommandQueue");
  check_cl(clReleaseContext(o->context), "clReleaseContext");
}

/* ---- moecl on it ---- */

static moecl_layer *make_layer(moecl_context *context, cl_mem mem) {
  const moecl_layer_params params = {.hidden_size = H,
                                     .intermediate_size = I,
                                     .num_experts = E,
                                     .top_k = K,
                                     .dtype = MOECL_F32,
                                     .activation = MOECL_SWIGLU,
                                     .renormalize = true};
  moecl_layer *layer;
  moecl_buffer *weights;
  const uint64_t gate_up = ROUTER * sizeof(float), down = (ROUTER + GATE_UP) * sizeof(float);
  check(moecl_layer_create(context, &params, &layer), "layer");
  check(moecl_buffer_wrap(context, mem, &weights), "weights");
  check(moecl_layer_set_weights_buffer(layer, MOECL_ROUTER_WEIGHT, 0, 1, weights, 0), "router");
  check(moecl_layer_set_weights_buffer(layer, MOECL_GATE_UP_PROJ, 0, E, weights, gate_up),
        "gate_up");
  check(moecl_layer_set_weights_buffer(layer, MOECL_DOWN_PROJ, 0, E, weights, down), "down");
  moecl_buffer_destroy(&weights); /* the layer keeps packed copies; the cl_mem is ours */
  return layer;
}

/* The program's upload, the layer and the program's download, each behind the one before it
 * by events, so that it would be right on queues of any kind. */
static void forward(const own *o, moecl_context *context, moecl_layer *layer, float *states,
                    float *result) {
  cl_event uploaded, downloaded;
  moecl_event *before, *done;
  moecl_buffer *input, *output;
  const size_t bytes = T * H * sizeof(float);
  check_cl(clEnqueueWriteBuffer(o->queue, o->input, CL_FALSE, 0, bytes, states, 0, NULL, &uploaded),
           "clEnqueueWriteBuffer");
  check(moecl_buffer_wrap(context, o->input, &input), "input");
  check(moecl_buffer_wrap(context, o->output, &output), "output");
  check(moecl_event_wrap(context, uploaded, &before), "upload");
  const moecl_forward_params params = {.num_tokens = T,
                                       .hidden_states = input,
                                       .output = output,
                                       .wait_list = &before,
                                       .wait_count = 1};
  check(moecl_layer_forward(layer, &params, &done), "forward");
  const cl_event after = moecl_event_cl(done);
  check_cl(
      clEnqueueReadBuffer(o->queue, o->output, CL_FALSE, 0, bytes, result, 1, &after, &downloaded),
      "clEnqueueReadBuffer");
  check_cl(clWaitForEvents(1, &downloaded), "clWaitForEvents");
  moecl_event_destroy(&before);
  moecl_event_destroy(&done);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  check_cl(clReleaseEvent(uploaded), "clReleaseEvent");
  check_cl(clReleaseEvent(downloaded), "clReleaseEvent");
}

int main(void) {
  static float states[T * H], result[T * H];
  own o = open_own();
  const moecl_context_params settings = {.log = print_log};
  moecl_context *context;
  check(moecl_context_create_from_cl(o.context, o.device, o.queue, &settings, &context), "context");
  moecl_layer *layer = make_layer(context, o.weights);
  moecl_routing routing;
  draw(states, T * H, 1, 100);
  forward(&o, context, layer, states, result);
  check(moecl_layer_read_routing_wait(layer, &routing), "routing");
  printf("device: %s\n", moecl_context_device(context)->name);
  printf("token 0: experts %d %d, weights %.4f %.4f, output %.4f %.4f %.4f\n", routing.topk_ids[0],
         routing.topk_ids[1], (double)routing.topk_weights[0], (double)routing.topk_weights[1],
         (double)result[0], (double)result[1], (double)result[2]);
  moecl_routing_destroy(&routing);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  close_own(&o);
  return EXIT_SUCCESS;
}

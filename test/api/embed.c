// SPDX-License-Identifier: MIT
/* An embedder's program: brings its own OpenCL context and queue, gives weights
 * from the host and from a cl_mem, chains the layer behind its own work through
 * events, and checks the answer with the library's reference. Built against the
 * installed library through pkg-config by embed.sh. */
#include <moecl/moecl.h>
#include <moecl/opencl.h>
#include <stdio.h>
#include <stdlib.h>

enum { T = 37, H = 64, I = 96, E = 8, K = 2 };

#define CHECK(call)                                                                                \
  do {                                                                                             \
    moecl_status status_ = (call);                                                                 \
    if (status_ != MOECL_OK) {                                                                     \
      fprintf(stderr, "%s: %s\n", #call, moecl_status_string(status_));                            \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)
#define CHECK_CL(code)                                                                             \
  do {                                                                                             \
    cl_int code_ = (code);                                                                         \
    if (code_ != CL_SUCCESS) {                                                                     \
      fprintf(stderr, "line %d: OpenCL error %d\n", __LINE__, code_);                              \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

static void print_log(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_INFO) fprintf(stderr, "moecl: %s\n", message);
}

static float *random_floats(size_t count, float scale, uint64_t stream) {
  float *values = malloc(count * sizeof *values);
  const moecl_random_params params = {.dtype = MOECL_F32,
                                      .distribution = MOECL_NORMAL,
                                      .scale = scale,
                                      .seed = 7,
                                      .stream = stream};
  if (!values) exit(1);
  CHECK(moecl_random_host(values, count, &params));
  return values;
}

static double *to_double(const float *values, size_t count) {
  double *converted = malloc(count * sizeof *converted);
  if (!converted) exit(1);
  moecl_to_double(MOECL_F32, values, count, converted);
  return converted;
}

typedef struct data {
  float *hidden, *router, *gate_up, *down;
} data;

/* The reference over all tokens, from the routing the device reported. */
static double error_of(const moecl_layer_params *params, const data *data,
                       const moecl_routing *routing, const float *output) {
  double *hidden = to_double(data->hidden, T * H), *actual = to_double(output, T * H);
  double *gate_up = to_double(data->gate_up, (size_t)E * 2 * I * H);
  double *down = to_double(data->down, (size_t)E * H * I);
  double *expected = calloc(T * H, sizeof *expected), one[H];
  if (!expected) exit(1);
  for (int t = 0; t < T; t++)
    for (int k = 0; k < K; k++) {
      const int e = routing->topk_ids[t * K + k];
      CHECK(moecl_reference_expert(params, hidden + t * H, gate_up + (size_t)e * 2 * I * H, NULL,
                                   down + (size_t)e * H * I, NULL, one));
      for (int h = 0; h < H; h++)
        expected[t * H + h] += (double)routing->topk_weights[t * K + k] * one[h];
    }
  const double error = moecl_relative_error(actual, expected, T * H);
  free(hidden), free(actual), free(gate_up), free(down), free(expected);
  return error;
}

int main(void) {
  /* The program's own OpenCL objects; an out-of-order queue on purpose. */
  cl_platform_id platform;
  cl_device_id device;
  cl_uint found = 0;
  if (clGetPlatformIDs(1, &platform, &found) != CL_SUCCESS || found == 0 ||
      clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, &found) != CL_SUCCESS) {
    printf("SKIP: no OpenCL device\n");
    return 77;
  }
  cl_int code;
  cl_context cl = clCreateContext(NULL, 1, &device, NULL, NULL, &code);
  CHECK_CL(code);
  const cl_queue_properties properties[] = {
      CL_QUEUE_PROPERTIES, CL_QUEUE_PROFILING_ENABLE | CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, 0};
  cl_command_queue queue = clCreateCommandQueueWithProperties(cl, device, properties, &code);
  CHECK_CL(code);

  moecl_context *context;
  const moecl_context_params context_params = {.log = print_log};
  CHECK(moecl_context_create_from_cl(cl, device, queue, &context_params, &context));
  printf("device: %s\n", moecl_context_device(context)->name);

  const moecl_layer_params params = {.hidden_size = H,
                                     .intermediate_size = I,
                                     .num_experts = E,
                                     .top_k = K,
                                     .dtype = MOECL_F32,
                                     .activation = MOECL_SWIGLU,
                                     .renormalize = true};
  moecl_layer *layer;
  CHECK(moecl_layer_create(context, &params, &layer));

  /* Weights: two tensors from host memory, the third from the program's cl_mem. */
  data data = {random_floats(T * H, 1.0f, 1), random_floats(E * H, 0.125f, 2),
               random_floats((size_t)E * 2 * I * H, 0.125f, 3),
               random_floats((size_t)E * H * I, 0.1f, 4)};
  CHECK(moecl_layer_set_weights(layer, MOECL_ROUTER_WEIGHT, 0, 1, data.router));
  CHECK(moecl_layer_set_weights(layer, MOECL_GATE_UP_PROJ, 0, E, data.gate_up));
  const size_t down_bytes = (size_t)E * H * I * sizeof(float);
  cl_mem down_mem =
      clCreateBuffer(cl, CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, down_bytes, data.down, &code);
  CHECK_CL(code);
  moecl_buffer *down;
  CHECK(moecl_buffer_wrap(context, down_mem, &down));
  CHECK(moecl_layer_set_weights_buffer(layer, MOECL_DOWN_PROJ, 0, E, down, 0));

  /* Input and output in the program's buffers; the layer waits for the upload. */
  const size_t bytes = T * H * sizeof(float);
  cl_mem in_mem = clCreateBuffer(cl, CL_MEM_READ_ONLY, bytes, NULL, &code);
  CHECK_CL(code);
  cl_mem out_mem = clCreateBuffer(cl, CL_MEM_READ_WRITE, bytes, NULL, &code);
  CHECK_CL(code);
  cl_event upload;
  CHECK_CL(clEnqueueWriteBuffer(queue, in_mem, CL_FALSE, 0, bytes, data.hidden, 0, NULL, &upload));
  moecl_buffer *input, *output, *workspace;
  moecl_event *uploaded, *done;
  CHECK(moecl_buffer_wrap(context, in_mem, &input));
  CHECK(moecl_buffer_wrap(context, out_mem, &output));
  CHECK(moecl_event_wrap(context, upload, &uploaded));
  CHECK(moecl_buffer_create(context, moecl_layer_workspace_size(layer, T), &workspace));
  const moecl_forward_params forward = {.num_tokens = T,
                                        .hidden_states = input,
                                        .output = output,
                                        .workspace = workspace,
                                        .wait_list = &uploaded,
                                        .wait_count = 1};
  CHECK(moecl_layer_forward(layer, &forward, &done));

  /* And the program waits for the layer with its own OpenCL call. */
  float result[T * H];
  cl_event after = moecl_event_cl(done);
  CHECK_CL(clEnqueueReadBuffer(queue, out_mem, CL_TRUE, 0, bytes, result, 1, &after, NULL));

  moecl_routing routing;
  CHECK(moecl_layer_read_routing_wait(layer, &routing));
  const char *reason, *variant = moecl_layer_variant(layer, "grouped_gemm", &reason);
  const double error = error_of(&params, &data, &routing, result);
  printf("grouped GEMM: %s (%s); imbalance %.2f; error %.2e\n", variant, reason,
         routing.statistics.max_mean_imbalance, error);

  moecl_routing_destroy(&routing);
  moecl_event_destroy(&uploaded);
  moecl_event_destroy(&done);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_buffer_destroy(&workspace);
  moecl_buffer_destroy(&down);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  clReleaseEvent(upload);
  clReleaseMemObject(in_mem);
  clReleaseMemObject(out_mem);
  clReleaseMemObject(down_mem);
  clReleaseCommandQueue(queue);
  clReleaseContext(cl);
  free(data.hidden), free(data.router), free(data.gate_up), free(data.down);
  return error <= 1e-5 ? 0 : 1;
}

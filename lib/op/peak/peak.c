// SPDX-License-Identifier: MIT
/* The device's peaks: cl/peak/peak.cl, timed from the host over launches that are long
 * enough for that. */
#include "op/peak/peak.h"
#include "base/base.h"
#include "moecl/peaks.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  TRIES = 7,
  CHAINS = 10, /* vectors in flight, and two more: what 16 registers hold */
  LAUNCHES = 200,
  VECTOR_BYTES = 32,
  MOST_ROUNDS = 32768, /* vectors that a work-item goes through */
  BYTE = 3             /* of which the arrays are full */
};
static const double long_enough = 0.02; /* seconds of what is timed */
static const uint64_t most_bytes = (uint64_t)256 << 20;

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static moecl_status launch(const peak_trial *t, int count, double *seconds) {
  ocl_chain chain = {.context = t->context};
  const double begun = seconds_now();
  for (int i = 0; i < count; i++) MOECL_TRY(ocl_launch(&chain, t->kernel, t->groups, t->local));
  MOECL_TRY(ocl_keep_order(t->context));
  MOECL_TRY(moecl_context_finish_wait(t->context));
  *seconds = seconds_now() - begun;
  return MOECL_OK;
}

moecl_status peak_best_of(const peak_trial *t, double *best) {
  int count = 1;
  double seconds;
  MOECL_TRY(launch(t, 1, &seconds)); /* warms up */
  MOECL_TRY(launch(t, count, &seconds));
  while (seconds < long_enough && count < 1 << 20) {
    count *= 2;
    MOECL_TRY(launch(t, count, &seconds));
  }
  *best = seconds / count;
  for (int i = 1; i < TRIES; i++) {
    MOECL_TRY(launch(t, count, &seconds));
    if (seconds / count < *best) *best = seconds / count;
  }
  return MOECL_OK;
}

/* ---- was it done? ---- */

moecl_status peak_check_sum(moecl_context *context, const char *what, double got, double want) {
  if (got == want) return MOECL_OK;
  return log_error(&context->log, MOECL_ERROR_BUILD,
                   "peaks: the kernel that measures %s came to %g, expected %g", what, got, want);
}

static moecl_status check_floats(const moecl_buffer *out, uint64_t count, double want) {
  float *values = malloc(count * sizeof *values);
  if (!values)
    return log_error(&out->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status = moecl_buffer_read_wait(out, 0, count * sizeof *values, values);
  for (uint64_t i = 0; status == MOECL_OK && i < count; i++)
    status = peak_check_sum(out->context, "arithmetic", (double)values[i], want);
  free(values);
  return status;
}

/* Sums are of 32 bits, and wrap. */
static moecl_status check_words(const moecl_buffer *sums, uint64_t count, uint32_t want) {
  uint32_t *values = malloc(count * sizeof *values), sum = 0;
  if (!values)
    return log_error(&sums->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const moecl_status status = moecl_buffer_read_wait(sums, 0, count * sizeof *values, values);
  for (uint64_t i = 0; status == MOECL_OK && i < count; i++) sum += values[i];
  free(values);
  return status == MOECL_OK ? peak_check_sum(sums->context, "reading", sum, want) : status;
}

/* ---- arithmetic ---- */

/* A processor's cores take vectors, a GPU's lanes elements. */
static void describe(const moecl_context *context, bool half, char *defines, size_t size,
                     peak_trial *t, uint32_t *width) {
  const moecl_device_info *info = &context->info;
  const bool cpu = info->capabilities & MOECL_CAP_CPU;
  const uint32_t native = info->native_vector_width_float;
  *width = !cpu ? 1 : native >= 16 ? 16 : native >= 8 ? 8 : 4;
  if (half) *width *= 2;
  if (*width > 16) *width = 16;
  t->local = cpu ? 1 : ocl_local_size(context, 256);
  t->groups = (uint64_t)info->compute_units * (cpu ? 4 : 16);
  snprintf(defines, size, "LOCAL %u\nWIDTH %u\nCHAINS %d\nHALF %d\nSTRIDED %d\n",
           (unsigned)t->local, (unsigned)*width, CHAINS, half, !cpu);
}

static moecl_status measure_arithmetic(moecl_context *context, bool half, double *flops) {
  peak_trial t = {.context = context};
  moecl_buffer *out = NULL;
  char defines[128];
  uint32_t width;
  double seconds = 0;
  const int32_t rounds = 20000;
  describe(context, half, defines, sizeof defines, &t, &width);
  const uint64_t items = t.groups * t.local;
  moecl_status status =
      ocl_kernel_create(context, "peak/peak.cl", defines, "multiply_add", &t.kernel);
  if (status == MOECL_OK) status = moecl_buffer_create(context, items * sizeof(float), &out);
  /* Towards 2: neither zeros, nor denormals, nor infinities, which may be slower. */
  if (status == MOECL_OK) status = ocl_kernel_args(t.kernel, "bffi", out, 0.5, 1.0, rounds);
  if (status == MOECL_OK) status = peak_best_of(&t, &seconds);
  /* x / 2 + 1 comes to 2, in each of CHAINS vectors, of which two elements are added up. */
  if (status == MOECL_OK) status = check_floats(out, items, 2.0 * CHAINS * (width > 1 ? 2 : 1));
  if (status == MOECL_OK) *flops = 2.0 * rounds * CHAINS * width * (double)items / seconds;
  ocl_kernel_destroy(&t.kernel);
  moecl_buffer_destroy(&out);
  return status;
}

static void demote(void *user, moecl_log_level level, const char *message) {
  log_write(user, level == MOECL_LOG_ERROR ? MOECL_LOG_WARNING : level, "%s", message);
}

static moecl_status measure_half(moecl_context *context, double *flops) {
  return measure_arithmetic(context, true, flops);
}

/* Some drivers claim fp16 and do not compile it: what the device may lack has no rate then, and the
 * others are measured all the same. */
static moecl_status measure_what_builds(moecl_context *context, const char *what,
                                        moecl_status (*measure)(moecl_context *, double *),
                                        double *flops) {
  const moecl_log log = context->log;
  const log_errors before = context->errors;
  moecl_log warnings = {log.fn, log.user, NULL};
  context->log = (moecl_log){demote, &warnings, log.errors};
  const moecl_status status = measure(context, flops);
  context->log = log;
  if (status == MOECL_OK) return MOECL_OK;
  if (status != MOECL_ERROR_BUILD)
    return log_error(&context->log, status, "peaks: %s: %s", what, moecl_status_string(status));
  context->errors = before; /* none of the call */
  log_write(&context->log, MOECL_LOG_WARNING,
            "peaks: the device claims %s, but its kernel does not build or is wrong: "
            "there is no rate of it",
            what);
  *flops = 0;
  return MOECL_OK;
}

/* ---- memory ---- */

typedef struct arrays {
  moecl_buffer *from, *to, *sums;
  void *host;
  uint64_t bytes;
} arrays;

static moecl_status make_arrays(moecl_context *context, peak_trial *t, arrays *a) {
  const moecl_device_info *info = &context->info;
  a->bytes = most_bytes;
  if (info->global_memory_bytes && info->global_memory_bytes / 16 < a->bytes)
    a->bytes = info->global_memory_bytes / 16;
  if (info->max_allocation_bytes && info->max_allocation_bytes < a->bytes)
    a->bytes = info->max_allocation_bytes;
  a->bytes = a->bytes / 4096 * 4096;
  a->host = malloc(a->bytes);
  if (!a->host) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  memset(a->host, BYTE, a->bytes); /* pages that exist */
  /* Some drivers end loops after 65,535 rounds (MOECL_CAP_LONG_LOOPS). */
  const uint64_t items = base_div_up(a->bytes / VECTOR_BYTES, MOST_ROUNDS);
  if (t->groups * t->local < items) t->groups = base_div_up(items, t->local);
  MOECL_TRY(moecl_buffer_create(context, a->bytes, &a->from));
  MOECL_TRY(moecl_buffer_create(context, a->bytes, &a->to));
  MOECL_TRY(moecl_buffer_fill_byte(a->to, 0, a->bytes, 0)); /* or it may hold a copy already */
  return moecl_buffer_create(context, t->groups * t->local * sizeof(uint32_t), &a->sums);
}

static moecl_status measure_transfers(const arrays *a, moecl_peaks *peaks) {
  for (int i = 0; i < TRIES; i++) {
    double begun = seconds_now();
    MOECL_TRY(moecl_buffer_write_wait(a->from, 0, a->bytes, a->host));
    const double to = (double)a->bytes / (seconds_now() - begun);
    begun = seconds_now();
    MOECL_TRY(moecl_buffer_read_wait(a->from, 0, a->bytes, a->host));
    const double from = (double)a->bytes / (seconds_now() - begun);
    if (to > peaks->to_device_bytes) peaks->to_device_bytes = to;
    if (from > peaks->from_device_bytes) peaks->from_device_bytes = from;
  }
  return MOECL_OK;
}

/* `entry` goes once through the arrays. */
static moecl_status measure_pass(peak_trial *t, const char *defines, const char *entry,
                                 const arrays *a, const moecl_buffer *to, double *seconds) {
  moecl_status status = ocl_kernel_create(t->context, "peak/peak.cl", defines, entry, &t->kernel);
  if (status == MOECL_OK)
    status = ocl_kernel_args(t->kernel, "bbL", a->from, to, a->bytes / VECTOR_BYTES);
  if (status == MOECL_OK) status = peak_best_of(t, seconds);
  ocl_kernel_destroy(&t->kernel);
  return status;
}

/* Every byte of the copy. */
static moecl_status check_copy(const arrays *a) {
  memset(a->host, 0, a->bytes);
  MOECL_TRY(moecl_buffer_read_wait(a->to, 0, a->bytes, a->host));
  const unsigned char *bytes = a->host;
  double sum = 0;
  for (uint64_t i = 0; i < a->bytes; i++) sum += bytes[i];
  return peak_check_sum(a->to->context, "copying", sum, (double)BYTE * (double)a->bytes);
}

static moecl_status measure_memory(moecl_context *context, moecl_peaks *peaks) {
  peak_trial t = {.context = context};
  arrays a = {0};
  char defines[128];
  uint32_t width;
  double seconds = 0;
  describe(context, false, defines, sizeof defines, &t, &width);
  moecl_status status = make_arrays(context, &t, &a);
  if (status == MOECL_OK) status = measure_transfers(&a, peaks);
  if (status == MOECL_OK) status = measure_pass(&t, defines, "read_all", &a, a.sums, &seconds);
  if (status == MOECL_OK)
    status =
        check_words(a.sums, t.groups * t.local, (uint32_t)(a.bytes / 4) * (BYTE * 0x01010101u));
  if (status == MOECL_OK) peaks->read_bytes = (double)a.bytes / seconds;
  if (status == MOECL_OK) status = measure_pass(&t, defines, "copy_all", &a, a.to, &seconds);
  if (status == MOECL_OK) status = check_copy(&a);
  if (status == MOECL_OK) peaks->copy_bytes = 2.0 * (double)a.bytes / seconds;
  peaks->array_bytes = a.bytes;
  moecl_buffer_destroy(&a.from);
  moecl_buffer_destroy(&a.to);
  moecl_buffer_destroy(&a.sums);
  free(a.host);
  return status;
}

/* ---- launches ---- */

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static moecl_status time_launches(const peak_trial *t, moecl_peaks *peaks) {
  double each[LAUNCHES], seconds;
  MOECL_TRY(launch(t, LAUNCHES, &seconds)); /* warms up */
  peaks->launch_seconds = seconds / LAUNCHES;
  for (int i = 0; i < TRIES; i++) {
    MOECL_TRY(launch(t, LAUNCHES, &seconds));
    if (seconds / LAUNCHES < peaks->launch_seconds) peaks->launch_seconds = seconds / LAUNCHES;
  }
  for (int i = 0; i < LAUNCHES; i++) MOECL_TRY(launch(t, 1, &each[i]));
  qsort(each, LAUNCHES, sizeof *each, by_size);
  peaks->wait_seconds = each[LAUNCHES / 2];
  return MOECL_OK;
}

static moecl_status measure_launches(moecl_context *context, moecl_peaks *peaks) {
  peak_trial t = {.context = context};
  moecl_buffer *out = NULL;
  char defines[128];
  uint32_t width;
  describe(context, false, defines, sizeof defines, &t, &width);
  t.groups = t.local = 1;
  moecl_status status = ocl_kernel_create(context, "peak/peak.cl", defines, "nothing", &t.kernel);
  if (status == MOECL_OK) status = moecl_buffer_create(context, sizeof(uint32_t), &out);
  if (status == MOECL_OK) status = ocl_kernel_args(t.kernel, "b", out);
  if (status == MOECL_OK) status = time_launches(&t, peaks);
  ocl_kernel_destroy(&t.kernel);
  moecl_buffer_destroy(&out);
  return status;
}

static moecl_status measure(moecl_context *context, moecl_peaks *peaks) {
  MOECL_TRY(measure_arithmetic(context, false, &peaks->flops_f32));
  if (context->info.fp16)
    MOECL_TRY(measure_what_builds(context, "fp16 arithmetic", measure_half, &peaks->flops_f16));
  MOECL_TRY(measure_what_builds(context, "matrix instructions", peak_measure_matrix,
                                &peaks->flops_matrix));
  MOECL_TRY(measure_memory(context, peaks));
  return measure_launches(context, peaks);
}

moecl_status moecl_measure_peaks_wait(moecl_context *context, moecl_peaks *peaks) {
  if (!peaks) return MOECL_ERROR_INVALID_ARGUMENT;
  *peaks = (moecl_peaks){0};
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  const moecl_status status = measure(context, peaks);
  if (status != MOECL_OK) *peaks = (moecl_peaks){0};
  return status;
}

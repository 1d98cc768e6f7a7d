// SPDX-License-Identifier: MIT
/* Times the ways by which a group's rows go from device to device, below the public interface:
 *
 *   transport_times [--devices 0:0,0:1] [--transports nvidia_peer,host,nvidia_copy] [--seconds 0.3]
 *                   [--most 256]
 *
 * All members send to all others at once, so many bytes to each, and all wait until what was sent
 * to them is there. Printed for each size: milliseconds of one exchange, of which the host waits
 * for the end ("alone"), and of one of several that are enqueued behind one another ("in a row"),
 * both medians by the host's clock; and the rate of what a member sends in the latter, in GB/s. */
#include "timing.h"
#include "base/base.h"
#include "group/group.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 8, MOST_SAMPLES = 512, IN_A_ROW = 8 };

static const uint64_t sizes[] = {4096,    65536,    512 << 10, UINT64_C(1) << 20,
                                 4 << 20, 16 << 20, 64 << 20,  UINT64_C(256) << 20};

typedef struct bench {
  moecl_context *contexts[MOST];
  moecl_group *group;
  int members;
  uint64_t bytes; /* to each */
  moecl_buffer *source[MOST], *arrival[MOST];
  group_block blocks[MOST * MOST];
  size_t count;
  double seconds;
  uint64_t most;
} bench;

static void must(const char *what, moecl_status status) {
  if (status == MOECL_OK) return;
  fprintf(stderr, "transport_times: %s: %s\n", what, moecl_status_string(status));
  exit(1);
}

/* ---- members and their buffers ---- */

static void open_members(bench *b, char *devices) {
  for (char *rest = NULL, *name = strtok_r(devices, ",", &rest); name;
       name = strtok_r(NULL, ",", &rest)) {
    const moecl_context_params params = {.device = name, .log = timing_log};
    if (b->members == MOST) must("more than eight devices", MOECL_ERROR_INVALID_ARGUMENT);
    must(name, moecl_context_create(&params, &b->contexts[b->members++]));
  }
}

static void make_buffers(bench *b, uint64_t bytes) {
  b->bytes = bytes;
  b->count = 0;
  for (int m = 0; m < b->members; m++) {
    must("memory", group_provide_source(b->group, m, bytes, &b->source[m]));
    must("memory", moecl_buffer_fill_byte(b->source[m], 0, bytes, (uint8_t)(m + 1)));
    must("memory",
         group_provide_arrivals(
             b->group, &(group_arrival){m, bytes * (uint64_t)b->members, &b->arrival[m]}, 1));
  }
  for (int from = 0; from < b->members; from++)
    for (int to = 0; to < b->members; to++)
      if (from != to)
        b->blocks[b->count++] = (group_block){.from = from,
                                              .to = to,
                                              .source = b->source[from],
                                              .destination = b->arrival[to],
                                              .destination_offset = bytes * (uint64_t)from,
                                              .bytes = bytes};
}

static void release_buffers(bench *b) {
  for (int m = 0; m < b->members; m++) {
    group_discard_arrivals(b->group, &b->source[m]);
    group_discard_arrivals(b->group, &b->arrival[m]);
  }
}

/* Has a member the first and the last byte of each other one? */
static void check(const bench *b) {
  for (size_t i = 0; i < b->count; i++) {
    uint8_t ends[2];
    const group_block *block = &b->blocks[i];
    const uint64_t first = block->destination_offset, last = first + block->bytes - 1;
    must("reading", moecl_buffer_read_wait(block->destination, first, 1, &ends[0]));
    must("reading", moecl_buffer_read_wait(block->destination, last, 1, &ends[1]));
    if (ends[0] != block->from + 1 || ends[1] != block->from + 1)
      must("wrong bytes have come", MOECL_ERROR_DEVICE);
  }
}

/* ---- exchanges ---- */

static void see_nothing(group_observer *observer, int member, cl_event event) {
  (void)observer, (void)member, (void)event;
}

/* Milliseconds of one of `count` exchanges. */
static double exchange(bench *b, int count) {
  static group_observer observer = {see_nothing};
  const group_transport *transport = b->group->transport;
  void *state = b->group->state;
  transport->settle(state);
  if (transport->open) transport->open(state);
  const double start = timing_now_ms();
  for (int i = 0; i < count; i++)
    must("exchange", group_exchange(b->group, b->blocks, b->count, i, &observer));
  for (int m = 0; m < b->members; m++) must("waiting", moecl_context_finish_wait(b->contexts[m]));
  return (timing_now_ms() - start) / count;
}

static double time_exchanges(bench *b, int count) {
  double samples[MOST_SAMPLES];
  int taken = 0;
  exchange(b, count);
  for (const double end = timing_now_ms() + 1e3 * b->seconds;
       taken < MOST_SAMPLES && (taken < 3 || timing_now_ms() < end); taken++)
    samples[taken] = exchange(b, count);
  return timing_median(samples, taken);
}

static void time_size(bench *b, uint64_t bytes) {
  make_buffers(b, bytes);
  const double alone = time_exchanges(b, 1), row = time_exchanges(b, IN_A_ROW);
  check(b);
  printf("%-12s %9llu KiB to each of %d  alone %9.4f ms  in a row %9.4f ms %7.1f GB/s\n",
         moecl_group_transport(b->group), (unsigned long long)bytes >> 10, b->members - 1, alone,
         row, (double)bytes * (b->members - 1) / row * 1e-6);
  fflush(stdout);
  release_buffers(b);
}

static void time_transport(bench *b, const char *name) {
  const moecl_group_params params = {.transport = name};
  const moecl_status status =
      moecl_group_create(b->contexts, (size_t)b->members, &params, &b->group);
  if (status != MOECL_OK) return; /* the log says why */
  for (size_t i = 0; i < BASE_COUNT(sizes) && sizes[i] <= b->most; i++) time_size(b, sizes[i]);
  moecl_group_destroy(&b->group);
}

/* ---- pinned memory ---- */

enum { PINNED_BYTES = 64 << 20 };

static double copy_pinned(bench *b, ocl_pinned *down, ocl_pinned *up) {
  const double start = timing_now_ms();
  for (int m = 0; m < b->members; m++) {
    group_device *device = &b->group->device[m];
    cl_event done;
    must("down",
         ocl_lane_read(&device->out, b->source[m], 0, PINNED_BYTES, down[m].host, NULL, &done));
    ocl_event_let_go(&done);
    must("up",
         ocl_lane_write(&device->in, up[m].host, b->arrival[m], 0, PINNED_BYTES, NULL, &done));
    ocl_event_let_go(&done);
  }
  for (int m = 0; m < b->members; m++) {
    must("waiting", ocl_lane_finish(&b->group->device[m].out));
    must("waiting", ocl_lane_finish(&b->group->device[m].in));
  }
  return timing_now_ms() - start;
}

static void time_pinned(bench *b) {
  enum { SAMPLES = 7 };
  const moecl_group_params by_host = {.transport = "host"};
  ocl_pinned down[MOST] = {0}, up[MOST] = {0};
  double samples[SAMPLES];
  must("group", moecl_group_create(b->contexts, (size_t)b->members, &by_host, &b->group));
  make_buffers(b, PINNED_BYTES);
  for (int m = 0; m < b->members; m++) {
    must("pinned", ocl_pinned_create(&b->group->device[m].out, PINNED_BYTES, &down[m]));
    must("pinned", ocl_pinned_create(&b->group->device[m].in, PINNED_BYTES, &up[m]));
    must("waiting", moecl_context_finish_wait(b->contexts[m]));
  }
  copy_pinned(b, down, up);
  for (int i = 0; i < SAMPLES; i++) samples[i] = copy_pinned(b, down, up);
  const double ms = timing_median(samples, SAMPLES);
  printf("pinned       %9d KiB down and up of each of %d at once %9.4f ms %7.1f GB/s\n",
         PINNED_BYTES >> 10, b->members, ms, PINNED_BYTES / ms * 1e-6);
  for (int m = 0; m < b->members; m++) {
    ocl_pinned_release(&down[m]);
    ocl_pinned_release(&up[m]);
  }
  release_buffers(b);
  moecl_group_destroy(&b->group);
}

int main(int argc, char **argv) {
  static const struct option options[] = {{"devices", required_argument, NULL, 'd'},
                                          {"transports", required_argument, NULL, 't'},
                                          {"seconds", required_argument, NULL, 's'},
                                          {"most", required_argument, NULL, 'm'},
                                          {NULL, 0, NULL, 0}};
  char devices[256] = "0:0,0:1", transports[256] = "nvidia_peer,host,nvidia_copy";
  bench b = {.seconds = 0.3, .most = UINT64_MAX};
  for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (c == 'd') snprintf(devices, sizeof devices, "%s", optarg);
    else if (c == 't') snprintf(transports, sizeof transports, "%s", optarg);
    else if (c == 's') b.seconds = atof(optarg);
    else if (c == 'm') b.most = strtoull(optarg, NULL, 10) << 20;
    else return 2;
  }
  open_members(&b, devices);
  for (char *rest = NULL, *name = strtok_r(transports, ",", &rest); name;
       name = strtok_r(NULL, ",", &rest))
    time_transport(&b, name);
  time_pinned(&b);
  for (int m = 0; m < b.members; m++) moecl_context_destroy(&b.contexts[m]);
  return 0;
}

// SPDX-License-Identifier: MIT
/* moectl peak: what the device does at most, measured and kept. */
#include "cli/moectl.h"
#include "results/peaks.h"
#include <stdio.h>
#include <stdlib.h>

static void print_rate(const char *name, double value, double unit, const char *of,
                       const char *note) {
  printf("  %-22s ", name);
  if (value > 0) printf("%10.4g %-8s %s\n", value / unit, of, note);
  else printf("%10s %-8s %s\n", "-", "", note);
}

static void print_peaks(const moecl_device_info *device, const moecl_peaks *p) {
  char arrays[64];
  snprintf(arrays, sizeof arrays, "arrays of %.4g MiB", (double)p->array_bytes / (1 << 20));
  printf("%d:%d  %s, driver %s\n", device->platform_index, device->device_index, device->name,
         device->driver);
  print_rate("fp32 multiply-add", p->flops_f32, 1e9, "GFLOP/s", "in registers");
  print_rate("fp16 multiply-add", p->flops_f16, 1e9, "GFLOP/s",
             p->flops_f16 > 0 ? "in registers" : "no fp16 arithmetic");
  print_rate("matrix units", p->flops_matrix, 1e9, "GFLOP/s",
             p->flops_matrix > 0 ? "16-bit numbers, fp32 sums" : "no variant uses them here");
  print_rate("memory, read", p->read_bytes, 1e9, "GB/s", arrays);
  print_rate("memory, copied", p->copy_bytes, 1e9, "GB/s", "reads and writes together");
  print_rate("host to device", p->to_device_bytes, 1e9, "GB/s", "");
  print_rate("device to host", p->from_device_bytes, 1e9, "GB/s", "");
  print_rate("launch, of many", p->launch_seconds, 1e-6, "us", "");
  print_rate("launch and wait", p->wait_seconds, 1e-6, "us", "one, from idle");
}

static int print_json(const moecl_context *context, const device_peaks *peaks) {
  char *text = peaks_text(context, peaks);
  if (!text) {
    complain("no memory");
    return EXIT_POINT_FAILED;
  }
  puts(text);
  free(text);
  return EXIT_ALL_OK;
}

int command_peak(const options *options) {
  moecl_context *context = NULL;
  device_peaks peaks = {0}, best;
  char *error = NULL;
  int code = open_context(options, options->device, &context);
  if (code != EXIT_ALL_OK) return code;
  const moecl_status status = peaks_measure(context, &peaks);
  if (status != MOECL_OK) {
    complain("the device's peaks could not be measured: %s", moecl_status_string(status));
    code = EXIT_POINT_FAILED;
  } else if (options->json) code = print_json(context, &peaks);
  else print_peaks(moecl_context_device(context), &peaks.rates);
  /* A peak is the most that was ever seen: some other program may have been at work now. */
  const device_peaks kept = peaks_load(context);
  best = peaks;
  if (code == EXIT_ALL_OK && peaks_keep_best(&best, &kept))
    complain("what was better %s stays kept: reports hold times against the best of both",
             kept.measured);
  if (code == EXIT_ALL_OK && !peaks_save(context, &best, &error))
    put_message("moectl: warning: the peaks are not kept: ", error ? error : "no memory");
  free(error);
  moecl_context_destroy(&context);
  return code;
}

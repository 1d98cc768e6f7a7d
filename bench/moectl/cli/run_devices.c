// SPDX-License-Identifier: MIT
#include "cli/run_devices.h"
#include "base/files.h"
#include "cli/interrupt.h"
#include "cli/moectl.h"
#include "report/compare.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A device to run on, and what came of it. */
typedef struct device_run {
  int platform, device;
  const moecl_device_info *info; /* the list's */
  char *folder;
  bool ran;
  int code;
} device_run;

typedef struct device_runs {
  moecl_device_info *devices; /* all there are */
  size_t num_devices;
  device_run *list;
  size_t count;
} device_runs;

/* Reads "1:0" and goes past it; false: it does not begin so. */
static bool read_place(const char **text, int *platform, int *device) {
  int length = 0;
  const bool ok = **text >= '0' && **text <= '9' &&
                  sscanf(*text, "%4d:%4d%n", platform, device, &length) == 2 &&
                  strchr(*text, ':')[1] >= '0' && strchr(*text, ':')[1] <= '9';
  if (ok) *text += length;
  return ok;
}

bool devices_are_several(const char *device) {
  int platform, number;
  if (!device) return false;
  if (strcmp(device, "all") == 0) return true;
  size_t count = 0;
  for (const char *at = device; read_place(&at, &platform, &number); at++) {
    count++;
    if (*at == '\0') return count > 1;
    if (*at != ',') return false;
  }
  return false;
}

/* ---- which ---- */

static const moecl_device_info *find_device(const device_runs *runs, int platform, int device) {
  for (size_t i = 0; i < runs->num_devices; i++)
    if (runs->devices[i].platform_index == platform && runs->devices[i].device_index == device)
      return &runs->devices[i];
  return NULL;
}

/* Complained about: it is not there, or twice in the list. */
static int choose(device_runs *runs, int platform, int device, const char *folder) {
  const moecl_device_info *info = find_device(runs, platform, device);
  if (!info) {
    complain("--device: there is no device %d:%d; see 'moectl devices'", platform, device);
    return EXIT_NO_DEVICE;
  }
  for (size_t i = 0; i < runs->count; i++)
    if (runs->list[i].info == info) {
      complain("--device: %d:%d is named twice", platform, device);
      return EXIT_USAGE;
    }
  runs->list[runs->count++] =
      (device_run){.platform = platform,
                   .device = device,
                   .info = info,
                   .folder = format_text("%s/device-%d-%d", folder, platform, device)};
  return EXIT_ALL_OK;
}

static int choose_all(device_runs *runs, const char *devices, const char *folder) {
  int platform, device, code = EXIT_ALL_OK;
  if (strcmp(devices, "all") == 0) {
    for (size_t i = 0; i < runs->num_devices && code == EXIT_ALL_OK; i++)
      code = choose(runs, runs->devices[i].platform_index, runs->devices[i].device_index, folder);
    return code;
  }
  for (const char *at = devices; code == EXIT_ALL_OK && read_place(&at, &platform, &device); at++) {
    code = choose(runs, platform, device, folder);
    if (*at == '\0') break;
  }
  return code;
}

/* Returns an exit code; failures have printed a message. */
static int find_devices(device_runs *runs, const char *devices, const char *folder) {
  if (moecl_devices_list(&runs->devices, &runs->num_devices) != MOECL_OK) {
    complain("the OpenCL devices could not be listed");
    return EXIT_NO_DEVICE;
  }
  if (strcmp(devices, "all") == 0 || runs->num_devices == 0) explain_devices(runs->num_devices);
  runs->list = calloc(runs->num_devices + 1, sizeof *runs->list);
  if (runs->num_devices == 0) return EXIT_NO_DEVICE; /* reported */
  if (runs->list) return choose_all(runs, devices, folder);
  complain("no memory");
  return EXIT_POINT_FAILED;
}

/* ---- folders ---- */

static bool has_results(const char *folder) {
  char *path = format_text("%s/results.json", folder);
  const bool found = path && access(path, F_OK) == 0;
  free(path);
  return found;
}

/* Refuses folders that already hold results, unless resuming. */
static bool prepare_folders(const device_runs *runs, const char *folder, bool resumes) {
  char *error = NULL;
  for (size_t i = 0; i < runs->count; i++) {
    if (!runs->list[i].folder) fail_text(&error, "no memory");
    else if (!resumes && has_results(runs->list[i].folder))
      fail_text(&error,
                "%s already holds results; go on with them with --resume, or choose "
                "another folder with --out",
                runs->list[i].folder);
  }
  if (!error) make_directories(folder, &error);
  if (error) complain("%s", error);
  const bool ok = error == NULL;
  free(error);
  return ok;
}

/* ---- running ---- */

static void run_one(device_run *one, bool resumes, run_on_fn run, void *user) {
  char place[32];
  snprintf(place, sizeof place, "%d:%d", one->platform, one->device);
  printf("device %s: %s (%s)\n", place, one->info->name, one->info->platform);
  fflush(stdout);
  one->code = run(user, place, one->folder, resumes && has_results(one->folder), &one->ran);
  if (!one->ran) printf("left out: it did not run\n");
  putchar('\n');
}

/* The first that ran without a failure is the baseline, then the others in their order. Returns
 * EXIT_POINT_FAILED where results could not be read, compared or written. */
static int compare_devices(const device_runs *runs, const char *folder) {
  measured_run results[MOST_RUNS];
  size_t count = 0, baseline = 0;
  bool all_read = true;
  char *error = NULL;
  while (baseline < runs->count &&
         !(runs->list[baseline].ran && runs->list[baseline].code == EXIT_ALL_OK))
    baseline++;
  for (size_t n = 0; n <= runs->count && count < MOST_RUNS; n++) {
    const size_t i = n == 0 ? baseline : n - 1; /* it comes first, and not again */
    if (i >= runs->count || (n > 0 && i == baseline) || !runs->list[i].ran) continue;
    const bool is_read = measured_load(runs->list[i].folder, &results[count], &error);
    if (is_read) count++;
    else complain("%s", error ? error : "no memory");
    all_read = all_read && is_read;
    free(error);
    error = NULL;
  }
  const int code = count > 1 ? compare_and_print(results, count, folder, NAN) : EXIT_ALL_OK;
  if (runs->count > MOST_RUNS) complain("the first %d devices are compared", MOST_RUNS);
  if (count == 1) printf("one device ran: there is nothing to compare\n");
  for (size_t i = 0; i < count; i++) measured_release(&results[i]);
  return code == EXIT_ALL_OK && all_read ? EXIT_ALL_OK : EXIT_POINT_FAILED;
}

/* The worst code of those that ran; where none did, the first one's. */
static int sum_up(const device_runs *runs) {
  int code = EXIT_ALL_OK;
  size_t ran = 0;
  for (size_t i = 0; i < runs->count; i++) {
    const device_run *one = &runs->list[i];
    ran += one->ran;
    if (one->ran && one->code > code) code = one->code;
    if (!one->ran && one->code != EXIT_ALL_OK)
      complain("left out: device %d:%d, %s (%s)", one->platform, one->device, one->info->name,
               one->info->platform);
  }
  return ran > 0 ? code : runs->list[0].code;
}

int run_on_each(const char *devices, const char *folder, bool resumes, run_on_fn run, void *user) {
  device_runs runs = {0};
  int code = find_devices(&runs, devices, folder);
  if (code == EXIT_ALL_OK && !prepare_folders(&runs, folder, resumes)) code = EXIT_USAGE;
  if (code == EXIT_ALL_OK) {
    for (size_t i = 0; i < runs.count && !interrupt_came; i++)
      run_one(&runs.list[i], resumes, run, user);
    const int compared = interrupt_came ? EXIT_POINT_FAILED : compare_devices(&runs, folder);
    code = sum_up(&runs);
    if (code == EXIT_ALL_OK) code = compared;
  }
  for (size_t i = 0; i < runs.count; i++) free(runs.list[i].folder);
  free(runs.list);
  moecl_devices_destroy(&runs.devices);
  return code;
}

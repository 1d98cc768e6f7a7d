// SPDX-License-Identifier: MIT
#include "results/peaks.h"
#include "base/files.h"
#include "base/json_text.h"
#include <ctype.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  size_t offset;
} rates[] = {{"flops_f32", offsetof(moecl_peaks, flops_f32)},
             {"flops_f16", offsetof(moecl_peaks, flops_f16)},
             {"flops_matrix", offsetof(moecl_peaks, flops_matrix)},
             {"read_bytes_per_s", offsetof(moecl_peaks, read_bytes)},
             {"copy_bytes_per_s", offsetof(moecl_peaks, copy_bytes)},
             {"to_device_bytes_per_s", offsetof(moecl_peaks, to_device_bytes)},
             {"from_device_bytes_per_s", offsetof(moecl_peaks, from_device_bytes)},
             {"launch_seconds", offsetof(moecl_peaks, launch_seconds)},
             {"wait_seconds", offsetof(moecl_peaks, wait_seconds)}};
enum { RATES = sizeof rates / sizeof rates[0] };

static double *rate_of(moecl_peaks *peaks, int i) {
  return (double *)((char *)peaks + rates[i].offset);
}

static bool is_matrix(int i) { return rates[i].offset == offsetof(moecl_peaks, flops_matrix); }

/* Is it one that a device may have? Only fp16 and matrix units may be missing. */
static bool is_rate(const json_t *value, int i) {
  const double number = json_number_value(value);
  const bool may_lack = rates[i].offset == offsetof(moecl_peaks, flops_f16) || is_matrix(i);
  return json_is_number(value) && (number > 0 || (number == 0 && may_lack));
}

moecl_status peaks_measure(moecl_context *context, device_peaks *peaks) {
  *peaks = (device_peaks){0};
  const moecl_status status = moecl_measure_peaks_wait(context, &peaks->rates);
  if (status != MOECL_OK) *peaks = (device_peaks){0};
  else if (!time_stamp(peaks->measured)) strcpy(peaks->measured, "at an unknown time");
  return status;
}

json_t *peaks_json(const device_peaks *peaks) {
  if (!peaks->measured[0]) return json_null();
  json_t *json = json_pack("{s:s}", "measured", peaks->measured);
  bool ok = json != NULL;
  for (int i = 0; ok && i < RATES; i++) {
    moecl_peaks values = peaks->rates;
    ok = json_object_set_new(json, rates[i].name, json_real(*rate_of(&values, i))) == 0;
  }
  if (ok)
    ok = json_object_set_new(json, "array_bytes",
                             json_integer((json_int_t)peaks->rates.array_bytes)) == 0;
  if (ok) return json;
  json_decref(json);
  return NULL;
}

device_peaks peaks_of_json(const json_t *json) {
  device_peaks peaks = {0};
  const char *measured = json_string_value(json_object_get(json, "measured"));
  const json_t *array = json_object_get(json, "array_bytes");
  if (!measured || strlen(measured) >= sizeof peaks.measured || !json_is_integer(array))
    return peaks;
  for (int i = 0; i < RATES; i++) {
    const json_t *value = json_object_get(json, rates[i].name);
    if (!value && is_matrix(i)) continue; /* of an earlier version */
    if (!is_rate(value, i)) return (device_peaks){0};
    *rate_of(&peaks.rates, i) = json_number_value(value);
  }
  peaks.rates.array_bytes = (uint64_t)json_integer_value(array);
  memcpy(peaks.measured, measured, strlen(measured) + 1);
  return peaks;
}

/* ---- kept ---- */

/* peaks-NAME.json, of the device's name alone: which driver and version measured is inside. NULL:
 * there is no place. */
static char *path_of(const moecl_context *context) {
  const char *folder = moecl_context_cache_dir(context);
  if (!folder) return NULL;
  char *path = format_text("%s/peaks-%s.json", folder, moecl_context_device(context)->name);
  for (char *c = path ? path + strlen(folder) + 1 : NULL; c && *c; c++)
    if (!isalnum((unsigned char)*c) && *c != '.' && *c != '-') *c = '-';
  return path;
}

static bool same_words(const json_t *json, const char *key, const char *value) {
  json_t *words = json_words(value);
  const bool same = words && json_equal(json_object_get(json, key), words);
  json_decref(words);
  return same;
}

device_peaks peaks_load(const moecl_context *context) {
  const moecl_device_info *device = moecl_context_device(context);
  char *path = path_of(context);
  json_t *json = path ? json_load_file(path, 0, NULL) : NULL;
  const bool ours = json && same_words(json, "device", device->name) &&
                    same_words(json, "platform", device->platform) &&
                    same_words(json, "driver", device->driver) &&
                    same_words(json, "moecl", moecl_version());
  const device_peaks peaks =
      ours ? peaks_of_json(json_object_get(json, "peaks")) : (device_peaks){0};
  json_decref(json);
  free(path);
  return peaks;
}

char *peaks_text(const moecl_context *context, const device_peaks *peaks) {
  const moecl_device_info *device = moecl_context_device(context);
  json_t *json =
      json_pack("{s:o, s:o, s:o, s:s, s:o}", "device", json_words(device->name), "platform",
                json_words(device->platform), "driver", json_words(device->driver), "moecl",
                moecl_version(), "peaks", peaks_json(peaks));
  char *text = json ? json_text(json, 2) : NULL;
  json_decref(json);
  return text;
}

/* Of seconds the fewest, of rates the most. */
static bool is_better(int i, double a, double b) {
  const bool seconds = rates[i].offset == offsetof(moecl_peaks, launch_seconds) ||
                       rates[i].offset == offsetof(moecl_peaks, wait_seconds);
  return seconds ? a < b : a > b;
}

bool peaks_keep_best(device_peaks *peaks, const device_peaks *kept) {
  bool any = false;
  if (!kept->measured[0]) return false;
  for (int i = 0; i < RATES; i++) {
    moecl_peaks before = kept->rates;
    const double was = *rate_of(&before, i);
    double *now = rate_of(&peaks->rates, i);
    if (!is_better(i, was, *now)) continue;
    *now = was;
    any = true;
  }
  return any;
}

bool peaks_save(const moecl_context *context, const device_peaks *peaks, char **error) {
  char *path = path_of(context);
  if (!path) return fail_text(error, "there is no folder to keep them in: set MOECL_CACHE_DIR");
  char *text = peaks_text(context, peaks);
  const bool ok = text ? make_directories(moecl_context_cache_dir(context), error) &&
                             replace_file(path, text, strlen(text), error)
                       : fail_text(error, "no memory");
  free(text);
  free(path);
  return ok;
}

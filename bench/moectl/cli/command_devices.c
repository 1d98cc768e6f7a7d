// SPDX-License-Identifier: MIT
/* moectl devices: what there is, and what each device can do. Each device is
 * opened, since some capabilities show only by running a probe. */
#include "cli/moectl.h"
#include "base/wrap.h"
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = 16 };

typedef struct device_row {
  moecl_device_info info;
  bool opened;
  const char *variants[MAX_NAMES];
  size_t num_variants;
} device_row;

/* The variants of one more format join the others, in an order that is each format's too. */
static void add_variants(moecl_context *context, moecl_format format, device_row *row) {
  const char *names[MAX_NAMES];
  const size_t found = moecl_variants_for_format(context, "grouped_gemm", format, names, MAX_NAMES);
  size_t place = 0; /* behind the format's latest */
  for (size_t i = 0; i < found && i < MAX_NAMES; i++) {
    size_t at = 0;
    while (at < row->num_variants && strcmp(row->variants[at], names[i]) != 0) at++;
    if (at == row->num_variants && row->num_variants < MAX_NAMES) {
      at = place;
      memmove(&row->variants[at + 1], &row->variants[at],
              (row->num_variants++ - at) * sizeof *row->variants);
      row->variants[at] = names[i];
    }
    place = at + 1;
  }
}

static device_row probe(const options *options, const moecl_device_info *info) {
  device_row row = {.info = *info};
  char choice[32];
  snprintf(choice, sizeof choice, "%d:%d", info->platform_index, info->device_index);
  moecl_context *context;
  const moecl_context_params params = {
      .device = choice, .log = log_to_stderr, .log_user = (void *)options};
  if (moecl_context_create(&params, &context) != MOECL_OK) return row;
  row.opened = true;
  row.info = *moecl_context_device(context);
  for (int format = MOECL_FORMAT_DTYPE + 1; format < MOECL_FORMAT_COUNT; format++)
    add_variants(context, (moecl_format)format, &row);
  moecl_context_destroy(&context);
  return row;
}

static const char *matrix_capability(const device_row *row) {
  if (row->info.capabilities & MOECL_CAP_PTX_SM90A) return "wgmma (PTX)";
  if (row->info.capabilities & MOECL_CAP_MFMA) return "MFMA";
  if (row->info.capabilities & MOECL_CAP_WMMA) return "WMMA";
  if (row->info.capabilities & MOECL_CAP_SUBGROUP_MATRIX_8) return "matrix_mad (sub-groups of 8)";
  if (row->info.capabilities & MOECL_CAP_SUBGROUP_MATRIX_16) return "matrix_mad (sub-groups of 16)";
  if (row->info.capabilities & MOECL_CAP_PTX_SM80) return "mma.sync (PTX)";
  if (row->info.capabilities & MOECL_CAP_AMX_BF16) return "tiles (AMX)";
  return row->info.capabilities & MOECL_CAP_AVX512_BF16 ? "vdpbf16ps (AVX-512)" : "none";
}

static json_t *row_json(const device_row *row) {
  const moecl_device_info *d = &row->info;
  json_t *variants = json_array();
  for (size_t i = 0; i < row->num_variants; i++)
    json_array_append_new(variants, json_string(row->variants[i]));
  return json_pack(
      "{s:i, s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, "
      "s:I, s:b, s:s, s:b, s:o}",
      "platform_index", d->platform_index, "device_index", d->device_index, "type",
      moecl_device_type_name(d->type), "platform", d->platform, "name", d->name, "vendor",
      d->vendor, "driver", d->driver, "opencl_version", d->opencl_version, "opencl_c_version",
      d->opencl_c_version, "compute_units", (json_int_t)d->compute_units, "clock_mhz",
      (json_int_t)d->clock_mhz, "global_memory_bytes", (json_int_t)d->global_memory_bytes,
      "max_allocation_bytes", (json_int_t)d->max_allocation_bytes, "local_memory_bytes",
      (json_int_t)d->local_memory_bytes, "local_memory_dedicated", d->local_memory_dedicated,
      "max_work_group_size", (json_int_t)d->max_work_group_size, "native_vector_width_float",
      (json_int_t)d->native_vector_width_float, "subgroup_size", (json_int_t)d->subgroup_size,
      "fp16", d->fp16, "matrix", matrix_capability(row), "usable", row->opened,
      "grouped_gemm_variants", variants);
}

/* "     memory      12.5 GiB", wrapped. */
__attribute__((format(printf, 2, 3))) static void print_fact(const char *name, const char *format,
                                                             ...) {
  enum { LEFT = 5, SECOND = 19 };
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  const int at = printf("%*s%s", LEFT, "", name);
  wrap_from(stdout, text, at, SECOND, TEXT_WIDTH);
}

static void print_device(const device_row *row) {
  const moecl_device_info *d = &row->info;
  char text[512], memory[32], largest[32], local[32];
  snprintf(text, sizeof text, "%s: %s", moecl_device_type_name(d->type), d->name);
  int at = printf("%d:%d", d->platform_index, d->device_index);
  wrap_from(stdout, text, at, 5, TEXT_WIDTH);
  print_fact("platform", "%s, driver %s", d->platform, d->driver);
  print_fact("compiler", "%s", d->opencl_c_version);
  print_fact("memory", "%s, in one buffer %s, as the driver states them",
             bytes_text(d->global_memory_bytes, memory),
             bytes_text(d->max_allocation_bytes, largest));
  print_fact("local", "%s a work-group%s", bytes_text(d->local_memory_bytes, local),
             d->local_memory_dedicated ? "" : " (cache)");
  if (d->subgroup_size) snprintf(text, sizeof text, "of %u", d->subgroup_size);
  else snprintf(text, sizeof text, "none");
  print_fact("sub-groups", "%s; fp16 arithmetic: %s; matrix units: %s", text,
             d->fp16 ? "yes" : "no", matrix_capability(row));
  text[0] = '\0';
  for (size_t i = 0, used = 0; i < row->num_variants && used < sizeof text; i++)
    used +=
        (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? ", " : "", row->variants[i]);
  if (row->opened) print_fact("grouped GEMM", "%s (best last)", text);
  else print_fact("grouped GEMM", "none: it could not be opened");
}

static bool print_json(const device_row *devices, size_t count) {
  json_t *list = json_array();
  for (size_t i = 0; i < count; i++) json_array_append_new(list, row_json(&devices[i]));
  /* Output that could not be written is reported at the end, as for every command. */
  const bool ok = json_array_size(list) == count &&
                  (json_dumpf(list, stdout, JSON_INDENT(2)) == 0 || ferror(stdout));
  putchar('\n');
  json_decref(list);
  return ok;
}

void explain_devices(size_t count) {
  const size_t size = moecl_devices_explain(NULL, 0) + 1;
  char *text = malloc(size);
  if (text) moecl_devices_explain(text, size);
  if (count == 0)
    complain("there is no OpenCL device; see 'moectl help devices'\n%s", text ? text : "");
  else if (text && *text) complain("not all that is registered gives devices:\n%s", text);
  free(text);
  if (count == 0) hint_no_device();
}

int command_devices(const options *options) {
  moecl_device_info *devices;
  size_t count, chosen;
  if (moecl_devices_list(&devices, &count) != MOECL_OK) {
    complain("the OpenCL devices could not be listed");
    return EXIT_NO_DEVICE;
  }
  device_row *rows = calloc(count + 1, sizeof *rows);
  bool ok = rows != NULL;
  for (size_t i = 0; ok && i < count; i++) rows[i] = probe(options, &devices[i]);
  if (ok && options->json) ok = print_json(rows, count);
  for (size_t i = 0; ok && !options->json && i < count; i++) print_device(&rows[i]);
  if (!ok) complain("no memory");
  if (!options->json &&
      moecl_device_choose(devices, count, getenv("MOECL_DEVICE"), &chosen) == MOECL_OK)
    printf("auto means %d:%d\n", devices[chosen].platform_index, devices[chosen].device_index);
  free(rows);
  moecl_devices_destroy(&devices);
  explain_devices(count);
  return count == 0 ? EXIT_NO_DEVICE : ok ? EXIT_ALL_OK : EXIT_POINT_FAILED;
}

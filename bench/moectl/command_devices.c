/* moectl devices: what there is, and what each device can do. Each device is
 * opened, since some capabilities show only by running a probe. */
#include "moectl.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_NAMES = 16 };

typedef struct device_row {
  moecl_device_info info;
  bool opened;
  const char *variants[MAX_NAMES];
  size_t num_variants;
} device_row;

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
  const size_t count = moecl_variants_available(context, "grouped_gemm", MOECL_BF16, row.variants,
                                                MAX_NAMES);
  row.num_variants = count < MAX_NAMES ? count : MAX_NAMES;
  moecl_context_destroy(&context);
  return row;
}

static const char *matrix_capability(const device_row *row) {
  return row->info.capabilities & MOECL_CAP_PTX_SM80 ? "mma.sync (PTX)" : "none";
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

static void print_row(const device_row *row) {
  const moecl_device_info *d = &row->info;
  printf("%d:%d  %s  %s\n", d->platform_index, d->device_index, moecl_device_type_name(d->type),
         d->name);
  printf("     platform %s, driver %s, %s\n", d->platform, d->driver, d->opencl_c_version);
  printf("     memory %.1f GiB, largest allocation %.1f GiB, local %.0f KiB%s\n",
         (double)d->global_memory_bytes / (1u << 30), (double)d->max_allocation_bytes / (1u << 30),
         (double)d->local_memory_bytes / 1024, d->local_memory_dedicated ? "" : " (in caches)");
  printf("     %u compute units, fp32 vectors of %u, sub-groups ", d->compute_units,
         d->native_vector_width_float);
  if (d->subgroup_size) printf("of %u", d->subgroup_size);
  else printf("none");
  printf(", fp16 arithmetic %s, matrix units %s\n", d->fp16 ? "yes" : "no",
         matrix_capability(row));
  printf("     grouped GEMM variants (best last): ");
  for (size_t i = 0; i < row->num_variants; i++)
    printf("%s%s", i ? ", " : "", row->variants[i]);
  printf("%s\n", row->opened ? "" : "none: the device could not be opened");
}

int command_devices(const options *options) {
  moecl_device_info *devices;
  size_t count;
  if (moecl_devices_list(&devices, &count) != MOECL_OK) {
    complain("the OpenCL devices could not be listed");
    return EXIT_NO_DEVICE;
  }
  json_t *list = json_array();
  for (size_t i = 0; i < count; i++) {
    const device_row row = probe(options, &devices[i]);
    if (options->json) json_array_append_new(list, row_json(&row));
    else print_row(&row);
  }
  if (options->json) {
    json_dumpf(list, stdout, JSON_INDENT(2));
    putchar('\n');
  } else if (count > 0) {
    size_t chosen;
    if (moecl_device_choose(devices, count, NULL, &chosen) == MOECL_OK)
      printf("auto means %d:%d\n", devices[chosen].platform_index, devices[chosen].device_index);
  }
  json_decref(list);
  moecl_devices_destroy(&devices);
  if (count == 0) complain("there is no OpenCL device; see 'moectl help devices'");
  return count ? EXIT_ALL_OK : EXIT_NO_DEVICE;
}

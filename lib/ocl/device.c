// SPDX-License-Identifier: MIT
#include "ocl/program.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Values of optional extensions that cl.h does not have everywhere. */
#define DEVICE_SUB_GROUP_SIZES_INTEL 0x4108
#define DEVICE_WAVEFRONT_WIDTH_AMD 0x4043
#define DEVICE_WARP_SIZE_NV 0x4003

void moecl_devices_destroy(moecl_device_info **devices) {
  if (!devices) return;
  free(*devices);
  *devices = NULL;
}

const char *moecl_device_type_name(moecl_device_type type) {
  switch (type) {
  case MOECL_DEVICE_GPU: return "GPU";
  case MOECL_DEVICE_ACCELERATOR: return "accelerator";
  case MOECL_DEVICE_CPU: return "CPU";
  default: return "other";
  }
}

/* A number the device will not tell is 0. */
static void query(cl_device_id device, cl_device_info what, void *value, size_t size) {
  if (clGetDeviceInfo(device, what, size, value, NULL) != CL_SUCCESS) memset(value, 0, size);
}

/* Text of any length into a fixed field, cut there; always terminated. */
static void query_text(cl_device_id device, cl_device_info what, char *text, size_t size) {
  size_t need = 0;
  text[0] = '\0';
  if (clGetDeviceInfo(device, what, 0, NULL, &need) != CL_SUCCESS || need == 0) return;
  char *all = calloc(need + 1, 1);
  if (!all) return;
  if (clGetDeviceInfo(device, what, need, all, NULL) == CL_SUCCESS) {
    const char *start = all; /* some drivers pad names with leading blanks */
    while (base_is_space(*start)) start++;
    snprintf(text, size, "%s", start);
    for (size_t n = strlen(text); n > 0 && base_is_space(text[n - 1]); n--) text[n - 1] = '\0';
  }
  free(all);
}

bool ocl_device_has(cl_device_id device, const char *extension) {
  size_t need = 0;
  bool found = false;
  if (clGetDeviceInfo(device, CL_DEVICE_EXTENSIONS, 0, NULL, &need) != CL_SUCCESS) return false;
  char *all = calloc(need + 1, 1);
  if (!all) return false;
  if (clGetDeviceInfo(device, CL_DEVICE_EXTENSIONS, need, all, NULL) == CL_SUCCESS) {
    char *rest = NULL;
    for (char *word = strtok_r(all, " ", &rest); word && !found; word = strtok_r(NULL, " ", &rest))
      found = strcmp(word, extension) == 0;
  }
  free(all);
  return found;
}

/* The sizes that a kernel may require of its sub-groups; how many there are. */
enum { MOST_SIZES = 16 };
static size_t query_required_sizes(cl_device_id device, size_t *sizes) {
  size_t bytes = 0;
  if (!ocl_device_has(device, "cl_intel_required_subgroup_size") ||
      clGetDeviceInfo(device, DEVICE_SUB_GROUP_SIZES_INTEL, MOST_SIZES * sizeof *sizes, sizes,
                      &bytes) != CL_SUCCESS)
    return 0;
  return bytes / sizeof *sizes;
}

uint32_t ocl_least_subgroup(cl_device_id device) {
  size_t sizes[MOST_SIZES], least = 0;
  const size_t count = query_required_sizes(device, sizes);
  for (size_t i = 0; i < count; i++)
    if (i == 0 || sizes[i] < least) least = sizes[i];
  return (uint32_t)least;
}

/* The largest sub-group the device forms; what a kernel gets is the
 * compiler's choice among the sizes. */
static uint32_t query_subgroup_size(cl_device_id device) {
  size_t sizes[MOST_SIZES];
  const size_t count = query_required_sizes(device, sizes);
  cl_uint width = 0;
  if (count > 0) {
    for (size_t i = 0; i < count; i++)
      if (sizes[i] > width) width = (cl_uint)sizes[i];
  } else if (ocl_device_has(device, "cl_amd_device_attribute_query")) {
    query(device, DEVICE_WAVEFRONT_WIDTH_AMD, &width, sizeof width);
  } else if (ocl_device_has(device, "cl_nv_device_attribute_query")) {
    query(device, DEVICE_WARP_SIZE_NV, &width, sizeof width);
  }
  return width;
}

static bool has_subgroups(cl_device_id device) {
  cl_uint most = 0;
  if (ocl_device_has(device, "cl_khr_subgroups") || ocl_device_has(device, "cl_intel_subgroups"))
    return true;
  query(device, CL_DEVICE_MAX_NUM_SUB_GROUPS, &most, sizeof most);
  return most > 0;
}

static moecl_device_type convert_type(cl_device_type type) {
  if (type & CL_DEVICE_TYPE_GPU) return MOECL_DEVICE_GPU;
  if (type & CL_DEVICE_TYPE_ACCELERATOR) return MOECL_DEVICE_ACCELERATOR;
  if (type & CL_DEVICE_TYPE_CPU) return MOECL_DEVICE_CPU;
  return MOECL_DEVICE_OTHER;
}

static void query_numbers(cl_device_id device, moecl_device_info *info) {
  cl_uint units, clock, width;
  cl_ulong global, allocation, local;
  size_t group;
  query(device, CL_DEVICE_MAX_COMPUTE_UNITS, &units, sizeof units);
  query(device, CL_DEVICE_MAX_CLOCK_FREQUENCY, &clock, sizeof clock);
  query(device, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, &width, sizeof width);
  query(device, CL_DEVICE_MAX_WORK_GROUP_SIZE, &group, sizeof group);
  query(device, CL_DEVICE_GLOBAL_MEM_SIZE, &global, sizeof global);
  query(device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, &allocation, sizeof allocation);
  query(device, CL_DEVICE_LOCAL_MEM_SIZE, &local, sizeof local);
  info->compute_units = units;
  info->clock_mhz = clock;
  info->native_vector_width_float = width;
  info->max_work_group_size = group;
  info->global_memory_bytes = global;
  info->max_allocation_bytes = allocation;
  info->local_memory_bytes = local;
}

void ocl_device_query(cl_device_id device, moecl_device_info *info) {
  cl_device_type type;
  cl_device_local_mem_type local_type;
  cl_platform_id platform;
  query(device, CL_DEVICE_TYPE, &type, sizeof type);
  query(device, CL_DEVICE_LOCAL_MEM_TYPE, &local_type, sizeof local_type);
  query(device, CL_DEVICE_PLATFORM, &platform, sizeof platform);
  info->type = convert_type(type);
  if (!platform || clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof info->platform,
                                     info->platform, NULL) != CL_SUCCESS)
    info->platform[0] = '\0';
  info->platform[sizeof info->platform - 1] = '\0';
  query_text(device, CL_DEVICE_NAME, info->name, sizeof info->name);
  query_text(device, CL_DEVICE_VENDOR, info->vendor, sizeof info->vendor);
  query_text(device, CL_DRIVER_VERSION, info->driver, sizeof info->driver);
  query_text(device, CL_DEVICE_VERSION, info->opencl_version, sizeof info->opencl_version);
  query_text(device, CL_DEVICE_OPENCL_C_VERSION, info->opencl_c_version,
             sizeof info->opencl_c_version);
  query_numbers(device, info);
  info->local_memory_dedicated = local_type == CL_LOCAL;
  info->fp16 = ocl_device_has(device, "cl_khr_fp16");
  bool subgroups = has_subgroups(device);
  info->subgroup_size = subgroups ? query_subgroup_size(device) : 0;
  info->capabilities = (info->type == MOECL_DEVICE_CPU ? MOECL_CAP_CPU : 0) |
                       (info->local_memory_dedicated ? MOECL_CAP_LOCAL_MEMORY : 0) |
                       (info->fp16 ? MOECL_CAP_FP16 : 0) | (subgroups ? MOECL_CAP_SUBGROUPS : 0);
}

/* The growing list of both halves. */
typedef struct device_list {
  moecl_device_info *infos;
  ocl_found_device *found;
  size_t count;
} device_list;

static moecl_status grow(device_list *list, size_t more) {
  size_t count = list->count + more;
  moecl_device_info *infos = realloc(list->infos, count * sizeof *infos);
  if (infos) list->infos = infos;
  ocl_found_device *found = realloc(list->found, count * sizeof *found);
  if (found) list->found = found;
  return infos && found ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
}

static void passed_over(moecl_context *context, int index, cl_int code) {
  if (context)
    log_write(&context->log, MOECL_LOG_WARNING,
              "platform %d is passed over: clGetDeviceIDs failed: %s (%d)", index,
              ocl_error_name(code), (int)code);
}

/* A platform that has no devices, or whose driver fails, is passed over: the
 * others still serve. */
static moecl_status add_platform(moecl_context *context, device_list *list, cl_platform_id platform,
                                 int index) {
  cl_uint count = 0;
  cl_int code = clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, NULL, &count);
  if (code != CL_SUCCESS && code != CL_DEVICE_NOT_FOUND) passed_over(context, index, code);
  if (code != CL_SUCCESS || count == 0) return MOECL_OK;
  cl_device_id *devices = calloc(count, sizeof *devices);
  if (!devices) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status = MOECL_OK;
  code = clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, count, devices, NULL);
  if (code == CL_SUCCESS) {
    status = grow(list, count);
  } else {
    passed_over(context, index, code);
    count = 0;
  }
  for (cl_uint i = 0; status == MOECL_OK && i < count; i++, list->count++) {
    moecl_device_info *info = &list->infos[list->count];
    memset(info, 0, sizeof *info);
    ocl_device_query(devices[i], info);
    info->platform_index = index;
    info->device_index = (int)i;
    list->found[list->count] = (ocl_found_device){platform, devices[i]};
  }
  free(devices);
  return status;
}

static moecl_status add_all(moecl_context *context, device_list *list) {
  cl_uint count = 0;
  cl_int code = clGetPlatformIDs(0, NULL, &count);
  if (code == OCL_PLATFORM_NOT_FOUND || (code == CL_SUCCESS && count == 0)) return MOECL_OK;
  MOECL_TRY(ocl_check(context, code, "clGetPlatformIDs"));
  cl_platform_id *platforms = calloc(count, sizeof *platforms);
  if (!platforms) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status =
      ocl_check(context, clGetPlatformIDs(count, platforms, NULL), "clGetPlatformIDs");
  for (cl_uint i = 0; status == MOECL_OK && i < count; i++)
    status = add_platform(context, list, platforms[i], (int)i);
  free(platforms);
  return status;
}

moecl_status ocl_devices_find(moecl_context *context, moecl_device_info **infos,
                              ocl_found_device **found, size_t *count) {
  device_list list = {0};
  moecl_status status = add_all(context, &list);
  *infos = NULL;
  *count = 0;
  if (found) *found = NULL;
  if (status != MOECL_OK) {
    free(list.infos);
    free(list.found);
    return status;
  }
  *infos = list.infos;
  *count = list.count;
  if (found) *found = list.found;
  else free(list.found);
  return MOECL_OK;
}

moecl_status moecl_devices_list(moecl_device_info **devices, size_t *count) {
  if (!devices || !count) return MOECL_ERROR_INVALID_ARGUMENT;
  return ocl_devices_find(NULL, devices, NULL, count);
}

static bool contains(const char *text, const char *part) {
  size_t size = strlen(part);
  for (; *text; text++)
    if (base_same_letters(text, part, size)) return true;
  return false;
}

static moecl_status choose_type(const moecl_device_info *devices, size_t count,
                                moecl_device_type type, size_t *chosen) {
  for (size_t i = 0; i < count; i++)
    if (devices[i].type == type) {
      *chosen = i;
      return MOECL_OK;
    }
  return MOECL_ERROR_NO_DEVICE;
}

/* "P:D" and nothing after it. */
static bool parse_place(const char *choice, long *platform, long *device) {
  char *end;
  if (!isdigit((unsigned char)choice[0])) return false;
  *platform = strtol(choice, &end, 10);
  if (*end != ':' || !isdigit((unsigned char)end[1])) return false;
  *device = strtol(end + 1, &end, 10);
  return *end == '\0';
}

moecl_status moecl_device_choose(const moecl_device_info *devices, size_t count, const char *choice,
                                 size_t *chosen) {
  if (!chosen || (!devices && count > 0)) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!choice || !*choice || base_same_letters(choice, "auto", SIZE_MAX)) {
    for (int type = MOECL_DEVICE_GPU; type <= MOECL_DEVICE_OTHER; type++)
      if (choose_type(devices, count, (moecl_device_type)type, chosen) == MOECL_OK) return MOECL_OK;
    return MOECL_ERROR_NO_DEVICE;
  }
  for (int type = MOECL_DEVICE_GPU; type < MOECL_DEVICE_OTHER; type++)
    if (base_same_letters(choice, moecl_device_type_name((moecl_device_type)type), SIZE_MAX))
      return choose_type(devices, count, (moecl_device_type)type, chosen);
  long platform, device;
  bool place = parse_place(choice, &platform, &device);
  for (size_t i = 0; i < count; i++)
    if (place ? devices[i].platform_index == platform && devices[i].device_index == device
              : contains(devices[i].name, choice) || contains(devices[i].platform, choice)) {
      *chosen = i;
      return MOECL_OK;
    }
  return MOECL_ERROR_NO_DEVICE;
}

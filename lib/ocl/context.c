// SPDX-License-Identifier: MIT
#define _GNU_SOURCE /* secure_getenv */
/* clCreateCommandQueue serves every OpenCL version; its successor is missing
 * from 1.x drivers. */
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include "base/parallel.h"
#include "ocl/program.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

moecl_context *ocl_context_retain(moecl_context *context) {
  atomic_fetch_add(&context->references, 1);
  return context;
}

moecl_status ocl_check_owner(const moecl_context *context, const moecl_context *owner,
                             const char *what) {
  if (owner == context) return MOECL_OK;
  return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "%s belongs to another context. Where both have the same cl_context, wrap the "
                   "cl_mem or cl_event in this one (moecl/opencl.h)",
                   what);
}

void moecl_context_destroy(moecl_context **handle) {
  if (!handle || !*handle) return;
  moecl_context *context = *handle;
  *handle = NULL;
  if (atomic_fetch_sub(&context->references, 1) != 1) return;
  ocl_upload_destroy(&context->upload);
  ocl_programs_free(context->programs);
  if (context->queue) clReleaseCommandQueue(context->queue);
  if (context->cl) clReleaseContext(context->cl);
  free(context->kernel_dir);
  free(context->cache_dir);
  free(context);
}

/* "" for an unset variable, and in a program with raised privileges (setuid, file
 * capabilities), where who starts it must not choose what code it runs. */
static const char *environment(const char *name) {
  const char *value = secure_getenv(name);
  return value ? value : "";
}

/* Where the caller, or else the environment, wants binaries; *dir stays NULL
 * where there is no such place. */
static moecl_status choose_cache_dir(const moecl_context_params *params, char **dir) {
  const char *named = secure_getenv("MOECL_CACHE_DIR"); /* set and empty: no place */
  base_text text = {0};
  if (params->disable_cache) return MOECL_OK;
  if (params->cache_dir) base_text_addf(&text, "%s", params->cache_dir);
  else if (named) base_text_addf(&text, "%s", named);
  else if (*environment("XDG_CACHE_HOME"))
    base_text_addf(&text, "%s/moecl", environment("XDG_CACHE_HOME"));
  else if (*environment("HOME")) base_text_addf(&text, "%s/.cache/moecl", environment("HOME"));
  if (text.failed || text.size == 0) {
    base_text_free(&text);
    return text.failed ? MOECL_ERROR_OUT_OF_HOST_MEMORY : MOECL_OK;
  }
  *dir = text.data;
  return MOECL_OK;
}

static moecl_status create_empty(const moecl_context_params *params, moecl_context **handle) {
  moecl_context *context = calloc(1, sizeof *context);
  if (!context) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  atomic_init(&context->references, 1);
  context->log = (moecl_log){params->log, params->log_user, &context->errors};
  *handle = context;
  MOECL_TRY(log_check_reserved(&context->log, "moecl_context_params", params->reserved,
                               BASE_COUNT(params->reserved)));
  MOECL_TRY(choose_cache_dir(params, &context->cache_dir));
  const char *kernel_dir =
      params->kernel_dir ? params->kernel_dir : environment("MOECL_KERNEL_DIR");
  if (!*kernel_dir) return MOECL_OK;
  if (!(context->kernel_dir = strdup(kernel_dir))) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  struct stat info;
  if (stat(kernel_dir, &info) == 0 && S_ISDIR(info.st_mode)) return MOECL_OK;
  return log_error(&context->log, MOECL_ERROR_IO,
                   "the folder of kernel sources '%s' (%s) is not there", kernel_dir,
                   params->kernel_dir ? "kernel_dir" : "MOECL_KERNEL_DIR");
}

static moecl_status create_queue(moecl_context *context) {
  cl_int code;
  context->queue =
      clCreateCommandQueue(context->cl, context->device, CL_QUEUE_PROFILING_ENABLE, &code);
  return ocl_check(context, code, "clCreateCommandQueue");
}

moecl_status ocl_aside_enter(moecl_context *context, ocl_aside *aside) {
  *aside = (ocl_aside){context->queue, context->out_of_order};
  const moecl_status status = create_queue(context);
  if (status != MOECL_OK) context->queue = aside->queue;
  else context->out_of_order = false;
  return status;
}

void ocl_aside_leave(moecl_context *context, const ocl_aside *aside) {
  clReleaseCommandQueue(context->queue);
  context->queue = aside->queue;
  context->out_of_order = aside->out_of_order;
}

moecl_status ocl_trial_enter(moecl_context *context, ocl_trial *trial) {
  trial->log = context->log;
  context->log = (moecl_log){ocl_log_demoted, &trial->log, NULL};
  const moecl_status status = ocl_aside_enter(context, &trial->aside);
  if (status != MOECL_OK) context->log = trial->log;
  return status;
}

void ocl_trial_leave(moecl_context *context, const ocl_trial *trial) {
  ocl_aside_leave(context, &trial->aside);
  context->log = trial->log;
}

/* What the rest of the library needs to know of the queue and device. */
static moecl_status complete(moecl_context *context) {
  cl_command_queue_properties properties = 0;
  cl_uint align_bits = 0;
  cl_bool compiler = CL_FALSE, unified = CL_FALSE;
  MOECL_TRY(ocl_check(context,
                      clGetCommandQueueInfo(context->queue, CL_QUEUE_PROPERTIES, sizeof properties,
                                            &properties, NULL),
                      "clGetCommandQueueInfo"));
  MOECL_TRY(ocl_check(context,
                      clGetDeviceInfo(context->device, CL_DEVICE_MEM_BASE_ADDR_ALIGN,
                                      sizeof align_bits, &align_bits, NULL),
                      "clGetDeviceInfo"));
  MOECL_TRY(ocl_check(context,
                      clGetDeviceInfo(context->device, CL_DEVICE_COMPILER_AVAILABLE,
                                      sizeof compiler, &compiler, NULL),
                      "clGetDeviceInfo"));
  /* A driver that does not say has copies that are right, if not short. */
  context->one_memory = clGetDeviceInfo(context->device, CL_DEVICE_HOST_UNIFIED_MEMORY,
                                        sizeof unified, &unified, NULL) == CL_SUCCESS &&
                        unified;
  if (!compiler)
    return log_error(&context->log, MOECL_ERROR_DEVICE,
                     "%s has no compiler for OpenCL C (CL_DEVICE_COMPILER_AVAILABLE)",
                     context->info.name);
  context->profiling = (properties & CL_QUEUE_PROFILING_ENABLE) != 0;
  context->out_of_order = (properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) != 0;
  context->address_align = align_bits / 8 ? align_bits / 8 : 1;
  /* A CPU's compiler would take turns with the threads that it has itself. */
  context->build_threads = context->info.type == MOECL_DEVICE_CPU ? 1 : base_threads(0);
  log_write(&context->log, MOECL_LOG_INFO, "device %d:%d: %s (%s, driver %s)",
            context->info.platform_index, context->info.device_index, context->info.name,
            context->info.platform, context->info.driver);
  ocl_probe_capabilities(context);
  return MOECL_OK;
}

static moecl_status no_device(const moecl_log *log, const moecl_device_info *infos, size_t count,
                              const char *choice) {
  base_text text = {0};
  if (count == 0) base_text_addf(&text, "no OpenCL device found:");
  else base_text_addf(&text, "no OpenCL device matches \"%s\". Found:", choice ? choice : "auto");
  for (size_t i = 0; i < count; i++)
    base_text_addf(&text, "\n  %d:%d  %s: %s (%s)", infos[i].platform_index, infos[i].device_index,
                   moecl_device_type_name(infos[i].type), infos[i].name, infos[i].platform);
  const size_t before = text.size;
  ocl_devices_explain(&text);
  if (count == 0)
    base_text_addf(&text, "\nInstall a driver, or mend the one that is named here: a GPU's (e.g. "
                          "nvidia-opencl-icd, intel-opencl-icd, rocm-opencl-icd) or, for the "
                          "CPU, pocl-opencl-icd; `clinfo -l` shows what is installed.");
  else if (text.size > before)
    base_text_addf(&text, "\nWhat else is registered must be mended before it is found.");
  log_error(log, MOECL_ERROR_NO_DEVICE, "%s", text.failed ? "no OpenCL device" : text.data);
  base_text_free(&text);
  return MOECL_ERROR_NO_DEVICE;
}

/* Finds the device; its handles go to *found, what is known of it to info. */
static moecl_status pick(moecl_context *context, const char *choice, ocl_found_device *found) {
  moecl_device_info *infos = NULL;
  ocl_found_device *all = NULL;
  size_t count = 0, chosen = 0;
  moecl_status status = ocl_devices_find(context, &infos, &all, &count);
  if (status != MOECL_OK)
    return log_error(&context->log, status, "cannot list the OpenCL devices: %s",
                     moecl_status_string(status));
  status = moecl_device_choose(infos, count, choice, &chosen);
  if (status == MOECL_OK) {
    *found = all[chosen];
    context->info = infos[chosen];
  } else if (status == MOECL_ERROR_NO_DEVICE) {
    no_device(&context->log, infos, count, choice);
  }
  free(infos);
  free(all);
  return status;
}

static moecl_status open_device(moecl_context *context, const char *choice) {
  ocl_found_device found;
  MOECL_TRY(pick(context, choice, &found));
  cl_context_properties properties[] = {CL_CONTEXT_PLATFORM, (cl_context_properties)found.platform,
                                        0};
  cl_int code;
  context->device = found.device;
  context->cl = clCreateContext(properties, 1, &found.device, NULL, NULL, &code);
  MOECL_TRY(ocl_check(context, code, "clCreateContext"));
  MOECL_TRY(create_queue(context));
  return complete(context);
}

/* What the caller asks for, or else the environment. */
static const char *chosen_device(const moecl_context_params *params) {
  const char *asked = params->device;
  const bool is_auto =
      !asked || !*asked || (strlen(asked) == 4 && base_same_letters(asked, "auto", 4));
  return is_auto && *environment("MOECL_DEVICE") ? environment("MOECL_DEVICE") : asked;
}

moecl_status moecl_context_create(const moecl_context_params *params, moecl_context **context) {
  static const moecl_context_params defaults = {0};
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!params) params = &defaults;
  moecl_context *made = NULL;
  *context = NULL;
  moecl_status status = create_empty(params, &made);
  if (status == MOECL_OK) status = open_device(made, chosen_device(params));
  if (status != MOECL_OK) moecl_context_destroy(&made);
  else *context = made;
  return status;
}

/* NULL: it is no part of another one. */
static cl_device_id whole_of(cl_device_id device) {
  cl_device_id parent = NULL;
  const cl_int code =
      clGetDeviceInfo(device, CL_DEVICE_PARENT_DEVICE, sizeof parent, &parent, NULL);
  return code == CL_SUCCESS ? parent : NULL;
}

/* A context of a part of a device may name the whole (PoCL's does). */
static bool is_of(cl_device_id device, cl_device_id named) {
  while (device && device != named) device = whole_of(device);
  return device;
}

static moecl_status check_device(moecl_context *context, cl_context cl, cl_device_id device) {
  size_t bytes = 0;
  bool found = false;
  MOECL_TRY(ocl_check(context, clGetContextInfo(cl, CL_CONTEXT_DEVICES, 0, NULL, &bytes),
                      "clGetContextInfo"));
  cl_device_id *devices = malloc(bytes ? bytes : 1);
  if (!devices) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status = ocl_check(
      context, clGetContextInfo(cl, CL_CONTEXT_DEVICES, bytes, devices, NULL), "clGetContextInfo");
  for (size_t i = 0; status == MOECL_OK && i < bytes / sizeof *devices; i++)
    found |= is_of(device, devices[i]);
  free(devices);
  if (status != MOECL_OK || found) return status;
  return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "the device is not one of the OpenCL context's");
}

static moecl_status check_queue(moecl_context *context, cl_command_queue queue, cl_context cl,
                                cl_device_id device) {
  cl_context queue_context = NULL;
  cl_device_id queue_device = NULL;
  MOECL_TRY(ocl_check(
      context,
      clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof queue_context, &queue_context, NULL),
      "clGetCommandQueueInfo"));
  MOECL_TRY(ocl_check(
      context,
      clGetCommandQueueInfo(queue, CL_QUEUE_DEVICE, sizeof queue_device, &queue_device, NULL),
      "clGetCommandQueueInfo"));
  if (queue_context == cl && queue_device == device) return MOECL_OK;
  return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "the queue is not one of the OpenCL context's on this device");
}

/* The device's place in the list, for results that name it; -1 where it isn't
 * listed (a sub-device). */
static void find_place(moecl_context *context) {
  moecl_device_info *infos = NULL;
  ocl_found_device *found = NULL;
  size_t count = 0;
  context->info.platform_index = context->info.device_index = -1;
  if (ocl_devices_find(NULL, &infos, &found, &count) != MOECL_OK) return;
  for (size_t i = 0; i < count; i++)
    if (found[i].device == context->device) {
      context->info.platform_index = infos[i].platform_index;
      context->info.device_index = infos[i].device_index;
    }
  free(infos);
  free(found);
}

static moecl_status adopt(moecl_context *context, cl_context cl, cl_device_id device,
                          cl_command_queue queue) {
  if (!cl || !device)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "the OpenCL context or the device is NULL");
  MOECL_TRY(check_device(context, cl, device));
  if (queue) MOECL_TRY(check_queue(context, queue, cl, device));
  MOECL_TRY(ocl_check(context, clRetainContext(cl), "clRetainContext"));
  context->cl = cl;
  context->device = device;
  ocl_device_query(device, &context->info);
  find_place(context);
  if (!queue) {
    MOECL_TRY(create_queue(context));
  } else {
    MOECL_TRY(ocl_check(context, clRetainCommandQueue(queue), "clRetainCommandQueue"));
    context->queue = queue;
  }
  return complete(context);
}

moecl_status moecl_context_create_from_cl(cl_context cl, cl_device_id device,
                                          cl_command_queue queue,
                                          const moecl_context_params *params,
                                          moecl_context **context) {
  static const moecl_context_params defaults = {0};
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  *context = NULL;
  moecl_context *made = NULL;
  moecl_status status = create_empty(params ? params : &defaults, &made);
  if (status == MOECL_OK) status = adopt(made, cl, device, queue);
  if (status != MOECL_OK) moecl_context_destroy(&made);
  else *context = made;
  return status;
}

const moecl_device_info *moecl_context_device(const moecl_context *context) {
  return context ? &context->info : NULL;
}
cl_context moecl_context_cl(const moecl_context *context) { return context ? context->cl : NULL; }
cl_command_queue moecl_context_cl_queue(const moecl_context *context) {
  return context ? context->queue : NULL;
}

size_t moecl_context_take_errors(moecl_context *context, char *text, size_t size) {
  if (!text) size = 0;
  if (size) *text = '\0';
  if (!context) return 0;
  log_errors *errors = &context->errors;
  const size_t length = errors->size ? errors->size - 1 : 0; /* without the last line end */
  const size_t fits = length < size ? length : size ? size - 1 : 0;
  if (size) {
    memcpy(text, errors->text, fits);
    text[fits] = '\0';
  }
  *errors = (log_errors){0};
  return length;
}

moecl_status moecl_context_finish_wait(moecl_context *context) {
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  return ocl_check(context, clFinish(context->queue), "clFinish");
}

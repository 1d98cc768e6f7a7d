// SPDX-License-Identifier: MIT
#include "ocl/program.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 1.2 is what every driver has. No fast-math: kernels look for NaN. No warnings:
 * PoCL prints how many there were to stderr, which is the embedding program's. */
static const char build_options[] = "-cl-std=CL1.2 -w";
/* Of a source that asks for more by a comment. Options follow from the text, and so does its key.
 */
static const char request[] = "moecl-cl-std: CL3.0", build_options_3[] = "-cl-std=CL3.0 -w";

const char *ocl_program_options(const char *text) {
  return strstr(text, request) ? build_options_3 : build_options;
}

/* "NAME value" lines to #define lines. */
static void add_defines(base_text *text, const char *defines) {
  while (defines && *defines) {
    size_t size = strcspn(defines, "\n");
    if (size > 0) {
      base_text_add(text, "#define ", 8);
      base_text_add(text, defines, size);
      base_text_add(text, "\n", 1);
    }
    defines += size + (defines[size] == '\n');
  }
}

static void log_build(moecl_context *context, cl_program program, const char *source,
                      const char *defines, moecl_status status) {
  size_t size = 0;
  char *text = NULL;
  if (clGetProgramBuildInfo(program, context->device, CL_PROGRAM_BUILD_LOG, 0, NULL, &size) ==
          CL_SUCCESS &&
      (text = calloc(size + 1, 1)) &&
      clGetProgramBuildInfo(program, context->device, CL_PROGRAM_BUILD_LOG, size, text, NULL) !=
          CL_SUCCESS)
    text[0] = '\0';
  log_write(&context->log, MOECL_LOG_ERROR, "%s did not compile: %s\ndefines: %s\n%s", source,
            moecl_status_string(status), defines ? defines : "(none)",
            text ? text : "(no build log)");
  free(text);
}

cl_int ocl_program_build(moecl_context *context, cl_program program, const char *options) {
  base_locale locale; /* a driver's compiler may read numbers by the thread's */
  if (!base_locale_enter(&locale)) return CL_OUT_OF_HOST_MEMORY;
  const cl_int code = clBuildProgram(program, 1, &context->device, options, NULL, NULL);
  base_locale_leave(&locale);
  return code;
}

static moecl_status build_source(moecl_context *context, const base_text *text,
                                 cl_program *program) {
  const char *data = text->data;
  size_t size = text->size;
  cl_int code;
  cl_program made = clCreateProgramWithSource(context->cl, 1, &data, &size, &code);
  MOECL_TRY(ocl_check(context, code, "clCreateProgramWithSource"));
  *program = made;
  code = ocl_program_build(context, made, ocl_program_options(data));
  if (code == CL_SUCCESS) return MOECL_OK;
  return code == CL_OUT_OF_HOST_MEMORY ? MOECL_ERROR_OUT_OF_HOST_MEMORY : MOECL_ERROR_BUILD;
}

/* One build, or two where the source asks for a target of its own. */
moecl_status ocl_program_build_text(moecl_context *context, const base_text *text,
                                    const char *source, const char *defines, cl_program *program) {
  char target[32];
  cl_program made = NULL;
  moecl_status status = build_source(context, text, &made);
  if (status == MOECL_OK && ocl_ptx_target(text->data, target, sizeof target)) {
    cl_program first = made;
    made = NULL;
    status = ocl_ptx_rebuild(context, first, target, build_options, &made);
    clReleaseProgram(first);
  }
  if (status == MOECL_OK) {
    *program = made;
    return MOECL_OK;
  }
  if (made) {
    log_build(context, made, source, defines, status);
    clReleaseProgram(made);
  }
  return status;
}

/* From the disk, else from source. */
static moecl_status obtain(moecl_context *context, const base_text *text, const char *key,
                           const char *source, const char *defines, cl_program *program,
                           bool *from_disk) {
  ocl_entry entry;
  ocl_entry_read(context, key, &entry);
  *program = ocl_entry_program(context, &entry, text->data);
  ocl_entry_release(&entry);
  *from_disk = *program != NULL;
  if (*program) {
    ocl_cache_used(context, key);
    return MOECL_OK;
  }
  MOECL_TRY(ocl_program_build_text(context, text, source, defines, program));
  log_write(&context->log, MOECL_LOG_DEBUG, "built %s %s", source, ocl_program_options(text->data));
  ocl_cache_store(context, key, *program);
  return MOECL_OK;
}

moecl_status ocl_program_key(moecl_context *context, const base_text *text, char key[33]) {
  return ocl_cache_key(context, text, build_options, key);
}

ocl_program *ocl_program_find(const moecl_context *context, const char *key) {
  for (ocl_program *program = context->programs; program; program = program->next)
    if (!program->distrusted && strcmp(program->key, key) == 0) return program;
  return NULL;
}

moecl_status ocl_program_keep(moecl_context *context, const char *key, cl_program program,
                              bool from_disk, ocl_program **kept) {
  ocl_program *node = calloc(1, sizeof *node);
  if (!node) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  *node = (ocl_program){.next = context->programs, .cl = program, .from_disk = from_disk};
  memcpy(node->key, key, sizeof node->key);
  *kept = context->programs = node;
  return MOECL_OK;
}

static moecl_status program_from_text(moecl_context *context, const base_text *text,
                                      const char *source, const char *defines,
                                      ocl_program **program) {
  char key[33];
  cl_program made;
  bool from_disk;
  MOECL_TRY(ocl_program_key(context, text, key));
  *program = ocl_program_find(context, key);
  if (*program) return MOECL_OK;
  MOECL_TRY(obtain(context, text, key, source, defines, &made, &from_disk));
  const moecl_status status = ocl_program_keep(context, key, made, from_disk, program);
  if (status != MOECL_OK) clReleaseProgram(made);
  return status;
}

void ocl_programs_free(ocl_program *programs) {
  while (programs) {
    ocl_program *next = programs->next;
    clReleaseProgram(programs->cl);
    free(programs);
    programs = next;
  }
}

static bool is_unproved(const ocl_program *program) {
  return program->from_disk && !program->checked && !program->distrusted;
}

size_t ocl_programs_unproved(const moecl_context *context) {
  size_t count = 0;
  for (const ocl_program *program = context->programs; program; program = program->next)
    count += is_unproved(program);
  return count;
}

static void distrust(moecl_context *context, ocl_program *program) {
  program->distrusted = true;
  log_write(&context->log, MOECL_LOG_WARNING,
            "program cache: %s.bin may hold the wrong program; it is removed and built anew",
            program->key);
  ocl_cache_remove(context, program->key);
}

size_t ocl_programs_distrust(moecl_context *context) {
  size_t count = 0;
  for (ocl_program *program = context->programs; program; program = program->next) {
    if (!is_unproved(program)) continue;
    distrust(context, program);
    count++;
  }
  return count;
}

/* A kernel's work-group: what its source requires, else 64 or what there is. An
 * error where the device, or what its compiler made of the kernel, takes less. */
static moecl_status measure_kernel(const char *source, ocl_kernel *kernel) {
  enum { ITEMS = 64 };
  moecl_context *context = kernel->context;
  const moecl_device_info *device = &context->info;
  size_t required[3] = {0, 0, 0}, most = 0;
  const struct {
    cl_kernel_work_group_info what;
    size_t size;
    void *value;
  } queries[] = {{CL_KERNEL_COMPILE_WORK_GROUP_SIZE, sizeof required, required},
                 {CL_KERNEL_WORK_GROUP_SIZE, sizeof most, &most}};
  for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++)
    MOECL_TRY(ocl_check(context,
                        clGetKernelWorkGroupInfo(kernel->cl, context->device, queries[i].what,
                                                 queries[i].size, queries[i].value, NULL),
                        "clGetKernelWorkGroupInfo"));
  if (most == 0 || (device->max_work_group_size > 0 && most > device->max_work_group_size))
    most = (size_t)device->max_work_group_size;
  kernel->local = (uint32_t)required[0];
  kernel->items = ocl_local_size(context, ITEMS);
  while (most > 0 && kernel->items > most) kernel->items /= 2;
  /* Not by CL_KERNEL_WORK_GROUP_SIZE, nor by the kernel's local memory: NVIDIA's driver
   * says 256 of kernels that require 1024 and run with them, and its PTX may have more
   * local memory than the device states. What does not run fails its self-check. */
  if (device->max_work_group_size > 0 && required[0] > device->max_work_group_size)
    return log_error(&context->log, MOECL_ERROR_BUILD,
                     "%s: kernel %s needs work-groups of %zu, here are %llu", source, kernel->name,
                     required[0], (unsigned long long)device->max_work_group_size);
  return MOECL_OK;
}

static moecl_status make_kernel(moecl_context *context, ocl_program *program, const char *source,
                                const char *entry, ocl_kernel **kernel) {
  cl_int code;
  cl_kernel cl = clCreateKernel(program->cl, entry, &code);
  if (code != CL_SUCCESS) {
    log_write(&context->log, is_unproved(program) ? MOECL_LOG_WARNING : MOECL_LOG_ERROR,
              "%s: no kernel %s: clCreateKernel failed: %s (%d)", source, entry,
              ocl_error_name(code), (int)code);
    return code == CL_OUT_OF_HOST_MEMORY ? MOECL_ERROR_OUT_OF_HOST_MEMORY : MOECL_ERROR_BUILD;
  }
  ocl_kernel *made = calloc(1, sizeof *made);
  if (!made) {
    clReleaseKernel(cl);
    return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  }
  made->context = ocl_context_retain(context);
  made->cl = cl;
  made->program = program;
  snprintf(made->name, sizeof made->name, "%s", entry);
  const moecl_status status = measure_kernel(source, made);
  if (status != MOECL_OK) ocl_kernel_destroy(&made);
  *kernel = made;
  return status;
}

/* One that is to be destroyed, and nothing else. */
static moecl_status make_empty(moecl_context *context, ocl_kernel **kernel) {
  ocl_kernel *made = calloc(1, sizeof *made);
  if (!made) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  made->context = ocl_context_retain(context);
  *kernel = made;
  return MOECL_OK;
}

moecl_status ocl_kernel_create(moecl_context *context, const char *source, const char *defines,
                               const char *entry, ocl_kernel **kernel) {
  base_text text = {0};
  ocl_program *program = NULL;
  *kernel = NULL;
  add_defines(&text, defines);
  moecl_status status = ocl_source_expand(context, source, &text);
  if (context->ahead) {
    if (status == MOECL_OK) status = ocl_ahead_note(context, &text);
    base_text_free(&text);
    return status == MOECL_OK ? make_empty(context, kernel) : status;
  }
  if (status == MOECL_OK) status = program_from_text(context, &text, source, defines, &program);
  if (status == MOECL_OK) status = make_kernel(context, program, source, entry, kernel);
  if (status == MOECL_ERROR_BUILD && program && is_unproved(program)) {
    distrust(context, program); /* a sound binary without the kernel: another program's */
    status = program_from_text(context, &text, source, defines, &program);
    if (status == MOECL_OK) status = make_kernel(context, program, source, entry, kernel);
  }
  base_text_free(&text);
  return status;
}

void ocl_kernel_destroy(ocl_kernel **kernel) {
  if (!kernel || !*kernel) return;
  if ((*kernel)->cl) clReleaseKernel((*kernel)->cl);
  moecl_context_destroy(&(*kernel)->context);
  free(*kernel);
  *kernel = NULL;
}

bool ocl_kernel_is_checked(const ocl_kernel *kernel) { return kernel->program->checked; }
void ocl_kernel_set_checked(ocl_kernel *kernel) { kernel->program->checked = true; }

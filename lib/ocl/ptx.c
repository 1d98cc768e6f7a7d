// SPDX-License-Identifier: MIT
/* The second build of sources for one particular target of NVIDIA's assembler.
 *
 * NVIDIA's OpenCL compiler assembles for the plain architecture, which refuses
 * the instructions of the one chip (sm_90 knows no wgmma, sm_90a does). Such
 * instructions stand in asm strings behind the mark "//@", a comment to the
 * first build; its "binary" is PTX text, in which the marks are removed and the
 * target is replaced, and which the driver then builds as it would any other.
 *
 * A source asks for this with a comment: "moecl-ptx-target: sm_90a".
 *
 * What the first build's assembler makes is thrown away: lines with "//~" are in that build alone,
 * so that an exit at a kernel's beginning leaves it nothing to assemble. */
#include "ocl/program.h"
#include <stdlib.h>
#include <string.h>

static const char request[] = "moecl-ptx-target: ", mark[] = "//@", first_mark[] = "//~";

bool ocl_ptx_target(const char *source, char *target, size_t size) {
  const char *at = strstr(source, request);
  if (!at) return false;
  at += sizeof request - 1;
  const size_t length = strcspn(at, " \t\r\n");
  if (length == 0 || length >= size) return false;
  memcpy(target, at, length);
  target[length] = '\0';
  return true;
}

static bool starts(const char *text, const char *with) {
  return strncmp(text, with, strlen(with)) == 0;
}

static bool has(const char *line, size_t size, const char *what) {
  for (size_t i = 0; i + strlen(what) <= size; i++)
    if (starts(line + i, what)) return true;
  return false;
}

/* One line of PTX, without its marks, into `out`. */
static void add_unmarked(base_text *out, const char *line, size_t size) {
  const char *end = line + size;
  while (line < end) {
    const char *at = line;
    while (at < end && !starts(at, mark)) at++;
    base_text_add(out, line, (size_t)(at - line));
    line = at < end ? at + sizeof mark - 1 : end;
  }
}

/* setmaxnreg needs to know how many registers a work-group may have: one group
 * a multiprocessor, said behind the kernel's work-group size. */
static void add_line(base_text *out, const char *line, size_t size, const char *target) {
  if (has(line, size, first_mark)) return;
  if (starts(line, ".target ")) {
    base_text_add(out, ".target ", 8);
    base_text_add(out, target, strlen(target));
    const char *rest = memchr(line, ',', size); /* what else the target line says */
    if (rest) base_text_add(out, rest, size - (size_t)(rest - line));
    else base_text_add(out, "\n", 1);
    return;
  }
  add_unmarked(out, line, size);
  if (starts(line, ".reqntid")) base_text_add(out, ".minnctapersm 1\n", 16);
}

void ocl_ptx_retarget(const char *ptx, const char *target, base_text *out) {
  while (*ptx) {
    const size_t length = strcspn(ptx, "\n"), size = length + (ptx[length] == '\n');
    add_line(out, ptx, size, target);
    ptx += size;
  }
}

/* The built program's PTX, zero-terminated; the caller frees it. */
static moecl_status read_ptx(moecl_context *context, cl_program program, char **ptx) {
  size_t size = 0;
  MOECL_TRY(ocl_check(context,
                      clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, NULL),
                      "clGetProgramInfo(CL_PROGRAM_BINARY_SIZES)"));
  char *text = calloc(size + 1, 1);
  if (!text) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  unsigned char *binary = (unsigned char *)text;
  moecl_status status = ocl_check(
      context, clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL),
      "clGetProgramInfo(CL_PROGRAM_BINARIES)");
  if (status == MOECL_OK && !strstr(text, ".target "))
    status = log_error(&context->log, MOECL_ERROR_BUILD,
                       "the driver's program binary is not PTX text: it cannot be retargeted");
  if (status == MOECL_OK) *ptx = text;
  else free(text);
  return status;
}

moecl_status ocl_ptx_rebuild(moecl_context *context, cl_program first, const char *target,
                             const char *options, cl_program *program) {
  char *ptx = NULL;
  MOECL_TRY(read_ptx(context, first, &ptx));
  base_text text = {0};
  ocl_ptx_retarget(ptx, target, &text);
  free(ptx);
  if (!text.data || text.failed) {
    base_text_free(&text);
    return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  }
  const unsigned char *binary = (const unsigned char *)text.data;
  cl_int code, loaded;
  cl_program made = clCreateProgramWithBinary(context->cl, 1, &context->device, &text.size, &binary,
                                              &loaded, &code);
  base_text_free(&text);
  MOECL_TRY(ocl_check(context, code, "clCreateProgramWithBinary (retargeted PTX)"));
  code = ocl_program_build(context, made, options);
  *program = made;
  return code == CL_SUCCESS ? MOECL_OK : MOECL_ERROR_BUILD;
}

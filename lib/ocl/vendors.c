// SPDX-License-Identifier: MIT
/* Why there is no device, or not the one that was expected: what is registered with
 * the OpenCL loader, looked at as it does. It passes over in silence what it cannot
 * load. */
#define _GNU_SOURCE /* secure_getenv */
#include "ocl/program.h"
#include <dirent.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char default_vendors[] = "/etc/OpenCL/vendors";

/* The folder (or file, or library) that the loaders of Debian and Khronos take. */
static const char *vendors_place(const char **variable) {
  static const char *const names[] = {"OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *value = secure_getenv(names[i]);
    *variable = names[i];
    if (value && *value) return value;
  }
  *variable = NULL;
  return default_vendors;
}

/* A library that loads stays loaded: the loader did the same, and some drivers
 * don't survive being unloaded. */
static void explain_library(const char *registered, const char *library, bool found_platforms,
                            base_text *text) {
  const char *why = dlopen(library, RTLD_NOW | RTLD_LOCAL) ? NULL : dlerror();
  if (why)
    base_text_addf(text, "\n  %s names %s, which cannot be loaded: %s", registered, library, why);
  else if (!found_platforms)
    base_text_addf(text, "\n  %s names %s, which loads and offers no platform", registered,
                   library);
}

/* An .icd file's only line is a library's name. */
static void explain_file(const char *path, bool found_platforms, base_text *text) {
  char *data = NULL;
  size_t size = 0;
  if (base_file_read(path, &data, &size) != MOECL_OK) {
    base_text_addf(text, "\n  %s cannot be read", path);
    return;
  }
  char *library = data + strspn(data, " \t\r\n");
  library[strcspn(library, "\r\n")] = '\0';
  for (size_t n = strlen(library); n > 0 && base_is_space(library[n - 1]); n--)
    library[n - 1] = '\0';
  if (!*library) base_text_addf(text, "\n  %s is empty, expected a library's name", path);
  else explain_library(path, library, found_platforms, text);
  free(data);
}

static bool is_icd(const char *name) {
  const size_t length = strlen(name);
  return length > 4 && strcmp(name + length - 4, ".icd") == 0;
}

static void explain_folder(const char *folder, const char *variable, bool found_platforms,
                           base_text *text) {
  DIR *files = opendir(folder);
  bool any = false;
  for (const struct dirent *file; files && (file = readdir(files));) {
    base_text path = {0};
    if (!is_icd(file->d_name)) continue;
    any = true;
    base_text_addf(&path, "%s/%s", folder, file->d_name);
    if (!path.failed) explain_file(path.data, found_platforms, text);
    base_text_free(&path);
  }
  if (files) closedir(files);
  if (!any && !found_platforms)
    base_text_addf(text, "\n  no driver is registered: %s%s%s has no vendor file (*.icd)", folder,
                   variable ? ", which is " : "", variable ? variable : "");
}

static void explain_vendors(bool found_platforms, base_text *text) {
  const char *variable, *place = vendors_place(&variable);
  struct stat info;
  if (stat(place, &info) == 0 && S_ISDIR(info.st_mode))
    explain_folder(place, variable, found_platforms, text);
  else if (is_icd(place)) explain_file(place, found_platforms, text);
  else if (variable) explain_library(variable, place, found_platforms, text);
  else explain_folder(place, variable, found_platforms, text);
}

static void explain_platform(cl_platform_id platform, int index, base_text *text) {
  char name[256] = "";
  cl_uint count = 0;
  const cl_int code = clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, NULL, &count);
  if (code == CL_SUCCESS && count > 0) return;
  if (clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof name, name, NULL) != CL_SUCCESS)
    name[0] = '\0';
  name[sizeof name - 1] = '\0';
  base_text_addf(text, "\n  platform %d, %s, has no devices (clGetDeviceIDs: %s)", index,
                 *name ? name : "which gives no name", ocl_error_name(code));
}

void ocl_devices_explain(base_text *text) {
  cl_uint count = 0;
  cl_platform_id *platforms = NULL;
  const cl_int code = clGetPlatformIDs(0, NULL, &count);
  if (code != CL_SUCCESS) count = 0;
  if (code != CL_SUCCESS && code != OCL_PLATFORM_NOT_FOUND)
    base_text_addf(text, "\n  clGetPlatformIDs failed: %s (%d)", ocl_error_name(code), (int)code);
  if (count > 0 && (platforms = calloc(count, sizeof *platforms)) &&
      clGetPlatformIDs(count, platforms, NULL) == CL_SUCCESS)
    for (cl_uint i = 0; i < count; i++) explain_platform(platforms[i], (int)i, text);
  free(platforms);
  explain_vendors(count > 0, text);
}

size_t moecl_devices_explain(char *text, size_t size) {
  base_text all = {0};
  ocl_devices_explain(&all);
  const char *start = all.data && *all.data ? all.data + 1 : ""; /* without the newline */
  const size_t length = strlen(start);
  if (text && size > 0) base_format(text, size, "%s", start);
  base_text_free(&all);
  return length;
}

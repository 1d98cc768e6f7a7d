// SPDX-License-Identifier: MIT
/* An OpenCL driver for the ICD loader: one platform, no devices. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <CL/cl_ext.h>
#include <CL/cl_icd.h>
#include <string.h>

CL_API_ENTRY void *CL_API_CALL clGetExtensionFunctionAddress(const char *name);
CL_API_ENTRY cl_int CL_API_CALL clIcdGetPlatformIDsKHR(cl_uint size, cl_platform_id *platforms,
                                                       cl_uint *count);

static cl_icd_dispatch dispatch;
struct _cl_platform_id {
  cl_icd_dispatch *dispatch;
};
static struct _cl_platform_id platform = {&dispatch};

static cl_int CL_API_CALL platform_info(cl_platform_id asked, cl_platform_info what, size_t size,
                                        void *value, size_t *needed) {
  const char *text = what == CL_PLATFORM_EXTENSIONS       ? "cl_khr_icd"
                     : what == CL_PLATFORM_ICD_SUFFIX_KHR ? "EMPTY"
                     : what == CL_PLATFORM_VERSION        ? "OpenCL 1.2 empty"
                     : what == CL_PLATFORM_PROFILE        ? "FULL_PROFILE"
                                                          : "Empty Platform";
  (void)asked;
  if (needed) *needed = strlen(text) + 1;
  if (value && size <= strlen(text)) return CL_INVALID_VALUE;
  if (value) strcpy(value, text);
  return CL_SUCCESS;
}

static cl_int CL_API_CALL device_ids(cl_platform_id asked, cl_device_type type, cl_uint size,
                                     cl_device_id *devices, cl_uint *count) {
  (void)asked, (void)type, (void)size, (void)devices;
  if (count) *count = 0;
  return CL_DEVICE_NOT_FOUND;
}

CL_API_ENTRY cl_int CL_API_CALL clIcdGetPlatformIDsKHR(cl_uint size, cl_platform_id *platforms,
                                                       cl_uint *count) {
  dispatch.clGetPlatformInfo = platform_info;
  dispatch.clGetDeviceIDs = device_ids;
  if (count) *count = 1;
  if (platforms && size > 0) platforms[0] = &platform;
  return CL_SUCCESS;
}

CL_API_ENTRY void *CL_API_CALL clGetExtensionFunctionAddress(const char *name) {
  void *address = NULL;
  const union {
    cl_int(CL_API_CALL *platforms)(cl_uint, cl_platform_id *, cl_uint *);
    cl_int(CL_API_CALL *info)(cl_platform_id, cl_platform_info, size_t, void *, size_t *);
    cl_int(CL_API_CALL *devices)(cl_platform_id, cl_device_type, cl_uint, cl_device_id *,
                                 cl_uint *);
  } calls[] = {
      {.platforms = clIcdGetPlatformIDsKHR}, {.info = platform_info}, {.devices = device_ids}};
  static const char *const names[] = {"clIcdGetPlatformIDsKHR", "clGetPlatformInfo",
                                      "clGetDeviceIDs"};
  for (int i = 0; i < 3; i++)
    if (strcmp(name, names[i]) == 0) memcpy(&address, &calls[i], sizeof address);
  return address;
}

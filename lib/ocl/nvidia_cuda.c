// SPDX-License-Identifier: MIT
#include "ocl/nvidia_cuda.h"
#include <dlfcn.h>
#include <string.h>

static bool find(const cuda *cuda, const char *name, void *function) {
  void *found = dlsym(cuda->library, name);
  memcpy(function, &found, sizeof found); /* ISO C has no cast between the two kinds of pointer */
  return found;
}

/* The library stays loaded: drivers don't like to be unloaded. */
bool cuda_load(cuda *cuda) {
  cuda->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  return cuda->library && find(cuda, "cuInit", &cuda->init) &&
         find(cuda, "cuDeviceGetCount", &cuda->device_count) &&
         find(cuda, "cuDeviceGetUuid_v2", &cuda->device_uuid) &&
         find(cuda, "cuDeviceGetAttribute", &cuda->device_attribute) &&
         find(cuda, "cuDeviceCanAccessPeer", &cuda->can_access) &&
         find(cuda, "cuMemGetAllocationGranularity", &cuda->granularity) &&
         find(cuda, "cuMemCreate", &cuda->create) && find(cuda, "cuMemRelease", &cuda->release) &&
         find(cuda, "cuMemExportToShareableHandle", &cuda->export) &&
         find(cuda, "cuDevicePrimaryCtxRetain", &cuda->retain) &&
         find(cuda, "cuDevicePrimaryCtxRelease_v2", &cuda->let_go) &&
         find(cuda, "cuCtxPushCurrent_v2", &cuda->push) &&
         find(cuda, "cuCtxPopCurrent_v2", &cuda->pop);
}

bool cuda_find_streams(const cuda *cuda, cuda_streams *streams) {
  return find(cuda, "cuMemAddressReserve", &streams->reserve) &&
         find(cuda, "cuMemAddressFree", &streams->free) && find(cuda, "cuMemMap", &streams->map) &&
         find(cuda, "cuMemUnmap", &streams->unmap) &&
         find(cuda, "cuMemSetAccess", &streams->set_access) &&
         find(cuda, "cuStreamCreate", &streams->stream_create) &&
         find(cuda, "cuStreamDestroy_v2", &streams->stream_destroy) &&
         find(cuda, "cuStreamQuery", &streams->stream_query) &&
         find(cuda, "cuStreamWaitValue32_v2", &streams->wait) &&
         find(cuda, "cuStreamWriteValue32_v2", &streams->write) &&
         find(cuda, "cuMemcpyDtoDAsync_v2", &streams->copy);
}

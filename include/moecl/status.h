// SPDX-License-Identifier: MIT
/* Status codes, the only way the library reports failure. */
#ifndef MOECL_STATUS_H
#define MOECL_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define MOECL_API
#else
#define MOECL_API __attribute__((visibility("default")))
#endif

typedef enum moecl_status {
  MOECL_OK = 0,
  MOECL_ERROR_INVALID_ARGUMENT,     /* a parameter is out of its documented range */
  MOECL_ERROR_OUT_OF_HOST_MEMORY,   /* malloc failed */
  MOECL_ERROR_OUT_OF_DEVICE_MEMORY, /* a buffer could not be had from the device */
  MOECL_ERROR_NO_DEVICE,            /* no OpenCL device, or none that matches the choice */
  MOECL_ERROR_DEVICE,               /* an OpenCL call failed; the log names it */
  MOECL_ERROR_BUILD,                /* a kernel did not compile (the log has the build log), or
                                       computes wrong results here */
  MOECL_ERROR_UNSUPPORTED,          /* what was asked for is not supported here: a variant or a
                                       transport by name, what a file has; the log says what */
  MOECL_ERROR_IO,                   /* a file could not be read or written, or is malformed */
  MOECL_ERROR_NOT_READY             /* e.g. forward before all weights were set */
} moecl_status;

/* A short English sentence for `status`, "unknown status" for other numbers; a static
 * string, never NULL. Thread-safe. */
MOECL_API const char *moecl_status_string(moecl_status status);

/* The version of the library that runs, "major.minor.patch"; a static string. That of the
 * headers is MOECL_VERSION_STRING, in moecl.h. Thread-safe. */
MOECL_API const char *moecl_version(void);

#ifdef __cplusplus
}
#endif
#endif

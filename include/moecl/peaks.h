// SPDX-License-Identifier: MIT
/* What a device does at most, measured on it by small kernels made for that: what the
 * times of a layer can be held against. */
#ifndef MOECL_PEAKS_H
#define MOECL_PEAKS_H

#include "moecl/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The best of several tries each, since what disturbs only slows. Rates are per second. */
typedef struct moecl_peaks {
  double flops_f32; /* fused multiply-adds in registers, each counted as two operations */
  double flops_f16; /* likewise in fp16; 0: the device has no fp16 arithmetic, or
                     claims it and cannot compile it, which is a warning */
  /* Bytes of device memory, from an array larger than any cache that is common: read alone;
   * read and written by a copy, both counted. */
  double read_bytes, copy_bytes;
  double to_device_bytes, from_device_bytes; /* between ordinary host memory and a buffer */
  double launch_seconds; /* of a kernel that does nothing, one of many enqueued at once */
  double wait_seconds;   /* of one enqueued, run and waited for, from idle: a median */
  uint64_t array_bytes;  /* of the arrays that were read and copied */
  double flops_matrix;   /* multiply-adds of the device's matrix units, of 16-bit numbers with fp32
                      sums, by the best instruction that variants use there; 0: they use none */
  uint64_t reserved[7];  /* zeros: see moecl.h */
} moecl_peaks;

/* Measures the context's device: a second or two, on a CPU or GPU of today, during which
 * nothing else should run on it. Waits. Takes two arrays of 256 MiB while it runs, or less where
 * the device has less than 4 GiB or no single buffer may be so large (max_allocation_bytes). On
 * failure *peaks is zeros.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (NULL), MOECL_ERROR_BUILD, MOECL_ERROR_DEVICE,
 * MOECL_ERROR_OUT_OF_HOST_MEMORY, MOECL_ERROR_OUT_OF_DEVICE_MEMORY. Thread: the context's. */
MOECL_API moecl_status moecl_measure_peaks_wait(moecl_context *context, moecl_peaks *peaks);

#ifdef __cplusplus
}
#endif

#endif

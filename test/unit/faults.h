// SPDX-License-Identifier: MIT
/* Calls that fail on order. The program is linked so that the library's own calls of
 * OpenCL and of malloc come here first (--wrap): those of the ICD loader, of drivers
 * and of other libraries do not, but for Jansson's allocations. */
#ifndef MOECL_TEST_FAULTS_H
#define MOECL_TEST_FAULTS_H

#include "moecl/opencl.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum fault_kind { FAULT_OPENCL = 0, FAULT_MEMORY, FAULT_MPI, FAULT_KINDS } fault_kind;

typedef struct fault_state {
  fault_kind kind;
  size_t target;    /* the call of this kind that fails, from 1 on; 0: none */
  uint64_t place;   /* the first call from there does, whichever it is; 0: none */
  bool lasting;     /* and all after it */
  cl_int code;      /* with which, where it is OpenCL's */
  size_t calls;     /* of this kind so far */
  const char *name; /* the first function that failed; NULL: none yet */
  int64_t objects;  /* of OpenCL that are held, references counted, but for */
  int64_t kernels;
  int64_t blocks;   /* of memory that are held */
  uint64_t *places; /* not NULL: [most], gets each call's place, a hash of who called whom */
  size_t most, num_places;
  bool once; /* each place is there but once, in the order of first calls */
} fault_state;
extern fault_state faults;

/* Counts a call of this kind; is it to fail? */
bool faults_hit(fault_kind kind, const char *name);

/* Takes Jansson's allocations in as well. */
void faults_begin(void);

#endif

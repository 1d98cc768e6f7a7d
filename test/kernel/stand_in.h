// SPDX-License-Identifier: MIT
/* A context on which the persistent grouped GEMMs, and those by tiles of matrix instructions, run
 * whatever the device is: their sources are test/kernel/persistent.cl, in a copy of cl/, and the
 * capabilities that their rows ask for are said to be there. Likewise those for the matrix
 * instruction of a sub-group, whose own kernels run: test/kernel/intel_matrix_mad.clh has the
 * instruction; and those of processors' units, which are emulated in C. */
#ifndef MOECL_TEST_STAND_IN_H
#define MOECL_TEST_STAND_IN_H

#include "../unit/unit.h"
#include "op/gemm/driver.h"
#include "ocl/program.h"
#include <stdio.h>
#include <unistd.h>

typedef struct stand_in {
  char root[64];
  moecl_context_params params;
  char kernels[96], cache[96];
} stand_in;

/* Makes the folders; the log is the caller's to set in params. */
static inline bool stand_in_make(stand_in *s) {
  const char *cl = getenv("MOECL_SOURCE_CL");
  char command[2048];
  *s = (stand_in){.root = "/tmp/moecl-persistent-XXXXXX"};
  if (!cl || !mkdtemp(s->root)) return false;
  snprintf(command, sizeof command,
           "cl='%s' to='%s/cl' && cp -r \"$cl\" \"$to\" && for name in "
           "nvidia_sm80 nvidia_sm90 amd_mfma; do cp \"$cl/../test/kernel/persistent.cl\" "
           "\"$to/grouped_gemm/$name.cl\" || exit 1; "
           "done && cp \"$cl/../test/kernel/intel_matrix_mad.clh\" \"$to/common/\" && "
           "sed -i '1i #define EMULATED_TILES' \"$to/common/cpu_tiles.clh\" && "
           "sed -i '1i #define EMULATED_DOTS' \"$to/common/cpu_dot.clh\"",
           cl, s->root);
  snprintf(s->kernels, sizeof s->kernels, "%s/cl", s->root);
  snprintf(s->cache, sizeof s->cache, "%s/cache", s->root);
  s->params.kernel_dir = s->kernels;
  s->params.cache_dir = s->cache;
  s->params.disable_cache = !keeps_programs();
  return system(command) == 0;
}

static inline moecl_status stand_in_open(const stand_in *s, moecl_context **context) {
  const moecl_status status = moecl_context_create(&s->params, context);
  if (status == MOECL_OK)
    (*context)->info.capabilities |= MOECL_CAP_PTX_SM80 | MOECL_CAP_PTX_SM90A | MOECL_CAP_MFMA;
  return status;
}

/* Can kernels have sub-groups of 8 and 16 here, and read in blocks? */
static inline bool stand_in_has_subgroups(const moecl_context *context) {
  const uint32_t least = ocl_least_subgroup(context->device);
  return least > 0 && least <= 8 && ocl_device_has(context->device, "cl_intel_subgroups_short");
}

/* For them, the capabilities too. */
static inline bool stand_in_allow_matrix(moecl_context *context) {
  if (stand_in_has_subgroups(context))
    context->info.capabilities |= MOECL_CAP_SUBGROUP_MATRIX_8 | MOECL_CAP_SUBGROUP_MATRIX_16;
  else printf("SKIP: kernels here have no sub-groups of 8 and 16\n");
  return stand_in_has_subgroups(context);
}

/* Processors' units. */
enum {
  STAND_IN_UNITS =
      MOECL_CAP_AVX512_BF16 | MOECL_CAP_AVX512_INT8 | MOECL_CAP_AMX_BF16 | MOECL_CAP_AMX_INT8
};
static inline bool op_is_of_unit(const kernel_variant *variant) {
  return variant->required & STAND_IN_UNITS;
}

/* One work-item of the stand-in computes whole tiles: a driver that leaves long loops
 * early gives a part of the sums. */
static inline bool stand_in_runs(const moecl_context *context) {
  if (context->info.capabilities & MOECL_CAP_LONG_LOOPS) return true;
  printf("SKIP: this driver leaves long loops early, and the stand-in's are long\n");
  return false;
}

static inline void stand_in_remove(const stand_in *s) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", s->root);
  if (system(command) != 0) fprintf(stderr, "%s stays\n", s->root);
}

static inline bool op_is_persistent(const kernel_variant *variant) {
  return variant->driver == &op_gemm_persistent_driver ||
         variant->driver == &op_gemm_persistent_tall_driver ||
         variant->driver == &op_gemm_matrix_tiles_driver;
}

static inline bool op_is_subgroup_matrix(const kernel_variant *variant) {
  return variant->required & (MOECL_CAP_SUBGROUP_MATRIX_8 | MOECL_CAP_SUBGROUP_MATRIX_16);
}

static inline bool is_persistent(const char *gemm) {
  const kernel_variant *variants = op_gemm_table.rows;
  const size_t count = op_gemm_table.count;
  for (size_t v = 0; v < count; v++)
    if (strcmp(variants[v].name, gemm) == 0) return op_is_persistent(&variants[v]);
  return false;
}

#endif

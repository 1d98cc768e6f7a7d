// SPDX-License-Identifier: MIT
/* Members for tests of the transports between GPUs on any device (peer_stand_in.h): contexts of one
 * cl_context, with one queue and with the stand-in's kernels. */
#ifndef MOECL_TEST_PEER_MEMBERS_H
#define MOECL_TEST_PEER_MEMBERS_H

#include "group/group.h"
#include "group_compare.h"
#include "peer_stand_in.h"
#include <unistd.h>

/* Kernels and flags of a member are made beside its queue: which of them from 1 on fails, and how
 * many were begun; 0: none. */
static int failing_aside, begun_asides;

/* All stays on the one queue. */
moecl_status __wrap_ocl_aside_enter(moecl_context *context, ocl_aside *aside);
void __wrap_ocl_aside_leave(moecl_context *context, const ocl_aside *aside);
moecl_status __wrap_ocl_trial_enter(moecl_context *context, ocl_trial *trial);
void __wrap_ocl_trial_leave(moecl_context *context, const ocl_trial *trial);

moecl_status __wrap_ocl_aside_enter(moecl_context *context, ocl_aside *aside) {
  (void)aside;
  if (++begun_asides == failing_aside)
    return log_error(&context->log, MOECL_ERROR_DEVICE, "the test has no queue");
  return MOECL_OK;
}

void __wrap_ocl_aside_leave(moecl_context *context, const ocl_aside *aside) {
  (void)context, (void)aside;
}

moecl_status __wrap_ocl_trial_enter(moecl_context *context, ocl_trial *trial) {
  (void)context, (void)trial;
  return MOECL_OK;
}

void __wrap_ocl_trial_leave(moecl_context *context, const ocl_trial *trial) {
  (void)context, (void)trial;
}

/* ---- contexts ---- */

static char root[] = "/tmp/moecl-peer-XXXXXX";

static inline void make_kernels(void) {
  const char *cl = getenv("MOECL_SOURCE_CL");
  char command[1000];
  assert_non_null(cl);
  assert_non_null(mkdtemp(root));
  snprintf(command, sizeof command,
           "cp -r '%s' '%s/cl' && cp '%s/../test/kernel/peer.cl' '%s/cl/dispatch/nvidia_peer.cl'",
           cl, root, cl, root);
  assert_int_equal(system(command), 0);
}

static inline void make_members(void) {
  char kernels[64];
  make_kernels();
  snprintf(kernels, sizeof kernels, "%s/cl", root);
  const moecl_context_params params = {
      .log = log_problem, .log_user = "0", .kernel_dir = kernels, .disable_cache = true};
  assert_ok(moecl_context_create(&params, &contexts[0]));
  for (int m = 1; m < MOST_MEMBERS; m++)
    assert_ok(moecl_context_create_from_cl(contexts[0]->cl, contexts[0]->device, contexts[0]->queue,
                                           &params, &contexts[m]));
  for (int m = 0; m < MOST_MEMBERS; m++) contexts[m]->info.capabilities |= MOECL_CAP_PTX_SM80;
}

static inline void destroy_members(void) {
  char command[100];
  destroy_contexts();
  snprintf(command, sizeof command, "rm -rf '%s'", root);
  assert_int_equal(system(command), 0);
}

/* ---- what tests of them share ---- */

static inline moecl_layer_params params_by_name(void) {
  moecl_layer_params params = plain;
  params.grouped_gemm_variant = "generic";
  params.router_variant = "generic";
  return params;
}

static inline void check_nothing_left(void) {
  assert_int_equal(seen.sharers, 0);
  assert_int_equal(seen.shared, 0);
  assert_int_equal(seen.engines, 0);
  assert_int_equal(seen.mappings, 0);
}

static inline void by(const char *transport) { setenv("MOECL_TEST_TRANSPORT", transport, 1); }

#endif

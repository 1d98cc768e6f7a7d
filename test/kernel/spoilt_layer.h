// SPDX-License-Identifier: MIT
/* Layers that are created with kernels that have a mistake in them, from a copy of cl/. */
#ifndef MOECL_TEST_SPOILT_LAYER_H
#define MOECL_TEST_SPOILT_LAYER_H

#include "layer/layer.h"
#include "layer_run.h"
#include "ocl/program.h"
#include "spoil.h"
#include <unistd.h>

#define ERROR_LINE "0 " /* as test_log_add writes levels */

static char root[64];
static moecl_context *kept;         /* open_context's */
static moecl_device_info kept_info; /* as it was opened */

static inline int make_root(void **state) {
  (void)state;
  snprintf(root, sizeof root, "/tmp/moecl-spoilt-XXXXXX");
  return mkdtemp(root) ? 0 : 1;
}

static inline int remove_root(void **state) {
  char command[128];
  (void)state;
  if (kept) kept->log = (moecl_log){0}; /* the last one's is gone */
  moecl_context_destroy(&kept);
  snprintf(command, sizeof command, "rm -rf '%s'", root);
  return system(command);
}

static inline void spoil(const char *file, const char *from, const char *to) {
  spoil_kernels(root, file, from, to);
}

static inline moecl_context *open_new_context(test_log *log) {
  char kernels[128], cache[128];
  snprintf(kernels, sizeof kernels, "%s/cl", root);
  snprintf(cache, sizeof cache, "%s/cache", root);
  const moecl_context_params params = {.log = test_log_add,
                                       .log_user = log,
                                       .kernel_dir = kernels,
                                       .cache_dir = cache,
                                       .disable_cache = !keeps_programs()};
  moecl_context *context = NULL;
  log->level = MOECL_LOG_DEBUG;
  assert_ok(moecl_context_create(&params, &context));
  base_text_free(&log->text);
  return context;
}

/* One for all mistakes, as if it were new: it has what is said, its errors and what tests make of
 * the device's description for itself, and checks each kernel again. Programs follow from their
 * text: most are the same beside the next mistake, and are compiled once. */
static inline moecl_context *open_context(test_log *log) {
  if (!kept) {
    kept = open_new_context(log);
    kept_info = kept->info;
  }
  log->level = MOECL_LOG_DEBUG;
  kept->log = (moecl_log){test_log_add, log, &kept->errors};
  kept->info = kept_info;
  moecl_context_take_errors(kept, NULL, 0);
  for (ocl_program *program = kept->programs; program; program = program->next)
    program->checked = false;
  return ocl_context_retain(kept);
}

/* A layer whose logits are the only GEMM with a bias and no gather. */
static const moecl_layer_params params = {
    .hidden_size = 40, .intermediate_size = 24, .num_experts = 6, .top_k = 2, .router_bias = true};

/* Messages of one level. */
static inline size_t errors(const test_log *log) {
  return test_log_count(log, "\n" ERROR_LINE) +
         (log->text.data && strncmp(log->text.data, ERROR_LINE, 2) == 0);
}

/* `small`: on a device where single work-items are all there is. */
static inline void check_failure(bool small, const char *file, const char *from, const char *to,
                                 const moecl_layer_params *with, moecl_status want,
                                 const char *message) {
  test_log log = {0};
  spoil(file, from, to);
  moecl_context *context = open_context(&log);
  if (small) context->info.max_work_group_size = 1;
  for (int again = 0; again < 2; again++) { /* a failure is no better the second time */
    moecl_layer *layer = (moecl_layer *)&log;
    char kept[2048];
    base_text_free(&log.text);
    if (moecl_layer_create(context, with, &layer) != want || !test_log_has(&log, message))
      fail_msg("%s: '%s' in place of '%s' should end in: %s\n%s", file, to, from, message,
               log.text.data ? log.text.data : "");
    assert_null(layer);
    assert_true(errors(&log) > 0);
    assert_false(test_log_has(&log, "is set aside"));
    moecl_context_take_errors(context, kept, sizeof kept);
    assert_non_null(strstr(kept, message));
  }
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

static inline bool has_capability(uint32_t capability) {
  moecl_context *context = NULL;
  assert_ok(moecl_context_create(NULL, &context));
  const bool there = moecl_context_device(context)->capabilities & capability;
  moecl_context_destroy(&context);
  return there;
}

#endif

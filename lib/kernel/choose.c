// SPDX-License-Identifier: MIT
#include "kernel/choose.h"
#include "base/base.h"

enum { MAX_CANDIDATES = 32 };

/* Candidates, best first, from choice->from on, or a logged error; none where that is none. */
static moecl_status find_candidates(moecl_context *context, const kernel_choice *choice,
                                    const kernel_variant **list, size_t *count) {
  char why[512];
  const size_t found = kernel_candidates(choice->table, choice->asked, choice->format,
                                         &context->info, list, MAX_CANDIDATES, why, sizeof why);
  *count = 0;
  if (found == 0 && choice->optional) return MOECL_OK;
  if (found == 0) return log_error(&context->log, MOECL_ERROR_UNSUPPORTED, "%s", why);
  size_t first = 0, kept = 0;
  while (choice->from && list[first] != choice->from && first + 1 < found) first++;
  for (size_t i = first; i < found; i++)
    if (!choice->accepts || choice->accepts(choice->user, list[i])) list[kept++] = list[i];
  *count = kept;
  if (kept > 0 || choice->optional) return MOECL_OK;
  if (choice->asked)
    return log_error(
        &context->log, MOECL_ERROR_UNSUPPORTED,
        "%s variant '%s' does not take these sizes, formats or options; without a name "
        "the best that does, if any, is taken",
        choice->table->operation, choice->asked);
  return log_error(&context->log, MOECL_ERROR_UNSUPPORTED,
                   "no %s variant that serves here takes these sizes, formats and options",
                   choice->table->operation);
}

typedef struct attempt {
  moecl_context *context;
  moecl_log log;
  bool last; /* no other candidate is left */
} attempt;

/* As long as another candidate may serve, or the same one built anew, nothing is
 * an error of the call. */
static void demote(void *user, moecl_log_level level, const char *message) {
  const attempt *at = user;
  const bool final = at->last && ocl_programs_unproved(at->context) == 0;
  log_write(&at->log, level == MOECL_LOG_ERROR && !final ? MOECL_LOG_WARNING : level, "%s",
            message);
}

static moecl_status try_once(moecl_context *context, const kernel_choice *choice,
                             const kernel_variant *variant, bool last) {
  const moecl_log log = context->log;
  attempt at = {context, {log.fn, log.user, NULL}, last};
  context->log = (moecl_log){demote, &at, log.errors}; /* kept as what they are */
  const moecl_status status = choice->try_variant(choice->user, variant);
  context->log = log;
  return status;
}

/* A failure with programs from the disk cache says nothing of the variant: it gets
 * another chance with programs built from source. */
static moecl_status try_candidate(moecl_context *context, const kernel_choice *choice,
                                  const kernel_variant *variant, bool last) {
  const moecl_status status = try_once(context, choice, variant, last);
  if (status == MOECL_OK || kernel_lacks_memory(status) || ocl_programs_distrust(context) == 0)
    return status;
  return try_once(context, choice, variant, last);
}

moecl_status kernel_attempt(moecl_context *context, const kernel_variant *variant,
                            kernel_try_fn try_variant, void *user) {
  const kernel_choice choice = {.try_variant = try_variant, .user = user};
  const log_errors before = context->errors;
  const moecl_status status = try_candidate(context, &choice, variant, false);
  if (!kernel_lacks_memory(status)) context->errors = before;
  return status;
}

moecl_status kernel_choose(moecl_context *context, const kernel_choice *choice,
                           const kernel_variant **chosen, size_t *set_aside) {
  const kernel_variant *list[MAX_CANDIDATES];
  size_t count, i = 0;
  const log_errors before = context->errors;
  MOECL_TRY(find_candidates(context, choice, list, &count));
  *set_aside = 0;
  *chosen = NULL;
  for (; i < count; i++) {
    const bool last = i + 1 == count && !choice->optional;
    const moecl_status status = try_candidate(context, choice, list[i], last);
    *chosen = list[i];
    if (status == MOECL_OK) {
      context->errors = before; /* those of others are no errors of a call */
      return MOECL_OK;
    }
    if (last || kernel_lacks_memory(status))
      return log_error(&context->log, status, "%s variant '%s' cannot serve: %s",
                       choice->table->operation, list[i]->name, moecl_status_string(status));
    log_write(&context->log, MOECL_LOG_WARNING, "%s variant '%s' is set aside (%s), %s",
              choice->table->operation, list[i]->name, moecl_status_string(status),
              i + 1 < count ? "the next one serves" : "its work is done in other steps");
    ++*set_aside;
    *chosen = NULL;
  }
  context->errors = before;
  return MOECL_OK;
}

const char *kernel_reason(const char *asked, size_t set_aside) {
  if (asked) return "asked for by name";
  return set_aside == 0 ? "the best that serves this device and data type"
                        : "better ones did not build, or failed their self-check, on this device";
}

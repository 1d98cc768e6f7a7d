#include "kernel/choose.h"
#include "base/base.h"

enum { MAX_CANDIDATES = 32 };

/* Candidates, best first, from choice->from on, or a logged error. */
static moecl_status find_candidates(moecl_context *context, const kernel_choice *choice,
                                    const kernel_variant **list, size_t *count) {
  char why[512];
  const size_t found =
      kernel_candidates(choice->operation, choice->asked, choice->dtype,
                        context->info.capabilities, list, MAX_CANDIDATES, why, sizeof why);
  if (found == 0) return log_error(&context->log, MOECL_ERROR_UNSUPPORTED, "%s", why);
  size_t first = 0, kept = 0;
  while (choice->from && list[first] != choice->from && first + 1 < found)
    first++;
  for (size_t i = first; i < found; i++)
    if (!choice->accepts || choice->accepts(choice->user, list[i])) list[kept++] = list[i];
  *count = kept;
  if (kept > 0) return MOECL_OK;
  return log_error(&context->log, MOECL_ERROR_UNSUPPORTED,
                   "%s variant '%s' does not take these sizes or options", choice->operation,
                   choice->asked ? choice->asked : list[first]->name);
}

/* As long as another candidate may serve, nothing is an error of the call. */
static void demote(void *user, moecl_log_level level, const char *message) {
  log_write(user, level == MOECL_LOG_ERROR ? MOECL_LOG_WARNING : level, "%s", message);
}

static moecl_status try_quietly(moecl_context *context, const kernel_choice *choice,
                                const kernel_variant *variant) {
  moecl_log log = context->log;
  context->log = (moecl_log){demote, &log};
  const moecl_status status = choice->try_variant(choice->user, variant);
  context->log = log;
  return status;
}

static bool is_lack_of_memory(moecl_status status) {
  return status == MOECL_ERROR_OUT_OF_HOST_MEMORY || status == MOECL_ERROR_OUT_OF_DEVICE_MEMORY;
}

moecl_status kernel_choose(moecl_context *context, const kernel_choice *choice,
                           const kernel_variant **chosen, size_t *set_aside) {
  const kernel_variant *list[MAX_CANDIDATES];
  size_t count, i = 0;
  MOECL_TRY(find_candidates(context, choice, list, &count));
  *set_aside = 0;
  for (;; i++) {
    const bool last = i + 1 == count;
    const moecl_status status =
        last ? choice->try_variant(choice->user, list[i]) : try_quietly(context, choice, list[i]);
    *chosen = list[i];
    if (status == MOECL_OK) return MOECL_OK;
    if (last || is_lack_of_memory(status))
      return log_error(&context->log, status, "%s variant '%s' cannot serve: %s", choice->operation,
                       list[i]->name, moecl_status_string(status));
    log_write(&context->log, MOECL_LOG_WARNING,
              "%s variant '%s' is set aside (%s), the next one serves", choice->operation,
              list[i]->name, moecl_status_string(status));
    ++*set_aside;
  }
}

// SPDX-License-Identifier: MIT
/* A context for a command, and why there is none. */
#include "cli/moectl.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void log_to_stderr(void *user, moecl_log_level level, const char *message) {
  static const char *const starts[] = {
      "moectl: error: ", "moectl: warning: ", "moectl: info: ", "moectl: debug: "};
  const options *options = user;
  if (level > (options->verbose ? MOECL_LOG_DEBUG : MOECL_LOG_WARNING)) return;
  put_message(starts[level], message);
}

/* Can a folder be made there? What isn't there counts as its parent. */
static bool can_be_written(const char *path) {
  char part[4096];
  struct stat info;
  if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part) return true; /* who knows */
  while (stat(part, &info) != 0 && errno == ENOENT) {
    char *slash = strrchr(part, '/');
    if (!slash || slash == part) break;
    *slash = '\0';
  }
  return stat(part, &info) == 0 && S_ISDIR(info.st_mode) && access(part, W_OK | X_OK) == 0;
}

void hint_no_device(void) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  char in_home[4096];
  if (!cache || !*cache) {
    if (!home || !*home) return;
    snprintf(in_home, sizeof in_home, "%s/.cache", home);
    cache = in_home;
  }
  if (can_be_written(cache)) return;
  complain("a driver may be installed all the same: %s cannot be written, and some list no device "
           "without their cache; set XDG_CACHE_HOME to a folder that can be written (for PoCL "
           "alone: POCL_CACHE_DIR)",
           cache);
}

static bool no_device_at_all(void) {
  moecl_device_info *devices = NULL;
  size_t count = 0;
  const bool none = moecl_devices_list(&devices, &count) == MOECL_OK && count == 0;
  moecl_devices_destroy(&devices);
  return none;
}

int open_context(const options *options, const char *device, moecl_context **context) {
  return open_context_with(log_to_stderr, (void *)options, device, context);
}

int open_context_with(moecl_log_fn log, void *user, const char *device, moecl_context **context) {
  const moecl_context_params params = {.device = device, .log = log, .log_user = user};
  const moecl_status status = moecl_context_create(&params, context);
  if (status == MOECL_OK) return EXIT_ALL_OK;
  if (status == MOECL_ERROR_IO) return EXIT_USAGE; /* reported */
  complain("the device could not be opened: %s; see 'moectl devices'", moecl_status_string(status));
  if (status != MOECL_ERROR_NO_DEVICE) return EXIT_POINT_FAILED;
  if (no_device_at_all()) hint_no_device();
  return EXIT_NO_DEVICE;
}

// SPDX-License-Identifier: MIT
/* moectl: experiments with Mixture-of-Experts layers on any OpenCL device. */
#define _GNU_SOURCE
#include "cli/moectl.h"
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Names in other people's files may have anything: no control characters but line
 * ends reach the terminal. */
static void put_message(const char *start, const char *message) {
  fflush(stdout); /* where both are one file, what was said before stands before */
  fputs(start, stderr);
  for (const char *at = message; *at; at++)
    if (iscntrl((unsigned char)*at) && *at != '\n') fprintf(stderr, "\\x%02x", (unsigned)*at);
    else fputc(*at, stderr);
  fputc('\n', stderr);
}

void complain(const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *message = NULL;
  if (vasprintf(&message, format, args) < 0) message = NULL;
  va_end(args);
  put_message("moectl: ", message ? message : "no memory for a message");
  free(message);
}

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
  const moecl_context_params params = {
      .device = device, .log = log_to_stderr, .log_user = (void *)options};
  const moecl_status status = moecl_context_create(&params, context);
  if (status == MOECL_OK) return EXIT_ALL_OK;
  if (status == MOECL_ERROR_IO) return EXIT_USAGE; /* told */
  complain("the device could not be opened: %s; see 'moectl devices'", moecl_status_string(status));
  if (status != MOECL_ERROR_NO_DEVICE) return EXIT_POINT_FAILED;
  if (no_device_at_all()) hint_no_device();
  return EXIT_NO_DEVICE;
}

static int run_command(int argc, char **argv) {
  const char *name = argc > 1 ? argv[1] : NULL;
  options options = {.words = argv, .num_words = argc};
  if (!name) {
    help_usage();
    return EXIT_USAGE;
  }
  if (strcmp(name, "--version") == 0) {
    printf("moectl %s\n", moecl_version());
    return EXIT_ALL_OK;
  }
  if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) name = "help";
  const cli_command *command = cli_find_command(name);
  if (!command) {
    char hint[64];
    complain("there is no command '%s'%s; see 'moectl help'", name,
             cli_suggest_command(name, hint, sizeof hint));
    return EXIT_USAGE;
  }
  bool help;
  int code = EXIT_USAGE;
  if (cli_parse(command, argc, argv, &options, &help)) {
    code = EXIT_ALL_OK;
    if (help) help_command(command);
    else code = command->run(&options);
  }
  cli_release(&options);
  return code;
}

/* Files and results are the same for everybody. A program starts in the "C" locale,
 * but a driver that is loaded later may call setlocale(); this thread does all the
 * reading and writing, and keeps its own. */
static void keep_c_locale(void) {
  const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  if (c) uselocale(c);
}

bool flush_output(const char *folder) {
  static bool told;
  errno = 0;
  const bool failed = fflush(stdout) != 0;
  const int reason = errno;
  if (!failed && !ferror(stdout)) return true;
  if (told) return false;
  told = true;
  complain("not all output could be written%s%s%s%s", reason ? ": " : "",
           reason ? strerror(reason) : "", folder ? "; the results are in " : "",
           folder ? folder : "");
  return false;
}

int main(int argc, char **argv) {
  keep_c_locale();
  const int code = run_command(argc, argv);
  return flush_output(NULL) || code != EXIT_ALL_OK ? code : EXIT_POINT_FAILED;
}

// SPDX-License-Identifier: MIT
/* moectl: experiments with Mixture-of-Experts layers on any OpenCL device. */
#define _GNU_SOURCE
#include "cli/moectl.h"
#include <locale.h>
#include <stdio.h>
#include <string.h>

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

int main(int argc, char **argv) {
  keep_c_locale();
  const int code = run_command(argc, argv);
  return flush_output(NULL) || code != EXIT_ALL_OK ? code : EXIT_POINT_FAILED;
}

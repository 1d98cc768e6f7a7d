// SPDX-License-Identifier: MIT
#include "cli/interrupt.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

volatile sig_atomic_t interrupt_came;
static volatile sig_atomic_t last; /* nothing but the table is left */
static volatile sig_atomic_t at_once;

/* Made before the signals are caught: a handler may do little more than write. */
static char last_words[8192];
static const char first_words[] =
    "moectl: interrupted: the forward pass or the check in flight ends, then the results are "
    "written; Ctrl-C once more ends at once\n";

/* A line of its own, below what a terminal's progress line shows. */
static void say(const char *text) {
  ssize_t ignored = isatty(STDERR_FILENO) == 1 ? write(STDERR_FILENO, "\n", 1) : 0;
  ignored = write(STDERR_FILENO, text, strlen(text));
  (void)ignored;
}

static void on_signal(int number) {
  const int reason = errno;
  if (!interrupt_came && !at_once) {
    interrupt_came = 1;
    if (!last) say(first_words);
  } else {
    say(last_words);
    signal(number, SIG_DFL);
    raise(number); /* ends the program when the handler returns */
  }
  errno = reason;
}

void interrupt_say_no_more(void) { last = 1; }

void interrupt_end_at_once(void) { at_once = 1; }

void interrupt_catch(const char *resume) {
  const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  struct sigaction before;
  last = 0;
  snprintf(last_words, sizeof last_words, "moectl: ended at once; go on with: %s\n", resume);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  /* nohup asks that this one be ignored. */
  if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
    sigaction(SIGHUP, &action, NULL);
}

// SPDX-License-Identifier: MIT
#define _GNU_SOURCE /* posix_spawn_file_actions_addchdir_np */
#include "report/gnuplot.h"
#include "base/clock.h"
#include "base/files.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

void gnuplot_quote(FILE *file, const char *text) {
  fputc('\'', file);
  for (; *text; text++) {
    if (*text == '\'') fputc('\'', file);
    fputc((unsigned char)*text < ' ' ? ' ' : *text, file);
  }
  fputc('\'', file);
}

/* 0, or the errno that says why nothing was started. The program's own
 * stdout and stderr are not gnuplot's to write to. */
static int start(const char *folder, const char *script, int input, int output, int messages,
                 pid_t *child) {
  posix_spawn_file_actions_t actions;
  char program[] = "gnuplot", *path = strdup(script);
  char *arguments[] = {program, path, NULL};
  int reason = path ? posix_spawn_file_actions_init(&actions) : ENOMEM;
  if (reason != 0) {
    free(path);
    return reason;
  }
  if (input < 0) reason = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  else reason = posix_spawn_file_actions_adddup2(&actions, input, 0);
  if (!reason) reason = posix_spawn_file_actions_adddup2(&actions, output, 1);
  if (!reason) reason = posix_spawn_file_actions_adddup2(&actions, messages, 2);
  if (!reason) reason = posix_spawn_file_actions_addchdir_np(&actions, folder);
  if (!reason) reason = posix_spawnp(child, program, &actions, NULL, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  free(path);
  return reason;
}

/* Waits for the child at most so long; false: it was killed. */
static bool wait_for(pid_t child, double seconds, int *status) {
  const double end = seconds_now() + seconds;
  const struct timespec pause = {.tv_nsec = 5000000};
  for (;;) {
    const pid_t found = waitpid(child, status, WNOHANG);
    if (found == child) return true;
    if (found < 0 && errno != EINTR) {
      *status = -1;
      return true;
    }
    if (seconds_now() > end) break;
    nanosleep(&pause, NULL);
  }
  kill(child, SIGKILL);
  while (waitpid(child, status, 0) < 0 && errno == EINTR) continue;
  return false;
}

/* The last line that says something: gnuplot prints the script's line and a
 * caret before the reason. */
static char *last_line(FILE *messages) {
  char line[256], last[256] = "";
  rewind(messages);
  while (fgets(line, sizeof line, messages)) {
    line[strcspn(line, "\n")] = '\0';
    if (line[strspn(line, " ^")]) memcpy(last, line, sizeof last);
  }
  return format_text("%s", last + strspn(last, " "));
}

/* `input` NULL: none. */
static gnuplot_outcome run(const char *folder, const char *script, FILE *input, FILE *output,
                           FILE *messages, double seconds, char **why) {
  pid_t child = 0;
  int status = 0;
  const int reason =
      start(folder, script, input ? fileno(input) : -1, fileno(output), fileno(messages), &child);
  if (reason == ENOENT || reason == ENOTDIR) return GNUPLOT_MISSING;
  if (reason != 0) *why = format_text("%s", strerror(reason));
  else if (!wait_for(child, seconds, &status))
    *why = format_text("stopped after %.0f seconds", seconds);
  else if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return GNUPLOT_OK;
  else if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    return GNUPLOT_MISSING; /* C libraries that find out only in the child */
  else *why = last_line(messages);
  return GNUPLOT_FAILED;
}

gnuplot_outcome gnuplot_run(const char *folder, const char *script, double seconds, char **why) {
  *why = NULL;
  FILE *messages = tmpfile();
  if (!messages) {
    *why = format_text("no temporary file: %s", strerror(errno));
    return GNUPLOT_FAILED;
  }
  const gnuplot_outcome outcome = run(folder, script, NULL, messages, messages, seconds, why);
  fclose(messages);
  return outcome;
}

/* The whole of a file, malloc'ed; NULL without memory. */
static char *read_all(FILE *file) {
  const long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
  char *text = size >= 0 ? malloc((size_t)size + 1) : NULL;
  if (!text) return NULL;
  rewind(file);
  text[fread(text, 1, (size_t)size, file)] = '\0';
  return text;
}

char *gnuplot_draw(const char *script, double seconds) {
  FILE *input = tmpfile(), *output = tmpfile(), *messages = tmpfile();
  char *why = NULL, *drawn = NULL;
  bool ok = input && output && messages;
  /* The child reads from where the descriptor stands. */
  ok = ok && fputs(script, input) >= 0 && fflush(input) == 0 && fseek(input, 0, SEEK_SET) == 0;
  if (ok && run("/", "-", input, output, messages, seconds, &why) == GNUPLOT_OK)
    drawn = read_all(output);
  free(why);
  if (input) fclose(input);
  if (output) fclose(output);
  if (messages) fclose(messages);
  return drawn;
}

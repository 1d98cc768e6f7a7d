// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "base/log.h"
#include <stdlib.h>
#include <string.h>

static void keep_error(log_errors *errors, const char *message) {
  enum { MOST = 1000 }; /* of one: the call that failed and a build log fit together */
  const size_t room = sizeof errors->text - 1, length = strlen(message);
  const size_t more = length < MOST ? length : MOST;
  while (errors->size + more + 1 > room) {
    const char *end = strchr(errors->text, '\n');
    const size_t oldest = (size_t)(end - errors->text) + 1;
    errors->size -= oldest;
    memmove(errors->text, end + 1, errors->size + 1);
  }
  memcpy(errors->text + errors->size, message, more);
  errors->size += more;
  errors->text[errors->size++] = '\n';
  errors->text[errors->size] = '\0';
}

static void hand_on(const moecl_log *log, moecl_log_level level, const char *message) {
  if (level == MOECL_LOG_ERROR && log->errors) keep_error(log->errors, message);
  if (log->fn) log->fn(log->user, level, message);
}

static void write_message(const moecl_log *log, moecl_log_level level, const char *format,
                          va_list args) {
  if (!log || (!log->fn && !(level == MOECL_LOG_ERROR && log->errors))) return;
  char small[512];
  va_list again;
  va_copy(again, args);
  int size = base_vformat(small, sizeof small, format, args);
  if (size >= 0 && (size_t)size < sizeof small) {
    hand_on(log, level, small);
  } else if (size >= 0) {
    char *large = malloc((size_t)size + 1);
    if (large) base_vformat(large, (size_t)size + 1, format, again);
    /* Without memory the first 511 characters are better than nothing. */
    hand_on(log, level, large ? large : small);
    free(large);
  }
  va_end(again);
}

void log_write(const moecl_log *log, moecl_log_level level, const char *format, ...) {
  va_list args;
  va_start(args, format);
  write_message(log, level, format, args);
  va_end(args);
}

moecl_status log_error(const moecl_log *log, moecl_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  write_message(log, MOECL_LOG_ERROR, format, args);
  va_end(args);
  return status;
}

/* ---- kept ---- */

typedef struct log_message {
  struct log_message *next;
  moecl_log_level level;
  char text[];
} log_message;

static void keep_message(void *user, moecl_log_level level, const char *message) {
  log_kept *kept = user;
  const size_t size = strlen(message) + 1;
  log_message *made = malloc(sizeof *made + size);
  if (!made) return;
  *made = (log_message){.level = level};
  memcpy(made->text, message, size);
  if (kept->last) kept->last->next = made;
  else kept->first = made;
  kept->last = made;
}

moecl_log log_keeping(log_kept *kept) { return (moecl_log){.fn = keep_message, .user = kept}; }

void log_hand_on(log_kept *kept, const moecl_log *to) {
  for (log_message *message = kept->first, *next; message; message = next) {
    next = message->next;
    hand_on(to, message->level, message->text);
    free(message);
  }
  *kept = (log_kept){0};
}

/* ---- checks ---- */

moecl_status log_check_reserved(const moecl_log *log, const char *type, const uint64_t *reserved,
                                size_t count) {
  const size_t at = base_first_set(reserved, count);
  if (at == count) return MOECL_OK;
  return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, LOG_RESERVED, type, at, moecl_version());
}

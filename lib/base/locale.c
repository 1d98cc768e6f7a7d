// SPDX-License-Identifier: MIT
/* What C's library makes depend on the locale, always as in the "C" locale: an
 * embedding program's setlocale() must change no number and no message. The
 * locale is the calling thread's for a moment (uselocale), so other threads and
 * the program's callbacks notice nothing. This file alone in lib/ may use
 * printf's, strtod's and ctype.h's functions on what they make of a locale. */
#include "base/base.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool base_locale_enter(base_locale *locale) {
  *locale = (base_locale){.c = newlocale(LC_ALL_MASK, "C", (locale_t)0)};
  if (!locale->c) return false;
  locale->before = uselocale(locale->c);
  return true;
}

void base_locale_leave(base_locale *locale) {
  if (!locale->c) return;
  uselocale(locale->before);
  freelocale(locale->c);
  *locale = (base_locale){0};
}

/* Without memory for a locale the text is still better than none: what has to be
 * exact is source, and there a comma does not compile. */
int base_vformat(char *text, size_t size, const char *format, va_list args) {
  base_locale locale;
  base_locale_enter(&locale);
  const int length = vsnprintf(text, size, format, args);
  base_locale_leave(&locale);
  return length;
}

int base_format(char *text, size_t size, const char *format, ...) {
  va_list args;
  va_start(args, format);
  const int length = base_vformat(text, size, format, args);
  va_end(args);
  return length;
}

double base_parse_double(const char *text, char **end) {
  base_locale locale;
  if (!base_locale_enter(&locale)) {
    if (end) *end = (char *)text;
    return NAN;
  }
  const double value = strtod(text, end);
  base_locale_leave(&locale);
  return value;
}

const char *base_error_text(int code) {
  base_locale locale;
  if (!base_locale_enter(&locale)) return "no host memory";
  const char *text = strerror_l(code, locale.c);
  base_locale_leave(&locale);
  return text;
}

bool base_is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

bool base_same_letters(const char *a, const char *b, size_t size) {
  for (size_t i = 0; i < size; i++) {
    if (lower(a[i]) != lower(b[i])) return false;
    if (!a[i]) return true;
  }
  return true;
}

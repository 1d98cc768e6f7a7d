// SPDX-License-Identifier: MIT
/* Instead of one place in the name, each part of the expression takes a set of places to another:
 * nothing is tried twice. */
#include "model/name_pattern.h"

#include <stddef.h>
#include <string.h>

enum { MAX_NAME = 300, MAX_DEPTH = 2 };

typedef struct places {
  bool at[MAX_NAME + 1]; /* before that character */
} places;

typedef struct matcher {
  const char *name;
  size_t size;
  bool unknown;
} matcher;

static void add(places *to, const places *from, size_t size) {
  for (size_t i = 0; i <= size; i++) to->at[i] = to->at[i] || from->at[i];
}

/* ---- one part of an expression: a character, a class, a group ---- */

static const char *class_end(const char *at, const char *end) {
  at += at + 1 < end && at[1] == '^' ? 2 : 1;
  if (at < end && *at == ']') at++; /* the first one is a character */
  while (at < end && *at != ']') at += *at == '\\' && at + 1 < end ? 2 : 1;
  return at < end ? at + 1 : NULL;
}

static const char *group_end(const char *at, const char *end) {
  int depth = 0;
  while (at < end) {
    if (*at == '[') {
      at = class_end(at, end);
      if (!at) return NULL;
      continue;
    }
    if (*at == '\\') at++;
    else if (*at == '(') depth++;
    else if (*at == ')' && --depth == 0) return at + 1;
    at++;
  }
  return NULL;
}

static const char *part_end(const char *at, const char *end) {
  if (*at == '[') return class_end(at, end);
  if (*at == '(') return group_end(at, end);
  return *at == '\\' ? (at + 1 < end ? at + 2 : NULL) : at + 1;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* `at` is behind a backslash. */
static bool escape_takes(matcher *m, const char *at, char c) {
  if (*at == 'd') return is_digit(c);
  if (*at == 'w') return is_digit(c) || is_letter(c) || c == '_';
  m->unknown = m->unknown || is_digit(*at) || is_letter(*at);
  return c == *at;
}

static bool class_takes(matcher *m, const char *at, const char *end, char c) {
  const bool inverse = at[1] == '^';
  bool found = false;
  at += inverse ? 2 : 1;
  for (end--; at < end;) {
    if (*at == '\\') {
      found = escape_takes(m, at + 1, c) || found;
      at += 2;
    } else if (at + 2 < end && at[1] == '-') {
      found = found || (c >= at[0] && c <= at[2]);
      at += 3;
    } else {
      found = found || c == *at;
      at++;
    }
  }
  return found != inverse;
}

static bool takes(matcher *m, const char *at, const char *end, char c) {
  switch (*at) {
  case '.': return true;
  case '[': return class_takes(m, at, end, c);
  case '\\': return escape_takes(m, at + 1, c);
  default: return c == *at;
  }
}

static places match_any(matcher *m, const char *at, const char *end, const places *from, int depth);

static places match_part(matcher *m, const char *at, const char *end, const places *from,
                         int depth) {
  places to = {{false}};
  if (*at == '^' || *at == '$') {
    const size_t place = *at == '^' ? 0 : m->size;
    to.at[place] = from->at[place];
    return to;
  }
  if (*at == '(') {
    const bool plain = end - at > 3 && at[1] == '?' && at[2] == ':';
    if (depth == MAX_DEPTH || (at[1] == '?' && !plain)) m->unknown = true;
    if (m->unknown) return to;
    return match_any(m, at + (plain ? 3 : 1), end - 1, from, depth + 1);
  }
  for (size_t i = 0; i < m->size; i++) to.at[i + 1] = from->at[i] && takes(m, at, end, m->name[i]);
  return to;
}

/* ---- parts one after the other, and alternatives ---- */

static places match_repeated(matcher *m, const char *at, const char *end, char how,
                             const places *from, int depth) {
  places all = match_part(m, at, end, from, depth);
  const bool none_too = how == '*' || how == '?';
  for (bool grows = how == '*' || how == '+'; grows && !m->unknown;) {
    const places more = match_part(m, at, end, &all, depth), before = all;
    add(&all, &more, m->size);
    grows = memcmp(&all, &before, sizeof all) != 0;
  }
  if (none_too) add(&all, from, m->size);
  return all;
}

static places match_sequence(matcher *m, const char *at, const char *end, const places *from,
                             int depth) {
  places now = *from;
  while (at < end && !m->unknown) {
    const char *behind = strchr("*+?{})", *at) ? NULL : part_end(at, end);
    if (!behind) {
      m->unknown = true;
      break;
    }
    const char how = behind < end && strchr("*+?", *behind) ? *behind : '\0';
    now = match_repeated(m, at, behind, how, &now, depth);
    at = behind + (how != '\0');
    if (how && at < end && *at == '?') at++; /* the shortest first: the same names */
  }
  return now;
}

static places match_any(matcher *m, const char *at, const char *end, const places *from,
                        int depth) {
  places all = {{false}};
  while (!m->unknown) {
    const char *bar = at;
    while (bar && bar < end && *bar != '|') bar = part_end(bar, end);
    if (!bar) m->unknown = true;
    if (m->unknown) break;
    const places some = match_sequence(m, at, bar, from, depth);
    add(&all, &some, m->size);
    if (bar >= end) break;
    at = bar + 1;
  }
  return all;
}

name_match name_match_expression(const char *expression, const char *name) {
  matcher m = {.name = name, .size = strlen(name)};
  places first = {{true}};
  if (m.size > MAX_NAME) return NAME_UNKNOWN;
  const places found = match_any(&m, expression, expression + strlen(expression), &first, 0);
  if (m.unknown) return NAME_UNKNOWN;
  for (size_t i = 0; i <= m.size; i++)
    if (found.at[i]) return NAME_MATCHES;
  return NAME_OTHER;
}

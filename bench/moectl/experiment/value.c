// SPDX-License-Identifier: MIT
#include "experiment/value.h"

#include "base/suggest.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a scalar looks like, before asking what the key wants. */
typedef enum number_shape { NOT_A_NUMBER = 0, SHAPE_INTEGER, SHAPE_REAL, SHAPE_ODD } number_shape;

static size_t count_digits(const char *text) { return strspn(text, "0123456789"); }

/* Plain decimal notation only. YAML 1.1's other spellings (0x10, 010, 1_000,
 * .inf) mean different things to different readers and are refused. */
static number_shape shape_of(const char *text) {
  const char *s = text + (*text == '+' || *text == '-');
  size_t whole = count_digits(s);
  if (whole > 1 && s[0] == '0') return SHAPE_ODD;
  s += whole;
  if (whole > 0 && *s == '\0') return SHAPE_INTEGER;
  size_t fraction = 0;
  if (*s == '.') {
    fraction = count_digits(++s);
    s += fraction;
  }
  if (whole + fraction == 0) return NOT_A_NUMBER;
  if (*s == 'e' || *s == 'E') {
    s++;
    s += *s == '+' || *s == '-';
    size_t exponent = count_digits(s);
    if (exponent == 0) return NOT_A_NUMBER;
    s += exponent;
  }
  return *s == '\0' ? SHAPE_REAL : whole > 0 ? SHAPE_ODD : NOT_A_NUMBER;
}

static bool is_one_of(const tree_node *node, const char *const *words) {
  for (; *words != NULL; words++)
    if (strcmp(node->text, *words) == 0) return true;
  return false;
}

static bool is_null(const tree_node *node) {
  static const char *const words[] = {"null", "~", NULL};
  return !node->quoted && is_one_of(node, words);
}

/* A line that helps with what was written instead, or "". */
static void hint_for(const schema_key *key, const tree_node *node, char *hint, size_t size) {
  static const char *const nulls[] = {"Null", "NULL", "none", "None", "nil", NULL};
  static const char *const yes[] = {"yes",  "Yes",  "YES", "on", "On", "ON",
                                    "True", "TRUE", "y",   "1",  NULL};
  static const char *const no[] = {"no",    "No",    "NO", "off", "Off", "OFF",
                                   "False", "FALSE", "n",  "0",   NULL};
  hint[0] = '\0';
  if (node->kind != TREE_SCALAR) return;
  double real = 0;
  bool number = key->type == TYPE_INT || key->type == TYPE_REAL;
  number_shape shape = shape_of(node->text);
  if (number && node->quoted && shape != NOT_A_NUMBER)
    snprintf(hint, size, "; write it without quotes");
  else if ((key->flags & NULLABLE) && (is_one_of(node, nulls) || (node->size == 0)))
    snprintf(hint, size, "; write null");
  else if (key->type == TYPE_BOOL && is_one_of(node, yes)) snprintf(hint, size, "; write true");
  else if (key->type == TYPE_BOOL && is_one_of(node, no)) snprintf(hint, size, "; write false");
  else if (key->type == TYPE_BOOL && node->quoted)
    snprintf(hint, size, "; write it without quotes");
  else if (number && shape == SHAPE_ODD) snprintf(hint, size, "; write a plain decimal number");
  else if (key->type == TYPE_INT && shape == SHAPE_REAL) {
    real = strtod(node->text, NULL);
    if (real == floor(real) && fabs(real) < 1e15) snprintf(hint, size, "; write %.0f", real);
    else snprintf(hint, size, "; a fraction has no meaning here");
  } else if (key->type == TYPE_REAL && (key->flags & NULLABLE) && shape != NOT_A_NUMBER &&
             strtod(node->text, NULL) == 0)
    snprintf(hint, size,
             key == schema_get(KEY_PARALLEL_CACHE) ? "; for all that fit write null"
                                                   : "; for no limit write null");
  else if (key->type == TYPE_CHOICE) {
    suggestion s = suggest_begin(node->text, node->size);
    for (int i = 0; i < key->num_choices; i++)
      if (key->choice(i)) suggest_try(&s, key->choice(i));
    if (key == schema_get(KEY_DTYPE) && suggest_dtype(node->text) != NULL)
      s.best = suggest_dtype(node->text);
    if (s.best != NULL) snprintf(hint, size, "; did you mean '%s'?", s.best);
  }
}

static bool refuse(const schema_key *key, const tree_node *node, problems *problems) {
  char expected[SCHEMA_EXPECTED_SIZE], found[96], hint[96];
  const char *one_of = key->type == TYPE_CHOICE && key->num_choices > 1 ? "one of " : "";
  hint_for(key, node, hint, sizeof hint);
  problem_add(problems, node->mark, "%s: expected %s%s, found %s%s", key->name, one_of,
              schema_expected(key, expected, sizeof expected),
              tree_describe(node, found, sizeof found), hint);
  return false;
}

/* One that a signed integer, as JSON's readers take, can't hold may stand in quotes, as
 * results.json has it. */
static bool read_all_bits(const tree_node *node, int64_t *integer) {
  if (shape_of(node->text) != SHAPE_INTEGER) return false;
  errno = 0;
  const uint64_t parsed = strtoull(node->text, NULL, 10);
  memcpy(integer, &parsed, sizeof parsed);
  if (errno != 0 || (node->text[0] == '-' && parsed != 0)) return false;
  return !node->quoted || parsed > INT64_MAX;
}

static bool read_integer(const schema_key *key, const tree_node *node, int64_t *integer) {
  if (key->flags & ALL_BITS) return read_all_bits(node, integer);
  if (node->quoted || shape_of(node->text) != SHAPE_INTEGER) return false;
  errno = 0;
  long long parsed = strtoll(node->text, NULL, 10);
  *integer = parsed;
  return errno == 0 && parsed >= key->min && parsed <= key->max;
}

static bool in_range(const schema_key *key, double real) {
  const double min = (double)key->min, max = (double)key->max;
  const bool above = key->flags & MIN_OPEN ? real > min : real >= min;
  const bool below = key->flags & MAX_OPEN ? real < max : real <= max;
  return above && below;
}

static bool read_real(const schema_key *key, const tree_node *node, double *real) {
  number_shape shape = shape_of(node->text);
  if (node->quoted || (shape != SHAPE_INTEGER && shape != SHAPE_REAL)) return false;
  *real = strtod(node->text, NULL) + 0.0; /* too large: infinite, out of range; -0: 0 */
  /* The field may be a float: what was written must be in the range, and what becomes
   * of it. 0.99999999 must not round up to a forbidden 1, nor -1e-50 to 0. */
  return in_range(key, *real) && (key->size != sizeof(float) || in_range(key, (float)*real));
}

static bool read_bool(const tree_node *node, int64_t *integer) {
  if (node->quoted) return false;
  *integer = strcmp(node->text, "true") == 0;
  return *integer == 1 || strcmp(node->text, "false") == 0;
}

static bool read_choice(const schema_key *key, const tree_node *node, int64_t *integer) {
  for (int i = 0; i < key->num_choices; i++) {
    *integer = i;
    if (key->choice(i) && strcmp(node->text, key->choice(i)) == 0) return true;
  }
  return false;
}

/* The name becomes a folder's name on any file system. */
static bool name_allowed(const schema_key *key, const tree_node *node) {
  static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  return node->size > 0 && node->size <= (size_t)key->max &&
         strspn(node->text, allowed) == node->size && strchr("._-", node->text[0]) == NULL;
}

static bool refuse_name(const schema_key *key, const tree_node *node, problems *problems) {
  char shown[64];
  problem_add(problems, node->mark,
              "name: expected at most %lld letters, digits, '.', '_' and '-', beginning with a "
              "letter or digit, found '%s'%s",
              (long long)key->max, printable(node->text, node->size, shown, sizeof shown),
              node->size == 0 ? "; without this key it is the file's" : "");
  return false;
}

static bool read_text(const schema_key *key, const tree_node *node, value *v, problems *problems) {
  const bool is_name = key == schema_get(KEY_NAME);
  if (is_name && !is_null(node) && node->size == 0) return refuse_name(key, node, problems);
  if (node->size == 0 || is_null(node)) return refuse(key, node, problems);
  for (size_t i = 0; i < node->size; i++)
    if ((unsigned char)node->text[i] < 0x20) {
      problem_add(problems, node->mark, "%s: expected a text without control characters",
                  key->name);
      return false;
    }
  if (is_name && !name_allowed(key, node)) return refuse_name(key, node, problems);
  if (node->size > (size_t)key->max) {
    problem_add(problems, node->mark, "%s: expected at most %lld bytes, found %zu", key->name,
                (long long)key->max, node->size);
    return false;
  }
  v->text = malloc(node->size + 1);
  if (v->text == NULL) {
    problem_out_of_memory(problems);
    return false;
  }
  memcpy(v->text, node->text, node->size + 1);
  return true;
}

/* A list of texts as one, with commas between. */
static bool read_words(const schema_key *key, const tree_node *list, value *v, problems *problems) {
  char text[4096];
  size_t used = 0;
  for (size_t i = 0; i < list->count; i++) {
    const tree_node *word = list->items[i];
    if (word->kind != TREE_SCALAR) return refuse(key, word, problems);
    if (used + word->size + 3 > sizeof text) return refuse(key, list, problems);
    used +=
        (size_t)snprintf(text + used, sizeof text - used, "%s%s", i > 0 ? ", " : "", word->text);
  }
  tree_node node = {.kind = TREE_SCALAR, .mark = list->mark, .text = text, .size = used};
  return read_text(key, &node, v, problems);
}

bool value_read(const schema_key *key, const tree_node *node, value *v, problems *problems) {
  *v = (value){0};
  if (node->kind == TREE_LIST && (key->flags & WORDS)) return read_words(key, node, v, problems);
  if (node->kind != TREE_SCALAR) return refuse(key, node, problems);
  const bool is_auto = (key->flags & AUTO_NULL) && strcmp(node->text, "auto") == 0;
  if ((key->flags & NULLABLE) && (is_null(node) || is_auto)) {
    v->null = true;
    return true;
  }
  bool good = false;
  /* A NUL inside would make C's string functions see only a part. */
  bool has_nul = strlen(node->text) != node->size;
  switch (key->type) {
  case TYPE_INT: good = !has_nul && read_integer(key, node, &v->integer); break;
  case TYPE_REAL: good = !has_nul && read_real(key, node, &v->real); break;
  case TYPE_BOOL: good = !has_nul && read_bool(node, &v->integer); break;
  case TYPE_CHOICE: good = !has_nul && read_choice(key, node, &v->integer); break;
  case TYPE_TEXT: return read_text(key, node, v, problems);
  }
  return good || refuse(key, node, problems);
}

bool value_default(const schema_key *key, value *v, problems *problems) {
  char text[32];
  snprintf(text, sizeof text, "%s", key->default_text);
  tree_node node = {.kind = TREE_SCALAR, .text = text, .size = strlen(text)};
  return value_read(key, &node, v, problems);
}

bool value_equal(const schema_key *key, const value *a, const value *b) {
  if (a->null || b->null) return a->null && b->null;
  if (key->type == TYPE_TEXT) return strcmp(a->text, b->text) == 0;
  if (key->type == TYPE_REAL && key->size == sizeof(float)) return (float)a->real == (float)b->real;
  return key->type == TYPE_REAL ? a->real == b->real : a->integer == b->integer;
}

void value_free(value *v) {
  free(v->text);
  *v = (value){0};
}

// SPDX-License-Identifier: MIT
/* Words that are pasted into a shell come out of it as they went in: bash is asked,
 * and sh too where no control character needs $'...'. */
#include "base/shell.h"
#include "unit.h"
#include <unistd.h>

/* What `shell` makes of the line's words, each followed by a NUL; in all *size bytes. */
static char *ask(const char *shell, const char *line, size_t *size) {
  char script[] = "/tmp/moecl-shell-XXXXXX", command[128], piece[4096];
  const int fd = mkstemp(script);
  assert_true(fd >= 0);
  assert_int_equal(dprintf(fd, "printf '%%s\\0' %s\n", line), (int)strlen(line) + 15);
  assert_int_equal(close(fd), 0);
  snprintf(command, sizeof command, "%s %s", shell, script);
  FILE *output = popen(command, "r");
  assert_non_null(output);
  base_text all = {0};
  for (size_t got; (got = fread(piece, 1, sizeof piece, output)) > 0;)
    base_text_add(&all, piece, got);
  assert_int_equal(pclose(output), 0);
  unlink(script);
  *size = all.size;
  return all.data;
}

static bool has_control(const char *text) {
  for (; *text; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f) return true;
  return false;
}

static void check(const char *const *words, size_t count) {
  base_text want = {0}, line = {0};
  bool control = false;
  for (size_t i = 0; i < count; i++) {
    char *word = shell_text(words[i]);
    assert_non_null(word);
    assert_null(strchr(word, '\n'));
    base_text_addf(&line, " %s", word);
    base_text_add(&want, words[i], strlen(words[i]) + 1);
    control = control || has_control(words[i]);
    free(word);
  }
  for (int sh = 0; sh < (control ? 1 : 2); sh++) {
    size_t size;
    char *got = ask(sh ? "sh" : "bash", line.data, &size);
    if (size != want.size || memcmp(got, want.data, size) != 0)
      fail_msg("%s makes of%s:\n'%.*s'", sh ? "sh" : "bash", line.data, (int)size, got);
    free(got);
  }
  base_text_free(&line);
  base_text_free(&want);
}

static void test_words(void **state) {
  (void)state;
  static const char *const harmless[] = {"plain",
                                         "a/b-c_d.e+f=g,h:i@j%k",
                                         "",
                                         " ",
                                         "it's",
                                         "'",
                                         "''",
                                         "\"$(rm -rf x)\" `b`",
                                         "$HOME",
                                         "*",
                                         "?",
                                         "[a]",
                                         "~",
                                         "!",
                                         "#x",
                                         "a#b",
                                         "a;b",
                                         "a|b&c",
                                         "<in>out",
                                         "(x)",
                                         "{a,b}",
                                         "\\",
                                         "\\n",
                                         "a\\'b",
                                         "layer.top_k=[1,2]",
                                         "caf\xc3\xa9 \xe2\x82\xac",
                                         "-x",
                                         "--"};
  static const char *const controls[] = {"a\nb",
                                         "\n",
                                         "tab\there",
                                         "it's\n\"both\"\\",
                                         "\x1b[31m",
                                         "\x7f",
                                         "\x01"
                                         "23",
                                         "```\n```",
                                         "$'x'\r"};
  check(harmless, sizeof harmless / sizeof *harmless);
  check(controls, sizeof controls / sizeof *controls);
  char *word = shell_text("results/x-1.5"); /* nothing to quote */
  assert_string_equal(word, "results/x-1.5");
  free(word);
}

/* Any bytes but NUL. */
static void test_random(void **state) {
  (void)state;
  enum { WORDS = 400 };
  static char texts[WORDS][24];
  const char *words[WORDS];
  uint64_t random = 20261128;
  for (int i = 0; i < WORDS; i++) {
    size_t length = 0;
    for (; length < (size_t)(i % 23); length++) {
      random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      const char c = (char)(i % 2 ? random >> 56 : 32 + (random >> 56) % 95);
      texts[i][length] = c ? c : '\'';
    }
    words[i] = texts[i];
  }
  for (int i = 0; i < WORDS; i += 40) check(words + i, 40);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_words), cmocka_unit_test(test_random)};
  if (system("bash -c true 2>/dev/null") != 0) {
    printf("SKIP: no bash\n");
    return TEST_SKIP;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: MIT
/* A program with a decimal comma: numbers that are read, written, compiled and
 * told are those of the "C" locale, in the thread that set the locale and in one
 * that has a locale of its own. */
#include "small_layer.h"
#include "test_files.h"
#include "moecl/checkpoint.h"
#include "model/json.h"
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <sys/stat.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- a locale with a comma ---- */

static char comma_locale[64];

static bool has_comma(const char *name) {
  char text[16] = "";
  if (!setlocale(LC_ALL, name)) return false;
  snprintf(text, sizeof text, "%.1f", 2.5);
  setlocale(LC_ALL, "C");
  snprintf(comma_locale, sizeof comma_locale, "%s", name);
  return strcmp(text, "2,5") == 0;
}

/* One that the system has, else one made here (Debian: locales). */
static bool find_comma_locale(void) {
  static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "it_IT.UTF-8",
                                      "pl_PL.UTF-8"};
  for (size_t i = 0; i < COUNT(names); i++)
    if (has_comma(names[i])) return true;
  const char *folder = test_path("locale");
  char command[1200];
  mkdir(folder, 0700);
  snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 '%s/de_DE.UTF-8' >'%s/log' 2>&1",
           folder, folder);
  if (system(command) != 0) printf("localedef failed\n"); /* it warns with 1, too */
  setenv("LOCPATH", folder, 1);
  return has_comma("de_DE.UTF-8");
}

static void enter_comma(void) { assert_non_null(setlocale(LC_ALL, comma_locale)); }

/* For cmocka: each test begins and ends without. */
static int reset(void **state) {
  (void)state;
  return setlocale(LC_ALL, "C") ? 0 : 1;
}

/* ---- numbers ---- */

static const struct {
  const char *text;
  double value;
} numbers[] = {{"2.5", 0x1.4p+1},
               {"-0.1", -0x1.999999999999ap-4},
               {"1e-3", 0x1.0624dd2f1a9fcp-10},
               {"1.7976931348623157e+308", 0x1.fffffffffffffp+1023},
               {"4.9406564584124654e-324", 0x1p-1074},
               {"12345.678", 0x1.81cd6c8b43958p+13},
               {"0x1.8p+1", 3},
               {"7", 7}};

static void test_numbers(void **state) {
  (void)state;
  enter_comma();
  for (size_t i = 0; i < COUNT(numbers); i++) {
    char *end;
    const double got = base_parse_double(numbers[i].text, &end);
    if (got != numbers[i].value || *end)
      fail_msg("'%s' is read as %a, expected %a", numbers[i].text, got, numbers[i].value);
  }
  static const struct {
    const char *format;
    double value;
    const char *text;
  } written[] = {{"%g", 2.5, "2.5"},
                 {"%.3f", 1234.5678, "1234.568"},
                 {"%af", 2.5, "0x1.4p+1f"},
                 {"%.17g", 0.1, "0.10000000000000001"},
                 {"%e", -1.5e300, "-1.500000e+300"}};
  for (size_t i = 0; i < COUNT(written); i++) {
    char text[64];
    base_text grown = {0};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
    base_format(text, sizeof text, written[i].format, written[i].value);
    base_text_addf(&grown, written[i].format, written[i].value);
#pragma GCC diagnostic pop
    assert_string_equal(text, written[i].text);
    assert_string_equal(grown.data, written[i].text);
    base_text_free(&grown);
  }
  char own[16];
  snprintf(own, sizeof own, "%g", 2.5); /* the program's locale is what it was */
  assert_string_equal(own, "2,5");
}

/* Every finite double comes back; bits from a generator, extremes above. */
static void test_round_trip(void **state) {
  (void)state;
  enter_comma();
  uint64_t bits = UINT64_C(20261128);
  for (int i = 0; i < 20000; i++) {
    bits = bits * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    double value, back;
    char text[64];
    memcpy(&value, &bits, sizeof value);
    if (!isfinite(value)) continue;
    base_format(text, sizeof text, i % 2 ? "%.17g" : "%a", value);
    back = base_parse_double(text, NULL);
    if (memcmp(&back, &value, sizeof value) != 0)
      fail_msg("number %d of seed 20261128: %s came back as %a", i, text, back);
  }
}

static void test_json(void **state) {
  (void)state;
  enter_comma();
  for (size_t i = 0; i + 2 < COUNT(numbers); i++) { /* hexadecimal is no JSON */
    char text[64];
    json_t *root = NULL;
    snprintf(text, sizeof text, "{\"x\": %s}", numbers[i].text);
    assert_ok(json_parse(NULL, "t.json", "it", text, strlen(text), (json_limits){4, 10}, &root));
    const double got = json_number_value(json_object_get(root, "x"));
    if (got != numbers[i].value)
      fail_msg("%s is read as %a, expected %a", text, got, numbers[i].value);
    json_decref(root);
  }
}

static void test_letters(void **state) {
  (void)state;
  enter_comma();
  assert_true(base_same_letters("GPU", "gpu", SIZE_MAX));
  assert_true(base_same_letters("INTEL(R)", "intel", 5));
  assert_false(base_same_letters("gp", "gpu", SIZE_MAX));
  assert_false(base_same_letters("\xc4\xb0", "i\xcc", 2));
  assert_true(base_is_space('\t') && base_is_space(' ') && base_is_space('\r'));
  assert_false(base_is_space('\0') || base_is_space((char)0xa0) || base_is_space('x'));
}

static void test_messages(void **state) {
  (void)state;
  char message[256];
  moecl_layer_params params = small_params;
  params.jitter = -0.5f;
  enter_comma();
  assert_int_equal(moecl_layer_params_check(&params, message, sizeof message),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_non_null(strstr(message, "jitter is -0.5,"));
  assert_string_equal(base_error_text(2), "No such file or directory");
}

/* ---- a model's numbers: in the file, and defaults where they are not ---- */

static void check_model(const char *keys, float scale) {
  const char *folder = test_path("locale-model");
  char path[1024], config[512];
  moecl_checkpoint *checkpoint = NULL;
  moecl_checkpoint_layer layer;
  mkdir(folder, 0700);
  snprintf(config, sizeof config,
           "{\"model_type\": \"deepseek_v3\", \"hidden_size\": 6, \"first_k_dense_replace\": 0,"
           " \"num_hidden_layers\": 1%s}",
           keys);
  snprintf(path, sizeof path, "%s/config.json", folder);
  write_file(path, config, strlen(config));
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  write_safetensors(path, "{}", "", 0);
  assert_ok(moecl_checkpoint_open(folder, NULL, NULL, &checkpoint));
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &layer));
  if (layer.params.routed_scaling_factor != scale)
    fail_msg("config with '%s': scaling factor x1000 is %d, expected %d", keys,
             (int)(1000 * layer.params.routed_scaling_factor), (int)(1000 * scale));
  moecl_checkpoint_destroy(&checkpoint);
}

static void test_models(void **state) {
  (void)state;
  enter_comma();
  check_model("", 2.5f); /* the family's default */
  check_model(", \"routed_scaling_factor\": 1.375", 1.375f);
  check_model(", \"routed_scaling_factor\": 6.25e-2", 0.0625f);
}

/* ---- layers whose source has numbers ---- */

enum { MAX_CASES = 7 };
static moecl_layer_params cases[MAX_CASES];
static const char *const case_names[MAX_CASES] = {"scaling factor",
                                                  "sparsemixer",
                                                  "clamped SwiGLU",
                                                  "renormalized after capacity",
                                                  "jitter",
                                                  "a factor of 24 bits",
                                                  "what keeps a sum from 0"};

static void describe_cases(void) {
  for (int i = 0; i < MAX_CASES; i++) cases[i] = small_params;
  cases[0].routed_scaling_factor = 2.5f;
  cases[1].scoring = MOECL_SCORING_SPARSEMIXER;
  cases[1].sparsemixer_jitter = 0.125f;
  cases[2].activation = MOECL_SWIGLU_CLAMPED;
  cases[3].capacity_factor = 1.25;
  cases[3].renormalize_after_capacity = true;
  cases[3].routed_scaling_factor = 0.3f;
  cases[4].jitter = 0.0625f;
  cases[5].routed_scaling_factor = 0x1.fffffep+0f;
  cases[6].renormalize = true;
  cases[6].renormalize_epsilon = 0.001f;
  cases[6].renormalize_minimum = 0.25f;
}

typedef struct outputs {
  float values[MAX_CASES][SMALL_TOKENS * SMALL_HIDDEN];
  moecl_status status[MAX_CASES];
  char locale[16]; /* what this thread makes of 2.5 */
} outputs;

/* Without a cache: everything is compiled here. */
static void run_cases(outputs *out) {
  moecl_context *context = NULL;
  const moecl_context_params params = {.disable_cache = true};
  assert_ok(moecl_context_create(&params, &context));
  snprintf(out->locale, sizeof out->locale, "%g", 2.5);
  for (int i = 0; i < MAX_CASES; i++) {
    moecl_layer *layer = NULL;
    moecl_status status = moecl_layer_create(context, &cases[i], &layer);
    if (status == MOECL_OK) status = small_weights(layer, &cases[i]);
    if (status == MOECL_OK) status = small_forward(context, layer, NULL, out->values[i]);
    out->status[i] = status;
    moecl_layer_destroy(&layer);
  }
  moecl_context_destroy(&context);
}

static void *run_in_thread(void *out) {
  const locale_t comma = newlocale(LC_ALL_MASK, comma_locale, (locale_t)0);
  if (comma) uselocale(comma);
  run_cases(out);
  if (comma) {
    uselocale(LC_GLOBAL_LOCALE);
    freelocale(comma);
  }
  return NULL;
}

static void compare(const outputs *got, const outputs *want) {
  assert_string_equal(got->locale, "2,5");
  for (int i = 0; i < MAX_CASES; i++) {
    if (got->status[i] != MOECL_OK)
      fail_msg("%s: %s", case_names[i], moecl_status_string(got->status[i]));
    if (memcmp(got->values[i], want->values[i], sizeof got->values[i]) != 0)
      fail_msg("%s: another output than in the \"C\" locale", case_names[i]);
  }
}

static void test_layers(void **state) {
  (void)state;
  static outputs plain, process, thread;
  run_cases(&plain);
  for (int i = 0; i < MAX_CASES; i++) assert_ok(plain.status[i]);
  enter_comma();
  run_cases(&process);
  setlocale(LC_ALL, "C");
  pthread_t other;
  assert_int_equal(pthread_create(&other, NULL, run_in_thread, &thread), 0);
  assert_int_equal(pthread_join(other, NULL), 0);
  compare(&process, &plain);
  compare(&thread, &plain);
}

int main(void) {
  skip_without_device();
  if (!find_comma_locale()) {
    printf("SKIP: no locale with a decimal comma, and localedef makes none (Debian: locales)\n");
    return TEST_SKIP;
  }
  printf("locale %s\n", comma_locale);
  describe_cases();
  const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(test_numbers, reset),
                                     cmocka_unit_test_teardown(test_round_trip, reset),
                                     cmocka_unit_test_teardown(test_json, reset),
                                     cmocka_unit_test_teardown(test_letters, reset),
                                     cmocka_unit_test_teardown(test_messages, reset),
                                     cmocka_unit_test_teardown(test_models, reset),
                                     cmocka_unit_test_teardown(test_layers, reset)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: MIT
/* The safetensors reader: what a good file gives, and the message for each way
 * of being a bad one. */
#include "test_files.h"
#include "model/safetensors.h"
#include <sys/stat.h>

/* Parses a file made of a header and `size` zero bytes; its messages in `log`. */
static moecl_status parse(const char *header, size_t size, test_log *log) {
  static const char zeros[256];
  *log = (test_log){.level = MOECL_LOG_DEBUG};
  base_text text = make_safetensors(header, zeros, size);
  /* A copy of exact size: a read beyond it is the sanitizer's. */
  char *bytes = malloc(text.size);
  assert_non_null(bytes);
  memcpy(bytes, text.data, text.size);
  moecl_safetensors *file;
  const moecl_status status = safetensors_open_memory("bad.safetensors", bytes, text.size,
                                                      &(moecl_log){test_log_add, log}, &file);
  assert_true((status == MOECL_OK) == (file != NULL));
  moecl_safetensors_destroy(&file);
  free(bytes);
  base_text_free(&text);
  return status;
}

static void test_good_file(void **state) {
  (void)state;
  const char *path = test_path("good.safetensors");
  const float f32[6] = {1, 2, 3, 4, 5, -6.5f};
  const int64_t i64[2] = {-7, 1234567890123};
  const uint16_t bf16[1] = {0x3fc0};
  char data[24 + 16 + 2 + 1];
  memcpy(data, f32, 24);
  memcpy(data + 24, i64, 16);
  memcpy(data + 40, bf16, 2);
  data[42] = 1;
  write_safetensors(path,
                    "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                    "\"a\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[24,40]},"
                    "\"scalar\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[40,42]},"
                    "\"none\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[42,42]},"
                    "\"flag\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[42,43]},"
                    "\"__metadata__\":{\"format\":\"pt\"}}    ",
                    data, sizeof data);
  moecl_safetensors *file;
  assert_ok(moecl_safetensors_open(path, NULL, NULL, &file));
  assert_int_equal(moecl_safetensors_count(file), 5);
  assert_string_equal(moecl_safetensors_at(file, 0)->name, "a");
  assert_string_equal(moecl_safetensors_at(file, 4)->name, "scalar");
  assert_null(moecl_safetensors_at(file, 5));
  assert_null(moecl_safetensors_find(file, "c"));
  assert_null(moecl_safetensors_find(file, "__metadata__"));
  assert_string_equal(moecl_safetensors_metadata(file, "format"), "pt");
  assert_null(moecl_safetensors_metadata(file, "other"));
  const moecl_safetensors_tensor *b = moecl_safetensors_find(file, "b");
  assert_non_null(b);
  assert_int_equal(b->rank, 2);
  assert_int_equal(b->shape[1], 3);
  assert_int_equal(b->count, 6);
  moecl_dtype dtype = MOECL_DTYPE_COUNT;
  assert_true(moecl_safetensors_dtype(b, &dtype));
  assert_int_equal(dtype, MOECL_F32);
  double values[6];
  assert_ok(moecl_safetensors_to_double(file, b, 1, 5, values));
  assert_true(values[0] == 2 && values[4] == -6.5);
  assert_int_equal(moecl_safetensors_to_double(file, b, 2, 5, values),
                   MOECL_ERROR_INVALID_ARGUMENT);
  const moecl_safetensors_tensor *a = moecl_safetensors_find(file, "a");
  assert_false(moecl_safetensors_dtype(a, &dtype));
  assert_ok(moecl_safetensors_to_double(file, a, 0, 2, values));
  assert_true(values[0] == -7 && values[1] == 1234567890123.0);
  assert_ok(
      moecl_safetensors_to_double(file, moecl_safetensors_find(file, "scalar"), 0, 1, values));
  assert_true(values[0] == 1.5);
  assert_ok(moecl_safetensors_to_double(file, moecl_safetensors_find(file, "flag"), 0, 1, values));
  assert_true(values[0] == 1);
  moecl_safetensors_destroy(&file);
  assert_null(file);
}

/* More elements than go through one piece, and at an odd address. */
static void test_reads_unaligned(void **state) {
  (void)state;
  const char *path = test_path("odd.safetensors");
  char data[1 + 4 * 300];
  for (int i = 0; i < 300; i++) {
    const float value = (float)i - 100;
    memcpy(data + 1 + 4 * i, &value, 4);
  }
  write_safetensors(path,
                    "{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                    "\"y\":{\"dtype\":\"F32\",\"shape\":[300],\"data_offsets\":[1,1201]}}",
                    data, sizeof data);
  moecl_safetensors *file;
  double values[300];
  assert_ok(moecl_safetensors_open(path, NULL, NULL, &file));
  assert_ok(moecl_safetensors_to_double(file, moecl_safetensors_find(file, "y"), 0, 300, values));
  for (int i = 0; i < 300; i++) assert_true(values[i] == i - 100);
  moecl_safetensors_destroy(&file);
}

/* A header, the bytes behind it, and a part of the one message it gets. */
static const struct {
  const char *header;
  size_t size;
  const char *message;
} bad[] = {
    {"", 0, "its safetensors header is not sound JSON"},
    {"[]", 0, "is not a JSON object"},
    {"{\"a\":{\"dtype\":\"F32\"", 0, "is not sound JSON"},
    {"{\"a\":7}", 0, "tensor 'a': its entry is not a JSON object"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor 'a': unknown data type '(none)'"},
    {"{\"a\":{\"dtype\":\"F77\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "tensor 'a': unknown data type 'F77'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}}", 4,
     "its shape is not a list"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
     "more than 8 dimensions"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4,
     "integers of 0 or more"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4,
     "integers of 0 or more"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]}}", 4,
     "more than 64 bits"},
    /* Elements fit 64 bits, their bits do not. */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
     "do not match the size"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", 4,
     "is not sound JSON"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,5]}}", 5,
     "do not match the size"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "do not match the size"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "two growing integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4,
     "two growing integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8,
     "two growing integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]}}", 4,
     "two growing integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "cut short"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[9223372036854775800,"
     "9223372036854775807]}}",
     7, "cut short"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
     8, "tensor 'b': it overlaps"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
     8, "has 'a' twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "a gap before"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "4 bytes at its end"},
};

static void test_bad_headers(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    test_log log;
    const moecl_status status = parse(bad[i].header, bad[i].size, &log);
    if (status != MOECL_ERROR_IO || !test_log_has(&log, bad[i].message))
      fail_msg("%s: status %d, expected '%s', got '%s'", bad[i].header, (int)status, bad[i].message,
               log.text.data ? log.text.data : "");
    assert_int_equal(test_log_count(&log, "\n"), 1); /* one message */
    assert_true(test_log_has(&log, "bad.safetensors"));
    base_text_free(&log.text);
  }
}

/* The length says more than there is, in every cut of a good file. */
static void test_cut_short(void **state) {
  (void)state;
  base_text text =
      make_safetensors("{\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}}", "xy", 2);
  for (size_t size = 0; size <= text.size; size++) {
    char *bytes = malloc(size + 1), *exact = bytes + 1; /* an odd address too */
    memcpy(exact, text.data, size);
    moecl_safetensors *file;
    const moecl_status status = safetensors_open_memory("cut", exact, size, &(moecl_log){0}, &file);
    assert_int_equal(status, size == text.size ? MOECL_OK : MOECL_ERROR_IO);
    moecl_safetensors_destroy(&file);
    free(bytes);
  }
  memset(text.data, 0xff, 8);
  moecl_safetensors *file;
  assert_int_equal(safetensors_open_memory("long", text.data, text.size, &(moecl_log){0}, &file),
                   MOECL_ERROR_IO);
  base_text_free(&text);
}

static void test_limits(void **state) {
  (void)state;
  test_log log;
  base_text deep = {0};
  base_text_addf(&deep, "{\"a\":");
  for (int i = 0; i < 100000; i++) base_text_add(&deep, "[", 1);
  assert_int_equal(parse(deep.data, 0, &log), MOECL_ERROR_IO);
  assert_true(test_log_has(&log, "nested deeper than 16"));
  base_text_free(&log.text);
  base_text_free(&deep);
  base_text many = {0};
  base_text_addf(&many, "{\"a\":[0");
  for (int i = 0; i < 4000001; i++) base_text_add(&many, ",0", 2);
  base_text_addf(&many, "]}");
  assert_int_equal(parse(many.data, 0, &log), MOECL_ERROR_IO);
  assert_true(test_log_has(&log, "more than 4000000 values"));
  base_text_free(&log.text);
  base_text_free(&many);
  /* Brackets and commas in a text are none. */
  base_text quoted = {0};
  base_text_addf(&quoted, "{\"__metadata__\":{\"a\":\"\\\"");
  for (int i = 0; i < 100; i++) base_text_add(&quoted, "[", 1);
  base_text_addf(&quoted, "\"}}");
  assert_ok(parse(quoted.data, 0, &log));
  base_text_free(&quoted);
  /* A hole of 101 MB: a header that long is refused before it is read. */
  const char *path = test_path("long.safetensors");
  const uint64_t length = 100000001;
  write_file(path, &length, sizeof length);
  assert_int_equal(truncate(path, 101000000), 0);
  moecl_safetensors *file;
  log = (test_log){.level = MOECL_LOG_DEBUG};
  assert_int_equal(moecl_safetensors_open(path, test_log_add, &log, &file), MOECL_ERROR_IO);
  assert_true(test_log_has(&log, "longer than 100000000"));
  base_text_free(&log.text);
  unlink(path);
}

static void test_files_that_are_none(void **state) {
  (void)state;
  const char *pipe = test_path("pipe");
  moecl_safetensors *file;
  test_log log = {.level = MOECL_LOG_DEBUG};
  assert_int_equal(moecl_safetensors_open(test_path("missing"), test_log_add, &log, &file),
                   MOECL_ERROR_IO);
  assert_true(test_log_has(&log, "missing: cannot be read: No such file"));
  unlink(pipe);
  assert_int_equal(mkfifo(pipe, 0600), 0);
  assert_int_equal(moecl_safetensors_open(pipe, test_log_add, &log, &file), MOECL_ERROR_IO);
  assert_true(test_log_has(&log, "pipe: is not a regular file"));
  unlink(pipe);
  assert_int_equal(moecl_safetensors_open(test_path(""), test_log_add, &log, &file),
                   MOECL_ERROR_IO);
  const char *empty = test_path("empty.safetensors");
  write_file(empty, "", 0);
  assert_int_equal(moecl_safetensors_open(empty, test_log_add, &log, &file), MOECL_ERROR_IO);
  assert_true(test_log_has(&log, "has 0 bytes"));
  assert_int_equal(moecl_safetensors_open(NULL, NULL, NULL, &file), MOECL_ERROR_INVALID_ARGUMENT);
  base_text_free(&log.text);
}

static void test_file_that_shrinks(void **state) {
  (void)state;
  const char *path = test_path("shrinks.safetensors");
  static char data[3 * 65536];
  write_safetensors(path,
                    "{\"a\":{\"dtype\":\"F32\",\"shape\":[49152],\"data_offsets\":[0,196608]}}",
                    data, sizeof data);
  moecl_safetensors *file;
  test_log log = {.level = MOECL_LOG_DEBUG};
  double value;
  assert_ok(moecl_safetensors_open(path, test_log_add, &log, &file));
  const moecl_safetensors_tensor *a = moecl_safetensors_find(file, "a");
  assert_ok(moecl_safetensors_to_double(file, a, 49151, 1, &value));
  assert_int_equal(truncate(path, 100), 0);
  assert_int_equal(moecl_safetensors_to_double(file, a, 49151, 1, &value), MOECL_ERROR_IO);
  assert_true(test_log_has(&log, "has become shorter"));
  moecl_safetensors_destroy(&file);
  base_text_free(&log.text);
}

static void test_types_that_cannot_be_read(void **state) {
  (void)state;
  const char *path = test_path("f8.safetensors");
  write_safetensors(path, "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}",
                    "xy", 2);
  moecl_safetensors *file;
  test_log log = {.level = MOECL_LOG_DEBUG};
  double values[2];
  assert_ok(moecl_safetensors_open(path, test_log_add, &log, &file));
  assert_int_equal(
      moecl_safetensors_to_double(file, moecl_safetensors_find(file, "a"), 0, 2, values),
      MOECL_ERROR_UNSUPPORTED);
  assert_true(test_log_has(&log, "tensor 'a' is of type F8_E4M3"));
  moecl_safetensors_destroy(&file);
  base_text_free(&log.text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good_file),
      cmocka_unit_test(test_reads_unaligned),
      cmocka_unit_test(test_bad_headers),
      cmocka_unit_test(test_cut_short),
      cmocka_unit_test(test_limits),
      cmocka_unit_test(test_files_that_are_none),
      cmocka_unit_test(test_file_that_shrinks),
      cmocka_unit_test(test_types_that_cannot_be_read),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: MIT
/* Hidden states from files: NumPy's and safetensors', and what is said of those that
 * do not serve. */
#include "base/base.h"
#include "base/files.h"
#include "test_files.h"
#include "run/workload.h"

/* ---- .npy ---- */

typedef struct npy {
  int version;
  const char *descr, *order, *shape;
  size_t bytes; /* behind the header */
} npy;

/* As NumPy lays it out; the data are 1, 2, 3, ... in fp32 or fp16. */
static const char *write_npy(const npy *npy) {
  static float numbers[4096];
  char header[256];
  base_text text = {0};
  const char *path = test_path("recording.npy");
  const int size =
      snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': %s, 'shape': (%s), }\n",
               npy->descr, npy->order, npy->shape);
  const uint32_t length = (uint32_t)size;
  base_text_add(&text, "\x93NUMPY", 6);
  base_text_add(&text, npy->version == 1 ? "\x01\x00" : "\x02\x00", 2);
  base_text_add(&text, (const char *)&length, npy->version == 1 ? 2 : 4);
  base_text_add(&text, header, (size_t)size);
  double values[4096];
  for (int i = 0; i < 4096; i++) values[i] = i + 1;
  moecl_from_double(strstr(npy->descr, "f2") ? MOECL_F16 : MOECL_F32, values, 4096, numbers);
  assert_true(npy->bytes <= sizeof numbers);
  base_text_add(&text, (const char *)numbers, npy->bytes);
  write_file(path, text.data, text.size);
  base_text_free(&text);
  return path;
}

static void test_npy(void **state) {
  static const npy good[] = {{1, "<f4", "False", "3, 5", 60},
                             {2, "<f4", "False", "3, 5", 60},
                             {1, "<f2", "False", "3, 5,", 30}};
  (void)state;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    recording recording;
    char *error = NULL;
    assert_true(recording_load(write_npy(&good[i]), NULL, &recording, &error));
    assert_int_equal(recording.num_tokens, 3);
    assert_int_equal(recording.hidden_size, 5);
    for (int k = 0; k < 15; k++) assert_true(recording.values[k] == k + 1);
    recording_destroy(&recording);
  }
}

static void refuses(const char *path, const char *want) {
  recording recording;
  char *error = NULL;
  assert_false(recording_load(path, NULL, &recording, &error));
  assert_non_null(error);
  if (!strstr(error, want) || !strstr(error, path)) fail_msg("'%s', expected '%s'", error, want);
  free(error);
}

static void test_npy_refused(void **state) {
  static const struct {
    npy file;
    const char *want;
  } all[] = {
      {{1, "<f4", "False", "2, 8, 32", 2048},
       "shape (2, 8, 32): expected 2 dimensions, (num_tokens, hidden_size)"},
      {{1, "<f4", "False", "1, 8, 32", 1024}, "shape (1, 8, 32): expected 2 dimensions"},
      {{1, "<f4", "False", "0, 32", 0},
       "shape (0, 32): expected 2 dimensions, (num_tokens, "
       "hidden_size), neither of them 0"},
      {{1, "<f4", "False", "32, 0", 0}, "shape (32, 0): expected 2 dimensions"},
      {{1, "<f4", "False", "32,", 128}, "shape (32,): expected 2 dimensions"},
      {{1, "<f4", "False", "", 4}, "shape (): expected 2 dimensions"},
      {{1, "<f4", "False", "3, 5", 56},
       "shape (3, 5) of 4-byte numbers does not match the 56 bytes after its header"},
      {{1, "<f2", "False", "3, 5", 60}, "of 2-byte numbers does not match the 60 bytes"},
      {{1, "<f4", "False", "4611686018427387904, 4", 0}, "does not match the 0 bytes"},
      {{1, "<f4", "False", "-3, -5", 60}, "has no shape"},
      {{1, "<f4", "False", "3 5", 60}, "has no shape"},
      {{1, "<f4", "False", "99999999999999999999, 1", 60}, "has no shape"},
      {{1, "<f4", "True", "3, 5", 60}, "must be in C order"},
      {{1, "<f8", "False", "3, 5", 120}, "data type must be little-endian float32 or float16"},
  };
  (void)state;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    refuses(write_npy(&all[i].file), all[i].want);
  write_file(test_path("recording.npy"), "\x93NUMPY\x01", 7);
  refuses(test_path("recording.npy"), "not a .npy file, or cut short");
  write_file(test_path("recording.npy"), "\x93NUMPY\x01\x00\xff\x00{", 11);
  refuses(test_path("recording.npy"), "its .npy header is cut short");
}

/* ---- safetensors ---- */

static void test_safetensors_refused(void **state) {
  static const float data[24] = {0};
  const char *path = test_path("recording.safetensors");
  (void)state;
  write_safetensors(path, "{\"x\":{\"dtype\":\"F32\",\"shape\":[2,3,4],\"data_offsets\":[0,96]}}",
                    data, 96);
  refuses(path, "tensor 'x' has the shape [2, 3, 4], expected 2 dimensions, [num_tokens, "
                "hidden_size], neither of them 0");
  write_safetensors(path, "{\"x\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[0,0]}}",
                    data, 0);
  refuses(path, "the shape [0, 3], expected 2 dimensions");
  write_safetensors(path, "{\"x\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", data,
                    4);
  refuses(path, "the shape [], expected 2 dimensions");
  write_safetensors(path, "{\"x\":{\"dtype\":\"I32\",\"shape\":[1,1],\"data_offsets\":[0,4]}}",
                    data, 4);
  refuses(path, "data type I32, expected F32, F16 or BF16");
}

/* Points that take less than the file has, and those that take another size or more. */
static void test_serves(void **state) {
  static const struct {
    int64_t hidden_size, num_tokens;
    const char *want;
  } all[] = {{4, 3, NULL},
             {4, 1, NULL},
             {5, 3, "h.npy has hidden size 4, the experiment 5: set layer.hidden_size"},
             {4, 7, "h.npy has 3 tokens, the experiment asks for 7: lower workload.num_tokens"}};
  const recording recording = {.num_tokens = 3, .hidden_size = 4};
  (void)state;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    experiment_point point = {.layer.hidden_size = all[i].hidden_size,
                              .num_tokens = all[i].num_tokens,
                              .distribution = WORKLOAD_FILE};
    experiment experiment = {.num_points = 1, .points = &point, .input_file = "h.npy"};
    char *error = NULL;
    assert_int_equal(recording_serves(&experiment, &recording, &error), all[i].want == NULL);
    if (all[i].want && !strstr(error, all[i].want)) fail_msg("'%s'", error);
    free(error);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_npy),
      cmocka_unit_test(test_npy_refused),
      cmocka_unit_test(test_safetensors_refused),
      cmocka_unit_test(test_serves),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: MIT
/* libFuzzer target: whatever the bytes, a safetensors file either is refused with
 * one message, or each of its tensors lies within it and can be read.
 *
 *   fuzz_safetensors -max_total_time=600 -dict=test/fuzz/model.dict NEW test/fuzz/seeds_safetensors
 * where NEW is an empty folder that collects inputs.
 *
 * The first byte of the input is left out of the file, so that files stand at odd
 * addresses; the header's length is put in front, so that most inputs have one
 * that fits. An input that begins with 'L' brings its own. */
#include "base/base.h"
#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
  if (!condition) abort(); /* how libFuzzer learns of a failure */
}

static void count_messages(void *user, moecl_log_level level, const char *message) {
  require(level == MOECL_LOG_ERROR && strncmp(message, "fuzz: ", 6) == 0);
  ++*(int *)user;
}

static void read_tensor(const moecl_safetensors *file, size_t index, const uint8_t *begin,
                        const uint8_t *end) {
  const moecl_safetensors_tensor *tensor = moecl_safetensors_at(file, index);
  const uint8_t *bytes = tensor->data;
  require(moecl_safetensors_find(file, tensor->name) == tensor);
  require(bytes >= begin && bytes <= end && tensor->bytes <= (uint64_t)(end - bytes));
  double first, last;
  if (tensor->count == 0) return;
  const moecl_status status = moecl_safetensors_to_double(file, tensor, 0, 1, &first);
  require(status == MOECL_OK || status == MOECL_ERROR_UNSUPPORTED);
  require(moecl_safetensors_to_double(file, tensor, tensor->count - 1, 1, &last) == status);
  require(moecl_safetensors_to_double(file, tensor, tensor->count, 1, &last) ==
          MOECL_ERROR_INVALID_ARGUMENT);
}

/* The file is `size` bytes from `bytes` on, and not one more. */
static void check_file(const uint8_t *bytes, size_t size) {
  int messages = 0;
  moecl_safetensors *file;
  const moecl_log log = {count_messages, &messages};
  const moecl_status status = safetensors_open_memory("fuzz", bytes, size, &log, &file);
  require((status == MOECL_OK) == (file != NULL));
  require(messages == (status != MOECL_OK));
  for (size_t i = 0; i < moecl_safetensors_count(file); i++)
    read_tensor(file, i, bytes, bytes + size);
  moecl_safetensors_destroy(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  if (data[0] == 'L') {
    check_file(data + 1, size - 1);
    return 0;
  }
  /* The header ends at the last brace of the input, if it has one. */
  const size_t rest = size - 1;
  uint64_t header = rest;
  while (header > 0 && data[header] != '}') header--;
  uint8_t *bytes = malloc(rest + 9);
  if (!bytes) return 0;
  for (int i = 0; i < 8; i++) bytes[1 + i] = (uint8_t)(header >> 8 * i);
  memcpy(bytes + 9, data + 1, rest);
  check_file(bytes + 1, rest + 8);
  free(bytes);
  return 0;
}

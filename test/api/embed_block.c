// SPDX-License-Identifier: MIT
/* What docs/library.md shows of blocks, run: embed.sh puts it into block_fragment.h, with sizes
 * that any device has the memory for. What it takes as given is here. */
#include <moecl/moecl.h>
#include <stdio.h>
#include <stdlib.h>

static void check(moecl_status status, const char *what) {
  if (status == MOECL_OK) return;
  fprintf(stderr, "%s: %s\n", what, moecl_status_string(status));
  exit(1);
}

int main(void) {
  const uint64_t bytes = 1 << 22; /* as much as the largest tensor, or more */
  moecl_context *context = NULL;
  moecl_block *block = NULL;
  moecl_cache *cache = NULL;
  moecl_buffer *hidden = NULL, *output = NULL;
  const float *own[MOECL_BLOCK_TENSOR_COUNT], *experts[MOECL_TENSOR_COUNT];
  float *zeros = calloc(1, bytes);
  if (!zeros) return 1;
  for (int t = 0; t < MOECL_BLOCK_TENSOR_COUNT; t++) own[t] = zeros;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) experts[t] = zeros;
  check(moecl_context_create(NULL, &context), "context");
  check(moecl_buffer_create(context, bytes, &hidden), "hidden states");
  check(moecl_buffer_create(context, bytes, &output), "output");
  check(moecl_buffer_fill_byte(hidden, 0, bytes, 0), "hidden states");
#include "block_fragment.h"
  check(moecl_context_finish_wait(context), "finish");
  printf("the block in docs/library.md: %d tokens in its cache\n", (int)moecl_cache_tokens(cache));
  moecl_cache_destroy(&cache);
  moecl_block_destroy(&block);
  moecl_buffer_destroy(&output);
  moecl_buffer_destroy(&hidden);
  moecl_context_destroy(&context);
  free(zeros);
  return 0;
}

// SPDX-License-Identifier: MIT
/* moectl quantize: a model folder with its experts in another format. */
#include "base/files.h"
#include "cli/moectl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct quantizing {
  const options *options;
  moecl_context *context; /* NULL: the host does it */
  moecl_buffer *numbers, *codes;
  uint64_t matrices; /* so far */
  char *message;     /* the latest error's */
} quantizing;

/* One of at least so many bytes in place of what is too small. */
static moecl_status make_room(moecl_context *context, uint64_t bytes, moecl_buffer **buffer) {
  if (moecl_buffer_size(*buffer) >= bytes) return MOECL_OK;
  moecl_buffer_destroy(buffer);
  return moecl_buffer_create(context, bytes, buffer);
}

static void show_progress(quantizing *q) {
  q->matrices++;
  if (!q->options->quiet && q->matrices % 100 == 0)
    fprintf(stderr, "\r%llu matrices", (unsigned long long)q->matrices);
}

static moecl_status on_device(quantizing *q, const moecl_quantize_params *params,
                              const float *numbers, void *codes) {
  const uint64_t count = params->rows * params->columns;
  const uint64_t bytes = moecl_format_bytes(params->format, params->rows, params->columns);
  moecl_status status = make_room(q->context, count * sizeof *numbers, &q->numbers);
  if (status == MOECL_OK) status = make_room(q->context, bytes, &q->codes);
  if (status == MOECL_OK)
    status = moecl_buffer_write_wait(q->numbers, 0, count * sizeof *numbers, numbers);
  if (status == MOECL_OK) status = moecl_quantize(params, q->numbers, 0, q->codes, 0);
  return status == MOECL_OK ? moecl_buffer_read_wait(q->codes, 0, bytes, codes) : status;
}

static moecl_status on_host(const moecl_quantize_params *params, const float *numbers,
                            void *codes) {
  const size_t count = (size_t)(params->rows * params->columns);
  double *wide = malloc((count + 1) * sizeof *wide);
  if (!wide) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_to_double(MOECL_F32, numbers, count, wide);
  const moecl_status status = moecl_quantize_host(params, wide, codes);
  free(wide);
  return status;
}

static moecl_status quantize_one(void *user, const moecl_quantize_params *params,
                                 const float *numbers, void *codes) {
  quantizing *q = user;
  show_progress(q);
  return q->context ? on_device(q, params, numbers, codes) : on_host(params, numbers, codes);
}

/* ---- the command ---- */

/* `to`; false: complained about, with those there are. */
static bool read_format(const char *to, moecl_format *format) {
  char known[512] = "";
  size_t used = 0;
  for (int f = MOECL_FORMAT_BF16 + 1; f < MOECL_FORMAT_COUNT; f++) {
    *format = (moecl_format)f;
    if (to && strcmp(to, moecl_format_name(*format)) == 0) return true;
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "",
                             moecl_format_name(*format));
  }
  if (to) complain("--to: '%s' is no format of weights; expected %s", to, known);
  else complain("'moectl quantize' needs --to FORMAT: %s", known);
  return false;
}

static bool read_search(const char *text, moecl_scale_search *search) {
  for (int s = 0; s < MOECL_SCALE_SEARCH_COUNT; s++) {
    *search = (moecl_scale_search)s;
    if (!text || strcmp(text, moecl_scale_search_name(*search)) == 0) return true;
  }
  complain("--scale-search: '%s' is none; expected none or mse", text);
  return false;
}

/* The host serves where there is no device; one that was asked for must be there. */
static int open_device(quantizing *q) {
  moecl_device_info *devices = NULL;
  size_t count = 0;
  const bool none = moecl_devices_list(&devices, &count) != MOECL_OK || count == 0;
  moecl_devices_destroy(&devices);
  if (none && !q->options->device) return EXIT_ALL_OK;
  return open_context(q->options, q->options->device, &q->context);
}

static int write_folder(quantizing *q, moecl_checkpoint *checkpoint, moecl_format format,
                        moecl_scale_search search) {
  const moecl_checkpoint_quantize_params params = {
      .format = format, .scale_search = search, .quantize = quantize_one, .user = q};
  const moecl_status status = moecl_checkpoint_quantize(checkpoint, &params, q->options->out);
  if (!q->options->quiet && q->matrices >= 100) fputc('\n', stderr);
  if (status != MOECL_OK) {
    complain("%s", q->message ? q->message : moecl_status_string(status));
    return status == MOECL_ERROR_INVALID_ARGUMENT || status == MOECL_ERROR_UNSUPPORTED
               ? EXIT_USAGE
               : EXIT_POINT_FAILED;
  }
  printf("%s: %llu matrices of experts in %s\n", q->options->out, (unsigned long long)q->matrices,
         moecl_format_name(format));
  return EXIT_ALL_OK;
}

int command_quantize(const options *options) {
  quantizing q = {.options = options};
  moecl_checkpoint *checkpoint = NULL;
  moecl_format format;
  moecl_scale_search search;
  if (!read_format(options->to, &format) || !read_search(options->scale_search, &search))
    return EXIT_USAGE;
  if (!options->out) {
    complain("'moectl quantize' needs --out DIR, a new folder or an empty one");
    return EXIT_USAGE;
  }
  int code = EXIT_ALL_OK;
  if (moecl_checkpoint_open(options->file, keep_error, &q.message, &checkpoint) != MOECL_OK) {
    complain("%s", q.message ? q.message : "no memory");
    code = EXIT_USAGE;
  }
  if (code == EXIT_ALL_OK) code = open_device(&q);
  if (code == EXIT_ALL_OK) code = write_folder(&q, checkpoint, format, search);
  moecl_buffer_destroy(&q.numbers);
  moecl_buffer_destroy(&q.codes);
  moecl_context_destroy(&q.context);
  moecl_checkpoint_destroy(&checkpoint);
  free(q.message);
  return code;
}

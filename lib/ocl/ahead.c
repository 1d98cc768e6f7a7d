// SPDX-License-Identifier: MIT
/* Programs that are built before they are asked for, several at a time.
 *
 * A layer's kernels are created one after the other, each checked before the next is asked for,
 * and a driver takes up to seconds to compile one of a GPU's large programs. So a layer is
 * described first, which is soon done and creates nothing but small kernels without programs
 * (ocl_ahead_begin); what was noted is then built by threads of its own. Kernels that plans want
 * later are noted likewise, by all plans together that are to be prepared. The kernels that are
 * created afterwards find their programs in memory. What does not build here is left to them:
 * they try again, and say why. */
#include "base/parallel.h"
#include "ocl/program.h"
#include <stdlib.h>
#include <string.h>

typedef struct noted {
  struct noted *next;
  base_text text;
  char key[33];
  ocl_entry entry; /* what the disk cache has of it */
  cl_program made; /* NULL: it did not build */
  bool from_disk;
} noted;

struct ocl_ahead {
  moecl_log log; /* the context's */
  noted *programs;
  size_t count;
};

bool ocl_ahead_begin(moecl_context *context) {
  if (context->build_threads < 2 || context->ahead) return false;
  context->ahead = calloc(1, sizeof *context->ahead);
  if (!context->ahead) return false;
  context->ahead->log = context->log;
  context->log = (moecl_log){0}; /* whoever creates the kernels says what is wrong */
  return true;
}

moecl_status ocl_ahead_note(moecl_context *context, const base_text *text) {
  struct ocl_ahead *ahead = context->ahead;
  char key[33];
  MOECL_TRY(ocl_program_key(context, text, key));
  if (ocl_program_find(context, key)) return MOECL_OK;
  for (const noted *other = ahead->programs; other; other = other->next)
    if (strcmp(other->key, key) == 0) return MOECL_OK;
  noted *added = calloc(1, sizeof *added);
  if (!added) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  memcpy(added->key, key, sizeof key);
  base_text_add(&added->text, text->data, text->size);
  added->next = ahead->programs;
  ahead->programs = added;
  ahead->count++;
  return MOECL_OK;
}

/* ---- building ---- */

typedef struct work {
  moecl_context *context; /* only read */
  noted **programs;
  atomic_size_t next;
  size_t count;
} work;

static void build_one(moecl_context *context, noted *program) {
  if (program->text.failed) return;
  program->made = ocl_entry_program(context, &program->entry, program->text.data);
  program->from_disk = program->made != NULL;
  if (!program->made &&
      ocl_program_build_text(context, &program->text, "", NULL, &program->made) != MOECL_OK)
    program->made = NULL;
}

/* Whichever is free takes the next: they differ much. */
static void build_next(void *user, int part, int64_t first, int64_t end) {
  work *w = user;
  (void)part, (void)first, (void)end;
  for (size_t i; (i = atomic_fetch_add(&w->next, 1)) < w->count;)
    build_one(w->context, w->programs[i]);
}

/* Threads see the context as it is, without a log, and change nothing of it. */
static void build_all(moecl_context *context, struct ocl_ahead *ahead) {
  work w = {.context = context, .count = ahead->count};
  const size_t most = (size_t)context->build_threads;
  w.programs = calloc(w.count, sizeof(noted *));
  if (!w.programs) return;
  size_t at = w.count; /* in the order in which they were noted */
  for (noted *program = ahead->programs; program; program = program->next) {
    w.programs[--at] = program;
    ocl_entry_read(context, program->key, &program->entry);
  }
  atomic_init(&w.next, 0);
  base_parallel((int)(w.count < most ? w.count : most), (int64_t)w.count, build_next, &w);
  free(w.programs);
}

static bool keep(moecl_context *context, noted *program) {
  ocl_program *kept;
  if (!program->made) return false;
  if (ocl_program_keep(context, program->key, program->made, program->from_disk, &kept) !=
      MOECL_OK) {
    clReleaseProgram(program->made);
    return false;
  }
  if (program->from_disk) ocl_cache_used(context, program->key);
  else ocl_cache_store(context, program->key, program->made);
  return true;
}

void ocl_ahead_end(moecl_context *context) {
  struct ocl_ahead *ahead = context->ahead;
  size_t built = 0;
  if (!ahead) return;
  context->ahead = NULL;
  if (ahead->count > 1) build_all(context, ahead);
  context->log = ahead->log;
  while (ahead->programs) {
    noted *program = ahead->programs;
    ahead->programs = program->next;
    built += keep(context, program);
    ocl_entry_release(&program->entry);
    base_text_free(&program->text);
    free(program);
  }
  if (built > 0)
    log_write(&context->log, MOECL_LOG_DEBUG, "built ahead %zu programs of %zu", built,
              ahead->count);
  free(ahead);
}

/* The command line's own parts: commands, the options they share, exit codes. */
#ifndef MOECTL_H
#define MOECTL_H

#include "experiment.h"

/* Exit codes, as `moectl help` documents them. */
enum { EXIT_ALL_OK = 0, EXIT_POINT_FAILED = 1, EXIT_USAGE = 2, EXIT_NO_DEVICE = 3 };

typedef struct options {
  char *const *words; /* the command line, whole */
  int num_words;
  const char *file;   /* the experiment, or model folder */
  const char *topic;  /* of help */
  const char *device; /* --device; NULL: the experiment's */
  const char *out;    /* --out */
  const char *resume; /* --resume */
  const char *io;     /* --io, of verify */
  const char *dtype;  /* --dtype, of verify */
  const char *layer;  /* --layer, of verify */
  bool dump, json, quiet, verbose, help;
  experiment_override *overrides; /* --set, in order */
  size_t num_overrides;
} options;

int command_run(const options *options);
int command_check(const options *options);
int command_devices(const options *options);
int command_inspect(const options *options);
int command_verify(const options *options);
int command_help(const options *options);

/* "moectl: message" on stderr. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

/* The library's log on stderr; `user` is a const options *. */
void log_to_stderr(void *user, moecl_log_level level, const char *message);

/* A context that logs so, on `device` (NULL: the best one); an exit code, complained
 * about unless it is EXIT_ALL_OK. */
int open_context(const options *options, const char *device, moecl_context **context);

#endif

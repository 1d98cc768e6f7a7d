// SPDX-License-Identifier: MIT
/* The command line's own parts: commands, the options they share, exit codes. */
#ifndef MOECTL_H
#define MOECTL_H

#include "base/complain.h"
#include "experiment/experiment.h"

/* Exit codes, as `moectl help` documents them. */
enum {
  EXIT_ALL_OK = 0,
  EXIT_POINT_FAILED = 1,
  EXIT_USAGE = 2,
  EXIT_NO_DEVICE = 3,
  EXIT_GATE = 4 /* --fail-below: slower, not finished, or nothing to judge by */
};

typedef struct options {
  char *const *words; /* the command line, whole */
  int num_words;
  const char *file;   /* the operand: an experiment, model folder, topic, shell; NULL: none */
  const char **files; /* all of them, of a command that takes several; malloc'ed */
  size_t num_files;
  const char *device;            /* --device; NULL: the experiment's */
  const char *out;               /* --out */
  const char *resume;            /* --resume */
  const char *pictures;          /* --pictures: few, all or none; NULL: few */
  const char *format;            /* --format: table, csv, json or markdown; NULL: table */
  const char *io;                /* --io, of verify */
  const char *dtype;             /* --dtype, of verify */
  const char *layer;             /* --layer, of verify */
  bool block;                    /* --block, of verify */
  const char *to, *scale_search; /* --to and --scale-search, of quantize */
  const char *below;             /* --fail-below, of compare */
  const char *baseline;          /* --baseline, of profile */
  const char *trace;             /* --trace, of profile */
  bool dump, json, quiet, verbose, ignore_memory_limit;
  experiment_override *overrides; /* --set and its short forms, in order; malloc'ed texts */
  size_t num_overrides;

  /* --from, --only and --full, of suite */
  const char *from, *only;
  bool full;
} options;

/* ---- options.c: commands and options as data. Parsing, messages, help and the
 * shells' completion all follow these tables, so a new option is one row. ---- */

/* What an operand or an option's value is, for the shells' completion. */
typedef enum offer {
  OFFER_NOTHING = 0,
  OFFER_WORDS, /* `words` */
  OFFER_KEYS,  /* KEY= of an experiment */
  OFFER_YAML,
  OFFER_FILE,
  OFFER_FOLDER,
  OFFER_TOPIC /* of help */
} offer;

typedef struct cli_option {
  const char *name;  /* "--device" */
  char letter;       /* by which commands accept it */
  const char *value; /* what stands for its value in help: "D"; NULL: it takes none */
  const char *sets;  /* the experiment's key that it is short for; NULL: none */
  offer offer;
  const char *words;
  const char *help;
} cli_option;
extern const cli_option cli_options[]; /* .name is NULL at the end */

typedef struct cli_command {
  const char *name;
  int (*run)(const options *);
  const char *accepts; /* letters of options */
  const char *operand; /* "FILE.yaml", "[TOPIC]": needed unless in brackets; NULL: it takes none;
                          with "..." it takes several */
  offer offer;
  const char *words;
  const char *example; /* of a whole call, behind the name */
  const char *summary; /* a line */
  const char *help;    /* a paragraph or two more; NULL: nothing */
} cli_command;
extern const cli_command cli_commands[]; /* .name is NULL at the end */

/* NULL: there is none of that name. */
const cli_command *cli_find_command(const char *name);
bool cli_accepts(const cli_command *command, const cli_option *option);
/* "; did you mean 'run'?" for the nearest of the commands' names, or "". */
const char *cli_suggest_command(const char *written, char *text, size_t size);

/* Fills *options from what follows the command's name; false: complained about.
 * *help: it asked for help alone. Released with cli_release in either case. */
bool cli_parse(const cli_command *command, int argc, char **argv, options *options, bool *help);
void cli_release(options *options);

/* Runs `command` for each of the options' files, a blank line between them; the first code
 * that is not 0. */
int each_file(const options *options, int (*command)(const struct options *one));

/* ---- command_help.c ---- */

typedef struct help_topic {
  const char *name, *text; /* NULL: the experiment's keys */
  const char *summary;
  const char *more; /* behind the text, where one string would be too long; else NULL */
} help_topic;
extern const help_topic help_topics[]; /* .name is NULL at the end */

void help_usage(void);
void help_command(const cli_command *command);

int command_run(const options *options);
int command_check(const options *options);
int command_compare(const options *options);
int command_suite(const options *options);
int command_explain(const options *options);
int command_devices(const options *options);
int command_peak(const options *options);
int command_profile(const options *options);
int command_inspect(const options *options);
int command_quantize(const options *options);
int command_verify(const options *options);
int command_help(const options *options);
int command_completion(const options *options);

/* command_compare.c: prints the comparison of runs with the first of them, writes it to the folder
 * `out` unless NULL, and reports points below `below` (NaN: no gate); returns an exit code. */
struct measured_run;
int compare_and_print(const struct measured_run *runs, size_t count, const char *out, double below);

/* The library's log on stderr; `user` is a const options *. */
void log_to_stderr(void *user, moecl_log_level level, const char *message);

/* Where there is no device at all: why a driver that is installed may have listed none. */
void hint_no_device(void);

/* command_devices.c: prints OpenCL drivers that are registered but have no device, where `count`
 * devices are there; silent where all is well. */
void explain_devices(size_t count);

/* A context that logs so, on `device` (NULL: the best one); an exit code, complained
 * about unless it is EXIT_ALL_OK. */
int open_context(const options *options, const char *device, moecl_context **context);
/* The same with another log. */
int open_context_with(moecl_log_fn log, void *user, const char *device, moecl_context **context);

#endif

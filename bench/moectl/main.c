/* moectl: experiments with Mixture-of-Experts layers on any OpenCL device. */
#define _GNU_SOURCE
#include "moectl.h"
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Names in other people's files may have anything: no control characters but line
 * ends reach the terminal. */
static void put_message(const char *start, const char *message) {
  fputs(start, stderr);
  for (const char *at = message; *at; at++)
    if (iscntrl((unsigned char)*at) && *at != '\n')
      fprintf(stderr, "\\x%02x", (unsigned)*at);
    else
      fputc(*at, stderr);
  fputc('\n', stderr);
}

void complain(const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *message = NULL;
  if (vasprintf(&message, format, args) < 0) message = NULL;
  va_end(args);
  put_message("moectl: ", message ? message : "no memory for a message");
  free(message);
}

void log_to_stderr(void *user, moecl_log_level level, const char *message) {
  static const char *const starts[] = {"moectl: error: ", "moectl: warning: ", "moectl: info: ",
                                       "moectl: debug: "};
  const options *options = user;
  if (level > (options->verbose ? MOECL_LOG_DEBUG : MOECL_LOG_WARNING)) return;
  put_message(starts[level], message);
}

int open_context(const options *options, const char *device, moecl_context **context) {
  const moecl_context_params params = {
      .device = device, .log = log_to_stderr, .log_user = (void *)options};
  const moecl_status status = moecl_context_create(&params, context);
  if (status == MOECL_OK) return EXIT_ALL_OK;
  if (status == MOECL_ERROR_IO) return EXIT_USAGE; /* told */
  complain("the device could not be opened: %s; see 'moectl devices'", moecl_status_string(status));
  return status == MOECL_ERROR_NO_DEVICE ? EXIT_NO_DEVICE : EXIT_POINT_FAILED;
}

typedef struct command {
  const char *name;
  int (*run)(const options *);
  const char *accepts; /* the options it takes, as letters of option_table */
  const char *operand; /* what it needs one of, with an example; NULL: nothing */
  const char *example;
} command;

#define EXPERIMENT "an experiment file", "configs/quickstart.yaml"
static const command commands[] = {
    {"run", command_run, "dorDsqv", EXPERIMENT},
    {"check", command_check, "sv", EXPERIMENT},
    {"inspect", command_inspect, "djv", "a model folder", "models/OLMoE-1B-7B"},
    {"verify", command_verify, "dliyv", "a model folder",
     "models/OLMoE-1B-7B --layer 3 --io recorded.safetensors"},
    {"devices", command_devices, "jv", NULL, NULL},
    {"help", command_help, "", NULL, NULL}};

static const struct {
  const char *name;
  char letter;
  bool has_value;
} option_table[] = {{"--device", 'd', true},   {"--out", 'o', true},    {"--resume", 'r', true},
                    {"--dump", 'D', false},    {"--set", 's', true},    {"--quiet", 'q', false},
                    {"--verbose", 'v', false}, {"--json", 'j', false},
                    {"--layer", 'l', true},    {"--io", 'i', true},
                    {"--dtype", 'y', true}};

static void apply(options *options, char letter, const char *value) {
  switch (letter) {
  case 'd': options->device = value; break;
  case 'o': options->out = value; break;
  case 'r': options->resume = value; break;
  case 'D': options->dump = true; break;
  case 's': options->overrides[options->num_overrides++].assignment = value; break;
  case 'q': options->quiet = true; break;
  case 'v': options->verbose = true; break;
  case 'j': options->json = true; break;
  case 'l': options->layer = value; break;
  case 'i': options->io = value; break;
  case 'y': options->dtype = value; break;
  default: break;
  }
}

/* One "--name", "--name value" or "--name=value"; advances *i past it. */
static bool parse_option(const command *command, int argc, char **argv, int *i, options *options) {
  const char *text = argv[*i], *equals = strchr(text, '=');
  const size_t length = equals ? (size_t)(equals - text) : strlen(text);
  for (size_t o = 0; o < sizeof option_table / sizeof option_table[0]; o++) {
    if (strlen(option_table[o].name) != length ||
        strncmp(option_table[o].name, text, length) != 0 ||
        !strchr(command->accepts, option_table[o].letter))
      continue;
    const char *value = NULL;
    if (option_table[o].has_value) {
      value = equals ? equals + 1 : ++*i < argc ? argv[*i] : NULL;
      if (!value || !*value) {
        complain("%s needs a value; see 'moectl help'", option_table[o].name);
        return false;
      }
    } else if (equals) {
      complain("%s takes no value", option_table[o].name);
      return false;
    }
    apply(options, option_table[o].letter, value);
    return true;
  }
  complain("'moectl %s' has no option '%.*s'; see 'moectl help'", command->name, (int)length,
           text);
  return false;
}

static bool parse(const command *command, int argc, char **argv, options *options) {
  const char **operand = command->operand                 ? &options->file
                         : strcmp(command->name, "help") == 0 ? &options->topic
                                                              : NULL;
  for (int i = 2; i < argc; i++) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      options->help = true;
      return true;
    }
    if (argv[i][0] == '-' && argv[i][1]) {
      if (!parse_option(command, argc, argv, &i, options)) return false;
    } else if (operand && !*operand) {
      *operand = argv[i];
    } else {
      complain("'moectl %s' does not take '%s'; see 'moectl help'", command->name, argv[i]);
      return false;
    }
  }
  if (command->operand && !options->file) {
    complain("'moectl %s' needs %s, e.g. moectl %s %s", command->name, command->operand,
             command->name, command->example);
    return false;
  }
  return true;
}

static int run_command(int argc, char **argv) {
  const char *name = argc > 1 ? argv[1] : NULL;
  options options = {.words = argv, .num_words = argc};
  if (!name) {
    command_help(&options);
    return EXIT_USAGE;
  }
  if (strcmp(name, "--version") == 0) {
    printf("moectl %s\n", moecl_version());
    return EXIT_ALL_OK;
  }
  if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) name = "help";
  for (size_t c = 0; c < sizeof commands / sizeof commands[0]; c++) {
    if (strcmp(commands[c].name, name) != 0) continue;
    options.overrides = calloc((size_t)argc, sizeof *options.overrides);
    if (!options.overrides) {
      complain("no memory");
      return EXIT_POINT_FAILED;
    }
    const bool parsed = parse(&commands[c], argc, argv, &options);
    const int code = !parsed         ? EXIT_USAGE
                     : options.help ? command_help(&(struct options){0})
                                    : commands[c].run(&options);
    free(options.overrides);
    return code;
  }
  complain("there is no command '%s'; see 'moectl help'", name);
  return EXIT_USAGE;
}

/* Files and results are the same for everybody. A program starts in the "C" locale,
 * but a driver that is loaded later may call setlocale(); this thread does all the
 * reading and writing, and keeps its own. */
static void keep_c_locale(void) {
  const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  if (c) uselocale(c);
}

/* What was said on stdout must have got there: a full disk or a closed pipe must
 * not look like success. */
int main(int argc, char **argv) {
  keep_c_locale();
  const int code = run_command(argc, argv);
  errno = 0;
  const bool failed = fflush(stdout) != 0;
  if (!failed && !ferror(stdout)) return code;
  complain("not all output could be written%s%s", errno ? ": " : "", errno ? strerror(errno) : "");
  return code == EXIT_ALL_OK ? EXIT_POINT_FAILED : code;
}

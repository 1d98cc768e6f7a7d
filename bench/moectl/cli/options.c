// SPDX-License-Identifier: MIT
#include "base/files.h"
#include "cli/moectl.h"
#include "base/suggest.h"
#include <stdlib.h>
#include <string.h>

const cli_option cli_options[] = {
    {"--device", 'd', "D", NULL, OFFER_WORDS, "auto gpu cpu accelerator all",
     "auto, gpu, cpu, accelerator, PLATFORM:DEVICE, or part of a name ('moectl help devices'); "
     "run also takes all, or a list as 0:0,0:1: each in turn, and then the comparison"},
    {"--out", 'o', "DIR", NULL, OFFER_FOLDER, NULL,
     "results folder (default: results/<name>-<time>/)"},
    {"--out", 'O', "DIR", NULL, OFFER_FOLDER, NULL,
     "write compare.md, compare.csv and compare.png there too"},
    {"--out", 'Q', "DIR", NULL, OFFER_FOLDER, NULL,
     "the model folder to write: new, or empty; needed"},
    {"--to", 'T', "FORMAT", NULL, OFFER_NOTHING, NULL,
     "what the experts' weights become, e.g. int4-g128 ('moectl help experiment', "
     "layer.weight_format); needed"},
    {"--scale-search", 'c', "HOW", NULL, OFFER_WORDS, "none mse",
     "none (the default): scales of the largest numbers; mse: those with the smallest squared "
     "error"},
    {"--fail-below", 'f', "R", NULL, OFFER_NOTHING, NULL,
     "exit code 4 where a point's speed, or the mean of all, is below R, e.g. 0.95, and not by "
     "noise, where a point of A failed or lacks since the run did not end, or where nothing could "
     "be judged"},
    {"--resume", 'r', "DIR", NULL, OFFER_FOLDER, NULL, "go on with an interrupted run in DIR"},
    {"--set", 's', "K=V", NULL, OFFER_KEYS, NULL,
     "override a value, e.g. --set layer.top_k=4 or --set 'workload.num_tokens=[1,64]'; may be "
     "repeated ('moectl help experiment' lists the keys)"},
    {"--iterations", 's', "N", "measure.iterations", OFFER_NOTHING, NULL,
     "timed forward passes: short for --set measure.iterations=N"},
    {"--warmup", 's', "N", "measure.warmup", OFFER_NOTHING, NULL,
     "passes before them: short for --set measure.warmup=N"},
    {"--dump", 'D', NULL, NULL, OFFER_NOTHING, NULL,
     "write each point's tensors to point-NNN.safetensors"},
    {"--pictures", 'p', "WHICH", NULL, OFFER_WORDS, "few all none",
     "few: a picture of every point's experts in sweeps of 24 points or less only (the default); "
     "all: of every point; none: no pictures"},
    {"--format", 'F', "FORMAT", NULL, OFFER_WORDS, "table csv json markdown",
     "what is printed on standard output: the table (the default), or for pipes all of "
     "results.csv or results.json, or the table as Markdown; progress goes to standard error"},
    {"--ignore-memory-limit", 'm', NULL, NULL, OFFER_NOTHING, NULL,
     "try points that need more memory than the device's driver states: what it states may be "
     "what is free at the moment, or less than it gives"},
    {"--full", 'u', NULL, NULL, OFFER_NOTHING, NULL,
     "a night on a GPU: larger shapes, and more of them"},
    {"--only", 'n', "PART", NULL, OFFER_NOTHING, NULL,
     "run this part alone, or several, with commas between: --only layer,decode"},
    {"--from", 'x', "DIR", NULL, OFFER_FOLDER, NULL,
     "run the experiments in DIR instead: every .yaml file is a part, named after the file; with "
     "--full those in DIR/full"},
    {"--layer", 'l', "N", NULL, OFFER_NOTHING, NULL, "which layer, from 0 on; needed"},
    {"--block", 'b', NULL, NULL, OFFER_NOTHING, NULL,
     "the whole transformer block around the layer: hidden_states are what goes into it, one "
     "sequence from its first token on, and output is what comes out"},
    {"--io", 'i', "FILE", NULL, OFFER_FILE, NULL,
     "the recording: safetensors with hidden_states and what to compare; needed"},
    {"--dtype", 'y', "D", NULL, OFFER_WORDS, "fp32 fp16 bf16",
     "fp32, fp16 or bf16 (default: that of hidden_states)"},
    {"--baseline", 'B', "DIR", NULL, OFFER_FOLDER, NULL,
     "compare with the profile in DIR, from now on (default: the first one that the results folder "
     "had)"},
    {"--trace", 't', "FILE", NULL, OFFER_FILE, NULL,
     "write the timeline as trace events, which ui.perfetto.dev and chrome://tracing open"},
    {"--json", 'j', NULL, NULL, OFFER_NOTHING, NULL, "as JSON"},
    {"--quiet", 'q', NULL, NULL, OFFER_NOTHING, NULL, "no progress, only the results"},
    {"--verbose", 'v', NULL, NULL, OFFER_NOTHING, NULL,
     "say which variants are chosen and why, and what is built"},
    {"--help", 'h', NULL, NULL, OFFER_NOTHING, NULL, "this text"},
    {NULL, 0, NULL, NULL, OFFER_NOTHING, NULL, NULL}};

const cli_command cli_commands[] = {
    {"run", command_run, "dorsDpFmqvh", "FILE.yaml", OFFER_YAML, NULL, "configs/quickstart.yaml",
     "run an experiment and write its results",
     "Runs every point of the experiment and writes the results folder as they come ('moectl help "
     "results'). Ctrl-C ends it after the forward pass in flight, with what was measured; --resume "
     "goes on with the rest. A folder that another run writes into is refused."},
    {"suite", command_suite, "unxdorspmqvh", NULL, OFFER_NOTHING, NULL, NULL,
     "run the benchmark suite and sum it up on one page",
     "Runs the experiments of configs/suite one after the other: the router and the layer over "
     "their sizes, how distributions load the experts, what jitter costs, and every decode batch "
     "from 1 to 64 tokens. It takes about five minutes on two CPU cores. Each part has its own "
     "results folder in the suite's, and index.html says what each found. A part that fails does "
     "not stop the others, and is named at the end; the exit codes are those of run. --set changes "
     "all parts, e.g. --set dtype=bf16. --resume goes on with the part, and the point, at which "
     "it was interrupted."},
    {"check", command_check, "dsmjvh", "FILE.yaml...", OFFER_YAML, NULL, "configs/quickstart.yaml",
     "validate experiments, on a device too where there is one",
     "Reports every mistake of a file at once and, for the device that 'moectl run' would take, "
     "whether the variants asked for serve and the memory suffices. For each point it prints the "
     "memory, of several devices (parallel.experts) each one's, and how long it would take by the "
     "speed of a small layer that is timed on the "
     "device (a second or so); what happens on the way, as kernels that are built for the first "
     "time, is not in it. Without any device the file alone is checked, and so it is with --json, "
     "which prints for other programs that measure the same work ('moectl help comparing') the "
     "results.json of a run before its first point, and each parameter's default."},
    {"explain", command_explain, "dsmvh", "FILE.yaml...", OFFER_YAML, NULL,
     "configs/quickstart.yaml", "show what each point would do on the device, and why",
     "Prints the plan of each point before anything is built or run: which of several ways is "
     "taken and why, the steps with their variants, kernels and launches, the buffers with their "
     "formats, bytes and the block of the workspace that they share, and the memory in all. "
     "Points that only differ in their seed or numbers are printed once."},
    {"compare", command_compare, "Ofh", "A B [C...]", OFFER_FILE, NULL,
     "results/main results/branch --fail-below 0.95", "compare runs, devices and versions",
     "Takes results folders, or results.json files, of runs on any device, of any version or of "
     "another program that writes them, and matches their points: those whose work is the same, "
     "whatever the device, the version and the kernels. Prints how fast each run is beside the "
     "first, A, with an interval, the geometric mean, which differences exceed noise, and which "
     "points were left out and why ('moectl help comparing')."},
    {"inspect", command_inspect, "djvh", "DIR", OFFER_FOLDER, NULL, "models/OLMoE-1B-7B",
     "show what a model folder (config.json, safetensors) holds",
     "Shows the layers, parameters, router's rule, and the memory they take on a device ('moectl "
     "help models')."},
    {"verify", command_verify, "dlbiyvh", "DIR", OFFER_FOLDER, NULL,
     "models/OLMoE-1B-7B --layer 3 --io recorded.safetensors",
     "compare a layer of a model folder with a recording",
     "Runs a layer, or with --block the block around it, on the hidden_states recorded in FILE "
     "(safetensors) and compares with its "
     "router_logits, topk_ids, topk_weights and output ('moectl help models')."},
    {"quantize", command_quantize, "dTcQqvh", "DIR", OFFER_FOLDER, NULL,
     "models/OLMoE-1B-7B --to int4-g128 --out models/OLMoE-1B-7B-int4",
     "write a model folder with its experts in 8 or 4 bits",
     "Quantizes the matrices of all experts, routed and shared, on the device, or on the host "
     "where "
     "there is none, and copies all else. config.json says it as compressed-tensors, which "
     "transformers reads (docs/models.md says which it reads right), or for fp8-block as "
     "DeepSeek-V3's files do. What the files "
     "cannot express is refused ('moectl help models')."},
    {"devices", command_devices, "jvh", NULL, OFFER_NOTHING, NULL, NULL, "list the OpenCL devices",
     "Shows what each device has and which variants would serve ('moectl help devices')."},
    {"peak", command_peak, "djvh", NULL, OFFER_NOTHING, NULL, NULL,
     "measure what the device does at most",
     "Measures arithmetic, memory, transfers and launches with small kernels made for that, in a "
     "few seconds during which nothing else should run on the device. The result is kept for the "
     "device and its driver beside the compiled programs (MOECL_CACHE_DIR), and reports of later "
     "runs hold their times against it."},
    {"profile", command_profile, "doBtsmqvh", "FILE.yaml", OFFER_YAML, NULL,
     "configs/quickstart.yaml --set layer.num_experts=8 --trace trace.json",
     "say where time and memory go, and what to try",
     "Runs the router with each of its variants, the layer and a transformer block of each point, "
     "16 "
     "at most, with an event for every kernel, and writes reports below the results folder, docs/: "
     "for each stage and kernel its time, gaps, operations and bytes, the share of the device's "
     "measured peaks and the limit that binds; memory; the bottleneck, and what to try. "
     "measure.iterations and measure.warmup say how often ('moectl help profiling')."},
    {"completion", command_completion, "h", "SHELL", OFFER_WORDS, "bash zsh fish", "bash",
     "print a shell's completion script",
     "Prints a script for bash, zsh or fish; installing moectl puts them where the shells look. "
     "Without that, in "
     "bash: source <(moectl completion bash)"},
    {"help", command_help, "h", "[TOPIC]", OFFER_TOPIC, NULL, "experiment",
     "this text, or that of a command or topic", NULL},
    {NULL, NULL, NULL, NULL, OFFER_NOTHING, NULL, NULL, NULL, NULL}};

const cli_command *cli_find_command(const char *name) {
  const cli_command *command = cli_commands;
  while (command->name && strcmp(command->name, name) != 0) command++;
  return command->name ? command : NULL;
}

bool cli_accepts(const cli_command *command, const cli_option *option) {
  return strchr(command->accepts, option->letter) != NULL;
}

static const char *suggested(const suggestion *nearest, char *text, size_t size) {
  if (nearest->best) snprintf(text, size, "; did you mean '%s'?", nearest->best);
  else *text = '\0';
  return text;
}

const char *cli_suggest_command(const char *written, char *text, size_t size) {
  suggestion nearest = suggest_begin(written, strlen(written));
  for (const cli_command *c = cli_commands; c->name; c++) suggest_try(&nearest, c->name);
  return suggested(&nearest, text, size);
}

/* The option of that name that the command takes; NULL, complained about: none. */
static const cli_option *find_option(const cli_command *command, const char *name, size_t length) {
  suggestion nearest = suggest_begin(name, length);
  char hint[64];
  for (const cli_option *o = cli_options; o->name; o++) {
    if (!cli_accepts(command, o)) continue;
    if (strlen(o->name) == length && strncmp(o->name, name, length) == 0) return o;
    suggest_try(&nearest, o->name);
  }
  complain("'moectl %s' has no option '%.*s'%s; see 'moectl help %s'", command->name, (int)length,
           name, suggested(&nearest, hint, sizeof hint), command->name);
  return NULL;
}

static bool add_override(options *options, const char *key, const char *value) {
  char *text = format_text("%s%s%s", key ? key : "", key ? "=" : "", value);
  options->overrides[options->num_overrides].assignment = text;
  if (text) options->num_overrides++;
  else complain("no memory");
  return text != NULL;
}

static bool apply(options *options, const cli_option *option, const char *value) {
  switch (option->letter) {
  case 'd': options->device = value; break;
  case 'o':
  case 'O':
  case 'Q': options->out = value; break;
  case 'f': options->below = value; break;
  case 'r': options->resume = value; break;
  case 'D': options->dump = true; break;
  case 'F': options->format = value; break;
  case 'p': options->pictures = value; break;
  case 'm': options->ignore_memory_limit = true; break;
  case 's': return add_override(options, option->sets, value);
  case 'q': options->quiet = true; break;
  case 'v': options->verbose = true; break;
  case 'j': options->json = true; break;
  case 'u': options->full = true; break;
  case 'n': options->only = value; break;
  case 'x': options->from = value; break;
  case 'l': options->layer = value; break;
  case 'b': options->block = true; break;
  case 'B': options->baseline = value; break;
  case 't': options->trace = value; break;
  case 'i': options->io = value; break;
  case 'T': options->to = value; break;
  case 'c': options->scale_search = value; break;
  case 'y': options->dtype = value; break;
  default: break;
  }
  return true;
}

/* One "--name", "--name value" or "--name=value"; advances *i past it. */
static bool parse_option(const cli_command *command, int argc, char **argv, int *i,
                         options *options) {
  const char *text = argv[*i], *equals = strchr(text, '='), *value = NULL;
  const size_t length = equals ? (size_t)(equals - text) : strlen(text);
  const cli_option *option = find_option(command, text, length);
  if (!option) return false;
  if (option->value) {
    value = equals ? equals + 1 : ++*i < argc ? argv[*i] : NULL;
    if (!value || !*value) {
      complain("%s needs a value, %s %s; see 'moectl help %s'", option->name, option->name,
               option->value, command->name);
      return false;
    }
  } else if (equals) {
    complain("%s takes no value; see 'moectl help %s'", option->name, command->name);
    return false;
  }
  return apply(options, option, value);
}

bool cli_parse(const cli_command *command, int argc, char **argv, options *options, bool *help) {
  *help = false;
  options->overrides = calloc((size_t)argc + 1, sizeof *options->overrides);
  options->files = calloc((size_t)argc + 1, sizeof *options->files);
  if (!options->overrides || !options->files) {
    complain("no memory");
    return false;
  }
  for (int i = 2; i < argc; i++) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      *help = true;
      return true;
    }
    if (argv[i][0] == '-' && argv[i][1]) {
      if (!parse_option(command, argc, argv, &i, options)) return false;
    } else if (command->operand && (!options->file || strstr(command->operand, "..."))) {
      options->files[options->num_files++] = argv[i];
      options->file = options->files[0];
    } else {
      complain("'moectl %s' does not take '%s'; see 'moectl help %s'", command->name, argv[i],
               command->name);
      return false;
    }
  }
  if (!command->operand || command->operand[0] == '[' || options->file) return true;
  complain("'moectl %s' needs %s, e.g. moectl %s %s", command->name,
           command->run == command_compare  ? "results folders"
           : command->offer == OFFER_YAML   ? "an experiment file"
           : command->offer == OFFER_FOLDER ? "a model folder"
                                            : "a shell, bash, zsh or fish",
           command->name, command->example);
  return false;
}

void cli_release(options *options) {
  for (size_t i = 0; i < options->num_overrides; i++)
    free((void *)options->overrides[i].assignment);
  free(options->overrides);
  free(options->files);
  options->files = NULL;
  options->overrides = NULL;
  options->num_overrides = 0;
}

int each_file(const options *options, int (*command)(const struct options *one)) {
  int code = EXIT_ALL_OK;
  for (size_t i = 0; i < options->num_files; i++) {
    struct options one = *options;
    one.file = options->files[i];
    if (i > 0) putchar('\n');
    const int found = command(&one);
    if (code == EXIT_ALL_OK) code = found;
  }
  return code;
}

// SPDX-License-Identifier: MIT
/* moectl help [TOPIC] */
#include "cli/moectl.h"
#include "base/suggest.h"
#include "base/wrap.h"
#include <stdio.h>
#include <string.h>

static const char devices_topic[] =
    "Choosing a device (--device, or `device:` in the experiment; --device wins):\n"
    "  auto           $MOECL_DEVICE, where it is set (to any of these); else the first GPU,\n"
    "                 else accelerator, else CPU\n"
    "  gpu, cpu, accelerator   the first of that type\n"
    "  1:0            platform 1, device 0, as `moectl devices` numbers them\n"
    "  part of a name the first device whose name or platform contains it, ignoring case\n"
    "`moectl run` also takes several, each in turn:\n"
    "  all            every device that `moectl devices` lists\n"
    "  0:0,1:0        a list, the first of them the baseline\n"
    "Each has a folder device-P-D below the results folder, where the comparison is too\n"
    "(compare.md, .csv, .png; 'moectl help comparing'). The baseline is the first that ran\n"
    "without a failure. A device that cannot be opened, lacks a variant that was asked for or\n"
    "does not hold a point is named and left out; the exit code is that of the others.\n"
    "\n"
    "`moectl devices` shows memory and the largest single allocation as the driver states\n"
    "them (some allow more), local memory (\"cache\": not dedicated), the matrix units that a\n"
    "probe kernel ran on, and which grouped GEMM variants would serve (best last; clblast\n"
    "only when asked for by name, with layer.grouped_gemm_variant).\n"
    "\n"
    "No device? `moectl devices` says why: no driver is registered, one can't be loaded\n"
    "(an .icd file that names a library that is not there), or a platform has none.\n"
    "Install your GPU vendor's OpenCL driver, or a CPU implementation\n"
    "(Debian and Ubuntu: apt install pocl-opencl-icd). One that is installed may list no\n"
    "device where it cannot write its cache: HOME, or XDG_CACHE_HOME, must be writable.\n";

static const char models_topic[] =
    "Model folders: config.json, and model.safetensors or shards with\n"
    "model.safetensors.index.json, as published; F32, F16 and BF16. config.json's model_type\n"
    "says the family; one that is not known is refused with the list of those that are. So is\n"
    "by name a key that asks for what the family's rule does not have, and a tensor of the layer\n"
    "that nothing reads (a bias, a scale): inspect shows such a layer, which can't be loaded.\n"
    "Files are mapped: a layer costs that layer's bytes. A layer is what stands between the\n"
    "block's input and output, routed and shared experts; dense layers are layers of one\n"
    "expert. Layers are counted from 0, an encoder's before its decoder's. A Gemma 4 layer\n"
    "stands between what pre_feedforward_layernorm_2 gives its experts and what\n"
    "post_feedforward_layernorm_2 reads of them; its router's norm and scales are folded into\n"
    "the weights, in which dumps have them.\n"
    "\n"
    "`moectl inspect` counts the parameters in the files, unless they are packed, and those\n"
    "active per token: without the experts that a token is not sent to and without layers for\n"
    "next-token prediction. It looks at the tensors' names, types and shapes, and\n"
    "says for each kind of layer what weights and workspace of 4096 tokens take on the\n"
    "device, and whether one layer, all of the kind and all layers fit.\n"
    "\n"
    "`moectl verify` needs hidden_states [T,H] in FILE, and at least one of router_logits\n"
    "[T,E], topk_ids [T,K], topk_weights [T,K] (as they multiply: 0 for dropped choices, and\n"
    "with Gemma 4's per_expert_scale) and\n"
    "output [T,H] (without the residual; with --block with it). Errors are\n"
    "||ours - recorded|| / ||recorded||, at most 1e-5 in fp32 and 1e-2 in fp16 and bf16; no\n"
    "token alone may exceed 1e-5 and 3e-2 (of the median token's length, where its own is\n"
    "less). What differs for a reason is listed\n"
    "with its count and is no mistake:\n"
    "  - the same experts in another order than by score, as torch.topk(sorted=False) lists\n"
    "    them, where no capacity, sparsemixer or chance makes the order mean something;\n"
    "    weights are compared expert by expert\n"
    "  - other experts whose weights are 0 on both sides: scores that underflow in fp32\n"
    "  - other experts at a tie: none that was left out has a score (logit, or score with the\n"
    "    correction bias) or a group better by more than rounding, which is the tolerance\n"
    "    times its size or the usual one's. Weights are compared with those the rule gives\n"
    "    the recorded experts (with a capacity they are left out)\n"
    "  - weights that sparsemixer gives where an expert within rounding of its limit falls on\n"
    "    the other side of it\n"
    "  - weights that follow from the recorded router_logits, each of which is ours within\n"
    "    rounding: large logits in bf16 are off by whole units\n"
    "The output of tokens of the last three kinds is compared with what the double-precision\n"
    "reference makes of the recorded choice (with a capacity, or where sparsemixer's weights\n"
    "are not recorded, it is left out). Exit codes: 0 all agrees,\n"
    "1 something differs, nothing could be compared or the layer did not run, 2 bad input.\n";

static const char environment_topic[] =
    "Environment:\n"
    "  MOECL_DEVICE       the device that auto means: cpu, 1:0, part of a name, ...\n"
    "  MOECL_KERNEL_DIR   read kernel sources from this folder instead of the ones built\n"
    "                     in: edit cl/ and run again without building; results.json and\n"
    "                     report.md say so, with a hash of the sources\n"
    "  MOECL_CACHE_DIR    where compiled programs are kept (default: $XDG_CACHE_HOME/moecl,\n"
    "                     else ~/.cache/moecl), at most 256 MiB; safe to delete.\n"
    "                     Empty: nowhere. A folder that others own or can write is not used\n"
    "  OCL_ICD_VENDORS    the folder of .icd files that decides which OpenCL drivers are seen\n";

static const char exit_topic[] =
    "Exit codes:\n"
    "  0  all points ran and verified (or ran, with measure.verify off); verify: all agrees\n"
    "  1  some point failed, did not verify, the run was interrupted, or output could not\n"
    "     be written\n"
    "  2  bad usage, a bad experiment, model folder or recording; nothing ran, but for points\n"
    "     before one that found a weight that is not a finite number\n"
    "  3  no OpenCL device, or none that matches --device\n"
    "  4  compare --fail-below: slower than that, a point failed, a run did not end, or nothing\n"
    "     could be judged\n";

static const char comparing_topic[] =
    "`moectl compare A B` matches points whose work is the same: all keys of the experiment\n"
    "agree but name, device, layer.grouped_gemm_variant, layer.router.router_variant and those\n"
    "of `measure`. Of layer.checkpoint and workload.file the last name counts, since they lie\n"
    "elsewhere on another machine. A key that a file lacks had its default. Where a run has\n"
    "several points of one work that asked for other variants, each is matched with the one\n"
    "that asked for the same. Device, driver, version, commit, kernels and variants that are\n"
    "not the same are what is compared, and are said. What has no partner is listed with what\n"
    "differs; where nothing is the same work, that is an error (exit code 2).\n"
    "\n"
    "Speed is A's median time over the other run's, of the whole layer: above 1 the other run\n"
    "is faster. Where both points have rounds, the interval is Welch's, at 95%, for the\n"
    "difference of the means of the logarithms of the rounds' medians; it holds the ratio of\n"
    "the medians. Rounds of two runs are no pairs, so it is wider than those of a report. Where\n"
    "one has a single round, nothing is known of how its rounds differ: the interval is from\n"
    "A's least time over the other's p90 to A's p90 over the other's least, and unknown where\n"
    "fewer than 5 forwards were timed. A difference exceeds noise if all of the interval lies\n"
    "more than 2% from 1. The mean is geometric over the matched points; its interval is that\n"
    "from the mean of the lower ends to that of the upper ends, since errors of one run are\n"
    "not independent: a machine that was slow was slow for all points. No interval knows what\n"
    "both runs did not see, as another day's clock: compare two runs of one version first.\n"
    "\n"
    "--fail-below R ends with exit code 4 where the speed of a point, or the mean, is below R,\n"
    "and either slower beyond noise or with all its interval below R; where a point that ran\n"
    "in A failed, or lacks because the other run did not end; or where no point could be\n"
    "judged, for too few forwards. Other points that are in one run only do not count: they are\n"
    "listed.\n"
    "\n"
    "--out DIR writes compare.md, compare.csv (a row for each matched point of each run) and\n"
    "compare.png, with its gnuplot script and data.\n"
    "\n"
    "Other programs take part: `moectl check --json FILE` prints the results.json of a run\n"
    "before its first point, for them to fill in, and every parameter's default.\n"
    "bench/peers/run.py does so for PyTorch, transformers and llama.cpp.\n";

static const char profiling_topic[] =
    "`moectl profile FILE.yaml` runs each point (16 at most) with an event for every kernel and\n"
    "writes below the results folder:\n"
    "  docs/consolidated_profiling_report.md   the times of all parts, each one's bottleneck in\n"
    "                                          a sentence, and what to try\n"
    "  docs/router_profiling_report.md         the router alone\n"
    "  docs/moe_layer_profiling_report.md      the layer, by stage and by kernel; memory\n"
    "  docs/transformer_block_profiling_report.md   likewise a block around it\n"
    "  docs/baseline_profiling.md              this profile beside the baseline\n"
    "  opencl_router_benchmark_results.txt     every variant of the router: whether it agrees\n"
    "                                          with the reference, and how fast it is\n"
    "  profile.json, baseline.json             all of it for programs, and the baseline's\n"
    "The baseline is the first whole profile that the folder had, until --baseline names another\n"
    "one. Parts are timed in rounds, and called faster or slower than it where those differ.\n"
    "\n"
    "A stage's time is that of its kernels, and `gaps` what lies between kernels: together they\n"
    "are the time from the first kernel's start to the last one's end. Operations and bytes are\n"
    "counted from the shapes: a multiply-add is two; what a stage reads, each weight of the\n"
    "experts that were reached included, and what it writes counts once. Shares are of the\n"
    "peaks that `moectl peak` measured on this device, and `at the peaks` is the least time\n"
    "that they allow. The limit is arithmetic or memory where a quarter of that peak is\n"
    "reached, launches where they are a quarter of the time, imbalance where the busiest expert\n"
    "has twice the mean.\n"
    "\n"
    "--trace FILE writes the timeline as trace events: the host, the queue, each stage, and the\n"
    "experts' loads as counters. Open it at ui.perfetto.dev or in chrome://tracing. An event\n"
    "for each kernel costs time between them, on NVIDIA several microseconds: `moectl run`\n"
    "measures without.\n";

static const char results_topic[] =
    "A run writes into its results folder:\n"
    "  results.jsonl  after every point and round: a line is appended. --resume reads it; it\n"
    "                 is gone when results.json has all of it\n"
    "  results.json   when the run begins, each time there is twice as much, and at the end\n"
    "                 (after Ctrl-C too), replaced whole: the resolved experiment, the device,\n"
    "                 the kernels' folder and a hash of their sources; under `runs`, for each\n"
    "                 run and --resume, when, host, load, command line, processes and commit;\n"
    "                 and per point its parameters, variants, time per stage, rounds, rates,\n"
    "                 routing, verification. Numbers read back as the very same ones; a seed "
    "above\n"
    "                 9223372036854775807, beyond what JSON's readers take, is its digits in "
    "quotes\n"
    "  results.csv    with results.json: one row a point\n"
    "  report.html    at the end: all to look at in one file, charts too (by gnuplot)\n"
    "  report.md      the same as text, shorter, with pictures. Of more than 24 points\n"
    "                 its tables of stages and routing have a row for each swept value instead\n"
    "                 of each point, and of more than 200 the table of points has the 20 fastest\n"
    "                 and the 20 slowest. results.csv has each point\n"
    "  *.png          at the end: expert_utilization.png, how loaded every expert is over the\n"
    "                 sweep; expert_utilization_k..._cf....png of each point (of 24 at most,\n"
    "                 or with --pictures all); stages.png, which stage takes the time, of 24\n"
    "                 points at most; time and throughput against what was swept, and load\n"
    "                 imbalance, its coefficient of variation and the dropped share where they\n"
    "                 vary with it. With more than 12 lines a picture shows those\n"
    "                 that differ in one parameter, panels for a second, and names what is\n"
    "                 held. The gnuplot script and data lie beside each\n"
    "  point-NNN.safetensors   after each point, with --dump: inputs, weights, routing, output\n"
    "  .lock          while it runs: another run into the folder is refused\n"
    "\n"
    "Points are measured in rounds (measure.rounds): all in turn, then all again, every second\n"
    "round backwards, each round with its share of measure.iterations, so that a machine whose\n"
    "speed drifts is as fast for one as for another. A layer is made anew for each round, so\n"
    "points that take over 2 seconds to make and warm up have one round with all iterations,\n"
    "and so has a point alone. What was not finished when a run ended, rounds too, --resume\n"
    "does. A point's median is the median of its rounds' medians, p90 likewise, min the least\n"
    "of all. The report compares two points by the ratios of their rounds: the median, and its\n"
    "95% interval (Student's t of the logarithms); it reports what is beyond 2%.\n";

static const char numbers_topic[] =
    "Times are device times from OpenCL profiling events: median, minimum and 90th\n"
    "percentile of the timed forwards after measure.warmup ones, which take turns with three\n"
    "drawn input sets, up to four in the queue. The layer is timed by its first\n"
    "and last kernel alone; its stages in forwards of their own, half as many, since an\n"
    "event for every kernel takes time (so stages can add up to more than the layer).\n"
    "Of a block (measure.what) `layer` is its whole time.\n"
    "host_ms is what enqueueing a forward takes the host; of a point on several devices, which\n"
    "wait for each other's rows, what a forward takes it until all outputs are there.\n"
    "tflops counts what the layer's surviving assignments need, gbytes_per_s the least bytes it\n"
    "must move: the weights of the experts that were reached, input and output once; both are\n"
    "the mean of the first round's forwards, over their median time. Routing and verification\n"
    "are the first input set's.\n"
    "verify.error is ||output - reference|| / ||reference|| over the sampled tokens, the\n"
    "reference being plain C in double precision. Outputs so small that a device may lose\n"
    "them as denormals count in ||reference|| as the least that it keeps, so that errors of\n"
    "theirs are tiny: they prove little. Where outputs are not finite, the point's\n"
    "error says which exact values are beyond the dtype's largest number, of which token and\n"
    "expert: the engine is not to blame, but the point did not verify.\n"
    "\n"
    "A point whose experts are on several devices (parallel.experts) has `parallel`: by which\n"
    "transport rows went, their bytes and copies' time, and under `members` the same for each\n"
    "device: its experts, tokens, rows and kernels' time, in one more forward whose kernels are\n"
    "all timed. Its forwards run one at a time, and its times are the slowest device's. One\n"
    "whose experts are in the host's memory (parallel.placement: offload) has `offload`: how\n"
    "many of those that forwards wanted were on the device, and what the others' copies took.\n"
    "docs/expert-parallel.md and docs/results.schema.json describe both.\n";

const help_topic help_topics[] = {
    {"experiment", NULL, "every key of an experiment file: range, default, meaning"},
    {"results", results_topic, "what a run writes, and when", numbers_topic},
    {"comparing", comparing_topic, "which points are the same work, intervals, the gate"},
    {"profiling", profiling_topic, "what a profile tells, and how its numbers are counted"},
    {"models", models_topic, "model folders, and what counts as different"},
    {"devices", devices_topic, "how a device is chosen"},
    {"environment", environment_topic, "environment variables"},
    {"exit-codes", exit_topic, "what they mean"},
    {NULL, NULL, NULL, NULL}};

/* Where the words of a list with two columns begin. */
enum { LEFT = 2, SECOND = 29 };

/* "  left    what it is", wrapped. */
static void print_pair(const char *left, const char *right) {
  const int at = printf("%*s%s", LEFT, "", left);
  wrap_from(stdout, right, at, SECOND, TEXT_WIDTH);
}

void help_usage(void) {
  char left[64];
  fputs("moectl: experiments with Mixture-of-Experts layers on any OpenCL device\n\n", stdout);
  for (const cli_command *c = cli_commands; c->name; c++) {
    snprintf(left, sizeof left, "moectl %s%s%s", c->name, c->operand ? " " : "",
             c->operand ? c->operand : "");
    print_pair(left, c->summary);
  }
  print_pair("moectl --version", "its version");
  fputs("\n'moectl help run' has the options of run, and so for every command. Topics of\n"
        "'moectl help TOPIC':\n\n",
        stdout);
  for (const help_topic *t = help_topics; t->name; t++) print_pair(t->name, t->summary);
}

void help_command(const cli_command *command) {
  char left[64];
  if (strcmp(command->name, "help") == 0) {
    help_usage();
    return;
  }
  printf("moectl %s%s%s [options]\n\n", command->name, command->operand ? " " : "",
         command->operand ? command->operand : "");
  wrap_text(stdout, command->help, 0, TEXT_WIDTH);
  if (command->example) printf("For example: moectl %s %s\n", command->name, command->example);
  fputs("\nOptions:\n", stdout);
  for (const cli_option *o = cli_options; o->name; o++) {
    if (!cli_accepts(command, o)) continue;
    snprintf(left, sizeof left, "%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
    print_pair(left, o->help);
  }
}

static int no_such_topic(const char *topic) {
  suggestion nearest = suggest_begin(topic, strlen(topic));
  for (const help_topic *t = help_topics; t->name; t++) suggest_try(&nearest, t->name);
  for (const cli_command *c = cli_commands; c->name; c++) suggest_try(&nearest, c->name);
  if (nearest.best)
    complain("there is no help on '%s'; did you mean 'moectl help %s'?", topic, nearest.best);
  else complain("there is no help on '%s'; 'moectl help' lists the commands and topics", topic);
  return EXIT_USAGE;
}

int command_help(const options *options) {
  const char *topic = options->file;
  if (!topic) {
    help_usage();
    return EXIT_ALL_OK;
  }
  /* Both have a name in common: `devices`. */
  const cli_command *command = cli_find_command(topic);
  if (command) help_command(command);
  for (const help_topic *t = help_topics; t->name; t++) {
    if (strcmp(t->name, topic) != 0) continue;
    if (command) putchar('\n');
    if (t->text) fputs(t->text, stdout);
    else experiment_print_keys(stdout);
    if (t->more) printf("\n%s", t->more);
    return EXIT_ALL_OK;
  }
  return command ? EXIT_ALL_OK : no_such_topic(topic);
}

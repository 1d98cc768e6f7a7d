/* moectl help [topic] */
#include "moectl.h"
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "moectl: experiments with Mixture-of-Experts layers on any OpenCL device\n"
    "\n"
    "  moectl run FILE.yaml [options]     run an experiment and write its results\n"
    "      --device D     auto, gpu, cpu, accelerator, PLATFORM:DEVICE, or part of a name\n"
    "      --out DIR      results folder (default: results/<name>-<time>/)\n"
    "      --resume DIR   go on with an interrupted run in DIR\n"
    "      --set K=V      override a value, e.g. --set layer.top_k=4 or\n"
    "                     --set workload.num_tokens=[1,64]; may be repeated\n"
    "      --dump         write each point's tensors to point-NNN.safetensors\n"
    "      --quiet        no progress, only the table\n"
    "      --verbose      say which variants are chosen and why, and what is built\n"
    "  moectl check FILE.yaml [--set K=V] validate an experiment; runs nothing\n"
    "  moectl inspect DIR [options]       what a model folder (config.json, safetensors) holds\n"
    "      --json         as JSON\n"
    "      --device D     the device that memory is told for\n"
    "  moectl verify DIR --layer N --io FILE [options]\n"
    "                                     run a layer of a model folder on the hidden_states\n"
    "                                     recorded in FILE (safetensors) and compare with its\n"
    "                                     router_logits, topk_ids, topk_weights and output\n"
    "      --dtype D      fp32, fp16 or bf16 (default: that of hidden_states)\n"
    "      --device D\n"
    "  moectl devices [--json]            list the OpenCL devices\n"
    "  moectl help [TOPIC]                this text; topics: experiment, results, models,\n"
    "                                     devices, environment, exit-codes\n"
    "  moectl --version\n";

static const char devices_topic[] =
    "Choosing a device (--device, or `device:` in the experiment; --device wins):\n"
    "  auto           $MOECL_DEVICE, where it is set (to any of these); else the first GPU,\n"
    "                 else accelerator, else CPU\n"
    "  gpu, cpu, accelerator   the first of that type\n"
    "  1:0            platform 1, device 0, as `moectl devices` numbers them\n"
    "  part of a name the first device whose name or platform contains it, ignoring case\n"
    "\n"
    "`moectl devices` shows memory and the largest single allocation as the driver states\n"
    "them (some allow more), local memory (\"cache\": not dedicated), the matrix units that a\n"
    "probe kernel ran on, and which grouped GEMM variants would serve (best last; clblast\n"
    "only when asked for by name, with layer.variant).\n"
    "\n"
    "No device? Install your GPU vendor's OpenCL driver, or a CPU implementation\n"
    "(Debian and Ubuntu: apt install pocl-opencl-icd).\n";

static const char models_topic[] =
    "Model folders: config.json, and model.safetensors or shards with\n"
    "model.safetensors.index.json, as published; F32, F16 and BF16. config.json's model_type\n"
    "says the family; one that is not known is refused with the list of those that are. So is\n"
    "by name a key that asks for what the family's rule has not, and a tensor of the layer\n"
    "that nothing reads (a bias, a scale): inspect shows such a layer, which can't be loaded.\n"
    "Files are mapped: a layer costs that layer's bytes. A layer is what stands between the\n"
    "block's input and output, routed and shared experts; dense layers are layers of one\n"
    "expert. Layers are counted from 0, an encoder's before its decoder's.\n"
    "\n"
    "`moectl inspect` counts the parameters in the files, unless they are packed, and which of\n"
    "them a token meets: not those of experts that it is not sent to, nor of layers behind the\n"
    "last one (next-token prediction). It looks at the tensors' names, types and shapes, and\n"
    "tells for each kind of layer what weights and workspace of 4096 tokens take on the\n"
    "device, and whether one layer, all of the kind and all layers fit.\n"
    "\n"
    "`moectl verify` needs hidden_states [T,H] in FILE, and at least one of router_logits\n"
    "[T,E], topk_ids [T,K], topk_weights [T,K] (as they multiply: 0 for dropped choices) and\n"
    "output [T,H] (without the residual). Errors are ||ours - recorded|| / ||recorded||, at\n"
    "most 1e-5 in fp32 and 1e-2 in fp16 and bf16; no token alone may exceed 1e-5 and 3e-2 (of\n"
    "the median token's length, where its own is less). What differs for a reason is told\n"
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
    "                     A folder that others own or can write is not used\n"
    "  OCL_ICD_VENDORS    the folder of .icd files that decides which OpenCL drivers are seen\n";

static const char exit_topic[] =
    "Exit codes:\n"
    "  0  all points ran and verified (or ran, with measure.verify off); verify: all agrees\n"
    "  1  some point failed, did not verify, the run was interrupted, or output could not\n"
    "     be written\n"
    "  2  bad usage, a bad experiment, model folder or recording; nothing ran, but for points\n"
    "     before one that found a weight that is not a finite number\n"
    "  3  no OpenCL device, or none that matches --device\n";

static const char results_topic[] =
    "A run writes into its results folder:\n"
    "  results.jsonl  after every point: a line is appended. --resume reads it; it is gone\n"
    "                 when results.json has all of it\n"
    "  results.json   when the run begins, each time the points have doubled, and at the end\n"
    "                 (after Ctrl-C too), replaced whole: the resolved experiment, the device,\n"
    "                 the kernels' folder and a hash of their sources, and per point its\n"
    "                 parameters, variants, time per stage, rates, routing, verification\n"
    "  results.csv    with results.json: one row a point\n"
    "  report.md      at the end: readable by itself, pictures included\n"
    "  *.png          expert utilisation per top_k and capacity factor; time and throughput\n"
    "                 against what was swept, and load imbalance, its coefficient of\n"
    "                 variation and the dropped share where they vary with it; the\n"
    "                 gnuplot script and data lie beside each\n"
    "  point-NNN.safetensors   with --dump: inputs, weights, routing and output\n"
    "\n"
    "Times are device times from OpenCL profiling events: median, minimum and 90th\n"
    "percentile over measure.iterations after measure.warmup; timed forwards take turns with\n"
    "three drawn input sets, up to four in the queue. The layer is timed by its first\n"
    "and last kernel alone; its stages in forwards of their own, half as many, since an\n"
    "event for every kernel takes time (so stages can add up to more than the layer).\n"
    "host_ms is what enqueueing a forward takes the host. tflops counts what the layer's\n"
    "surviving assignments need, gbytes_per_s the least bytes it must move: the weights of\n"
    "the experts that were reached, input and output once; both are the mean of the timed\n"
    "forwards' own counts, over their median time. Routing and verification are the first input set's.\n"
    "verify.error is ||output - reference|| / ||reference|| over the sampled tokens, the\n"
    "reference being plain C in double precision.\n";

int command_help(const options *options) {
  const char *topic = options->topic;
  if (!topic) {
    fputs(usage, stdout);
  } else if (strcmp(topic, "experiment") == 0) {
    experiment_print_keys(stdout);
  } else {
    static const struct {
      const char *name, *text;
    } topics[] = {{"devices", devices_topic},
                  {"environment", environment_topic},
                  {"exit-codes", exit_topic},
                  {"models", models_topic},
                  {"results", results_topic}};
    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++)
      if (strcmp(topics[i].name, topic) == 0) {
        fputs(topics[i].text, stdout);
        return EXIT_ALL_OK;
      }
    complain("there is no help on '%s'; topics: experiment, results, models, devices, "
             "environment, exit-codes",
             topic);
    return EXIT_USAGE;
  }
  return EXIT_ALL_OK;
}

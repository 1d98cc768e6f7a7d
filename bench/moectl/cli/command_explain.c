// SPDX-License-Identifier: MIT
/* moectl explain: what each point would do on the device, before anything is built. */
#include "moecl/plan.h"
#include "cli/prepare.h"
#include "experiment/schema.h"
#include "run/matrix_units.h"
#include "base/wrap.h"
#include "run/together.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CHOICES = 16, MOST_STEPS = 32, MOST_TENSORS = 96 };

/* A plan's lists, copied out of it. */
typedef struct plan_lists {
  moecl_plan_choice choices[MOST_CHOICES];
  moecl_plan_step steps[MOST_STEPS];
  moecl_plan_tensor tensors[MOST_TENSORS];
  size_t num_choices, num_steps, num_tensors;
} plan_lists;

static size_t at_most(size_t count, size_t most) { return count < most ? count : most; }

static plan_lists read_plan(const moecl_plan *plan) {
  plan_lists lists;
  lists.num_choices = at_most(moecl_plan_choices(plan, lists.choices, MOST_CHOICES), MOST_CHOICES);
  lists.num_steps = at_most(moecl_plan_steps(plan, lists.steps, MOST_STEPS), MOST_STEPS);
  lists.num_tensors = at_most(moecl_plan_tensors(plan, lists.tensors, MOST_TENSORS), MOST_TENSORS);
  return lists;
}

static void print_choices(const plan_lists *lists) {
  for (size_t i = 0; i < lists->num_choices; i++)
    printf("  %s: %s (%s)\n", lists->choices[i].part, lists->choices[i].name,
           lists->choices[i].why);
}

static void print_steps(const plan_lists *lists) {
  unsigned long long launches = 0;
  printf("  %2s  %-17s %-14s %-18s %8s  %s\n", "", "step", "operation", "variant", "launches",
         "how");
  for (size_t i = 0; i < lists->num_steps; i++) {
    const moecl_plan_step *step = &lists->steps[i];
    launches += step->launches;
    printf("  %2zu  %-17s %-14s %-18s %8u%s%s\n", i + 1, step->name, step->operation,
           step->variant ? step->variant : "-", (unsigned)step->launches, *step->detail ? "  " : "",
           step->detail);
  }
  printf("  %llu launches in all\n", launches);
}

static void print_tensors(const plan_lists *lists) {
  printf("  %-24s %-6s %22s %10s  %-9s  %s\n", "buffer", "format", "shape", "bytes", "life",
         "steps");
  for (size_t i = 0; i < lists->num_tensors; i++) {
    const moecl_plan_tensor *tensor = &lists->tensors[i];
    char bytes[32], shape[64];
    snprintf(shape, sizeof shape, "%llu x %llu", (unsigned long long)tensor->rows,
             (unsigned long long)tensor->columns);
    printf("  %-24s %-6s %22s %10s  ", tensor->name, tensor->format, shape,
           bytes_text(tensor->bytes, bytes));
    if (tensor->first_step < 0) printf("%s", moecl_life_name(tensor->life));
    else
      printf("%-9s  %d-%d", moecl_life_name(tensor->life), tensor->first_step + 1,
             tensor->last_step + 1);
    if (tensor->block >= 0) printf(", block %d", tensor->block + 1);
    putchar('\n');
  }
}

static void print_memory(const moecl_plan *plan) {
  const moecl_memory memory = moecl_plan_memory(plan);
  const uint64_t apart = moecl_plan_unshared_workspace_bytes(plan);
  char weights[32], workspace[32], unshared[32], hidden[32], cache[32], host[32];
  printf("  weights %s, workspace %s", bytes_text(memory.weight_bytes, weights),
         bytes_text(memory.workspace_bytes, workspace));
  if (apart > memory.workspace_bytes)
    printf(" (%s if no buffers shared memory)", bytes_text(apart, unshared));
  if (memory.cache_bytes > 0) printf(", cache %s", bytes_text(memory.cache_bytes, cache));
  printf(", hidden states and output %s each", bytes_text(memory.hidden_bytes, hidden));
  if (memory.host_bytes > 0)
    printf("; of the host's memory %s for experts", bytes_text(memory.host_bytes, host));
  putchar('\n');
}

/* Did an earlier point have the same plan? All that it depends on is layer and tokens, and how
 * large a cache is. */
static bool was_explained(const experiment *experiment, size_t index) {
  const experiment_point *point = &experiment->points[index];
  for (size_t i = 0; i < index; i++)
    if (experiment->points[i].num_tokens == point->num_tokens &&
        experiment->points[i].context == point->context &&
        schema_same_layer(&experiment->points[i], point))
      return true;
  return false;
}

static moecl_status plan_point(moecl_context *context, const experiment_point *point,
                               moecl_plan **plan) {
  if (point->what == WHAT_LAYER)
    return moecl_plan_create(context, &point->layer, point->num_tokens, plan);
  const moecl_block_params params = experiment_block_params(point);
  const int64_t room = point->context > 0 ? point->context + point->num_tokens : 0;
  return moecl_block_plan_create(context, &params, point->num_tokens, room, plan);
}

/* ---- a group ---- */

/* What serves between members, and of which point: the latest one with as many. */
typedef struct known_group {
  const experiment_point *of; /* NULL: there was none */
  char transport[64];
} known_group;

static bool same_text(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : a == b; }

static bool is_known(const known_group *known, const experiment_point *point) {
  const experiment_point *of = known->of;
  return of && same_text(of->parallel.devices, point->parallel.devices) &&
         same_text(of->parallel.transport, point->parallel.transport);
}

static int open_members(const options *options, moecl_context *context,
                        const experiment_point *point, moecl_context **members) {
  char device[DEVICE_NAME_SIZE];
  for (int m = 0; m < (int)experiment_members(point); m++) {
    if (together_name_device(context, point, m, device) != MOECL_OK) {
      complain("there is no device for member %d of the group; see 'moectl devices'", m);
      return EXIT_NO_DEVICE;
    }
    const int code = open_context(options, device, &members[m]);
    if (code != EXIT_ALL_OK) return code;
  }
  return EXIT_ALL_OK;
}

/* On their devices, as one process has them; an exit code, complained about. */
static int find_transport(const options *options, moecl_context *context,
                          const experiment_point *point, known_group *known) {
  const moecl_group_params params = {.transport = point->parallel.transport};
  moecl_context *members[MOECL_MAX_GROUP_MEMBERS] = {NULL};
  moecl_group *group = NULL;
  const size_t count = (size_t)experiment_members(point);
  if (is_known(known, point)) return EXIT_ALL_OK;
  int code = open_members(options, context, point, members);
  const moecl_status status =
      code == EXIT_ALL_OK ? moecl_group_create(members, count, &params, &group) : MOECL_OK;
  if (status != MOECL_OK) {
    complain("the group could not be made: %s", moecl_status_string(status));
    code = EXIT_POINT_FAILED;
  }
  known->of = code == EXIT_ALL_OK ? point : NULL;
  if (known->of)
    snprintf(known->transport, sizeof known->transport, "%s", moecl_group_transport(group));
  moecl_group_destroy(&group);
  for (size_t m = 0; m < count; m++) moecl_context_destroy(&members[m]);
  return code;
}

/* What is not one device's; before a plan that is. */
static void explain_group(moecl_context *context, const experiment_point *point,
                          const char *transport) {
  static const char *const keys[] = {"placement", "replicas", "chunks", "dispatch_format"};
  const int members = (int)experiment_members(point);
  char text[256], device[DEVICE_NAME_SIZE];
  printf("  a group of %d member%s, rows by %s, in one process;", members, members == 1 ? "" : "s",
         transport);
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    experiment_param_text(point, keys[i], text, sizeof text);
    printf("%s %s %s", i ? "," : "", keys[i], strcmp(text, "null") == 0 ? "auto" : text);
  }
  printf("\n  members on:");
  for (int m = 0; m < members; m++)
    if (together_name_device(context, point, m, device) == MOECL_OK)
      printf("%s %s", m ? "," : "", device);
  printf("\n  each runs the steps below for its tokens and experts, and dispatch between them "
         "(docs/expert-parallel.md); what is told is one device's plan with all of both:\n");
}

/* An exit code. */
static int explain_point(const options *options, const experiment *experiment,
                         moecl_context *context, size_t index, known_group *known) {
  const experiment_point *point = &experiment->points[index];
  moecl_plan *plan = NULL;
  char label[256], missed[512];
  experiment_point_label(experiment, index, label, sizeof label);
  printf("\n[%zu/%zu] %s\n", index + 1, experiment->num_points, *label ? label : "the point");
  if (was_explained(experiment, index)) {
    printf("  as a point above: only seed or inputs differ\n");
    return EXIT_ALL_OK;
  }
  if (experiment_members(point) > 0) {
    known_group *group = &known[experiment_members(point)];
    const int code = find_transport(options, context, point, group);
    if (code != EXIT_ALL_OK) return code;
    explain_group(context, point, group->transport);
  }
  const moecl_status status = plan_point(context, point, &plan);
  if (status != MOECL_OK) {
    complain("point %zu cannot be planned: %s", index + 1, moecl_status_string(status));
    return EXIT_POINT_FAILED;
  }
  const plan_lists lists = read_plan(plan);
  print_choices(&lists);
  if (matrix_units_missed(context, &point->layer, point->num_tokens, missed, sizeof missed)) {
    printf("  slow: ");
    wrap_from(stdout, missed, 8, 8, TEXT_WIDTH);
  }
  print_steps(&lists);
  print_tensors(&lists);
  print_memory(plan);
  moecl_plan_destroy(&plan);
  return EXIT_ALL_OK;
}

static int explain_on(const options *options, const experiment *experiment) {
  moecl_context *context = NULL;
  known_group known[MOECL_MAX_GROUP_MEMBERS + 1] = {{NULL}};
  int code =
      open_context(options, options->device ? options->device : experiment->device, &context);
  if (code != EXIT_ALL_OK) return code;
  bool all = prepare_transports(experiment);
  all = prepare_devices(experiment) && all;
  all = prepare_variants(experiment, context) && all;
  if (all)
    printf("%s: experiment '%s' on %s\n", options->file, experiment->name,
           moecl_context_device(context)->name);
  for (size_t i = 0; all && i < experiment->num_points; i++) {
    const int failed = explain_point(options, experiment, context, i, known);
    if (code == EXIT_ALL_OK) code = failed;
  }
  moecl_context_destroy(&context);
  return all ? code : EXIT_USAGE;
}

static int explain_file(const options *options) {
  experiment experiment = {0};
  recording recording = {0};
  int code = EXIT_USAGE;
  if (prepare_load(options, &experiment, &recording)) code = explain_on(options, &experiment);
  recording_destroy(&recording);
  experiment_destroy(&experiment);
  return code;
}

int command_explain(const options *options) { return each_file(options, explain_file); }

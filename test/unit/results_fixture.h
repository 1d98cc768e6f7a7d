// SPDX-License-Identifier: MIT
/* A results folder in a temporary place and points made up for it; report and pictures
 * are not written. No device needed. */
#ifndef MOECL_TEST_RESULTS_FIXTURE_H
#define MOECL_TEST_RESULTS_FIXTURE_H

#include "unit.h"
#include "base/files.h"
#include "report/report.h"
#include "results/results_private.h"
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Report and plots have tests of their own; here it counts that they are called. */
static int reports_written;
bool report_write(const results *all, char **error) {
  (void)all;
  (void)error;
  reports_written++;
  return true;
}
bool report_html_write(const results *all, char **error) {
  (void)all;
  (void)error;
  return true;
}
bool plots_write(const results *all, char **note, char **error) {
  (void)all;
  (void)error;
  *note = strdup("no gnuplot");
  return true;
}

typedef struct fixture {
  char folder[512];
  experiment plan;
  moecl_device_info device;
  kernel_origin kernels;
} fixture;

static const char yaml[] =
    "name: unit-test\n"
    "seed: 18446744073709551615\n"
    "layer: {hidden_size: 64, intermediate_size: 32, num_experts: 4, top_k: [1, 2],\n"
    "        router: {jitter: 0.01}, capacity: {capacity_factor: [1.1, null]}}\n"
    "workload: {num_tokens: 6, distribution: skewed}\n";

static inline void parse(fixture *f, const char *text) {
  char *error = NULL;
  if (!experiment_parse(text, strlen(text), "unit.yaml", NULL, 0, &f->plan, &error)) {
    print_error("%s\n", error);
    fail();
  }
}

/* A folder name that nothing has yet. */
static inline int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  const char *base = getenv("MOECL_TEST_DIR");
  snprintf(f->folder, sizeof f->folder, "%s/results-XXXXXX", base ? base : "/tmp");
  assert_non_null(mkdtemp(f->folder));
  strcpy(f->device.name, "A device \xff");
  strcpy(f->device.platform, "A platform");
  f->device.type = MOECL_DEVICE_CPU;
  f->device.global_memory_bytes = UINT64_C(1) << 40;
  f->kernels = (kernel_origin){.dir = NULL, .hash = "0123456789abcdef0123456789abcdef"};
  parse(f, yaml);
  f->plan.command = strdup("moectl run 'it\xffs'");
  *state = f;
  return 0;
}

static inline int tear_down(void **state) {
  fixture *f = *state;
  char path[1024];
  DIR *folder = opendir(f->folder);
  for (struct dirent *entry; folder && (entry = readdir(folder));) {
    snprintf(path, sizeof path, "%s/%s", f->folder, entry->d_name);
    unlink(path);
  }
  if (folder) closedir(folder);
  rmdir(f->folder);
  experiment_destroy(&f->plan);
  free(f);
  return 0;
}

static inline point_result make_point(const fixture *f, size_t index, point_status status) {
  const experiment_point *point = &f->plan.points[index];
  const int64_t experts = point->layer.num_experts;
  point_result r = {.index = index,
                    .status = status,
                    .iterations = 20,
                    .tokens_per_s = 1234.5,
                    .tflops = 0.25,
                    .gbytes_per_s = INFINITY,
                    .memory_bytes = 1 << 20,
                    .host_ms = 0.125,
                    .changed_choices = 0.0625};
  static const char *const names[4] = {"generic", "scan", "cpu", "gather"};
  for (int i = 0; i < 4; i++) {
    r.variants[i] = strdup(names[i]);
    r.variant_reasons[i] = strdup("the only, \"best\" one");
  }
  for (int i = 0; i < RESULTS_STAGES; i++)
    r.time_ms[i] = i > MOECL_STAGE_LAYER && point->what == WHAT_LAYER
                       ? (sample_summary){NAN, NAN, NAN}
                       : (sample_summary){2.5 + i, 1.5, 9.5};
  r.time_ms[MOECL_STAGE_PERMUTE] = (sample_summary){NAN, NAN, NAN};
  r.rounds_planned = r.num_rounds = 1;
  r.rounds = calloc(1, sizeof *r.rounds);
  r.rounds[0] = (point_round){.iterations = 20, .host_ms = 0.125, .load_average = 0.75};
  memcpy(r.rounds[0].time_ms, r.time_ms, sizeof r.time_ms);
  r.routing = (moecl_routing){.num_tokens = 6,
                              .num_experts = experts,
                              .top_k = point->layer.top_k,
                              .capacity = point->layer.capacity_factor > 0 ? 2 : -1};
  r.routing.router_logits = calloc(6 * (size_t)experts, sizeof *r.routing.router_logits);
  r.routing.topk_ids = calloc(12, sizeof *r.routing.topk_ids);
  r.routing.topk_weights = calloc(12, sizeof *r.routing.topk_weights);
  r.routing.kept = calloc(12, sizeof *r.routing.kept);
  r.routing.token_priority = calloc(6, sizeof *r.routing.token_priority);
  r.routing.tokens_per_expert = calloc((size_t)experts, sizeof(int64_t));
  r.routing.tokens_per_expert_after_capacity = calloc((size_t)experts, sizeof(int64_t));
  for (int64_t e = 0; e < experts; e++) {
    r.routing.tokens_per_expert[e] = e;
    r.routing.tokens_per_expert_after_capacity[e] = e < 2 ? e : 2;
  }
  r.routing.statistics =
      (moecl_routing_statistics){1.5, 2.5, 3.5, 4.5, 5.5, 0.125, 0.75, 0.375, 0, -1};
  r.verify =
      (verify_result){status != POINT_UNVERIFIED_OK, status == POINT_OK, 1e-6, 1e-5, 6, 4, 0, true};
  r.verify.weight_error = r.verify.weight_cosine = r.verify.weight_bits = NAN;
  if (status >= POINT_VERIFY_FAILED) r.error = strdup("it said \"no\",\nand meant it");
  return r;
}

/* What the runner gives for a point that failed before it ran. */
static inline point_result make_failed(size_t index) {
  point_result r = {.index = index, .status = POINT_ERROR, .error = strdup("the layer broke")};
  for (int i = 0; i < RESULTS_STAGES; i++) r.time_ms[i] = (sample_summary){NAN, NAN, NAN};
  return r;
}

static inline results *open_new(fixture *f) {
  char *error = NULL;
  results *all = results_open(&f->plan, &f->device, &f->kernels, f->folder, false, &error);
  if (!all) print_error("%s\n", error);
  assert_non_null(all);
  return all;
}

static inline void add(results *all, point_result point) {
  char *error = NULL;
  const bool ok = results_add(all, &point, &error);
  if (!ok) print_error("%s\n", error);
  assert_true(ok);
  assert_null(error);
  assert_null(point.variants[0]); /* taken over */
}

/* As when a run ends: results.json has all points. */
static inline void finish(results *all) {
  char *note = NULL, *error = NULL;
  if (!report_finish(all, &note, &error)) fail_msg("%s", error);
  free(note);
}

static inline char *slurp(const fixture *f, const char *name) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", f->folder, name);
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  char *text = calloc(1, 1 << 21);
  fread(text, 1, (1 << 21) - 1, file);
  fclose(file);
  return text;
}

static inline void put_file(const fixture *f, const char *name, const char *text) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", f->folder, name);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static inline size_t files_in(const fixture *f) {
  size_t count = 0;
  DIR *folder = opendir(f->folder);
  assert_non_null(folder);
  for (struct dirent *entry; (entry = readdir(folder));) count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

static inline json_t *read_json(const fixture *f) {
  char *text = slurp(f, "results.json");
  assert_non_null(text);
  json_t *root = json_loads(text, 0, NULL);
  free(text);
  assert_non_null(root);
  return root;
}

/* The value under a dotted path, as JSON text; compared with what is wanted. */
static inline void check_value(const json_t *object, const char *path, const char *wanted) {
  char part[64];
  const json_t *value = object;
  for (const char *at = path; *at;) {
    const size_t length = strcspn(at, ".");
    snprintf(part, sizeof part, "%.*s", (int)length, at);
    value = json_is_array(value) ? json_array_get(value, (size_t)atoi(part))
                                 : json_object_get(value, part);
    at += length + (at[length] == '.');
  }
  char *found =
      value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
  if (!found || strcmp(found, wanted) != 0)
    fail_msg("%s: expected %s, found %s", path, wanted, found ? found : "nothing");
  free(found);
}

static inline void check_keys(const json_t *root, const char *path, const char *wanted) {
  char names[1024] = "", part[64];
  const json_t *value = root;
  for (const char *at = path; *at;) {
    const size_t length = strcspn(at, ".");
    snprintf(part, sizeof part, "%.*s", (int)length, at);
    value = json_is_array(value) ? json_array_get(value, (size_t)atoi(part))
                                 : json_object_get(value, part);
    at += length + (at[length] == '.');
  }
  const char *key;
  json_t *item;
  json_object_foreach((json_t *)value, key, item) {
    if (*names) strcat(names, " ");
    strcat(names, key);
  }
  assert_string_equal(names, wanted);
}

static inline void limit_files(rlim_t bytes) {
  struct rlimit limit;
  getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = bytes;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

static inline results *resume(fixture *f, char **error) {
  *error = NULL;
  return results_open(&f->plan, &f->device, &f->kernels, f->folder, true, error);
}

static inline void expect_refused(fixture *f, const char *part) {
  char *error;
  results *all = resume(f, &error);
  assert_null(all);
  assert_non_null(error);
  if (!strstr(error, part)) fail_msg("expected '%s' in: %s", part, error);
  free(error);
}

#endif

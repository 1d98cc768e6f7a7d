/* The results folder: results.json and results.csv, going on with an earlier
 * run, a full disk, the closing table, dumps. No device needed. */
#include "unit.h"
#include "files.h"
#include "results_private.h"
#include "progress.h"
#include <dirent.h>
#include <float.h>
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
    "layer: {hidden_size: 64, intermediate_size: 32, num_experts: 4, top_k: [1, 2],\n"
    "        router: {jitter: 0.01}, capacity: {factor: [1.1, null]}}\n"
    "workload: {num_tokens: 6, distribution: skewed}\n";

static void parse(fixture *f, const char *text) {
  char *error = NULL;
  if (!experiment_parse(text, strlen(text), "unit.yaml", NULL, 0, &f->plan, &error)) {
    print_error("%s\n", error);
    fail();
  }
}

/* A folder name that nothing has yet. */
static int set_up(void **state) {
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

static int tear_down(void **state) {
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

static point_result make_point(const fixture *f, size_t index, point_status status) {
  const experiment_point *point = &f->plan.points[index];
  const int64_t experts = point->layer.num_experts;
  point_result r = {.index = index, .status = status, .iterations = 20, .tokens_per_s = 1234.5,
                    .tflops = 0.25, .gbytes_per_s = INFINITY, .memory_bytes = 1 << 20,
                    .host_ms = 0.125};
  static const char *const names[4] = {"generic", "scan", "cpu", "gather"};
  for (int i = 0; i < 4; i++) {
    r.variants[i] = strdup(names[i]);
    r.variant_reasons[i] = strdup("the only, \"best\" one");
  }
  for (int i = 0; i < MOECL_STAGE_COUNT; i++) r.time_ms[i] = (sample_summary){2.5 + i, 1.5, 9.5};
  r.time_ms[MOECL_STAGE_PERMUTE] = (sample_summary){NAN, NAN, NAN};
  r.rounds_planned = r.num_rounds = 1;
  r.rounds = calloc(1, sizeof *r.rounds);
  r.rounds[0] = (point_round){.iterations = 20, .host_ms = 0.125, .load_average = 0.75};
  memcpy(r.rounds[0].time_ms, r.time_ms, sizeof r.time_ms);
  r.routing = (moecl_routing){.num_tokens = 6, .num_experts = experts, .top_k = point->layer.top_k,
                              .capacity = point->layer.capacity_factor > 0 ? 2 : -1};
  r.routing.topk_ids = calloc(12, sizeof *r.routing.topk_ids);
  r.routing.tokens_per_expert = calloc((size_t)experts, sizeof(int64_t));
  r.routing.tokens_per_expert_after_capacity = calloc((size_t)experts, sizeof(int64_t));
  for (int64_t e = 0; e < experts; e++) {
    r.routing.tokens_per_expert[e] = e;
    r.routing.tokens_per_expert_after_capacity[e] = e < 2 ? e : 2;
  }
  r.routing.statistics = (moecl_routing_statistics){1.5, 2.5, 3.5, 4.5, 5.5, 0.125, 0.75, 0, -1};
  r.verify = (verify_result){status != POINT_UNVERIFIED_OK, status == POINT_OK, 1e-6, 1e-5, 6, 4, 0,
                             true};
  if (status >= POINT_VERIFY_FAILED) r.error = strdup("it said \"no\",\nand meant it");
  return r;
}

/* What the runner gives for a point that failed before it ran. */
static point_result make_failed(size_t index) {
  point_result r = {.index = index, .status = POINT_ERROR, .error = strdup("the layer broke")};
  for (int i = 0; i < MOECL_STAGE_COUNT; i++) r.time_ms[i] = (sample_summary){NAN, NAN, NAN};
  return r;
}

static results *open_new(fixture *f) {
  char *error = NULL;
  results *all = results_open(&f->plan, &f->device, &f->kernels, f->folder, false, &error);
  if (!all) print_error("%s\n", error);
  assert_non_null(all);
  return all;
}

static void add(results *all, point_result point) {
  char *error = NULL;
  const bool ok = results_add(all, &point, &error);
  if (!ok) print_error("%s\n", error);
  assert_true(ok);
  assert_null(error);
  assert_null(point.variants[0]); /* taken over */
}

/* As when a run ends: results.json has all points. */
static void finish(results *all) {
  char *note = NULL, *error = NULL;
  if (!results_finish(all, &note, &error)) fail_msg("%s", error);
  free(note);
}

static char *slurp(const fixture *f, const char *name) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", f->folder, name);
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  char *text = calloc(1, 1 << 21);
  fread(text, 1, (1 << 21) - 1, file);
  fclose(file);
  return text;
}

static void put_file(const fixture *f, const char *name, const char *text) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", f->folder, name);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static size_t files_in(const fixture *f) {
  size_t count = 0;
  DIR *folder = opendir(f->folder);
  assert_non_null(folder);
  for (struct dirent *entry; (entry = readdir(folder));) count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

static json_t *read_json(const fixture *f) {
  char *text = slurp(f, "results.json");
  assert_non_null(text);
  json_t *root = json_loads(text, 0, NULL);
  free(text);
  assert_non_null(root);
  return root;
}

/* The value under a dotted path, as JSON text; compared with what is wanted. */
static void check_value(const json_t *object, const char *path, const char *wanted) {
  char part[64];
  const json_t *value = object;
  for (const char *at = path; *at;) {
    const size_t length = strcspn(at, ".");
    snprintf(part, sizeof part, "%.*s", (int)length, at);
    value = json_is_array(value) ? json_array_get(value, (size_t)atoi(part))
                                 : json_object_get(value, part);
    at += length + (at[length] == '.');
  }
  char *found = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15))
                      : NULL;
  if (!found || strcmp(found, wanted) != 0)
    fail_msg("%s: expected %s, found %s", path, wanted, found ? found : "nothing");
  free(found);
}

static void check_keys(const json_t *root, const char *path, const char *wanted) {
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

static void check_first_point(const json_t *root) {
  static const char *const values[][2] = {
      {"index", "0"}, {"status", "\"ok\""}, {"error", "null"}, {"params.num_tokens", "6"},
      {"params.hidden_size", "64"}, {"params.intermediate_size", "32"},
      {"params.num_experts", "4"}, {"params.top_k", "1"}, {"params.renormalize", "true"},
      {"params.jitter", "0.01"}, {"params.capacity_factor", "1.1"}, {"params.min_capacity", "0"},
      {"params.drop_policy", "\"position\""}, {"params.activation", "\"swiglu\""},
      {"params.dtype", "\"fp32\""}, {"params.distribution", "\"skewed\""},
      {"params.skew_exponent", "1.0"}, {"params.skew_clusters", "null"},
      {"params.skew_noise", "0.5"}, {"params.swiglu_alpha", "1.702"},
      {"params.swiglu_limit", "7.0"}, {"params.routed_scaling_factor", "1.0"}, {"params.gate_up_bias", "false"},
      {"params.grouped_gemm_variant", "\"auto\""}, {"variants.router", "\"generic\""},
      {"variants.permute", "\"scan\""}, {"variants.grouped_gemm", "\"cpu\""},
      {"variants.combine", "\"gather\""}, {"variant_reasons.router", "\"the only, \\\"best\\\" one\""},
      {"iterations", "20"}, {"rounds_planned", "1"}, {"rounds.0.iterations", "20"},
      {"rounds.0.load_average", "0.75"}, {"rounds.0.time_ms.layer.p90", "9.5"}, {"time_ms.router", "{\"median\":2.5,\"min\":1.5,\"p90\":9.5}"},
      {"time_ms.permute", "null"}, {"time_ms.layer.median", "8.5"}, {"tokens_per_s", "1234.5"},
      {"tflops", "0.25"}, {"gbytes_per_s", "null"}, {"memory_bytes", "1048576"},
      {"routing.tokens_per_expert", "[0,1,2,3]"},
      {"routing.tokens_per_expert_after_capacity", "[0,1,2,2]"}, {"routing.capacity", "2"},
      {"routing.load_balancing_loss", "1.5"}, {"routing.router_z_loss", "2.5"},
      {"routing.entropy", "3.5"}, {"routing.max_mean_imbalance", "4.5"},
      {"routing.coefficient_of_variation", "5.5"}, {"routing.dropped_fraction", "0.125"},
      {"routing.padding_waste", "0.75"}, {"routing.nonfinite_tokens", "0"},
      {"verify.error", "1e-6"}, {"verify.tolerance", "1e-5"}, {"verify.ok", "true"},
      {"verify.tokens_checked", "6"}, {"verify.num_tokens", "6"}, {"verify.experts_checked", "4"},
      {"verify.topk_mismatches", "0"}, {"verify.capacity_ok", "true"}};
  const json_t *point = json_array_get(json_object_get(root, "points"), 0);
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    check_value(point, values[i][0], values[i][1]);
}

static void test_json(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  assert_int_equal(f->plan.num_points, 4);
  add(all, make_failed(3)); /* out of order: the file has them in order */
  add(all, make_point(f, 0, POINT_OK));
  add(all, make_point(f, 1, POINT_UNVERIFIED_OK));
  finish(all);
  json_t *root = read_json(f);
  check_keys(root, "", "schema versions runs kernels experiment device points");
  check_keys(root, "versions", "moecl commit compiler");
  check_keys(root, "points.0", "index status error params variants variant_reasons iterations "
             "time_ms tokens_per_s tflops gbytes_per_s memory_bytes host_ms rounds_planned "
             "rounds routing verify");
  check_keys(root, "points.0.time_ms", "router permute gate_up down shared combine layer");
  check_keys(root, "points.0.time_ms.layer", "median min p90");
  check_keys(root, "points.0.variants", "router permute grouped_gemm combine");
  check_keys(root, "points.0.routing",
             "tokens_per_expert tokens_per_expert_after_capacity capacity dropped_fraction "
             "load_balancing_loss router_z_loss entropy max_mean_imbalance "
             "coefficient_of_variation padding_waste nonfinite_tokens");
  check_keys(root, "points.0.verify",
             "error tolerance ok tokens_checked num_tokens "
             "experts_checked topk_mismatches capacity_ok");
  check_value(root, "schema", "\"moecl-results/1\"");
  check_keys(root, "runs.0", "started host system processors load_average command moecl commit "
             "compiler");
  check_value(root, "runs.0.command", "\"moectl run 'it?s'\"");
  check_value(root, "kernels", "{\"dir\":null,\"hash\":\"0123456789abcdef0123456789abcdef\"}");
  check_value(root, "device.name", "\"A device ?\"");
  check_value(root, "device.type", "\"CPU\"");
  check_value(root, "device.global_memory_bytes", "1099511627776");
  check_value(root, "experiment.layer.top_k", "[1,2]");
  check_first_point(root);
  check_value(root, "points.1.params.capacity_factor", "null");
  check_value(root, "points.1.routing.capacity", "null");
  check_value(root, "points.1.status", "\"ok_unverified\"");
  check_value(root, "points.1.verify", "null");
  check_value(root, "points.2.index", "3");
  check_value(root, "points.2.error", "\"the layer broke\"");
  check_value(root, "points.2.routing", "null");
  check_value(root, "points.2.time_ms.layer", "null");
  check_value(root, "points.2.tokens_per_s", "null");
  check_value(root, "points.2.variants.router", "null");
  json_decref(root);
  assert_int_equal(results_worst(all), POINT_ERROR);
  assert_null(all->points[0].routing.topk_ids); /* not kept */
  assert_int_equal(files_in(f), 2);
  results_destroy(&all);
  assert_null(all);
}

/* Reads one RFC 4180 row; returns its number of cells. */
static size_t count_cells(const char **at) {
  size_t cells = 1;
  bool quoted = false;
  for (; **at && (quoted || **at != '\n'); ++*at) {
    if (**at == '"') quoted = !quoted;
    cells += !quoted && **at == ',';
  }
  *at += **at == '\n';
  return cells;
}

static void test_csv(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  add(all, make_point(f, 1, POINT_VERIFY_FAILED));
  add(all, make_failed(2));
  finish(all);
  char *text = slurp(f, "results.csv");
  assert_non_null(strstr(text, ",time_ms_layer_median,time_ms_layer_min,time_ms_layer_p90,"));
  assert_non_null(strstr(text, "\"it said \"\"no\"\",\nand meant it\""));
  const char *at = text;
  const size_t columns = count_cells(&at);
  size_t rows = 0;
  for (; *at; rows++) assert_int_equal(count_cells(&at), columns);
  assert_int_equal(rows, 3);
  free(text);
  results_destroy(&all);
}

/* Programs read these names and this order. */
static void test_csv_text(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  add(all, make_point(f, 1, POINT_UNVERIFIED_OK));
  add(all, make_failed(3));
  finish(all);
  char *text = slurp(f, "results.csv");
  assert_string_equal(
      text,
      "index,status,error,num_tokens,hidden_size,intermediate_size,num_experts,top_k,"
      "renormalize,jitter,capacity_factor,min_capacity,drop_policy,activation,dtype,"
      "distribution,seed,router_bias,gate_up_bias,down_bias,router_variant,"
      "grouped_gemm_variant,skew_exponent,skew_clusters,skew_noise,scoring,score_after_topk,"
      "sparsemixer_jitter,routed_scaling_factor,score_correction_bias,num_expert_group,topk_group,"
      "group_score,second_choice,router_noise,weight_on_input,swiglu_alpha,swiglu_limit,"
      "shared_intermediate_size,shared_gate,renormalize_after_capacity,renormalize_epsilon,"
      "renormalize_minimum,capacity_of_tokens,variants_router,"
      "variants_permute,variants_grouped_gemm,variants_combine,iterations,rounds,"
      "time_ms_router_median,time_ms_router_min,time_ms_router_p90,time_ms_permute_median,"
      "time_ms_permute_min,time_ms_permute_p90,time_ms_gate_up_median,time_ms_gate_up_min,"
      "time_ms_gate_up_p90,time_ms_down_median,time_ms_down_min,time_ms_down_p90,"
      "time_ms_shared_median,time_ms_shared_min,time_ms_shared_p90,"
      "time_ms_combine_median,time_ms_combine_min,time_ms_combine_p90,time_ms_layer_median,"
      "time_ms_layer_min,time_ms_layer_p90,tokens_per_s,tflops,gbytes_per_s,memory_bytes,"
      "host_ms,capacity,dropped_fraction,load_balancing_loss,router_z_loss,entropy,max_mean_imbalance,"
      "coefficient_of_variation,padding_waste,nonfinite_tokens,verify_error,verify_tolerance,"
      "verify_ok,verify_tokens_checked,verify_experts_checked,verify_topk_mismatches,"
      "verify_capacity_ok\r\n"
      "0,ok,,6,64,32,4,1,true,0.01,1.1,0,position,swiglu,fp32,skewed,0,false,false,false,auto,"
      "auto,1,,0.5,softmax,false,0.01,1,false,,,max,all,false,false,1.702,7,,false,false,,0,false,generic,scan,cpu,gather,20,1,2.5,1.5,9.5,,,,4.5,1.5,9.5,5.5,1.5,9.5,6.5,1.5,"
      "9.5,7.5,1.5,9.5,8.5,1.5,9.5,1234.5,0.25,,1048576,0.125,2,0.125,1.5,2.5,3.5,4.5,5.5,0.75,0,1e-06,1e-05,"
      "true,6,4,0,true\r\n"
      "1,ok_unverified,,6,64,32,4,1,true,0.01,,0,position,swiglu,fp32,skewed,0,false,false,"
      "false,auto,auto,1,,0.5,softmax,false,0.01,1,false,,,max,all,false,false,1.702,7,,false,false,,0,false,generic,scan,cpu,gather,20,1,2.5,1.5,9.5,,,,4.5,1.5,9.5,5.5,1.5,"
      "9.5,6.5,1.5,9.5,7.5,1.5,9.5,8.5,1.5,9.5,1234.5,0.25,,1048576,0.125,,0.125,1.5,2.5,3.5,4.5,5.5,0.75,0,,,,,,"
      ",\r\n"
      "3,error,the layer broke,6,64,32,4,2,true,0.01,,0,position,swiglu,fp32,skewed,0,false,"
      "false,false,auto,auto,1,,0.5,softmax,false,0.01,1,false,,,max,all,false,false,1.702,7,,false,false,,0,false,,,,,0,0,,,,,,,,,,,,,,,,,,,,,,,,,0,,,,,,,,,,,,,,,,,\r\n");
  free(text);
  results_destroy(&all);
}

static results *resume(fixture *f, char **error) {
  *error = NULL;
  return results_open(&f->plan, &f->device, &f->kernels, f->folder, true, error);
}

static void expect_refused(fixture *f, const char *part) {
  char *error;
  results *all = resume(f, &error);
  assert_null(all);
  assert_non_null(error);
  if (!strstr(error, part)) fail_msg("expected '%s' in: %s", part, error);
  free(error);
}

static void test_resume(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  add(all, make_point(f, 1, POINT_UNVERIFIED_OK));
  add(all, make_point(f, 2, POINT_VERIFY_FAILED));
  add(all, make_failed(3));
  finish(all);
  results_destroy(&all);
  json_t *before = read_json(f);
  char *error;
  all = resume(f, &error);
  assert_non_null(all);
  assert_true(results_has(all, 0));
  assert_true(results_has(all, 1));
  assert_false(results_has(all, 2));
  assert_false(results_has(all, 3));
  assert_false(results_has(all, 4));
  assert_true(isnan(all->points[0].time_ms[MOECL_STAGE_PERMUTE].median));
  assert_int_equal(results_worst(all), POINT_UNVERIFIED_OK);
  finish(all);
  json_t *same = read_json(f); /* it has measured nothing yet */
  assert_true(json_equal(json_object_get(before, "runs"), json_object_get(same, "runs")));
  json_decref(same);
  add(all, make_point(f, 2, POINT_OK));
  finish(all);
  json_t *after = read_json(f);
  /* What was taken over is written as it was. */
  for (size_t i = 0; i < 2; i++)
    assert_true(json_equal(json_array_get(json_object_get(before, "points"), i),
                           json_array_get(json_object_get(after, "points"), i)));
  check_value(after, "points.2.status", "\"ok\"");
  assert_int_equal(json_array_size(json_object_get(before, "runs")), 1); /* who measured */
  assert_int_equal(json_array_size(json_object_get(after, "runs")), 2);
  assert_int_equal(json_array_size(json_object_get(after, "points")), 3);
  json_decref(before);
  json_decref(after);
  results_destroy(&all);
}

/* Numbers that 15 digits do not bring back, the extremes too: results.json and
 * results.csv give the very same ones. */
static void test_digits(void **state) {
  fixture *f = *state;
  static const double hard[] = {0.1 + 0.2, 1.0 / 3, 0.1, 5e-324, DBL_MIN, DBL_MAX,
                                DBL_EPSILON, 123456789.123456789, 1e22, 4503599627370497.5};
  enum { COUNT = sizeof hard / sizeof *hard };
  for (size_t i = 0; i < COUNT; i += 4) {
    point_result point = make_point(f, i / 4, POINT_OK);
    point.tokens_per_s = hard[i];
    point.routing.statistics.coefficient_of_variation = hard[(i + 1) % COUNT];
    point.time_ms[MOECL_STAGE_DOWN].p90 = hard[(i + 2) % COUNT];
    point.verify.error = hard[(i + 3) % COUNT];
    results *all = i == 0 ? open_new(f) : NULL;
    char *error = NULL;
    if (!all) all = results_open(&f->plan, &f->device, &f->kernels, f->folder, true, &error);
    assert_non_null(all);
    add(all, point);
    results_destroy(&all);
    all = results_open(&f->plan, &f->device, &f->kernels, f->folder, true, &error);
    assert_non_null(all);
    const point_result *back = &all->points[i / 4];
    const double found[4] = {back->tokens_per_s, back->routing.statistics.coefficient_of_variation,
                             back->time_ms[MOECL_STAGE_DOWN].p90, back->verify.error};
    for (size_t j = 0; j < 4; j++)
      if (found[j] != hard[(i + j) % COUNT])
        fail_msg("%.17g came back as %.17g", hard[(i + j) % COUNT], found[j]);
    results_destroy(&all);
  }
  char *json = slurp(f, "results.json"), *csv = slurp(f, "results.csv");
  assert_non_null(strstr(json, "0.30000000000000004"));
  assert_non_null(strstr(csv, ",0.30000000000000004,"));
  assert_non_null(strstr(json, "\"jitter\": 0.01,")); /* no digits more than needed */
  free(json);
  free(csv);
}

static point_round make_round(const fixture *f, double layer_ms) {
  point_result point = make_point(f, 0, POINT_OK);
  point_round round = point.rounds[0];
  round.time_ms[MOECL_STAGE_LAYER] = (sample_summary){layer_ms, layer_ms / 2, layer_ms * 2};
  point_result_destroy(&point);
  return round;
}

static void add_round(const fixture *f, results *all, size_t index, double layer_ms) {
  char *error = NULL;
  const point_round round = make_round(f, layer_ms);
  if (!results_add_round(all, index, &round, NULL, &error)) fail_msg("%s", error);
}

/* Rounds are kept one by one, through the journal and through results.json, and a run
 * that goes on knows which are missing. */
static void test_rounds(void **state) {
  fixture *f = *state;
  char *error = NULL;
  results *all = open_new(f);
  assert_int_equal(results_rounds(all), 0);
  for (size_t i = 0; i < 4; i++) {
    point_result point = make_point(f, i, i == 3 ? POINT_VERIFY_FAILED : POINT_OK);
    assert_true(results_wants(all, i, 0));
    point.rounds_planned = i == 2 ? 1 : 3; /* point 2 is a long one */
    add(all, point);
  }
  assert_int_equal(results_rounds(all), 3);
  add_round(f, all, 1, 10);
  for (int interrupted = 0; interrupted < 2; interrupted++) {
    static const bool wanted[4][3] = {{false, true, false}, {false, false, true}, {false}, {true}};
    for (size_t i = 0; i < 4; i++)
      for (int64_t round = 0; round < 3; round++) {
        const bool again = i == 3 && round == 0 && interrupted; /* what failed runs again */
        const bool want = i == 3 ? again : wanted[i][round];
        if (results_wants(all, i, round) != want)
          fail_msg("point %zu, round %d, %s", i, (int)round, interrupted ? "resumed" : "at first");
      }
    results_destroy(&all);
    all = resume(f, &error);
    if (!all) fail_msg("%s", error);
  }
  add_round(f, all, 0, 12);
  add_round(f, all, 0, 6);
  assert_false(results_wants(all, 0, 3));
  assert_int_equal(all->points[0].iterations, 60);
  assert_true(all->points[0].time_ms[MOECL_STAGE_LAYER].median == 8.5); /* of 8.5, 12 and 6 */
  assert_true(all->points[0].time_ms[MOECL_STAGE_LAYER].min == 1.5);
  finish(all);
  json_t *root = read_json(f);
  check_value(root, "points.0.rounds.2.time_ms.layer", "{\"median\":6.0,\"min\":3.0,\"p90\":12.0}");
  check_value(root, "points.1.rounds.1.time_ms.layer.median", "10.0");
  json_decref(root);
  results_destroy(&all);
  all = resume(f, &error);
  assert_non_null(all);
  assert_int_equal(all->points[0].num_rounds, 3);
  assert_true(results_wants(all, 1, 2));
  /* One that no longer runs has failed, whatever it did before. */
  assert_true(results_add_round(all, 1, NULL, strdup("round 3 of 3: gone"), &error));
  assert_int_equal(results_worst(all), POINT_ERROR);
  assert_false(results_wants(all, 1, 2));
  results_destroy(&all);
}

/* Puts results.json with another experiment in it. */
static void put_plan(const fixture *f, json_t *root) {
  char *text = json_dumps(root, 0);
  put_file(f, "results.json", text);
  free(text);
}

/* Keys that an earlier version did not know had their defaults. */
static void test_resume_older(void **state) {
  fixture *f = *state;
  char *error;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  results_destroy(&all);
  json_t *root = read_json(f), *plan = json_object_get(root, "experiment");
  json_t *router = json_object_get(json_object_get(plan, "layer"), "router");
  json_object_del(json_object_get(plan, "measure"), "verify");
  json_object_del(router, "noise");
  json_object_del(router, "scaling_factor");
  json_object_del(plan, "dtype");
  json_object_del(root, "runs");
  json_object_del(json_object_get(plan, "measure"), "rounds");
  json_t *point = json_array_get(json_object_get(root, "points"), 0);
  json_object_del(point, "rounds");
  json_object_del(point, "rounds_planned");
  put_plan(f, root);
  all = resume(f, &error);
  if (!all) fail_msg("%s", error);
  assert_true(results_has(all, 0));
  assert_int_equal(all->points[0].num_rounds, 1); /* it was measured once */
  assert_int_equal(results_rounds(all), 1);
  assert_true(all->points[0].rounds[0].time_ms[MOECL_STAGE_LAYER].median == 8.5);
  results_destroy(&all);
  json_object_del(router, "jitter"); /* 0.01 here, not the default */
  put_plan(f, root);
  expect_refused(f, "another experiment");
  json_object_set_new(router, "jitter", json_real(0.01));
  json_object_set_new(router, "new_rule", json_true()); /* of a later version */
  put_plan(f, root);
  expect_refused(f, "another experiment");
  json_decref(root);
}

static void limit_files(rlim_t bytes) {
  struct rlimit limit;
  getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = bytes;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A sweep of many points without a device: seeds. */
static void parse_many(fixture *f, size_t count) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  fputs("name: many\nlayer: {hidden_size: 64, intermediate_size: 32, num_experts: 4, top_k: 1}\n"
        "workload: {num_tokens: 6}\nseed: [0", file);
  for (size_t i = 1; i < count; i++) fprintf(file, ", %zu", i);
  fputs("]\n", file);
  fclose(file);
  experiment_destroy(&f->plan);
  parse(f, text);
  free(text);
  assert_int_equal(f->plan.num_points, count);
}

/* Whatever a crash leaves of the journal: the whole lines are taken over, the last
 * one if it was cut is not, and results.json has them all afterwards. */
static void test_journal(void **state) {
  fixture *f = *state;
  char *error;
  parse_many(f, 8);
  results *all = open_new(f);
  for (size_t i = 0; i < 7; i++) add(all, make_point(f, i, POINT_OK));
  results_destroy(&all); /* a crash: no results_finish */
  json_t *root = read_json(f);
  assert_int_equal(json_array_size(json_object_get(root, "points")), 4);
  json_decref(root);
  char *json = slurp(f, "results.json"), *journal = slurp(f, "results.jsonl");
  assert_non_null(journal);
  const size_t size = strlen(journal);
  for (size_t cut = 0; cut <= size; cut += cut + 1 < size ? 61 : 1) {
    size_t lines = 0;
    char *part = strndup(journal, cut);
    for (const char *c = part; *c; c++) lines += *c == '\n';
    put_file(f, "results.json", json);
    put_file(f, "results.jsonl", part);
    free(part);
    all = resume(f, &error);
    if (!all) fail_msg("cut at %zu of %zu: %s", cut, size, error);
    for (size_t i = 0; i < 8; i++)
      if (results_has(all, i) != (i < 4 + lines))
        fail_msg("cut at %zu of %zu: point %zu", cut, size, i);
    results_destroy(&all);
    root = read_json(f);
    assert_int_equal(json_array_size(json_object_get(root, "points")), 4 + lines);
    json_decref(root);
    assert_int_equal(files_in(f), 2); /* no journal any more */
  }
  /* A later line counts, one of a failed point too; one that is damaged is told. */
  char *changed = format_text("%s%s", journal, journal);
  char *status = strstr(changed + size, "\"ok\"");
  memcpy(status, "\"no\"", 4);
  put_file(f, "results.json", json);
  put_file(f, "results.jsonl", changed);
  all = resume(f, &error);
  assert_non_null(all);
  assert_false(results_has(all, 4));
  assert_true(results_has(all, 5));
  results_destroy(&all);
  memcpy(strstr(changed, "\"tflops\""), "\"tfl0ps\"", 8);
  put_file(f, "results.jsonl", changed);
  expect_refused(f, "results.jsonl cannot be resumed: it is damaged (line 1: tflops");
  free(changed);
  free(journal);
  free(json);
}

/* A line that no longer fits leaves no half of it behind; the next time all is written. */
static void test_journal_full(void **state) {
  fixture *f = *state;
  char *error = NULL;
  parse_many(f, 8);
  results *all = open_new(f);
  for (size_t i = 0; i < 5; i++) add(all, make_point(f, i, POINT_OK));
  char *before = slurp(f, "results.jsonl");
  point_result point = make_point(f, 5, POINT_OK);
  signal(SIGXFSZ, SIG_IGN);
  limit_files(strlen(before) + 100);
  const bool added = results_add(all, &point, &error);
  limit_files(RLIM_INFINITY);
  assert_false(added);
  assert_non_null(strstr(error, "results.jsonl could not be written: File too large"));
  free(error);
  char *after = slurp(f, "results.jsonl");
  assert_string_equal(after, before);
  free(before);
  free(after);
  add(all, make_point(f, 6, POINT_OK));
  results_destroy(&all);
  all = resume(f, &error);
  assert_non_null(all);
  for (size_t i = 0; i < 8; i++) assert_int_equal(results_has(all, i), i < 7);
  results_destroy(&all);
}

/* Bytes this process has written so far; 0 where the system doesn't tell. */
static unsigned long long bytes_written(void) {
  unsigned long long bytes = 0;
  char line[128];
  FILE *file = fopen("/proc/self/io", "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "wchar: %llu", &bytes) == 1) break;
  if (file) fclose(file);
  return bytes;
}

/* What is written grows with the points, not with their square. */
static void test_journal_grows(void **state) {
  fixture *f = *state;
  enum { MANY = 300 };
  parse_many(f, MANY);
  const unsigned long long before = bytes_written();
  results *all = open_new(f);
  for (size_t i = 0; i < MANY; i++) add(all, make_point(f, i, POINT_OK));
  finish(all);
  const unsigned long long written = bytes_written() - before;
  results_destroy(&all);
  char *json = slurp(f, "results.json");
  if (before == 0) print_message("SKIP: no /proc/self/io\n");
  else if (written > 6 * strlen(json))
    fail_msg("%llu bytes for a results.json of %zu", written, strlen(json));
  free(json);
  assert_int_equal(files_in(f), 2);
}

static void test_resume_refused(void **state) {
  fixture *f = *state;
  expect_refused(f, "results.json: No such file");
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  results_destroy(&all);
  char *good = slurp(f, "results.json"), *error = NULL;
  /* results of an earlier run are not written over */
  assert_null(results_open(&f->plan, &f->device, &f->kernels, f->folder, false, &error));
  assert_non_null(strstr(error, "--resume"));
  free(error);
  strcpy(f->device.name, "Another device");
  expect_refused(f, "on Another device");
  strcpy(f->device.name, "A device \xff");
  f->kernels.dir = "edited \"cl\"";
  f->kernels.hash[0] = 'f';
  expect_refused(f, "other kernels (built in, sources 0123456789abcdef0123456789abcdef) than now "
                    "(edited \"cl\", sources f123456789abcdef0123456789abcdef)");
  f->kernels.hash[0] = '0'; /* a folder with the same sources is as good */
  all = resume(f, &error);
  assert_non_null(all);
  assert_true(results_has(all, 0));
  add(all, make_point(f, 0, POINT_OK));
  json_t *root = read_json(f);
  check_value(root, "kernels.dir", "\"edited \\\"cl\\\"\"");
  json_decref(root);
  results_destroy(&all);
  f->kernels.dir = NULL;
  for (size_t cut = 0; cut < strlen(good) - 2; cut += 97) { /* whatever part of it is there */
    char *part = strndup(good, cut);
    put_file(f, "results.json", part);
    expect_refused(f, "damaged");
    free(part);
  }
  put_file(f, "results.json", "{\"schema\": \"moecl-results/99\"}");
  expect_refused(f, "its schema is moecl-results/99");
  put_file(f, "results.json", "[]");
  expect_refused(f, "its schema is not given");
  char *capacity = strstr(good, "\"tflops\"");
  memcpy(capacity, "\"tfl0ps\"", 8);
  put_file(f, "results.json", good);
  expect_refused(f, "points[0].tflops");
  memcpy(capacity, "\"tflops\"", 8);
  put_file(f, "results.json", good);
  free(good);
  experiment_destroy(&f->plan);
  parse(f, "name: unit\nlayer: {hidden_size: 64, intermediate_size: 32, num_experts: 4, top_k: 1}\n"
           "workload: {num_tokens: 6}\n");
  expect_refused(f, "another experiment");
  char missing[600];
  snprintf(missing, sizeof missing, "%s/none", f->folder);
  assert_null(results_open(&f->plan, &f->device, &f->kernels, missing, true, &error));
  assert_non_null(strstr(error, "No such file"));
  free(error);
}

static void test_disk_full(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  char *json = slurp(f, "results.json"), *csv = slurp(f, "results.csv"), *error = NULL;
  point_result point = make_point(f, 1, POINT_OK);
  signal(SIGXFSZ, SIG_IGN);
  limit_files(strlen(json)); /* the larger file no longer fits */
  const bool added = results_add(all, &point, &error);
  limit_files(RLIM_INFINITY);
  assert_false(added);
  assert_non_null(strstr(error, "results.json could not be written: File too large"));
  free(error);
  char *now = slurp(f, "results.json");
  assert_string_equal(now, json);
  free(now);
  now = slurp(f, "results.csv");
  assert_string_equal(now, csv);
  free(now);
  free(json);
  free(csv);
  assert_int_equal(files_in(f), 2);
  assert_true(results_has(all, 1)); /* for the table */
  add(all, make_point(f, 2, POINT_OK)); /* room again: nothing is lost */
  finish(all);
  json_t *root = read_json(f);
  assert_int_equal(json_array_size(json_object_get(root, "points")), 3);
  json_decref(root);
  results_destroy(&all);
}

static void test_default_folder(void **state) {
  fixture *f = *state;
  char here[1024], *error = NULL;
  assert_non_null(getcwd(here, sizeof here));
  assert_int_equal(chdir(f->folder), 0);
  results *one = results_open(&f->plan, &f->device, &f->kernels, NULL, false, &error);
  results *two = results_open(&f->plan, &f->device, &f->kernels, NULL, false, &error);
  assert_non_null(one);
  assert_non_null(two);
  assert_string_not_equal(results_folder(one), results_folder(two));
  assert_memory_equal(results_folder(one), "results/unit-test-20", 20);
  results *both[] = {one, two};
  for (int i = 0; i < 2; i++) {
    char path[1100], folder[512];
    snprintf(folder, sizeof folder, "%s", results_folder(both[i]));
    results_destroy(&both[i]); /* its lock is gone with it */
    snprintf(path, sizeof path, "%s/results.json", folder);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/results.csv", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
  }
  assert_int_equal(rmdir("results"), 0);
  assert_int_equal(chdir(here), 0);
}

static void test_unwritable(void **state) {
  fixture *f = *state;
  char path[600], *error = NULL;
  put_file(f, "plain", "a file");
  snprintf(path, sizeof path, "%s/plain/inner", f->folder);
  assert_null(results_open(&f->plan, &f->device, &f->kernels, path, false, &error));
  assert_non_null(strstr(error, "Not a directory"));
  free(error);
}

static char *table_text(const results *all) {
  char *text = NULL;
  size_t size;
  FILE *file = open_memstream(&text, &size);
  results_print_table(all, file);
  fclose(file);
  return text;
}

static void test_table(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  add(all, make_point(f, 1, POINT_UNVERIFIED_OK));
  add(all, make_point(f, 2, POINT_VERIFY_FAILED));
  add(all, make_failed(3));
  char *text = table_text(all), *note = NULL, *error = NULL;
  assert_string_equal(
      text,
      "top_k  capacity_factor  layer ms  tokens/s  TFLOP/s  GB/s  dropped %  imbalance  verify error\n"
      "    1              1.1       8.5      1234     0.25     -       12.5        4.5       1.0e-06\n"
      "    1             null       8.5      1234     0.25     -       12.5        4.5           off\n"
      "    2              1.1       8.5      1234     0.25     -       12.5        4.5        FAILED\n"
      "    2             null         -         -        -     -          -          -         ERROR\n"
      "point 2 (top_k=2, capacity_factor=1.1): it said \"no\",\nand meant it\n"
      "point 3 (top_k=2, capacity_factor=null): the layer broke\n");
  free(text);
  reports_written = 0;
  assert_true(results_finish(all, &note, &error));
  assert_string_equal(note, "no gnuplot");
  assert_int_equal(reports_written, 1);
  free(note);
  results_destroy(&all);
}

/* stderr into a file while the progress is shown; not a terminal then. */
static char *progress_text(const fixture *f, bool quiet) {
  char path[600];
  snprintf(path, sizeof path, "%s/stderr", f->folder);
  fflush(stderr);
  const int kept = dup(STDERR_FILENO);
  assert_non_null(freopen(path, "wb", stderr));
  progress *shown = progress_open(&f->plan, &f->device, 3, quiet);
  point_result points[] = {make_point(f, 0, POINT_OK), make_point(f, 1, POINT_UNVERIFIED_OK),
                           make_failed(3)};
  for (size_t i = 0; i < 3; i++) {
    progress_begin(shown, points[i].index);
    progress_end(shown, points[i].index, &points[i]);
    point_result_destroy(&points[i]);
  }
  progress_close(&shown);
  fflush(stderr);
  dup2(kept, STDERR_FILENO);
  close(kept);
  return slurp(f, "stderr");
}

static void test_progress(void **state) {
  fixture *f = *state;
  char *text = progress_text(f, false);
  assert_string_equal(
      text, "[1/4] top_k=1, capacity_factor=1.1: 8.50 ms, 1234 tokens/s, verified (error 1.0e-06)\n"
            "[2/4] top_k=1, capacity_factor=null: 8.50 ms, 1234 tokens/s, verification off\n"
            "[4/4] top_k=2, capacity_factor=null: the layer broke\n");
  free(text);
  text = progress_text(f, true);
  assert_string_equal(text, "");
  free(text);
}

static const dump_tensor tensors[] = {{"hidden \"states\"", "BF16", {3, 5}, 2},
                                      {"none", "F32", {0, 4}, 2},
                                      {"kept", "U8", {7}, 1},
                                      {"ids", "I32", {2, 1, 2}, 3}};

static void test_dump(void **state) {
  fixture *f = *state;
  char path[600], *error = NULL;
  unsigned char data[53];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)(i * 7);
  snprintf(path, sizeof path, "%s/point-000.safetensors", f->folder);
  dump *out = dump_open(path, tensors, 4, &error);
  assert_non_null(out);
  assert_true(dump_write(out, data, 11, &error)); /* pieces need not be tensors */
  assert_true(dump_write(out, data + 11, 42, &error));
  assert_true(dump_close(&out, &error));
  assert_null(out);
  unsigned char *file = (unsigned char *)slurp(f, "point-000.safetensors");
  size_t size = 0;
  for (int i = 7; i >= 0; i--) size = size << 8 | file[i];
  assert_int_equal(size % 8, 0);
  json_t *header = json_loadb((char *)file + 8, size, 0, NULL);
  check_value(header, "__metadata__.format", "\"pt\"");
  check_value(header, "hidden \"states\"",
              "{\"dtype\":\"BF16\",\"shape\":[3,5],\"data_offsets\":[0,30]}");
  check_value(header, "none", "{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[30,30]}");
  check_value(header, "kept", "{\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[30,37]}");
  check_value(header, "ids", "{\"dtype\":\"I32\",\"shape\":[2,1,2],\"data_offsets\":[37,53]}");
  json_decref(header);
  assert_memory_equal(file + 8 + size, data, sizeof data);
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  assert_int_equal(info.st_size, 8 + size + sizeof data);
  free(file);
}

static void test_dump_refused(void **state) {
  fixture *f = *state;
  char path[600], *error = NULL;
  const char data[64] = {0};
  snprintf(path, sizeof path, "%s/point-001.safetensors", f->folder);
  dump *out = dump_open(path, tensors, 4, &error);
  assert_true(dump_write(out, data, 52, &error));
  assert_false(dump_close(&out, &error)); /* one byte short */
  assert_null(out);
  assert_non_null(strstr(error, "52 of 53 bytes"));
  free(error);
  error = NULL;
  out = dump_open(path, tensors, 4, &error);
  assert_false(dump_write(out, data, 54, &error)); /* one too many */
  assert_false(dump_close(&out, &error));
  assert_non_null(strstr(error, "more bytes than"));
  free(error);
  error = NULL;
  const dump_tensor odd = {"odd", "F8", {1}, 1}, huge = {"huge", "F32", {1 << 30, 1 << 30, 16}, 3};
  assert_null(dump_open(path, &odd, 1, &error));
  assert_null(dump_open(path, &huge, 1, &error));
  assert_non_null(strstr(error, "huge"));
  free(error);
  error = NULL;
  assert_int_equal(files_in(f), 0);
}

static void test_dump_disk_full(void **state) {
  fixture *f = *state;
  char path[600], *error = NULL;
  const dump_tensor tensor = {"large", "U8", {1 << 20}, 1};
  char *data = calloc(1, 1 << 20);
  snprintf(path, sizeof path, "%s/point-002.safetensors", f->folder);
  signal(SIGXFSZ, SIG_IGN);
  limit_files(1 << 16);
  dump *out = dump_open(path, &tensor, 1, &error);
  bool ok = out && dump_write(out, data, 1 << 20, &error);
  ok = dump_close(&out, &error) && ok;
  limit_files(RLIM_INFINITY);
  assert_false(ok);
  assert_non_null(strstr(error, "point-002.safetensors could not be written: File too large"));
  free(error);
  free(data);
  assert_int_equal(files_in(f), 0);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(test_json),           CASE(test_csv),
      CASE(test_csv_text),       CASE(test_resume),
      CASE(test_digits),         CASE(test_resume_older),
      CASE(test_rounds),         CASE(test_journal),        CASE(test_journal_grows),
      CASE(test_journal_full),
      CASE(test_resume_refused), CASE(test_disk_full),
      CASE(test_default_folder), CASE(test_unwritable),
      CASE(test_table),          CASE(test_progress),
      CASE(test_dump),           CASE(test_dump_refused),
      CASE(test_dump_disk_full),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: MIT
/* The results folder: results.json and results.csv, a full disk, the closing table,
 * progress, dumps. */
#include "results_fixture.h"
#include "cli/progress.h"

static void check_first_point(const json_t *root) {
  static const char *const values[][2] = {
      {"index", "0"},
      {"status", "\"ok\""},
      {"error", "null"},
      {"params.num_tokens", "6"},
      {"params.hidden_size", "64"},
      {"params.intermediate_size", "32"},
      {"params.num_experts", "4"},
      {"params.top_k", "1"},
      {"params.renormalize", "true"},
      {"params.jitter", "0.01"},
      {"params.capacity_factor", "1.1"},
      {"params.min_capacity", "0"},
      {"params.drop_policy", "\"position\""},
      {"params.activation", "\"swiglu\""},
      {"params.dtype", "\"fp32\""},
      {"params.distribution", "\"skewed\""},
      {"params.seed", "\"18446744073709551615\""},
      {"params.skew_exponent", "1.0"},
      {"params.skew_clusters", "null"},
      {"params.skew_noise", "0.5"},
      {"params.swiglu_alpha", "1.702"},
      {"params.swiglu_limit", "7.0"},
      {"params.routed_scaling_factor", "1.0"},
      {"params.gate_up_bias", "false"},
      {"params.grouped_gemm_variant", "\"auto\""},
      {"variants.router", "\"generic\""},
      {"variants.permute", "\"scan\""},
      {"variants.grouped_gemm", "\"cpu\""},
      {"variants.combine", "\"gather\""},
      {"variant_reasons.router", "\"the only, \\\"best\\\" one\""},
      {"iterations", "20"},
      {"rounds_planned", "1"},
      {"rounds.0.iterations", "20"},
      {"rounds.0.load_average", "0.75"},
      {"rounds.0.time_ms.layer.p90", "9.5"},
      {"time_ms.router", "{\"median\":2.5,\"min\":1.5,\"p90\":9.5}"},
      {"time_ms.permute", "null"},
      {"time_ms.layer.median", "8.5"},
      {"tokens_per_s", "1234.5"},
      {"tflops", "0.25"},
      {"gbytes_per_s", "null"},
      {"memory_bytes", "1048576"},
      {"routing.tokens_per_expert", "[0,1,2,3]"},
      {"routing.tokens_per_expert_after_capacity", "[0,1,2,2]"},
      {"routing.capacity", "2"},
      {"routing.load_balancing_loss", "1.5"},
      {"routing.router_z_loss", "2.5"},
      {"routing.entropy", "3.5"},
      {"routing.max_mean_imbalance", "4.5"},
      {"routing.coefficient_of_variation", "5.5"},
      {"routing.dropped_fraction", "0.125"},
      {"routing.padding_waste", "0.75"},
      {"routing.identity_fraction", "0.375"},
      {"routing.changed_choices", "0.0625"},
      {"routing.nonfinite_tokens", "0"},
      {"verify.error", "1e-6"},
      {"verify.tolerance", "1e-5"},
      {"verify.ok", "true"},
      {"verify.tokens_checked", "6"},
      {"verify.num_tokens", "6"},
      {"verify.experts_checked", "4"},
      {"verify.topk_mismatches", "0"},
      {"verify.capacity_ok", "true"},
      {"verify.weight_error", "null"}};
  const json_t *point = json_array_get(json_object_get(root, "points"), 0);
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    check_value(point, values[i][0], values[i][1]);
}

/* What a point has for each token is given up, else a sweep would fill the memory; what
 * files show is kept. (That nothing leaks, the sanitizers see.) */
static void test_arrays(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  point_result made = make_point(f, 0, POINT_OK);
  made.routing.num_identity_experts = 3;
  moecl_routing want = made.routing; /* all of it, but for the arrays of tokens */
  assert_true(want.router_logits && want.topk_ids && want.topk_weights && want.kept &&
              want.token_priority);
  want.router_logits = want.topk_weights = want.token_priority = NULL;
  want.topk_ids = NULL, want.kept = NULL;
  add(all, made);
  const moecl_routing *got = &all->points[0].routing;
  assert_memory_equal(got, &want, sizeof want);
  for (int64_t e = 0; e < got->num_experts; e++) {
    assert_int_equal(got->tokens_per_expert[e], e);
    assert_int_equal(got->tokens_per_expert_after_capacity[e], e < 2 ? e : 2);
  }
  finish(all);
  results_destroy(&all);
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
  check_keys(root, "", "schema versions runs kernels experiment device peaks points");
  check_keys(root, "versions", "moecl commit compiler");
  check_keys(root, "points.0",
             "index status error params variants variant_reasons iterations "
             "time_ms tokens_per_s tflops gbytes_per_s memory_bytes host_ms rounds_planned "
             "rounds routing verify");
  check_keys(root, "points.0.time_ms", "router permute gate_up down shared combine layer");
  check_keys(root, "points.0.time_ms.layer", "median min p90");
  check_keys(root, "points.0.variants", "router permute grouped_gemm combine");
  check_keys(root, "points.0.routing",
             "tokens_per_expert tokens_per_expert_after_capacity capacity dropped_fraction "
             "load_balancing_loss router_z_loss entropy max_mean_imbalance "
             "coefficient_of_variation padding_waste identity_fraction changed_choices "
             "nonfinite_tokens nonfinite_score_tokens zero_weight_tokens");
  check_keys(root, "points.0.verify",
             "error tolerance ok tokens_checked num_tokens "
             "experts_checked topk_mismatches capacity_ok weight_error weight_cosine "
             "weight_bits");
  check_value(root, "schema", "\"moecl-results/1\"");
  check_keys(root, "runs.0",
             "started host system processors load_average command processes moecl commit "
             "compiler");
  check_value(root, "runs.0.processes", "1");
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
      "index,status,error,seed,hidden_size,intermediate_size,num_experts,num_identity_experts,"
      "top_k,activation,swiglu_alpha,swiglu_limit,gate_up_bias,down_bias,"
      "shared_intermediate_size,shared_gate,shared_swiglu_limit,shared_scaling_factor,"
      "weight_format,scale_search,activation_format,batch_invariant,grouped_gemm_variant,scoring,"
      "score_after_"
      "topk,sparsemixer_"
      "jitter,renormalize,"
      "renormalize_epsilon,renormalize_minimum,routed_scaling_factor,score_correction_bias,"
      "num_expert_group,topk_group,group_score,cut_groups_to_zero,second_choice,router_noise,"
      "weight_on_input,jitter,router_bias,router_variant,capacity_factor,capacity_of_tokens,"
      "min_capacity,drop_policy,renormalize_after_capacity,experts,devices,placement,"
      "replicas,chunks,transport,dispatch_format,cache,eviction,dtype,num_tokens,distribution,"
      "skew_exponent,skew_clusters,skew_noise,what,variants_router,variants_permute,"
      "variants_grouped_gemm,variants_combine,iterations,rounds,time_ms_router_median,"
      "time_ms_router_min,time_ms_router_p90,time_ms_permute_median,time_ms_permute_min,"
      "time_ms_permute_p90,time_ms_gate_up_median,time_ms_gate_up_min,time_ms_gate_up_p90,"
      "time_ms_down_median,time_ms_down_min,time_ms_down_p90,time_ms_shared_median,"
      "time_ms_shared_min,time_ms_shared_p90,time_ms_combine_median,time_ms_combine_min,"
      "time_ms_combine_p90,time_ms_layer_median,time_ms_layer_min,time_ms_layer_p90,"
      "tokens_per_s,tflops,gbytes_per_s,memory_bytes,host_ms,capacity,dropped_fraction,"
      "load_balancing_loss,router_z_loss,entropy,max_mean_imbalance,coefficient_of_variation,"
      "padding_waste,identity_fraction,changed_choices,nonfinite_tokens,nonfinite_score_tokens,"
      "zero_weight_tokens,verify_error,verify_tolerance,verify_ok,verify_tokens_checked,"
      "verify_experts_checked,verify_topk_mismatches,verify_capacity_ok,verify_weight_error,"
      "verify_weight_cosine,verify_weight_bits,sent_bytes,row_bytes,output_row_bytes,transfer_ms,"
      "hidden_share,member_"
      "imbalance,places,host_bytes,hit_rate,moved_bytes,copy_ms,copy_hidden_share\r\n"
      "0,ok,,18446744073709551615,64,32,4,0,1,swiglu,1.702,7,false,false,,false,,1,dtype,none,"
      "dtype,"
      "false,"
      "auto,"
      "softmax,false,0.01,true,,0,1,false,,,max,false,all,false,false,0.01,false,auto,1.1,"
      "false,0,position,false,,auto,even,0,,auto,dtype,,lru,fp32,6,skewed,1,,0.5,layer,generic,"
      "scan,cpu,"
      "gather,20,"
      "1,"
      "2.5,1.5,9.5,,"
      ",,"
      "4.5,1.5,9.5,5.5,1.5,9.5,6.5,1.5,9.5,7.5,1.5,9.5,8.5,1.5,9.5,1234.5,0.25,,1048576,0.125,"
      "2,0.125,1.5,2.5,3.5,4.5,5.5,0.75,0.375,0.0625,0,0,0,1e-06,1e-05,true,6,4,0,true,,,,,,,,,,,,,"
      ",,\r\n"
      "1,ok_unverified,,18446744073709551615,64,32,4,0,1,swiglu,1.702,7,false,false,,false,,1,"
      "dtype,none,dtype,false,auto,softmax,false,0.01,true,,0,1,false,,,max,false,all,false,false,"
      "0.01,"
      "false,"
      "auto,,"
      "false,0,position,false,,auto,even,0,,auto,dtype,,lru,fp32,6,skewed,1,,0.5,layer,generic,"
      "scan,cpu,"
      "gather,20,"
      "1,"
      "2.5,1.5,9.5,,"
      ",,"
      "4.5,1.5,9.5,5.5,1.5,9.5,6.5,1.5,9.5,7.5,1.5,9.5,8.5,1.5,9.5,1234.5,0.25,,1048576,0.125,,"
      "0.125,1.5,2.5,3.5,4.5,5.5,0.75,0.375,0.0625,0,0,0,,,,,,,,,,,,,,,,,,,,,,\r\n"
      "3,error,the layer broke,18446744073709551615,64,32,4,0,2,swiglu,1.702,7,false,false,,"
      "false,,1,dtype,none,dtype,false,auto,softmax,false,0.01,true,,0,1,false,,,max,false,all,"
      "false,"
      "false,0."
      "01,"
      "false,"
      "auto,,false,0,position,false,,auto,even,0,,auto,dtype,,lru,fp32,6,skewed,1,,0.5,layer,,,,,0,"
      "0,,,,"
      ",,,,,,"
      ",,,,,"
      ",,"
      ",,,,,,,,0,,,"
      ",,"
      ",,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,\r\n");
  free(text);
  results_destroy(&all);
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
  assert_true(results_has(all, 1));     /* for the table */
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

static char *printed(const results *all, report_format format, int width) {
  char *text = NULL;
  size_t size;
  FILE *file = open_memstream(&text, &size);
  assert_true(report_print(all, format, file, width));
  fclose(file);
  return text;
}

static char *table_text(const results *all, int width) { return printed(all, FORMAT_TABLE, width); }

static void test_formats(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  add(all, make_point(f, 2, POINT_VERIFY_FAILED));
  add(all, make_failed(3));
  char *text = printed(all, FORMAT_MARKDOWN, 20), *error = NULL; /* no width is too small */
  assert_string_equal(
      text, "| top_k | capacity_factor | layer ms | tokens/s | TFLOP/s | GB/s | dropped % | "
            "imbalance | verify error |\n"
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
            "| 1 | 1.1 | 8.5 | 1234 | 0.25 | - | 12.5 | 4.5 | 1.0e-06 |\n"
            "| 2 | 1.1 | 8.5 | 1234 | 0.25 | - | 12.5 | 4.5 | FAILED |\n"
            "| 2 | null | - | - | - | - | - | - | ERROR |\n"
            "\n"
            "- point 2 (top_k=2, capacity_factor=1.1): it said \"no\", and meant it\n"
            "- point 3 (top_k=2, capacity_factor=null): the layer broke\n");
  free(text);
  assert_true(results_write(all, &error));
  static const char *const names[] = {"results.csv", "results.json"};
  for (int i = 0; i < 2; i++) {
    char *file = slurp(f, names[i]);
    text = printed(all, i == 0 ? FORMAT_CSV : FORMAT_JSON, 20);
    assert_string_equal(text, file);
    free(text);
    free(file);
  }
  results_destroy(&all);
}

/* What formats of weights cost has a column where a point has one. */
static void test_weight_error(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  point_result point = make_point(f, 0, POINT_OK);
  point.verify.weight_error = 0.03125;
  point.verify.weight_cosine = 0.9375;
  point.verify.weight_bits = 4.25;
  add(all, point);
  add(all, make_point(f, 1, POINT_OK));
  char *text = table_text(all, 72);
  assert_non_null(strstr(text, "tokens/s  weight error  verify error\n"));
  assert_non_null(strstr(text, "1234       0.03125       1.0e-06\n"));
  assert_non_null(strstr(text, "1234             -       1.0e-06\n"));
  free(text);
  text = printed(all, FORMAT_CSV, 0);
  assert_non_null(strstr(text, ",1e-06,1e-05,true,6,4,0,true,0.03125,0.9375,4.25,,,,,,,,,,,,\r\n"));
  free(text);
  results_destroy(&all);
}

/* What several devices did is there for such points alone, and is read back. */
static void test_parallel(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  point_result point = make_point(f, 0, POINT_OK);
  point.parallel = (point_parallel){.num_members = 2,
                                    .members = calloc(2, sizeof(point_member)),
                                    .transport = "host",
                                    .chunks = 3,
                                    .sent_bytes = 96,
                                    .row_bytes = 16,
                                    .output_row_bytes = 32,
                                    .transfer_ms = 0.5,
                                    .hidden_share = 0.25,
                                    .member_imbalance = 1.5};
  assert_non_null(point.parallel.members);
  point.parallel.members[1] = (point_member){.device = "a \"device\"",
                                             .grouped_gemm_variant = "cpu",
                                             .experts = 3,
                                             .num_tokens = 5,
                                             .rows = 7,
                                             .bytes_sent = 64,
                                             .bytes_received = 32,
                                             .choice_bytes_sent = 24,
                                             .choice_bytes_received = 16,
                                             .copied_bytes = 88,
                                             .stored_bytes = 48,
                                             .memory_bytes = 3 << 20,
                                             .layer_ms = NAN,
                                             .kernels_ms = 2.5,
                                             .transfer_ms = 0.75,
                                             .hidden_ms = 0.125};
  add(all, point);
  add(all, make_point(f, 1, POINT_OK));
  finish(all);
  json_t *root = read_json(f);
  check_keys(root, "points.0.parallel",
             "transport chunks sent_bytes row_bytes output_row_bytes transfer_ms hidden_share "
             "member_imbalance members");
  check_value(root, "points.0.parallel.chunks", "3");
  check_value(root, "points.0.parallel.members.1.device", "\"a \\\"device\\\"\"");
  check_value(root, "points.0.parallel.members.0.grouped_gemm_variant", "null");
  check_value(root, "points.0.parallel.members.1.grouped_gemm_variant", "\"cpu\"");
  check_value(root, "points.0.parallel.members.1.memory_bytes", "3145728");
  check_value(root, "points.0.parallel.members.1.layer_ms", "null");
  check_value(root, "points.0.parallel.members.1.choice_bytes_sent", "24");
  assert_null(json_object_get(json_array_get(json_object_get(root, "points"), 1), "parallel"));
  json_decref(root);
  results_destroy(&all);
  char *error = NULL;
  all = results_open(&f->plan, &f->device, &f->kernels, f->folder, true, &error);
  assert_non_null(all);
  const point_parallel *read = &all->points[0].parallel;
  assert_true(read->num_members == 2 && read->chunks == 3 && read->sent_bytes == 96);
  assert_true(read->row_bytes == 16 && read->output_row_bytes == 32);
  assert_true(read->hidden_share == 0.25 && read->member_imbalance == 1.5);
  assert_string_equal(read->transport, "host");
  assert_string_equal(read->members[1].device, "a \"device\"");
  assert_string_equal(read->members[0].grouped_gemm_variant, "");
  assert_string_equal(read->members[1].grouped_gemm_variant, "cpu");
  assert_true(read->members[1].rows == 7 && read->members[1].bytes_received == 32);
  assert_true(read->members[1].choice_bytes_received == 16 && read->members[1].copied_bytes == 88);
  assert_int_equal(read->members[1].stored_bytes, 48);
  assert_int_equal(read->members[1].memory_bytes, 3 << 20);
  assert_true(isnan(read->members[1].layer_ms) && read->members[1].hidden_ms == 0.125);
  results_destroy(&all);
}

/* Earlier versions told less of members: such results are gone on with. */
static void test_earlier_members(void **state) {
  static const char *const newer[] = {"grouped_gemm_variant", "memory_bytes"};
  fixture *f = *state;
  results *all = open_new(f);
  point_result point = make_point(f, 0, POINT_OK);
  point.parallel = (point_parallel){.num_members = 1, .members = calloc(1, sizeof(point_member))};
  assert_non_null(point.parallel.members);
  point.parallel.members[0] =
      (point_member){.grouped_gemm_variant = "cpu", .rows = 7, .memory_bytes = 4096};
  add(all, point);
  finish(all);
  results_destroy(&all);
  json_t *root = read_json(f);
  json_t *points = json_object_get(root, "points");
  json_t *members =
      json_object_get(json_object_get(json_array_get(points, 0), "parallel"), "members");
  for (int i = 0; i < 2; i++)
    assert_int_equal(json_object_del(json_array_get(members, 0), newer[i]), 0);
  char *path = format_text("%s/results.json", f->folder), *error = NULL;
  assert_int_equal(json_dump_file(root, path, JSON_INDENT(1)), 0);
  free(path);
  json_decref(root);
  all = results_open(&f->plan, &f->device, &f->kernels, f->folder, true, &error);
  assert_non_null(all);
  assert_true(results_has(all, 0));
  const point_member *read = &all->points[0].parallel.members[0];
  assert_true(read->rows == 7 && read->memory_bytes == 0);
  assert_string_equal(read->grouped_gemm_variant, "");
  results_destroy(&all);
}

static results *resume_with(fixture *f, int processes, char **error) {
  f->plan.processes = processes;
  return resume(f, error);
}

/* A message that names both numbers and the command; nothing is written. */
static void check_refused(fixture *f, int processes, const char *numbers, const char *launcher) {
  char *error = NULL, *text = slurp(f, "results.json"), command[64];
  assert_null(resume_with(f, processes, &error));
  assert_non_null(strstr(error, numbers));
  snprintf(command, sizeof command, "go on with: %smoectl run ", launcher);
  assert_non_null(strstr(error, command));
  assert_non_null(strstr(error, " --resume "));
  free(error);
  char *after = slurp(f, "results.json");
  assert_string_equal(after, text);
  free(after);
  free(text);
}

/* Of a group: one point of these members, by so many processes. */
static void write_group(fixture *f, int processes, const char *transport) {
  f->plan.processes = processes;
  results *all = open_new(f);
  point_result point = make_point(f, 0, POINT_OK);
  point.parallel = (point_parallel){.num_members = 1, .members = calloc(1, sizeof(point_member))};
  assert_non_null(point.parallel.members);
  snprintf(point.parallel.transport, sizeof point.parallel.transport, "%s", transport);
  add(all, point);
  finish(all);
  results_destroy(&all);
}

/* An earlier version's file does not say how many. */
static void leave_out_processes(const fixture *f) {
  json_t *root = read_json(f);
  json_t *run = json_array_get(json_object_get(root, "runs"), 0);
  assert_int_equal(json_object_del(run, "processes"), 0);
  char *path = format_text("%s/results.json", f->folder);
  assert_int_equal(json_dump_file(root, path, JSON_INDENT(1)), 0);
  free(path);
  json_decref(root);
}

static void check_resumed(fixture *f, int processes) {
  char *error = NULL;
  results *all = resume_with(f, processes, &error);
  assert_non_null(all);
  assert_true(results_has(all, 0));
  results_destroy(&all);
}

/* Other processes would measure rounds of a group in another way. */
static void test_processes(void **state) {
  fixture *f = *state;
  write_group(f, 2, "mpi");
  json_t *root = read_json(f);
  check_value(root, "runs.0.processes", "2");
  json_decref(root);
  check_refused(f, 1, "by 2 processes, and now there is 1,", "mpirun -n 2 ");
  check_refused(f, 3, "by 2 processes, and now there are 3,", "mpirun -n 2 ");
  check_resumed(f, 2);
  leave_out_processes(f); /* several, as its transport says */
  check_resumed(f, 2);
  check_resumed(f, 1);
}

static void test_earlier_runs(void **state) {
  fixture *f = *state;
  write_group(f, 0, "host");
  leave_out_processes(f);
  check_refused(f, 2, "by 1 process, and now there are 2,", "");
  check_resumed(f, 1);
}

static void test_no_groups(void **state) {
  fixture *f = *state;
  f->plan.processes = 2;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  finish(all);
  results_destroy(&all);
  check_resumed(f, 1);
}

/* So is what a cache of experts did; a share of no copies is not known. */
static void test_offload(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  point_result point = make_point(f, 0, POINT_OK);
  point.offload = (point_offload){.places = 2,
                                  .host_bytes = 4096,
                                  .hit_rate = 0.75,
                                  .moved_bytes = 512.5,
                                  .copy_ms = 0,
                                  .copy_hidden_share = NAN};
  add(all, point);
  add(all, make_point(f, 1, POINT_OK));
  finish(all);
  json_t *root = read_json(f);
  check_keys(root, "points.0.offload",
             "places host_bytes hit_rate moved_bytes copy_ms copy_hidden_share");
  check_value(root, "points.0.offload.copy_hidden_share", "null");
  assert_null(json_object_get(json_array_get(json_object_get(root, "points"), 1), "offload"));
  json_decref(root);
  results_destroy(&all);
  char *error = NULL;
  all = results_open(&f->plan, &f->device, &f->kernels, f->folder, true, &error);
  assert_non_null(all);
  const point_offload *read = &all->points[0].offload;
  assert_true(read->places == 2 && read->host_bytes == 4096 && read->hit_rate == 0.75);
  assert_true(read->moved_bytes == 512.5 && read->copy_ms == 0 && isnan(read->copy_hidden_share));
  assert_int_equal(all->points[1].offload.places, 0);
  results_destroy(&all);
}

static void test_table(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  add(all, make_point(f, 1, POINT_UNVERIFIED_OK));
  add(all, make_point(f, 2, POINT_VERIFY_FAILED));
  add(all, make_failed(3));
  char *text = table_text(all, 0), *note = NULL, *error = NULL;
  assert_string_equal(text,
                      "top_k  capacity_factor  layer ms  tokens/s  TFLOP/s  GB/s  dropped %  "
                      "imbalance  verify error\n"
                      "    1              1.1       8.5      1234     0.25     -       12.5        "
                      "4.5       1.0e-06\n"
                      "    1             null       8.5      1234     0.25     -       12.5        "
                      "4.5           off\n"
                      "    2              1.1       8.5      1234     0.25     -       12.5        "
                      "4.5        FAILED\n"
                      "    2             null         -         -        -     -          -        "
                      "  -         ERROR\n"
                      "point 2 (top_k=2, capacity_factor=1.1): it said \"no\",\nand meant it\n"
                      "point 3 (top_k=2, capacity_factor=null): the layer broke\n");
  free(text);
  /* Of few columns what matters least is left out, and last what was swept. */
  text = table_text(all, 87);
  assert_non_null(strstr(text, "top_k  capacity_factor  layer ms  tokens/s  TFLOP/s  dropped %  "
                               "imbalance  verify error\n"));
  assert_non_null(strstr(text, "ERROR\nno room for: GB/s (results.csv)\npoint 2 "));
  free(text);
  text = table_text(all, 60);
  assert_non_null(strstr(text, "top_k  capacity_factor  layer ms  tokens/s  verify error\n"
                               "    1              1.1       8.5      1234       1.0e-06\n"));
  assert_non_null(strstr(text, "no room for: TFLOP/s, GB/s, dropped %, imbalance (results.csv)\n"));
  free(text);
  text = table_text(all, 45);
  assert_non_null(strstr(text, "point  layer ms  verify error\n"
                               "    0       8.5       1.0e-06\n"));
  free(text);
  reports_written = 0;
  assert_true(report_finish(all, &note, &error));
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
  points[1].rounds_planned = 3;
  for (size_t i = 0; i < 3; i++) {
    progress_begin(shown, points[i].index);
    progress_end(shown, points[i].index, &points[i]);
    point_result_destroy(&points[i]);
  }
  progress_round(shown, 1, 3);
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
      text,
      "[1/4] top_k=1, capacity_factor=1.1: 8.50 ms, 1234 tokens/s, verified (error 1.0e-06)\n"
      "round 1 of 3 [2/4] top_k=1, capacity_factor=null: 8.50 ms, 1234 tokens/s, verification "
      "off\n"
      "[4/4] top_k=2, capacity_factor=null: the layer broke\n"
      "round 2 of 3\n");
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

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(test_arrays),          CASE(test_json),         CASE(test_csv),
      CASE(test_csv_text),        CASE(test_disk_full),    CASE(test_default_folder),
      CASE(test_unwritable),      CASE(test_table),        CASE(test_formats),
      CASE(test_progress),        CASE(test_dump),         CASE(test_dump_refused),
      CASE(test_dump_disk_full),  CASE(test_weight_error), CASE(test_parallel),
      CASE(test_earlier_members), CASE(test_offload),      CASE(test_processes),
      CASE(test_earlier_runs),    CASE(test_no_groups),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

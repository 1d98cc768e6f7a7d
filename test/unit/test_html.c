// SPDX-License-Identifier: MIT
/* report.html, from points made up here: what is text stays text, and what is drawn says the
 * numbers that were put in. test/cli/check_html.py reads whole ones. */
#include "made_up.h"
#include "report/html.h"

static char *html_of(void (*write)(FILE *file, const char *text), const char *from) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  assert_non_null(file);
  write(file, from);
  assert_int_equal(fclose(file), 0);
  return text;
}

static void assert_html(void (*write)(FILE *, const char *), const char *from, const char *to) {
  char *text = html_of(write, from);
  assert_string_equal(text, to);
  free(text);
}

static void test_text(void **state) {
  (void)state;
  assert_html(html_text, "", "");
  assert_html(html_text, "a<b> & \"c\" 'd'\n\x1b", "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;  ");
  assert_html(html_text, "\xc3\xa4 *b* `c`", "\xc3\xa4 *b* `c`");
}

static void test_inline(void **state) {
  (void)state;
  assert_html(html_inline, "a *b* **c** `d`", "a <em>b</em> <strong>c</strong> <code>d</code>");
  assert_html(html_inline, "2 * 3 * 4, (a * b)", "2 * 3 * 4, (a * b)");
  assert_html(html_inline, "\\*a\\* \\`b\\` \\<c\\> \\\\", "*a* `b` &lt;c&gt; \\");
  assert_html(html_inline, "`*a* \\ <b>`", "<code>*a* \\ &lt;b&gt;</code>");
  assert_html(html_inline, "`a", "`a");
  assert_html(html_inline, "**a", "<strong>a</strong>");
  assert_html(html_inline, "<script>&amp;", "&lt;script&gt;&amp;amp;");
}

static void test_blocks(void **state) {
  (void)state;
  assert_html(html_markdown, "", "");
  assert_html(html_markdown, "**a\nb**\nc\n\nd", "<p><strong>a b</strong> c</p>\n<p>d</p>\n");
  assert_html(html_markdown, "## A *b*\n", "<h3>A <em>b</em></h3>\n");
  assert_html(html_markdown, "a\n- b\n  c\n- d\n\ne\n",
              "<p>a</p>\n<ul>\n<li>b   c</li>\n<li>d</li>\n</ul>\n<p>e</p>\n");
  assert_html(html_markdown, "```sh\na *b* <c>\n```\nd\n",
              "<pre><code>a *b* &lt;c&gt;\n</code></pre>\n<p>d</p>\n");
  assert_html(html_markdown, "```sh\na", "<pre><code>a\n</code></pre>\n");
  assert_html(html_markdown, "<details><summary>A <b></summary>\n\nc\n\n</details>\n</details>\n",
              "<details><summary>A &lt;b&gt;</summary>\n<p>c</p>\n</details>\n");
  assert_html(html_markdown, "<details><summary>A</summary>\n",
              "<details><summary>A</summary>\n</details>\n");
  assert_html(html_markdown, "<details><b>\n<script>\n", "<p>&lt;script&gt;</p>\n");
}

static void test_tables(void **state) {
  (void)state;
  assert_html(html_markdown, "| a | b |\n| --- | ---: |\n| c\\|d | **1** |\n| e | |\nf\n",
              "<div class=\"scroll\" tabindex=\"0\"><table>\n"
              "<thead><tr><th scope=\"col\">a</th><th scope=\"col\" class=\"n\">b</th></tr>\n"
              "</thead>\n<tbody>\n"
              "<tr><th scope=\"row\">c|d</th><td class=\"n\"><strong>1</strong></td></tr>\n"
              "<tr><th scope=\"row\">e</th><td class=\"n\"></td></tr>\n"
              "</tbody></table></div>\n<p>f</p>\n");
  assert_html(html_markdown, "| a |\n| --- |\n", ""); /* no rows: nothing to see */
  /* Thirteen rows fold away, but not in what is folded already. */
  char *rows = format_text("| a |\n| --- |\n%s%s%s| 13 |\n", "| 1 |\n| 2 |\n| 3 |\n| 4 |\n",
                           "| 5 |\n| 6 |\n| 7 |\n| 8 |\n", "| 9 |\n| 10 |\n| 11 |\n| 12 |\n");
  char *folded = format_text("<details><summary>A</summary>\n\n%s\n</details>\n", rows);
  char *text = html_of(html_markdown, rows);
  has(text, "<details><summary>Table of 13 rows</summary>");
  free(text);
  text = html_of(html_markdown, folded);
  has_not(text, "Table of");
  has(text, "<th scope=\"row\">13</th>");
  free(text);
  free(folded);
  free(rows);
}

static char *page(const made_up *fixture) {
  char *error = NULL;
  if (!report_html_write(&fixture->results, &error)) fail_msg("%s", error);
  return read_text(fixture, "report.html");
}

/* `text` up to and without `end`, from `begin` on. */
static char *between(const char *text, const char *begin, const char *end) {
  has(text, begin);
  const char *from = strstr(text, begin), *to = strstr(from, end);
  assert_non_null(to);
  return format_text("%.*s", (int)(to - from), from);
}

static void test_page(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *text = page(&fixture);
  has(text, "<h1>made-up</h1>");
  has(text,
      "<p>A Mixture-of-Experts layer was timed on A device&#39;s name: num_experts 8, top_k 1 "
      "or 4, ");
  has(text, "4 points: 4 ran and verified.</p>");
  has(text, "<tr><th scope=\"row\"><strong>top_k</strong> (swept)</th><td>1, 4</td></tr>\n");
  char *defaults = between(text, "<summary>Parameters at their defaults</summary>", "</details>");
  has(defaults, "<tr><th scope=\"row\">activation</th><td>swiglu</td></tr>");
  has_not(defaults, "hidden_size");
  free(defaults);
  has(text, "<li>top_k 1 to 4 (capacity_factor=1): 4.00x (4.00 to 4.00) the layer&#39;s time, 1.00 "
            "ms to 4.00 ms, mostly gate_up (+1.50 ms).");
  has(text, "<td class=\"n\">16 of 256</td>"); /* every point that was verified */
  has(text, "<td>serves | everywhere</td>");
  has(text, "moectl run &#39;configs/made up.yaml&#39;\n");
  has_not(text, "id=\"failed-points\"");
  static const char *const sections[] = {
      "what-was-run",    "findings", "expert-utilization", "time",         "where-the-time-goes",
      "routing-balance", "memory",   "kernel-variants",    "verification", "device",
      "how-to-repeat"};
  const char *at = text;
  for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
    char *section = format_text("<section id=\"%s\">", sections[i]);
    has(at, section); /* in this order */
    at = strstr(at, section);
    free(section);
    char *link = format_text("<a href=\"#%s\">", sections[i]);
    has(text, link);
    free(link);
  }
  free(text);
  tear_down(&fixture);
}

/* Of 256 assignments to 8 experts, capacity 32: 46, 42, 38, 34, 30, 26, 22 and 18. */
static void test_loads(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *text = page(&fixture);
  char *section = between(text, "<section id=\"expert-utilization\">", "</section>");
  has(section, "<th class=\"p\" scope=\"col\">top_k</th><th class=\"w\" scope=\"col\">"
               "capacity_factor</th>");
  has(section, "<tr><th class=\"p\" scope=\"rowgroup\" rowspan=\"2\">1</th><td "
               "class=\"w\">before</td><td class=\"h4\" title=\"expert 0: 46 assignments, 1.44 of "
               "even\">46</td><td class=\"h4\" title=\"expert 1: 42 assignments, 1.31 of "
               "even\">42</td><td class=\"h3\" title=\"expert 2: 38 assignments, 1.19 of "
               "even\">38</td>");
  has(section, "<tr><td class=\"w\">after 1</td><td class=\"h3\" title=\"expert 0: 32 of 46 "
               "kept\">32</td>");
  has(section, "<td class=\"h2\" title=\"expert 7: 18 of 18 kept\">18</td></tr></tbody>\n");
  has(section, "The busiest expert has 1.44 times that.");
  has_not(section, "after dropless"); /* that is what stands before */
  free(section);
  free(text);
  /* Nothing has a capacity: there is no after. Loads that are all alike share one row. */
  fixture.results.points[0].routing.tokens_per_expert[7] = 0;
  for (size_t i = 0; i < 4; i++) {
    moecl_routing *routing = &fixture.results.points[i].routing;
    routing->capacity = -1;
    routing->tokens_per_expert[7] = 0;
    for (int64_t e = 0; e < 8; e++) {
      routing->tokens_per_expert[e] = e;
      routing->tokens_per_expert_after_capacity[e] = e;
    }
  }
  text = page(&fixture);
  section = between(text, "<section id=\"expert-utilization\">", "</section>");
  has_not(section, "after");
  has_not(section, "before");
  has(section, "<tbody><tr><td class=\"h0\" title=\"expert 0: 0 assignments, 0 of even\">0</td>");
  has_not(strstr(section, "<tbody>") + 1, "<tbody>");
  free(section);
  free(text);
  tear_down(&fixture);
}

/* gate_up takes half of what all take: of the others, which take a sixth, combine is fused. */
static void test_stages(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *text = page(&fixture);
  char *section = between(text, "<section id=\"where-the-time-goes\">", "</section>");
  has(section, "aria-label=\"router 16.7%, permute 16.7%, gate_up 50.0%, down 16.7%\">");
  has(section, "style=\"width:50.00%\" title=\"gate_up 50.0%, 0.500 ms\"></span>");
  has(section, "<td class=\"n\">4.00 ms</td></tr>");
  has(section, "top_k=<wbr>4, capacity_factor=<wbr>dropless");
  free(section);
  free(text);
  tear_down(&fixture);
}

static void test_choices(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: 1}\nworkload: {num_tokens: 256}\n"
                         "dtype: [fp32, bf16]\n");
  set_times(&fixture, 1, 3, 2, 4);
  char *text = page(&fixture);
  has(text, "<h3>dtype</h3>");
  has(text, "<tr><th scope=\"row\">fp32</th><td><div class=\"bar range\" title=\"1.00 ms (0.960 to "
            "1.10)\"><span class=\"s0\" style=\"width:25.00%\"></span>");
  has(text, "<span class=\"s1\" style=\"width:75.00%\"></span><i "
            "style=\"left:50.00%;width:50.00%\"></i></div></td><td class=\"n\">3.00 ms <span "
            "class=\"r\">(2.00 to 4.00)</span></td>");
  free(text);
  tear_down(&fixture);
}

static void test_charts(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *old = format_text("%s", getenv("PATH"));
  setenv("PATH", "/nonexistent", 1); /* without gnuplot all else is there */
  char *text = page(&fixture);
  setenv("PATH", old, 1);
  free(old);
  has_not(text, "<svg");
  has(text, "<section id=\"time\">");
  has(text, "<td class=\"n\">64000</td>");
  free(text);
  char *why = NULL;
  const gnuplot_outcome outcome = gnuplot_run("/", "/dev/null", 20, &why);
  free(why);
  if (outcome == GNUPLOT_OK) {
    text = page(&fixture);
    has(text, "role=\"img\" aria-label=\"Layer time against top_k. capacity_factor=1: 1: 1.00 ms "
              "(0.960 to 1.10); 4: 4.00 ms (3.84 to 4.40). capacity_factor=dropless: 1: 1.00 ms");
    has(text, "<g><title>top_k=4, capacity_factor=dropless: 4.00 ms (3.84 to 4.40)</title>");
    has(text, "<title>capacity_factor=1, top_k=4: 12.5%</title>");
    has(text, "stroke='var(--s1)'");
    has(text, "id='time_vs_top_k-0-gpPt6'");
    has_not(text, "Gnuplot");
    has_not(text, "gnuplot_plot_");
    has_not(text, "onmouse");
    free(text);
    fixture.results.pictures = PICTURES_NONE;
    text = page(&fixture);
    has_not(text, "<svg");
    free(text);
  }
  tear_down(&fixture);
  if (outcome == GNUPLOT_MISSING) skip();
}

/* fp32, hidden_size 64, intermediate_size 128. Point 0 keeps 224 of 256 assignments, of all 8
 * experts: gate_up has 2 * 224 * 64 * 256 = 7.340 million operations in 0.5 ms, and moves at least
 * 4 * (8 * 64 * 256 + 224 * 64 + 224 * 128) bytes. The peaks meet at 10 operations a byte. */
static void test_roofline(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *text = page(&fixture);
  has_not(text, "roof");
  free(text);
  fixture.results.peaks = (device_peaks){
      .rates = {.flops_f32 = 2e10, .read_bytes = 2e9, .flops_matrix = 1e12, .copy_bytes = 1e9},
      .measured = "2026"};
  char *why = NULL;
  const gnuplot_outcome outcome = gnuplot_run("/", "/dev/null", 20, &why);
  free(why);
  text = page(&fixture);
  char *section = between(text, "<section id=\"share-of-the-device-s-peaks\">", "</section>");
  if (outcome == GNUPLOT_OK) {
    has(section, "aria-label=\"Roofline: memory 2.00 GB/s, fp32 20.0 GFLOP/s. top_k=1, "
                 "capacity_factor=1: router ");
    has(section, "<title>top_k=1, capacity_factor=1: gate_up 14.7 GFLOP/s at 10.5 operations a "
                 "byte, 73.4% of the roof</title>");
    has(section, "<title>top_k=4, capacity_factor=dropless: layer ");
    has_not(section, "permute"); /* it has no operations */
    has_not(section, "combine"); /* fused: without a time */
    free(fixture.results.points[0].variants[2]);
    fixture.results.points[0].variants[2] = format_text("nvidia_sm80");
    free(section);
    free(text);
    text = page(&fixture);
    section = between(text, "<section id=\"share-of-the-device-s-peaks\">", "</section>");
    has(section, "fp32 20.0 GFLOP/s, matrix units 1000 GFLOP/s.");
    has(section, "gate_up 14.7 GFLOP/s at 10.5 operations a byte, 69.6% of the roof</title>");
    fixture.results.points[0].parallel.num_members = 1; /* below another's roof, or several */
    fixture.results.points[0].parallel.members = calloc(1, sizeof(point_member));
    assert_non_null(fixture.results.points[0].parallel.members);
    snprintf(fixture.results.points[0].parallel.transport, 64, "mpi");
    free(section);
    free(text);
    text = page(&fixture);
    section = between(text, "<section id=\"share-of-the-device-s-peaks\">", "</section>");
    has(section, "<title>top_k=1, capacity_factor=dropless: gate_up");
    has_not(section, "<title>top_k=1, capacity_factor=1: gate_up");
  } else has_not(section, "<svg");
  free(section);
  free(text);
  tear_down(&fixture);
  if (outcome == GNUPLOT_MISSING) skip();
}

/* Where a label stands, by its text: gnuplot writes its middle, and letters are 7 pixels wide. */
typedef struct place {
  double x, y, width;
} place;

static bool label_place(const char *svg, const char *label, place *at) {
  char text[64];
  snprintf(text, sizeof text, ">%s</text>", label);
  const char *found = strstr(svg, text), *moved = NULL;
  for (const char *i = svg; found && (i = strstr(i, "translate(")) && i < found; i++) moved = i;
  at->width = 7 * (double)strlen(label);
  return moved && sscanf(moved, "translate(%lf,%lf)", &at->x, &at->y) == 2;
}

/* Formats with times and errors close to each other: every label is there, and none on another. */
static void test_formats(void **state) {
  static const char *const names[] = {"int8",      "int8-g128",   "int4-g32",    "int4-g64",
                                      "int4-g128", "int4-g32-zp", "int4-g64-zp", "int4-g128-zp",
                                      "mxfp4",     "nvfp4",       "fp8",         "fp8-row"};
  enum { FORMATS = sizeof names / sizeof names[0] };
  place at[FORMATS];
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER
         "num_experts: 8, top_k: 2, weight_format: [dtype, int8, int8-g128, int4-g32, int4-g64, "
         "int4-g128, int4-g32-zp, int4-g64-zp, int4-g128-zp, mxfp4, nvfp4, fp8, fp8-row]}\n"
         "workload: {num_tokens: 16}\n");
  for (size_t i = 0; i <= FORMATS; i++) {
    point_result *point = &fixture.results.points[i];
    point->time_ms[MOECL_STAGE_LAYER].median = i ? 2 + 0.003 * (double)i : 4;
    point->verify.weight_error = i == 0 ? NAN : i < 3 ? 0.011 : 0.15 + 0.0005 * (double)i;
    point->verify.weight_bits = i == 0 ? NAN : i < 3 ? 8 : 4.25;
  }
  char *text = page(&fixture), *why = NULL;
  has(text, "The fastest format within 5% error is int8: 2.00 ms, 1.10% error, 8.00 bits a weight; "
            "dtype takes 4.00 ms.");
  const gnuplot_outcome outcome = gnuplot_run("/", "/dev/null", 20, &why);
  free(why);
  if (outcome == GNUPLOT_OK) {
    has(text, "aria-label=\"Error against time. int8: 2.00 ms, 1.10% error; int8-g128: ");
    has(text, "<title>fp8-row: 2.04 ms, 15.6% error</title>");
    has(text, "The broken line is dtype, which is not quantized: 4.00 ms.");
    has(text, "aria-label=\"Error against bits a weight. int8: 8.00 bits, 1.10% error");
    const char *svg = strstr(text, "Error against time.");
    for (size_t i = 0; i < FORMATS; i++)
      if (!label_place(svg, names[i], &at[i])) fail_msg("no label %s", names[i]);
    for (size_t i = 0; i < FORMATS; i++)
      for (size_t j = 0; j < i; j++)
        if (fabs(at[i].x - at[j].x) < (at[i].width + at[j].width) / 2 &&
            fabs(at[i].y - at[j].y) < 14)
          fail_msg("%s and %s are on each other", names[i], names[j]);
  } else has_not(text, "Error against");
  free(text);
  fixture.results.pictures = PICTURES_NONE;
  text = page(&fixture);
  has_not(text, "<svg");
  free(text);
  tear_down(&fixture);
  if (outcome == GNUPLOT_MISSING) skip();
}

/* What others wrote is text, wherever it stands. */
static void test_escaped(void **state) {
  (void)state;
  made_up fixture;
  static const char bad[] = "<script>alert(1)</script>&\"'|*`\n<details><summary>x</summary>";
  set_up(&fixture, sweep);
  free(fixture.experiment.name);
  fixture.experiment.name = format_text("%s", bad);
  free(fixture.experiment.path);
  fixture.experiment.path = format_text("%s", bad);
  snprintf(fixture.results.device.name, sizeof fixture.results.device.name, "%s", bad);
  snprintf(fixture.results.device.driver, sizeof fixture.results.device.driver, "%s", bad);
  fixture.results.kernels.dir = bad;
  fixture.results.runs = json_pack("[{s:s,s:s,s:s}]", "host", bad, "command", bad, "commit", bad);
  free(fixture.results.points[1].variants[0]);
  fixture.results.points[1].variants[0] = format_text("%s", bad);
  free(fixture.results.points[1].variant_reasons[0]);
  fixture.results.points[1].variant_reasons[0] = format_text("%s", bad);
  fixture.results.points[2].status = POINT_ERROR;
  fixture.results.points[2].error = format_text("%s", bad);
  char *text = page(&fixture);
  has_not(text, "<script");
  has_not(text, "<summary>x");
  has(text, "<h1>&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;|*` "
            "&lt;details&gt;&lt;summary&gt;x&lt;/summary&gt;</h1>");
  has(text,
      "<section class=\"fail\" id=\"failed-points\">\n<h2>Failed points</h2>\n<ul>\n<li>Point "
      "2 (top_k=4, capacity_factor=1) failed: &lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;"
      "&#39;|*` &lt;details&gt;");
  has(text, "1 <strong>failed</strong>.");
  free(text);
  json_decref(fixture.results.runs);
  tear_down(&fixture);
}

/* Nothing ran, one point, and a sweep whose tables are of groups. */
static void test_sizes(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  memset(fixture.results.have, 0, 4 * sizeof *fixture.results.have);
  char *text = page(&fixture);
  has(text, "4 points: 4 not run.");
  has_not(text, "id=\"expert-utilization\"");
  has_not(text, "id=\"memory\"");
  free(text);
  tear_down(&fixture);
  set_up(&fixture, LAYER "num_experts: 8, top_k: 2}\nworkload: {num_tokens: 64}\n");
  text = page(&fixture);
  has(text, "<th scope=\"row\">the point</th>");
  has_not(text, "<svg");
  free(text);
  tear_down(&fixture);
  set_up(&fixture, LAYER "num_experts: [8, 512], top_k: [1, 2, 4, 8], router: {jitter: [0, 0.1]}}\n"
                         "workload: {num_tokens: [16, 64, 256, 1024]}\n");
  text = page(&fixture);
  has(text, "<th scope=\"row\">top_k 8</th>");
  has(text, "<td class=\"n\">16 points</td>");
  has(text, "<th scope=\"col\" colspan=\"64\">expert 0</th>");
  has(text, "<td colspan=\"504\"></td>");
  has(text, "<summary>Table of 64 rows</summary>");
  has(text, "Shown are the points with top_k 1."); /* 512 experts: 23 rows at most */
  free(text);
  tear_down(&fixture);
}

static void test_unwritable(void **state) {
  (void)state;
  made_up fixture;
  char *error = NULL;
  set_up(&fixture, sweep);
  char *folder = fixture.results.folder;
  fixture.results.folder = format_text("%s/missing", folder);
  assert_false(report_html_write(&fixture.results, &error));
  has(error, "/missing/report.html could not be written: No such file");
  free(error);
  free(fixture.results.folder);
  fixture.results.folder = folder;
  tear_down(&fixture);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text),    cmocka_unit_test(test_inline),
      cmocka_unit_test(test_blocks),  cmocka_unit_test(test_tables),
      cmocka_unit_test(test_page),    cmocka_unit_test(test_loads),
      cmocka_unit_test(test_stages),  cmocka_unit_test(test_choices),
      cmocka_unit_test(test_charts),  cmocka_unit_test(test_roofline),
      cmocka_unit_test(test_formats), cmocka_unit_test(test_escaped),
      cmocka_unit_test(test_sizes),   cmocka_unit_test(test_unwritable)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

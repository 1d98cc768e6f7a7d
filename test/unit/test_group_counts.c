// SPDX-License-Identifier: MIT
/* How many rows go where, looked up, beside what plain sums over random parts give. */
#include "group/group.h"
#include "unit.h"

enum { MOST_BINS = MOECL_MAX_GROUP_MEMBERS * MOECL_MAX_GROUP_CHUNKS };

static int32_t part[MOECL_MAX_GROUP_MEMBERS][MOST_BINS][2];

/* Parts of all sizes, one in three of them 0; one table of starts, as the device makes it. */
static void draw(moecl_group_layer *layer, uint64_t *state) {
  const int members = layer->group->count, bins = members * layer->chunks;
  for (int m = 0; m < members; m++)
    for (int b = 0; b < bins; b++)
      for (int which = 0; which < 2; which++) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        const uint32_t number = (uint32_t)(*state >> 40);
        part[m][b][which] = number % 3 ? (int32_t)(number % 50000) : 0;
      }
  for (int b = 0; b < bins; b++)
    for (int which = 0; which < 2; which++)
      for (int m = 0, sum = 0; m <= members; m++) {
        layer->starts[(m * bins + b) * 2 + which] = sum;
        if (m < members) sum += part[m][b][which];
      }
}

static void check(const moecl_group_layer *layer, int which) {
  const int members = layer->group->count, chunks = layer->chunks;
  for (int m = 0; m < members; m++) {
    int64_t sum = 0, at = 0;
    for (int b = 0; b < members * chunks; b++) {
      assert_int_equal(group_part(layer, m, b, which), part[m][b][which]);
      assert_int_equal(group_before_bin(layer, m, b, which), sum);
      sum += part[m][b][which];
    }
    assert_int_equal(group_before_bin(layer, m, members * chunks, which), sum);
    for (int c = 0; c < chunks; c++) {
      assert_int_equal(group_before_chunk(layer, m, c, which), at);
      for (int from = 0; from < members; from++) at += part[from][m * chunks + c][which];
    }
    assert_int_equal(group_before_chunk(layer, m, chunks, which), at);
  }
}

/* Larger and smaller ones in turn, with what those before have left. */
static void test_sums(void **state) {
  static const int shapes[][2] = {{2, 1}, {64, 8}, {1, 1}, {3, 4}, {64, 8}, {5, 8}, {17, 3}};
  uint64_t random = 1;
  (void)state;
  moecl_group group = {0};
  moecl_group_layer *layer = calloc(1, sizeof *layer);
  assert_non_null(layer);
  layer->group = &group;
  layer->starts = calloc((MOECL_MAX_GROUP_MEMBERS + 1) * MOST_BINS * 2, sizeof *layer->starts);
  assert_non_null(layer->starts);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    group.count = shapes[i][0];
    layer->chunks = shapes[i][1];
    draw(layer, &random);
    assert_ok(group_add_up(layer));
    check(layer, GROUP_ROWS);
    check(layer, GROUP_SLOTS);
  }
  free(layer->sums);
  free(layer->starts);
  free(layer);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

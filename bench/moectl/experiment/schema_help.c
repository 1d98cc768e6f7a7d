// SPDX-License-Identifier: MIT
/* The keys for people: `moectl help experiment`. */
#include "experiment/schema.h"
#include "base/wrap.h"
#include "experiment/yaml_tree.h"

static void print_key(FILE *file, const schema_key *key) {
  char expected[SCHEMA_EXPECTED_SIZE], facts[SCHEMA_EXPECTED_SIZE + 96];
  const char *swept = key->flags & OF_EXPERIMENT ? "" : "; can be swept";
  schema_expected(key, expected, sizeof expected);
  if (key->flags & REQUIRED) snprintf(facts, sizeof facts, "%s; required%s", expected, swept);
  else if (key->default_text == NULL) snprintf(facts, sizeof facts, "%s%s", expected, swept);
  else snprintf(facts, sizeof facts, "%s; default %s%s", expected, key->default_text, swept);
  fprintf(file, "  %s\n", key->name);
  wrap_text(file, facts, 6, TEXT_WIDTH);
  wrap_text(file, key->help, 6, TEXT_WIDTH);
}

void experiment_print_keys(FILE *file) {
  char limits[640];
  fputs("An experiment is one YAML file. Keys are written nested: layer.top_k means\n\n"
        "  layer:\n"
        "    top_k: 2\n\n",
        file);
  wrap_text(file,
            "A list in place of a value is swept: every combination of all lists is one point, and "
            "the last key in the file varies fastest. --set KEY=VALUE overrides a key, e.g. --set "
            "layer.top_k=4 or --set 'layer.capacity.capacity_factor=[1.0, null]'; a key that the "
            "file does "
            "not have counts as its last.",
            0, TEXT_WIDTH);
  snprintf(limits, sizeof limits,
           "Limits beside those of the keys: a file has at most %d bytes, %d keys and values and "
           "%d levels, without anchors, aliases and tags; a list at most %d values, each once; a "
           "sweep at most %d points. top_k is at most num_experts, and hidden_size x "
           "intermediate_size x num_experts x 48 bytes, as num_tokens x top_k x (2 "
           "intermediate_size + hidden_size) x 16, below 2^63.",
           EXPERIMENT_MAX_FILE, TREE_MAX_NODES, TREE_MAX_DEPTH, EXPERIMENT_MAX_LIST,
           EXPERIMENT_MAX_POINTS);
  fputc('\n', file);
  wrap_text(file, limits, 0, TEXT_WIDTH);
  fputs("\nKeys:\n", file);
  for (int i = 0; i < KEY_COUNT; i++) print_key(file, schema_get((schema_id)i));
}

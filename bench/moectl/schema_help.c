/* The keys for people: `moectl help experiment`. */
#include "schema.h"
#include "wrap.h"

static void print_key(FILE *file, const schema_key *key) {
  char expected[160], facts[256];
  const char *swept = key->flags & OF_EXPERIMENT ? "" : "; can be swept";
  schema_expected(key, expected, sizeof expected);
  if (key->flags & REQUIRED)
    snprintf(facts, sizeof facts, "%s; required%s", expected, swept);
  else if (key->default_text == NULL)
    snprintf(facts, sizeof facts, "%s%s", expected, swept);
  else
    snprintf(facts, sizeof facts, "%s; default %s%s", expected, key->default_text, swept);
  fprintf(file, "  %s\n", key->name);
  wrap_text(file, facts, 6, TEXT_WIDTH);
  wrap_text(file, key->help, 6, TEXT_WIDTH);
}

void experiment_print_keys(FILE *file) {
  fputs("An experiment is one YAML file. Keys are written nested: layer.top_k means\n\n"
        "  layer:\n"
        "    top_k: 2\n\n"
        "A list in place of a value is swept: every combination of all lists is one point,\n"
        "and the last key in the file varies fastest. --set KEY=VALUE overrides a key, e.g.\n"
        "--set layer.top_k=4 or --set 'layer.capacity.factor=[1.0, null]'; a key that the file\n"
        "does not have counts as its last.\n\n"
        "Keys:\n",
        file);
  for (int i = 0; i < KEY_COUNT; i++)
    print_key(file, schema_get((schema_id)i));
}

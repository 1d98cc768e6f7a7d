// SPDX-License-Identifier: MIT
/* Scalars of the file as values of the schema. */
#ifndef MOECTL_VALUE_H
#define MOECTL_VALUE_H

#include "experiment/problems.h"
#include "experiment/schema.h"

/* Reads one scalar as the key wants it. On failure reports what was expected
 * and returns false, with nothing to free. */
bool value_read(const schema_key *key, const tree_node *node, value *value, problems *problems);
/* The key's default. */
bool value_default(const schema_key *key, value *value, problems *problems);
bool value_equal(const schema_key *key, const value *a, const value *b);
void value_free(value *value);

#endif

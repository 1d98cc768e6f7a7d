// SPDX-License-Identifier: MIT
/* YAML text as a tree that remembers where everything stood. */
#ifndef MOECTL_YAML_TREE_H
#define MOECTL_YAML_TREE_H

#include <stdbool.h>
#include <stddef.h>

struct problems;

/* A place in the file (counted from 1), or a command line override. */
typedef struct tree_mark {
  const char *set; /* the text after --set; NULL: in the file */
  size_t line, column;
} tree_mark;

typedef enum tree_kind { TREE_SCALAR = 0, TREE_LIST, TREE_MAPPING } tree_kind;

typedef struct tree_node {
  tree_kind kind;
  tree_mark mark;
  char *text; /* scalar: NUL-terminated, and `size` bytes long in case it holds NULs */
  size_t size;
  bool quoted;              /* scalar: in quotes or a block, hence never a number, null, ... */
  struct tree_node **items; /* list: the items; mapping: key, value, key, value, ... */
  size_t count, capacity;
} tree_node;

/* Larger ones are refused. */
enum { TREE_MAX_DEPTH = 16, TREE_MAX_NODES = 50000 };

/* Parses one document. `set` is what the marks carry (see tree_mark). Returns
 * NULL, with the problem reported, for anything but one YAML document without
 * anchors, aliases and tags and of reasonable depth and size.
 * *empty (may be NULL) tells a document without any content, reported by the
 * caller, from a wrong one. */
tree_node *tree_parse(const char *text, size_t size, const char *set, bool *empty,
                      struct problems *problems);
void tree_destroy(tree_node *node);

/* "a list", "'4'", "the text \"4\"", ... for messages; returns buffer. */
const char *tree_describe(const tree_node *node, char *buffer, size_t size);

#endif

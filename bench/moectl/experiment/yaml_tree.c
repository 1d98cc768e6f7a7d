// SPDX-License-Identifier: MIT
#include "experiment/yaml_tree.h"

#include "experiment/problems.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* An experiment nests three deep and holds a few hundred values. The limits
 * keep hostile input from using the stack or the memory up. */

typedef struct builder {
  yaml_parser_t parser;
  const char *text;
  size_t text_size;
  const char *set;
  problems *problems;
  size_t num_nodes;
} builder;

static tree_mark mark_of(const builder *b, yaml_mark_t mark) {
  return (tree_mark){b->set, mark.line + 1, mark.column + 1};
}

void tree_destroy(tree_node *node) {
  if (node == NULL) return;
  for (size_t i = 0; i < node->count; i++) tree_destroy(node->items[i]);
  free(node->items);
  free(node->text);
  free(node);
}

const char *tree_describe(const tree_node *node, char *buffer, size_t size) {
  char shown[64];
  if (node->kind == TREE_LIST) snprintf(buffer, size, "a list");
  else if (node->kind == TREE_MAPPING) snprintf(buffer, size, "a mapping (key: value)");
  else if (node->size == 0 && !node->quoted) snprintf(buffer, size, "nothing");
  else
    snprintf(buffer, size, node->quoted ? "the text \"%s\"" : "'%s'",
             printable(node->text, node->size, shown, sizeof shown));
  return buffer;
}

/* Bytes that are no text have an offset instead of a line. */
static tree_mark mark_of_offset(const builder *b, size_t offset) {
  tree_mark mark = {b->set, 1, 1};
  for (size_t i = 0; i < offset && i < b->text_size; i++) {
    mark.column++;
    if (b->text[i] == '\n') {
      mark.line++;
      mark.column = 1;
    }
  }
  return mark;
}

static void report_parser_error(const builder *b) {
  const yaml_parser_t *parser = &b->parser;
  const char *problem = parser->problem != NULL ? parser->problem : "unknown error";
  if (parser->error == YAML_MEMORY_ERROR) {
    problem_out_of_memory(b->problems);
  } else if (parser->error == YAML_READER_ERROR) {
    problem_add(b->problems, mark_of_offset(b, parser->problem_offset),
                "not a text file: %s at byte %zu; expected YAML in UTF-8", problem,
                parser->problem_offset);
  } else {
    size_t at = parser->problem_mark.index;
    bool tab = at < b->text_size && b->text[at] == '\t';
    char context[96] = "";
    if (b->set == NULL && parser->context != NULL &&
        parser->context_mark.line != parser->problem_mark.line)
      snprintf(context, sizeof context, " (%s that begins in line %zu)", parser->context,
               parser->context_mark.line + 1);
    problem_add(b->problems, mark_of(b, parser->problem_mark), "not valid YAML: %s%s%s", problem,
                context, tab ? "; a tab cannot indent, expected spaces" : "");
  }
}

static bool next_event(builder *b, yaml_event_t *event) {
  if (yaml_parser_parse(&b->parser, event)) return true;
  report_parser_error(b);
  return false;
}

static bool add_item(tree_node *node, tree_node *item) {
  if (node->count == node->capacity) {
    size_t capacity = node->capacity == 0 ? 8 : node->capacity * 2;
    tree_node **grown = realloc(node->items, capacity * sizeof *grown);
    if (grown == NULL) return false;
    node->items = grown;
    node->capacity = capacity;
  }
  node->items[node->count++] = item;
  return true;
}

/* Refuses what would make a file hard to read or lets it grow without bound. */
static bool event_allowed(builder *b, const yaml_event_t *event, int depth) {
  const yaml_char_t *anchor = NULL, *tag = NULL;
  if (event->type == YAML_SCALAR_EVENT) {
    anchor = event->data.scalar.anchor;
    tag = event->data.scalar.tag;
  } else if (event->type == YAML_SEQUENCE_START_EVENT) {
    anchor = event->data.sequence_start.anchor;
    tag = event->data.sequence_start.tag;
  } else if (event->type == YAML_MAPPING_START_EVENT) {
    anchor = event->data.mapping_start.anchor;
    tag = event->data.mapping_start.tag;
  }
  tree_mark mark = mark_of(b, event->start_mark);
  if (anchor != NULL || event->type == YAML_ALIAS_EVENT)
    problem_add(b->problems, mark,
                "anchors and aliases (&name, *name) are not supported; expected the value itself");
  else if (tag != NULL)
    problem_add(b->problems, mark, "tags (!name) are not supported; expected a plain value");
  else if (depth > TREE_MAX_DEPTH)
    problem_add(b->problems, mark, "nested deeper than %d levels; expected an experiment",
                TREE_MAX_DEPTH);
  else if (++b->num_nodes > TREE_MAX_NODES)
    problem_add(b->problems, mark, "more than %d keys and values; expected an experiment",
                TREE_MAX_NODES);
  else return true;
  return false;
}

static tree_node *new_node(builder *b, const yaml_event_t *event) {
  tree_node *node = calloc(1, sizeof *node);
  if (node == NULL) {
    problem_out_of_memory(b->problems);
    return NULL;
  }
  node->mark = mark_of(b, event->start_mark);
  if (event->type == YAML_SEQUENCE_START_EVENT) {
    node->kind = TREE_LIST;
  } else if (event->type == YAML_MAPPING_START_EVENT) {
    node->kind = TREE_MAPPING;
  } else {
    node->size = event->data.scalar.length;
    node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->text = malloc(node->size + 1);
    if (node->text == NULL) {
      problem_out_of_memory(b->problems);
      free(node);
      return NULL;
    }
    memcpy(node->text, event->data.scalar.value, node->size);
    node->text[node->size] = '\0';
  }
  return node;
}

/* Builds the node that `event` begins; takes the event over. */
static tree_node *build(builder *b, yaml_event_t *event, int depth) {
  tree_node *node = event_allowed(b, event, depth) ? new_node(b, event) : NULL;
  yaml_event_delete(event);
  if (node == NULL || node->kind == TREE_SCALAR) return node;
  for (;;) {
    yaml_event_t inner;
    if (!next_event(b, &inner)) break;
    if (inner.type == YAML_SEQUENCE_END_EVENT || inner.type == YAML_MAPPING_END_EVENT) {
      yaml_event_delete(&inner);
      return node;
    }
    tree_node *item = build(b, &inner, depth + 1);
    if (item == NULL) break;
    if (!add_item(node, item)) {
      problem_out_of_memory(b->problems);
      tree_destroy(item);
      break;
    }
  }
  tree_destroy(node);
  return NULL;
}

/* The first document's root, or NULL with *empty set when there is none. */
static tree_node *build_document(builder *b, bool *empty) {
  yaml_event_t event;
  for (;;) {
    if (!next_event(b, &event)) return NULL;
    if (event.type == YAML_STREAM_END_EVENT) {
      *empty = true;
      yaml_event_delete(&event);
      return NULL;
    }
    if (event.type != YAML_STREAM_START_EVENT && event.type != YAML_DOCUMENT_START_EVENT) break;
    yaml_event_delete(&event);
  }
  return build(b, &event, 1);
}

static bool nothing_follows(builder *b) {
  yaml_event_t event;
  for (;;) {
    if (!next_event(b, &event)) return false;
    yaml_event_type_t type = event.type;
    tree_mark mark = mark_of(b, event.start_mark);
    yaml_event_delete(&event);
    if (type == YAML_STREAM_END_EVENT) return true;
    if (type != YAML_DOCUMENT_END_EVENT) {
      problem_add(b->problems, mark,
                  "a second document begins here; expected one experiment a file");
      return false;
    }
  }
}

tree_node *tree_parse(const char *text, size_t size, const char *set, bool *empty,
                      problems *problems) {
  builder b = {.text = text, .text_size = size, .set = set, .problems = problems};
  bool no_content = false;
  if (empty != NULL) *empty = false;
  if (!yaml_parser_initialize(&b.parser)) {
    problem_out_of_memory(problems);
    return NULL;
  }
  yaml_parser_set_input_string(&b.parser, (const unsigned char *)text, size);
  tree_node *root = build_document(&b, &no_content);
  if (root != NULL && !nothing_follows(&b)) {
    tree_destroy(root);
    root = NULL;
  }
  if (root != NULL && root->kind == TREE_SCALAR && root->size == 0 && !root->quoted) {
    tree_destroy(root); /* "---" and nothing else */
    root = NULL;
    no_content = true;
  }
  yaml_parser_delete(&b.parser);
  if (empty != NULL) *empty = no_content;
  return root;
}

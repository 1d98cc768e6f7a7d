// SPDX-License-Identifier: MIT
/* Every key of an experiment file as data: name, C member, type, range, default, help, effect.
 * Parsing, messages, warnings, help text, the resolved JSON, and the parameters in results.json,
 * results.csv and report.md all follow this table, so a new key is one row. */
#ifndef MOECTL_SCHEMA_H
#define MOECTL_SCHEMA_H

#include "experiment/experiment.h"
#include <stdio.h>

/* In the order in which help and results show them. */
typedef enum schema_id {
  KEY_NAME = 0,
  KEY_DEVICE,
  KEY_SEED,
  KEY_CHECKPOINT,
  KEY_CHECKPOINT_LAYER,
  KEY_HIDDEN_SIZE,
  KEY_INTERMEDIATE_SIZE,
  KEY_NUM_EXPERTS,
  KEY_NUM_IDENTITY_EXPERTS,
  KEY_TOP_K,
  KEY_ACTIVATION,
  KEY_SWIGLU_ALPHA,
  KEY_SWIGLU_LIMIT,
  KEY_GATE_UP_BIAS,
  KEY_DOWN_BIAS,
  KEY_SHARED_INTERMEDIATE_SIZE,
  KEY_SHARED_GATE,
  KEY_SHARED_SWIGLU_LIMIT,
  KEY_SHARED_SCALING_FACTOR,
  KEY_WEIGHT_FORMAT,
  KEY_SCALE_SEARCH,
  KEY_ACTIVATION_FORMAT,
  KEY_BATCH_INVARIANT,
  KEY_GROUPED_GEMM_VARIANT,
  KEY_SCORING,
  KEY_SCORE_AFTER_TOPK,
  KEY_SPARSEMIXER_JITTER,
  KEY_RENORMALIZE,
  KEY_RENORMALIZE_EPSILON,
  KEY_RENORMALIZE_MINIMUM,
  KEY_ROUTED_SCALING_FACTOR,
  KEY_SCORE_CORRECTION_BIAS,
  KEY_NUM_EXPERT_GROUP,
  KEY_TOPK_GROUP,
  KEY_GROUP_SCORE,
  KEY_CUT_GROUPS_TO_ZERO,
  KEY_SECOND_CHOICE,
  KEY_ROUTER_NOISE,
  KEY_WEIGHT_ON_INPUT,
  KEY_JITTER,
  KEY_ROUTER_BIAS,
  KEY_ROUTER_VARIANT,
  KEY_CAPACITY_FACTOR,
  KEY_CAPACITY_OF_TOKENS,
  KEY_MIN_CAPACITY,
  KEY_DROP_POLICY,
  KEY_RENORMALIZE_AFTER_CAPACITY,
  KEY_NUM_HEADS,
  KEY_NUM_KV_HEADS,
  KEY_HEAD_DIM,
  KEY_CAUSAL,
  KEY_SLIDING_WINDOW,
  KEY_SINKS,
  KEY_QKV_BIAS,
  KEY_OUTPUT_BIAS,
  KEY_QK_NORM,
  KEY_QK_NORM_EPSILON,
  KEY_QK_NORM_PLUS_ONE,
  KEY_SCALE,
  KEY_RELATIVE_ATTENTION_NUM_BUCKETS,
  KEY_RELATIVE_ATTENTION_MAX_DISTANCE,
  KEY_CLIP_QKV,
  KEY_ATTENTION_VARIANT,
  KEY_ROPE_THETA,
  KEY_ROPE_DIM,
  KEY_ROPE_INTERLEAVED,
  KEY_ROPE_SCALING,
  KEY_ROPE_FACTOR,
  KEY_ROPE_ORIGINAL_POSITIONS,
  KEY_ROPE_LOW_FREQ_FACTOR,
  KEY_ROPE_HIGH_FREQ_FACTOR,
  KEY_ROPE_BETA_FAST,
  KEY_ROPE_BETA_SLOW,
  KEY_ROPE_ATTENTION_FACTOR,
  KEY_ROPE_TRUNCATE,
  KEY_NORM_KIND,
  KEY_NORM_EPSILON,
  KEY_NORM_PLUS_ONE,
  KEY_NORM_BIAS,
  KEY_PARALLEL_EXPERTS,
  KEY_PARALLEL_DEVICES,
  KEY_PARALLEL_PLACEMENT,
  KEY_PARALLEL_PLACEMENT_FILE,
  KEY_PARALLEL_REPLICAS,
  KEY_PARALLEL_CHUNKS,
  KEY_PARALLEL_TRANSPORT,
  KEY_PARALLEL_DISPATCH_FORMAT,
  KEY_PARALLEL_CACHE,
  KEY_PARALLEL_EVICTION,
  KEY_DTYPE,
  KEY_NUM_TOKENS,
  KEY_CONTEXT,
  KEY_DISTRIBUTION,
  KEY_SKEW_EXPONENT,
  KEY_SKEW_CLUSTERS,
  KEY_SKEW_NOISE,
  KEY_FILE,
  KEY_TENSOR,
  KEY_WHAT,
  KEY_WARMUP,
  KEY_ITERATIONS,
  KEY_ROUNDS,
  KEY_VERIFY,
  KEY_COUNT
} schema_id;

typedef enum value_type { TYPE_INT = 0, TYPE_REAL, TYPE_BOOL, TYPE_CHOICE, TYPE_TEXT } value_type;

typedef struct value {
  bool null;
  int64_t integer; /* TYPE_INT (of ALL_BITS its bits), TYPE_CHOICE (an index), TYPE_BOOL */
  double real;
  char *text; /* malloc'ed */
} value;

enum {
  REQUIRED = 1 << 0, /* has no default */
  NULLABLE = 1 << 1,
  MIN_OPEN = 1 << 2,        /* the range is without min itself */
  MAX_OPEN = 1 << 3,        /* likewise max */
  AUTO_NULL = 1 << 4,       /* the text "auto" is stored as NULL, or is null's other name */
  OF_EXPERIMENT = 1 << 5,   /* one for the whole experiment: cannot be swept */
  ALL_BITS = 1 << 6,        /* TYPE_INT: any unsigned 64-bit integer, whatever min and max say */
  WITH_CHECKPOINT = 1 << 7, /* may be changed about a checkpoint's layer: takes no other tensor and
                               reads none in another way */
  NOT_WORK = 1 << 8, /* says by what or how often the work is done, not what it is: points that only
                        differ in such keys are compared with each other (moectl compare) */
  WORDS = 1 << 9     /* TYPE_TEXT: a list of texts is one value, with commas between; a list of such
                        lists is swept */
};

/* A key matters only to points where another has a value: any but null, or one of its choices. */
typedef struct schema_need {
  schema_id key;              /* KEY_NAME: no need */
  bool any;                   /* any but null; else: */
  int64_t choice;             /* this one, or */
  bool (*is)(int64_t choice); /* if not NULL, each for which this holds */
} schema_need;

typedef struct schema_key {
  const char *name; /* dotted, as --set takes it. The last part is the C member's name, and that of
                       the parameter in results and on axes. */
  size_t offset, size; /* in experiment (OF_EXPERIMENT) or experiment_point */
  value_type type;
  int flags;
  int64_t min, max;                 /* TYPE_INT, TYPE_REAL; of a TYPE_TEXT the most bytes */
  const char *(*choice)(int index); /* TYPE_CHOICE */
  int num_choices;
  const char *default_text; /* YAML; NULL: required, or made from the file's name */
  const char *help;
  const char *old_name; /* the last part, or with a dot the whole, as earlier versions had it, which
                           is read still; or NULL */
  schema_need needs[2]; /* all of them */
} schema_key;

const schema_key *schema_get(schema_id id);
/* Is it what is needed? `choice` is the needed key's value, and not null. */
bool schema_meets(const schema_need *need, int64_t choice);
/* By dotted name; KEY_COUNT if there is none. */
schema_id schema_find(const char *name, size_t length);
/* Likewise by the name that earlier versions had. */
schema_id schema_find_old(const char *name, size_t length);
/* That name, dotted. Returns `text`; NULL: it never had another. */
const char *schema_old_name(const schema_key *key, char *text, size_t size);
/* The flat name in results and on axes, the last part of its own; NULL: the key is not a
 * parameter of a point. */
const char *schema_param(const schema_key *key);
/* By flat name; KEY_COUNT if there is none. */
schema_id schema_find_param(const char *param);
/* Whether the point has the parameter: skew_* are those of skewed inputs, and block's those of
 * blocks. */
bool schema_applies(const schema_key *key, const experiment_point *point);
bool schema_is_section(const char *name, size_t length);
/* Does it make a layer another one, variants included? */
bool schema_is_of_layer(const schema_key *key);
/* Does it say on which devices, and how, several share a layer? */
bool schema_is_of_group(const schema_key *key);
/* Likewise, a block: beside its layer's keys, those of the section `block`. */
bool schema_is_of_block(const schema_key *key);
/* Is it without meaning where no point measures a block? */
bool schema_needs_block(const schema_key *key);
/* Is what two points measure the same, in every key that is the layer's, or the block's? */
bool schema_same_layer(const experiment_point *a, const experiment_point *b);

/* What the key takes, as a noun phrase for messages and help; SCHEMA_EXPECTED_SIZE is enough. */
enum { SCHEMA_EXPECTED_SIZE = 512 };
const char *schema_expected(const schema_key *key, char *buffer, size_t size);

/* Writes a value where the key belongs. A text is shared, not copied. */
void schema_store(const schema_key *key, const value *value, void *target);
/* The value a point has, as YAML writes it. */
const char *schema_point_text(const schema_key *key, const experiment_point *point, char *buffer,
                              size_t size);
/* The shortest decimal that reads back as the same number, without an exponent
 * where that is readable. */
const char *schema_real_text(double real, char *buffer, size_t size);

#endif

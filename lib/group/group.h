// SPDX-License-Identifier: MIT
/* A group's insides. group.c makes it, of this process's contexts and of other ranks' (ranks.h);
 * place.c says who has which experts; layer.c makes a layer of shares, weights.c fills them;
 * build.c plans a member's part of a forward, forward.c runs all members', choices.c tells them of
 * each other's choices, rows.c takes rows there and back; statistics.c and routing.c say
 * what came of it. */
#ifndef MOECL_LIB_GROUP_GROUP_H
#define MOECL_LIB_GROUP_GROUP_H

#include "base/team.h"
#include "group/ranks.h"
#include "group/transport.h"
#include "layer/layer.h"
#include "op/dispatch/dispatch.h"
#include "plan/watch.h"
#include <pthread.h>

/* ---- group.c ---- */

typedef struct group_device { /* of another process: zeros, but for the rank */
  int rank;
  int near; /* its number in the group's `near`; -1: it is not there */
  moecl_context *context;
  ocl_lane out, in; /* copies to the host, and from it */
} group_device;

struct moecl_group {
  int references;
  int count;          /* members, of all processes */
  int begin, end;     /* those of this one: from `begin` on, before `end` */
  group_ranks *ranks; /* NULL: there are no other processes */
  group_device device[MOECL_MAX_GROUP_MEMBERS];
  base_team *team; /* a thread for each of them; NULL: they take turns in the caller's */
  int64_t process; /* whose threads those are, and drivers' and MPI's */
  const group_transport *transport;
  void *state;             /* the transport's */
  char transport_name[64]; /* with those inside processes, or nodes */
  /* Of several processes: those members that rows go between without messages, as a group with a
   * transport of its own, by members' parts. Contexts, lanes and the team are this one's. */
  moecl_group *near;
  bool shares; /* members of several processes reach each other's memory, here or on other nodes */
};

moecl_group *group_retain(moecl_group *group);
/* This is a child that fork() has made of the process that made the group: what that has is not to
 * be waited for, or given back, here. */
bool group_is_forked(const moecl_group *group);
static inline bool group_has(const moecl_group *group, int member) {
  return member >= group->begin && member < group->end;
}
/* All ranks: each own member's record of so many bytes gets to everybody. */
moecl_status group_share(const moecl_group *group, void *records, size_t bytes);
/* Where what no member in particular did wrong is logged. */
const moecl_log *group_log(const moecl_group *group);
/* A buffer of at least so many bytes: the one that is there, or a larger one in its place. */
moecl_status group_provide(moecl_context *context, uint64_t bytes, moecl_buffer **buffer);
/* How many bytes it makes where there are so many already. */
uint64_t group_provided_bytes(const moecl_buffer *buffer, uint64_t bytes);
/* The same of buffers that rows arrive in, and of one that they leave from, by the transport
 * (transport.h: what all ranks call); and the end of either. */
enum { GROUP_MOST_ARRIVALS = 2 * MOECL_MAX_GROUP_MEMBERS }; /* at a time */
moecl_status group_provide_arrivals(moecl_group *group, const group_arrival *arrivals,
                                    size_t count);
moecl_status group_provide_source(moecl_group *group, int member, uint64_t bytes,
                                  moecl_buffer **buffer);
void group_discard_arrivals(moecl_group *group, moecl_buffer **buffer);
/* Such a buffer in the context of another member, whose kernels may store into it what would else
 * go as blocks; NULL: they cannot. */
const moecl_buffer *group_reach(const moecl_group *group, const moecl_buffer *buffer, int from);
/* The same of one that may be in pieces: where a byte of it is. */
group_reached group_reach_at(const moecl_group *group, const moecl_buffer *buffer, int from,
                             uint64_t offset);
/* Of what goes from one member to another, this process's, that one has no copies of its own. */
bool group_sender_copies_alone(const moecl_group *group, int from, int to);
/* One exchange of all own members, by parts and as a whole; without a layer. */
moecl_status group_exchange(moecl_group *group, const group_block *blocks, size_t count,
                            int exchange, group_observer *observer);

/* ---- node.c ---- */

/* All ranks: makes `near` with its transport, NULL where none serves the process's members. On
 * failure, too, the former is the caller's to release. *why, NULL before, says why the last one
 * that was tried does not serve, and stays NULL where none was refused. */
moecl_status group_make_near(moecl_group *group, const char *asked, const char **why);
void group_release_near(moecl_group **near); /* NULL is allowed */

/* ---- place.c ---- */

/* Copies of experts, by expert and then by member. */
typedef struct group_placement {
  int64_t num_experts; /* with matrices */
  int count;           /* members */
  size_t copies;
  int32_t *first;  /* [E+1]: an expert's copies */
  int32_t *member; /* [copies] */
  int32_t *place;  /* [copies]: among the member's own */
  int32_t owned[MOECL_MAX_GROUP_MEMBERS];
} group_placement;

moecl_status group_place(const moecl_group *group, const moecl_group_layer_params *params,
                         group_placement *placement);
void group_placement_release(group_placement *placement);
/* The placement as kernels read it (cl/dispatch/lists.cl), for a member; the caller frees. */
int32_t *group_placement_words(const group_placement *placement, int member, size_t *count);

/* ---- layer.c ---- */

enum { GROUP_HOME, GROUP_LISTS, GROUP_EXPERTS, GROUP_PLANS };

/* Plans of a member's part. `home` has the member's tokens: the steps before `routed` choose, those
 * before `shared` make the shared expert, the rest combines. `lists` has the batch's, `experts` the
 * rows that were received: steps before `prepared` want all of them. */
enum { GROUP_PLAN_NUMBERS = 4 };
typedef struct group_plan_key { /* what a plan was built for */
  bool made;
  int64_t numbers[GROUP_PLAN_NUMBERS];
} group_plan_key;

typedef struct group_home_plan {
  plan plan;
  group_plan_key key;
  layer_tensors at;
  int routed, shared;
} group_home_plan;

typedef struct group_lists_plan {
  plan plan;
  group_plan_key key;
  layer_tensors at;
  int placement, sources, bins, counts, starts, own_offsets, own_tiles, slot_row, returns,
      send_token;
  int home_slot, home_rows, received_slot, received_weight;
  int chunk_offsets[MOECL_MAX_GROUP_CHUNKS], chunk_tiles[MOECL_MAX_GROUP_CHUNKS];
} group_lists_plan;

typedef struct group_experts_plan {
  plan plan;
  group_plan_key key;
  layer_tensors at;
  int prepared, chunk_end[MOECL_MAX_GROUP_CHUNKS]; /* steps */
  int chunk_offsets[MOECL_MAX_GROUP_CHUNKS], chunk_tiles[MOECL_MAX_GROUP_CHUNKS];
} group_experts_plan;

/* What all ranks know of each member's share. */
typedef struct group_trait {
  uint64_t weight_bytes;
  double roundoff, output_roundoff;
  uint64_t hidden_row_bytes, output_row_bytes;
  int32_t quantized;
  int32_t on_cpu;   /* its kernels want the processors that copies want */
  int32_t scatters; /* its experts store outputs where they go */
  char outputs[24]; /* their format's name */
  char variant[64]; /* the grouped GEMM's */
} group_trait;

typedef struct group_member { /* of another process: zeros, but for the trait */
  group_trait trait;
  moecl_layer *share;
  op_dispatch dispatch;
  op_copies copies;
  op_rows hidden_rows, output_rows;
  op_pack hidden_pack; /* in place of hidden_rows, where the layer sends codes */
  moecl_buffer *placement;
  group_home_plan home;
  group_lists_plan lists;
  group_experts_plan experts;
  plan_space space[GROUP_PLANS]; /* of those, in memory of their own */
  moecl_buffer *workspace[GROUP_PLANS];
  /* The batch's choices, which all members have; where members' tokens begin; this member's weights
   * after capacity. */
  moecl_buffer *topk_ids, *topk_weights, *token_priority, *sources, *kept_weights;
  bool sources_written; /* for such numbers of tokens */
  int64_t sources_of[MOECL_MAX_GROUP_MEMBERS];
  /* Rows: this member's tokens for others, and others' and its own for its experts; what those
   * give back to others, and what comes back here. What is stored right where it arrives is in
   * neither `sent` nor `given`. */
  moecl_buffer *sent, *received, *given, *returned;
  moecl_buffer *unpacked; /* `received` as numbers, where they came as codes */
  plan_watch watch;
  moecl_group_statistics statistics;
} group_member;

struct moecl_group_layer {
  moecl_group *group;
  moecl_layer_params params; /* the variant names are not kept */
  int32_t asked_chunks;
  const desc_format *sent_codes; /* NULL: rows are sent as they are */
  group_placement placement;
  group_member member[MOECL_MAX_GROUP_MEMBERS];
  bool ran; /* there is a latest forward */
  /* Of it, on the host: tokens of each member and before it, and the batch's choices. */
  int64_t tokens[MOECL_MAX_GROUP_MEMBERS], first[MOECL_MAX_GROUP_MEMBERS + 1];
  int32_t chunks, blocks;
  int64_t rows[MOECL_MAX_GROUP_MEMBERS],
      slots[MOECL_MAX_GROUP_MEMBERS];   /* received, and computed */
  int32_t *topk_ids, *sources, *starts; /* the last: one table from each member, all the same */
  float *topk_weights, *token_priority;
  int64_t tokens_room, starts_room; /* tokens and numbers that those have room for */
  int64_t *sums;                    /* of the parts in `starts`: counts.c */
  size_t sums_room;
};

/* The first member of this process. */
static inline group_member *group_own(moecl_group_layer *layer) {
  return &layer->member[layer->group->begin];
}

/* ---- build.c ---- */

/* The plans of a member's part, for the forward that the layer's numbers are of. */
moecl_status group_plan_home(moecl_group_layer *layer, int member);
moecl_status group_plan_lists(moecl_group_layer *layer, int member);
moecl_status group_plan_experts(moecl_group_layer *layer, int member); /* or for some rows more */
/* What the experts' GEMMs are chosen by: as many rows an expert as on one device. */
int64_t group_chosen_rows(const moecl_group_layer *layer, int member);
/* How many rows the experts' plan is for, once it is made for the latest forward. */
int64_t group_planned_rows(const moecl_group_layer *layer, int member);
/* The memory of a tensor in the workspace of its plan. */
static inline const moecl_buffer *group_block_of(const plan_space *space, const plan *plan,
                                                 int tensor) {
  return space->blocks[plan->tensor[tensor].block];
}

/* ---- forward.c: one forward of all members ---- */

enum { GROUP_CHOICES = 3 }; /* ids, weights, priorities */

/* Events that the host is to wait for. */
typedef struct group_awaited {
  cl_event event[GROUP_CHOICES];
  int count;
} group_awaited;

/* What the ranks tell each other of a member before a forward. */
typedef struct group_announcement {
  int64_t num_tokens;
  uint64_t seed;
} group_announcement;

typedef struct group_run {
  moecl_group_layer *layer;
  const moecl_group_forward_params *params;
  group_announcement of[MOECL_MAX_GROUP_MEMBERS];
  moecl_event **events; /* of this process's members; NULL: unwanted */
  group_awaited awaited[MOECL_MAX_GROUP_MEMBERS];
  cl_event routed[MOECL_MAX_GROUP_MEMBERS]; /* a member's choice is made; NULL: it has no tokens */
  group_observer observer;                  /* of the transport's copies */
  pthread_mutex_t observes;                 /* one at a time */
  group_block *blocks;                      /* room for an exchange */
  int begun;                                /* exchanges of rows */
  int before;                               /* others before them */
  int chunk;                                /* whose experts all members compute */
} group_run;

static inline moecl_context *group_context_of(const moecl_group_layer *layer, int member) {
  return layer->group->device[member].context;
}
/* Of a member of this process. */
static inline const moecl_group_tokens *group_tokens_of(const group_run *run, int member) {
  return &run->params->tokens[member - run->layer->group->begin];
}
static inline int64_t group_batch_of(const moecl_group_layer *layer) {
  return layer->first[layer->group->count];
}
static inline const moecl_buffer *group_home_block(const group_member *member, int tensor) {
  return group_block_of(&member->space[GROUP_HOME], &member->home.plan, tensor);
}
static inline const moecl_buffer *group_list_of(const group_member *member, int tensor) {
  return group_block_of(&member->space[GROUP_LISTS], &member->lists.plan, tensor);
}
/* For launches of a member, told to who watches them. */
ocl_chain group_chain_of(moecl_group_layer *layer, int member, moecl_stage label, const char *step);
/* Memory for the tensors of one of a member's plans. */
moecl_status group_provide_plan(moecl_group_layer *layer, int member, int which, const plan *plan);
/* Room for an event that the host is to wait for. */
cl_event *group_await_later(group_run *run, int member);

/* ---- choices.c: a batch's choices get to all members. Calls with a member are its thread's ----
 */

/* The buffers that they arrive in. */
moecl_status group_provide_choices(moecl_group_layer *layer);
/* Where there are other processes: to the host, each member's where they are in the batch; */
moecl_status group_read_choices(group_run *run, int member);
/* from all ranks. */
moecl_status group_gather_choices(moecl_group_layer *layer);
/* In one process, in an exchange before those of rows: a member's own to itself, and to others
 * where it reaches them; and what is then left to send from one to another, returning how many
 * blocks that is. */
moecl_status group_copy_choices(group_run *run, int member);
size_t group_list_choices(const group_run *run, int from, int to, int chunk, group_block *blocks);
/* To a member from the host what it does not have yet; its queue goes on behind it. */
moecl_status group_send_choices(group_run *run, int member);

/* ---- rows.c: rows there and back. Calls with a group_run are the member's thread's ---- */

/* Parts of a list of rows, each to a place of its own. */
typedef struct group_parts {
  op_rows_part part[OP_DISPATCH_MOST_BINS];
  op_places places; /* those */
  bool reach;       /* some are stored into others' memory */
} group_parts;

/* How many each member has, by the lists that were read. */
void group_count_rows(moecl_group_layer *layer);
/* All ranks, also those where `status` is a failure so far, of which all hear: what rows arrive in.
 * All members' is there before anybody sends, and nothing reads it any more. */
moecl_status group_provide_row_arrivals(moecl_group_layer *layer, moecl_status status);
/* What rows leave from that the transport is to take; behind all members' of the above. */
moecl_status group_provide_row_sources(moecl_group_layer *layer, int member);
/* The rest of a member's memory for rows and experts; its own thread's. */
moecl_status group_provide_rows(moecl_group_layer *layer, int member);
/* Its tokens, and what its experts made of a chunk, to where they are computed and combined, or to
 * be sent there; and what is then left to send, returning how many blocks that is. */
moecl_status group_gather_tokens(group_run *run, int member);
size_t group_list_tokens(const group_run *run, int from, int to, int chunk, group_block *blocks);
moecl_status group_gather_outputs(group_run *run, int member, int chunk);
/* Where a chunk's outputs go to, for experts that store them there themselves: none is then
 * gathered. */
void group_place_outputs(const group_run *run, int member, int chunk, group_parts *parts);
/* Bytes that they store into another member's memory, once what rows arrive in is there. */
uint64_t group_stored_bytes(const moecl_group_layer *layer, int from, int home);
size_t group_list_outputs(const group_run *run, int from, int to, int chunk, group_block *blocks);

/* ---- statistics.c ---- */

/* What members' statistics have of the latest forward once its rows are counted: all but times. */
void group_count_work(moecl_group_layer *layer);

/* ---- counts.c: of the latest forward's rows, once the lists are read ---- */

/* Adds them up: what is asked for below is then looked up. */
moecl_status group_add_up(moecl_group_layer *layer);
/* A bin is a chunk of an owner's experts: owner * chunks + chunk. Of each there are */
enum {
  GROUP_ROWS, /* tokens that go to it */
  GROUP_SLOTS /* assignments that its experts compute, whose outputs go back */
};
/* Of members before that one. */
int64_t group_started(const moecl_group_layer *layer, int member, int bin, int which);
/* A member's. */
int64_t group_part(const moecl_group_layer *layer, int member, int bin, int which);
/* A member's own in the bins before: what it sends, or what comes back to it. */
int64_t group_before_bin(const moecl_group_layer *layer, int member, int bin, int which);
/* All members' at an owner in the chunks before: what it receives, or gives back. */
int64_t group_before_chunk(const moecl_group_layer *layer, int owner, int chunk, int which);

#endif

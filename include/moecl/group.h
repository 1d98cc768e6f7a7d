// SPDX-License-Identifier: MIT
/* A group of devices that share a Mixture-of-Experts layer: each has some of its experts (expert
 * parallelism). Every member is a context of its own, made by the program; a device may be a member
 * more than once, by several contexts.
 *
 * A layer of a group is an object of its own, not a moecl_layer: its tokens, events, profiles and
 * memory are of several contexts, so that no call for the one would mean the same of the other. */
#ifndef MOECL_GROUP_H
#define MOECL_GROUP_H

#include "moecl/checkpoint.h"
#include "moecl/layer.h"
#include "moecl/routing.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOECL_MAX_GROUP_MEMBERS 64
#define MOECL_MAX_GROUP_CHUNKS 8

typedef struct moecl_group moecl_group;

typedef struct moecl_group_params {
  /* How rows go from one member to another: "nvidia_peer", over the links between NVIDIA's GPUs of
   * one host, in one process or in several; "host", staged through pinned host memory, on every
   * device and between vendors; "nvidia_copy", as nvidia_peer, by the GPUs' copy engines. NULL: the
   * first of these that serves, but never "nvidia_copy", which serves by name alone. One member
   * sends nothing: "host" then serves whichever is asked for.
   *
   * One that is asked for serves between all members of each process that has several and,
   * "nvidia_peer" alone, between those of all processes of a machine where it can. Rows between
   * other members, as from machine to machine, are messages. Where it serves no two members, or
   * not those of one process, that is an error on all ranks. "host" serves everywhere: messages go
   * through the hosts' memory as its rows do. */
  const char *transport;
  /* Members in other processes too: the address of an MPI_Comm, of the MPI that this libmoecl was
   * built with. NULL: this process alone. See "Several processes" below. */
  const void *mpi_comm;
  uint64_t reserved[7]; /* zeros: see moecl.h */
} moecl_group_params;

/* Makes a group of 1 to MOECL_MAX_GROUP_MEMBERS contexts, each of them once; member i is
 * contexts[i]. They stay the caller's, and are kept alive. `params` may be NULL.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (how many, one twice, a NULL), MOECL_ERROR_UNSUPPORTED (no
 * such transport, or it does not serve here: moecl_group_params.transport; built without MPI); the
 * first context's log says which. Thread: that of all contexts, as are all calls below. Where no
 * member is a CPU, a forward has threads of its own for the members but the first, and "host" one
 * for each member, which stays until the group is destroyed; they use the contexts while the call
 * lasts. Log callbacks are called from the caller's thread all the same.
 *
 * Several processes: with mpi_comm every rank of the communicator makes this call with its own
 * contexts, one or more. Members are numbered by rank, and then as in `contexts`. All ranks know
 * all members and who has which experts; contexts, weights, tokens, events and profiles are those
 * of a rank's own members. The communicator is copied and stays the caller's; MPI has to have been
 * begun by MPI_Init_thread with MPI_THREAD_FUNNELED or more, the thread of all contexts is then
 * MPI's, and the group has to be destroyed before MPI_Finalize, or is of no use after it.
 *
 * These calls are made by all ranks, in the same order and with the same parameters but for what is
 * a rank's own, and wait for each other: moecl_group_create, moecl_group_layer_create,
 * _forward, _read_routing_wait and _statistics_wait. Where one fails on a rank, it fails on all:
 * with that rank's status, and a message that says which. A rank that never makes its call, because
 * it has ended, is waited for, and so is one that gives NULL for the group or the layer, which only
 * that rank hears of; mpirun ends all when one ends. moecl_group_destroy is for all ranks to call,
 * too. */
MOECL_API moecl_status moecl_group_create(moecl_context *const *contexts, size_t count,
                                          const moecl_group_params *params, moecl_group **group);
/* Layers keep their group alive. In a child that fork() made of the process with the group, this
 * and moecl_group_layer_destroy only set the handle to NULL, and no other call may be made. */
MOECL_API void moecl_group_destroy(moecl_group **group);
/* 0 and NULL for NULL, and NULL for a member that is not there, or in another process.
 * Thread-safe. */
MOECL_API size_t moecl_group_size(const moecl_group *group);
/* How many members are of this process, and the number of the first (`first` may be NULL). */
MOECL_API size_t moecl_group_own(const moecl_group *group, size_t *first);
MOECL_API moecl_context *moecl_group_context(const moecl_group *group, size_t member);
/* The transport's name, which is the group's. Of several processes "mpi", and behind a + what
 * serves inside a process that has several members, "mpi+host", "mpi+nvidia_peer", or between all
 * members of one machine, "mpi+nvidia_peer@node"; where processes differ, each once. */
MOECL_API const char *moecl_group_transport(const moecl_group *group);

/* The transports that may be asked for, static strings: first those that are tried where none is
 * asked for, in that order, then those that serve by name alone ("nvidia_copy"). Writes at most
 * `capacity` (`names` may be NULL) and returns how many there are. Thread-safe. */
MOECL_API size_t moecl_group_transports(const char **names, size_t capacity);

/* Who has which experts. Identity experts have no matrices, and no member. */
typedef enum moecl_placement {
  MOECL_PLACE_EVEN =
      0, /* neighbours together, as many to each member as to the next, or one more */
  MOECL_PLACE_WEIGHTED, /* neighbours together, by member_weights: a slower device gets fewer */
  MOECL_PLACE_GIVEN,    /* lists */
  MOECL_PLACEMENT_COUNT
} moecl_placement;

/* "even", "weighted", "given"; "?" for another value. A static string. Thread-safe. */
MOECL_API const char *moecl_placement_name(moecl_placement placement);

typedef struct moecl_group_layer_params {
  moecl_layer_params layer;
  moecl_placement placement;
  const double *member_weights; /* [members], of MOECL_PLACE_WEIGHTED: 0 or more, some more */
  /* Of MOECL_PLACE_GIVEN: the members' lists one after the other, list_sizes[members] long. Each
   * expert is in at least one of them. One that is in several has a copy on each of those members,
   * which share its rows in equal parts: for experts that many tokens choose. */
  const int32_t *lists;
  const size_t *list_sizes;
  /* Parts of a member's experts that rows are sent, computed and given back in, one after the
   * other, so that transport and arithmetic overlap; 0: as many as pay, up to
   * MOECL_MAX_GROUP_CHUNKS. With an activation_format 1. */
  int32_t chunks;
  /* Experts that have a copy on every member, wherever `placement` puts them; none twice. */
  const int32_t *replicated;
  size_t num_replicated;
  /* What tokens' rows are sent to experts as: MOECL_FORMAT_DTYPE, or MOECL_FORMAT_FP8_G128, which
   * rounds what the experts read, also where they are on the token's own device, so that where
   * they are changes no bit. The router and the shared expert read the tokens as they are. */
  moecl_format dispatch_format;
  uint64_t reserved[13]; /* zeros: see moecl.h */
} moecl_group_layer_params;

/* Lists for MOECL_PLACE_GIVEN by what experts have to do (`loads`, 0 or more: rows of batches like
 * those to come, tokens_per_expert): the most loaded first, each to the member that has the least
 * to do so far among those with room for it, and room is as even as it can be. Writes
 * lists[num_experts], each member's in ascending order, and list_sizes[members]. The same loads
 * give the same lists. Errors: MOECL_ERROR_INVALID_ARGUMENT. Thread-safe. */
MOECL_API moecl_status moecl_group_balance(const int64_t *loads, int64_t num_experts,
                                           size_t members, int32_t *lists, size_t *list_sizes);

typedef struct moecl_group_layer moecl_group_layer;

/* Like moecl_layer_create: on every member the router and the shared expert, and its own experts'
 * matrices. All kernels are there then, whatever numbers of tokens forwards will have: there is
 * nothing to reserve, but memory for rows, which follows the routing. Waits as that does. Where
 * members' variants keep experts' outputs in different formats all have fp32. Errors: those of
 * moecl_layer_create; MOECL_ERROR_INVALID_ARGUMENT (the placement). */
MOECL_API moecl_status moecl_group_layer_create(moecl_group *group,
                                                const moecl_group_layer_params *params,
                                                moecl_group_layer **layer);
/* Waits for copies between members that a failed forward left. */
MOECL_API void moecl_group_layer_destroy(moecl_group_layer **layer);

/* Like moecl_layer_set_weights, of the whole layer: what all need goes to all members of this
 * process, an expert's to its owners alone, if they are any of them. */
MOECL_API moecl_status moecl_group_layer_set_weights(moecl_group_layer *layer, moecl_tensor tensor,
                                                     int64_t first_expert, int64_t count,
                                                     const void *src);
/* Like moecl_layer_load. */
MOECL_API moecl_status moecl_group_layer_load(moecl_group_layer *layer,
                                              moecl_checkpoint *checkpoint, int64_t index);

/* A member's experts, in ascending order: writes at most `capacity` of them (`experts` may be
 * NULL) and returns how many there are; 0 for NULL and a member that is not there. */
MOECL_API size_t moecl_group_layer_experts(const moecl_group_layer *layer, size_t member,
                                           int32_t *experts, size_t capacity);
/* moecl_layer_variant, _weight_bytes, _roundoff and _output_roundoff of a member's part; its
 * variants are known to its own process, and NULL in others. */
MOECL_API const char *moecl_group_layer_variant(const moecl_group_layer *layer, size_t member,
                                                const char *operation, const char **reason);
MOECL_API uint64_t moecl_group_layer_weight_bytes(const moecl_group_layer *layer, size_t member);
MOECL_API double moecl_group_layer_roundoff(const moecl_group_layer *layer, size_t member);
MOECL_API double moecl_group_layer_output_roundoff(const moecl_group_layer *layer, size_t member);

/* One member's tokens. The batch is all of them, in the order of members: token numbers, capacity
 * and what the router draws are those of one device with all tokens. */
typedef struct moecl_group_tokens {
  int64_t num_tokens;                /* T; 0: none, and then no buffers */
  const moecl_buffer *hidden_states; /* [T,H], dtype, from the buffer's start, of the member's
                                        context (moecl_buffer_view for a part of a buffer) */
  moecl_buffer *output;              /* [T,H], dtype, likewise */
  moecl_event *const *wait_list;     /* of the member's context, as in moecl_forward_params */
  size_t wait_count;
  moecl_profile *profile; /* of the member's context; may be NULL. Lists of rows count as permute,
                             rows that come back as combine */
  uint64_t reserved[8];   /* zeros: see moecl.h */
} moecl_group_tokens;

typedef struct moecl_group_forward_params {
  const moecl_group_tokens *tokens; /* [members], of this process */
  uint64_t seed;
  bool measured;        /* for moecl_group_layer_statistics_wait */
  uint64_t reserved[8]; /* zeros: see moecl.h */
} moecl_group_forward_params;

/* One forward of the batch. Outputs have the bits that moecl_layer_forward gives of the same
 * tokens on one such device with the same variants, wherever experts and tokens are, where both
 * have layer.batch_invariant and members are of one kind. Without that flag a member with few
 * tokens may sum in another order than a device that has all of them.
 *
 * Waits: which rows go where is known when all members have routed, and the host transport copies
 * through the host. When the call returns, what is left is enqueued: outputs are there when the
 * event of their member is done. events[members], of this process, receives them (may be NULL);
 * otherwise the rest is as in moecl_layer_forward. Memory for rows is the layer's own and grows
 * with the most that routing has asked for.
 *
 * Errors: those of moecl_layer_forward; between processes also MOECL_ERROR_DEVICE (MPI fails) and
 * MOECL_ERROR_IO (descriptors of memory do not get to another process); of several members that
 * fail at a time, the first one's.
 * After a failure of any member nothing of the forward is under way any more between members, all
 * events are NULL and all outputs undefined; the failing members' logs say why. */
MOECL_API moecl_status moecl_group_layer_forward(moecl_group_layer *layer,
                                                 const moecl_group_forward_params *params,
                                                 moecl_event **events);

/* moecl_layer_read_routing_wait of the latest forward's whole batch. */
MOECL_API moecl_status moecl_group_layer_read_routing_wait(moecl_group_layer *layer,
                                                           moecl_routing *routing);

/* What a member did in the latest forward. Times are its own device's, in milliseconds: NaN where
 * the forward was not measured, or the driver gives none; of copies also where copy engines make
 * them ("nvidia_copy"). */
typedef struct moecl_group_statistics {
  int64_t num_tokens; /* its own */
  int64_t experts;    /* that it has */
  int64_t rows;       /* that its experts computed: kept assignments */
  uint64_t bytes_sent,
      bytes_received; /* between members: rows, there and back; choices are below */
  int32_t chunks;
  double layer_ms;                      /* from its first kernel's start to its last one's end */
  double kernels_ms;                    /* in which a kernel of its ran */
  double transfer_ms;                   /* in which copied_bytes were copied to or from it */
  double hidden_ms;                     /* of those: in which a kernel ran as well */
  uint64_t row_bytes, output_row_bytes; /* of a row as it goes to experts, and as it comes back */
  /* Ids and weights of its tokens' choices (8 bytes each, and 4 a token where drops are
   * prioritized) to each other member, and theirs to it, which go as rows do. 0 with several
   * processes, whose hosts gather them. */
  uint64_t choice_bytes_sent, choice_bytes_received;
  /* What transfer_ms is the time of: all of those above, but for stored_bytes, and nothing of what
   * came from members whose copies are all there are ("nvidia_peer", of the same process, or
   * machine). */
  uint64_t copied_bytes;
  /* Of bytes_sent: outputs that the experts' kernels stored right into other members' memory,
   * beside their products, which no copy carried ("nvidia_peer", with variants that can). */
  uint64_t stored_bytes;
  uint64_t reserved[2]; /* zeros: see moecl.h */
} moecl_group_statistics;

/* Waits for the forward. Errors: MOECL_ERROR_INVALID_ARGUMENT, MOECL_ERROR_NOT_READY (there was
 * none). *statistics is zeros on failure. */
MOECL_API moecl_status moecl_group_layer_statistics_wait(moecl_group_layer *layer, size_t member,
                                                         moecl_group_statistics *statistics);

#ifdef __cplusplus
}
#endif
#endif

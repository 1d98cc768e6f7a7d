// SPDX-License-Identifier: MIT
/* Experts in the host's memory, brought to the device when tokens choose them.
 *
 * A forward's plan is cut (layer_cuts). When the router is done, the host reads who is wanted, and
 * says in which round each expert is computed and at which place it is then: the first round has
 * those that are there, the others follow in small groups. Copies go along a lane of their own. A
 * copy to a place waits for the kernels that read what was there; a round's kernels wait for its
 * copies. The host waits for neither. */
#include "base/base.h"
#include "layer/expert_cache.h"
#include "layer/layer.h"
#include "moecl/offload.h"
#include "plan/watch.h"
#include <math.h>
#include <stdlib.h>

/* A round's copies are to take long beside the launches of its kernels. */
enum { ROUND_BYTES = 32 << 20, PART_ALIGN = 64, MOST_PARTS = 2 * OP_GEMM_PARTS };

/* An expert of a forward. */
typedef struct turn {
  int32_t expert, place, rows;
  bool is_brought;
} turn;

/* An expert's tensors, packed. */
typedef struct host_block {
  ocl_pinned pinned; /* zeros: there was none to be had */
  char *bytes;       /* of that, or plain memory */
} host_block;

struct layer_offload {
  ocl_lane lane;
  int64_t experts, places;
  int64_t most_brought; /* in one round */
  host_block *block;    /* [experts] */
  bool some_plain;      /* blocks are not pinned: the device tells no times of their copies */
  expert_cache cache;
  cl_event *used; /* [places]: kernels that read what is there; NULL: none did */
  /* Of the latest forward. */
  int32_t *wanted;              /* [experts] */
  turn *turn;                   /* [experts]: round by round, in one by places */
  size_t *round_end;            /* [experts + 1]: turns */
  size_t num_turns, num_rounds; /* whose first one brings nobody where `hits` is not 0 */
  ocl_pinned words;             /* of both: */
  int32_t *read, *written;      /* what the host reads, and its list */
  moecl_buffer *list;           /* the same on the device; NULL before the first forward */
  cl_event sent;                /* to there; NULL: never */
  plan_watch watch;
  moecl_offload_counts latest, all;
};

/* ---- an expert's memory ---- */

/* On the device, at a place. */
static int parts_of(const moecl_layer *layer, int64_t place, op_gemm_part *parts) {
  const int first = op_gemm_parts(layer->gate_up, place, parts);
  return first + op_gemm_parts(layer->down, place, parts + first);
}

/* Bytes in the host's memory of the parts before `end`. */
static uint64_t bytes_before(const op_gemm_part *parts, int end) {
  uint64_t bytes = 0;
  for (int i = 0; i < end; i++) bytes += base_round_up(parts[i].bytes, PART_ALIGN);
  return bytes;
}

static uint64_t expert_bytes(const moecl_layer *layer) {
  op_gemm_part parts[MOST_PARTS];
  return bytes_before(parts, parts_of(layer, 0, parts));
}

uint64_t layer_host_bytes(const moecl_layer *layer) {
  uint64_t bytes;
  if (!layer_offloads(layer)) return 0;
  return base_mul(expert_bytes(layer), (uint64_t)layer->own_experts, &bytes) ? bytes : UINT64_MAX;
}

uint64_t moecl_layer_host_bytes(const moecl_layer *layer) {
  return layer ? layer_host_bytes(layer) : 0;
}

static bool is_of_gate_up(moecl_tensor tensor) {
  return tensor == MOECL_GATE_UP_PROJ || tensor == MOECL_GATE_UP_BIAS;
}

void layer_offload_vacate(moecl_layer *layer) { expert_cache_forget(&layer->offload->cache, 0); }

moecl_status layer_offload_keep(moecl_layer *layer, moecl_tensor tensor, int64_t expert) {
  layer_offload *offload = layer->offload;
  op_gemm_part parts[MOST_PARTS];
  const int first = is_of_gate_up(tensor) ? 0 : op_gemm_parts(layer->gate_up, 0, parts);
  const int part = first + (tensor == MOECL_GATE_UP_BIAS || tensor == MOECL_DOWN_BIAS);
  const int32_t place = offload->cache.place_of[expert];
  cl_event packed, kept;
  parts_of(layer, 0, parts);
  if (place != EXPERT_CACHE_NONE) expert_cache_forget(&offload->cache, place);
  MOECL_TRY(ocl_queue_mark(layer->context, &packed));
  moecl_status status =
      ocl_lane_read(&offload->lane, parts[part].buffer, parts[part].offset, parts[part].bytes,
                    offload->block[expert].bytes + bytes_before(parts, part), packed, &kept);
  ocl_event_let_go(&packed);
  if (status == MOECL_OK) status = ocl_queue_after(layer->context, &kept, 1);
  ocl_event_let_go(&kept);
  return status;
}

/* ---- life ---- */

static moecl_status no_memory(const moecl_layer *layer) {
  return log_error(&layer->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

/* Rows of quantized numbers are made of all activated ones in every round: few are better then. */
static int64_t most_brought(const moecl_layer *layer, uint64_t bytes) {
  const int64_t half = layer->places > 1 ? layer->places / 2 : 1;
  const int64_t wanted = (int64_t)(ROUND_BYTES / (bytes ? bytes : 1));
  if (layer->quantized || wanted > half) return half;
  return wanted > 1 ? wanted : 1;
}

/* Numbers that the host may read, and write. */
static size_t most_read(const moecl_layer *layer) {
  const size_t offsets = (size_t)layer->params.num_experts + 1, places = (size_t)layer->places;
  return offsets > places ? offsets : places; /* choices, of no more than have places */
}
static size_t most_written(const moecl_layer *layer) {
  const size_t experts = (size_t)layer->own_experts, places = (size_t)layer->places;
  const size_t rounds = 1 + base_div_up(experts, (uint64_t)layer->offload->most_brought);
  const size_t list = op_rounds_list_size(&layer->rounds.desc, rounds);
  return list > places ? list : places;
}

static moecl_status make_words(moecl_layer *layer) {
  layer_offload *offload = layer->offload;
  const size_t count = most_read(layer) + most_written(layer);
  MOECL_TRY(ocl_pinned_create(&offload->lane, count * sizeof(int32_t), &offload->words));
  offload->read = offload->words.host;
  offload->written = offload->read + most_read(layer);
  return MOECL_OK;
}

/* Pinned memory may be limited. */
static moecl_status make_block(moecl_layer *layer, uint64_t bytes, host_block *block) {
  bool *some_plain = &layer->offload->some_plain;
  if (!*some_plain && ocl_pinned_create(&layer->offload->lane, bytes, &block->pinned) == MOECL_OK) {
    block->bytes = block->pinned.host;
    return MOECL_OK;
  }
  if (!*some_plain)
    log_write(&layer->context->log, MOECL_LOG_WARNING,
              "experts' matrices are in plain memory from here on, whose copies take longer: there "
              "is no more pinned memory");
  *some_plain = true;
  block->bytes = bytes <= SIZE_MAX ? malloc((size_t)bytes) : NULL;
  return block->bytes ? MOECL_OK : no_memory(layer);
}

static void release_block(host_block *block) {
  if (!block->pinned.host) free(block->bytes);
  ocl_pinned_release(&block->pinned);
}

moecl_status layer_offload_make(moecl_layer *layer) {
  const size_t experts = (size_t)layer->own_experts, places = (size_t)layer->places;
  const uint64_t bytes = expert_bytes(layer);
  layer_offload *offload = layer->offload = calloc(1, sizeof *offload);
  if (!offload) return no_memory(layer);
  offload->experts = layer->own_experts;
  offload->places = layer->places;
  offload->most_brought = most_brought(layer, bytes);
  offload->block = calloc(experts, sizeof *offload->block);
  offload->used = calloc(places, sizeof *offload->used);
  offload->wanted = calloc(experts, sizeof *offload->wanted);
  offload->turn = calloc(experts, sizeof *offload->turn);
  offload->round_end = calloc(experts + 1, sizeof *offload->round_end);
  if (!offload->block || !offload->used || !offload->wanted || !offload->turn ||
      !offload->round_end)
    return no_memory(layer);
  /* A round's places, and those of the round before, are not given away at once. */
  const int64_t two = 2 * offload->most_brought - 1, kept = two < layer->places ? two : 0;
  if (!expert_cache_make(&offload->cache, offload->experts, offload->places, layer->params.eviction,
                         kept))
    return no_memory(layer);
  MOECL_TRY(ocl_lane_create(layer->context, &offload->lane));
  MOECL_TRY(make_words(layer));
  for (size_t e = 0; e < experts; e++) MOECL_TRY(make_block(layer, bytes, &offload->block[e]));
  return MOECL_OK;
}

void layer_offload_release(layer_offload **handle) {
  layer_offload *offload = *handle;
  *handle = NULL;
  if (!offload) return;
  ocl_lane_finish(&offload->lane);
  if (offload->sent) ocl_event_await(offload->lane.context, offload->sent);
  ocl_event_let_go(&offload->sent);
  ocl_pinned_release(&offload->words);
  for (int64_t e = 0; offload->block && e < offload->experts; e++)
    release_block(&offload->block[e]);
  for (int64_t p = 0; offload->used && p < offload->places; p++)
    ocl_event_let_go(&offload->used[p]);
  ocl_lane_release(&offload->lane);
  expert_cache_release(&offload->cache);
  plan_watch_release(&offload->watch);
  moecl_buffer_destroy(&offload->list);
  free(offload->block);
  free(offload->used);
  free(offload->wanted);
  free(offload->turn);
  free(offload->round_end);
  free(offload);
}

/* ---- a forward ---- */

typedef struct offload_run {
  moecl_layer *layer;
  layer_offload *offload;
  const layer_plan *built;
  const moecl_buffer **bound;
  ocl_chain chain;
  plan_numbers with;
  int64_t slots; /* T * K */
} offload_run;

static moecl_status run_steps(offload_run *run, int first, int end) {
  return plan_run_steps(&run->built->plan, first, end, &run->chain, run->layer->space.blocks,
                        run->bound, &run->with);
}

/* ---- who is wanted ---- */

/* Begins to read what says so, behind the router. */
static moecl_status begin_reading(offload_run *run, cl_event *read) {
  const moecl_layer *layer = run->layer;
  layer_offload *offload = run->offload;
  const layer_tensors *at = &run->built->at;
  const int tensor = at->cuts.at_once ? at->topk_ids : at->expert_offsets;
  const size_t count =
      at->cuts.at_once ? (size_t)run->slots : (size_t)layer->params.num_experts + 1;
  const moecl_buffer *from = layer->space.blocks[run->built->plan.tensor[tensor].block];
  cl_event routed;
  *read = NULL;
  MOECL_TRY(ocl_queue_mark(layer->context, &routed));
  const moecl_status status =
      ocl_lane_read(&offload->lane, from, 0, count * sizeof(int32_t), offload->read, routed, read);
  ocl_event_let_go(&routed);
  return status;
}

static int32_t rows_of(const offload_run *run, int32_t expert) {
  const int32_t *read = run->offload->read;
  return run->built->at.cuts.at_once ? 0 : read[expert + 1] - read[expert];
}

/* In ascending order. Returns how many. */
static size_t list_wanted(offload_run *run) {
  layer_offload *offload = run->offload;
  size_t count = 0;
  if (!run->built->at.cuts.at_once) {
    for (int32_t e = 0; e < offload->experts; e++)
      if (rows_of(run, e) > 0) offload->wanted[count++] = e;
    return count;
  }
  bool chosen[MOECL_MAX_EXPERTS] = {false};
  for (int64_t i = 0; i < run->slots; i++)
    if (offload->read[i] >= 0) chosen[offload->read[i]] = true;
  for (int32_t e = 0; e < offload->experts; e++)
    if (chosen[e]) offload->wanted[count++] = e;
  return count;
}

/* ---- when, and where ---- */

static int by_place(const void *a, const void *b) {
  const turn *x = a, *y = b;
  return x->place < y->place ? -1 : x->place > y->place;
}

/* The turns since the last round are one, unless there are none. */
static void end_round(layer_offload *offload) {
  const size_t begin = offload->num_rounds ? offload->round_end[offload->num_rounds - 1] : 0;
  if (offload->num_turns == begin) return;
  qsort(offload->turn + begin, offload->num_turns - begin, sizeof *offload->turn, by_place);
  offload->round_end[offload->num_rounds++] = offload->num_turns;
}

/* First those that are there, then the others. */
static void make_turns(offload_run *run) {
  layer_offload *offload = run->offload;
  expert_cache *cache = &offload->cache;
  const size_t count = list_wanted(run);
  const bool at_once = run->built->at.cuts.at_once;
  size_t missing = 0; /* moved to the beginning of `wanted` */
  offload->num_turns = offload->num_rounds = 0;
  expert_cache_begin(cache, offload->wanted, count);
  for (size_t i = 0; i < count; i++) {
    const int32_t e = offload->wanted[i], place = expert_cache_find(cache, e);
    if (place == EXPERT_CACHE_NONE) offload->wanted[missing++] = e;
    else offload->turn[offload->num_turns++] = (turn){e, place, rows_of(run, e), false};
  }
  if (!at_once) end_round(offload);
  for (size_t i = 0; i < missing; i++) {
    const int32_t e = offload->wanted[i];
    offload->turn[offload->num_turns++] =
        (turn){e, expert_cache_bring(cache, e), rows_of(run, e), true};
    if (!at_once && (i + 1) % (size_t)offload->most_brought == 0) end_round(offload);
  }
  end_round(offload);
  offload->latest = (moecl_offload_counts){.forwards = 1,
                                           .hits = (int64_t)(count - missing),
                                           .misses = (int64_t)missing,
                                           .rounds = (int64_t)offload->num_rounds};
}

/* ---- the list for the device ---- */

/* A round's expert_offsets and tile_offsets; slots begin at `slot`. */
static int32_t write_round(const layer_offload *offload, size_t round, int32_t slot,
                           int32_t tile_rows, int32_t *offsets, int32_t *tiles) {
  size_t next = round ? offload->round_end[round - 1] : 0;
  int32_t tile = 0;
  for (int32_t p = 0; p <= offload->places; p++) {
    offsets[p] = slot;
    tiles[p] = tile;
    if (next == offload->round_end[round] || offload->turn[next].place != p) continue;
    slot += offload->turn[next].rows;
    tile += (offload->turn[next].rows + tile_rows - 1) / tile_rows;
    next++;
  }
  return slot;
}

static void write_rounds(const offload_run *run, int32_t *list) {
  const moecl_layer *layer = run->layer;
  const layer_offload *offload = run->offload;
  const op_rounds_desc *desc = &layer->rounds.desc;
  const int32_t tile_rows = (int32_t)op_gemm_tile_rows(layer->gate_up, run->slots);
  int32_t slot = 0;
  for (int64_t e = 0; e < offload->experts; e++) list[e] = 0;
  for (size_t i = 0; i < offload->num_turns; i++) {
    list[offload->turn[i].expert] = slot - offload->read[offload->turn[i].expert];
    slot += offload->turn[i].rows;
  }
  slot = 0;
  for (size_t r = 0; r < offload->num_rounds; r++) {
    int32_t *offsets = list + op_rounds_list_size(desc, r);
    slot = write_round(offload, r, slot, tile_rows, offsets, offsets + offload->places + 1);
  }
}

static void write_places(const offload_run *run, int32_t *list) {
  const layer_offload *offload = run->offload;
  for (int64_t i = 0; i < run->slots; i++)
    list[i] = offload->read[i] < 0 ? -1 : offload->cache.place_of[offload->read[i]];
}

/* The list of an earlier forward is read by nobody: its kernels came before what was waited for. */
static moecl_status send_list(offload_run *run) {
  const moecl_layer *layer = run->layer;
  layer_offload *offload = run->offload;
  const bool at_once = run->built->at.cuts.at_once;
  const size_t count =
      at_once ? (size_t)run->slots : op_rounds_list_size(&layer->rounds.desc, offload->num_rounds);
  if (at_once) write_places(run, offload->written);
  else write_rounds(run, offload->written);
  if (!offload->list)
    MOECL_TRY(
        moecl_buffer_create(layer->context, most_written(layer) * sizeof(int32_t), &offload->list));
  run->bound[run->built->at.round_list] = offload->list;
  ocl_event_let_go(&offload->sent);
  return ocl_queue_write(offload->written, offload->list, count * sizeof(int32_t), &offload->sent);
}

/* ---- rounds ---- */

/* One of the parts of a place, from the host's memory. */
static moecl_status bring_part(offload_run *run, const host_block *block, uint64_t from,
                               const op_gemm_part *part, cl_event after, cl_event *done) {
  layer_offload *offload = run->offload;
  offload->latest.bytes += part->bytes;
  if (!block->pinned.host)
    return ocl_upload_write(run->layer->context, block->bytes + from, part->buffer, part->offset,
                            part->bytes, after, done);
  MOECL_TRY(ocl_lane_write(&offload->lane, block->bytes + from, part->buffer, part->offset,
                           part->bytes, after, done));
  plan_watch_copy(&offload->watch, *done);
  return MOECL_OK;
}

/* What is enqueued next follows the copies of an expert, of which the last is enough. */
static moecl_status bring(offload_run *run, const turn *turn) {
  layer_offload *offload = run->offload;
  op_gemm_part parts[MOST_PARTS];
  const int count = parts_of(run->layer, turn->place, parts);
  cl_event last = NULL;
  moecl_status status = MOECL_OK;
  for (int i = 0; i < count && status == MOECL_OK; i++) {
    ocl_event_let_go(&last);
    status = bring_part(run, &offload->block[turn->expert], bytes_before(parts, i), &parts[i],
                        offload->used[turn->place], &last);
  }
  if (status == MOECL_OK) status = ocl_queue_after(run->layer->context, &last, 1);
  ocl_event_let_go(&last);
  return status;
}

static moecl_status bring_round(offload_run *run, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i++)
    if (run->offload->turn[i].is_brought) MOECL_TRY(bring(run, &run->offload->turn[i]));
  return MOECL_OK;
}

/* Copies to a round's places will follow its kernels. */
static moecl_status mark_used(offload_run *run, size_t begin, size_t end) {
  cl_event done;
  moecl_status status = ocl_queue_mark(run->layer->context, &done);
  for (size_t i = begin; i < end && status == MOECL_OK; i++)
    if (!ocl_event_keep(&run->offload->used[run->offload->turn[i].place], done))
      status = log_error(&run->layer->context->log, MOECL_ERROR_DEVICE, "clRetainEvent failed");
  ocl_event_let_go(&done);
  return status;
}

static moecl_status run_round(offload_run *run, size_t round) {
  const layer_offload *offload = run->offload;
  const layer_cuts *cuts = &run->built->at.cuts;
  const size_t begin = round ? offload->round_end[round - 1] : 0, end = offload->round_end[round];
  MOECL_TRY(bring_round(run, begin, end));
  if (cuts->at_once) return MOECL_OK; /* the last steps are its */
  run->with.round = (int64_t)round;
  run->with.chosen_rows = run->slots;
  run->with.rows = 0;
  for (size_t i = begin; i < end; i++) run->with.rows += offload->turn[i].rows;
  MOECL_TRY(run_steps(run, cuts->first, cuts->end));
  return mark_used(run, begin, end);
}

/* ---- all of it ---- */

static moecl_status find_wanted(offload_run *run) {
  const layer_cuts *cuts = &run->built->at.cuts;
  cl_event read;
  MOECL_TRY(run_steps(run, 0, cuts->routed));
  moecl_status status = begin_reading(run, &read);
  if (status == MOECL_OK) status = run_steps(run, cuts->routed, cuts->apart);
  if (status == MOECL_OK) status = ocl_event_await(run->layer->context, read);
  ocl_event_let_go(&read);
  return status;
}

static moecl_status run_all(offload_run *run) {
  const layer_offload *offload = run->offload;
  const layer_cuts *cuts = &run->built->at.cuts;
  const plan_numbers plain = run->with;
  MOECL_TRY(find_wanted(run));
  make_turns(run);
  MOECL_TRY(send_list(run));
  MOECL_TRY(run_steps(run, cuts->apart, cuts->first));
  for (size_t r = 0; r < offload->num_rounds; r++) MOECL_TRY(run_round(run, r));
  run->with = plain;
  MOECL_TRY(run_steps(run, cuts->end, run->built->plan.num_steps));
  return cuts->at_once ? mark_used(run, 0, offload->num_turns) : MOECL_OK;
}

/* After a failure nobody is known to be anywhere, and nothing reads the host's memory any more. */
static void stop(offload_run *run) {
  layer_offload *offload = run->offload;
  ocl_lane_finish(&offload->lane);
  ocl_upload_destroy(&run->layer->context->upload);
  moecl_context_finish_wait(run->layer->context);
  for (int64_t p = 0; p < offload->places; p++) ocl_event_let_go(&offload->used[p]);
  expert_cache_forget_all(&offload->cache);
  offload->latest = (moecl_offload_counts){0};
}

static void add_counts(moecl_offload_counts *all, const moecl_offload_counts *one) {
  all->forwards += one->forwards;
  all->hits += one->hits;
  all->misses += one->misses;
  all->rounds += one->rounds;
  all->bytes += one->bytes;
}

moecl_status layer_offload_run(moecl_layer *layer, const moecl_forward_params *params,
                               const layer_plan *built, const moecl_buffer **bound,
                               moecl_event **event) {
  layer_offload *offload = layer->offload;
  plan_watch *watch = &offload->watch;
  plan_watch_begin(watch, params->profile, params->measured);
  offload_run run = {
      .layer = layer,
      .offload = offload,
      .built = built,
      .bound = bound,
      .chain = {.context = layer->context,
                .waits = params->wait_list,
                .num_waits = params->wait_count,
                .observer = params->profile || params->measured ? &watch->observer : NULL},
      .with = {.seed = params->seed},
      .slots = params->num_tokens * layer->params.top_k};
  moecl_status status = run_all(&run);
  if (status == MOECL_OK)
    status = event ? ocl_chain_end(&run.chain, event) : ocl_chain_order(&run.chain);
  if (status == MOECL_OK) add_counts(&offload->all, &offload->latest);
  else stop(&run);
  watch->profile = NULL; /* the caller's again */
  return status;
}

moecl_status moecl_layer_offload_statistics_wait(moecl_layer *layer,
                                                 moecl_offload_statistics *statistics) {
  if (!statistics) return MOECL_ERROR_INVALID_ARGUMENT;
  *statistics = (moecl_offload_statistics){0};
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  const layer_offload *offload = layer->offload;
  if (!offload)
    return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "offload_statistics: this layer has no expert_cache");
  plan_watched times;
  MOECL_TRY(moecl_context_finish_wait(layer->context));
  MOECL_TRY(plan_watch_read(&offload->watch, &times));
  if (offload->some_plain) times.transfer_ms = times.hidden_ms = NAN;
  *statistics = (moecl_offload_statistics){.latest = offload->latest,
                                           .all = offload->all,
                                           .places = offload->places,
                                           .filled = expert_cache_filled(&offload->cache),
                                           .transfer_ms = times.transfer_ms,
                                           .hidden_ms = times.hidden_ms};
  return MOECL_OK;
}

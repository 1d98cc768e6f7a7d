// SPDX-License-Identifier: MIT
/* Rows there and back: a member's tokens to the experts of all, and outputs to the homes of their
 * tokens. A kernel gathers them by a list: its own to where they are used, others' into their
 * memory where the transport reaches that, or else one behind the other, for the transport to take.
 * Experts whose GEMM scatters its rows store them there themselves.
 *
 * What a member stores into another's memory must not come before that one has read what was there.
 * It has: rows of a forward are stored behind the choices of all members that have tokens, for
 * which the queue of who stores them has waited, or the host of several processes; and a member
 * sends its choices behind all that it did in the forward before, up to its combination. One
 * without tokens gets no outputs back, and others have waited for those that it made of the rows it
 * received. */
#include "base/base.h"
#include "group/group.h"

void group_count_rows(moecl_group_layer *layer) {
  for (int m = 0; m < layer->group->count; m++) {
    layer->rows[m] = group_before_chunk(layer, m, layer->chunks, GROUP_ROWS);
    layer->slots[m] = group_before_chunk(layer, m, layer->chunks, GROUP_SLOTS);
  }
}

/* What all ranks tell each other of a member before rows go. */
typedef struct row_wish {
  int64_t status; /* of its rank so far */
  uint64_t received, returned;
} row_wish;

static row_wish wish_of(const moecl_group_layer *layer, int m) {
  const group_trait *trait = &layer->member[m].trait;
  const int bins = layer->group->count * layer->chunks;
  const int64_t received = layer->slots[m] ? group_planned_rows(layer, m) : 0;
  const int64_t returned = group_before_bin(layer, m, bins, GROUP_SLOTS);
  return (row_wish){MOECL_OK, (uint64_t)received * trait->hidden_row_bytes,
                    (uint64_t)returned * trait->output_row_bytes};
}

/* Where nobody else's memory is reached each rank goes on by itself. */
static moecl_status share_wishes(const moecl_group_layer *layer, moecl_status status,
                                 row_wish *wishes) {
  const moecl_group *group = layer->group;
  for (int m = group->begin; m < group->end; m++)
    wishes[m] = status == MOECL_OK ? wish_of(layer, m) : (row_wish){.status = status};
  if (!group->shares) return status;
  /* One that failed alone would leave the others waiting for it, where they make memory. */
  const moecl_status shared =
      ranks_agree(group->ranks, group_share(group, wishes, sizeof *wishes), "group_forward");
  for (int m = 0; m < group->count && status == MOECL_OK && shared == MOECL_OK; m++)
    if (wishes[m].status != MOECL_OK)
      return log_error(group_log(group), (moecl_status)wishes[m].status,
                       "group_forward: failed on rank %d: %s; its own log says why",
                       group->device[m].rank, moecl_status_string((moecl_status)wishes[m].status));
  return status == MOECL_OK ? shared : status;
}

moecl_status group_provide_row_arrivals(moecl_group_layer *layer, moecl_status status) {
  row_wish wishes[MOECL_MAX_GROUP_MEMBERS] = {{0}};
  group_arrival arrivals[GROUP_MOST_ARRIVALS];
  size_t count = 0;
  MOECL_TRY(share_wishes(layer, status, wishes));
  for (int m = 0; m < layer->group->count; m++) {
    group_member *member = &layer->member[m];
    arrivals[count++] = (group_arrival){m, wishes[m].received, &member->received};
    arrivals[count++] = (group_arrival){m, wishes[m].returned, &member->returned};
  }
  return group_provide_arrivals(layer->group, arrivals, count);
}

/* ---- what others' kernels reach ---- */

/* Rows that arrive in a member's buffer. */
typedef struct arrival {
  int to;
  moecl_buffer *buffer;
  uint64_t row; /* bytes */
  int64_t first, count;
} arrival;

static int64_t rows_there(const moecl_group_layer *layer, int from, int bin) {
  const int chunks = layer->chunks;
  return group_before_chunk(layer, bin / chunks, bin % chunks, GROUP_ROWS) +
         group_started(layer, from, bin, GROUP_ROWS);
}

/* A member's tokens in a bin; its outputs that come back from one. */
static arrival tokens_of(const moecl_group_layer *layer, int from, int bin) {
  const int owner = bin / layer->chunks;
  return (arrival){owner, layer->member[owner].received, layer->member[0].trait.hidden_row_bytes,
                   rows_there(layer, from, bin), group_part(layer, from, bin, GROUP_ROWS)};
}

static arrival outputs_of(const moecl_group_layer *layer, int home, int bin) {
  return (arrival){home, layer->member[home].returned, layer->member[0].trait.output_row_bytes,
                   group_before_bin(layer, home, bin, GROUP_SLOTS),
                   group_part(layer, home, bin, GROUP_SLOTS)};
}

static group_reached reach(const moecl_group_layer *layer, const arrival *rows, int from,
                           int64_t row) {
  return rows->buffer ? group_reach_at(layer->group, rows->buffer, from, (uint64_t)row * rows->row)
                      : (group_reached){NULL, 0, 0};
}

static bool is_whole(group_reached reached) { return reached.bytes == UINT64_MAX; }

/* How many pieces of memory they are in, as `from`'s kernels see them; 0: they do not, or rows
 * would lie in two, or lists of parts have no room for so many. */
static size_t pieces_of(const moecl_group_layer *layer, const arrival *rows, int from) {
  enum { MOST_PIECES = 16 };
  const size_t members = (size_t)layer->group->count;
  const group_reached first = reach(layer, rows, from, 0);
  if (!first.memory || is_whole(first)) return first.memory != NULL;
  if (first.bytes % rows->row != 0 ||
      members * (size_t)layer->chunks * MOST_PIECES > OP_DISPATCH_MOST_BINS)
    return 0;
  const int64_t each = (int64_t)(first.bytes / rows->row);
  const int64_t last = rows->first + (rows->count ? rows->count - 1 : 0);
  const int64_t pieces = last / each - rows->first / each + 1;
  return pieces <= MOST_PIECES ? (size_t)pieces : 0;
}

/* Codes are bytes, which are slow to store one by one into another device's memory. */
static bool reaches_tokens(const moecl_group_layer *layer, int from, int bin) {
  const arrival rows = tokens_of(layer, from, bin);
  return !layer->sent_codes && pieces_of(layer, &rows, from) > 0;
}

/* A GEMM that scatters has few places: homes have as many as they need, one after the other, as
 * long as there are enough left for what may come later: the rows that the transport takes, which
 * lie behind each other, and where the member itself comes later, that and others behind it. */
static bool reaches_outputs(const moecl_group_layer *layer, int from, int home, int chunk) {
  const bool scatters = layer->member[from].trait.scatters;
  const int bin = from * layer->chunks + chunk;
  size_t used = 0;
  bool reaches = true;
  for (int h = 0; h <= home; h++) {
    const arrival rows = outputs_of(layer, h, bin);
    const size_t pieces = h == from ? 1 : pieces_of(layer, &rows, from);
    const size_t later = (size_t)(layer->group->count - 1 - h), most = from > h ? 3 : 1;
    const bool follows = !reaches; /* rows that the transport takes */
    reaches = pieces > 0 &&
              (!scatters || used + pieces + (later < most ? later : most) <= OP_GEMM_PLACES);
    used += reaches ? pieces : !follows;
  }
  return reaches;
}

/* Does a member send something that the transport is to take? */
static bool sends_tokens(const moecl_group_layer *layer, int m) {
  const int chunks = layer->chunks;
  for (int bin = 0; bin < layer->group->count * chunks; bin++)
    if (bin / chunks != m && !reaches_tokens(layer, m, bin)) return true;
  return false;
}

static bool sends_outputs(const moecl_group_layer *layer, int m) {
  for (int home = 0; home < layer->group->count; home++)
    for (int chunk = 0; chunk < layer->chunks; chunk++)
      if (home != m && !reaches_outputs(layer, m, home, chunk)) return true;
  return false;
}

moecl_status group_provide_row_sources(moecl_group_layer *layer, int m) {
  group_member *member = &layer->member[m];
  const uint64_t in = member->trait.hidden_row_bytes, out = member->trait.output_row_bytes;
  const int bins = layer->group->count * layer->chunks;
  const uint64_t sent = (uint64_t)group_before_bin(layer, m, bins, GROUP_ROWS);
  const uint64_t given = (uint64_t)layer->slots[m];
  MOECL_TRY(
      group_provide_source(layer->group, m, sends_tokens(layer, m) ? sent * in : 0, &member->sent));
  return group_provide_source(layer->group, m, sends_outputs(layer, m) ? given * out : 0,
                              &member->given);
}

moecl_status group_provide_rows(moecl_group_layer *layer, int m) {
  group_member *member = &layer->member[m];
  moecl_context *context = group_context_of(layer, m);
  const uint64_t row =
      desc_format_bytes(member->share->stored, 1, (uint64_t)layer->params.hidden_size);
  if (layer->slots[m] == 0) return MOECL_OK;
  MOECL_TRY(group_plan_experts(layer, m));
  const uint64_t received = (uint64_t)member->experts.key.numbers[GROUP_ROWS];
  MOECL_TRY(group_provide(context, layer->sent_codes ? received * row : 0, &member->unpacked));
  return group_provide_plan(layer, m, GROUP_EXPERTS, &member->experts.plan);
}

/* ---- parts of a list ---- */

static void begin_parts(group_parts *parts, uint64_t first) {
  parts->places = (op_places){.first = first, .parts = parts->part};
  parts->reach = false;
}

/* Those that follow each other in the list and where they go are one. */
static void add_part(group_parts *parts, const moecl_buffer *to, int64_t first_to, int64_t count) {
  op_rows_part *next = &parts->part[parts->places.count];
  op_rows_part *last = parts->places.count ? next - 1 : NULL;
  if (count == 0) return;
  if (last && last->to == to && last->first_to + last->count == (uint64_t)first_to) {
    last->count += (uint64_t)count;
    return;
  }
  *next = (op_rows_part){to, (uint64_t)first_to, (uint64_t)count};
  parts->places.count++;
}

/* Right where they arrive. */
static void add_arrival(const moecl_group_layer *layer, int from, const arrival *rows,
                        group_parts *parts) {
  for (int64_t done = 0, count; done < rows->count; done += count) {
    const group_reached reached = reach(layer, rows, from, rows->first + done);
    const uint64_t there = reached.bytes / rows->row, left = (uint64_t)(rows->count - done);
    count = (int64_t)(left < there ? left : there);
    add_part(parts, reached.memory, (int64_t)(reached.at / rows->row), count);
    parts->reach = true;
  }
}

/* A block of them, from where they lie one behind the other; of those that kernels have stored
 * there one that says so, where that is not the buffer itself. Returns how many that makes. */
static size_t list_arrival(const moecl_group_layer *layer, int from, const arrival *rows,
                           bool reached, const moecl_buffer *sent, int64_t first_sent,
                           group_block *block) {
  if (rows->count == 0) return 0;
  if (reached && is_whole(reach(layer, rows, from, 0))) return 0;
  *block = (group_block){.from = from,
                         .to = rows->to,
                         .source = reached ? NULL : sent,
                         .source_offset = (uint64_t)first_sent * rows->row,
                         .destination = rows->buffer,
                         .destination_offset = (uint64_t)rows->first * rows->row,
                         .bytes = (uint64_t)rows->count * rows->row};
  return 1;
}

/* To the profile a launch like any; to who measures the transport, one of its copies where rows
 * cross. */
static ocl_chain chain_of_gather(moecl_group_layer *layer, int m, moecl_stage label,
                                 const char *step, const group_parts *parts) {
  layer->member[m].watch.copying = parts->reach;
  return group_chain_of(layer, m, label, step);
}

/* ---- there ---- */

/* By bins, as send_token has them: the chunk's rows of member m's tokens at each owner are behind
 * those of members before it. */
static void part_tokens(const moecl_group_layer *layer, int m, group_parts *parts) {
  const int chunks = layer->chunks;
  int64_t sent = 0;
  begin_parts(parts, 0);
  for (int bin = 0; bin < layer->group->count * chunks; bin++) {
    const arrival rows = tokens_of(layer, m, bin);
    if (rows.to == m) add_part(parts, rows.buffer, rows.first, rows.count);
    else if (reaches_tokens(layer, m, bin)) add_arrival(layer, m, &rows, parts);
    else add_part(parts, layer->member[m].sent, sent, rows.count);
    sent += rows.count;
  }
}

moecl_status group_gather_tokens(group_run *run, int m) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  group_parts parts;
  if (layer->tokens[m] == 0) return MOECL_OK;
  part_tokens(layer, m, &parts);
  ocl_chain chain = chain_of_gather(layer, m, MOECL_STAGE_PERMUTE, "gather_tokens", &parts);
  const op_rows_io io = {.from = group_tokens_of(run, m)->hidden_states,
                         .list = group_list_of(member, member->lists.send_token),
                         .to = parts.places};
  const moecl_status status = layer->sent_codes
                                  ? op_pack_enqueue(&member->hidden_pack, &chain, &io)
                                  : op_rows_enqueue(&member->hidden_rows, &chain, &io);
  member->watch.copying = false;
  return status;
}

/* Tokens that the experts of a chunk wait for. */
size_t group_list_tokens(const group_run *run, int s, int d, int chunk, group_block *blocks) {
  const moecl_group_layer *layer = run->layer;
  const int bin = d * layer->chunks + chunk;
  const arrival rows = tokens_of(layer, s, bin);
  return list_arrival(layer, s, &rows, reaches_tokens(layer, s, bin), layer->member[s].sent,
                      group_before_bin(layer, s, bin, GROUP_ROWS), blocks);
}

/* ---- and back ---- */

/* By members, as `returns` has a chunk's. */
static void part_outputs(const moecl_group_layer *layer, int m, int chunk, group_parts *parts) {
  const int bin = m * layer->chunks + chunk;
  int64_t given = group_before_chunk(layer, m, chunk, GROUP_SLOTS);
  begin_parts(parts, (uint64_t)given);
  for (int home = 0; home < layer->group->count; home++) {
    const arrival rows = outputs_of(layer, home, bin);
    if (home == m) add_part(parts, rows.buffer, rows.first, rows.count);
    else if (reaches_outputs(layer, m, home, chunk)) add_arrival(layer, m, &rows, parts);
    else add_part(parts, layer->member[m].given, given, rows.count);
    given += rows.count;
  }
}

void group_place_outputs(const group_run *run, int m, int chunk, group_parts *parts) {
  part_outputs(run->layer, m, chunk, parts);
}

uint64_t group_stored_bytes(const moecl_group_layer *layer, int from, int home) {
  uint64_t bytes = 0;
  for (int chunk = 0; layer->member[from].trait.scatters && chunk < layer->chunks; chunk++) {
    const arrival rows = outputs_of(layer, home, from * layer->chunks + chunk);
    if (reaches_outputs(layer, from, home, chunk)) bytes += (uint64_t)rows.count * rows.row;
  }
  return bytes;
}

moecl_status group_gather_outputs(group_run *run, int m, int chunk) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  group_parts parts;
  part_outputs(layer, m, chunk, &parts);
  ocl_chain chain = chain_of_gather(layer, m, MOECL_STAGE_COMBINE, "gather_outputs", &parts);
  const op_rows_io io = {.from =
                             group_block_of(&member->space[GROUP_EXPERTS], &member->experts.plan,
                                            member->experts.at.expert_output),
                         .list = group_list_of(member, member->lists.returns),
                         .to = parts.places};
  const moecl_status status = op_rows_enqueue(&member->output_rows, &chain, &io);
  member->watch.copying = false;
  return status;
}

/* A chunk's outputs, to the homes of their tokens. */
size_t group_list_outputs(const group_run *run, int d, int s, int chunk, group_block *blocks) {
  const moecl_group_layer *layer = run->layer;
  const int bin = d * layer->chunks + chunk;
  const arrival rows = outputs_of(layer, s, bin);
  const int64_t given =
      group_before_chunk(layer, d, chunk, GROUP_SLOTS) + group_started(layer, s, bin, GROUP_SLOTS);
  return list_arrival(layer, d, &rows, reaches_outputs(layer, d, s, chunk), layer->member[d].given,
                      given, blocks);
}

// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/check.h"
#include "op/dispatch/dispatch.h"
#include "ref/ref.h"
#include <math.h>
#include <string.h>

/* The middle one of three members, of which one has no tokens and the others more than a block of
 * them; two chunks. Expert e has copies on the members of bits[e]; the last expert is an identity
 * expert. */
enum { MEMBERS = 3, ME = 1, CHUNKS = 2, EXPERTS = 6, MATRICES = 5, TOP_K = 3 };
enum { TOKENS = 263, ALL = TOKENS * TOP_K, BINS = MEMBERS * CHUNKS, COPIES = 8, OWN = 4 };
enum { MOST_BLOCKS = 600, TILE = 16 };
static const int64_t tokens_of[MEMBERS] = {70, 193, 0};
static const int bits[MATRICES] = {3, 2, 6, 5, 2};

typedef struct batch {
  int32_t ids[ALL], slot[ALL], offsets[EXPERTS + 1];
  float weights[ALL];
  int32_t placement[MATRICES + 1 + 2 * COPIES + MEMBERS + 2 * OWN];
} batch;

typedef struct lists {
  int32_t bins[ALL], starts[(MEMBERS + 1) * BINS * 2], own_offsets[OWN + 1];
  int32_t own_tiles[OWN + 1], slot_row[ALL], returns[ALL], send_token[ALL], home_slot[ALL];
  int32_t received_slot[ALL], home;
  float received_weight[ALL];
  int sent, slots, received;
} lists;

static void place(batch *b) {
  int32_t *member = b->placement + MATRICES + 1, *local = member + COPIES;
  int32_t *owned = local + COPIES, *own = owned + MEMBERS, p = 0;
  memset(b->placement, 0, sizeof b->placement);
  for (int e = 0; e < MATRICES; e++) {
    for (int m = 0, copy = 0; m < MEMBERS; m++) {
      if (!(bits[e] >> m & 1)) continue;
      if (m == ME) own[2 * owned[m]] = e, own[2 * owned[m] + 1] = copy;
      member[p] = m;
      local[p++] = owned[m]++;
      copy++;
    }
    b->placement[e + 1] = p;
  }
}

/* Three different experts a token, a fifth of the assignments dropped. */
static void draw_batch(batch *b) {
  uint32_t state = 1;
  int32_t counts[EXPERTS] = {0};
  place(b);
  for (int a = 0; a < ALL; a++) {
    const int e = (int)(8 * fabs(check_value(&state))) % EXPERTS;
    b->ids[a] = a % TOP_K == 0 ? e : (b->ids[a - 1] + 1 + (a / 7) % 2) % EXPERTS;
    b->slot[a] = fabs(check_value(&state)) > 0.75 ? -1 : counts[b->ids[a]]++;
    b->weights[a] = (float)check_value(&state);
  }
  b->offsets[0] = 0;
  for (int e = 0; e < EXPERTS; e++) b->offsets[e + 1] = b->offsets[e] + counts[e];
  for (int a = 0; a < ALL; a++)
    if (b->slot[a] >= 0) b->slot[a] += b->offsets[b->ids[a]];
}

/* Member, chunk and, of this member's, local slot of an assignment that was kept. */
static int32_t find_bin(const batch *b, int a, int32_t *slot) {
  const int32_t e = b->ids[a], rank = b->slot[a] - b->offsets[e];
  const int32_t rows = b->offsets[e + 1] - b->offsets[e], *first = b->placement;
  const int32_t *member = b->placement + MATRICES + 1, *local = member + COPIES;
  const int32_t *owned = local + COPIES, copies = first[e + 1] - first[e];
  int32_t p = first[e + 1] - 1, before = 0;
  while (rank * copies < (p - first[e]) * rows) p--; /* the last copy that begins at it or before */
  while (before * copies < (p - first[e]) * rows) before++;
  *slot = rank - before;
  return member[p] * CHUNKS + local[p] * CHUNKS / owned[member[p]];
}

/* Rows of this member's own experts, in their order, are numbered by counting. */
static void number_slots(const batch *b, lists *want, int32_t *slot_of) {
  const int32_t *own = b->placement + MATRICES + 1 + 2 * COPIES + MEMBERS;
  for (int l = 0; l < OWN; l++) {
    int32_t most = 0;
    for (int a = 0; a < ALL; a++) {
      int32_t rank;
      if (b->slot[a] < 0 || b->ids[a] != own[2 * l]) continue;
      const int32_t bin = find_bin(b, a, &rank);
      if (bin / CHUNKS != ME) continue;
      slot_of[a] = want->own_offsets[l] + rank;
      if (rank + 1 > most) most = rank + 1;
    }
    want->own_offsets[l + 1] = want->own_offsets[l] + most;
  }
  want->slots = want->own_offsets[OWN];
}

static int member_of(int t) {
  return t < tokens_of[0] ? 0 : t < tokens_of[0] + tokens_of[1] ? 1 : 2;
}

/* Is the token sent in this bin: the member's first that it needs? */
static bool is_sent(const lists *want, int t, int bin) {
  int least = BINS;
  for (int k = 0; k < TOP_K; k++) {
    const int32_t other = want->bins[t * TOP_K + k];
    if (other >= 0 && other / CHUNKS == bin / CHUNKS && other < least) least = other;
  }
  return least == bin;
}

static void fill_starts(lists *want) {
  for (int m = 0, first = 0; m <= MEMBERS; first += m < MEMBERS ? (int)tokens_of[m] : 0, m++)
    for (int bin = 0; bin < BINS; bin++)
      for (int t = 0; t < first; t++) {
        want->starts[(m * BINS + bin) * 2] += is_sent(want, t, bin);
        for (int k = 0; k < TOP_K; k++)
          want->starts[(m * BINS + bin) * 2 + 1] += want->bins[t * TOP_K + k] == bin;
      }
}

static void fill_bin(bool placed, lists *want, int bin, const int32_t *slot_of, int32_t *row_of,
                     int *given) {
  for (int t = 0; t < TOKENS; t++) {
    const int home = t - (int)tokens_of[0]; /* this member is the second */
    const bool mine = bin / CHUNKS == ME, local = member_of(t) == ME;
    if (is_sent(want, t, bin)) {
      if (mine) row_of[t] = want->received++;
      if (local) want->send_token[want->sent++] = home;
    }
    for (int k = 0; k < TOP_K; k++) {
      const int a = t * TOP_K + k;
      if (want->bins[a] != bin) continue;
      if (local) want->home_slot[home * TOP_K + k] = want->home++;
      if (!mine) continue;
      want->slot_row[slot_of[a]] = row_of[t];
      if (placed) want->returns[slot_of[a]] = (*given)++;
      else want->returns[(*given)++] = slot_of[a];
      want->received_slot[row_of[t] * TOP_K + k] = slot_of[a];
    }
  }
}

static void expect(const batch *b, bool placed, lists *want) {
  int32_t slot_of[ALL], row_of[TOKENS], ignored;
  int given = 0;
  memset(want, 0, sizeof *want);
  for (int a = 0; a < ALL; a++)
    want->bins[a] = b->slot[a] < 0 ? -1 : b->ids[a] >= MATRICES ? -2 : find_bin(b, a, &ignored);
  for (int i = 0; i < ALL; i++) want->received_slot[i] = -1;
  for (int t = 0; t < TOKENS; t++) row_of[t] = -1;
  number_slots(b, want, slot_of);
  for (int l = 0; l < OWN; l++)
    want->own_tiles[l + 1] =
        want->own_tiles[l] + (want->own_offsets[l + 1] - want->own_offsets[l] + TILE - 1) / TILE;
  fill_starts(want);
  for (int bin = 0; bin < BINS; bin++) fill_bin(placed, want, bin, slot_of, row_of, &given);
  for (int t = 0; t < TOKENS; t++)
    for (int k = 0; k < TOP_K; k++) {
      const int a = t * TOP_K + k, home = a - (int)tokens_of[0] * TOP_K;
      if (member_of(t) == ME && want->bins[a] < 0)
        want->home_slot[home] = want->bins[a] == -2 ? want->home : -1;
      if (row_of[t] >= 0) want->received_weight[row_of[t] * TOP_K + k] = b->weights[a];
    }
}

static moecl_status upload(check_run *run, const op_dispatch *dispatch, const batch *b,
                           op_dispatch_io *io) {
  int32_t sources[MEMBERS + 1 + MOST_BLOCKS + 1];
  io->num_blocks = op_dispatch_blocks(dispatch, tokens_of);
  op_dispatch_write_sources(dispatch, tokens_of, sources);
  const size_t count = op_dispatch_sources_size(&dispatch->desc, io->num_blocks);
  const struct {
    const moecl_buffer **buffer;
    const void *data; /* NULL: what is written */
    size_t count;
  } all[] = {{&io->topk_ids, b->ids, ALL},
             {&io->assignment_slot, b->slot, ALL},
             {&io->expert_offsets, b->offsets, EXPERTS + 1},
             {&io->topk_weights, b->weights, ALL},
             {&io->placement, b->placement, BASE_COUNT(b->placement)},
             {&io->sources, sources, count},
             {&io->bins, NULL, ALL},
             {&io->counts, NULL, (size_t)io->num_blocks * BINS * 2},
             {&io->starts, NULL, (MEMBERS + 1) * BINS * 2},
             {&io->own_offsets, NULL, OWN + 1},
             {&io->own_tiles, NULL, OWN + 1},
             {&io->slot_row, NULL, ALL},
             {&io->returns, NULL, ALL},
             {&io->send_token, NULL, ALL},
             {&io->home_slot, NULL, ALL},
             {&io->home_rows, NULL, MATRICES + 1},
             {&io->received_slot, NULL, ALL},
             {&io->received_weight, NULL, ALL}};
  for (size_t i = 0; i < BASE_COUNT(all); i++) {
    moecl_buffer **own = &run->buffer[i];
    MOECL_TRY(all[i].data ? check_upload_words(run->context, all[i].data, all[i].count, own)
                          : moecl_buffer_create(run->context, all[i].count * 4, own));
    *all[i].buffer = *own;
  }
  return MOECL_OK;
}

static moecl_status compare(check_run *run, const op_dispatch *dispatch, const op_dispatch_io *io,
                            const lists *want) {
  const size_t home = (size_t)tokens_of[ME] * TOP_K, rows = (size_t)want->received * TOP_K;
  const struct {
    const char *what;
    const moecl_buffer *got;
    const void *want;
    size_t count;
  } all[] = {{"bins", io->bins, want->bins, ALL},
             {"starts", io->starts, want->starts, BASE_COUNT(want->starts)},
             {"own_offsets", io->own_offsets, want->own_offsets, OWN + 1},
             {"own_tiles", io->own_tiles, want->own_tiles, OWN + 1},
             {"slot_row", io->slot_row, want->slot_row, (size_t)want->slots},
             {"returns", io->returns, want->returns, (size_t)want->slots},
             {"send_token", io->send_token, want->send_token, (size_t)want->sent},
             {"home_slot", io->home_slot, want->home_slot, home},
             {"received_slot", io->received_slot, want->received_slot, rows},
             {"received_weight", io->received_weight, want->received_weight, rows}};
  const size_t count = BASE_COUNT(all) - (dispatch->desc.weighted ? 0 : 2);
  for (size_t i = 0; i < count; i++)
    MOECL_TRY(check_ints(run, all[i].what, all[i].got, all[i].want, all[i].count));
  int32_t got[MATRICES + 1];
  MOECL_TRY(moecl_buffer_read_wait(io->home_rows, 0, sizeof got, got));
  return got[MATRICES] == want->home
             ? MOECL_OK
             : check_fail(run, "home_rows", MATRICES, got[MATRICES], want->home);
}

static moecl_status check_chunks(check_run *run, op_dispatch *dispatch, const op_dispatch_io *io,
                                 const lists *want) {
  ocl_chain chain = {.context = run->context};
  for (int c = 0; c < CHUNKS; c++) {
    int32_t offsets[OWN + 1], tiles[OWN + 1];
    const int first = c * OWN / CHUNKS, end = (c + 1) * OWN / CHUNKS;
    for (int l = 0; l <= OWN; l++) {
      const int32_t *at = want->own_offsets;
      offsets[l] = at[l < first ? first : l > end ? end : l];
      tiles[l] = l ? tiles[l - 1] + (offsets[l] - offsets[l - 1] + TILE - 1) / TILE : 0;
    }
    MOECL_TRY(op_dispatch_enqueue_chunk(dispatch, &chain, CHUNKS, c, io->own_offsets, io->bins,
                                        io->counts, TILE));
    MOECL_TRY(check_ints(run, "offsets of a chunk", io->bins, offsets, OWN + 1));
    MOECL_TRY(check_ints(run, "tiles of a chunk", io->counts, tiles, OWN + 1));
  }
  return MOECL_OK;
}

static moecl_status check(check_run *run, void *op) {
  op_dispatch *dispatch = op;
  batch b;
  lists want;
  op_dispatch_io io = {.num_tokens = TOKENS, .chunks = CHUNKS, .tile_rows = TILE};
  draw_batch(&b);
  expect(&b, dispatch->desc.placed, &want);
  MOECL_TRY(upload(run, dispatch, &b, &io));
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(op_dispatch_enqueue(dispatch, &chain, &io));
  MOECL_TRY(compare(run, dispatch, &io, &want));
  return check_chunks(run, dispatch, &io, &want);
}

moecl_status op_dispatch_self_check(moecl_context *context, const kernel_variant *variant,
                                    const void *desc) {
  check_run run = {&op_dispatch_kind, context, variant, {NULL}};
  op_dispatch_desc small = *(const op_dispatch_desc *)desc;
  op_dispatch dispatch;
  small.num_experts = MATRICES;
  small.top_k = TOP_K;
  small.members = MEMBERS;
  small.me = ME;
  small.own = OWN;
  MOECL_TRY(check_begin(&run, &small, &dispatch));
  return check_end(&run, &dispatch, dispatch.kernels, OP_DISPATCH_KERNELS, check);
}

/* ---- rows by a list ---- */

enum { ROWS = 11, LISTED = 5, SKIPPED = 2 };

/* Six parts, and so two launches, one of them empty, to two buffers in another order than the
 * list's. Nothing else is written. */
enum { PARTS = 6 };
static const int part_buffer[PARTS] = {2, 3, 2, 2, 3, 3};
static const int part_first[PARTS] = {4, 0, 0, 9, 3, 6}, part_count[PARTS] = {2, 3, 1, 0, 2, 1};
enum { PARTED = 9, ROOM = 8, UNTOUCHED = 0xa5 };

static moecl_status check_rows(check_run *run, void *op) {
  op_rows *rows = op;
  const size_t bytes = (size_t)rows->desc.row_bytes;
  static const int32_t list[SKIPPED + PARTED] = {0, 0, 10, 3, 0, 3, 7, 1, 9, 2, 4};
  uint8_t from[ROWS * 64], want[2][ROOM * 64], to[ROOM * 64];
  op_rows_part parts[PARTS];
  ocl_chain chain = {.context = run->context};
  for (size_t i = 0; i < sizeof from; i++) from[i] = (uint8_t)(i * 7 + i / 64);
  memset(want, UNTOUCHED, sizeof want);
  MOECL_TRY(moecl_buffer_create(run->context, ROWS * bytes, &run->buffer[0]));
  MOECL_TRY(moecl_buffer_write_wait(run->buffer[0], 0, ROWS * bytes, from));
  MOECL_TRY(check_upload_words(run->context, list, SKIPPED + PARTED, &run->buffer[1]));
  for (int b = 0; b < 2; b++) {
    MOECL_TRY(moecl_buffer_create(run->context, ROOM * bytes, &run->buffer[2 + b]));
    MOECL_TRY(moecl_buffer_write_wait(run->buffer[2 + b], 0, ROOM * bytes, want[b]));
  }
  for (int p = 0, i = SKIPPED; p < PARTS; p++) {
    parts[p] = (op_rows_part){run->buffer[part_buffer[p]], (uint64_t)part_first[p],
                              (uint64_t)part_count[p]};
    for (int r = 0; r < part_count[p]; r++, i++)
      memcpy(want[part_buffer[p] - 2] + (size_t)(part_first[p] + r) * bytes,
             from + (size_t)list[i] * bytes, bytes);
  }
  const op_rows_io io = {
      .from = run->buffer[0], .list = run->buffer[1], .to = {SKIPPED, parts, PARTS}};
  MOECL_TRY(op_rows_enqueue(rows, &chain, &io));
  for (int b = 0; b < 2; b++) {
    MOECL_TRY(moecl_buffer_read_wait(run->buffer[2 + b], 0, ROOM * bytes, to));
    for (size_t i = 0; i < ROOM * bytes; i++)
      if (to[i] != want[b][i]) return check_fail(run, "rows", (int64_t)i, to[i], want[b][i]);
  }
  return MOECL_OK;
}

/* Rows of three units: the program is the unit's. */
moecl_status op_rows_self_check(moecl_context *context, const kernel_variant *variant,
                                const void *desc) {
  check_run run = {&op_rows_kind, context, variant, {NULL}};
  uint64_t unit = 16;
  while (((const op_rows_desc *)desc)->row_bytes % unit) unit /= 2;
  const op_rows_desc small = {3 * unit};
  op_rows rows;
  MOECL_TRY(check_begin(&run, &small, &rows));
  return check_end(&run, &rows, &rows.kernel, 1, check_rows);
}

/* ---- several copies ---- */

/* Five, and so two launches; one is empty. */
static moecl_status check_copies(check_run *run, void *op) {
  enum { COPIES = 5, WORDS = 7, PLACES = 24 };
  static const int first[COPIES] = {1, 15, 8, 20, 10}, count[COPIES] = {7, 4, 2, 0, 5};
  int32_t from[WORDS], want[PLACES], to[PLACES];
  op_copy copies[COPIES];
  ocl_chain chain = {.context = run->context};
  for (int i = 0; i < PLACES; i++) want[i] = -1 - i;
  MOECL_TRY(check_upload_words(run->context, want, PLACES, &run->buffer[COPIES]));
  for (int c = 0; c < COPIES; c++) {
    for (int i = 0; i < WORDS; i++) from[i] = 100 * c + i;
    MOECL_TRY(check_upload_words(run->context, from, WORDS, &run->buffer[c]));
    memcpy(want + first[c], from, (size_t)count[c] * sizeof *from);
    copies[c] =
        (op_copy){run->buffer[c], run->buffer[COPIES], (uint64_t)first[c], (uint64_t)count[c]};
  }
  MOECL_TRY(op_copies_enqueue(op, &chain, copies, COPIES));
  MOECL_TRY(moecl_buffer_read_wait(run->buffer[COPIES], 0, sizeof to, to));
  for (int i = 0; i < PLACES; i++)
    if (to[i] != want[i]) return check_fail(run, "words", i, to[i], want[i]);
  return MOECL_OK;
}

moecl_status op_copies_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc) {
  check_run run = {&op_copies_kind, context, variant, {NULL}};
  op_copies copies;
  MOECL_TRY(check_begin(&run, desc, &copies));
  return check_end(&run, &copies, &copies.kernel, 1, check_copies);
}

/* ---- rows as codes ---- */

enum { COLUMNS = 300 };

/* What the codes of a row mean, as its plain elements have it: a block of zeros, one that is not
 * finite. */
static void expect_packed(const op_pack_desc *desc, double *numbers, double *want) {
  uint32_t state = 3;
  float bits[COLUMNS];
  for (int i = 0; i < ROWS * COLUMNS; i++) {
    const int row = i / COLUMNS, column = i % COLUMNS;
    numbers[i] = row == 3 && column < 128 ? 0 : check_value(&state) * (1 + column % 7);
    if (row == 7 && column == 299) numbers[i] = INFINITY;
  }
  for (int row = 0; row < ROWS; row++) {
    double *to = want + row * COLUMNS;
    desc_encode(desc->rows, numbers + row * COLUMNS, 1, COLUMNS, bits);
    desc_decode(desc->rows, bits, 1, COLUMNS, to);
    ref_quantize(desc->codes, COLUMNS, to);
    for (int i = 0; i < COLUMNS; i++) to[i] = (float)to[i];
    desc_encode(desc->rows, to, 1, COLUMNS, bits);
    desc_decode(desc->rows, bits, 1, COLUMNS, to);
  }
}

static moecl_status check_packed(check_run *run, void *op) {
  op_pack *pack = op;
  const op_pack_desc *desc = &pack->desc;
  static const int32_t list[SKIPPED + LISTED] = {0, 0, 10, 3, 0, 3, 7};
  static const check_tolerance exact = {0, 0};
  double numbers[ROWS * COLUMNS], want[ROWS * COLUMNS], listed[LISTED * COLUMNS];
  const uint64_t rows = SKIPPED + LISTED, bytes = op_pack_row_bytes(desc->codes, COLUMNS);
  ocl_chain chain = {.context = run->context};
  moecl_buffer **b = run->buffer;
  expect_packed(desc, numbers, want);
  for (int r = 0; r < LISTED; r++)
    memcpy(listed + r * COLUMNS, want + list[SKIPPED + r] * COLUMNS, COLUMNS * sizeof *want);
  MOECL_TRY(check_upload(run->context, desc->rows, numbers, ROWS, COLUMNS, &b[0]));
  MOECL_TRY(check_upload_words(run->context, list, SKIPPED + LISTED, &b[1]));
  MOECL_TRY(moecl_buffer_create(run->context, rows * bytes, &b[2]));
  MOECL_TRY(
      moecl_buffer_create(run->context, desc_format_bytes(desc->rows, LISTED, COLUMNS), &b[3]));
  const op_rows_part part = {.to = b[2], .count = LISTED};
  const op_rows_io io = {.from = b[0], .list = b[1], .to = {SKIPPED, &part, 1}};
  MOECL_TRY(op_pack_enqueue(pack, &chain, &io));
  MOECL_TRY(op_pack_enqueue_back(pack, &chain, b[2], b[3], 0, 1));
  MOECL_TRY(op_pack_enqueue_back(pack, &chain, b[2], b[3], 1, LISTED - 1));
  return check_numbers(run, "rows", b[3], desc->rows, LISTED, COLUMNS, listed, exact);
}

moecl_status op_pack_self_check(moecl_context *context, const kernel_variant *variant,
                                const void *desc) {
  check_run run = {&op_pack_kind, context, variant, {NULL}};
  op_pack_desc small = *(const op_pack_desc *)desc;
  op_pack pack;
  small.columns = COLUMNS;
  MOECL_TRY(check_begin(&run, &small, &pack));
  return check_end(&run, &pack, pack.kernels, OP_PACK_KERNELS, check_packed);
}

// SPDX-License-Identifier: MIT
/* How a batch's choices get to all members. In one process they go from member to member, as rows
 * do, in an exchange before those; between processes over the host, which gathers them. */
#include "base/base.h"
#include "group/group.h"
#include <string.h>

/* The choices to the host, each member's where they are in the batch. */
moecl_status group_read_choices(group_run *run, int m) {
  moecl_group_layer *layer = run->layer;
  const group_member *member = &layer->member[m];
  const layer_tensors *at = &member->home.at;
  ocl_lane *out = &layer->group->device[m].out;
  const uint64_t first = (uint64_t)layer->first[m], top_k = (uint64_t)layer->params.top_k;
  const uint64_t tokens = (uint64_t)layer->tokens[m], bytes = tokens * top_k * 4;
  MOECL_TRY(ocl_queue_mark(out->context, &run->routed[m]));
  MOECL_TRY(ocl_lane_read(out, group_home_block(member, at->topk_ids), 0, bytes,
                          layer->topk_ids + first * top_k, run->routed[m],
                          group_await_later(run, m)));
  MOECL_TRY(ocl_lane_read(out, group_home_block(member, at->topk_weights), 0, bytes,
                          layer->topk_weights + first * top_k, run->routed[m],
                          group_await_later(run, m)));
  if (!desc_prioritizes(&member->share->dispatch)) return MOECL_OK;
  return ocl_lane_read(out, group_home_block(member, at->token_priority), 0, tokens * 4,
                       layer->token_priority + first, run->routed[m], group_await_later(run, m));
}

/* What there is of choices: ids, weights and, where they count, priorities. */
static int num_parts(moecl_group_layer *layer) {
  const bool prioritize = desc_prioritizes(&group_own(layer)->share->dispatch);
  return prioritize ? GROUP_CHOICES : GROUP_CHOICES - 1;
}

/* Bytes of a token. */
static uint64_t part_row(const moecl_group_layer *layer, int part) {
  return part < GROUP_CHOICES - 1 ? (uint64_t)layer->params.top_k * 4 : 4;
}

/* At home, and the batch's. Other members' plans are their threads'. */
static const moecl_buffer *part_home(const group_member *member, int part) {
  const layer_tensors *at = &member->home.at;
  const int tensors[GROUP_CHOICES] = {at->topk_ids, at->topk_weights, at->token_priority};
  return group_home_block(member, tensors[part]);
}

static moecl_buffer **part_batch(group_member *member, int part) {
  moecl_buffer **const buffers[GROUP_CHOICES] = {&member->topk_ids, &member->topk_weights,
                                                 &member->token_priority};
  return buffers[part];
}

/* Those of `from` that `to` gets. */
static size_t add_choices(const group_run *run, int from, int to, group_block *blocks) {
  moecl_group_layer *layer = run->layer;
  const int count = num_parts(layer);
  for (int i = 0; i < count; i++)
    blocks[i] =
        (group_block){.from = from,
                      .to = to,
                      .source = part_home(&layer->member[from], i),
                      .destination = *part_batch(&layer->member[to], i),
                      .destination_offset = (uint64_t)layer->first[from] * part_row(layer, i),
                      .bytes = (uint64_t)layer->tokens[from] * part_row(layer, i)};
  return (size_t)count;
}

/* Those of `from` as copies in its own context, to itself or to another that it reaches. */
static size_t add_copies(const group_run *run, int from, int to, op_copy *copies) {
  const moecl_group *group = run->layer->group;
  group_block blocks[GROUP_CHOICES];
  const size_t count = add_choices(run, from, to, blocks);
  for (size_t i = 0; i < count; i++)
    copies[i] = (op_copy){.from = blocks[i].source,
                          .to = to == from ? blocks[i].destination
                                           : group_reach(group, blocks[i].destination, from),
                          .first_to = blocks[i].destination_offset / 4,
                          .count = blocks[i].bytes / 4};
  return count;
}

static bool reaches_choices(moecl_group_layer *layer, int from, int to) {
  bool all = true;
  for (int i = 0; i < num_parts(layer); i++)
    all &= group_reach(layer->group, *part_batch(&layer->member[to], i), from) != NULL;
  return all;
}

/* Where some go to other members the launch is, as of rows, one of the transport's copies. */
moecl_status group_copy_choices(group_run *run, int m) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  op_copy copies[GROUP_CHOICES * MOECL_MAX_GROUP_MEMBERS];
  size_t count = 0;
  bool crosses = false;
  if (layer->tokens[m] == 0) return MOECL_OK;
  for (int to = 0; to < layer->group->count; to++) {
    if (to != m && !reaches_choices(layer, m, to)) continue;
    count += add_copies(run, m, to, &copies[count]);
    crosses = crosses || to != m;
  }
  member->watch.copying = crosses;
  ocl_chain chain = group_chain_of(layer, m, MOECL_STAGE_PERMUTE, "copy_choices");
  const moecl_status status = op_copies_enqueue(&member->copies, &chain, copies, count);
  member->watch.copying = false;
  return status;
}

/* Of several processes they come from the host: into memory that nobody else stores to. */
static moecl_status provide_choices(moecl_group_layer *layer, int m, uint64_t bytes,
                                    moecl_buffer **buffer) {
  const group_arrival arrival = {m, bytes, buffer};
  return layer->group->ranks ? group_provide(group_context_of(layer, m), bytes, buffer)
                             : group_provide_arrivals(layer->group, &arrival, 1);
}

moecl_status group_provide_choices(moecl_group_layer *layer) {
  const uint64_t batch = (uint64_t)group_batch_of(layer);
  for (int m = layer->group->begin; m < layer->group->end; m++)
    for (int i = 0; i < num_parts(layer); i++)
      MOECL_TRY(
          provide_choices(layer, m, batch * part_row(layer, i), part_batch(&layer->member[m], i)));
  return MOECL_OK;
}

size_t group_list_choices(const group_run *run, int from, int to, int chunk, group_block *blocks) {
  (void)chunk;
  if (run->layer->tokens[from] == 0 || reaches_choices(run->layer, from, to)) return 0;
  return add_choices(run, from, to, blocks);
}

/* From all ranks: where each member's are in the batch is known. */
moecl_status group_gather_choices(moecl_group_layer *layer) {
  group_ranks *ranks = layer->group->ranks;
  int64_t first[MOECL_MAX_GROUP_MEMBERS + 1] = {0};
  const size_t row = (size_t)layer->params.top_k * 4;
  for (int m = 0; m < layer->group->count; m++)
    first[layer->group->device[m].rank + 1] = layer->first[m + 1];
  moecl_status status = ranks_gather(ranks, layer->topk_ids, first, row), then;
  then = ranks_gather(ranks, layer->topk_weights, first, row); /* others wait for that as well */
  if (status == MOECL_OK) status = then;
  if (!desc_prioritizes(&group_own(layer)->share->dispatch)) return status;
  then = ranks_gather(ranks, layer->token_priority, first, sizeof *layer->token_priority);
  return status == MOECL_OK ? then : status;
}

/* Nothing reads it as an earlier forward has left it: lists were waited for. */
static moecl_status write_words(moecl_group_layer *layer, int m, const void *words, uint64_t count,
                                cl_event after, moecl_buffer *buffer, cl_event *written) {
  if (count == 0) return MOECL_OK;
  return ocl_lane_write(&layer->group->device[m].in, words, buffer, 0, count * 4, after, written);
}

static moecl_status write_choices(group_run *run, int m, cl_event after, cl_event *written) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  const uint64_t batch = (uint64_t)group_batch_of(layer),
                 all = batch * (uint64_t)layer->params.top_k;
  MOECL_TRY(write_words(layer, m, layer->topk_ids, all, after, member->topk_ids, &written[0]));
  MOECL_TRY(
      write_words(layer, m, layer->topk_weights, all, after, member->topk_weights, &written[1]));
  if (!desc_prioritizes(&member->share->dispatch)) return MOECL_OK;
  return write_words(layer, m, layer->token_priority, batch, after, member->token_priority,
                     &written[2]);
}

/* Where members' tokens begin hangs on how many they have, and is mostly there from before. */
static moecl_status write_sources(group_run *run, int m, cl_event after, cl_event *written) {
  moecl_group_layer *layer = run->layer;
  group_member *member = &layer->member[m];
  if (member->sources_written &&
      memcmp(member->sources_of, layer->tokens, sizeof member->sources_of) == 0)
    return MOECL_OK;
  const uint64_t count = op_dispatch_sources_size(&member->dispatch.desc, layer->blocks);
  member->sources_written = false; /* until the forward has not failed */
  memcpy(member->sources_of, layer->tokens, sizeof member->sources_of);
  MOECL_TRY(group_provide(group_context_of(layer, m), count * 4, &member->sources));
  return write_words(layer, m, layer->sources, count, after, member->sources, written);
}

/* Written, and the queue goes on behind it. */
moecl_status group_send_choices(group_run *run, int m) {
  moecl_context *context = group_context_of(run->layer, m);
  cl_event written[GROUP_CHOICES + 1] = {NULL};
  moecl_status status = write_sources(run, m, run->routed[m], &written[GROUP_CHOICES]);
  if (status == MOECL_OK && run->layer->group->ranks)
    status = write_choices(run, m, run->routed[m], written);
  for (int i = 0; i <= GROUP_CHOICES; i++) {
    if (status == MOECL_OK && written[i]) status = ocl_queue_after(context, &written[i], 1);
    ocl_event_let_go(&written[i]);
  }
  return status;
}

// SPDX-License-Identifier: MIT
/* A group's layer: a share on every member. */
#include "base/base.h"
#include "group/group.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- making ---- */

static moecl_status make_rows(moecl_context *context, const desc_format *format, int64_t columns,
                              op_rows *rows) {
  const op_rows_desc desc = {desc_format_bytes(format, 1, (uint64_t)columns)};
  const op_choice choice = {
      .kind = &op_rows_kind, .desc = &desc, .format = desc_format_of(MOECL_F32)};
  return op_choose(context, &choice, rows, NULL, NULL);
}

/* Tokens' rows on their way. */
static moecl_status make_hidden_rows(moecl_group_layer *layer, int m) {
  group_member *member = &layer->member[m];
  moecl_context *context = layer->group->device[m].context;
  const desc_format *stored = member->share->stored;
  const op_pack_desc desc = {layer->params.hidden_size, stored, layer->sent_codes};
  const op_choice choice = {.kind = &op_pack_kind, .desc = &desc, .format = stored};
  return layer->sent_codes
             ? op_choose(context, &choice, &member->hidden_pack, NULL, NULL)
             : make_rows(context, stored, layer->params.hidden_size, &member->hidden_rows);
}

static moecl_status make_copies(moecl_context *context, op_copies *copies) {
  const op_choice choice = {.kind = &op_copies_kind, .format = desc_format_of(MOECL_F32)};
  return op_choose(context, &choice, copies, NULL, NULL);
}

static uint64_t hidden_row_bytes(const moecl_group_layer *layer, const group_member *member) {
  return layer->sent_codes ? op_pack_row_bytes(layer->sent_codes, layer->params.hidden_size)
                           : member->hidden_rows.desc.row_bytes;
}

static moecl_status make_dispatch(moecl_group_layer *layer, int m) {
  const op_dispatch_desc desc = {.num_experts = layer->placement.num_experts,
                                 .top_k = layer->params.top_k,
                                 .members = layer->group->count,
                                 .me = m,
                                 .own = layer->placement.owned[m],
                                 .weighted = layer->params.weight_on_input,
                                 .placed = layer->member[m].share->scatters};
  const op_choice choice = {
      .kind = &op_dispatch_kind, .desc = &desc, .format = desc_format_of(MOECL_F32)};
  return op_choose(layer->group->device[m].context, &choice, &layer->member[m].dispatch, NULL,
                   NULL);
}

static moecl_status make_placement(moecl_group_layer *layer, int m) {
  moecl_context *context = layer->group->device[m].context;
  size_t count;
  int32_t *words = group_placement_words(&layer->placement, m, &count);
  if (!words) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const moecl_status status =
      ocl_buffer_filled(context, count * sizeof *words, words, &layer->member[m].placement);
  free(words);
  return status;
}

/* Nothing is ever put into the room of its one expert. */
static void need_no_experts(moecl_layer *share) {
  for (int t = MOECL_GATE_UP_PROJ; t <= MOECL_DOWN_BIAS; t++)
    share->missing -= layer_items(share, (moecl_tensor)t);
}

static void describe_member(const moecl_group_layer *layer, group_member *member) {
  const moecl_layer *share = member->share;
  group_trait *trait = &member->trait;
  *trait = (group_trait){.weight_bytes = moecl_layer_weight_bytes(share),
                         .roundoff = moecl_layer_roundoff(share),
                         .output_roundoff = moecl_layer_output_roundoff(share),
                         .hidden_row_bytes = hidden_row_bytes(layer, member),
                         .output_row_bytes = member->output_rows.desc.row_bytes,
                         .quantized = share->quantized != NULL,
                         .on_cpu = share->context->info.type == MOECL_DEVICE_CPU,
                         .scatters = share->scatters};
  snprintf(trait->outputs, sizeof trait->outputs, "%s", share->outputs->name);
  snprintf(trait->variant, sizeof trait->variant, "%s", share->variant[LAYER_GROUPED_GEMM]->name);
}

/* A member without experts has the room of one. */
static moecl_status make_member(moecl_group_layer *layer, const moecl_layer_params *params, int m,
                                bool f32_outputs) {
  moecl_context *context = layer->group->device[m].context;
  group_member *member = &layer->member[m];
  const int32_t own = layer->placement.owned[m];
  MOECL_TRY(layer_make_share(context, params, own ? own : 1, f32_outputs, &member->share));
  if (own == 0) need_no_experts(member->share);
  MOECL_TRY(make_copies(context, &member->copies));
  MOECL_TRY(make_hidden_rows(layer, m));
  MOECL_TRY(make_rows(context, member->share->outputs, params->hidden_size, &member->output_rows));
  MOECL_TRY(make_dispatch(layer, m));
  MOECL_TRY(make_placement(layer, m));
  describe_member(layer, member);
  return MOECL_OK;
}

static moecl_status make_members(moecl_group_layer *layer, const moecl_layer_params *params) {
  for (int m = layer->group->begin; m < layer->group->end; m++)
    MOECL_TRY(make_member(layer, params, m, false));
  return MOECL_OK;
}

static moecl_status check_params(const moecl_group *group, const moecl_group_layer_params *params) {
  char message[256];
  const moecl_log *log = group_log(group);
  if (!params) return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "group_layer: params is NULL");
  MOECL_TRY(log_check_reserved(log, "moecl_group_layer_params", params->reserved,
                               BASE_COUNT(params->reserved)));
  const moecl_status status = moecl_layer_params_check(&params->layer, message, sizeof message);
  if (status != MOECL_OK) return log_error(log, status, "group_layer: %s", message);
  if (params->layer.expert_cache != 0)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "group_layer: layer.expert_cache is %lld, expected 0: a member's experts are "
                     "on its device",
                     (long long)params->layer.expert_cache);
  if (params->chunks < 0 || params->chunks > MOECL_MAX_GROUP_CHUNKS)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "group_layer: %d chunks, expected 1 to %d, or 0 for as many as pay",
                     (int)params->chunks, MOECL_MAX_GROUP_CHUNKS);
  if (params->dispatch_format != MOECL_FORMAT_DTYPE &&
      params->dispatch_format != MOECL_FORMAT_FP8_G128)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "group_layer: dispatch_format is %d, expected MOECL_FORMAT_DTYPE or "
                     "MOECL_FORMAT_FP8_G128",
                     (int)params->dispatch_format);
  return MOECL_OK;
}

/* ---- all ranks ---- */

/* What all ranks have to ask for alike: others would wait for rows that nobody sends, or give
 * tokens another mathematics. Each number of the parameters but the variants' names. */
enum { WISH_NUMBERS = 48 };
typedef struct wish {
  double numbers[WISH_NUMBERS];
  char digest[40]; /* of who has which experts */
} wish;

static wish wish_of(const moecl_group_layer *layer, const char *digest) {
  const moecl_layer_params *p = &layer->params;
  wish wish = {.numbers = {(double)p->hidden_size,
                           (double)p->intermediate_size,
                           (double)p->num_experts,
                           (double)p->num_identity_experts,
                           (double)p->top_k,
                           p->dtype,
                           p->weight_format,
                           p->activation,
                           p->router_bias,
                           p->gate_up_bias,
                           p->down_bias,
                           p->swiglu_alpha,
                           p->swiglu_limit,
                           (double)p->shared_intermediate_size,
                           p->shared_gate,
                           p->shared_swiglu_limit,
                           p->shared_scaling_factor,
                           p->weight_on_input,
                           p->scoring,
                           p->score_after_topk,
                           p->sparsemixer_jitter,
                           p->renormalize,
                           p->renormalize_epsilon,
                           p->renormalize_minimum,
                           p->routed_scaling_factor,
                           p->score_correction_bias,
                           (double)p->num_expert_group,
                           (double)p->topk_group,
                           p->group_score,
                           p->cut_groups_to_zero,
                           p->second_choice,
                           p->router_noise,
                           p->jitter,
                           p->capacity_factor,
                           p->capacity_of_tokens,
                           (double)p->min_capacity,
                           p->drop_policy,
                           p->renormalize_after_capacity,
                           p->activation_format,
                           p->batch_invariant,
                           layer->asked_chunks,
                           layer->sent_codes ? 1 : 0}};
  snprintf(wish.digest, sizeof wish.digest, "%s", digest);
  return wish;
}

static moecl_status compare_wishes(const moecl_group_layer *layer, const wish *wishes) {
  const moecl_group *group = layer->group;
  for (int m = 1; m < group->count; m++)
    if (memcmp(&wishes[m], &wishes[0], sizeof *wishes) != 0)
      return log_error(group_log(group), MOECL_ERROR_INVALID_ARGUMENT,
                       "group_layer: rank %d asks for another layer, placement or chunks than rank "
                       "0; all ranks make the same layer",
                       group->device[m].rank);
  return MOECL_OK;
}

static moecl_status digest_placement(const moecl_group_layer *layer, char digest[33]) {
  size_t count;
  int32_t *words = group_placement_words(&layer->placement, 0, &count);
  if (!words)
    return log_error(group_log(layer->group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  base_hash_hex(words, count * sizeof *words, digest);
  free(words);
  return MOECL_OK;
}

static moecl_status check_wishes(const moecl_group_layer *layer, const char *digest) {
  const moecl_group *group = layer->group;
  wish wishes[MOECL_MAX_GROUP_MEMBERS];
  if (!group->ranks) return MOECL_OK;
  for (int m = group->begin; m < group->end; m++) wishes[m] = wish_of(layer, digest);
  MOECL_TRY(group_share(group, wishes, sizeof *wishes));
  return compare_wishes(layer, wishes);
}

static moecl_status share_traits(moecl_group_layer *layer) {
  group_trait traits[MOECL_MAX_GROUP_MEMBERS];
  const moecl_group *group = layer->group;
  for (int m = group->begin; m < group->end; m++) traits[m] = layer->member[m].trait;
  MOECL_TRY(group_share(group, traits, sizeof *traits));
  for (int m = 0; m < group->count; m++) layer->member[m].trait = traits[m];
  return MOECL_OK;
}

/* ---- what comes back is combined as it is: all members' outputs have one format ---- */

static bool are_alike(const moecl_group_layer *layer) {
  for (int m = 1; m < layer->group->count; m++)
    if (strcmp(layer->member[m].trait.outputs, layer->member[0].trait.outputs) != 0) return false;
  return true;
}

static void release_member(moecl_group *group, group_member *member);

/* Members whose variant would round outputs, where others' does not, are made once more. */
static moecl_status make_wide(moecl_group_layer *layer, const moecl_layer_params *params) {
  for (int m = layer->group->begin; m < layer->group->end; m++) {
    group_member *member = &layer->member[m];
    if (desc_is_f32(member->share->outputs)) continue;
    release_member(layer->group, member);
    *member = (group_member){.share = NULL};
    MOECL_TRY(make_member(layer, params, m, true));
  }
  return MOECL_OK;
}

static moecl_status place(moecl_group_layer *layer, const moecl_group_layer_params *params,
                          char digest[33]) {
  MOECL_TRY(check_params(layer->group, params));
  layer->params = params->layer;
  layer->params.grouped_gemm_variant = layer->params.router_variant = NULL;
  layer->asked_chunks = params->chunks;
  if (params->dispatch_format != MOECL_FORMAT_DTYPE)
    layer->sent_codes = &desc_formats[params->dispatch_format];
  MOECL_TRY(group_place(layer->group, params, &layer->placement));
  return digest_placement(layer, digest);
}

static moecl_status agree(const moecl_group_layer *layer, moecl_status status) {
  return ranks_agree(layer->group->ranks, status, "group_layer");
}

static moecl_status make(moecl_group_layer *layer, const moecl_group_layer_params *params) {
  char digest[33];
  MOECL_TRY(agree(layer, place(layer, params, digest)));
  MOECL_TRY(agree(layer, check_wishes(layer, digest)));
  MOECL_TRY(agree(layer, make_members(layer, &params->layer)));
  MOECL_TRY(agree(layer, share_traits(layer)));
  if (are_alike(layer)) return MOECL_OK;
  MOECL_TRY(agree(layer, make_wide(layer, &params->layer)));
  return agree(layer, share_traits(layer));
}

moecl_status moecl_group_layer_create(moecl_group *group, const moecl_group_layer_params *params,
                                      moecl_group_layer **out) {
  if (out) *out = NULL;
  if (!group) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_group_layer *layer = calloc(1, sizeof *layer);
  if (!out || !layer) { /* others hear of it where they agree first */
    free(layer);
    return ranks_agree(
        group->ranks,
        out ? log_error(group_log(group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory")
            : MOECL_ERROR_INVALID_ARGUMENT,
        "group_layer");
  }
  layer->group = group_retain(group);
  const moecl_status status = make(layer, params);
  if (status != MOECL_OK) moecl_group_layer_destroy(&layer);
  *out = layer;
  return status;
}

/* Of members of other processes, too, which have nothing else here. */
static void release_arrivals(moecl_group *group, group_member *member) {
  group_discard_arrivals(group, &member->received);
  group_discard_arrivals(group, &member->returned);
}

static void release_member(moecl_group *group, group_member *member) {
  moecl_buffer **const sources[] = {&member->topk_ids, &member->topk_weights,
                                    &member->token_priority, &member->sent, &member->given};
  moecl_buffer **const buffers[] = {
      &member->placement,    &member->sources,      &member->kept_weights, &member->unpacked,
      &member->workspace[0], &member->workspace[1], &member->workspace[2]};
  release_arrivals(group, member);
  for (size_t i = 0; i < BASE_COUNT(sources); i++) group_discard_arrivals(group, sources[i]);
  for (int i = 0; i < GROUP_PLANS; i++) plan_space_release(&member->space[i]);
  for (size_t i = 0; i < BASE_COUNT(buffers); i++) moecl_buffer_destroy(buffers[i]);
  op_dispatch_kind.release(&member->dispatch);
  op_copies_kind.release(&member->copies);
  op_rows_kind.release(&member->hidden_rows);
  op_pack_kind.release(&member->hidden_pack);
  op_rows_kind.release(&member->output_rows);
  plan_watch_release(&member->watch);
  moecl_layer_destroy(&member->share);
}

void moecl_group_layer_destroy(moecl_group_layer **handle) {
  if (!handle || !*handle) return;
  moecl_group_layer *layer = *handle;
  *handle = NULL;
  if (group_is_forked(layer->group)) return;
  layer->group->transport->settle(layer->group->state);
  for (int m = layer->group->begin; m < layer->group->end; m++)
    release_member(layer->group, &layer->member[m]);
  for (int m = 0; m < layer->group->count; m++) release_arrivals(layer->group, &layer->member[m]);
  group_placement_release(&layer->placement);
  free(layer->topk_ids);
  free(layer->topk_weights);
  free(layer->token_priority);
  free(layer->sources);
  free(layer->starts);
  free(layer->sums);
  moecl_group_destroy(&layer->group);
  free(layer);
}

/* ---- questions ---- */

static const group_member *member_of(const moecl_group_layer *layer, size_t member) {
  return layer && member < (size_t)layer->group->count ? &layer->member[member] : NULL;
}

static const moecl_layer *share_of(const moecl_group_layer *layer, size_t member) {
  return member_of(layer, member) ? layer->member[member].share : NULL;
}

size_t moecl_group_layer_experts(const moecl_group_layer *layer, size_t member, int32_t *experts,
                                 size_t capacity) {
  if (!member_of(layer, member)) return 0;
  const group_placement *p = &layer->placement;
  for (int32_t e = 0; experts && e < p->num_experts; e++)
    for (int32_t c = p->first[e]; c < p->first[e + 1]; c++)
      if (p->member[c] == (int32_t)member && (size_t)p->place[c] < capacity)
        experts[p->place[c]] = e;
  return (size_t)p->owned[member];
}

const char *moecl_group_layer_variant(const moecl_group_layer *layer, size_t member,
                                      const char *operation, const char **reason) {
  return moecl_layer_variant(share_of(layer, member), operation, reason);
}

uint64_t moecl_group_layer_weight_bytes(const moecl_group_layer *layer, size_t member) {
  const group_member *of = member_of(layer, member);
  return of ? of->trait.weight_bytes : 0;
}

double moecl_group_layer_roundoff(const moecl_group_layer *layer, size_t member) {
  const group_member *of = member_of(layer, member);
  return of ? of->trait.roundoff : 0;
}

double moecl_group_layer_output_roundoff(const moecl_group_layer *layer, size_t member) {
  const group_member *of = member_of(layer, member);
  return of ? of->trait.output_roundoff : 0;
}

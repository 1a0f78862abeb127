/* What is known of a program before it runs. */
#include "program.h"

#include <math.h>
#include <string.h>

pfo_batch pfo_batch_of(const pfo_loss_call *call)
{
    pfo_batch batch;
    memset(&batch, 0, sizeof batch);
    batch.loss = call->row->id;
    batch.program = call->row->program;
    batch.size = call->size;
    batch.width = call->width;
    batch.params = call->params;
    for (int k = 0; k < PFO_LOSS_MAX_INPUTS && call->row->inputs[k].name; k++) {
        const pfo_loss_input_info *info = &call->row->inputs[k];
        batch.taken[batch.input_count++] = (pfo_batch_input){info->field, info->type, info->absent};
        if (call->inputs[info->field]) batch.counts[info->field] = pfo_loss_elements(call->inputs[info->field]);
    }
    if (isnan(batch.params.epsilon_high)) batch.params.epsilon_high = batch.params.epsilon;
    return batch;
}

const char *pfo_bad_name(int field)
{
    static const char *const names[] = {
#define PFO_FIELD(name, type, meaning) #name,
        PFO_LOSS_INPUT_FIELDS(PFO_FIELD)
#undef PFO_FIELD
            [PFO_BAD_GRAD_LOSSES] = "grad_losses"};
    return names[field];
}

/* ---- combinations ------------------------------------------------------------------------------------------------ */

static pfo_status check_nll(const pfo_batch *batch, int nll_field, const char *nll_name, int lengths_field,
                            const char *lengths_name, int lengths_have_other_uses, pfo_error *error)
{
    int has_lengths = batch->inputs[lengths_field] != NULL;
    int has_tokens = !isnan(batch->params.nll_tokens);
    if (batch->inputs[nll_field]) {
        if (has_lengths || has_tokens) return PFO_OK;
        return pfo_fail(error, PFO_ERROR_MISSING, "nll_tokens", -1,
                        "%s needs nll_tokens or %s to be averaged over, got neither", nll_name, lengths_name);
    }
    if (has_tokens) return pfo_fail(error, PFO_ERROR_MISSING, "nll_tokens", -1, "expected with %s only", nll_name);
    if (has_lengths && !lengths_have_other_uses) {
        return pfo_fail(error, PFO_ERROR_MISSING, lengths_name, -1, "expected with %s only", nll_name);
    }
    return PFO_OK;
}

static pfo_status check_chosen_nll(const pfo_batch *batch, pfo_error *error)
{
    int others = pfo_loss_info(batch->loss)->tokens == PFO_TOKENS_LENGTHS || batch->loss == (int)PFO_LOSS_arpo_sigmoid;
    return check_nll(batch, PFO_FIELD_chosen_nll, "chosen_nll", PFO_FIELD_chosen_lengths, "chosen_lengths", others,
                     error);
}

static pfo_status check_some_tokens(const pfo_batch *batch, int lengths_field, const char *name, pfo_error *error)
{
    if (batch->inputs[lengths_field] || !isnan(batch->params.nll_tokens)) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_MISSING, name, -1, "expected %s or nll_tokens, got neither", name);
}

static pfo_status check_room(const pfo_batch *batch, int field, const char *name, pfo_error *error)
{
    int64_t offset = (int64_t)batch->params.gather_offset;
    if (offset <= batch->counts[field] - batch->size) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_SHAPE, name, -1, "expected at least gather_offset + B = %lld values, got %lld",
                    (long long)(offset + batch->size), (long long)batch->counts[field]);
}

static pfo_status check_samples(const pfo_batch *batch, int first, const char *first_name, int second,
                                const char *second_name, pfo_error *error)
{
    int has_first = batch->inputs[first] != NULL, has_second = batch->inputs[second] != NULL;
    if (has_first != has_second) {
        return pfo_fail(error, PFO_ERROR_MISSING, has_first ? second_name : first_name, -1,
                        "expected both samples or none");
    }
    if (!has_first) {
        if (batch->params.gather_offset == 0) return PFO_OK;
        return pfo_fail(error, PFO_ERROR_MISSING, first_name, -1, "gather_offset needs the gathered log-ratios");
    }
    if (batch->params.gather_offset != floor(batch->params.gather_offset)) {
        return pfo_fail(error, PFO_ERROR_VALUE, "gather_offset", -1, "expected a whole number, got %g",
                        batch->params.gather_offset);
    }
    if (batch->counts[first] != batch->counts[second]) {
        return pfo_fail(error, PFO_ERROR_SHAPE, second_name, -1, "expected shape [%lld] like %s, got [%lld]",
                        (long long)batch->counts[first], first_name, (long long)batch->counts[second]);
    }
    pfo_status status = check_room(batch, first, first_name, error);
    return status == PFO_OK ? check_room(batch, second, second_name, error) : status;
}

static pfo_status check_group(const pfo_batch *batch, pfo_error *error)
{
    if (!(batch->params.kl_beta > 0) || batch->inputs[PFO_FIELD_ref_token_logps]) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_MISSING, "ref_token_logps", -1, "kl_beta > 0 needs the reference");
}

static pfo_status check_beta_state(const pfo_batch *batch, pfo_error *error)
{
    int has_mean = batch->inputs[PFO_FIELD_state_mean] != NULL, has_std = batch->inputs[PFO_FIELD_state_std] != NULL;
    if (has_mean == has_std) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_MISSING, has_mean ? "state_std" : "state_mean", -1,
                    "expected state_mean and state_std, or neither for the first batch");
}

static pfo_status check_beta_keep(const pfo_batch *batch, pfo_error *error)
{
    if (batch->counts[PFO_FIELD_uniforms] >= batch->size) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_SHAPE, "uniforms", -1, "expected at least %lld numbers, got %lld",
                    (long long)batch->size, (long long)batch->counts[PFO_FIELD_uniforms]);
}

static pfo_status check_rso(const pfo_batch *batch, pfo_error *error)
{
    double wanted = batch->params.num_samples;
    if (isnan(wanted) || (wanted <= (double)batch->size && wanted == floor(wanted))) return PFO_OK;
    return pfo_fail(error, PFO_ERROR_VALUE, "num_samples", -1, "expected a whole number up to %lld, got %g",
                    (long long)batch->size, wanted);
}

pfo_status pfo_program_check(const pfo_batch *batch, pfo_error *error)
{
    switch (batch->program) {
    case PFO_PROGRAM_CHOSEN_NLL: return check_chosen_nll(batch, error);
    case PFO_PROGRAM_GOLD_NLL:
        return check_nll(batch, PFO_FIELD_gold_nll, "gold_nll", PFO_FIELD_gold_lengths, "gold_lengths", 0, error);
    case PFO_PROGRAM_TOKEN_MEAN: return check_some_tokens(batch, PFO_FIELD_lengths, "lengths", error);
    case PFO_PROGRAM_CHOSEN_TOKEN_MEAN:
        return check_some_tokens(batch, PFO_FIELD_chosen_lengths, "chosen_lengths", error);
    case PFO_PROGRAM_AOT:
        return check_samples(batch, PFO_FIELD_gathered_policy_logratios, "gathered_policy_logratios",
                             PFO_FIELD_gathered_ref_logratios, "gathered_ref_logratios", error);
    case PFO_PROGRAM_AOT_UNPAIRED:
        return check_samples(batch, PFO_FIELD_gathered_chosen_logratios, "gathered_chosen_logratios",
                             PFO_FIELD_gathered_rejected_logratios, "gathered_rejected_logratios", error);
    case PFO_PROGRAM_TOKENS:
    case PFO_PROGRAM_SEQUENCE_MEAN:
    case PFO_PROGRAM_FIXED_LENGTH:
    case PFO_PROGRAM_SEQUENCE_RATIO: return check_group(batch, error);
    case PFO_PROGRAM_BETA_STATE: return check_beta_state(batch, error);
    case PFO_PROGRAM_BETA_KEEP: return check_beta_keep(batch, error);
    case PFO_PROGRAM_RSO: return check_rso(batch, error);
    default: return PFO_OK;
    }
}

/* ---- shape and scratch ------------------------------------------------------------------------------------------- */

enum pfo_program_shape pfo_program_shape_of(const pfo_batch *batch)
{
    static const enum pfo_program_shape shapes[PFO_PROGRAM_COUNT] = {
#define PROGRAM(name, shape, ...) [PFO_PROGRAM_##name] = PFO_SHAPE_##shape,
#include "program_list.h"
    };
    return shapes[batch->program];
}

/* Values of each of the two samples of AOT: the gathered ones, or the batch's own. */
static int64_t sample_count(const pfo_batch *batch)
{
    int is_paired = batch->program == PFO_PROGRAM_AOT;
    int64_t gathered =
        batch->counts[is_paired ? PFO_FIELD_gathered_policy_logratios : PFO_FIELD_gathered_chosen_logratios];
    return gathered > 0 ? gathered : batch->size;
}

int64_t pfo_program_work_bytes(const pfo_batch *batch)
{
    const int64_t pair = (int64_t)(sizeof(pfo_ranked) + sizeof(int64_t));
    switch (batch->program) {
    case PFO_PROGRAM_AOT:
    case PFO_PROGRAM_AOT_UNPAIRED: return 2 * pair * sample_count(batch);
    case PFO_PROGRAM_BETA_KEEP: return (int64_t)sizeof(pfo_ranked) * batch->size;
    case PFO_PROGRAM_SAMPO_INDICES: return (int64_t)sizeof(pfo_ranked) * batch->width;
    default: return 0;
    }
}

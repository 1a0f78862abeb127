/* The descriptor table: loss_list.h as data, for C callers, for Python and for the docs. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "../prefopt.h"
#include "field_list.h"
#include "loss_table.h"

enum input_types {
#define PFO_FIELD(name, type, meaning) TYPE_OF_##name = PFO_INPUT_##type,
    PFO_LOSS_INPUT_FIELDS(PFO_FIELD)
#undef PFO_FIELD
};

/* The meanings by name, in a form whose addresses are constants. */
static const struct {
#define PFO_FIELD(name, type, meaning) char name[sizeof meaning];
    PFO_LOSS_INPUT_FIELDS(PFO_FIELD)
#undef PFO_FIELD
} input_meanings = {
#define PFO_FIELD(name, type, meaning) meaning,
    PFO_LOSS_INPUT_FIELDS(PFO_FIELD)
#undef PFO_FIELD
};

static const struct {
#define PFO_FIELD(name, meaning, choices) char name[sizeof meaning];
    PFO_LOSS_PARAM_FIELDS(PFO_FIELD)
#undef PFO_FIELD
} param_meanings = {
#define PFO_FIELD(name, meaning, choices) meaning,
    PFO_LOSS_PARAM_FIELDS(PFO_FIELD)
#undef PFO_FIELD
};

static const struct {
#define PFO_FIELD(name, meaning, choices) char name[sizeof choices];
    PFO_LOSS_PARAM_FIELDS(PFO_FIELD)
#undef PFO_FIELD
} param_choices = {
#define PFO_FIELD(name, meaning, choices) choices,
    PFO_LOSS_PARAM_FIELDS(PFO_FIELD)
#undef PFO_FIELD
};

enum output_shapes {
#define PFO_FIELD(name, shape) SHAPE_OF_##name = PFO_OUTPUT_##shape,
    PFO_LOSS_REWARD_FIELDS(PFO_FIELD)
#undef PFO_FIELD
};

#define PFO_NO_DEFAULT NAN

#define INPUT(name, differentiable, optional, absent) \
    {#name, PFO_FIELD_##name, TYPE_OF_##name, differentiable, optional, absent, input_meanings.name}
#define GRAD(name) INPUT(name, 1, 0, NAN)
#define FIXED(name) INPUT(name, 0, 0, NAN)
#define GRAD_OR(name, absent) INPUT(name, 1, 1, absent)
#define FIXED_OR(name, absent) INPUT(name, 0, 1, absent)
#define INPUTS(...) {__VA_ARGS__}

/* Each end of a range is two initialisers: the bound, and 1 if the bound itself is outside. */
#define ABOVE(bound) bound, 1
#define FROM(bound) bound, 0
#define BELOW(bound) bound, 1
#define UP_TO(bound) bound, 0
#define REAL(name, value, low, high) \
    {#name, PFO_PARAM_##name, value, param_choices.name, low, high, param_meanings.name}
#define CHOICE(name, value) REAL(name, value, FROM(0), UP_TO(INFINITY))
#define NO_PARAM {NULL, 0, NAN, NULL, FROM(0), FROM(0), NULL}
#define PARAMS(...) {__VA_ARGS__}

#define REWARD(name) {#name, PFO_REWARD_##name, SHAPE_OF_##name}
#define NO_OUTPUT {NULL, 0, 0}
#define OUTPUTS(...) {__VA_ARGS__}

#define STATE(text) text
#define FORMULA(text) text
#define KINK(text) text
#define SOURCE(text) text

static const pfo_loss_row rows[] = {
#define LOSS(family, variant, kind, tokens, program, inputs, params, rewards, state, formula, kink, source) \
    {#family "." #variant,                                                                                  \
     PFO_LOSS_##family##_##variant,                                                                         \
     PFO_KIND_##kind,                                                                                       \
     PFO_TOKENS_##tokens,                                                                                   \
     PFO_PROGRAM_##program,                                                                                 \
     inputs,                                                                                                \
     params,                                                                                                \
     rewards,                                                                                               \
     state,                                                                                                 \
     formula,                                                                                               \
     kink,                                                                                                  \
     source},
#include "loss_list.h"
};

int pfo_loss_count(void) { return PFO_LOSS_COUNT; }

const pfo_loss_row *pfo_loss_info(int row) { return row >= 0 && row < PFO_LOSS_COUNT ? &rows[row] : NULL; }

int pfo_loss_is_tokenwise(const pfo_loss_row *row) { return row->program == PFO_PROGRAM_TOKENWISE; }

const pfo_loss_row *pfo_loss_find(const char *name)
{
    for (int row = 0; name && row < PFO_LOSS_COUNT; row++) {
        if (strcmp(rows[row].name, name) == 0) return &rows[row];
    }
    return NULL;
}

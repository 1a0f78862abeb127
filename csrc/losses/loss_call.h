/* One call of pfo_loss, resolved: loss_check.c fills it from the caller's names, ops/loss.c runs it. */
#ifndef PFO_LOSS_CALL_H
#define PFO_LOSS_CALL_H

#include "../core/core.h"
#include "formulas_f64.h"

/* Fields are addressed by number where a row names them: each record is an array of doubles under its names. */
#define PFO_LOSS_FIELD(record, number) (((double *)&(record))[number])
_Static_assert(sizeof(pfo_loss_inputs_f64) == PFO_INPUT_FIELD_COUNT * sizeof(double), "inputs are doubles only");
_Static_assert(sizeof(pfo_loss_params_f64) == PFO_PARAM_FIELD_COUNT * sizeof(double), "params are doubles only");
_Static_assert(sizeof(pfo_loss_rewards_f64) == PFO_REWARD_FIELD_COUNT * sizeof(double), "rewards are doubles only");

#define PFO_LOSS_MAX_OUTPUTS (1 + PFO_LOSS_MAX_REWARDS + PFO_LOSS_MAX_INPUTS)

/* A [B] output: the caller's view and the scratch column that is rounded into it. */
typedef struct pfo_loss_output {
    const char *name;
    const pfo_view *view;
    double *column; /* [B] */
} pfo_loss_output;

/* The batch as columns of doubles. */
typedef struct pfo_batch {
    int64_t size;                                /* B */
    const double *inputs[PFO_INPUT_FIELD_COUNT]; /* [B] ([1] for a SCALAR), NULL for an absent input */
    double *grads[PFO_INPUT_FIELD_COUNT];        /* [B], NULL where not asked for */
    pfo_loss_params_f64 params;
} pfo_batch;

typedef struct pfo_loss_call {
    const pfo_loss_row *row;
    int64_t size;                                  /* B, -1 until the first array has told */
    const char *size_from;                         /* the name of that array */
    pfo_loss_params_f64 params;                    /* all of the row's set, NaN for "made from the inputs" */
    const pfo_view *inputs[PFO_INPUT_FIELD_COUNT]; /* by field, NULL for absent */
    const pfo_view *grad_losses;                   /* [B], NULL for ones */
    pfo_loss_output outputs[PFO_LOSS_MAX_OUTPUTS]; /* the losses first, then what else was asked for */
    int output_count;
    int reward_output[PFO_REWARD_FIELD_COUNT]; /* position in outputs, 0 where not asked for */
    int grad_output[PFO_INPUT_FIELD_COUNT];    /* likewise */
} pfo_loss_call;

/* Checks names, dtypes, shapes, ranges and overlaps; values of arrays are checked when they are read. */
pfo_status pfo_loss_resolve(pfo_loss_call *call, const pfo_loss_args *args, pfo_error *error);

/* Reads one input into a column of doubles; counts must be finite and >= 0, flags 0 or 1. */
pfo_status pfo_loss_read(const pfo_loss_input_info *info, const pfo_view *view, double *column, pfo_error *error);

#endif

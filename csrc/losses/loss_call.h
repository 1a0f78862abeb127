/* One call of pfo_loss, resolved: loss_check.c fills it from the caller's names, ops/loss.c runs it. */
#ifndef PFO_LOSS_CALL_H
#define PFO_LOSS_CALL_H

#include "../core/core.h"
#include "batch.h"

#define PFO_LOSS_MAX_OUTPUTS (1 + PFO_LOSS_MAX_REWARDS + PFO_LOSS_MAX_INPUTS)

/* An output: the caller's view and the scratch column that is rounded into it. */
typedef struct pfo_loss_output {
    const char *name;
    const pfo_view *view;
    double *column; /* as many as the view has elements, row by row */
} pfo_loss_output;

typedef struct pfo_loss_call {
    const pfo_loss_row *row;
    int64_t size;                                  /* B, -1 until the first array has told */
    const char *size_from;                         /* the name of that array */
    int64_t width;                                 /* T, likewise */
    const char *width_from;                        /* likewise */
    pfo_loss_params_f64 params;                    /* all of the row's set, NaN for "made from the inputs" */
    const pfo_view *inputs[PFO_INPUT_FIELD_COUNT]; /* by field, NULL for absent */
    const pfo_view *grad_losses;                   /* like losses, NULL for ones */
    pfo_loss_output outputs[PFO_LOSS_MAX_OUTPUTS]; /* the losses first, then what else was asked for */
    int output_count;
    int reward_output[PFO_REWARD_FIELD_COUNT]; /* 1 + position in outputs, 0 where not asked for */
    int grad_output[PFO_INPUT_FIELD_COUNT];    /* likewise */
} pfo_loss_call;

/* Checks names, dtypes, shapes, ranges and overlaps; values of arrays are checked when they are read. */
pfo_status pfo_loss_resolve(pfo_loss_call *call, const pfo_loss_args *args, pfo_error *error);

/* Elements of a view of 0, 1 or 2 dimensions. */
int64_t pfo_loss_elements(const pfo_view *view);

/* Reads one input into a column of doubles; counts must be finite and >= 0, flags and masks 0 or 1. */
pfo_status pfo_loss_read(const pfo_loss_input_info *info, const pfo_view *view, double *column, pfo_error *error);

#endif

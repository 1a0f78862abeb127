/* A batch of one loss as its program sees it: columns of doubles, in the memory of whoever runs it.  Common to C11 and
 * CUDA. */
#ifndef PFO_BATCH_H
#define PFO_BATCH_H

#include "../prefopt.h"
#include "formulas_f64.h"

/* Fields are addressed by number where a row names them: each record is an array of doubles under its names. */
#define PFO_LOSS_FIELD(record, number) (((double *)&(record))[number])

/* Who takes part in a program where many threads run it; on the CPU one thread does all. */
enum pfo_program_shape {
    PFO_SHAPE_ELEMENTS, /* every element by itself: the threads of all blocks */
    PFO_SHAPE_ROWS,     /* every row of tokens by itself: a block a row */
    PFO_SHAPE_COUPLED   /* elements know of each other: one block */
};

typedef struct pfo_batch_input {
    int32_t field, type; /* of field_list.h, pfo_loss_input_type */
    double absent;       /* what an absent one counts as */
} pfo_batch_input;

/* What a bad value belongs to: the field of an input, or this. */
enum {
    PFO_BAD_GRAD_LOSSES = PFO_INPUT_FIELD_COUNT
};

/* A value to sort, and where it was. */
typedef struct pfo_ranked {
    double value;
    int64_t index;
} pfo_ranked;

/* Columns are [B] of a REAL, COUNT or FLAG, [1] of a SCALAR, [B, T] of TOKENS and a MASK, [B, K] of INDICES, [N] of
 * GATHERED; NULL for what is absent or not asked for. */
typedef struct pfo_batch {
    int32_t loss, program, input_count;
    pfo_batch_input taken[PFO_LOSS_MAX_INPUTS]; /* every input of the row */
    int64_t size;                               /* B */
    int64_t width;                              /* T, 0 without token inputs */
    const double *inputs[PFO_INPUT_FIELD_COUNT];
    int64_t counts[PFO_INPUT_FIELD_COUNT]; /* elements of each input */
    double *grads[PFO_INPUT_FIELD_COUNT];
    double *losses;            /* NULL for a procedure */
    const double *grad_losses; /* like losses, NULL for ones */
    double *rewards[PFO_REWARD_FIELD_COUNT];
    pfo_loss_params_f64 params;
    void *work; /* pfo_program_work_bytes: what a program keeps between its steps */
} pfo_batch;

#endif

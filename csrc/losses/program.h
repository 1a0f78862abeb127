/* What is known of a program before it runs: its shape, its scratch memory, and which combinations of inputs and
 * parameters it cannot work from. */
#ifndef PFO_PROGRAM_H
#define PFO_PROGRAM_H

#include "../core/core.h"
#include "batch.h"
#include "loss_call.h"

/* The batch of a call without its columns: numbers, sizes, parameters, and for each input that is there a count. */
pfo_batch pfo_batch_of(const pfo_loss_call *call);

/* Refuses what can be refused without a look at a value; batch->inputs are NULL or not, no more. */
pfo_status pfo_program_check(const pfo_batch *batch, pfo_error *error);

enum pfo_program_shape pfo_program_shape_of(const pfo_batch *batch);

/* The name of an input field, or of PFO_BAD_GRAD_LOSSES. */
const char *pfo_bad_name(int field);

/* Bytes of batch->work, for each block of a program over rows; 0 is possible. */
int64_t pfo_program_work_bytes(const pfo_batch *batch);

#endif

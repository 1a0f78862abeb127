/* Numbers for the losses and their programs; the descriptor table is in loss_table.c. */
#ifndef PFO_LOSS_TABLE_H
#define PFO_LOSS_TABLE_H

enum pfo_loss_id {
#define LOSS(family, variant, ...) PFO_LOSS_##family##_##variant,
#include "loss_list.h"
    PFO_LOSS_COUNT
};

/* How the elements of a call are put together; programs.inc has the functions of each. */
enum pfo_loss_program {
#define PROGRAM(name, ...) PFO_PROGRAM_##name,
#include "program_list.h"
    PFO_PROGRAM_COUNT
};

#endif

/* Numbers for the losses and their couplings; the descriptor table is in loss_table.c. */
#ifndef PFO_LOSS_TABLE_H
#define PFO_LOSS_TABLE_H

enum pfo_loss_id {
#define LOSS(family, variant, ...) PFO_LOSS_##family##_##variant,
#include "loss_list.h"
    PFO_LOSS_COUNT
};

/* How the losses of one batch depend on each other; batch.inc has the functions of each. */
enum pfo_loss_coupling {
    PFO_COUPLING_NONE,
    PFO_COUPLING_CHOSEN_NLL, /* chosen_nll_mean = sum(chosen_nll) / nll_tokens */
    PFO_COUPLING_TOKEN_MEAN, /* batch_per_token = B / nll_tokens */
    PFO_COUPLING_COUNT
};

#endif

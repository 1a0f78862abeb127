/* The list that Python registers. */
#include "handlers.h"

#include <stddef.h>

const pfo_ffi_handler pfo_ffi_handlers[] = {
    {"prefopt_token_logps", pfo_ffi_token_logps},
    {"prefopt_token_logps_grad", pfo_ffi_token_logps_grad},
    {"prefopt_pair_token_stats", pfo_ffi_pair_token_stats},
    {"prefopt_pair_token_stats_grad", pfo_ffi_pair_token_stats_grad},
    {"prefopt_linear_token_logps", pfo_ffi_linear_token_logps},
    {"prefopt_linear_token_logps_grad", pfo_ffi_linear_token_logps_grad},
    {"prefopt_sequence_logps", pfo_ffi_sequence_logps},
    {"prefopt_sequence_logps_grad", pfo_ffi_sequence_logps_grad},
    {"prefopt_kto_kl", pfo_ffi_kto_kl},
    {"prefopt_scaled_rewards", pfo_ffi_scaled_rewards},
    {"prefopt_loss", pfo_ffi_loss},
    {"prefopt_weighted_sum", pfo_ffi_weighted_sum},
    {NULL, NULL},
};

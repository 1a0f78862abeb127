/* How the elements of one call are put together.  Include this file with
 *
 *     PROGRAM(name, shape, validate, prepare, run, scatter)
 *
 * defined; it is undefined at the end.  shape: the part of pfo_program_shape after PFO_SHAPE_.  The others are
 * functions of programs.inc and its parts, without the word and the underscore that their names begin with: sampo under
 * validate is validate_sampo. */
PROGRAM(NONE, ELEMENTS, nothing, nothing, rows, nothing)
PROGRAM(CHOSEN_NLL, COUPLED, nothing, chosen_nll, rows, chosen_nll) /* chosen_nll_mean = sum(chosen_nll) / nll_tokens */
PROGRAM(GOLD_NLL, COUPLED, nothing, gold_nll, rows, gold_nll)       /* gold_nll_mean = sum(gold_nll) / nll_tokens */
PROGRAM(TOKEN_MEAN, COUPLED, nothing, token_mean, rows, nothing)    /* batch_per_token = B / nll_tokens, lengths */
PROGRAM(CHOSEN_TOKEN_MEAN, COUPLED, nothing, chosen_token_mean, rows, nothing) /* the same, chosen_lengths */
PROGRAM(KTO_PAIR, COUPLED, nothing, kto_pair, rows, nothing)                   /* the two halves' reference points */
PROGRAM(BETA_DPO, COUPLED, nothing, beta_dpo, rows, nothing) /* one beta for the batch, the share of kept pairs */
PROGRAM(AOT, COUPLED, aot, aot, aot, nothing)                /* each log-ratio's partner in the other sorted sample */
PROGRAM(AOT_UNPAIRED, COUPLED, aot_unpaired, aot_unpaired, aot_unpaired, nothing)
PROGRAM(SAMPO, ROWS, sampo, nothing, sampo, nothing)            /* sums over sampled tokens, then the formula */
PROGRAM(TOKENWISE, ROWS, nothing, nothing, tokenwise, nothing)  /* the formula once a token; losses are [B, T] */
PROGRAM(TOKENS, ROWS, nothing, nothing, tokens, nothing)        /* once a token, summed with weight B / num_tokens */
PROGRAM(SEQUENCE_MEAN, ROWS, nothing, nothing, tokens, nothing) /* once a token, averaged over the row */
PROGRAM(FIXED_LENGTH, ROWS, nothing, nothing, tokens, nothing)  /* the same with weight 1 / max_completion_length */
PROGRAM(SEQUENCE_RATIO, ROWS, nothing, nothing, sequence_ratio, nothing) /* one ratio a row, GSPO */
PROGRAM(BCO_DELTA, COUPLED, bco_delta, nothing, bco_delta, nothing)      /* from here on procedures: no losses */
PROGRAM(BETA_STATE, COUPLED, nothing, nothing, beta_state, nothing)
PROGRAM(BETA_KEEP, COUPLED, beta_keep, nothing, beta_keep, nothing)
PROGRAM(EPS_BETA, COUPLED, nothing, nothing, eps_beta, nothing)
PROGRAM(SAMPO_INDICES, ROWS, nothing, nothing, sampo_indices, nothing)
PROGRAM(RSO, COUPLED, rso, nothing, rso, nothing)
PROGRAM(GAE, ELEMENTS, nothing, nothing, gae, nothing)
#undef PROGRAM

/* How the elements of one call are put together.  Include this file with PROGRAM defined; it is undefined at the end.
 * NONE runs the formula once a row of the batch; the others are functions of programs.inc and its parts. */
PROGRAM(NONE)
PROGRAM(CHOSEN_NLL)        /* chosen_nll_mean = sum(chosen_nll) / nll_tokens */
PROGRAM(GOLD_NLL)          /* gold_nll_mean = sum(gold_nll) / nll_tokens */
PROGRAM(TOKEN_MEAN)        /* batch_per_token = B / nll_tokens, lengths */
PROGRAM(CHOSEN_TOKEN_MEAN) /* the same, chosen_lengths */
PROGRAM(KTO_PAIR)          /* the two halves' reference points */
PROGRAM(BETA_DPO)          /* one beta for the batch, the share of kept pairs */
PROGRAM(AOT)               /* each log-ratio's partner in the other sorted sample */
PROGRAM(AOT_UNPAIRED)
PROGRAM(SAMPO)          /* sums over sampled tokens, then the formula */
PROGRAM(TOKENWISE)      /* the formula once a token; losses are [B, T] */
PROGRAM(TOKENS)         /* once a token, summed with weight B / num_tokens */
PROGRAM(SEQUENCE_MEAN)  /* once a token, averaged over the row */
PROGRAM(FIXED_LENGTH)   /* once a token, summed with weight 1 / max_completion_length */
PROGRAM(SEQUENCE_RATIO) /* one ratio a row, GSPO */
PROGRAM(BCO_DELTA)      /* from here on procedures: no losses, named outputs */
PROGRAM(BETA_STATE)
PROGRAM(BETA_KEEP)
PROGRAM(EPS_BETA)
PROGRAM(SAMPO_INDICES)
PROGRAM(RSO)
PROGRAM(GAE)
#undef PROGRAM

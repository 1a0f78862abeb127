/* Preference losses: part of prefopt.h, which includes this file.
 *
 * A loss is one row of loss_list.h: its inputs, parameters with range and default, rewards and source.  Callers name
 * the loss ("dpo.sigmoid") and its inputs and parameters; pfo_loss_info() says what there is.
 *
 * Example (C):
 *     float chosen[2] = {-10, -12}, rejected[2] = {-11, -10}, ref_chosen[2] = {-11, -12}, ref_rejected[2] = {-11, -11};
 *     float losses[2], grad[2];
 *     pfo_named_view inputs[] = {{"policy_chosen_logps", pfo_view_1d(chosen, PFO_F32, 2)},
 *                                {"policy_rejected_logps", pfo_view_1d(rejected, PFO_F32, 2)},
 *                                {"ref_chosen_logps", pfo_view_1d(ref_chosen, PFO_F32, 2)},
 *                                {"ref_rejected_logps", pfo_view_1d(ref_rejected, PFO_F32, 2)}};
 *     pfo_named_value params[] = {{"beta", 0.3}};
 *     pfo_named_view grads[] = {{"policy_chosen_logps", pfo_view_1d(grad, PFO_F32, 2)}};
 *     pfo_loss_args args = {.loss = "dpo.sigmoid", .inputs = inputs, .input_count = 4, .params = params,
 *                           .param_count = 1, .losses = pfo_view_1d(losses, PFO_F32, 2), .grads = grads,
 *                           .grad_count = 1};
 *     pfo_error error;
 *     if (pfo_loss(&args, &error) != PFO_OK) fprintf(stderr, "%s\n", error.message);
 */
#ifndef PREFOPT_LOSS_H
#define PREFOPT_LOSS_H

/* What a loss is computed over. */
typedef enum pfo_loss_kind {
    PFO_KIND_PAIR = 0,     /* (chosen, rejected) pairs, one loss a pair */
    PFO_KIND_UNPAIRED = 1, /* single answers, one loss an answer */
    PFO_KIND_TOKEN = 2,    /* answers by their tokens, [B, T] */
    PFO_KIND_PROCEDURE = 3 /* no losses: makes inputs of other rows */
} pfo_loss_kind;

/* How token log-probs become the sequence log-probs that the loss takes. */
typedef enum pfo_loss_tokens {
    PFO_TOKENS_SUM = 0,    /* sums over the answer's tokens */
    PFO_TOKENS_LENGTHS = 1 /* sums with lengths given, averages without */
} pfo_loss_tokens;

typedef enum pfo_loss_input_type {
    PFO_INPUT_REAL = 0,     /* [B] any float dtype */
    PFO_INPUT_COUNT = 1,    /* [B] any float or integer dtype; finite, >= 0 */
    PFO_INPUT_FLAG = 2,     /* [B] bool or any integer dtype; 0 or 1 */
    PFO_INPUT_SCALAR = 3,   /* [] or [1] any float dtype: one value for the batch, a constant */
    PFO_INPUT_TOKENS = 4,   /* [B, T] any float dtype */
    PFO_INPUT_MASK = 5,     /* [B, T] bool or any integer dtype; 0 or 1 */
    PFO_INPUT_INDICES = 6,  /* [B, K] any integer dtype, any K; positions in [0, T), or -1 for none */
    PFO_INPUT_GATHERED = 7, /* [N] any float dtype, any N */
    PFO_INPUT_STATISTIC = 8 /* made from the batch by the row's program; never given by a caller */
} pfo_loss_input_type;

/* What a named output is: rewards are ROWS. */
typedef enum pfo_loss_output_shape {
    PFO_OUTPUT_ROWS = 0,     /* [B] f32|f64 */
    PFO_OUTPUT_NUMBER = 1,   /* [] f32|f64 */
    PFO_OUTPUT_FLAGS = 2,    /* [B] bool */
    PFO_OUTPUT_TOKENS = 3,   /* [B, T] f32|f64 */
    PFO_OUTPUT_POSITIONS = 4 /* [B, T] int64 */
} pfo_loss_output_shape;

#define PFO_LOSS_MAX_INPUTS 10
#define PFO_LOSS_MAX_PARAMS 8
#define PFO_LOSS_MAX_REWARDS 3

typedef struct pfo_loss_input_info {
    const char *name;
    int32_t field;          /* position in the internal list of inputs */
    int32_t type;           /* pfo_loss_input_type */
    int32_t differentiable; /* 1: has a gradient; 0: a constant */
    int32_t optional;       /* 1: may be absent, and then counts as `absent` */
    double absent;
    const char *meaning;
} pfo_loss_input_info;

typedef struct pfo_loss_param_info {
    const char *name;
    int32_t field;
    double value;        /* the default; NaN: none, the parameter is made from the inputs when it is absent */
    const char *choices; /* "": a number in the range; else words separated by |, and the value is a word's position */
    double low;
    int32_t low_open; /* 1: low itself is outside the range */
    double high;
    int32_t high_open;
    const char *meaning;
} pfo_loss_param_info;

typedef struct pfo_loss_reward_info {
    const char *name;
    int32_t field;
    int32_t shape; /* pfo_loss_output_shape */
} pfo_loss_reward_info;

typedef struct pfo_loss_row {
    const char *name;                                /* "family.variant" */
    int32_t id;                                      /* row number */
    int32_t kind;                                    /* pfo_loss_kind */
    int32_t tokens;                                  /* pfo_loss_tokens */
    int32_t program;                                 /* internal: how the elements are put together */
    pfo_loss_input_info inputs[PFO_LOSS_MAX_INPUTS]; /* these three end at a NULL name or at their maximum */
    pfo_loss_param_info params[PFO_LOSS_MAX_PARAMS];
    pfo_loss_reward_info rewards[PFO_LOSS_MAX_REWARDS];
    const char *state;   /* explicit state that goes in and out; "" for none */
    const char *formula; /* plain text, for docs */
    const char *kink;    /* where the loss has no derivative, and the value taken there; "" for none */
    const char *source;  /* paper, equation */
} pfo_loss_row;

PFO_API int pfo_loss_count(void);
PFO_API const pfo_loss_row *pfo_loss_info(int row);          /* NULL outside [0, pfo_loss_count()) */
PFO_API const pfo_loss_row *pfo_loss_find(const char *name); /* NULL for an unknown name */

typedef struct pfo_named_view {
    const char *name;
    pfo_view view;
} pfo_named_view;

typedef struct pfo_named_value {
    const char *name;
    double value;
} pfo_named_value;

typedef struct pfo_loss_args {
    const char *loss;             /* "family.variant" */
    const pfo_named_view *inputs; /* by the names of the row; a view of dtype PFO_NONE is an absent input */
    int32_t input_count;
    const pfo_named_value *params; /* those not named take their defaults */
    int32_t param_count;
    /* Outputs, f32|f64 unless their shape says otherwise, any nonzero stride; they may not overlap each other, but may
     * be an input. */
    pfo_view losses;               /* [B]; [B, T] for kl.*; PFO_NONE for a procedure */
    const pfo_named_view *rewards; /* any of the row's rewards or outputs; they carry no gradient */
    int32_t reward_count;
    const pfo_named_view *grads; /* of any given inputs that are differentiable, like them: sum_i g_i dL_i/d input */
    int32_t grad_count;
    pfo_view grad_losses; /* g, like losses, any float dtype; none: ones */
} pfo_loss_args;

/* 1 where the row's losses are [B, T], one a token. */
PFO_API int pfo_loss_is_tokenwise(const pfo_loss_row *row);

/* All arithmetic is double, each output is rounded once to its dtype.  B may be 0.  NaN and inf inputs follow IEEE
 * arithmetic and stay in their element (a batch statistic carries them to all).  Finite log-ratios up to 1e4 give the
 * float64 value of the loss, or inf with its sign where it exceeds the dtype, never NaN.  Empty sequences (length 0)
 * have average 0 and gradient 0.  Returns PFO_OK or DTYPE, SHAPE, STRIDE, VALUE, OVERLAP, MEMORY, MISSING.  Thread
 * safe; runs on the calling thread. */
PFO_API pfo_status pfo_loss(const pfo_loss_args *args, pfo_error *error);

/* KTO's reference point z0 = max(0, mean(policy - ref)) over mismatched prompt-answer pairs, a constant (KTO section
 * 4).  policy, ref: [B] any float dtype.  state {sum, count}, reduced by the caller over ranks and steps, takes the
 * place of the batch's own (policy and ref may then be NULL); the clamp comes after.  An empty batch gives 0; NaN stays
 * NaN. */
PFO_API pfo_status pfo_kto_kl(const pfo_view *policy, const pfo_view *ref, const double *state, double *kl,
                              pfo_error *error);

#endif

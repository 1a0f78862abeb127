/* prefopt: the public C interface.
 *
 * Token log-probabilities of a language model, their gradients, and preference losses.  Plain C11, no Python.
 *
 *     logp[r] = x[r, label[r]] - lse[r],   lse[r] = log sum_v exp(x[r, v]),   x = logits / temperature
 *
 * Conventions that hold for every function here:
 *   - Arrays are described by a pfo_view: data pointer, dtype, shape and strides in bytes.  The library never keeps a
 *     pointer after the call, never allocates an output, and reads inputs in place.
 *   - Everything is checked, labels included, before the first write.  On a status other than PFO_OK no output was
 *     touched and the pfo_error (if not NULL) names the argument, what was expected, what came, and the first bad
 *     index.
 *   - "May not overlap" is about the ranges from first to last byte: an output whose rows lie between the rows of an
 *     input is refused.
 *   - Thread safe: any number of threads may call at once as long as their outputs do not overlap.  Work is split over
 *     at most pfo_get_num_threads() OpenMP threads, results are the same bits for any number of them.  In a forked
 *     child the calling thread does all the work.
 *   - Kernels run in round-to-nearest with denormals on, whatever the caller's control word; it is restored on return.
 *   - NaN passes through and stays in its row.  -inf logits are legal (probability 0).  A row that holds +inf has
 *     lse = lse2 = max_logit = +inf and no distribution: logps and entropy are NaN, as is its gradient.
 *
 * Example (C):
 *     float logits[2][5] = {...}; int64_t labels[2] = {3, -100}; float logps[2], lse[2];
 *     pfo_token_logps_args args = pfo_token_logps_args_default();
 *     args.logits = pfo_view_2d(logits, PFO_F32, 2, 5);
 *     args.labels = pfo_view_1d(labels, PFO_I64, 2);
 *     args.logps  = pfo_view_1d(logps, PFO_F32, 2);
 *     args.lse    = pfo_view_1d(lse, PFO_F32, 2);
 *     pfo_error error;
 *     if (pfo_token_logps(&args, &error) != PFO_OK) fprintf(stderr, "%s\n", error.message);
 */
#ifndef PREFOPT_H
#define PREFOPT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PFO_VERSION "0.1.0"

#if defined(_WIN32)
#define PFO_API __declspec(dllexport)
#else
#define PFO_API __attribute__((visibility("default")))
#endif

/* ---- status and errors ---------------------------------------------------------------------------------------- */

typedef enum pfo_status {
    PFO_OK = 0,
    PFO_ERROR_DTYPE = 1,   /* an array has a dtype that the argument does not take */
    PFO_ERROR_SHAPE = 2,   /* shapes do not agree, or a size is out of range */
    PFO_ERROR_STRIDE = 3,  /* a stride the kernels cannot walk, or misaligned elements */
    PFO_ERROR_LABEL = 4,   /* a label is neither ignore_index nor in [0, vocab) */
    PFO_ERROR_VALUE = 5,   /* a scalar parameter is outside its range or not finite */
    PFO_ERROR_OVERLAP = 6, /* an output shares memory with an input or output in a way that is not allowed */
    PFO_ERROR_MEMORY = 7,  /* no memory for scratch space */
    PFO_ERROR_ISA = 8,     /* an instruction set that is unknown, not compiled in, or not usable on this CPU */
    PFO_ERROR_MISSING = 9  /* a required array or parameter is absent */
} pfo_status;

typedef struct pfo_error {
    pfo_status status;
    char argument[64]; /* name of the offending argument */
    char message[320]; /* one sentence: argument, expected, got, first bad index */
    int64_t index;     /* flat index of the first bad element, -1 if none */
} pfo_error;

/* ---- arrays --------------------------------------------------------------------------------------------------- */

typedef enum pfo_dtype {
    PFO_NONE = 0, /* an absent optional array: a zeroed pfo_view */
    PFO_F16 = 1,
    PFO_BF16 = 2,
    PFO_F32 = 3,
    PFO_F64 = 4,
    PFO_I8 = 5,
    PFO_I16 = 6,
    PFO_I32 = 7,
    PFO_I64 = 8,
    PFO_U8 = 9,
    PFO_U16 = 10,
    PFO_U32 = 11,
    PFO_U64 = 12,
    PFO_BOOL = 13
} pfo_dtype;

#define PFO_MAX_NDIM 64

typedef struct pfo_view {
    void *data;
    int32_t dtype; /* pfo_dtype */
    int32_t ndim;
    int64_t shape[PFO_MAX_NDIM];         /* elements */
    int64_t strides_bytes[PFO_MAX_NDIM]; /* may be 0 or negative on inputs */
} pfo_view;

/* C-contiguous views.  pfo_view_none() marks an optional array as absent. */
PFO_API pfo_view pfo_view_none(void);
PFO_API pfo_view pfo_view_1d(void *data, pfo_dtype dtype, int64_t size);
PFO_API pfo_view pfo_view_2d(void *data, pfo_dtype dtype, int64_t rows, int64_t columns);
PFO_API pfo_view pfo_view_3d(void *data, pfo_dtype dtype, int64_t outer, int64_t rows, int64_t columns);

PFO_API const char *pfo_dtype_name(int32_t dtype);
PFO_API int64_t pfo_dtype_size(int32_t dtype); /* bytes, 0 for PFO_NONE and unknown values */

/* ---- the row state -------------------------------------------------------------------------------------------- */

/* What is known about one row after some part of its vocabulary was read.  Parts merge in any grouping; the library
 * merges them in vocabulary order, so that bits do not depend on who computed which part.  x is already divided by the
 * temperature.  The linear op, a vocabulary split over processes and CUDA stand on this one definition. */
typedef struct pfo_row_state {
    double max;         /* m = max_v x[v]; -inf for an empty part */
    double sum_exp;     /* sum_v exp(x[v] - m) */
    double sum_x_exp;   /* sum_v (x[v] - m) exp(x[v] - m); 0 where exp is 0 */
    double sum_exp2;    /* sum_v exp(2 (x[v] - m)) */
    double sum_x;       /* sum_v x[v] */
    double target;      /* x[label] if this part holds it; else -inf, and has_target is 0 */
    int64_t best;       /* global index of the first maximum, -1 for an empty part */
    int64_t count;      /* vocabulary entries read */
    int64_t has_target; /* 1 if target was seen */
} pfo_row_state;

/* Statistics of one row, all of x = logits / temperature. */
typedef struct pfo_row_stats {
    double logp;       /* x[label] - lse */
    double lse;        /* log sum exp x */
    double entropy;    /* -sum p log p, with p log p = 0 at p = 0 */
    double mean_logit; /* mean of x */
    double max_logit;
    double lse2; /* log sum exp(2 x): log sum_v p_v^2 = lse2 - 2 lse */
    int64_t best;
} pfo_row_stats;

PFO_API void pfo_row_state_init(pfo_row_state *state);
/* into := into merged with from, where from's entries come after into's in the vocabulary (ties keep into's index). */
PFO_API void pfo_row_state_merge(pfo_row_state *into, const pfo_row_state *from);
/* The statistics of a complete row.  logp is NaN when no part held the target. */
PFO_API void pfo_row_state_finish(const pfo_row_state *state, pfo_row_stats *stats);
/* Reads logits[first_vocab .. first_vocab + n) of one row.  logits: 1-D float view, contiguous.  label is a global id
 * (any value is legal: it counts as seen if it falls inside); temperature > 0. */
PFO_API pfo_status pfo_row_state_read(pfo_row_state *state, const pfo_view *logits, int64_t first_vocab, int64_t label,
                                      double temperature, pfo_error *error);

/* ---- token log-probabilities ----------------------------------------------------------------------------------- */

typedef struct pfo_token_logps_args {
    pfo_view logits; /* [..., V] f16|bf16|f32|f64, last axis contiguous, other axes any stride, elements aligned */
    pfo_view labels; /* [...] any integer type; ignore_index marks rows that are not read */
    int64_t ignore_index;
    double temperature; /* from 1e-30 to 1e30; x = logits / temperature */
    /* Outputs, each [...] with the leading shape of logits, or pfo_view_none(): f32 (f64 for f64 logits; lse may be f64
     * always); correct is bool: 1 if label is the first maximum.  Ignored rows get 0.  They may not overlap each other
     * or an input. */
    pfo_view logps, lse, entropy, correct, mean_logit, max_logit, lse2;
} pfo_token_logps_args;

/* One read of the logits.  Float32 arithmetic with a running max, sums carried in double between blocks (float64
 * logits: double throughout).  Returns PFO_OK or any of DTYPE, SHAPE, STRIDE, LABEL, VALUE, OVERLAP, MEMORY, ISA,
 * MISSING. */
PFO_API pfo_token_logps_args pfo_token_logps_args_default(void);
PFO_API pfo_status pfo_token_logps(const pfo_token_logps_args *args, pfo_error *error);

typedef struct pfo_token_logps_grad_args {
    pfo_view logits, labels; /* as in pfo_token_logps */
    pfo_view lse;     /* [...] f32|f64: the lse that pfo_token_logps returned; f64 is exact to the last bit of p */
    pfo_view logps;   /* [...] f32|f64, optional: the logps it returned.  A float32 lse of 12 carries a rounding of
                                5e-7 that every p of the row inherits; logits[label] - logps is the same number and more
                                exact where |logps| < |lse|, and is then taken instead. */
    pfo_view entropy; /* [...] the entropy it returned; needed with grad_entropy only */
    /* d loss / d output, each [...] f32|f64 or pfo_view_none(); at least one is present. */
    pfo_view grad_logps, grad_entropy, grad_lse;
    int64_t ignore_index;
    double temperature;
    pfo_view
        out; /* [..., V], dtype of logits, last axis contiguous; logits itself is allowed (in place), partial overlap
                     is not; strides may not be 0 or make elements overlap */
} pfo_token_logps_grad_args;

/* out[r, v] = ((grad_lse - grad_logps) p_v - grad_entropy p_v (log p_v + entropy) + grad_logps [v == label]) /
 * temperature with p_v = exp(x_v - lse).  Ignored rows become 0.  -inf logits get 0; a row with an infinite or NaN lse
 * becomes NaN. */
PFO_API pfo_token_logps_grad_args pfo_token_logps_grad_args_default(void);
PFO_API pfo_status pfo_token_logps_grad(const pfo_token_logps_grad_args *args, pfo_error *error);

/* ---- two rows of logits, policy and reference -------------------------------------------------------------------- */

#include "ops/prefopt_pair.h"

/* ---- hidden states, without the logits --------------------------------------------------------------------------- */

#include "ops/prefopt_linear.h"

/* ---- sequence reductions ---------------------------------------------------------------------------------------- */

typedef struct pfo_sequence_logps_args {
    pfo_view logps;      /* [B, T] f32|f64, any strides; or [N] with cu_seqlens */
    pfo_view mask;       /* same shape: bool, or f32|f64 weights; none counts every position */
    pfo_view cu_seqlens; /* [B + 1] i32|i64, non-decreasing, from 0 to N: packed sequences; none for [B, T] */
    pfo_view normalizer; /* [B] f32|f64 > 0 (with average): divide by it in place of the sum of the mask */
    int32_t average;     /* 0: sum; 1: sum / (sum of mask), 0 for an empty sequence */
    pfo_view out;        /* [B] f32 for f32 logps, f64 for f64 */
} pfo_sequence_logps_args;

/* out[b] = sum_t mask[b, t] logps[b, t], summed in double.  Where mask is 0 (or False) logps is not used: NaN and inf
 * there do not matter. */
PFO_API pfo_status pfo_sequence_logps(const pfo_sequence_logps_args *args, pfo_error *error);

/* The transpose: grad_logps[b, t] = grad_out[b] mask[b, t] / divisor[b].  args->logps is the OUTPUT (same shape rules,
 * no zero strides), args->out the input grad_out. */
PFO_API pfo_status pfo_sequence_logps_grad(const pfo_sequence_logps_args *args, pfo_error *error);

/* ---- threads and instruction sets ------------------------------------------------------------------------------- */

PFO_API int pfo_get_num_threads(void); /* starts as OMP_NUM_THREADS or the number of CPUs this process may use */
PFO_API pfo_status pfo_set_num_threads(int64_t threads, pfo_error *error); /* process-wide, >= 1 */
PFO_API int pfo_has_openmp(void);

/* ISA rows: "scalar", "avx2", "avx512", "neon".  The best usable one is taken, PREFOPT_ISA forces one. */
PFO_API int pfo_isa_count(void);
PFO_API const char *pfo_isa_name(int row);
PFO_API int pfo_isa_usable(int row); /* compiled in and supported by this CPU */
/* Forces a row for the calling thread until the next call (each thread has its own); NULL returns to the default. */
PFO_API pfo_status pfo_set_isa(const char *name, pfo_error *error);
PFO_API pfo_status pfo_current_isa(const char **name, pfo_error *error);

/* out[i] = exp(in[i]) or log(in[i]) through the current row: the kernels' own functions, for tests.  1-D contiguous,
 * f32 or f64 (log: f64 only), out may be in. */
PFO_API pfo_status pfo_vmath_exp(const pfo_view *in, const pfo_view *out, pfo_error *error);
PFO_API pfo_status pfo_vmath_log(const pfo_view *in, const pfo_view *out, pfo_error *error);

/* Advises the kernel to back a fresh buffer with huge pages (Linux); returns 1 if it took the advice, else 0. */
PFO_API int pfo_advise_huge_pages(void *data, int64_t bytes);

/* ---- losses ------------------------------------------------------------------------------------------------------ */

#include "losses/prefopt_loss.h"

#ifdef __cplusplus
}
#endif

#endif

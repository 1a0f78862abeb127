/* The kernels: one row each.  X(name, parameters); every row exists once per ISA, and per logit dtype for
 * PFO_DTYPE_KERNELS, for float and for double for PFO_REAL_KERNELS.  A kernel works on one row or tile, starts no
 * thread, cannot fail and trusts its input. */
#ifndef PFO_KERNEL_LIST_H
#define PFO_KERNEL_LIST_H

#include "../core/blas.h"
#include "../core/dtype.h"
#include "../core/pair_state.h"
#include "../core/row_state.h"

/* Which sums fold_row makes: each level includes the ones before. */
enum pfo_fold_level {
    PFO_FOLD_LSE = 0,     /* sum_exp */
    PFO_FOLD_ENTROPY = 1, /* + sum_x_exp */
    PFO_FOLD_ALL = 2      /* + sum_exp2, sum_x */
};

/* Vocabulary entries after which a partial state is closed and merged.  Rows of any length are cut here, and only here,
 * whether one thread reads them or several: that is why bits do not depend on threads. */
#define PFO_SEGMENT 32768

/* d loss / d logits of one row: out = p (a + b log p), p = exp((x - lse) / temperature). */
typedef struct pfo_grad_row {
    double lse; /* of the scaled logits: lse + lse_rest, a sum that one double cannot hold */
    double lse_rest;
    double temperature; /* > 0 */
    double a, b;
} pfo_grad_row;

/* d loss / d policy logits of two rows: out = p (a + c (log p - log r)) + b r. */
typedef struct pfo_grad_pair {
    double policy_lse, ref_lse; /* of the scaled logits */
    double temperature;         /* > 0 */
    double a, b, c;
} pfo_grad_pair;

#define PFO_DTYPE_KERNELS(X)                                                                                         \
    X(fold_row, (const void *row, int64_t count, int level, double inv_temperature, pfo_row_state *state))           \
    X(grad_row, (const void *row, void *out, int64_t count, const pfo_grad_row *coefficients))                       \
    X(fold_pair, (const void *policy, const void *ref, int64_t count, double inv_temperature, double perturbation,   \
                  pfo_pair_state *state))                                                                            \
    X(grad_pair, (const void *policy, const void *ref, void *out, int64_t count, const pfo_grad_pair *coefficients)) \
    X(widen_row, (const void *in, void *out, int64_t count))

/* How the logits of a tile become x: see ops/prefopt_linear.h. */
typedef struct pfo_linear_scale {
    double logit_scale, softcap, temperature; /* softcap 0: none */
} pfo_linear_scale;

#define PFO_REAL_KERNELS(X)                                                                                         \
    X(gemm, (const pfo_gemm *product))                                                                              \
    X(transform_row, (void *row, const void *bias, int64_t count, const pfo_linear_scale *scale))                   \
    X(weigh_row,                                                                                                    \
      (const void *row, void *weights, void *moments, int64_t count, double max, const pfo_linear_scale *scale))    \
    X(linear_grad_row, (void *row, int64_t count, const pfo_grad_row *coefficients, const pfo_linear_scale *scale)) \
    X(add_row, (void *sum, const void *row, int64_t count))                                                         \
    X(scale_row, (void *row, int64_t count, double factor))                                                         \
    X(topk_row, (const void *row, int64_t count, int64_t first_id, int64_t k, void *best, int64_t *ids, int64_t *held))

#define PFO_PLAIN_KERNELS(X)                                 \
    X(exp_f32, (const float *in, float *out, int64_t count)) \
    X(exp_f64, (const double *in, double *out, int64_t count))

typedef struct pfo_kernels {
#define PFO_ROW(name, parameters) void(*name[PFO_LOGIT_COUNT]) parameters;
    PFO_DTYPE_KERNELS(PFO_ROW)
#undef PFO_ROW
#define PFO_ROW(name, parameters) void(*name[2]) parameters; /* float, double */
    PFO_REAL_KERNELS(PFO_ROW)
#undef PFO_ROW
#define PFO_ROW(name, parameters) void(*name) parameters;
    PFO_PLAIN_KERNELS(PFO_ROW)
#undef PFO_ROW
} pfo_kernels;

#endif

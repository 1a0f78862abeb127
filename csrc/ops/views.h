/* Checking and walking views: one checker per kind of argument, used by every op. */
#ifndef PFO_VIEWS_H
#define PFO_VIEWS_H

#include "../core/core.h"

/* The leading axes of a view (all but `trailing` last ones), with axes that step together merged, so that row i of
 * [B, T, V] logits costs one multiplication where memory allows. */
typedef struct pfo_walk {
    char *base;
    int32_t ndim;
    int64_t shape[PFO_MAX_NDIM];
    int64_t strides_bytes[PFO_MAX_NDIM];
} pfo_walk;

pfo_walk pfo_walk_leading(const pfo_view *view, int32_t trailing);
char *pfo_walk_slow(const pfo_walk *walk, int64_t index);

PFO_INLINE char *pfo_walk_at(const pfo_walk *walk, int64_t index)
{
    if (PFO_LIKELY(walk->ndim <= 1)) return walk->base + (walk->ndim ? index * walk->strides_bytes[0] : 0);
    return pfo_walk_slow(walk, index);
}

PFO_INLINE int pfo_present(const pfo_view *view) { return view->dtype != PFO_NONE; }

/* Number of elements of the axes before `trailing`, -1 on overflow. */
int64_t pfo_leading_size(const pfo_view *view, int32_t trailing);

enum pfo_dtype_set {
    PFO_SET_LOGITS = 1 << 0,  /* f16 bf16 f32 f64 */
    PFO_SET_FLOAT = 1 << 1,   /* f32 f64 */
    PFO_SET_INTEGER = 1 << 2, /* i8 .. u64 */
    PFO_SET_BOOL = 1 << 3,
    PFO_SET_INDEX = 1 << 4 /* i32 i64 */
};

/* Present, dtype in the set, ndim in range, no negative size, elements aligned, total size in bytes representable. */
pfo_status pfo_check_array(const pfo_view *view, const char *name, int sets, pfo_error *error);
/* Shape equal to the leading axes of `like`. */
pfo_status pfo_check_leading(const pfo_view *view, const char *name, const pfo_view *like, int32_t trailing,
                             const char *like_name, pfo_error *error);
pfo_status pfo_check_dtype_is(const pfo_view *view, const char *name, int32_t dtype, pfo_error *error);
/* An output: no element may be reachable twice. */
pfo_status pfo_check_writable_strides(const pfo_view *view, const char *name, pfo_error *error);
pfo_status pfo_check_contiguous(const pfo_view *view, const char *name, pfo_error *error);
/* The range from first to last byte of `out` must not touch that of `other`: cheap, and refuses rows that lie between
 * the rows of `other` too. */
pfo_status pfo_check_disjoint(const pfo_view *out, const char *name, const pfo_view *other, const char *other_name,
                              pfo_error *error);
/* Same memory, shape and strides: in place. */
int pfo_same_view(const pfo_view *a, const pfo_view *b);
/* From 1e-30 to 1e30: float32 holds its inverse with room for the logits. */
pfo_status pfo_check_temperature(double value, pfo_error *error);

/* Logits [..., V] and labels [...]: all that every op over logits checks, labels included.  *live gets the number of
 * rows that are not ignored. */
pfo_status pfo_check_logits(const pfo_view *logits, const char *name, pfo_error *error);
pfo_status pfo_check_labels(const pfo_view *labels, const pfo_view *logits, const char *logits_name,
                            int64_t ignore_index, int64_t *live, pfo_error *error);
/* Two rows of logits that are read together: one shape, one dtype. */
pfo_status pfo_check_pair_logits(const pfo_view *policy, const pfo_view *ref, const pfo_view *labels,
                                 int64_t ignore_index, int64_t *live, pfo_error *error);

#endif

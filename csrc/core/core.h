/* What every op shares: the error record, dtypes, and the one place that starts threads. */
#ifndef PFO_CORE_H
#define PFO_CORE_H

#include <stddef.h>
#include <stdint.h>

#include "../prefopt.h"

#if defined(__GNUC__) || defined(__clang__)
#define PFO_PRINTF(format_index, first_index) __attribute__((format(printf, format_index, first_index)))
#if defined(PFO_NO_FORCED_INLINE) /* sanitizer and emulator builds: GCC needs minutes for the scalar row otherwise */
#define PFO_INLINE static inline __attribute__((unused))
#else
#define PFO_INLINE static inline __attribute__((always_inline, unused))
#endif
#define PFO_LIKELY(condition) __builtin_expect(!!(condition), 1)
#define PFO_PREFETCH(address) __builtin_prefetch((address), 0, 3)
#else
#define PFO_PRINTF(format_index, first_index)
#define PFO_INLINE static inline
#define PFO_LIKELY(condition) (condition)
#define PFO_PREFETCH(address) ((void)(address))
#endif

/* Fills the record (which may be NULL) and returns status, so that checks read `return pfo_fail(...)`. */
pfo_status pfo_fail(pfo_error *error, pfo_status status, const char *argument, int64_t index, const char *format, ...)
    PFO_PRINTF(5, 6);
/* Clears the record; called first by every entry point. */
void pfo_clear(pfo_error *error);

/* a * b, or -1 if it does not fit (sizes are never negative). */
PFO_INLINE int64_t pfo_mul_size(int64_t a, int64_t b)
{
    if (a < 0 || b < 0) return -1;
    if (a != 0 && b > INT64_MAX / a) return -1;
    return a * b;
}

/* Runs body(context, begin, end) over [0, items) in pieces of `grain` items on up to pfo_get_num_threads() threads.
 * work is the total cost in logits elements: small jobs stay on the calling thread.  Pieces are cut by grain alone, so
 * a body that writes only what belongs to its items gives the same bits for any number of threads.  Every thread that
 * runs body has the floating-point control word at its default; the caller's is restored. */
typedef void (*pfo_body)(void *context, int64_t begin, int64_t end);
void pfo_parallel_for(int64_t items, int64_t grain, double work, pfo_body body, void *context);

/* The same for a body that needs scratch memory of its own: worker is below `workers`, and no two calls with one worker
 * run at once.  pfo_parallel_workers: how many threads such a job is worth. */
typedef void (*pfo_worker_body)(void *context, int64_t begin, int64_t end, int worker);
int pfo_parallel_workers(int64_t items, double work);
void pfo_parallel_for_workers(int64_t items, int64_t grain, int workers, pfo_worker_body body, void *context);

/* The floating-point control word (MXCSR, FPCR): round to nearest, denormals on, exceptions masked. */
typedef uint64_t pfo_fpenv;
pfo_fpenv pfo_fpenv_enter(void);
void pfo_fpenv_leave(pfo_fpenv saved);

#endif

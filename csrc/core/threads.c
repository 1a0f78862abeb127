/* Threads: the only file that knows OpenMP.
 *
 * Fork: libgomp's pool does not survive fork(), and a parallel region in the child hangs.  A child therefore runs every
 * op on the calling thread (pthread_atfork marks it); pieces are cut by grain alone, so the bits are the same. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity, madvise */
#endif
#include <stdatomic.h>
#include <stdlib.h>

#include "core.h"

#if defined(PFO_OPENMP)
#include <omp.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#endif

static atomic_int thread_setting; /* 0: not decided yet */
#if !defined(_WIN32) || defined(PFO_OPENMP)
static atomic_int in_forked_child;
#endif

/* Below this many logits a parallel region (about 2 us) costs more than it saves. */
#define PFO_SERIAL_WORK 40000.0

#if !defined(_WIN32)
static void mark_child(void) { atomic_store(&in_forked_child, 1); }

__attribute__((constructor)) static void watch_fork(void) { pthread_atfork(NULL, NULL, mark_child); }
#endif

static int default_threads(void)
{
    const char *text = getenv("OMP_NUM_THREADS");
    if (text) {
        char *end;
        long wanted = strtol(text, &end, 10);
        /* "4" or a nesting list "4,2": the first number counts. */
        if (end != text && wanted >= 1 && wanted <= 4096) return (int)wanted;
    }
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
#if !defined(_WIN32)
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (cpus >= 1) return (int)cpus;
#endif
    return 1;
}

int pfo_has_openmp(void)
{
#if defined(PFO_OPENMP)
    return 1;
#else
    return 0;
#endif
}

int pfo_get_num_threads(void)
{
    int threads = atomic_load(&thread_setting);
    if (threads == 0) {
        threads = default_threads();
        atomic_store(&thread_setting, threads);
    }
    return threads;
}

pfo_status pfo_set_num_threads(int64_t threads, pfo_error *error)
{
    pfo_clear(error);
    if (threads < 1 || threads > 4096)
        return pfo_fail(error, PFO_ERROR_VALUE, "n", -1, "expected a thread count from 1 to 4096, got %lld",
                        (long long)threads);
    atomic_store(&thread_setting, (int)threads);
    return PFO_OK;
}

static int64_t pieces_of(int64_t items, int64_t grain) { return (items - 1) / grain + 1; }

int pfo_parallel_workers(int64_t items, double work)
{
#if defined(PFO_OPENMP)
    const int64_t threads = pfo_get_num_threads();
    if (work < PFO_SERIAL_WORK || atomic_load(&in_forked_child)) return 1;
    return (int)(threads < items ? threads : items > 0 ? items : 1);
#else
    (void)items, (void)work;
    return 1;
#endif
}

void pfo_parallel_for_workers(int64_t items, int64_t grain, int workers, pfo_worker_body body, void *context)
{
    if (items <= 0) return;
    if (grain < 1) grain = 1;
    const int64_t pieces = pieces_of(items, grain);
    pfo_fpenv saved = pfo_fpenv_enter();
#if defined(PFO_OPENMP)
    if (workers > 1) {
#pragma omp parallel num_threads(workers)
        {
            const int worker = omp_get_thread_num();
            pfo_fpenv own = pfo_fpenv_enter();
#pragma omp for schedule(dynamic, 1)
            for (int64_t piece = 0; piece < pieces; piece++) {
                int64_t begin = piece * grain;
                body(context, begin, items - begin > grain ? begin + grain : items, worker);
            }
            pfo_fpenv_leave(own);
        }
        pfo_fpenv_leave(saved);
        return;
    }
#else
    (void)workers;
#endif
    for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t begin = piece * grain;
        body(context, begin, items - begin > grain ? begin + grain : items, 0);
    }
    pfo_fpenv_leave(saved);
}

typedef struct plain_job {
    pfo_body body;
    void *context;
} plain_job;

static void plain_body(void *context, int64_t begin, int64_t end, int worker)
{
    const plain_job *j = (const plain_job *)context;
    (void)worker;
    j->body(j->context, begin, end);
}

void pfo_parallel_for(int64_t items, int64_t grain, double work, pfo_body body, void *context)
{
    if (items <= 0) return;
    if (grain < 1) grain = 1;
    plain_job j = {body, context};
    pfo_parallel_for_workers(items, grain, pfo_parallel_workers(pieces_of(items, grain), work), plain_body, &j);
}

int pfo_advise_huge_pages(void *data, int64_t bytes)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t huge = (uintptr_t)1 << 21;
    uintptr_t begin = ((uintptr_t)data + huge - 1) & ~(huge - 1);
    uintptr_t end = ((uintptr_t)data + (uintptr_t)bytes) & ~(huge - 1);
    if (bytes <= 0 || end <= begin) return 0;
    return madvise((char *)data + (begin - (uintptr_t)data), end - begin, MADV_HUGEPAGE) == 0;
#else
    (void)data;
    (void)bytes;
    return 0;
#endif
}

/* libgomp's entry points that csrc/core/threads.c uses, on plain pthreads.
 *
 * The thread sanitizer does not see the futexes inside libgomp and reports every parallel region as a race.  The same
 * object code linked with these few lines shows it each lock, so what it reports is ours.  One team, one loop a region:
 * all that pfo_parallel_for needs; nested regions run alone. */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define MAX_THREADS 64

typedef struct team {
    pthread_mutex_t lock;
    bool started;
    long next, end, step, chunk;
    void (*body)(void *);
    void *data;
} team;

static _Thread_local team *current_team;

void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags);
bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk, long *first, long *last);
bool GOMP_loop_nonmonotonic_dynamic_next(long *first, long *last);
void GOMP_loop_end(void);

static void *run_member(void *context)
{
    team *t = context;
    current_team = t;
    t->body(t->data);
    current_team = NULL;
    return NULL;
}

void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags)
{
    team t = {.lock = PTHREAD_MUTEX_INITIALIZER, .body = body, .data = data};
    team *outer = current_team;
    pthread_t members[MAX_THREADS];
    unsigned helpers = outer || threads == 0 ? 0 : threads - 1;
    (void)flags;
    if (helpers > MAX_THREADS) helpers = MAX_THREADS;
    for (unsigned i = 0; i < helpers; i++)
        if (pthread_create(&members[i], NULL, run_member, &t) != 0) abort();
    run_member(&t);
    for (unsigned i = 0; i < helpers; i++) pthread_join(members[i], NULL);
    current_team = outer;
}

static bool take_chunk(team *t, long *first, long *last)
{
    *first = t->next;
    *last = t->end - t->next > t->chunk * t->step ? t->next + t->chunk * t->step : t->end;
    t->next = *last;
    return *first < *last;
}

bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk, long *first, long *last)
{
    team *t = current_team;
    pthread_mutex_lock(&t->lock);
    if (!t->started) {
        t->started = true;
        t->next = start;
        t->end = end;
        t->step = step;
        t->chunk = chunk;
    }
    const bool found = take_chunk(t, first, last);
    pthread_mutex_unlock(&t->lock);
    return found;
}

bool GOMP_loop_nonmonotonic_dynamic_next(long *first, long *last)
{
    team *t = current_team;
    pthread_mutex_lock(&t->lock);
    const bool found = take_chunk(t, first, last);
    pthread_mutex_unlock(&t->lock);
    return found;
}

void GOMP_loop_end(void) {} /* the region ends with the loop: joining is the barrier */

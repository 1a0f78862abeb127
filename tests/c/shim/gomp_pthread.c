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

typedef struct member {
    team *team;
    int number;
} member;

static _Thread_local team *current_team;
static _Thread_local int current_number;

int omp_get_thread_num(void);

void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags);
bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk, long *first, long *last);
bool GOMP_loop_nonmonotonic_dynamic_next(long *first, long *last);
void GOMP_loop_end(void);

static void *run_member(void *context)
{
    const member *m = context;
    current_team = m->team;
    current_number = m->number;
    m->team->body(m->team->data);
    current_team = NULL;
    return NULL;
}

int omp_get_thread_num(void) { return current_number; }

void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags)
{
    team t = {.lock = PTHREAD_MUTEX_INITIALIZER, .body = body, .data = data};
    team *outer = current_team;
    const int outer_number = current_number;
    pthread_t handles[MAX_THREADS];
    member members[MAX_THREADS + 1];
    unsigned helpers = outer || threads == 0 ? 0 : threads - 1;
    (void)flags;
    if (helpers > MAX_THREADS) helpers = MAX_THREADS;
    for (unsigned i = 0; i <= helpers; i++) members[i] = (member){&t, (int)i}; /* 0 is the caller */
    for (unsigned i = 0; i < helpers; i++)
        if (pthread_create(&handles[i], NULL, run_member, &members[i + 1]) != 0) abort();
    run_member(&members[0]);
    for (unsigned i = 0; i < helpers; i++) pthread_join(handles[i], NULL);
    current_team = outer;
    current_number = outer_number;
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

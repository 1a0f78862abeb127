/* Many callers at once, each with its own row forced and its own outputs: the same bits as alone.  The thread sanitizer
 * runs this with the OpenMP regions on pthreads that it can see (shim/gomp_pthread.c). */
#include "check.h"

#if defined(_WIN32)
void test_threads(void) {}
#else
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"

#define CALLERS 4
#define ROWS 24
#define VOCAB 5003 /* large enough for a parallel region */

typedef struct caller {
    const float *logits;
    const int64_t *labels;
    const char *isa;
    float logps[ROWS], lse[ROWS];
    float *grad;
    pfo_status status;
} caller;

static void *call_repeatedly(void *context)
{
    caller *c = context;
    float ones[ROWS];
    for (int row = 0; row < ROWS; row++) ones[row] = 1.0f;
    c->status = pfo_set_isa(c->isa, NULL);
    for (int round = 0; round < 3 && c->status == PFO_OK; round++) {
        pfo_token_logps_args args = pfo_token_logps_args_default();
        args.logits = pfo_view_2d((void *)(uintptr_t)c->logits, PFO_F32, ROWS, VOCAB);
        args.labels = pfo_view_1d((void *)(uintptr_t)c->labels, PFO_I64, ROWS);
        args.logps = pfo_view_1d(c->logps, PFO_F32, ROWS);
        args.lse = pfo_view_1d(c->lse, PFO_F32, ROWS);
        c->status = pfo_token_logps(&args, NULL);
        if (c->status != PFO_OK) break;
        pfo_token_logps_grad_args grad_args = pfo_token_logps_grad_args_default();
        grad_args.logits = args.logits;
        grad_args.labels = args.labels;
        grad_args.lse = args.lse;
        grad_args.grad_logps = pfo_view_1d(ones, PFO_F32, ROWS);
        grad_args.out = pfo_view_2d(c->grad, PFO_F32, ROWS, VOCAB);
        c->status = pfo_token_logps_grad(&grad_args, NULL);
    }
    return NULL;
}

void test_threads(void)
{
    const size_t bytes = (size_t)ROWS * VOCAB * sizeof(float);
    const char *names[MAX_ROWS];
    const int rows = usable_rows(names);
    int64_t labels[ROWS];
    float *logits = malloc(bytes);
    static caller callers[CALLERS];
    pthread_t threads[CALLERS];
    random_state random = {5};
    if (!logits) abort();
    for (int row = 0; row < ROWS; row++) {
        labels[row] = (int64_t)(random_bits(&random) % VOCAB);
        fill_row(logits + row * VOCAB, PFO_F32, VOCAB, labels[row], ROW_RANDOM, &random);
    }
    const int before = pfo_get_num_threads();
    pfo_set_num_threads(3, NULL);
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (caller){.logits = logits, .labels = labels, .isa = names[i % rows], .grad = malloc(bytes)};
        if (!callers[i].grad) abort();
        if (pthread_create(&threads[i], NULL, call_repeatedly, &callers[i]) != 0) abort();
    }
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(callers[i].status == PFO_OK, "caller %d: status %d", i, callers[i].status);
        CHECK(memcmp(callers[i].lse, callers[0].lse, sizeof callers[0].lse) == 0, "caller %d: lse differs", i);
        CHECK(memcmp(callers[i].logps, callers[0].logps, sizeof callers[0].logps) == 0, "caller %d: logps", i);
        CHECK(memcmp(callers[i].grad, callers[0].grad, bytes) == 0, "caller %d: gradient differs", i);
    }
    pfo_set_num_threads(before, NULL);
    for (int i = 0; i < CALLERS; i++) free(callers[i].grad);
    free(logits);
}
#endif

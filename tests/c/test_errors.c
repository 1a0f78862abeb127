/* Bad calls: the status, the argument's name, the first bad index; and nothing is written. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "check.h"

#define ROWS 3
#define VOCAB 5
#define UNTOUCHED 12345.0f

typedef struct call {
    float logits[ROWS * VOCAB], logps[ROWS], lse[ROWS], grad[ROWS], out[ROWS * VOCAB];
    int64_t labels[ROWS];
    pfo_token_logps_args args;
    pfo_token_logps_grad_args grad_args;
} call;

static void fresh_call(call *c)
{
    memset(c, 0, sizeof *c);
    for (int i = 0; i < ROWS; i++) c->logps[i] = c->lse[i] = UNTOUCHED, c->labels[i] = i, c->grad[i] = 1.0f;
    for (int i = 0; i < ROWS * VOCAB; i++) c->out[i] = UNTOUCHED;
    c->args = pfo_token_logps_args_default();
    c->args.logits = pfo_view_2d(c->logits, PFO_F32, ROWS, VOCAB);
    c->args.labels = pfo_view_1d(c->labels, PFO_I64, ROWS);
    c->args.logps = pfo_view_1d(c->logps, PFO_F32, ROWS);
    c->args.lse = pfo_view_1d(c->lse, PFO_F32, ROWS);
    c->grad_args = pfo_token_logps_grad_args_default();
    c->grad_args.logits = c->args.logits;
    c->grad_args.labels = c->args.labels;
    c->grad_args.lse = c->args.lse;
    c->grad_args.grad_logps = pfo_view_1d(c->grad, PFO_F32, ROWS);
    c->grad_args.out = pfo_view_2d(c->out, PFO_F32, ROWS, VOCAB);
}

static int untouched(const call *c)
{
    int same = 1;
    for (int i = 0; i < ROWS; i++)
        same = same && same_float(c->logps[i], UNTOUCHED) && same_float(c->lse[i], UNTOUCHED);
    for (int i = 0; i < ROWS * VOCAB; i++) same = same && same_float(c->out[i], UNTOUCHED);
    return same;
}

static void expect(const call *c, pfo_status got, pfo_status want, const pfo_error *error, const char *argument,
                   int64_t index, int line)
{
    check_report(got == want && error->status == want, __FILE__, line, "status %d (%s), expected %d", got,
                 error->message, want);
    check_report(strcmp(error->argument, argument) == 0, __FILE__, line, "argument '%s', expected '%s': %s",
                 error->argument, argument, error->message);
    if (index >= 0)
        check_report(error->index == index, __FILE__, line, "index %lld, expected %lld", (long long)error->index,
                     (long long)index);
    check_report(untouched(c), __FILE__, line, "an output was written");
}

/* Breaks the forward call by `change`, and expects status, argument, index. */
#define BAD_FORWARD(change, status, argument, index)                                             \
    do {                                                                                         \
        call c;                                                                                  \
        pfo_error error;                                                                         \
        fresh_call(&c);                                                                          \
        change;                                                                                  \
        expect(&c, pfo_token_logps(&c.args, &error), status, &error, argument, index, __LINE__); \
    } while (0)
#define BAD_GRAD(change, status, argument, index)                                                          \
    do {                                                                                                   \
        call c;                                                                                            \
        pfo_error error;                                                                                   \
        fresh_call(&c);                                                                                    \
        change;                                                                                            \
        expect(&c, pfo_token_logps_grad(&c.grad_args, &error), status, &error, argument, index, __LINE__); \
    } while (0)

static void test_forward(void)
{
    BAD_FORWARD(c.labels[1] = VOCAB, PFO_ERROR_LABEL, "labels", 1);
    BAD_FORWARD(c.labels[2] = -1, PFO_ERROR_LABEL, "labels", 2);
    BAD_FORWARD(c.labels[0] = INT64_MIN, PFO_ERROR_LABEL, "labels", 0);
    BAD_FORWARD(c.args.logits.dtype = PFO_I32, PFO_ERROR_DTYPE, "logits", -1);
    BAD_FORWARD(c.args.logits.dtype = 99, PFO_ERROR_DTYPE, "logits", -1);
    BAD_FORWARD(c.args.labels.dtype = PFO_F32, PFO_ERROR_DTYPE, "labels", -1);
    BAD_FORWARD(c.args.labels.shape[0] = ROWS - 1, PFO_ERROR_SHAPE, "labels", -1);
    BAD_FORWARD(c.args.logits.shape[1] = 0, PFO_ERROR_SHAPE, "logits", -1);
    BAD_FORWARD(c.args.logits.ndim = 0, PFO_ERROR_SHAPE, "logits", -1);
    BAD_FORWARD(c.args.logits.strides_bytes[1] = 8, PFO_ERROR_STRIDE, "logits", -1);
    BAD_FORWARD(c.args.temperature = 0.0, PFO_ERROR_VALUE, "temperature", -1);
    BAD_FORWARD(c.args.temperature = (double)NAN, PFO_ERROR_VALUE, "temperature", -1);
    BAD_FORWARD(c.args.temperature = -1.0, PFO_ERROR_VALUE, "temperature", -1);
    BAD_FORWARD(c.args.temperature = (double)INFINITY, PFO_ERROR_VALUE, "temperature", -1);
    BAD_FORWARD(c.args.lse = c.args.logps, PFO_ERROR_OVERLAP, "lse", -1);
    BAD_FORWARD(c.args.logps.dtype = PFO_BF16, PFO_ERROR_DTYPE, "logps", -1);
    BAD_FORWARD(c.args.logits = pfo_view_none(), PFO_ERROR_MISSING, "logits", -1);
    BAD_FORWARD(c.args.labels = pfo_view_none(), PFO_ERROR_MISSING, "labels", -1);
}

static void test_grad(void)
{
    BAD_GRAD(c.labels[1] = 1000, PFO_ERROR_LABEL, "labels", 1);
    BAD_GRAD(c.grad_args.grad_logps = pfo_view_none(), PFO_ERROR_MISSING, "grad_logps", -1);
    BAD_GRAD(c.grad_args.grad_entropy = c.grad_args.grad_logps, PFO_ERROR_MISSING, "entropy", -1);
    BAD_GRAD(c.grad_args.out.data = c.logits + 1, PFO_ERROR_OVERLAP, "out", -1);
    BAD_GRAD(c.grad_args.out.dtype = PFO_I32, PFO_ERROR_DTYPE, "out", -1);
    BAD_GRAD(c.grad_args.out.shape[1] = VOCAB - 1, PFO_ERROR_SHAPE, "out", -1);
    BAD_GRAD(c.grad_args.out.strides_bytes[0] = 0, PFO_ERROR_STRIDE, "out", -1);
    BAD_GRAD(c.grad_args.lse = pfo_view_none(), PFO_ERROR_MISSING, "lse", -1);
    BAD_GRAD(c.grad_args.temperature = 0.0, PFO_ERROR_VALUE, "temperature", -1);
}

static void test_empty_and_rows(void)
{
    pfo_error error;
    call c;
    fresh_call(&c);
    c.args.logits.shape[0] = c.args.labels.shape[0] = c.args.logps.shape[0] = c.args.lse.shape[0] = 0;
    CHECK(pfo_token_logps(&c.args, &error) == PFO_OK, "zero rows are legal: %s", error.message);
    CHECK(untouched(&c), "zero rows wrote something");
    CHECK(pfo_set_isa("avx9", &error) == PFO_ERROR_ISA, "unknown row");
    CHECK(strstr(error.message, "avx9") != NULL && strstr(error.message, "scalar") != NULL, "'%s'", error.message);
    CHECK(pfo_set_isa(NULL, NULL) == PFO_OK, "back to the default row");
    CHECK(pfo_set_num_threads(0, &error) == PFO_ERROR_VALUE && error.message[0] != 0, "zero threads");
    CHECK(pfo_set_num_threads(-3, NULL) == PFO_ERROR_VALUE, "an error record is optional");
    CHECK(pfo_isa_name(-1) == NULL && pfo_isa_name(99) == NULL, "names outside the list");
}

/* Sizes whose product overflows must be refused before anything is read. */
static void test_overflow(void)
{
    pfo_error error;
    call c;
    fresh_call(&c);
    c.args.logits = pfo_view_3d(c.logits, PFO_F32, (int64_t)1 << 40, (int64_t)1 << 40, VOCAB);
    c.args.labels = pfo_view_2d(c.labels, PFO_I64, (int64_t)1 << 40, (int64_t)1 << 40);
    c.args.logps = pfo_view_2d(c.logps, PFO_F32, (int64_t)1 << 40, (int64_t)1 << 40);
    c.args.lse = pfo_view_none();
    const pfo_status status = pfo_token_logps(&c.args, &error);
    CHECK(status == PFO_ERROR_SHAPE, "overflowing sizes: status %d", status);
}

void test_errors(void)
{
    test_forward();
    test_grad();
    test_empty_and_rows();
    test_overflow();
}

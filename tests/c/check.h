/* The test program's own tools: counting, random numbers, dtypes.  It uses csrc/prefopt.h and nothing else of the
 * library; conversions here are written again, by arithmetic rather than by bits, so that they can disagree. */
#ifndef PREFOPT_TEST_CHECK_H
#define PREFOPT_TEST_CHECK_H

#include <stdint.h>
#include <stdio.h>

#include "prefopt.h"

typedef struct test_counts {
    long checks;
    long failures;
} test_counts;

extern test_counts counts;
extern int small_run; /* PREFOPT_TEST_SMALL: leave out large sizes (emulators, thread sanitizer) */

/* Counts one check; prints the first failures with their place and a printf message. */
void check_report(int passed, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
#define CHECK(condition, ...) check_report((condition) != 0, __FILE__, __LINE__, __VA_ARGS__)

/* Counter-based random numbers: the same on every machine. */
typedef struct random_state {
    uint64_t counter;
} random_state;
uint64_t random_bits(random_state *state);
double random_uniform(random_state *state); /* [0, 1) */
double random_normal(random_state *state);

/* Usable rows: names[0 .. count), scalar first. PREFOPT_TEST_ISA leaves scalar and the named row. */
#define MAX_ROWS 8
int usable_rows(const char *names[MAX_ROWS]);

/* Elements of a logit dtype. encode rounds to nearest even; decode is exact. */
void encode(void *base, int64_t index, int32_t dtype, double value);
double decode(const void *base, int64_t index, int32_t dtype);
/* Distance from value to the next number of dtype, at value's magnitude. */
long double spacing(int32_t dtype, long double value);

/* Equal as bits, except that any NaN equals any NaN. */
int same_float(float a, float b);
int same_double(double a, double b);

void test_vocabulary(void);
void test_token_logps(void);
void test_token_logps_grad(void);
void test_pair_token_stats(void);
void test_row_state(void);
void test_sequence_logps(void);
void test_errors(void);
void test_threads(void);
void test_losses(void);
void test_linear(void);

#endif

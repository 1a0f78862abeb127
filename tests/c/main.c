/* Runs every suite on every usable ISA row; prints what ran, a count and PASS.  Exit code 1 on any failure.
 *
 *     python tools/build_c.py --run gcc          (see --list for other compilers, targets, sanitizers)
 *
 * PREFOPT_TEST_ISA=NAME  fail unless row NAME is usable, and test only it beside the scalar row
 * PREFOPT_TEST_SMALL=1   leave out large sizes */
#include <stdlib.h>
#include <string.h>

#include "check.h"

static void announce_rows(void)
{
    const char *names[MAX_ROWS];
    const int rows = usable_rows(names);
    const char *wanted = getenv("PREFOPT_TEST_ISA");
    int found = wanted == NULL;
    printf("rows:");
    for (int row = 0; row < rows; row++) {
        printf(" %s", names[row]);
        found = found || strcmp(names[row], wanted) == 0;
    }
    printf("   threads: %d   openmp: %s\n", pfo_get_num_threads(), pfo_has_openmp() ? "yes" : "no");
    CHECK(found, "row %s is not usable here", wanted ? wanted : "");
}

static void run_suite(const char *name, void (*suite)(void))
{
    const long before = counts.checks;
    suite();
    printf("%-20s %8ld checks\n", name, counts.checks - before);
    fflush(stdout);
}

int main(void)
{
    small_run = getenv("PREFOPT_TEST_SMALL") != NULL;
    announce_rows();
    run_suite("vocabulary", test_vocabulary);
    run_suite("token_logps", test_token_logps);
    run_suite("token_logps_grad", test_token_logps_grad);
    run_suite("pair_token_stats", test_pair_token_stats);
    run_suite("linear", test_linear);
    run_suite("row_state", test_row_state);
    run_suite("sequence_logps", test_sequence_logps);
    run_suite("losses", test_losses);
    run_suite("threads", test_threads);
    run_suite("errors", test_errors);
    printf("%s: %ld checks, %ld failures\n", counts.failures ? "FAIL" : "PASS", counts.checks, counts.failures);
    return counts.failures != 0;
}

/* Row states: parts in any grouping give the oracle's statistics, and the whole row's bits where the cuts are the
 * library's own. */
#include <math.h>
#include <stdlib.h>

#include "cases.h"
#include "check.h"
#include "oracle.h"

#define VOCAB 1003

static pfo_row_state read_part(const float *row, int64_t begin, int64_t end, int64_t label)
{
    pfo_row_state state;
    pfo_error error;
    pfo_row_state_init(&state);
    if (begin == end) return state; /* an empty part is a fresh state: there is nothing to read */
    pfo_view view = pfo_view_1d((void *)(uintptr_t)(row + begin), PFO_F32, end - begin);
    const pfo_status status = pfo_row_state_read(&state, &view, begin, label, 1.0, &error);
    CHECK(status == PFO_OK, "row_state_read: %s", error.message);
    return state;
}

static void check_stats(const pfo_row_stats *got, const oracle_row *want, const char *what, int kind)
{
    const long double wanted[] = {want->logp, want->lse, want->entropy, want->mean, want->max, want->lse2};
    const double values[] = {got->logp, got->lse, got->entropy, got->mean_logit, got->max_logit, got->lse2};
    for (int i = 0; i < 6; i++) {
        /* The logits themselves, up to 1e4, enter only the mean. */
        const long double size = i == 3 ? 1e4L : fabsl(wanted[i]);
        const int same = isnan(wanted[i])   ? isnan(values[i])
                         : isinf(wanted[i]) ? (long double)values[i] == wanted[i]
                                            : fabsl((long double)values[i] - wanted[i]) <= 0x1p-22L * (1.0L + size);
        CHECK(same, "%s kind %d statistic %d: got %.12g, expected %.12Lg", what, kind, i, values[i], wanted[i]);
    }
    const int64_t best = want->all_negative_infinity ? got->best : want->best;
    CHECK(got->best == best, "%s kind %d: best %lld, expected %lld", what, kind, (long long)got->best, (long long)best);
}

/* Cuts the row at `cuts`, merges left to right (direction 0) or the right halves first (1). */
static pfo_row_stats merged(const float *row, int64_t label, const int64_t *cuts, int parts, int right_first)
{
    pfo_row_state states[8];
    for (int part = 0; part < parts; part++) states[part] = read_part(row, cuts[part], cuts[part + 1], label);
    if (right_first)
        for (int part = parts - 2; part >= 0; part--) pfo_row_state_merge(&states[part], &states[part + 1]);
    else
        for (int part = 1; part < parts; part++) pfo_row_state_merge(&states[0], &states[part]);
    pfo_row_stats stats;
    pfo_row_state_finish(&states[0], &stats);
    return stats;
}

static void test_kind(row_kind kind, random_state *random)
{
    static const int64_t cuts[][6] = {
        {0, VOCAB}, {0, 1, VOCAB}, {0, 0, 500, VOCAB}, {0, 17, 18, 900, VOCAB}, {0, 333, 333, 666, VOCAB, VOCAB}};
    static const int parts[] = {1, 2, 3, 4, 5};
    float row[VOCAB];
    double values[VOCAB];
    const int64_t label = (int64_t)(random_bits(random) % VOCAB);
    fill_row(row, PFO_F32, VOCAB, label, kind, random);
    for (int v = 0; v < VOCAB; v++) values[v] = (double)row[v];
    const oracle_row want = oracle_token_logps(values, VOCAB, label, 1.0);
    for (int i = 0; i < 5; i++)
        for (int right_first = 0; right_first < 2; right_first++) {
            const pfo_row_stats got = merged(row, label, cuts[i], parts[i], right_first);
            check_stats(&got, &want, right_first ? "merged from the right" : "merged from the left", kind);
        }
}

static void test_empty(void)
{
    pfo_row_state state, other;
    pfo_row_stats stats;
    pfo_row_state_init(&state);
    pfo_row_state_init(&other);
    pfo_row_state_merge(&state, &other);
    CHECK(state.count == 0 && state.best == -1 && isinf(state.max), "merge of two empty states");
    pfo_row_state_finish(&state, &stats);
    CHECK(isinf(stats.lse) && stats.lse < 0.0, "lse of an empty row: %g", stats.lse);
    CHECK(isnan(stats.logp) && isnan(stats.entropy), "logp and entropy of an empty row");
}

/* The label's part decides, and a label that no part holds leaves NaN. */
static void test_target(random_state *random)
{
    float row[VOCAB];
    fill_row(row, PFO_F32, VOCAB, 0, ROW_RANDOM, random);
    const int64_t cuts[] = {0, 100, VOCAB};
    const pfo_row_stats inside = merged(row, 50, cuts, 2, 0), outside = merged(row, -100, cuts, 2, 0);
    CHECK(fabs(inside.logp - ((double)row[50] - inside.lse)) < 1e-12, "logp is target - lse");
    CHECK(isnan(outside.logp) && !isnan(outside.lse), "a label outside leaves NaN and the rest alone");
    CHECK(same_double(inside.lse, outside.lse), "lse does not depend on the label");
}

void test_row_state(void)
{
    random_state random = {3};
    const char *names[MAX_ROWS];
    const int rows = usable_rows(names);
    for (int isa = 0; isa < rows; isa++) {
        CHECK(pfo_set_isa(names[isa], NULL) == PFO_OK, "cannot choose row %s", names[isa]);
        for (int kind = 0; kind < ROW_KINDS; kind++) test_kind((row_kind)kind, &random);
        test_target(&random);
    }
    pfo_set_isa(NULL, NULL);
    test_empty();
}

/* The loss rows through the C interface: values against the papers' formulas in long double, gradients against
 * difference quotients of the library's own values, and what the header says of bad calls.  (Python's suite holds every
 * row against an independent float64 oracle; this program shows that C alone gives the same.) */
#include <math.h>
#include <string.h>

#include "check.h"

#define BATCH 6

typedef struct loss_case {
    const char *loss;
    int inputs, params;
    const char *input_names[8];
    double columns[8][BATCH];
    pfo_named_value param_values[4];
    unsigned char flags[BATCH]; /* for "desirable" */
} loss_case;

static long double log_sigmoid(long double x) { return x < 0.0L ? x - log1pl(expl(x)) : -log1pl(expl(-x)); }

static long double param(const loss_case *c, const char *name, double fallback)
{
    for (int i = 0; i < c->params; i++)
        if (strcmp(c->param_values[i].name, name) == 0) return (long double)c->param_values[i].value;
    return (long double)fallback;
}

static long double expected(const loss_case *c, int i)
{
    const long double beta = param(c, "beta", 0.1), e = param(c, "label_smoothing", 0.0);
    const long double first = (long double)c->columns[0][i], second = (long double)c->columns[1][i];
    if (strcmp(c->loss, "dpo.sigmoid") == 0) {
        const long double h =
            beta * ((first - (long double)c->columns[2][i]) - (second - (long double)c->columns[3][i]));
        return -(1.0L - e) * log_sigmoid(h) - e * log_sigmoid(-h);
    }
    if (strcmp(c->loss, "dpo.ipo") == 0) {
        const long double h = (first - (long double)c->columns[2][i]) - (second - (long double)c->columns[3][i]);
        return (h - 0.5L / beta) * (h - 0.5L / beta);
    }
    if (strcmp(c->loss, "kto.kto") == 0) {
        const long double margin = beta * (first - second - (long double)c->columns[3][0]);
        const long double weight = param(c, c->flags[i] ? "desirable_weight" : "undesirable_weight", 1.0);
        return weight * (1.0L - expl(log_sigmoid(c->flags[i] ? margin : -margin)));
    }
    if (strcmp(c->loss, "cpo.sigmoid") == 0) {
        const long double u = beta * (first - second);
        long double nll = 0.0L;
        for (int k = 0; k < BATCH; k++) nll += (long double)c->columns[2][k];
        return -(1.0L - e) * log_sigmoid(u) - e * log_sigmoid(-u) +
               param(c, "cpo_alpha", 1.0) * nll / param(c, "nll_tokens", 1.0);
    }
    return -first * (long double)BATCH / param(c, "nll_tokens", 1.0);
}

static pfo_status run_case(loss_case *c, double *losses, double *grad, const char *grad_name, pfo_error *error)
{
    pfo_named_view inputs[8];
    pfo_named_view grads[1] = {{grad_name, pfo_view_1d(grad, PFO_F64, BATCH)}};
    for (int i = 0; i < c->inputs; i++) {
        inputs[i].name = c->input_names[i];
        inputs[i].view = pfo_view_1d(c->columns[i], PFO_F64, BATCH);
        if (strcmp(c->input_names[i], "desirable") == 0) inputs[i].view = pfo_view_1d(c->flags, PFO_BOOL, BATCH);
        if (strcmp(c->input_names[i], "kl") == 0) inputs[i].view = pfo_view_1d(c->columns[i], PFO_F64, 1);
    }
    pfo_loss_args args = {.loss = c->loss,
                          .inputs = inputs,
                          .input_count = c->inputs,
                          .params = c->param_values,
                          .param_count = c->params,
                          .losses = pfo_view_1d(losses, PFO_F64, BATCH),
                          .grads = grads,
                          .grad_count = grad_name ? 1 : 0};
    return pfo_loss(&args, error);
}

static void check_values(loss_case *c)
{
    double losses[BATCH];
    pfo_error error;
    const pfo_status status = run_case(c, losses, NULL, NULL, &error);
    CHECK(status == PFO_OK, "%s: %s", c->loss, error.message);
    for (int i = 0; i < BATCH; i++) {
        const long double want = expected(c, i);
        CHECK(fabsl((long double)losses[i] - want) <= 1e-14L * (1.0L + fabsl(want)),
              "%s [%d]: got %.17g, expected %.17Lg", c->loss, i, losses[i], want);
    }
}

/* Gradient of the sum of the losses with respect to one element, by a central difference. */
static void check_gradient(loss_case *c, int input)
{
    double losses[BATCH], grad[BATCH];
    pfo_error error;
    const double step = 1e-5;
    const pfo_status status = run_case(c, losses, grad, c->input_names[input], &error);
    CHECK(status == PFO_OK, "%s gradient: %s", c->loss, error.message);
    for (int i = 0; i < BATCH; i++) {
        double totals[2] = {0.0, 0.0};
        const double kept = c->columns[input][i];
        for (int side = 0; side < 2; side++) {
            c->columns[input][i] = kept + (side ? step : -step);
            for (int k = 0; k < BATCH; k++) totals[side] += (double)expected(c, k);
        }
        c->columns[input][i] = kept;
        const double quotient = (totals[1] - totals[0]) / (2.0 * step);
        CHECK(fabs(grad[i] - quotient) <= 1e-7 * (1.0 + fabs(quotient)), "%s d/d%s[%d]: got %.12g, quotient %.12g",
              c->loss, c->input_names[input], i, grad[i], quotient);
    }
}

static void fill_columns(loss_case *c, random_state *random)
{
    for (int input = 0; input < c->inputs; input++)
        for (int i = 0; i < BATCH; i++) c->columns[input][i] = -20.0 + 4.0 * random_normal(random);
    for (int i = 0; i < BATCH; i++) c->flags[i] = i % 3 != 1;
}

static void test_case(loss_case c, int gradients, random_state *random)
{
    fill_columns(&c, random);
    if (strcmp(c.loss, "kto.kto") == 0) c.columns[3][0] = 1.25;
    check_values(&c);
    for (int input = 0; input < gradients; input++) check_gradient(&c, input);
}

static void test_equal_policies(void)
{
    loss_case c = {.loss = "dpo.sigmoid", .inputs = 4};
    static const char *const names[] = {"policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps",
                                        "ref_rejected_logps"};
    random_state random = {6};
    double losses[BATCH];
    for (int i = 0; i < 4; i++) c.input_names[i] = names[i];
    fill_columns(&c, &random);
    memcpy(c.columns[2], c.columns[0], sizeof c.columns[0]);
    memcpy(c.columns[3], c.columns[1], sizeof c.columns[1]);
    CHECK(run_case(&c, losses, NULL, NULL, NULL) == PFO_OK, "policy == reference");
    for (int i = 0; i < BATCH; i++) CHECK(same_double(losses[i], 0x1.62e42fefa39efp-1), "ln 2, got %a", losses[i]);
    c.param_values[0] = (pfo_named_value){"beta", 0.0};
    c.params = 1;
    pfo_error error;
    losses[0] = -7.0;
    CHECK(run_case(&c, losses, NULL, NULL, &error) == PFO_ERROR_VALUE, "beta 0 was taken");
    CHECK(strcmp(error.argument, "beta") == 0 && same_double(losses[0], -7.0), "'%s': %s", error.argument,
          error.message);
    c.loss = "dpo.sigmoyd";
    CHECK(run_case(&c, losses, NULL, NULL, &error) != PFO_OK && strstr(error.message, "sigmoyd") != NULL, "'%s'",
          error.message);
}

static void test_rows_described(void)
{
    for (int row = 0; row < pfo_loss_count(); row++) {
        const pfo_loss_row *info = pfo_loss_info(row);
        CHECK(info && info->name && pfo_loss_find(info->name) == info, "row %d cannot be found by its name", row);
        CHECK(info && info->formula && info->source && info->source[0], "row %d lacks its formula or source", row);
    }
    CHECK(pfo_loss_info(-1) == NULL && pfo_loss_info(pfo_loss_count()) == NULL, "rows outside the list");
}

void test_losses(void)
{
    random_state random = {8};
    const loss_case cases[] = {
        {.loss = "dpo.sigmoid",
         .inputs = 4,
         .params = 2,
         .input_names = {"policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps"},
         .param_values = {{"beta", 0.3}, {"label_smoothing", 0.1}}},
        {.loss = "dpo.ipo",
         .inputs = 4,
         .params = 1,
         .input_names = {"policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps"},
         .param_values = {{"beta", 0.2}}},
        {.loss = "kto.kto",
         .inputs = 4,
         .params = 3,
         .input_names = {"policy_logps", "ref_logps", "desirable", "kl"},
         .param_values = {{"beta", 0.2}, {"desirable_weight", 1.5}, {"undesirable_weight", 0.75}}},
        {.loss = "cpo.sigmoid",
         .inputs = 3,
         .params = 4,
         .input_names = {"policy_chosen_logps", "policy_rejected_logps", "chosen_nll"},
         .param_values = {{"beta", 0.2}, {"label_smoothing", 0.05}, {"cpo_alpha", 0.7}, {"nll_tokens", 41.0}}},
        {.loss = "sft.nll",
         .inputs = 1,
         .params = 1,
         .input_names = {"policy_logps"},
         .param_values = {{"nll_tokens", 41.0}}},
    };
    static const int gradients[] = {2, 2, 1, 3, 1};
    for (int i = 0; i < 5; i++)
        for (int round = 0; round < 5; round++) test_case(cases[i], gradients[i], &random);
    test_equal_policies();
    test_rows_described();
}

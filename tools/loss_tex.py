"""The formulas of docs/losses.md and docs/losses.html in TeX: value and gradient, one entry a row.

Typed beside `prefopt/reference`; `gen_loss_docs.py` refuses a row without an entry and a
differentiable input without a derivative. Each string is one line of a display. GitHub's Markdown
takes a backslash before punctuation away, so that line breaks and spacing such as `\\,` are not used.
"""

from __future__ import annotations

from typing import NamedTuple


class Tex(NamedTuple):
    """loss: the value; where: what the derivatives are written with; grads: by input name."""

    loss: tuple[str, ...]
    where: tuple[str, ...] = ()
    grads: dict[str, str] = {}  # noqa: RUF012


# What a derivative is taken by.
SYMBOLS = {
    "policy_chosen_logps": r"\log\pi_w",
    "policy_rejected_logps": r"\log\pi_l",
    "policy_logps": r"\log\pi",
    "chosen_kl": "K_w",
    "rejected_kl": "K_l",
    "policy_chosen_token_logps": r"\log\pi_{w,t}",
    "policy_rejected_token_logps": r"\log\pi_{l,t}",
    "chosen_nll": r"\mathrm{nll}_i",
    "gold_nll": r"\mathrm{nll}_i",
    "target_nll": r"\mathrm{nll}",
    "chosen_scores": "s_w",
    "rejected_scores": "s_l",
    "logps": r"\log\pi_t",
    "values": "V_t",
}


def pair(w: str, l: str) -> dict[str, str]:  # noqa: E741
    """Derivatives by the two answers' log-probabilities."""
    return {"policy_chosen_logps": w, "policy_rejected_logps": l}


SLOPE = r"s = \beta \left( e \sigma(\beta d) - (1 - e) \sigma(-\beta d) \right)"
BETA_D, BETA_U = r"\beta d", r"\beta u"
D = "d = g(D_w) - g(D_l)"
D_NORM = r"d = \frac{g(D_w)}{N_w} - \frac{g(D_l)}{N_l}"
BY_D = pair(r"s \cdot g'(D_w)", r"-s \cdot g'(D_l)")
BY_D_NORM = pair(r"\frac{s}{N_w} \cdot g'(D_w)", r"-\frac{s}{N_l} \cdot g'(D_l)")
BY_MARGIN = pair("s", "-s")


def smoothed(x: str) -> str:
    """The logistic loss of x, a product, with label smoothing."""
    return rf"-(1 - e) \log\sigma({x}) - e \log\sigma(-{x})"


DPO = {
    "dpo.sigmoid": Tex((f"L = {smoothed(BETA_D)}", D), (SLOPE,), BY_D),
    "dpo.robust": Tex(
        (
            r"L = \frac{-(1 - e) \log\sigma(\beta d) + e \log\sigma(-\beta d)}{1 - 2 e}",
            D,
        ),
        (r"s = -\beta \frac{(1 - e) \sigma(-\beta d) + e \sigma(\beta d)}{1 - 2 e}",),
        BY_D,
    ),
    "dpo.hinge": Tex(
        (r"L = \max(0, 1 - \beta d)", D),
        (r"s = -\beta \text{ where } \beta d < 1, \text{ else } 0",),
        BY_D,
    ),
    "dpo.ipo": Tex(
        (r"L = \left( d - \frac{1}{2 \beta} \right)^2", D_NORM, r"N = 1 \text{ without lengths}"),
        (r"s = 2 \left( d - \frac{1}{2 \beta} \right)",),
        BY_D_NORM,
    ),
    "dpo.exo_pair": Tex(
        (
            r"L = q \log\frac{q}{1 - e} + (1 - q) \log\frac{1 - q}{e}",
            r"q = \sigma(\beta d)",
            D,
        ),
        (r"s = \beta q (1 - q) \left( \beta d + \log e - \log(1 - e) \right)",),
        BY_D,
    ),
    "dpo.nca_pair": Tex(
        (
            r"L = -\log\sigma(\beta D_w) - \frac{1}{2} \log\sigma(-\beta D_w)"
            r" - \frac{1}{2} \log\sigma(-\beta D_l)",
        ),
        (),
        pair(
            r"\beta \left( \frac{1}{2} \sigma(\beta D_w) - \sigma(-\beta D_w) \right)",
            r"\frac{\beta}{2} \sigma(\beta D_l)",
        ),
    ),
    "dpo.sppo_hard": Tex(
        (
            r"L = \left( D_w - \frac{1}{2 \beta} \right)^2"
            r" + \left( D_l + \frac{1}{2 \beta} \right)^2",
        ),
        (),
        pair(
            r"2 \left( D_w - \frac{1}{2 \beta} \right)", r"2 \left( D_l + \frac{1}{2 \beta} \right)"
        ),
    ),
    "dpo.sppo_soft": Tex(
        (r"L = t_w^2 + t_l^2", r"t_s = D_s - \frac{1}{\beta} \left( P_s - \frac{1}{2} \right)"),
        (),
        pair("2 t_w", "2 t_l"),
    ),
    "dpo.bco_pair": Tex(
        (r"L = -\log\sigma(\beta D_w - \delta) - \log\sigma(-(\beta D_l - \delta))",),
        (),
        pair(r"-\beta \sigma(\delta - \beta D_w)", r"\beta \sigma(\beta D_l - \delta)"),
    ),
    "dpo.aot": Tex(
        (
            f"L_i = {smoothed(BETA_U)}",
            r"u = x_{(k)} - y_{(k)}, \quad x_{(k)} = x_i",
            r"x = \log\pi_w - \log\pi_l, \quad"
            r" y = \log\pi_{\mathrm{ref},w} - \log\pi_{\mathrm{ref},l}"
            r" \quad \text{each sorted over the batch}",
        ),
        (SLOPE.replace(" d", " u"),),
        BY_MARGIN,
    ),
    "dpo.aot_unpaired": Tex(
        (
            f"L_i = {smoothed(BETA_U)}",
            r"u = x_{(k)} - y_{(k)}, \quad x_{(k)} = x_i",
            r"x = D_w, \quad y = D_l \quad \text{each sorted over the batch}",
        ),
        (SLOPE.replace(" d", " u"),),
        pair(
            "s",
            r"-s \text{ of the pair } (x_{(k)}, y_{(k)}) \text{ that it is } y_{(k)} \text{ of}",
        ),
    ),
    "dpo.apo_zero": Tex(
        (r"L = 1 - \sigma(\beta D_w) + \sigma(\beta D_l)",),
        (),
        pair(r"-\beta \sigma'(\beta D_w)", r"\beta \sigma'(\beta D_l)"),
    ),
    "dpo.apo_down": Tex(
        (r"L = \sigma(\beta D_w) + 1 - \sigma(\beta (D_w - D_l))",),
        (),
        pair(
            r"\beta \sigma'(\beta D_w) - \beta \sigma'(\beta (D_w - D_l))",
            r"\beta \sigma'(\beta (D_w - D_l))",
        ),
    ),
    "dpo.discopop": Tex(
        (
            r"L = -(1 - m) \log\sigma(x) + m e^{-x}",
            r"x = \beta d, \quad m = \sigma(x / \tau)",
            D,
        ),
        (
            r"s = \beta \left( -(1 - m) \sigma(-x) + \frac{m (1 - m)}{\tau} \log\sigma(x)"
            r" + m e^{-x} \left( \frac{1 - m}{\tau} - 1 \right) \right)",
        ),
        BY_D,
    ),
    "dpo.sigmoid_norm": Tex(
        (f"L = {smoothed(BETA_D)}", D_NORM, r"N = 1 \text{ without lengths}"),
        (SLOPE,),
        BY_D_NORM,
    ),
    "dpo.sft": Tex(
        (r"L = -\frac{B}{\mathrm{tokens}} \log\pi_w",),
        (),
        {"policy_chosen_logps": r"-\frac{B}{\mathrm{tokens}}"},
    ),
    "dpo.kto_pair": Tex(
        (
            r"L = \frac{1}{2} \left( 1 - \sigma(\beta (D_w - z_l)) \right)"
            r" + \frac{1}{2} \left( 1 - \sigma(\beta (z_w - D_l)) \right)",
            r"z_s = \operatorname{sg}\left( \max(0, \mathrm{mean}(D_s)) \right)",
        ),
        (),
        pair(
            r"-\frac{\beta}{2} \sigma'(\beta (D_w - z_l))",
            r"\frac{\beta}{2} \sigma'(\beta (z_w - D_l))",
        ),
    ),
}

RELATIVES = {
    "rdpo.sigmoid": Tex(
        (r"L = -\log\sigma(x)", r"x = \beta D + \alpha (N_w - N_l)"),
        (r"s = -\beta \sigma(-x)",),
        BY_MARGIN,
    ),
    "dpop.sigmoid": Tex(
        (r"L = -\log\sigma(x)", r"x = \beta \left( D - \lambda \max(0, -D_w) \right)"),
        (r"s = -\beta \sigma(-x)",),
        pair(r"s (1 + \lambda) \text{ where } D_w < 0, \text{ else } s", "-s"),
    ),
    "odpo.sigmoid": Tex(
        (r"L = -\log\sigma(x)", r"x = \beta D - \alpha \cdot \mathrm{margin}"),
        (r"s = -\beta \sigma(-x)",),
        BY_MARGIN,
    ),
    "cal_dpo.sigmoid": Tex(
        (
            r"L = -\log\sigma(D) + c \left( D_w - \frac{1}{2 \beta} \right)^2"
            r" + c \left( D_l + \frac{1}{2 \beta} \right)^2",
        ),
        (),
        pair(
            r"-\sigma(-D) + 2 c \left( D_w - \frac{1}{2 \beta} \right)",
            r"\sigma(-D) + 2 c \left( D_l + \frac{1}{2 \beta} \right)",
        ),
    ),
    "spin.sigmoid": Tex(
        (r"L = -\log\sigma(\beta D)",), (r"s = -\beta \sigma(-\beta D)",), BY_MARGIN
    ),
    "beta_dpo.sigmoid": Tex(
        (
            r"L = -\frac{B}{\mathrm{kept}} \log\sigma(b D) \text{ where kept, else } 0",
            r"b = \operatorname{sg}\left( \max\left( \beta \left( 1 + \alpha"
            r" \left( \mathrm{mean}_{\mathrm{kept}}(\beta D) - \mathrm{mean} \right) \right),"
            r" b_{\min} \right) \right)",
        ),
        (r"s = -\frac{B}{\mathrm{kept}} b \sigma(-b D) \text{ where kept, else } 0",),
        BY_MARGIN,
    ),
    "tdpo.tdpo1": Tex(
        (
            r"L = -\log\sigma(x)",
            r"x = \beta \left( D - (K_l - K_w) \right)",
            r"K_s = \sum_t \mathrm{KL}(\pi_{\mathrm{ref}} \Vert \pi)",
        ),
        (r"s = -\beta \sigma(-x)",),
        {**BY_MARGIN, "chosen_kl": "s", "rejected_kl": "-s"},
    ),
    "tdpo.tdpo2": Tex(
        (
            r"L = -\log\sigma(x)",
            r"x = \beta \left( D - \alpha (K_l - \operatorname{sg}(K_w)) \right)",
            r"K_s = \sum_t \mathrm{KL}(\pi_{\mathrm{ref}} \Vert \pi)",
        ),
        (r"s = -\beta \sigma(-x)",),
        {**BY_MARGIN, "chosen_kl": "0", "rejected_kl": r"-\alpha s"},
    ),
    "sampo.sigmoid": Tex(
        (
            r"L = -\log\sigma(\beta D)",
            r"D_s = \sum_{t \in \mathrm{sample}} \left( \log\pi_{s,t}"
            r" - \log\pi_{\mathrm{ref},s,t} \right)",
        ),
        (r"s = -\beta \sigma(-\beta D)",),
        {
            "policy_chosen_token_logps": r"s \text{ where sampled, else } 0",
            "policy_rejected_token_logps": r"-s \text{ where sampled, else } 0",
        },
    ),
    "eps_dpo.sigmoid": Tex(
        (
            r"L = -\log\sigma(b D)",
            r"b = \operatorname{sg}\left( \frac{\beta}{1 + \varepsilon \cdot \mathrm{step}} \right)",
            r"\mathrm{step} = \mathbb{1}[u^+ > u > u^-] - \mathbb{1}[u^- > u > u^+],"
            r" \quad u = \log\pi_w - \log\pi_l",
        ),
        (r"s = -b \sigma(-b D)",),
        BY_MARGIN,
    ),
}

UNPAIRED = {
    "kto.kto": Tex(
        (
            r"\text{desirable: } L = \lambda_D \left( 1 - \sigma(\beta (D - z_0)) \right)",
            r"\text{undesirable: } L = \lambda_U \left( 1 - \sigma(\beta (z_0 - D)) \right)",
        ),
        (),
        {
            "policy_logps": r"-\lambda_D \beta \sigma'(\beta (D - z_0))"
            r" \text{ or } \lambda_U \beta \sigma'(\beta (z_0 - D))"
        },
    ),
    "kto.apo_zero_unpaired": Tex(
        (
            r"\text{desirable: } L = \lambda_D \left( 1 - \sigma(\beta D) \right)",
            r"\text{undesirable: } L = \lambda_U \sigma(\beta D)",
        ),
        (),
        {
            "policy_logps": r"-\lambda_D \beta \sigma'(\beta D)"
            r" \text{ or } \lambda_U \beta \sigma'(\beta D)"
        },
    ),
    "bco.bco": Tex(
        (
            r"\text{desirable: } L = -\log\sigma(\beta D - \delta)",
            r"\text{undesirable: } L = -w \log\sigma(-(\beta D - \delta))",
        ),
        (),
        {
            "policy_logps": r"-\beta \sigma(\delta - \beta D)"
            r" \text{ or } w \beta \sigma(\beta D - \delta)"
        },
    ),
    "sft.nll": Tex(
        (r"L = -\frac{B}{\mathrm{tokens}} \log\pi",),
        (),
        {"policy_logps": r"-\frac{B}{\mathrm{tokens}}"},
    ),
}

"""The TeX of losses without a reference, over tokens, and of procedures; see `loss_tex.py`."""

from __future__ import annotations

from loss_tex import Tex, pair, smoothed

NLL = r"\frac{1}{\mathrm{tokens}} \sum_i \mathrm{nll}_i"
SHAPE = r"r_s = x_s \text{ for } \alpha = 0, \text{ else } \frac{1 - e^{-\alpha x_s}}{\alpha}"
SUMS = (r"u = r_w - r_l", SHAPE, r"x_s = \log\pi_s")
AVERAGES = (r"u = r_w - r_l", SHAPE, r"x_s = a_s = \frac{1}{N_s} \log\pi_s")
BY_SUMS = pair(r"s e^{-\alpha x_w}", r"-s e^{-\alpha x_l}")
BY_AVERAGES = pair(r"\frac{s}{N_w} e^{-\alpha a_w}", r"-\frac{s}{N_l} e^{-\alpha a_l}")
BY_PLAIN = pair("s", "-s")
BY_PLAIN_AVERAGES = pair(r"\frac{s}{N_w}", r"-\frac{s}{N_l}")


def share(weight: str) -> str:
    """The derivative by one answer's NLL of the batch's losses, with weights g."""
    return rf"\frac{{{weight}}}{{\mathrm{{tokens}}}} \text{{ from each of the }} B \text{{ losses}}"


CPO_NLL = {"chosen_nll": share(r"\alpha_{\mathrm{cpo}}")}
TPO_NLL = {"gold_nll": share(r"\alpha_{\mathrm{tpo}}")}
PLUS_CPO = r" + \alpha_{\mathrm{cpo}} " + NLL
PLUS_TPO = r" + \alpha_{\mathrm{tpo}} " + NLL
SLOPE = r"s = \beta \left( e \sigma(x) - (1 - e) \sigma(-x) \right)"
HINGE = r"s = -\beta \text{ where } x < 1, \text{ else } 0"
IPO = r"s = 2 \left( u - \frac{1}{2 \beta} \right)"
PLAIN = r"u = \log\pi_w - \log\pi_l"
PLAIN_AVERAGES = r"u = \frac{1}{N_w} \log\pi_w - \frac{1}{N_l} \log\pi_l"

CONTRASTIVE = {
    "cpo.sigmoid": Tex(
        (f"L = {smoothed('x')}{PLUS_CPO}", r"x = \beta u", *SUMS), (SLOPE,), {**BY_SUMS, **CPO_NLL}
    ),
    "cpo.hinge": Tex(
        (rf"L = \max(0, 1 - x){PLUS_CPO}", r"x = \beta u", *SUMS), (HINGE,), {**BY_SUMS, **CPO_NLL}
    ),
    "cpo.ipo": Tex(
        (rf"L = \left( u - \frac{{1}}{{2 \beta}} \right)^2{PLUS_CPO}", *AVERAGES),
        (IPO,),
        {**BY_AVERAGES, **CPO_NLL},
    ),
    "cpo.simpo": Tex(
        (f"L = {smoothed('x')}{PLUS_CPO}", r"x = \beta u - \gamma", *AVERAGES),
        (SLOPE,),
        {**BY_AVERAGES, **CPO_NLL},
    ),
    "cpo.simpo_hinge": Tex(
        (rf"L = \max(0, 1 - x){PLUS_CPO}", r"x = \beta u - \gamma", *AVERAGES),
        (HINGE,),
        {**BY_AVERAGES, **CPO_NLL},
    ),
    "orpo.orpo": Tex(
        (
            r"L = -\beta \log\sigma(o) + c " + NLL,
            r"o = \log\frac{p_w}{1 - p_w} - \log\frac{p_l}{1 - p_l}",
            r"p_s = e^{a_s}, \quad a_s = \frac{1}{N_s} \log\pi_s",
        ),
        (r"q_s = 1 - p_s, \quad v = \frac{p_w}{p_l} q_l + q_w",),
        {
            **pair(r"-\frac{\beta}{N_w v}", r"\frac{\beta q_w}{N_l q_l v}"),
            "chosen_nll": share("c"),
        },
    ),
    "slic.hinge": Tex(
        (r"L = \max(0, \delta - \log\pi_w + \log\pi_l) + \lambda \cdot \mathrm{nll}",),
        (r"s = -1 \text{ where } \log\pi_w - \log\pi_l < \delta, \text{ else } 0",),
        {**BY_PLAIN, "target_nll": r"\lambda"},
    ),
    "simper.simper": Tex(
        (r"L = -e^{a_w} + e^{a_l}", r"a_s = \frac{1}{N_s} \log\pi_s"),
        (),
        pair(r"-\frac{1}{N_w} e^{a_w}", r"\frac{1}{N_l} e^{a_l}"),
    ),
    "arpo.sigmoid": Tex(
        (
            f"L = {smoothed('x')}{PLUS_CPO}",
            r"x = \beta \left( \log\pi_w - p \log\pi_l \right)",
            r"p = \min\left( 1, c_1 e^{c_2 \left| h \right|} - 1 \right), \quad h = a_w - a_l",
        ),
        (
            SLOPE,
            r"p' = c_1 c_2 e^{c_2 \left| h \right|} \operatorname{sign}(h)"
            r" \text{ where } p < 1, \text{ else } 0",
        ),
        {
            **pair(
                r"s \left( 1 - \frac{p'}{N_w} \log\pi_l \right)",
                r"s \left( \frac{p'}{N_l} \log\pi_l - p \right)",
            ),
            **CPO_NLL,
        },
    ),
    "tpo.sigmoid": Tex(
        (f"L = {smoothed('x')}{PLUS_TPO}", r"x = \beta u", PLAIN), (SLOPE,), {**BY_PLAIN, **TPO_NLL}
    ),
    "tpo.hinge": Tex(
        (rf"L = \max(0, 1 - x){PLUS_TPO}", r"x = \beta u", PLAIN), (HINGE,), {**BY_PLAIN, **TPO_NLL}
    ),
    "tpo.ipo": Tex(
        (rf"L = \left( u - \frac{{1}}{{2 \beta}} \right)^2{PLUS_TPO}", PLAIN_AVERAGES),
        (IPO,),
        {**BY_PLAIN_AVERAGES, **TPO_NLL},
    ),
    "tpo.tpo_l": Tex(
        (f"L = {smoothed('x')}{PLUS_TPO}", r"x = \beta u - \gamma", PLAIN_AVERAGES),
        (SLOPE,),
        {**BY_PLAIN_AVERAGES, **TPO_NLL},
    ),
    "reward_model.bradley_terry": Tex(
        (r"L = -\log\sigma(s_w - s_l - m) + c (s_w + s_l)^2",),
        (r"v = -\sigma(-(s_w - s_l - m))",),
        {"chosen_scores": "v + 2 c (s_w + s_l)", "rejected_scores": "-v + 2 c (s_w + s_l)"},
    ),
}

RATIO = r"\rho = e^{\log\pi_t - \log\pi_{\mathrm{old},t}}"
BOUNDED = r"\operatorname{clip}(\rho, 1 - \varepsilon, 1 + \varepsilon_{\mathrm{high}}) A"
PPO = rf"\min\left( \rho A, {BOUNDED} \right)"
PPO_SLOPE = rf"\ell' = -\rho A \text{{ where }} \rho A \le {BOUNDED}, \text{{ else }} 0"
TOKENS = r"L = \frac{B}{\mathrm{tokens}} \sum_t \ell_t"
KL_R = r"r = \log\pi_t - \log\pi_{\mathrm{ref},t}, \text{ clamped to } \pm\mathrm{limit}"
KL3 = r"k_3 = e^{-r} - 1 + r, \quad r = \log\pi_t - \log\pi_{\mathrm{ref},t}"
GROUP = (
    rf"\ell_t = -\min\left( \min(\rho, \delta) A, {BOUNDED} \right) + \beta_{{\mathrm{{kl}}}} k_3",
    RATIO,
    KL3,
)
GROUP_SLOPE = (
    rf"\ell' = -\rho A \text{{ where }} \rho A \le {BOUNDED} \text{{ and }} \rho \le \delta,"
    r" \text{ else } 0",
)
KL_SLOPE = r"\beta_{\mathrm{kl}} (1 - e^{-r})"


def group(weight: str) -> dict[str, str]:
    """The derivative of a weighted sum of the group methods' token losses."""
    return {"logps": rf"{weight} \left( \ell' + {KL_SLOPE} \right)"}


OVER_TOKENS = {
    "ppo.clip": Tex(
        (TOKENS, rf"\ell_t = -{PPO}", RATIO),
        (PPO_SLOPE,),
        {"logps": r"\frac{B}{\mathrm{tokens}} \ell'"},
    ),
    "ppo.dual_clip": Tex(
        (
            TOKENS,
            rf"\ell_t = -{PPO} \text{{, for }} A < 0 \text{{ at most }} c \left| A \right|",
            RATIO,
        ),
        (PPO_SLOPE, r"\ell' = 0 \text{ where the bound } c \left| A \right| \text{ holds}"),
        {"logps": r"\frac{B}{\mathrm{tokens}} \ell'"},
    ),
    "ppo.value_clip": Tex(
        (
            TOKENS,
            r"\ell_t = \frac{1}{2} \max\left( (V_t - R_t)^2, (\bar V_t - R_t)^2 \right)",
            r"\bar V_t = V_{\mathrm{old},t} + \operatorname{clip}(V_t - V_{\mathrm{old},t}, -c, c)",
        ),
        (r"\ell' = V_t - R_t \text{ where the first is the larger, else } 0",),
        {"values": r"\frac{B}{\mathrm{tokens}} \ell'"},
    ),
    "kl.k1": Tex(("L_t = r", KL_R), (), {"logps": r"1 \text{, } 0 \text{ where clamped}"}),
    "kl.k2": Tex(
        (r"L_t = \frac{r^2}{2}", KL_R), (), {"logps": r"r \text{, } 0 \text{ where clamped}"}
    ),
    "kl.k3": Tex(
        ("L_t = e^{-r} - 1 + r", KL_R),
        (),
        {"logps": r"1 - e^{-r} \text{, } 0 \text{ where clamped}"},
    ),
    "grpo.grpo": Tex(
        (r"L = \frac{1}{N} \sum_t \ell_t", *GROUP), GROUP_SLOPE, group(r"\frac{1}{N}")
    ),
    "grpo.dr_grpo": Tex(
        (r"L = \frac{1}{N_{\max}} \sum_t \ell_t", *GROUP), GROUP_SLOPE, group(r"\frac{1}{N_{\max}}")
    ),
    "grpo.dapo": Tex((TOKENS, *GROUP), GROUP_SLOPE, group(r"\frac{B}{\mathrm{tokens}}")),
    "grpo.bnpo": Tex((TOKENS, *GROUP), GROUP_SLOPE, group(r"\frac{B}{\mathrm{tokens}}")),
    "grpo.gspo": Tex(
        (
            rf"L = -\min\left( \min(\rho, \delta) A, {BOUNDED} \right)"
            r" + \beta_{\mathrm{kl}} \frac{1}{N} \sum_t k_3",
            r"\rho = e^{\frac{1}{N} \sum_t (\log\pi_t - \log\pi_{\mathrm{old},t})}"
            r" \text{, one for the answer}",
            KL3,
        ),
        GROUP_SLOPE,
        group(r"\frac{1}{N}"),
    ),
    "grpo.cispo": Tex(
        (
            TOKENS,
            r"\ell_t = -w A \log\pi_t + \beta_{\mathrm{kl}} k_3",
            r"w = \operatorname{sg}\left( \operatorname{clip}(\rho, \varepsilon_{\mathrm{low}},"
            r" \varepsilon_{\mathrm{high}}) \right)",
            RATIO,
            KL3,
        ),
        (r"\ell' = -w A",),
        group(r"\frac{B}{\mathrm{tokens}}"),
    ),
    "grpo.sapo": Tex(
        (
            r"L = \frac{1}{N} \sum_t \ell_t",
            r"\ell_t = -\frac{4}{\tau} \sigma(\tau (\rho - 1)) A + \beta_{\mathrm{kl}} k_3",
            r"\tau = \tau_{\mathrm{pos}} \text{ where } A > 0, \text{ else } \tau_{\mathrm{neg}}",
            RATIO,
            KL3,
        ),
        (r"\ell' = -4 \sigma'(\tau (\rho - 1)) \rho A",),
        group(r"\frac{1}{N}"),
    ),
}

PROCEDURES = {
    "bco.delta": Tex(
        (r"\delta' = \frac{n \delta + \sum_i r_i}{n + B}, \quad n' = n + B",),
    ),
    "bco.udm_weights": Tex(
        (
            r"w = \operatorname{clip}\left( \frac{p}{1 - p + 10^{-8}},"
            r" \mathrm{min}, \mathrm{max} \right)",
        ),
    ),
    "beta_dpo.state": Tex(
        (
            r"\mu' = m \mu + (1 - m) \cdot \mathrm{mean}(A), \quad"
            r" \sigma' = m \sigma + (1 - m) \cdot \mathrm{std}(A)",
        ),
    ),
    "beta_dpo.keep": Tex(
        (
            r"\text{the } \lceil \mathrm{ratio} \cdot B \rceil"
            r" \text{ pairs with the largest } u^{1 / w},"
            r" \quad w = e^{-\frac{1}{2} \left( \frac{A - \mu}{\sigma} \right)^2}",
        ),
    ),
    "eps_dpo.beta": Tex(
        (r"\beta' = \frac{\beta}{1 + \varepsilon \cdot \mathrm{mean}(\mathrm{steps})}",),
    ),
    "sampo.indices": Tex(
        (r"\text{the } \min(N_w, N_l) \text{ tokens of each answer with the smallest } u",),
    ),
    "rso.accept": Tex((r"\text{accept where } u < e^{(r - \max r) / \beta}",)),
    "gae.gae": Tex(
        (
            r"A_t = \delta_t + \gamma \lambda A_{t+1}, \quad"
            r" \delta_t = r_t + \gamma V_{t+1} - V_t",
            r"R_t = A_t + V_t",
        ),
    ),
    "tr_dpo.mix": Tex(
        (r"\theta_{\mathrm{ref}}' = \alpha \theta + (1 - \alpha) \theta_{\mathrm{ref}}",)
    ),
}

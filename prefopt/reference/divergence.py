"""Log-ratios under an f-divergence: what takes the place of D = pi - ref in a loss of pairs.

Wang et al. 2023, arXiv 2309.16240, table 1, as huggingface/trl 1.x writes it. With f'(u) the
derivative of the divergence's generator at u = exp(D), up to a constant that cancels in a pair:

    reverse_kl         g(D) = D
    forward_kl         g(D) = 1 - exp(-D)
    js_divergence      g(D) = log(2 exp(D) / (1 + exp(D))) = ln 2 + log sigma(D)
    alpha_divergence   g(D) = (exp((a - 1) D) - 1) / (a - 1);  a -> 1 is reverse_kl, a = 0 forward_kl
The paper's alpha counts from the other end: a = 1 - alpha.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prefopt.reference.scalar import (
    Float64,
    exp_difference,
    minus_log_sigmoid,
    per_token,
    sigmoid,
    times,
)


class Margin(NamedTuple):
    """d = g(D_w) / N_w - g(D_l) / N_l, and its derivatives by D_w and D_l."""

    value: Float64
    by_w: Float64
    by_l: Float64


def margin(
    D_w: Float64,
    D_l: Float64,
    N_w: Float64 | None = None,
    N_l: Float64 | None = None,
    *,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
    f_exponent_cap: float = np.inf,
) -> Margin:
    """The margin d of pairs. Without lengths N is 1; exponents stop at `f_exponent_cap`."""
    if f_divergence_type == "js_divergence":
        value = per_token(_js(D_w), N_w) - per_token(_js(D_l), N_l)
        return Margin(value, per_token(sigmoid(-D_w), N_w), per_token(-sigmoid(-D_l), N_l))
    order = {"forward_kl": -1.0, "alpha_divergence": f_alpha_divergence_coef - 1}.get(
        f_divergence_type, 0.0
    )
    if order == 0:
        ones = np.ones_like(D_w)
        value = per_token(D_w, N_w) - per_token(D_l, N_l)
        return Margin(value, per_token(ones, N_w), per_token(-ones, N_l))
    return _power_margin(order, D_w, D_l, N_w, N_l, f_exponent_cap)


def _js(D: Float64) -> Float64:
    """ln 2 + log sigma(D); near D = 0, where the two cancel, -log(1 + (exp(-D) - 1) / 2)."""
    near = -np.log1p(np.expm1(-np.maximum(D, -1.0)) / 2)
    return np.where(D >= -1, near, np.log(2) - minus_log_sigmoid(D))


def _power_margin(
    order: float,
    D_w: Float64,
    D_l: Float64,
    N_w: Float64 | None,
    N_l: Float64 | None,
    cap: float,
) -> Margin:
    """Of g(D) = (exp(order D) - 1) / order; the gradient is 0 where the exponent is capped."""
    x_w, x_l = np.minimum(order * D_w, cap), np.minimum(order * D_l, cap)
    value = per_token(np.expm1(x_w), N_w) - per_token(np.expm1(x_l), N_l)
    # Both may overflow: log N turns the quotients into exponentials, of which one is the larger.
    logs = [0.0 if n is None else np.log(np.where(n > 0, n, 1.0)) for n in (N_w, N_l)]
    is_overflow = np.isnan(value) & np.isfinite(D_w) & np.isfinite(D_l)
    value = np.where(is_overflow, exp_difference(x_w - logs[0], x_l - logs[1]), value)
    by_w = np.where(order * D_w <= cap, np.exp(x_w), 0.0)
    by_l = np.where(order * D_l <= cap, np.exp(x_l), 0.0)
    return Margin(value / order, per_token(by_w, N_w), per_token(-by_l, N_l))


def by_ratios(g: Float64, slope: Float64, d: Margin) -> dict[str, Float64]:
    """Gradients of a loss of d with derivative `slope`: a slope of 0 outruns an overflow of d."""
    return {"D_w": times(g * slope, d.by_w), "D_l": times(g * slope, d.by_l)}

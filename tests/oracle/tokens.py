"""Losses over tokens: PPO, KL estimates, group methods. Inputs are [B, T]; masked tokens are out."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from oracle.core import Formula, register, rows
from oracle.dual import (
    Dual,
    clamped,
    dual,
    exp,
    largest_of,
    sigmoid,
    smallest_of,
    stop_gradient,
    total,
)

INFINITY = float("inf")
CLIP = {"epsilon": 0.2, "epsilon_high": None}
GROUP = "advantages old_logps? ref_token_logps? mask?"
Token = Callable[[Any, Any], Any]


# ---- tokens and their means ----------------------------------------------------------------------


def tokens(row: Any) -> list[Any]:
    """The counted tokens of an answer; without old_logps the policy is its own, as a constant."""
    width = len(next(v for v in vars(row).values() if isinstance(v, list)))
    found = []
    for t in range(width):
        if row.mask is None or row.mask[t]:
            here = {k: v[t] if isinstance(v, list) else v for k, v in vars(row).items()}
            if "logps" in here and here.get("old_logps") is None:
                here["old_logps"] = stop_gradient(here["logps"])
            found.append(SimpleNamespace(**here))
    return found


def number_of_tokens(x: Any) -> int:
    """Counted tokens of the batch."""
    return sum(len(tokens(row)) for row in rows(x))


def share(numerator: Any, denominator: Any) -> Any:
    """A weight, 0 where there is nothing to divide by."""
    return numerator / dual(denominator) if denominator else dual(0)


def token_mean(token: Token) -> Formula:
    """B / num_tokens times each row's sum: their mean is the mean over the tokens."""

    def formula(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
        weight = share(x.size, p.num_tokens if p.num_tokens is not None else number_of_tokens(x))
        return [weight * total(token(t, p) for t in tokens(row)) for row in rows(x)], {}

    return formula


def sequence_mean(token: Token) -> Formula:
    """The mean over each row's tokens."""

    def formula(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
        means = [(total(token(t, p) for t in tokens(row)), len(tokens(row))) for row in rows(x)]
        return [value * share(1, count) for value, count in means], {}

    return formula


def fixed_length(token: Token) -> Formula:
    """Each row's sum over a constant length, the width of the batch unless given."""

    def formula(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
        length = p.max_completion_length
        length = len(x.logps[0]) if length is None else length
        return [total(token(t, p) for t in tokens(row)) * share(1, length) for row in rows(x)], {}

    return formula


def elementwise(token: Token) -> Formula:
    """A loss for every token, 0 where masked."""

    def formula(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
        losses = []
        for row in rows(x):
            found = iter(tokens(row))
            counted = row.mask or [True] * len(row.logps)
            losses.append([token(next(found), p) if counts else dual(0) for counts in counted])
        return losses, {}

    return formula


def token_loss(
    name: str, mean: Callable[[Token], Formula], inputs: str, constants: str, **parameters: Any
) -> Callable[[Token], Token]:
    """Registers the loss of one token under the mean that puts tokens together."""

    def take(token: Token) -> Token:
        formula = mean(token)
        formula.__doc__ = token.__doc__
        register(name, inputs=inputs, constants=constants, parameters=parameters)(formula)
        return token

    return take


# ---- PPO -----------------------------------------------------------------------------------------


def surrogate(ratio: Dual, advantage: Dual, p: Any, cap: Any = INFINITY) -> Dual:
    """min(min(rho, cap) A, clip(rho, 1 - e, 1 + e_high) A); at a tie the first."""
    high = p.epsilon if p.epsilon_high is None else p.epsilon_high
    capped = smallest_of(ratio, cap)
    clipped = clamped(ratio, 1 - p.epsilon, 1 + high)
    if capped is clipped:
        return capped * advantage
    return smallest_of(capped * advantage, clipped * advantage)


def ppo_ratio(t: Any, p: Any) -> Dual:
    """rho = exp(logp - old), its exponent bounded."""
    return exp(clamped(t.logps - t.old_logps, -p.log_ratio_limit, p.log_ratio_limit))


PPO = ("logps", "old_logps token_advantages mask?")


@token_loss("ppo.clip", token_mean, *PPO, **CLIP, log_ratio_limit=INFINITY, num_tokens=None)
def _ppo_clip(t: Any, p: Any) -> Dual:
    """PPO (arXiv 1707.06347) eq. 7."""
    return -surrogate(ppo_ratio(t, p), t.token_advantages, p)


@token_loss(
    "ppo.dual_clip",
    token_mean,
    *PPO,
    **CLIP,
    dual_clip=3.0,
    log_ratio_limit=INFINITY,
    num_tokens=None,
)
def _ppo_dual_clip(t: Any, p: Any) -> Dual:
    """Dual-clip PPO (arXiv 1912.09729) eq. 5: max(PPO's, c A) where A < 0, a constant at the bound."""
    objective = surrogate(ppo_ratio(t, p), t.token_advantages, p)
    bound = p.dual_clip * t.token_advantages
    return -(bound if t.token_advantages < 0 and objective <= bound else objective)


@token_loss(
    "ppo.value_clip",
    token_mean,
    "values",
    "old_values returns mask?",
    value_clip=0.2,
    num_tokens=None,
)
def _value_clip(t: Any, p: Any) -> Dual:
    """OpenAI baselines ppo2/model.py: 1/2 max((v - R)^2, (old + clip(v - old, +-c) - R)^2)."""
    clipped = t.old_values + clamped(t.values - t.old_values, -p.value_clip, p.value_clip)
    return largest_of((t.values - t.returns) ** 2, (clipped - t.returns) ** 2) / 2


# ---- KL estimates --------------------------------------------------------------------------------

KL = ("logps", "ref_token_logps mask?")


def difference(t: Any, p: Any) -> Dual:
    """log p - log ref, bounded."""
    return clamped(t.logps - t.ref_token_logps, -p.log_ratio_limit, p.log_ratio_limit)


def estimate_k3(r: Dual) -> Dual:
    """exp(-r) - 1 + r."""
    return exp(-r) - 1 + r


@token_loss("kl.k1", elementwise, *KL, log_ratio_limit=INFINITY)
def _k1(t: Any, p: Any) -> Dual:
    """Schulman's note (2020), k1."""
    return difference(t, p)


@token_loss("kl.k2", elementwise, *KL, log_ratio_limit=INFINITY)
def _k2(t: Any, p: Any) -> Dual:
    """Schulman's note (2020), k2."""
    return difference(t, p) ** 2 / 2


@token_loss("kl.k3", elementwise, *KL, log_ratio_limit=INFINITY)
def _k3(t: Any, p: Any) -> Dual:
    """Schulman's note (2020), k3."""
    return estimate_k3(difference(t, p))


# ---- group methods -------------------------------------------------------------------------------


def with_kl(loss: Dual, t: Any, p: Any) -> Dual:
    """+ kl_beta k3 to the reference."""
    return loss + p.kl_beta * estimate_k3(t.logps - t.ref_token_logps) if p.kl_beta else loss


def group_loss(t: Any, p: Any) -> Dual:
    """-min(min(rho, delta) A, clip(rho, 1 - e, 1 + e_high) A) + kl_beta k3."""
    ratio = exp(t.logps - t.old_logps)
    return with_kl(-surrogate(ratio, t.advantages, p, p.delta), t, p)


CLIPPED = {**CLIP, "delta": INFINITY, "kl_beta": 0.0}
LOGPS = ("logps", GROUP)


@token_loss("grpo.grpo", sequence_mean, *LOGPS, **CLIPPED)
def _grpo(t: Any, p: Any) -> Dual:
    """GRPO (arXiv 2402.03300) eq. 3; delta: TRL's two-sided clipping (arXiv 2505.07291)."""
    return group_loss(t, p)


@token_loss("grpo.dr_grpo", fixed_length, *LOGPS, **CLIPPED, max_completion_length=None)
def _dr_grpo(t: Any, p: Any) -> Dual:
    """Dr. GRPO (arXiv 2503.20783) section 3.2: no mean over the answer's own length."""
    return group_loss(t, p)


@token_loss("grpo.dapo", token_mean, *LOGPS, **CLIPPED, num_tokens=None)
def _dapo(t: Any, p: Any) -> Dual:
    """DAPO (arXiv 2503.14476) eq. 8: one mean over all tokens."""
    return group_loss(t, p)


@token_loss("grpo.bnpo", token_mean, *LOGPS, **CLIPPED, num_tokens=None)
def _bnpo(t: Any, p: Any) -> Dual:
    """TRL 1.16 grpo_trainer.py, loss_type "bnpo": the tokens of the local batch."""
    return group_loss(t, p)


@register("grpo.gspo", inputs="logps", constants=GROUP, parameters=CLIPPED)
def _gspo(x: Any, p: Any) -> tuple[list[Any], dict[str, Any]]:
    """GSPO (arXiv 2507.18071) eq. 5-7: s = exp(mean_t(logp - old)) for the whole answer."""
    losses = []
    for row in rows(x):
        found = tokens(row)
        if not found:
            losses.append(dual(0))
            continue
        ratio = exp(total(t.logps - t.old_logps for t in found) / len(found))
        loss = -surrogate(ratio, row.advantages, p, p.delta)
        penalties = [with_kl(dual(0), t, p) for t in found]
        losses.append(loss + total(penalties) / len(found))
    return losses, {}


@token_loss(
    "grpo.cispo",
    token_mean,
    *LOGPS,
    epsilon_high=5.0,
    epsilon_low=0.0,
    kl_beta=0.0,
    num_tokens=None,
)
def _cispo(t: Any, p: Any) -> Dual:
    """MiniMax-M1 (arXiv 2506.13585) eq. 4-5: the clipped ratio is a constant weight."""
    ratio = clamped(exp(t.logps - t.old_logps), p.epsilon_low, p.epsilon_high)
    return with_kl(-stop_gradient(ratio) * t.advantages * t.logps, t, p)


@token_loss(
    "grpo.sapo",
    sequence_mean,
    *LOGPS,
    sapo_temperature_pos=1.0,
    sapo_temperature_neg=1.05,
    kl_beta=0.0,
)
def _sapo(t: Any, p: Any) -> Dual:
    """SAPO (arXiv 2511.20347) eq. 6: a soft gate, its temperature by the sign of the advantage."""
    tau = p.sapo_temperature_pos if t.advantages > 0 else p.sapo_temperature_neg
    gate = sigmoid(tau * (exp(t.logps - t.old_logps) - 1))
    return with_kl(-4 / tau * gate * t.advantages, t, p)

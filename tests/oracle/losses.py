"""The losses typed a second time, from their papers, to test prefopt against.

Nothing here imports prefopt or shares a line with it. Each loss exists twice:

- `ORACLES[name].mp`: one element in mpmath, the equation as printed. `evaluate` runs it at 60
  digits over a batch and differentiates the weighted sum of the losses numerically at that
  precision, so it is the truth for values, rewards and gradients, extremes included.
- `ORACLES[name].torch`: the batch in float64 torch, with torch's own `logsigmoid`, for autograd.

`inputs`, `constants`, `parameters` and `rewards` say, again independently, what the loss takes; a
test compares them with `prefopt.losses()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mpmath as mp

DIGITS = 60
DIGITS_EXTREME = 360  # 1 - sigma(x) keeps 20 digits down to the smallest double, 5e-324

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Oracle:
    """One loss. `mp(i, x, p)` is element i of the batch x; `torch(x, p)` the whole batch."""

    mp: Callable[[int, Numbers, Numbers], tuple[Any, ...]]
    torch: Callable[[Numbers, Numbers], Any]
    inputs: tuple[str, ...]  # differentiable
    constants: tuple[str, ...]
    parameters: dict[str, float | None]  # with their defaults; None: made from the inputs
    rewards: tuple[str, ...]
    optional: tuple[str, ...] = ()


# ------------------------------------------------------------------------------- mpmath


def _log_sigma(x: Any) -> Any:
    return -mp.log1p(mp.exp(-x))


def _sigma(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def _dpo_sigmoid(i: int, x: Numbers, p: Numbers) -> tuple[Any, ...]:
    # DPO eq. 7: -log sigma(beta log(pi(y_w)/ref(y_w)) - beta log(pi(y_l)/ref(y_l)))
    r_w = p["beta"] * (x["policy_chosen_logps"][i] - x["ref_chosen_logps"][i])
    r_l = p["beta"] * (x["policy_rejected_logps"][i] - x["ref_rejected_logps"][i])
    # cDPO eq. 3: the label is flipped with probability eps
    eps = p["label_smoothing"]
    return -(1 - eps) * _log_sigma(r_w - r_l) - eps * _log_sigma(r_l - r_w), r_w, r_l


def _dpo_ipo(i: int, x: Numbers, p: Numbers) -> tuple[Any, ...]:
    # IPO eq. 17: (h_pi(y_w, y_l, x) - 1/(2 tau))^2, h of averages where lengths are given
    h_w = x["policy_chosen_logps"][i] - x["ref_chosen_logps"][i]
    h_l = x["policy_rejected_logps"][i] - x["ref_rejected_logps"][i]
    rewards = p["beta"] * h_w, p["beta"] * h_l
    if "chosen_lengths" in x:
        h_w = h_w / x["chosen_lengths"][i] if x["chosen_lengths"][i] else mp.mpf(0)
        h_l = h_l / x["rejected_lengths"][i] if x["rejected_lengths"][i] else mp.mpf(0)
    return ((h_w - h_l) - 1 / (2 * p["beta"])) ** 2, *rewards


def _kto_kto(i: int, x: Numbers, p: Numbers) -> tuple[Any, ...]:
    # KTO: lambda_y - v(x, y), v = lambda_D sigma(beta (r - z0)) or lambda_U sigma(beta (z0 - r))
    r = x["policy_logps"][i] - x["ref_logps"][i]
    z0 = x["kl"]
    if x["desirable"][i]:
        v = p["desirable_weight"] * _sigma(p["beta"] * (r - z0))
        return p["desirable_weight"] - v, p["beta"] * r
    v = p["undesirable_weight"] * _sigma(p["beta"] * (z0 - r))
    return p["undesirable_weight"] - v, p["beta"] * r


def _token_count(x: Numbers, p: Numbers, lengths: str) -> Any:
    return p["nll_tokens"] if p.get("nll_tokens") is not None else mp.fsum(x[lengths])


def _cpo_sigmoid(i: int, x: Numbers, p: Numbers) -> tuple[Any, ...]:
    # CPO eq. 3: -log sigma(beta log pi(y_w) - beta log pi(y_l)); flipped labels as in cDPO
    r_w = p["beta"] * x["policy_chosen_logps"][i]
    r_l = p["beta"] * x["policy_rejected_logps"][i]
    eps = p["label_smoothing"]
    loss = -(1 - eps) * _log_sigma(r_w - r_l) - eps * _log_sigma(r_l - r_w)
    if "chosen_nll" in x:  # + alpha NLL, the token mean over the batch's chosen answers
        tokens = _token_count(x, p, "chosen_lengths")
        loss += p["cpo_alpha"] * mp.fsum(x["chosen_nll"]) / tokens if tokens else 0
    return loss, r_w, r_l


def _sft_nll(i: int, x: Numbers, p: Numbers) -> tuple[Any, ...]:
    # mean over tokens of -log p, as B shares that average to it
    tokens = _token_count(x, p, "lengths")
    return (-x["policy_logps"][i] * len(x["policy_logps"]) / tokens if tokens else mp.mpf(0),)


# ------------------------------------------------------------------------------- torch


def _logsigmoid(x: Any) -> Any:
    import torch

    return torch.nn.functional.logsigmoid(x)


def _dpo_sigmoid_torch(x: Numbers, p: Numbers) -> Any:
    pi_logratios = x["policy_chosen_logps"] - x["policy_rejected_logps"]
    ref_logratios = x["ref_chosen_logps"] - x["ref_rejected_logps"]
    logits = pi_logratios - ref_logratios
    eps = p["label_smoothing"]
    return -_logsigmoid(p["beta"] * logits) * (1 - eps) - _logsigmoid(-p["beta"] * logits) * eps


def _dpo_ipo_torch(x: Numbers, p: Numbers) -> Any:
    chosen = x["policy_chosen_logps"] - x["ref_chosen_logps"]
    rejected = x["policy_rejected_logps"] - x["ref_rejected_logps"]
    if "chosen_lengths" in x:
        chosen = chosen / x["chosen_lengths"]
        rejected = rejected / x["rejected_lengths"]
    return (chosen - rejected - 1 / (2 * p["beta"])) ** 2


def _kto_kto_torch(x: Numbers, p: Numbers) -> Any:
    import torch

    logratios = x["policy_logps"] - x["ref_logps"]
    kl = x["kl"].detach()
    good = p["desirable_weight"] * (1 - torch.sigmoid(p["beta"] * (logratios - kl)))
    bad = p["undesirable_weight"] * (1 - torch.sigmoid(p["beta"] * (kl - logratios)))
    return torch.where(x["desirable"].bool(), good, bad)


def _cpo_sigmoid_torch(x: Numbers, p: Numbers) -> Any:
    logits = x["policy_chosen_logps"] - x["policy_rejected_logps"]
    eps = p["label_smoothing"]
    loss = -_logsigmoid(p["beta"] * logits) * (1 - eps) - _logsigmoid(-p["beta"] * logits) * eps
    if "chosen_nll" not in x:
        return loss
    tokens = p["nll_tokens"] if p.get("nll_tokens") is not None else x["chosen_lengths"].sum()
    return loss + p["cpo_alpha"] * x["chosen_nll"].sum() / tokens


def _sft_nll_torch(x: Numbers, p: Numbers) -> Any:
    tokens = p["nll_tokens"] if p.get("nll_tokens") is not None else x["lengths"].sum()
    return -x["policy_logps"] / (tokens / x["policy_logps"].numel())


PAIR = ("policy_chosen_logps", "policy_rejected_logps")
PAIR_REWARDS = ("chosen_rewards", "rejected_rewards")

ORACLES: dict[str, Oracle] = {
    "dpo.sigmoid": Oracle(
        _dpo_sigmoid, _dpo_sigmoid_torch, PAIR, ("ref_chosen_logps", "ref_rejected_logps"),
        {"beta": 0.1, "label_smoothing": 0.0}, PAIR_REWARDS,
    ),
    "dpo.ipo": Oracle(
        _dpo_ipo, _dpo_ipo_torch, PAIR,
        ("ref_chosen_logps", "ref_rejected_logps", "chosen_lengths", "rejected_lengths"),
        {"beta": 0.1}, PAIR_REWARDS, optional=("chosen_lengths", "rejected_lengths"),
    ),
    "kto.kto": Oracle(
        _kto_kto, _kto_kto_torch, ("policy_logps",), ("ref_logps", "desirable", "kl"),
        {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}, ("rewards",),
    ),
    "cpo.sigmoid": Oracle(
        _cpo_sigmoid, _cpo_sigmoid_torch, (*PAIR, "chosen_nll"), ("chosen_lengths",),
        {"beta": 0.1, "label_smoothing": 0.0, "cpo_alpha": 1.0, "nll_tokens": None}, PAIR_REWARDS,
        optional=("chosen_nll", "chosen_lengths"),
    ),
    "sft.nll": Oracle(
        _sft_nll, _sft_nll_torch, ("policy_logps",), ("lengths",), {"nll_tokens": None}, (),
        optional=("lengths",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What a loss should return; lists of mpf, one an element of the batch."""

    losses: list[Any]
    rewards: dict[str, list[Any]]
    grads: dict[str, list[Any]]


def evaluate(
    name: str, inputs: Numbers, params: Numbers, grad_losses: Any = None, digits: int = DIGITS
) -> Truth:
    """Values, rewards and d(sum_i g_i losses_i)/d input_j of a batch, at `digits` digits.

    `inputs` are sequences of floats of one length (kl a float), taken as the exact numbers they
    are.
    """
    oracle = ORACLES[name]
    with mp.workdps(digits):
        x = {key: _exact(value) for key, value in inputs.items()}
        p = {
            key: None if value is None else mp.mpf(value)
            for key, value in oracle.parameters.items()
        }
        p.update({key: None if value is None else mp.mpf(value) for key, value in params.items()})
        size = len(x[oracle.inputs[0]])
        weights = [mp.mpf(1)] * size if grad_losses is None else _exact(grad_losses)
        terms = [oracle.mp(i, x, p) for i in range(size)]
        rewards = {key: [t[1 + k] for t in terms] for k, key in enumerate(oracle.rewards)}
        grads = {
            key: [_derivative(oracle, x, p, weights, key, j) for j in range(size)]
            for key in oracle.inputs
            if key in x
        }
        return Truth([t[0] for t in terms], rewards, grads)


def _exact(value: Any) -> Any:
    if isinstance(value, (int, float)) or getattr(value, "ndim", 1) == 0:
        return mp.mpf(float(value))
    return [mp.mpf(float(item)) for item in value]


def _derivative(oracle: Oracle, x: Numbers, p: Numbers, weights: Any, key: str, j: int) -> Any:
    """d/d x[key][j] of the weighted sum, by differences whose error is far below a double's ulp."""
    coupled = key == "chosen_nll"  # every other input enters its own loss only

    def objective(value: Any) -> Any:
        moved = {**x, key: [*x[key][:j], value, *x[key][j + 1 :]]}
        which = range(len(weights)) if coupled else (j,)
        return mp.fsum(weights[i] * oracle.mp(i, moved, p)[0] for i in which)

    return mp.diff(objective, x[key][j])

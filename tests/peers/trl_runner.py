"""TRL's loss methods (1.16 and 1.13), unmodified, on a row's inputs. Runs inside worker.py."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from peers.stubs import bare, outputs, token_batch

Inputs = dict[str, Any]
Answer = dict[str, Any]

# 1.16 reads log-probabilities that a fused kernel makes of the model's output; 1.13 reads logits.
READS_LOGITS = not importlib.metadata.version("trl").startswith("1.16.")


def run(loss: str, inputs: Inputs, params: Inputs, dtype: str) -> Answer:
    """See peers.peer_value."""
    family, variant = loss.split(".")
    torch.set_num_threads(1)
    kind = getattr(torch, dtype)
    return FAMILIES[family](variant, inputs, dict(params), kind)


def settings(config: Any, params: Inputs, **names: str) -> Inputs:
    """The config's own defaults of fields names (ours=theirs), replaced by what is given."""
    fields = config.__dataclass_fields__
    unknown = set(params) - set(names)
    if unknown:
        raise ValueError(f"stub: no such setting here: {sorted(unknown)}")
    return {theirs: params.get(ours, fields[theirs].default) for ours, theirs in names.items()}


def same_names(config: Any, params: Inputs, *names: str) -> Inputs:
    return settings(config, params, **{name: name for name in names})


def leaf(values: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def finish(loss: torch.Tensor, leaves: dict[str, torch.Tensor], **rest: Any) -> Answer:
    """The scalar and its derivatives by the leaves."""
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {
        "mean": loss.item(),
        "grads": {
            name: (torch.zeros_like(x) if g is None else g).tolist()
            for (name, x), g in zip(leaves.items(), grads, strict=True)
        },
        "rewards": {},
    } | rest


def logged(trainer: Any) -> dict[str, float]:
    metrics = trainer._metrics["eval"]
    names = {"chosen_rewards": "rewards/chosen", "rejected_rewards": "rewards/rejected"}
    return {ours: metrics[theirs][0] for ours, theirs in names.items() if metrics[theirs]}


def possible(sums: torch.Tensor, logits: bool = READS_LOGITS) -> None:
    """Logits give log-probabilities only (1.16's stub of a fused kernel gives any number)."""
    if logits and (sums.detach() > 0).any():
        raise ValueError("stub: logits cannot give a log-probability above 0")


def pair_rows(inputs: Inputs, dtype: torch.dtype, extra: tuple[str, ...] = ()) -> Any:
    """Leaves of chosen, rejected (and more) sums, their token log-probs and mask, lengths."""
    names = ["policy_chosen_logps", "policy_rejected_logps"]
    leaves = {name: leaf(inputs[name], dtype) for name in names}
    rows = len(inputs[names[0]])
    lengths = [
        int(n)
        for key in ("chosen_lengths", "rejected_lengths")
        for n in inputs.get(key, [1] * rows)
    ]
    sums = torch.cat([*leaves.values(), *(leaf(inputs[name], dtype) for name in extra)])
    return leaves, sums, lengths


def dpo(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    from trl import DPOConfig, DPOTrainer

    names = ("policy_chosen_logps", "policy_rejected_logps")
    rows = len(inputs[names[0]])
    for name in (*names, "ref_chosen_logps", "ref_rejected_logps"):  # dpo.sft does without most
        inputs.setdefault(name, [0.0] * rows)
    leaves, sums, lengths = pair_rows(inputs, dtype)
    possible(sums)
    tokens, mask = token_batch(sums, lengths)
    output = outputs(tokens)
    weights = [inputs.get("chosen_weights"), inputs.get("rejected_weights")]
    weighted = any(w is not None for w in weights)
    if weighted:
        if READS_LOGITS:
            raise ValueError("stub: WPO weights come from whole rows of logits here")
        # exp of the token mean of (log-prob - log sum p^2): chosen so that it is the given weight
        wanted = torch.cat(
            [torch.tensor(w if w is not None else [1.0] * rows, dtype=dtype) for w in weights]
        )
        count = mask[:, 1:].sum(1).clamp_min(1)
        shift = tokens.detach().sum(1) / count - wanted.log()
        output.log_sum_sq_probs = shift[:, None] * mask[:, 1:]
    values = same_names(
        DPOConfig,
        params,
        "beta",
        "label_smoothing",
        "f_divergence_type",
        "f_alpha_divergence_coef",
        "discopop_tau",
    )
    trainer = bare(
        DPOTrainer,
        output,
        loss_types=[variant],
        loss_weights=[1.0],
        ld_alpha=None,
        use_weighting=weighted,
        args=SimpleNamespace(**values),
        **values,
    )
    batch = {
        "input_ids": torch.zeros(2 * rows, mask.shape[1], dtype=torch.long),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": torch.tensor(inputs["ref_chosen_logps"], dtype=dtype),
        "ref_rejected_logps": torch.tensor(inputs["ref_rejected_logps"], dtype=dtype),
    }
    loss = trainer._compute_loss(trainer.model, batch, False)
    return finish(loss, leaves, rewards=logged(trainer))


def kto(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    from trl import KTOConfig, KTOTrainer

    leaves = {"policy_logps": leaf(inputs["policy_logps"], dtype)}
    sums = leaves["policy_logps"]
    possible(sums)
    tokens, mask = token_batch(sums, [1] * len(sums))
    kl = torch.tensor([inputs.get("kl", 0.0)], dtype=dtype)
    trainer = bare(
        KTOTrainer,
        outputs(tokens),
        loss_type=variant,
        calculate_KL=variant == "kto",
        _compute_kl_logps=lambda model, batch: kl,
        **same_names(KTOConfig, params, "beta", "desirable_weight", "undesirable_weight"),
    )
    labels = torch.tensor(inputs["desirable"], dtype=torch.bool)
    batch = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "label": labels,
        "ref_logps": torch.tensor(inputs["ref_logps"], dtype=dtype),
        "ref_KL_logps": torch.zeros(1, dtype=dtype),
    }
    loss = trainer._compute_loss(trainer.model, batch, False)
    metrics = trainer._metrics["eval"]
    rewards = {
        name: metrics[f"rewards/{name}"][0]
        for name, some in (("chosen", labels.any()), ("rejected", (~labels).any()))
        if some
    }
    return finish(loss, leaves, rewards=rewards)


def bco(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    from trl.experimental.bco import BCOConfig, BCOTrainer
    from trl.experimental.bco.bco_trainer import RunningMoments

    if variant == "delta":
        moments = RunningMoments(bare(BCOTrainer, None).accelerator)
        if inputs.get("state_count"):
            moments.mean, moments.count = inputs["state_mean"], inputs["state_count"]
        moments.update(torch.tensor(inputs["rewards"], dtype=dtype))
        return {"mean": moments.mean, "count": moments.count, "grads": {}, "rewards": {}}
    if variant == "udm_weights":
        chances = torch.tensor(inputs["desirable_probabilities"], dtype=dtype)
        limits = same_names(BCOConfig, params, "min_density_ratio", "max_density_ratio")
        trainer = bare(
            BCOTrainer, None, _get_chosen_prob=lambda _: chances, args=SimpleNamespace(**limits)
        )
        weights = trainer._get_udm_weight(None)
        return {"mean": 0.0, "grads": {}, "rewards": {"weights": weights.tolist()}}
    leaves = {"policy_logps": leaf(inputs["policy_logps"], dtype)}
    labels = torch.tensor(inputs["desirable"], dtype=torch.bool)
    policy = leaves["policy_logps"]
    weights = torch.tensor(inputs.get("udm_weights", [1.0] * len(policy)), dtype=dtype)
    logits = torch.zeros(1, dtype=dtype)
    trainer = bare(
        BCOTrainer,
        None,
        embedding_func=True,
        embedding_tokenizer=True,  # so that it weights
        **same_names(BCOConfig, params, "beta"),
        running=SimpleNamespace(mean=inputs.get("delta", 0.0)),
        forward=lambda model, batch: (policy[labels], policy[~labels], logits, logits),
        _get_prompt_embeddings=lambda batch: (None, None),
        _get_udm_weight=lambda embeddings: weights[~labels],
    )
    batch = {
        "reference_logps": torch.tensor(inputs["ref_logps"], dtype=dtype),
        "label": labels.tolist(),
    }
    loss, metrics = trainer.get_batch_loss_metrics(None, batch, do_train=False)
    rewards = {
        name: metrics[f"rewards/{name}_sum"] / metrics[f"count/{name}"]
        for name in ("chosen", "rejected")
        if f"count/{name}" in metrics
    }
    return finish(loss, leaves, rewards=rewards)


def logit_batch(output: Any, mask: torch.Tensor, prompts: bool) -> Answer:
    """The batch of the CPO and ORPO trainers; labels of prompts are -100."""
    rows = len(mask) // 2
    batch: Answer = {}
    for part, rows_of in (("chosen", slice(0, rows)), ("rejected", slice(rows, None))):
        answer = mask[rows_of]
        batch[f"{part}_labels"] = torch.where(answer == 1, 0, -100)
        batch[f"{part}_input_ids"] = torch.zeros_like(answer)
        seen = (torch.arange(answer.shape[1]) <= 1) | (answer == 1)
        batch[f"{part}_attention_mask"] = seen.long() if prompts else torch.ones_like(answer)
    return batch


def cpo(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    """With cpo_alpha the NLL is that of the same answers: chosen_nll = -policy_chosen_logps."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    leaves, sums, lengths = pair_rows(inputs, dtype)
    possible(sums, logits=True)
    tokens, mask = token_batch(sums, lengths)
    output = outputs(tokens)
    values = same_names(
        CPOConfig, params, "beta", "label_smoothing", "alpha", "cpo_alpha", "simpo_gamma"
    )
    if values["cpo_alpha"]:
        check_nll(inputs)
    trainer = bare(CPOTrainer, output, loss_type=variant, pad_token_id=0, **values)
    batch = logit_batch(output, mask, prompts=False)
    loss, metrics = trainer.get_batch_loss_metrics(trainer.model, batch, "train")
    rewards = {f"{s}_rewards": metrics[f"rewards/{s}"] for s in ("chosen", "rejected")}
    return finish(loss, leaves, rewards=rewards, nll_in_grads=True)


def check_nll(inputs: Inputs) -> None:
    """The trainers have one set of log-probs: the given NLL must be that of the chosen answers."""
    if "chosen_nll" not in inputs or "chosen_lengths" not in inputs:
        raise ValueError("stub: an NLL term needs chosen_nll and chosen_lengths")
    if [-x for x in inputs["chosen_nll"]] != list(inputs["policy_chosen_logps"]):
        raise ValueError("stub: chosen_nll must be -policy_chosen_logps here")


def orpo(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    """chosen_nll may exceed -policy_chosen_logps: the rest is the prompt's one scored token."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    leaves, sums, lengths = pair_rows(inputs, dtype)
    rows = len(inputs["chosen_nll"])
    prompt = -(
        torch.tensor(inputs["chosen_nll"], dtype=dtype) + leaves["policy_chosen_logps"].detach()
    )
    possible(torch.cat([sums, prompt]), logits=True)
    tokens, mask = token_batch(sums, lengths)
    if "nll_tokens" in params and params.pop("nll_tokens") != rows + sum(lengths[:rows]):
        raise ValueError("stub: nll_tokens must be the answers' tokens and one of each prompt")
    prompts = torch.cat([prompt, torch.zeros(rows, dtype=dtype)])
    tokens = tokens + prompts[:, None] * (torch.arange(tokens.shape[1]) == 0)
    output = outputs(tokens)
    trainer = bare(ORPOTrainer, output, padding_value=0, **same_names(ORPOConfig, params, "beta"))
    batch = logit_batch(output, mask, prompts=True)
    loss, metrics = trainer.get_batch_loss_metrics(trainer.model, batch, "train")
    rewards = {f"{s}_rewards": metrics[f"rewards/{s}"] for s in ("chosen", "rejected")}
    return finish(loss, leaves, rewards=rewards, nll_in_grads=True)


def tpo(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    from trl.experimental.tpo import TPOConfig, TPOTrainer

    leaves, sums, lengths = pair_rows(inputs, dtype)
    values = same_names(TPOConfig, params, "beta", "label_smoothing", "tpo_alpha", "tpo_l_gamma")
    if values["tpo_alpha"]:
        leaves["gold_nll"] = leaf(inputs["gold_nll"], dtype)
        sums = torch.cat([sums, -leaves["gold_nll"]])
        lengths = [*lengths, *(int(n) for n in inputs["gold_lengths"])]
    possible(sums, logits=True)
    tokens, mask = token_batch(sums, lengths)
    trainer = bare(TPOTrainer, outputs(tokens), loss_type=variant.replace("_", "-"), **values)
    batch = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
    }
    loss = trainer._compute_loss(trainer.model, batch, False)
    return finish(loss, leaves, rewards=logged(trainer))


def reward_model(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    from trl import RewardConfig, RewardTrainer

    leaves = {name: leaf(inputs[name], dtype) for name in ("chosen_scores", "rejected_scores")}
    output = SimpleNamespace(logits=torch.cat(list(leaves.values()))[:, None])
    values = settings(RewardConfig, params, center_coefficient="center_rewards_coefficient")
    trainer = bare(RewardTrainer, output, args=SimpleNamespace(**values))
    batch = {}
    if "margins" in inputs:
        batch["margin"] = torch.tensor(inputs["margins"], dtype=dtype)
    loss = trainer.compute_loss(trainer.model, batch)
    return finish(loss, leaves)


def grpo(variant: str, inputs: Inputs, params: Inputs, dtype: torch.dtype) -> Answer:
    from trl import GRPOConfig, GRPOTrainer

    leaves = {"logps": leaf(inputs["logps"], dtype)}
    tokens = leaves["logps"]
    ones = torch.ones_like(tokens).long()
    mask = torch.tensor(inputs["mask"], dtype=torch.long) if "mask" in inputs else ones
    num_tokens = torch.tensor(float(params.pop("num_tokens", mask.sum())), dtype=dtype)
    values = settings(
        GRPOConfig,
        params,
        kl_beta="beta",
        epsilon="epsilon",
        epsilon_high="epsilon_high",
        delta="delta",
        sapo_temperature_pos="sapo_temperature_pos",
        sapo_temperature_neg="sapo_temperature_neg",
        max_completion_length="max_completion_length",
    )
    low, high = values.pop("epsilon"), values.pop("epsilon_high")
    trainer = bare(
        GRPOTrainer,
        None,
        args=SimpleNamespace(use_bias_correction_kl=False, **values),
        importance_sampling_level="sequence" if variant == "gspo" else "token",
        loss_type="grpo" if variant == "gspo" else variant,
        epsilon_low=low,
        epsilon_high=low if high is None else high,  # as GRPOTrainer.__init__
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        _get_per_token_logps_and_entropies=lambda *a, **k: (tokens, torch.zeros_like(tokens), None),
        **values,
    )
    rows = len(tokens)
    batch = {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
        "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": torch.tensor(inputs["advantages"], dtype=dtype),
        "num_items_in_batch": num_tokens,
    }
    names = (("old_logps", "old_per_token_logps"), ("ref_token_logps", "ref_per_token_logps"))
    for ours, theirs in names:
        if ours in inputs:
            batch[theirs] = torch.tensor(inputs[ours], dtype=dtype)
    loss = trainer._compute_loss(trainer.model, batch)
    return finish(loss, leaves)


FAMILIES: dict[str, Callable[[str, Inputs, Inputs, torch.dtype], Answer]] = {
    "dpo": dpo,
    "kto": kto,
    "bco": bco,
    "cpo": cpo,
    "orpo": orpo,
    "tpo": tpo,
    "reward_model": reward_model,
    "grpo": grpo,
}

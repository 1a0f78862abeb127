"""What tests/test_torch_distributed.py runs in each of several gloo processes.

Run as a program: rank, number of processes, a file to meet at, a file for the result (JSON: by case
the worst errors by name, or the traceback). Every process computes the whole truth for itself.
"""

from __future__ import annotations

import datetime
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent))

from torch_linear_cases import PARAMETERS, STATS, WAYS, leaves_of, make, truth, worst

from prefopt.torch import LinearPreferenceLoss, linear_token_logps

Errors = dict[str, float]
CASES: dict[str, tuple[tuple[int, ...], Callable[[], Errors]]] = {}


def case(*sizes: int) -> Callable[[Callable[[], Errors]], Callable[[], Errors]]:
    """Registers a case for these numbers of processes."""

    def register(function: Callable[[], Errors]) -> Callable[[], Errors]:
        CASES[function.__name__] = sizes, function
        return function

    return register


# ---- each process its own answers: DDP and FSDP2 -------------------------------------------------

PAIRS, TOKENS, VOCAB, HIDDEN = 4, 6, 23, 8  # VOCAB is no multiple of the number of processes


class Model(torch.nn.Module):
    """A body and a head; `tied`: the head is the embedding."""

    def __init__(self, *, tied: bool = False, unused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(VOCAB, HIDDEN)
        self.layer = torch.nn.Linear(HIDDEN, HIDDEN)
        self.head = torch.nn.Linear(HIDDEN, VOCAB, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        if unused:
            self.idle = torch.nn.Linear(2, 2)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.layer(self.embedding(tokens)))


class Step(torch.nn.Module):
    """The loss within forward: what DDP has to see."""

    def __init__(self, model: Model, loss: LinearPreferenceLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, tokens: Tensor, labels: Tensor, **given: Any) -> Tensor:
        total: Tensor = self.loss(self.model(tokens), self.model.head.weight, labels, **given)[0]
        return total


def answers() -> dict[str, Tensor]:
    """The whole batch; its processes' parts are unequal in tokens."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, VOCAB, (2 * PAIRS, TOKENS), generator=generator)
    labels = tokens.roll(-1, dims=1)
    for k in range(2 * PAIRS):
        labels[k, : k % 3] = -100
        labels[k, -1 - k % 2 :] = -100
    ref = -10 * torch.rand(2 * PAIRS, generator=generator, dtype=torch.float64)
    return {"tokens": tokens, "labels": labels, "ref_logps": ref}


def mine(whole: dict[str, Tensor]) -> dict[str, Tensor]:
    """This process's pairs."""
    rank, size = dist.get_rank(), dist.get_world_size()
    places = torch.arange(2 * PAIRS).view(2, PAIRS)[:, rank::size].flatten()
    return {name: each[places] for name, each in whole.items()}


def loss_of() -> LinearPreferenceLoss:
    return LinearPreferenceLoss(("dpo.sigmoid", "dpo.sft"), loss_weights=(1.0, 0.5), beta=0.3)


def numbers(whole: dict[str, Tensor]) -> dict[str, float]:
    """Gradients are means over processes, so the whole batch's numbers are divided by theirs."""
    size = dist.get_world_size()
    tokens = float((whole["labels"][:PAIRS] != -100).sum())
    return {"num_items": PAIRS / size, "nll_tokens": tokens / size}


def true_gradients(**options: bool) -> dict[str, Tensor]:
    model, whole = Model(**options), answers()
    Step(model, loss_of())(**whole).backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def gradient_errors(model: torch.nn.Module, **options: bool) -> Errors:
    expected, found = true_gradients(**options), dict(model.named_parameters())
    errors = {}
    for name, want in expected.items():
        grad: Any = found[name].grad
        errors[name] = worst(grad.full_tensor() if isinstance(grad, DTensor) else grad, want)
    return errors


@case(2)
def ddp() -> Errors:
    errors: Errors = {}
    whole = answers()
    for name, model, keywords in (
        ("static", {}, {"static_graph": True}),
        ("unused", {"unused": True}, {"find_unused_parameters": True}),
        ("tied", {"tied": True}, {}),
    ):
        step = Step(Model(**model), loss_of())
        parallel = DistributedDataParallel(step, **keywords)
        for _ in range(2):  # a static graph is learnt in the first step
            step.zero_grad()
            parallel(**mine(whole), **numbers(whole)).backward()
        found = gradient_errors(step.model, **model)
        errors.update({f"{name} {key}": each for key, each in found.items()})
    return errors


@case(2)
def ddp_accumulates() -> Errors:
    """Two micro-batches a process, one of them without a pair, under the whole step's numbers."""
    whole = answers()
    step = Step(Model(), loss_of())
    parallel = DistributedDataParallel(step)
    part = mine(whole)
    half = part["labels"].shape[0] // 2
    cuts = torch.arange(2 * half).view(2, half)
    with parallel.no_sync():
        parallel(**part, **numbers(whole)).backward()
    none = {name: each[cuts[:, :0].flatten()] for name, each in part.items()}
    parallel(**none, **numbers(whole)).backward()
    return gradient_errors(step.model)


def sharded(*, tied: bool, head_apart: bool, reshard: bool) -> Errors:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = Model(tied=tied)
    if head_apart:
        fully_shard(model.head, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
    whole = answers()
    part = mine(whole)
    hidden = model(part.pop("tokens"))
    weight = model.head.weight
    loss, _ = loss_of()(hidden, weight, part.pop("labels"), **part, **numbers(whole))
    loss.backward()
    errors = gradient_errors(model, tied=tied)
    if head_apart:
        errors["the weight was sharded"] = float(not isinstance(weight, DTensor))
    return errors


@case(2, 3)
def fsdp_head_apart() -> Errors:
    return sharded(tied=False, head_apart=True, reshard=True)


@case(2)
def fsdp_head_resharded() -> Errors:
    return sharded(tied=False, head_apart=False, reshard=True)


@case(2)
def fsdp_head_left_whole() -> Errors:
    return sharded(tied=False, head_apart=False, reshard=False)


@case(2)
def fsdp_tied() -> Errors:
    return sharded(tied=True, head_apart=False, reshard=True)


@case(2)
def fsdp_whole_rows() -> Errors:
    """TDPO with both heads sharded, read outside their modules' forward."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model, ref, whole = Model(), Model(), answers()
    del whole["ref_logps"]
    with torch.no_grad():
        ref.head.weight += 0.3 * ref.head.weight.flip(0)
    loss = LinearPreferenceLoss("tdpo.tdpo2", beta=0.3)
    alone, tokens = Model(), whole.pop("tokens")
    loss(
        alone(tokens),
        alone.head.weight,
        **whole,
        ref_hidden=ref(tokens),
        ref_weight=ref.head.weight,
    )[0].backward()
    for each in (model.head, model, ref.head):
        fully_shard(each, mesh=mesh, reshard_after_forward=True)
    part = mine({"tokens": tokens, **whole})
    tokens = part.pop("tokens")
    loss(
        model(tokens),
        model.head.weight,
        **part,
        ref_hidden=ref(tokens),
        ref_weight=ref.head.weight,
        num_items=PAIRS / dist.get_world_size(),
    )[0].backward()
    found = dict(model.named_parameters())
    gradients = {name: found[name].grad for name, _ in alone.named_parameters()}
    return {
        name: worst(gradients[name].full_tensor(), each.grad)
        for name, each in alone.named_parameters()
    }


# ---- a vocabulary over processes -----------------------------------------------------------------

EVERYTHING = {"logit_scale": 0.7, "softcap": 5.0, "temperature": 0.8}


def part_of(vocab: int) -> slice:
    """This process's rows, as torch.chunk and DTensor cut them."""
    step = -(-vocab // dist.get_world_size())
    start = min(dist.get_rank() * step, vocab)
    return slice(start, min(start + step, vocab))


def split(
    head: dict[str, Any], names: tuple[str, ...], **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Results of this process's part, and its leaves."""
    rows = part_of(head["weight"].shape[0])
    part = {k: e[rows] if k in ("weight", "bias", "lora_b") else e for k, e in head.items()}
    leaves = leaves_of(part, names)
    group = dist.group.WORLD
    return linear_token_logps(**leaves, group=group, vocab_start=rows.start, **options), leaves


def total(results: dict[str, Any]) -> Tensor:
    """A loss in which every token and result has its own coefficient."""
    value = torch.zeros((), dtype=torch.float64)
    for k, name in enumerate(("logps", "lse", "entropy")):
        each = results[name]
        steps = torch.linspace(-1, 2, max(each.numel(), 1), dtype=each.dtype)[: each.numel()]
        value = value + (k + 0.5) * (each * steps.view(each.shape)).sum()
    return value


def split_errors(head: dict[str, Any], names: tuple[str, ...], options: dict[str, Any]) -> Errors:
    """Of results and gradients from those of the whole head."""
    got, leaves = split(head, names, stats=STATS, **options)
    exact = leaves_of(head, names)
    want = truth(exact, **options)
    errors = {name: worst(getattr(got, name), each) for name, each in want.items()}
    found = torch.autograd.grad(total(got._asdict()), [leaves[name] for name in names])
    wanted = torch.autograd.grad(total(want), [exact[name] for name in names])
    rows = part_of(head["weight"].shape[0])
    for name, ours, theirs in zip(names, found, wanted, strict=True):
        of_part = name in ("weight", "bias", "lora_b")
        errors[f"grad {name}"] = worst(ours, theirs[rows] if of_part else theirs)
    return errors


def over_ways(function: Callable[[], Errors]) -> Errors:
    errors: Errors = {}
    for way, enter in WAYS.items():
        with enter():
            errors.update({f"{way} {name}": each for name, each in function().items()})
    return errors


def problem(shape: tuple[int, ...] = (3, 5), vocab: int = 34, **keywords: Any) -> dict[str, Any]:
    return make(shape, 8, vocab, dtype=torch.float64, bias=True, rank=2, **keywords)


@case(2, 3)
def split_trained() -> Errors:
    return over_ways(lambda: split_errors(problem(), PARAMETERS, EVERYTHING))


@case(2, 3)
def split_frozen() -> Errors:
    return over_ways(lambda: split_errors(problem(), ("hidden",), EVERYTHING))


@case(2, 3)
def split_partly_trained() -> Errors:
    errors: Errors = {}
    for names in (("weight",), ("lora_a",), ("hidden", "lora_a", "lora_b"), ("bias",)):
        for name, each in split_errors(problem(), names, {}).items():
            errors[f"{' '.join(names)}: {name}"] = each
    return errors


@case(2, 3)
def split_part_ruled_out() -> Errors:
    """The last process's whole part has probability 0."""
    head = problem()
    last = -(-34 // dist.get_world_size()) * (dist.get_world_size() - 1)
    head["bias"][last:] = -torch.inf
    head["labels"] %= last
    errors: Errors = {}
    for names in (("hidden", "weight"), ("hidden",)):
        got, leaves = split(head, names, stats=("entropy", "correct"))
        exact = leaves_of(head, names)
        want = truth(exact)
        for name in ("logps", "lse", "entropy", "correct"):
            errors[name] = worst(getattr(got, name), want[name])
        loss = torch.autograd.grad(got.logps.sum() + got.lse.square().sum(), leaves["hidden"])
        true = torch.autograd.grad(
            want["logps"].sum() + want["lse"].square().sum(), exact["hidden"]
        )
        errors[f"grad of {len(names)}"] = worst(loss[0], true[0])
    return errors


@case(2)
def split_without_tokens() -> Errors:
    errors: Errors = {}
    ignored = problem()
    ignored["labels"].fill_(-100)
    for name, head in (("empty", problem((0, 4))), ("ignored", ignored)):
        for names in (PARAMETERS, ("hidden",)):
            found = split_errors(head, names, EVERYTHING)
            errors.update({f"{name} {len(names)} {key}": each for key, each in found.items()})
    return errors


@case(2, 3)
def split_same_bits_on_every_rank() -> Errors:
    head = {
        name: each.float() if each.is_floating_point() else each for name, each in problem().items()
    }
    got, leaves = split(head, ("hidden", "weight"), stats=STATS)
    grad = torch.autograd.grad(total(got._asdict()), leaves["hidden"])[0]
    errors = {}
    for name, each in {**got._asdict(), "grad_hidden": grad}.items():
        if each is not None:
            copies = [torch.empty_like(each) for _ in range(dist.get_world_size())]
            dist.all_gather(copies, each.detach().contiguous())
            errors[name] = float(not all(torch.equal(copy, copies[0]) for copy in copies))
    return errors


@case(2, 3)
def split_as_distributed_tensors() -> Errors:
    """Group and start are derived from a weight that is Shard(0), and hidden on its mesh."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    head, errors = problem(), {}
    exact = leaves_of(head, PARAMETERS)
    total(truth(exact)).backward()
    for name, hidden_too in (("hidden distributed", True), ("group given", False)):
        placements = {"hidden": Replicate(), "lora_a": Replicate()}
        given: dict[str, Any] = {"labels": head["labels"]}
        for key in PARAMETERS:
            if key == "hidden" and not hidden_too:
                given[key] = head[key].clone().requires_grad_()
                continue
            each = distribute_tensor(head[key], mesh, [placements.get(key, Shard(0))])
            given[key] = each.detach().requires_grad_()
        group = None if hidden_too else mesh
        got = linear_token_logps(**given, group=group, stats=("entropy",))
        total(got._asdict()).backward()
        for key in PARAMETERS:
            grad = given[key].grad
            grad = grad.full_tensor() if isinstance(grad, DTensor) else grad
            errors[f"{name} {key}"] = worst(grad, exact[key].grad)
    return errors


@case(2, 3)
def split_preference_loss() -> Errors:
    errors: Errors = {}
    head = make((6, 5), 8, 34, dtype=torch.float64, bias=True)
    ref = make((6, 5), 8, 34, dtype=torch.float64, seed=1)
    rows = part_of(34)
    module = LinearPreferenceLoss("dpo.sigmoid", wpo=True, beta=0.4)
    for names in (("hidden", "weight", "bias"), ("hidden",)):
        exact, part = leaves_of(head, names), dict(head)
        part.update({key: head[key][rows] for key in ("weight", "bias")})
        ours = leaves_of(part, names)
        split_ = {"group": dist.group.WORLD, "vocab_start": rows.start}
        reference = {"ref_hidden": ref["hidden"], "ref_weight": ref["weight"]}
        want, want_metrics = module(**exact, **reference)
        reference["ref_weight"] = ref["weight"][rows]
        got, got_metrics = module(**ours, **reference, **split_)
        errors["loss"] = worst(got, want)
        errors.update({key: worst(got_metrics[key], each) for key, each in want_metrics.items()})
        got.backward(), want.backward()
        for key in names:
            expected = exact[key].grad
            errors[f"grad {key}"] = worst(
                ours[key].grad, expected if key == "hidden" else expected[rows]
            )
    return errors


@case(2)
def split_refusals() -> Errors:
    """On every process, whichever was given what is wrong; 0 where the message is the one meant."""
    head, rank = problem(), dist.get_rank()
    rows = part_of(34)
    part = {k: e[rows] if k in ("weight", "bias", "lora_b") else e for k, e in head.items()}
    outside, other = head["labels"].clone(), head["labels"].clone()
    outside[0, 0], other[0, 0] = 34, other[0, 0] + rank
    start = {"group": dist.group.WORLD, "vocab_start": rows.start}
    attempts: dict[str, tuple[dict[str, Any], str]] = {
        "gap": ({"vocab_start": rows.start + rank}, "vocab_start: expected 17 on rank 1"),
        "labels": ({"labels": other}, "labels: expected the same labels"),
        "range": ({"labels": outside}, "0 <= label < 34, got 34 at index 0"),
        "topk": ({"topk": 2}, "topk"),
        "no start": ({"vocab_start": None}, "vocab_start"),
        "no group": ({"group": None}, "vocab_start: expected with a group only"),
    }
    return {
        name: float(message not in refusal({**part, **start, **change}))
        for name, (change, message) in attempts.items()
    }


def refusal(given: dict[str, Any]) -> str:
    try:
        linear_token_logps(**given)
    except ValueError as error:
        return str(error)
    return ""


# ---- the program ---------------------------------------------------------------------------------


def run(size: int) -> Iterator[tuple[str, Errors | str]]:
    for name, (sizes, function) in CASES.items():
        if size in sizes:
            yield name, outcome(function)


def outcome(function: Callable[[], Errors]) -> Errors | str:
    try:
        return function()
    except Exception:
        return traceback.format_exc()


def main() -> None:
    rank, size, meeting, result = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size,
        timeout=datetime.timedelta(seconds=120),
    )  # fmt: skip
    Path(result).write_text(json.dumps(dict(run(size))), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

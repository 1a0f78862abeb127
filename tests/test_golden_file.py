"""The golden file: complete, unchanged, of its schema; and `prefopt.testing` that reads it."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import row_cases
from support import run_script

import prefopt
from prefopt import testing
from prefopt.testing import SETS, GoldenCase, golden

ROOT = Path(__file__).resolve().parent.parent
FILES = resources.files(testing) / "golden"
ROWS = row_cases.ROWS

# Published files never change: a new schema version gets a new file and a new line here.
SHA256 = {
    "golden-1.json": "7a82272fcbc1185d90731f88da06009bea13836fd66e97b3c4cfc240f815c9fb",
}
GROUPS: dict[tuple[str, str], list[GoldenCase]] = {}
for _case in golden():
    GROUPS.setdefault((_case.loss, _case.convention), []).append(_case)


def test_published_files_do_not_change() -> None:
    for name, digest in SHA256.items():
        assert hashlib.sha256((FILES / name).read_bytes()).hexdigest() == digest
    published = {entry.name for entry in FILES.iterdir() if entry.name.startswith("golden-")}
    assert published == set(SHA256)
    assert sum(len((FILES / name).read_bytes()) for name in SHA256) <= 2_000_000


def test_every_loss_and_convention_has_every_set() -> None:
    """No row, no convention, no set without cases; kinks where the row has a point without slope."""
    wanted = {(row.name, c.name) for row in ROWS.values() for c in prefopt.conventions(row.name)}
    wanted |= {(row.name, "default") for row in ROWS.values() if row.kind == "procedure"}
    own = {pair for pair in GROUPS if pair[1] == "default"} - wanted
    assert set(GROUPS) - own == wanted
    for loss, _ in own:
        paper = next(c for c in prefopt.conventions(loss) if c.name == "paper")
        assert paper.defaults or paper.refused or paper.required
    for (loss, convention), cases in GROUPS.items():
        found = {case.set for case in cases}
        assert {"ordinary", "extreme", "edge"} <= found <= set(SETS), (loss, convention)
        if ROWS[loss].kink and loss != "tdpo.tdpo2":  # whose kink is a constant, no point
            assert "kink" in found or convention not in ("paper", "default"), (loss, convention)


def test_every_input_and_parameter_is_moved() -> None:
    """Each input of a row is given somewhere, each parameter and word is off its default."""
    for row in ROWS.values():
        mine = [case for case in golden(row.name) if case.convention in ("paper", "default")]
        given = {name for case in mine for name in case.inputs}
        assert given == {item.name for item in row.inputs}, row.name
        for parameter in row.parameters:
            values = {case.parameters.get(parameter.name) for case in mine} - {parameter.default}
            assert values - {None}, (row.name, parameter.name)
            assert set(parameter.choices) <= values | {parameter.default}, row.name
        for item in row.inputs:
            if item.differentiable:
                assert any(item.name in case.grads for case in mine)


def test_file_is_of_its_schema() -> None:
    schema = json.loads((FILES / "golden.schema.json").read_text())
    stored = json.loads((FILES / "golden-1.json").read_text())
    assert keywords(schema) <= {"$schema", "$defs", "title", *KEYWORDS}
    assert is_valid(stored, schema, schema["$defs"])
    of_case = schema["$defs"]["case"]
    assert is_valid(stored["cases"][0], of_case, schema["$defs"])
    for broken in ({"losses": ["0.1.2"]}, {"set": "other"}, {"more": 1}, {"inputs": {"x": "1"}}):
        assert not is_valid({**stored["cases"][0], **broken}, of_case, schema["$defs"])
    assert not is_valid({"loss": "dpo.sigmoid"}, of_case, schema["$defs"])
    for case in stored["cases"]:
        losses = ["losses"] if case["losses"] else []
        assert [*case["scales"]] == [*losses, *case["rewards"], *case["grads"]]


KEYWORDS = ("$ref", "description", "type", "required", "properties", "additionalProperties")
KEYWORDS += ("items", "anyOf", "enum", "const", "pattern")
KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def keywords(schema: Any) -> set[str]:
    """Every keyword of a schema, those of the schemas in it too."""
    found = set(schema)
    for name in ("properties", "$defs"):
        found |= {k for inner in schema.get(name, {}).values() for k in keywords(inner)}
    for inner in (
        schema.get("items"),
        schema.get("additionalProperties"),
        *schema.get("anyOf", ()),
    ):
        found |= keywords(inner) if isinstance(inner, dict) else set()
    return found


def is_valid(value: Any, schema: Any, definitions: Any) -> bool:
    """The part of JSON Schema that the file's schema uses."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        if not is_valid(value, definitions[name], definitions):
            return False
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        kinds = tuple(KINDS[name] for name in names)
        if not any(isinstance(value, kind) for kind in kinds):
            return False
        if isinstance(value, bool) and "boolean" not in names:
            return False
    if value != schema.get("const", value) or ("enum" in schema and value not in schema["enum"]):
        return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if "anyOf" in schema and not any(is_valid(value, s, definitions) for s in schema["anyOf"]):
        return False
    if isinstance(value, list):
        return all(is_valid(each, schema.get("items", {}), definitions) for each in value)
    if not isinstance(value, dict):
        return True
    rest = schema.get("additionalProperties", {})
    inner = {key: schema.get("properties", {}).get(key, rest) for key in value}
    if False in inner.values() or not set(schema.get("required", ())) <= set(value):
        return False
    return all(is_valid(value[key], each, definitions) for key, each in inner.items())


def test_generator_makes_these_cases() -> None:
    """A part of what `tools/gen_golden.py --check` compares whole in CI."""
    sys.path.insert(0, str(ROOT / "tools"))
    tool = pytest.importorskip("gen_golden", reason="tools/ is not beside the tests")
    stored = json.loads((FILES / "golden-1.json").read_text())
    for loss in ("kto.kto", "dpo.ipo", "gae.gae"):
        made = json.loads(tool.render(loss))
        assert made["cases"] == [case for case in stored["cases"] if case["loss"] == loss]
        assert {k: made[k] for k in ("schema", "mpmath", "digits")} == {
            "schema": 1, "mpmath": "1.3.0", "digits": 30,
        }  # fmt: skip


# ---- prefopt.testing -----------------------------------------------------------------------------


def test_imports_nothing_that_a_user_may_not_have() -> None:
    """Reading the values must not cost an import of a framework, of mpmath, or of pytest."""
    done = run_script("""
        import sys
        import prefopt.testing
        assert prefopt.testing.golden("dpo.ipo", "paper", "kink") is not None
        found = {"torch", "jax", "mpmath", "pytest", "scipy", "tensorflow"} & set(sys.modules)
        assert not found, found
    """)
    assert done.returncode == 0, done.stderr


def test_selection() -> None:
    assert {case.convention for case in golden("dpo.sigmoid")} > {"paper", "trl-1.16"}
    assert {case.loss for case in golden(convention="liger-0.8.5", set="extreme")} > {"kto.kto"}
    assert all(case.set == "kink" for case in golden("dpo.hinge", set="kink"))
    assert golden("dpo.sppo_soft", set="kink") == ()
    assert sum(len(golden(set=name)) for name in SETS) == len(golden())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dpo.sigmoi",), "^loss: no cases under 'dpo.sigmoi'; did you mean .*dpo.sigmoid"),
        (("dpo.ipo", "trl-1.17"), "^convention: no cases of dpo.ipo under .* did you mean trl-1.1"),
        (("dpo.ipo", "liger-0.8.5"), "^convention: no cases of dpo.ipo under 'liger-0.8.5'"),
        ((None, None, "ordinar"), "^set: no cases under 'ordinar'; did you mean ordinary"),
    ],
)
def test_unknown_names(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        golden(*arguments)


def test_arrays() -> None:
    """Read-only, of the row's types; numbers are numbers; decimals are those of the file."""
    case = golden("kto.kto", "paper", "ordinary")[0]
    assert case.inputs["desirable"].dtype == bool
    assert case.inputs["kl"] == 0.75
    assert case.losses.dtype == np.float64
    for array in (case.losses, *case.grads.values(), case.inputs["policy_logps"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert case.losses.tolist() == [float(text) for text in case.exact["losses"]]
    assert len(case.exact["losses"][0].lstrip("-0.")) >= 28
    assert golden("dpo.ipo", "trl-1.16")[0].inputs["chosen_lengths"].dtype.kind == "i"
    assert golden("gae.gae", set="ordinary")[1].inputs["mask"].dtype == bool


def test_errors_are_seen() -> None:
    """A moved value by its ulps; NaN, a wrong shape, a missing or wrong infinity as inf."""

    def shifted(case: GoldenCase, name: str, change: Any) -> float:
        result = prefopt.loss(case.loss, **case.inputs, **case.parameters, return_grads=True)
        if name in case.grads:
            result.grads[name] = change(result.grads[name])
        else:
            grads = result.grads
            result = result._replace(**{name: change(getattr(result, name))})
            result.grads = grads
        return case.errors(result)[name]

    case = golden("dpo.sigmoid", "paper", "ordinary")[0]
    for name in ("losses", "chosen_rewards", "policy_chosen_logps"):
        assert shifted(case, name, lambda a: a) <= 1
        step = 100 * case.ulps(name)
        assert 98 < shifted(case, name, lambda a, step=step: a + step) < 102
        assert shifted(case, name, lambda a: a * np.nan) == np.inf
        assert shifted(case, name, lambda a: a[:1]) == np.inf
        assert shifted(case, name, lambda a: a * np.inf) == np.inf
    limit = golden("orpo.orpo", "default", "kink")[0]
    assert shifted(limit, "losses", lambda a: a) <= 1
    assert shifted(limit, "losses", lambda a: np.minimum(a, 1e300)) == np.inf
    assert shifted(limit, "policy_chosen_logps", np.abs) == np.inf

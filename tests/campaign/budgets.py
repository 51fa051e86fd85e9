"""Budgets by a grammar, hostile values in any place: each is read, or refused in one line within a second."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from sousvit.objectives.targets.target import Target
from sousvit.search.budget import Budget, RayOptions, SearchLimits, require_sound
from sousvit.spaces.technique import techniques
from sousvit.specs import DataSpec, ModelSpec
from tests.campaign.outcome import Outcome, fault_of, grouped

#: What stands where a value is expected: YAML of all kinds, ours and hostile.
SCALARS = (
    "1", "0", "-1", "0.5", "1e-3", "1.5e+3", "017", "0o17", "0x1F", "0b1", "1_000", "1:30", "1000000000",
    "99999999999999999999", "-9223372036854775808", ".inf", "-.inf", ".nan", "true", "no", "on", "~", "null", "''",
    "word", "30m", "1h30m", "2 MB", "91%", "2024-01-01", "'\\0'", '"\\0"', '"\\ud800"', '"\\e[31m"', "~nosuchuser/x",
    "../../x", "a/b.yaml", "{0..999999999}", "'{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}x'",
    "!!binary aGk=", "!!timestamp 2024-01-01", "!!python/name:os.system", "!custom x", "*nothing", "*shared", "=", "<<",
    "'" + "9" * 4000 + "'", "x" * 4000, "x" * 5000, "[" * 40, "[]", "{}", "[[[]]]", "{<<: *shared}", "&again [*again]",
    "local-1-thread", "onnxruntime", "default", "latency", "accuracy_drop", "none", "coco", "all", "auto",
)  # fmt: skip
KEYS = (
    "model", "data", "targets", "limits", "optimize", "prefer", "space", "search", "ray", "task", "plugins", "name",
    "args", "from", "checkpoint", "preprocess", "size", "train", "test", "validation", "classes", "format", "root",
    "device", "threads", "batch", "memory", "runtime", "latency", "accuracy_drop", "size_ratio", "trials", "time",
    "seed", "techniques", "prune_mlp", "keep", "distill", "epochs", "student", "model", "on", "1", "<<", "img_size",
    "embed_dim", "depth", "a" * 300, '"\\e"', "? [x]\n", "last", "detector", "strides", "workers", "summary",
)  # fmt: skip
USUAL = {
    "model": "{name: vit_tiny_patch16_224, args: {num_classes: 3}}",
    "data": "{format: folder, train: a, test: b}",
    "targets": "[local-1-thread]",
    "limits": "{accuracy_drop: 0.01, size: 2 MB}",
    "optimize": "[latency, size]",
    "prefer": "latency",
    "space": "{techniques: {prune_mlp: {keep: [0.5]}, int8_dynamic: {}}}",
    "search": "{trials: 4, time: 30m}",
}

values = st.recursive(
    st.sampled_from(SCALARS),
    lambda inside: (
        st.lists(inside, max_size=4).map(lambda found: f"[{', '.join(found)}]")
        | st.lists(st.tuples(st.sampled_from(KEYS), inside), max_size=4).map(
            lambda found: f"{{{', '.join(f'{key}: {value}' for key, value in found)}}}"
        )
    ),
    max_leaves=12,
)
#: What passes the YAML reader, and may reach whoever computes with it.
LEGAL = (
    "1", "0", "-1", "0.5", "1e-3", "'1e400'", "1.5e+3", "9e+999", "1000000000", "9223372036854775807", ".inf", ".nan",
    "true", "false", "null", "''", "word", "30m", "'999999999999d'", "2 MB", "'91%'", "2024-01-01", "~nosuchuser/x",
    "../../x", "a/b.yaml", "'{0..999999999}'", "'**/**/**/**/x'", "'[' ", "'%s%n'", "hf-hub:a/b", "file:///dev/zero",
    "/dev/zero", "[]", "{}", "[[[]]]", "[1, 2]", "[0.5, 0.5]", "[a, a]", "{a: 1}", "{last: 1}", "{last: .inf}",
    "{img_size: 60000}", "{embed_dim: 1000000000}", "{depth: -5}", "[local-1-thread, local-1-thread]", "onnxruntime",
    "litert", "all", "auto", "none", "natural", "{latency: .inf}", "{size: 1}", "[size]", f"'{'{a,b}' * 17}'",
    f"'{'x' * 4000}'", f"'{'a/' * 2000}'", f"'{'9' * 4000}'", f"[{', '.join(['0.5'] * 2000)}]",
)  # fmt: skip
#: By section the keys that it has.
SECTIONS = {
    "model": [*ModelSpec.model_fields, "from"],
    "data": [*DataSpec.model_fields],
    "targets": [*Target.model_fields, "runtime"],
    "search": [*SearchLimits.model_fields],
    "ray": [*RayOptions.model_fields],
    "limits": ["latency", "accuracy_drop", "size", "latency@local", "memory_ratio", "nothing"],
}


def section(name):
    """One with up to three of its own keys, whose values are anything."""
    chosen = st.dictionaries(st.sampled_from(SECTIONS[name]), st.sampled_from(LEGAL), max_size=3)
    first = {"model": "name: vit_tiny_patch16_224", "data": "train: a, test: b"}.get(name, "")
    return st.tuples(
        st.just(name),
        chosen.map(lambda found: f"{{{', '.join([*_kept(first, found), *_lines(found)])}}}"),
    )


def _kept(first, found):
    return [part for part in first.split(", ") if part and part.partition(":")[0] not in found]


def _lines(found):
    return [f"{key}: {value}" for key, value in found.items()]


def option(technique):
    fields = sorted(technique.config.model_fields) or ["none"]
    values = st.dictionaries(st.sampled_from(fields), st.sampled_from(LEGAL), max_size=2)
    return values.map(lambda found: f"{technique.name}: {{{', '.join(_lines(found))}}}")


#: Spaces of real techniques and real parameters.
spaces = st.lists(st.sampled_from(list(techniques())), max_size=2, unique=True).flatmap(
    lambda chosen: st.tuples(*map(option, chosen)).map(
        lambda found: ("space", f"{{techniques: {{{', '.join(found)}}}}}")
    )
)
#: A budget as people write it, with up to three sections of another kind, and a key too many.
budgets = st.builds(
    lambda changed, extra: "\n".join(f"{key}: {value}" for key, value in [*{**USUAL, **changed}.items(), *extra]),
    st.dictionaries(st.sampled_from(sorted(USUAL)), values, max_size=3),
    st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=1),
)
#: The same with the keys that each section has.
near_budgets = st.lists(st.one_of(*map(section, SECTIONS), spaces), min_size=1, max_size=3).map(
    lambda changed: "\n".join(_lines({**USUAL, **dict(changed)}))
)
#: Anything that is nearly YAML.
texts = st.lists(
    st.sampled_from(
        [*"[]{}:,-?&*!|>'\"#%@`\n\t ", "- ", ": ", "a", "&a ", "*a", "<<: ", "0x", "...", "---\n", "\\0", "é"]
    ),
    max_size=60,
).map("".join)

#: In turns: what comes of anything in the place of sections, of any value of a known key, and of what is nearly YAML.
GRAMMARS = {"budget of other values": budgets, "budget of near values": near_budgets, "nearly YAML": texts}
TURNS = ("budget of other values", "budget of near values", "budget of near values", "nearly YAML")
#: Budgets of one turn; hypothesis makes them together.
TURN = 100
#: Seconds of the processor.
MOST_SECONDS = 5.0
QUIETLY: dict[str, Any] = {
    "database": None,
    "deadline": None,
    "phases": (Phase.generate,),
    "suppress_health_check": list(HealthCheck),
}


def attacks(numbers: range, seed: int) -> Iterator[Outcome]:
    """Budgets, read; a finding holds the text."""
    import timm  # noqa: F401 - whoever reads a budget with a bare word waits for it once

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "budget.yaml")
        for turn, wanted in grouped(numbers, TURN):
            kind = TURNS[turn % len(TURNS)]
            for text in made(kind, seed, turn)[wanted.start : wanted.stop]:
                yield Outcome(kind, finding(path, kind, text))


def made(kind: str, seed: int, turn: int) -> list[str]:
    """The texts of a turn: the same for a seed."""
    found: list[str] = []

    @seeded(f"{seed} {turn}")
    @settings(max_examples=TURN, **QUIETLY)
    @given(text=GRAMMARS[kind])
    def collect(text: str) -> None:
        found.append(text)

    while len(found) < TURN:  # it ends early where a grammar repeats itself
        collect()
    return found[:TURN]


def finding(path: Path, kind: str, text: str) -> str:
    """What is wrong with how a budget is read; "" where nothing is."""
    begun = time.process_time()
    try:
        read(path, text)
        fault = "it was read" if kind == "nearly YAML" else ""
    except Exception as error:
        fault = fault_of(error)
    seconds = time.process_time() - begun
    fault = fault or (f"it took {seconds:.1f} s" if seconds > MOST_SECONDS else "")
    return f"{fault}: {text!r}" if fault else ""


def read(path: Path, text: str) -> Budget:
    """A budget as a search reads it; what is read is written again, as into a run's folder."""
    path.write_text(text)
    budget = Budget.read(path)
    require_sound(budget)
    yaml.safe_dump(budget.model_dump(mode="json"))
    return budget

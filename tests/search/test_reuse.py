"""Searches that continue from an earlier run."""

from __future__ import annotations

import pytest
import yaml

from sousvit.errors import UserError
from sousvit.search.archive import Archive
from sousvit.search.reuse import take_over
from sousvit.spaces.space import read_space


@pytest.fixture
def earlier(simulated):
    """A finished run with a cache."""
    run = simulated("one")
    run.engine.run()
    plain = run.budget.model_dump(mode="json")
    folder = run.archive.folder
    (folder / "budget.yaml").write_text(yaml.safe_dump(plain))
    (folder / "cache" / "models").mkdir(parents=True)
    (folder / "cache" / "models" / "a.safetensors").write_bytes(b"weights")
    run.archive.close()
    return run


def resolved(run):
    """The earlier run's budget as its folder says it."""
    from sousvit.search.budget import Budget

    return Budget.read(run.archive.folder / "budget.yaml")


def test_a_tighter_budget_continues_where_the_earlier_search_ended(earlier, simulated, tmp_path):
    archive = Archive(tmp_path / "two", writable=True)
    count = take_over(archive, resolved(earlier), earlier.archive.folder)
    archive.close()
    complete = {trial.key for trial in earlier.archive if trial.status == "complete"}
    assert set(archive.trials) == complete and count == len(complete) > 5
    assert archive.own == 0 and archive.spent_seconds == 0.0
    assert {trial.source for trial in archive} == {"one"} and not any(trial.artifact for trial in archive)
    assert (tmp_path / "two/cache/models/a.safetensors").read_bytes() == b"weights"

    limits = {"accuracy_drop": 0.02, "latency_ratio": 0.5}
    continued = simulated("two", limits=limits, search={"trials": 12})
    continued.engine.run()
    assert continued.archive.own == 12 and len(continued.archive) == count + 12
    assert not complete & {trial.key for trial in continued.archive if not trial.source}
    assert any(trial.source for trial in continued.archive.front(continued.engine.goals))
    told = [trial for trial in continued.engine._proposals.proposer.study.trials if trial.state.is_finished()]
    assert continued.engine.counts.replayed > 0 and len(told) >= 10

    third = Archive(tmp_path / "three", writable=True)
    assert take_over(third, resolved(earlier), earlier.archive.folder) == count


def test_reads_of_the_test_split_are_remembered(earlier, tmp_path):
    old = Archive(earlier.archive.folder, writable=True)
    for _ in range(2):
        old.append("test_told")
    old.close()
    archive = Archive(tmp_path / "two", writable=True)
    take_over(archive, resolved(earlier), earlier.archive.folder)
    archive.append("test_told")
    archive.close()
    assert Archive(tmp_path / "two").test_answers == 3


def test_taking_over_is_repeated_after_a_crash_in_the_middle(earlier, tmp_path):
    archive = Archive(tmp_path / "two", writable=True)
    archive.add(next(trial for trial in earlier.archive if trial.status == "complete"))
    assert archive.base is None
    count = take_over(archive, resolved(earlier), earlier.archive.folder)
    assert len(archive) == count and archive.base is not None
    archive.close()
    assert len(Archive(tmp_path / "two")) == count


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"name": "deit_tiny_patch16_224"}}, "another model in one"),
        ({"targets": [{"threads": 2}]}, "another targets in one"),
        ({"optimize": ["memory"]}, "no memory"),
        ({"search": {"seed": 1}}, "1, 0 in one; search with --seed 0"),
    ],
)
def test_a_run_of_something_else_is_refused(change, said, earlier, tmp_path):
    from sousvit.search.budget import make_budget

    other = make_budget({**resolved(earlier).model_dump(mode="json"), **change}, tmp_path)
    archive = Archive(tmp_path / "two", writable=True)
    with pytest.raises(UserError, match=said):
        take_over(archive, other, earlier.archive.folder)
    assert archive.base is None and not len(archive)


def test_what_lies_outside_the_new_space_is_left_behind(earlier, tmp_path):
    from sousvit.search.budget import make_budget

    techniques = {name: values for name, values in read_space("default")["techniques"].items() if name != "prune_depth"}
    plain = resolved(earlier).model_dump(mode="json")
    other = make_budget({**plain, "space": {"techniques": techniques}}, tmp_path)
    archive = Archive(tmp_path / "two", writable=True)
    assert 0 < take_over(archive, other, earlier.archive.folder) < sum(t.status == "complete" for t in earlier.archive)
    assert not any("prune_depth" in trial.techniques for trial in archive)

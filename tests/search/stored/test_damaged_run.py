"""Damage that is mended: an answer made again, a base measured again, a study rebuilt, a trial judged again."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import yaml

import sousvit
from sousvit.errors import UserError
from sousvit.runs import list_runs
from sousvit.search.archive import EVENTS, Archive
from sousvit.search.proposers.study_file import STUDY_FILE, StudyFile
from sousvit.search.stored.answer_file import ANSWER
from sousvit.search.stored.events import IMPOSSIBLE, UNKNOWN, problem_of
from sousvit.search.stored.lines import Lines, sealed_line
from sousvit.search.stored.opened import open_run
from sousvit.spaces.technique import TECHNIQUES

SPACE = {"techniques": {"prune_mlp": {}, "prune_depth": {}, "int8_dynamic": {}}}
ASKED = {"search": {"trials": 12}, "space": SPACE, "limits": {"accuracy_drop": 0.3, "latency_ratio": 0.9}}


@pytest.fixture(scope="module")
def finished(simulated_search, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home") / "one"
    simulated_search(folder, **ASKED)
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    folder = tmp_path / "runs" / "one"
    shutil.copytree(finished, folder)
    return folder


def rewrite(folder: Path, change) -> None:
    """Change the events of a run's log, with right numbers and checksums; what becomes None is left out."""
    events = [change(event) for event in Lines(folder / EVENTS)]
    kept = [event for event in events if event is not None]
    (folder / EVENTS).write_bytes(b"".join(sealed_line(event, number) for number, event in enumerate(kept, 1)))


def spoil(folder: Path, kind: str) -> None:
    """Flip a bit in the middle of the first line of a kind."""
    lines = (folder / EVENTS).read_bytes().splitlines(keepends=True)
    place = next(place for place, line in enumerate(lines) if f'"event":"{kind}"'.encode() in line)
    spoilt = bytearray(lines[place])
    spoilt[len(spoilt) // 2] ^= 4
    lines[place] = bytes(spoilt)
    (folder / EVENTS).write_bytes(b"".join(lines))


def test_a_damaged_answer_is_made_again_from_the_archive(run, simulated_search):
    before = sousvit.open_run(run).result
    path = run / ANSWER
    path.write_text(path.read_text().replace('"runtime": "onnxruntime"', '"runtime": "openvino"', 1))
    opened = sousvit.open_run(run)
    assert opened.damaged == [f"{ANSWER}: its checksum is of something else"]
    result = opened.result
    assert result.recipe == before.recipe and result.status == "not shown on the test split" and not result.answer.rows
    assert any("made again from the archive" in note for note in result.answer.notes)
    assert "made again from the archive" in result.report().read_text()
    answer, told = simulated_search(run, **ASKED)
    assert f"damaged: {ANSWER}: its checksum is of something else; going on from what is whole" in told
    assert answer.to_dict()["recipe"] == before.answer.to_dict()["recipe"] and answer.rows
    assert sousvit.open_run(run).damaged == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"status": 3}', "\udcff", "[" * 50_000])
def test_whatever_stands_in_an_answer_is_told_in_one_line(text, run, run_sousvit):
    (run / ANSWER).write_bytes(text.encode("utf-8", "surrogateescape"))
    found = run_sousvit("report", "one", cwd=run.parents[1])
    assert found.returncode == 0 and found.stderr.count("\n") == 1 and f"damaged: {ANSWER}: " in found.stderr


def test_a_damaged_base_is_measured_again(run, simulated_search):
    spoil(run, "base")
    with pytest.raises(UserError, match=r"1 line unreadable; resume it with sousvit search"):
        sousvit.open_run(run)
    (run / ANSWER).unlink()
    answer, told = simulated_search(run, **ASKED)
    assert answer.feasible and any("1 line unreadable" in line for line in told)
    assert sum(event["event"] == "base" for event in Lines(run / EVENTS)) == 1
    assert sousvit.open_run(run).base and "1 line unreadable" in sousvit.open_run(run).damaged[0]


def test_a_damaged_trial_is_told_everywhere_and_judged_again(run, simulated_search, run_sousvit):
    before = len(Archive(run))
    spoil(run, "trial")
    assert len(sousvit.open_run(run).trials) == before - 1
    assert list_runs(run.parent)[0]["state"] == "finished, damaged"
    other = run.parent / "other.yaml"
    other.write_text("limits: {}\noptimize: [size]\n")
    found = run_sousvit("recipe", "one", other, "--json", cwd=run.parents[1])
    assert "damaged: events.jsonl: 1 line unreadable\n" in found.stderr
    assert any("1 line unreadable" in note for note in json.loads(found.stdout)["notes"])
    answer, told = simulated_search(run, **ASKED)
    assert any("1 line unreadable" in line for line in told) and len(Archive(run)) == before
    assert any("1 line unreadable" in note for note in answer.notes)


def test_lines_that_are_gone_at_the_end_are_known_from_the_answer(run, run_sousvit):
    lines = (run / EVENTS).read_bytes().splitlines(keepends=True)
    (run / EVENTS).write_bytes(b"".join(lines[:-3]))
    assert sousvit.open_run(run).damaged == ["events.jsonl: 3 lines missing at the end"]


def test_a_last_line_that_was_cut_short_is_told_once_and_mended(run, simulated_search):
    (run / ANSWER).unlink()
    content = (run / EVENTS).read_bytes()
    (run / EVENTS).write_bytes(content[:-20])
    assert sousvit.open_run(run).damaged == ["events.jsonl: 1 line cut short at the end"]
    _, told = simulated_search(run, **ASKED)
    assert sum("cut short at the end" in line for line in told) == 1
    assert sousvit.open_run(run).damaged == []


def test_a_budget_that_was_edited_is_told(run):
    path = run / "budget.yaml"
    path.write_text(path.read_text().replace("latency_ratio: 0.9", "latency_ratio: 0.8"))
    assert sousvit.open_run(run).damaged == ["budget.yaml: changed since the search wrote it"]
    path.write_text(path.read_text().replace("limits:", "limitz:"))
    with pytest.raises(UserError, match=r"changed since: .*limitz: no such key, .*; resume the run's search"):
        sousvit.open_run(run)


def test_another_budget_is_refused_though_the_line_that_says_whose_run_it_is_is_damaged(run, simulated_search):
    spoil(run, "run")
    with pytest.raises(UserError, match="a run keeps its budget"):
        simulated_search(run, **{**ASKED, "limits": {"accuracy_drop": 0.1}})
    simulated_search(run, **ASKED)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t["values"].update(accuracy="x"), IMPOSSIBLE),
        (lambda t: t["values"].update(accuracy=["x", None, None]), IMPOSSIBLE),
        (lambda t: t["values"].update(accuracy=[None, None, None]), IMPOSSIBLE),
        (lambda t: t["values"].update(accuracy=[float("nan"), None, None]), IMPOSSIBLE),
        (lambda t: t["values"].update(accuracy=[0.5, float("inf"), None]), IMPOSSIBLE),
        (lambda t: t["values"].update(accuracy=[True, None, None]), IMPOSSIBLE),
        (lambda t: t.update(values=None), IMPOSSIBLE),
        (lambda t: t.update(fidelity="all"), IMPOSSIBLE),
        (lambda t: t.update(fidelity=7.0), IMPOSSIBLE),
        (lambda t: t.update(status="running"), IMPOSSIBLE),
        (lambda t: t.update(key=None), IMPOSSIBLE),
        (lambda t: t.update(artifact="../../precious"), IMPOSSIBLE),
        (lambda t: t.update(artifact=".."), IMPOSSIBLE),
        (lambda t: t["recipe"].update(steps=[{"technique": "no_such"}]), UNKNOWN),
        (lambda t: t["recipe"].update(steps=[{"technique": []}]), IMPOSSIBLE),
        (lambda t: t["recipe"].update(steps=["prune_mlp"]), IMPOSSIBLE),
        (lambda t: t["recipe"].pop("runtime"), IMPOSSIBLE),
    ],
)
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "of an earlier version"])
def test_values_that_cannot_be_are_told_and_left_out(change, problem, sealed, run):
    changed = []

    def once(event):
        if event["event"] == "trial" and event["trial"]["status"] == "complete" and not changed:
            change(event["trial"])
            changed.append(event["trial"])
        return event

    rewrite(run, once)
    if not sealed:
        plain = [json.dumps(event) for event in Lines(run / EVENTS)]
        (run / EVENTS).write_text("\n".join(plain) + "\n")
        (run / ANSWER).unlink()
    _, archive = open_run(run)
    assert archive.damaged == [f"events.jsonl: 1 line {problem}"] and len(archive) == 11
    assert Archive(run, techniques=None).damaged == ([] if problem == UNKNOWN else archive.damaged)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "base", "base": {}},
        {"event": "base", "base": {"values": {"size": [1, None, None]}, "shape": {"x": 1}, "machine": {}}},
        {"event": "session", "seconds": "long", "core_seconds": 1},
        {"event": "rejected", "key": 3},
        {"event": "confirmed", "key": "a", "values": {"size": ["x"]}},
        {"event": "tried", "recipes": None},
        {"event": "predicted", "errors": {"latency": 3}},
        {"event": "asked", "number": 1, "origin": "x", "parameters": [], "known": 1},
        {"event": "enqueued", "recipes": [["a", "b"]]},
        {"event": "told", "number": "1", "trial": "", "values": {}},
        {"event": []},
        {"kind": "none"},
    ],
)
def test_every_kind_of_event_is_checked(event):
    assert problem_of(event, TECHNIQUES) == IMPOSSIBLE


def test_events_of_later_versions_pass():
    assert problem_of({"event": "something new", "value": object()}) == ""


def test_a_run_of_an_earlier_version_opens_without_a_word(run, simulated_search):
    plain = [{key: value for key, value in event.items() if key != "identity" or event["event"] == "run"}
             for event in Lines(run / EVENTS)]  # fmt: skip
    (run / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in plain))
    answer = json.loads((run / ANSWER).read_text())
    (run / ANSWER).write_text(json.dumps({key: answer[key] for key in answer if key not in ("lines", "checksum")}))
    (run / "budget.yaml").write_text(yaml.safe_dump(yaml.safe_load((run / "budget.yaml").read_text())))
    journal = (run / STUDY_FILE).read_text()
    (run / STUDY_FILE).write_text(re.sub(r',"line":\d+,"crc":"[0-9a-f]{8}"}', "}", journal))
    assert sousvit.open_run(run).damaged == [] and sousvit.open_run(run).result.recipe is not None
    more = {**ASKED, "search": {"trials": 14}}
    _, told = simulated_search(run, **more)
    assert not any("damaged" in line for line in told) and len(Archive(run)) == 14
    assert sousvit.open_run(run).damaged == [] and not Lines(run / STUDY_FILE).damage


@pytest.mark.parametrize("damage", ["text", "flip", "delete", "double", "empty", "binary", "of another run"])
def test_a_damaged_study_is_rebuilt_from_the_archive(damage, run, simulated_search):
    path = run / STUDY_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    flipped = bytearray(lines[-2])
    flipped[len(flipped) // 2] ^= 1
    content = {
        "text": [b"no journal\n"],
        "flip": [*lines[:-2], bytes(flipped), lines[-1]],
        "delete": [*lines[:3], *lines[4:]],
        "double": [*lines, lines[-1]],
        "empty": [],
        "binary": [b"\x00\xff" * 200, b"\n"],
        "of another run": [line.replace(b'"key": "', b'"key": "x') for line in _plain(path)],
    }[damage]
    path.write_bytes(b"".join(content))
    _, told = simulated_search(run, **{**ASKED, "search": {"trials": 13}})
    assert (f"damaged: {STUDY_FILE}; written anew from the archive" in told) == (damage != "empty")
    found = Lines(path)
    keys = [line["user_attrs"]["key"] for line in found if "user_attrs" in line and "key" in line["user_attrs"]]
    assert keys == [trial.key for trial in Archive(run)] and not found.damage


def _plain(path: Path) -> list[bytes]:
    """The lines of a study as an earlier version wrote them."""
    return [json.dumps(line).encode() + b"\n" for line in Lines(path)]


def test_a_study_of_an_earlier_version_that_is_nonsense_is_rebuilt(simulated):
    run = simulated()
    (run.archive.folder / STUDY_FILE).write_text('{"op_code":99,"worker_id":3}\n{"op_code":4}\n')
    assert StudyFile(run.archive, run.engine._proposals.problem).damaged


def test_half_made_artifacts_of_killed_processes_go_when_the_run_is_opened_for_writing(run):
    left = [run / place for place in ("artifacts/.recipe.ab12cd_3", "cache/structures/.k.00000000",
                                      "cache/teacher/.t.zzzzzzzz")]  # fmt: skip
    kept = [run / place for place in ("artifacts/recipe", "artifacts/.mine", "cache/structures/k")]
    for folder in (*left, *kept):
        (folder / "artifact").mkdir(parents=True)
    Archive(run)
    assert all(folder.is_dir() for folder in left), "reading changes nothing"
    Archive(run, writable=True).close()
    assert not any(folder.exists() for folder in left) and all(folder.is_dir() for folder in kept)


def test_a_log_that_somebody_holds_is_read_once_until_it_changes(run):
    _, held = open_run(run)
    assert open_run(run)[1] is held and held.damaged == []
    spoil(run, "trial")
    assert open_run(run)[1] is not held and open_run(run)[1].damaged
    with closing(Archive(run, writable=True)) as writer:
        writer.append("options", options={})
    assert len(open_run(run)[1]) == len(held) - 1


def test_a_look_at_how_a_run_was_begun_reads_no_trial(run):
    glance, whole = Archive(run, only=("run", "base", "options", "session")), Archive(run)
    assert len(whole) and not len(glance)
    assert (glance.header, glance.options, glance.core_seconds) == (whole.header, whole.options, whole.core_seconds)
    assert glance.base is not None and Archive(run, only=("trial", "session")).spent_seconds == whole.spent_seconds

"""A report's content, and the forms it is written in."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from PIL import Image

from sousvit.errors import UserError
from sousvit.runs import compare_runs, open_run
from sousvit.search.report.page.bars import block_table, waterfall
from sousvit.search.report.page.content import Part
from sousvit.search.report.page.gather import gather
from sousvit.search.report.page.markdown import code, markdown
from sousvit.search.report.page.points import MOST_POINTS
from sousvit.search.report.page.render import render, script_data
from sousvit.search.report.page.write import FORMATS, write_report
from sousvit.search.results import Answer
from sousvit.search.stored.answer_file import read_answer
from sousvit.search.stored.details_file import DETAILS, read_details

#: What a name may be that wants to be markup, in HTML, in a script and in Markdown.
HOSTILE = "</script><img src=x onerror=hacked=1><!--\"'`|*_[x](javascript:1) \\ & {{ 7 * 7 }}"


def made_hostile(value: Any, keep: tuple[str, ...] = ("image", "contact_sheet")) -> Any:
    """A content whose free texts are all hostile."""
    if is_dataclass(value):
        kept = {"name", "role", "state", "shown", "part", "status", *keep}
        changed = {
            one.name: made_hostile(getattr(value, one.name))
            for one in fields(value)
            if one.name not in kept or (one.name == "name" and not hasattr(value, "factor"))
        }
        return replace(value, **changed)
    if isinstance(value, list):
        return [made_hostile(one) for one in value]
    return HOSTILE if isinstance(value, str) else value


def test_the_content_is_plain_and_agrees_with_the_run(shown, shown_run):
    plain = shown.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    run = open_run(shown_run)
    assert len(shown.points) == len(run.archive) + 1 and shown.points[0].role == "base"
    answer = run.result.answer
    [chosen] = [point for point in shown.points if point.role == "answer"]
    assert chosen.key == answer.chosen.key
    for name, (value, low, high) in chosen.values.items():
        found = answer.chosen.values[name]
        assert value == pytest.approx(found.value, rel=1e-4) and (low is None) == (found.low is None), name
        assert (high is None) == (found.high is None)
    front = {trial.key for trial in run.archive.front(run.budget.goals())}
    assert {point.key for point in shown.points if point.on_front} == front and front
    assert {point.state for point in shown.points} >= {"fits", "breaks a limit", "untrained", "gated"}
    assert [limit.name for limit in shown.limits] == list(run.budget.limits)
    assert len(shown.headlines) == 3
    assert shown.headlines[0].value == f"{1 / answer.row.values['latency_ratio'].value:.3g}x"
    assert shown.axes[0].name == "accuracy" and shown.axes[0].factor == 100


def test_every_limit_has_a_light_for_the_search_and_one_for_the_end(shown):
    for limit in shown.limits:
        assert limit.search.shown == "holds" and limit.answer.shown in ("holds", "not shown", "broken")
    assert shown.limits[0].search.images == "validation" and shown.limits[0].answer.images == "the test split"


def test_a_running_search_shows_its_best_so_far(shown_run, tmp_path):
    folder = tmp_path / "running"
    folder.mkdir()
    for name in ("budget.yaml", "events.jsonl"):
        (folder / name).write_bytes((shown_run / name).read_bytes())
    found = gather(folder)
    assert found.status == "running" and found.recipe and not found.rows and not found.reproduce
    assert found.limits[0].search.shown == "holds" and found.limits[0].answer.shown == "not measured"
    [best] = [point for point in found.points if point.role == "answer"]
    assert best.commands[0] == f"sousvit recipe running --trial {best.key} --out trial.yaml"
    assert "The search is not finished" in render(found)


def test_a_report_of_some_hundred_trials_is_small(shown_run):
    page = write_report(shown_run)
    assert page == shown_run / "report.html"
    size = page.stat().st_size
    print(f"300 trials and 24 images: {size / 1e6:.2f} MB")
    assert size < 1_500_000


def test_blocks_stand_beside_each_other(shown):
    table = block_table(shown.cuts)
    assert {"heads", "MLP width", "tokens", "bits"} <= set(table.columns) and len(table.rows) == 6
    whole = {cut.what: cut for cut in shown.cuts if cut.part == "whole network"}
    assert whole["blocks"].base == "6" and whole["parameters, M"].share < 1


def test_a_waterfall_ends_where_the_whole_recipe_does():
    parts = [Part("prune", 2.0, 2.0, -1.0), Part("train", 0.9, 1.0, 2.0), Part("int8", 1.5, 4.0, -0.1)]
    bars = waterfall(parts, Part("the whole recipe", 4.0, 8.0, 0.5), "faster")
    assert [bar.label for bar in bars] == [
        "prune",
        "train",
        "int8",
        "together, or not measured alone",
        "the whole recipe",
    ]
    assert [bar.kind for bar in bars] == ["better", "worse", "better", "better", "total"]
    product = math.prod(float(bar.text[:-1]) for bar in bars[:-1])
    assert product == pytest.approx(4.0, rel=0.02) and bars[-1].text == "4.00x"
    assert bars[0].start == 0 and bars[3].start + bars[3].width == pytest.approx(100, abs=0.1)
    assert not waterfall([], None, "faster")
    exact = waterfall(parts[:1], Part("the whole recipe", 2.0, 2.0, 0.5), "faster")
    assert [bar.label for bar in exact] == ["prune", "the whole recipe"]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_written(form, shown_run, tmp_path):
    path = write_report(shown_run, tmp_path / f"page.{form}")
    data = path.read_bytes()
    if form == "png":
        assert Image.open(io.BytesIO(data)).size == (960, 600) and len(data) < 200_000
    elif form == "json":
        assert json.loads(data)["name"] == "three hundred"
    else:
        assert b"three hundred" in data and b"prune" in data
    assert write_report(shown_run, tmp_path / "other.txt", form).read_bytes() == data


def test_an_unknown_format_is_told(shown_run):
    with pytest.raises(UserError, match="pdf"):
        write_report(shown_run, None, "pdf")


def test_the_picture_marks_answer_base_and_limits(shown):
    image = Image.open(io.BytesIO(FORMATS["png"](shown))).convert("RGB")
    colours = {colour for _, colour in image.getcolors(1 << 24)}
    assert {(0x1D, 0x5F, 0xBF), (0x1C, 0x24, 0x30), (0xB3, 0x26, 0x1E), (0x14, 0x71, 0x3F)} <= colours


def test_nothing_of_a_run_becomes_markup(shown):
    hostile = made_hostile(shown)
    page = render(hostile)
    assert "<img src=x" not in page and "{{ 7 * 7 }}" in page
    assert page.count("<script") == 2 and page.count("</script>") == 2
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert data["content"]["points"][5]["recipe"] == HOSTILE
    plain = [line for line in markdown(hostile).splitlines() if not line.startswith(("`", "    "))]  # else it is code
    assert not re.search(r"(?<!\\)[<\[|*`](?=img|x\]|_)", "\n".join(plain))
    assert FORMATS["png"](hostile).startswith(b"\x89PNG")


def test_data_for_a_script_ends_no_element():
    value = {"<!--": "</script>&"}
    assert not set("<>&") & set(script_data(value)) and json.loads(script_data(value)) == value


def test_code_in_markdown_holds_any_backticks():
    assert code("a ``b`` c") == "``` a ``b`` c ```" and code("a\nb") == "`a b`"


def test_images_can_be_left_out(shown_run, shown):
    assert len(shown.pictures) == 24
    found = gather(shown_run, with_images=False)
    assert not found.pictures and found.disagreements == shown.disagreements


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"classes": 3}', '{"disagreements": [{"image": "PHN2Zz4=", "label": "", "base": "", "answer": ""}]}'],
)
def test_damaged_details_are_told_and_the_rest_is_shown(text, shown_run, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for name in ("budget.yaml", "events.jsonl", "answer.json"):
        (folder / name).write_bytes((shown_run / name).read_bytes())
    (folder / DETAILS).write_text(text)
    with pytest.raises(UserError):
        read_details(folder)
    found = gather(folder)
    assert found.rows and not found.classes and found.notes[0].startswith("shown without details")


def test_of_very_many_trials_the_front_is_shown_first(shown_run, tmp_path, monkeypatch):
    monkeypatch.setattr("sousvit.search.report.page.points.MOST_POINTS", 150)
    found, run = gather(shown_run), open_run(shown_run)
    assert len(found.points) == 151 and MOST_POINTS >= 1000
    front = {trial.key for trial in run.archive.front(run.budget.goals())}
    assert front <= {point.key for point in found.points} and any("150 of 300" in note for note in found.notes)


def test_a_trial_of_the_report_is_made_a_recipe_by_its_command(shown, shown_run, run_sousvit, tmp_path):
    point = next(point for point in shown.points if point.role == "trial" and point.state == "fits")
    command = ["recipe", shown_run.name, "--trial", point.key, "--out", "trial.yaml", "--runs", str(shown_run.parent)]
    result = run_sousvit(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = (tmp_path / "trial.yaml").read_text()
    steps = open_run(shown_run).archive.trials[point.key].recipe["steps"]
    assert all(step["technique"] in written for step in steps)
    assert "a trial is named by the key" in run_sousvit(*command[:3], "nothing", *command[4:], cwd=tmp_path).stderr


def test_runs_beside_each_other_say_what_is_not_alike(simulated_search, shown_run, tmp_path):
    other = tmp_path / "other"
    simulated_search(other, limits={"accuracy_drop": 0.05})
    found = compare_runs([shown_run, other])
    assert [row[0] for row in found.rows] == ["three hundred", "other"]
    assert found.headings == ["run", "status", "as fast", "smaller", "points of top-1", "recipe"]
    assert found.warnings == (
        "other limits (three hundred: accuracy_drop <= 0.03, latency_ratio <= 0.6; other: accuracy_drop <= 0.05)",
    )
    alone = tmp_path / "alone"
    simulated_search(alone, model={"name": "vit_small_patch16_224"}, data={"format": "idx", "train": "a", "test": "b"})
    page = compare_runs([shown_run, alone]).write(tmp_path / "compare.html").read_text()
    assert "other bases (" in page and "vit_small_patch16_224" in page
    for wrong in ([shown_run], [shown_run, shown_run]):
        with pytest.raises(UserError, match="different runs are compared"):
            compare_runs(wrong)


def test_the_comparison_fits_a_terminal(simulated_search, shown_run, tmp_path, run_sousvit):
    simulated_search(shown_run.parent / "second", search={"seed": 1})
    command = ["compare", shown_run.name, "second", "--runs", str(shown_run.parent)]
    result = run_sousvit(*command, "--out", tmp_path / "both.html", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = [line for line in result.stdout.splitlines() if "hundred" in line or "second" in line]
    assert len(table) >= 4 and all(len(line) <= 80 for line in table[:2])
    assert (tmp_path / "both.html").stat().st_size < 1_500_000
    plain = json.loads(run_sousvit(*command, "--json", cwd=tmp_path).stdout)
    assert [run["name"] for run in plain["runs"]] == ["three hundred", "second"] and plain["warnings"] == []


def test_an_answer_that_was_read_again_has_the_same_report(shown_run, shown):
    stored = read_answer(shown_run)
    assert stored is not None and isinstance(stored.answer, Answer)
    assert gather(shown_run) == shown

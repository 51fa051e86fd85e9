"""``sousvit verify``: a recipe and an artifact held against a budget, its JUnit file, and its exit codes."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import sousvit
from sousvit.errors import UserError
from sousvit.search.judging.verification import Verification
from sousvit.search.report.junit import junit
from sousvit.search.verdict import JudgedLimit

RECIPE = {"recipe": {"runtime": "onnxruntime", "steps": [{"technique": "prune_depth", "drop": 1}]}}


@pytest.fixture(scope="module")
def verified(tiny_project, tmp_path_factory):
    """The budget's file, a recipe verified, and its artifact."""
    home = tmp_path_factory.mktemp("verify")
    limits = {"accuracy_drop": 0.9, "size_ratio": 0.5, "params_ratio": 0.99}
    budget = tiny_project.write_budget(home / "budget.yaml", limits=limits, search={"measure_time": 0.05})
    (home / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sousvit.search.judging.subjects.available_cores", lambda: 1)
        found = sousvit.verify(home / "recipe.yaml", budget, junit=home / "out" / "junit.xml")
    return home, budget, found


def test_a_recipe_is_held_against_every_limit_on_the_test_split(verified):
    _, _, found = verified
    limits = {limit.name: limit for limit in found.limits}
    assert limits["accuracy_drop"].verdict == "holds" and limits["accuracy_drop"].images == "the test split"
    assert limits["size_ratio"].verdict == "broken" and limits["size_ratio"].images == ""
    assert found.status == "infeasible" and found.parity < 1e-3


def test_the_junit_file_has_a_case_a_limit_and_one_for_parity(verified):
    home, _, _ = verified
    root = ElementTree.parse(home / "out" / "junit.xml").getroot()
    cases = root.findall("testsuite/testcase")
    assert root.tag == "testsuites" and len(cases) == 4 == int(root.get("tests"))
    assert root.get("failures") == "1" and cases[1].find("failure").get("type") == "broken"
    assert cases[3].get("classname") == "sousvit.parity" and cases[3].find("skipped") is None
    assert {case.get("name") for case in cases} >= {"accuracy_drop <= 0.9", "size_ratio <= 0.5"}


def test_an_artifact_alone_is_judged_but_for_what_needs_its_model(verified, tiny_project, run_sousvit):
    home, budget, _ = verified
    run_sousvit("apply", home / "recipe.yaml", "--out", home / "dist", "--model", tiny_project.checkpoint,
                "--data", budget, cwd=home)  # fmt: skip
    said = run_sousvit("verify", "dist", budget, "--junit", "junit.xml", cwd=home)
    assert said.returncode == 3 and "params_ratio" in said.stdout and "no PyTorch model" in said.stdout
    root = ElementTree.parse(home / "junit.xml").getroot()
    assert (root.get("failures"), root.get("skipped")) == ("1", "2")


def test_what_is_neither_recipe_nor_artifact_is_one_line(verified):
    home, budget, _ = verified
    with pytest.raises(UserError, match="a recipe file, or the folder of an artifact or bundle"):
        sousvit.verify(home, budget)


def test_what_is_not_shown_fails_in_the_junit_file_only_where_that_is_asked():
    limit = JudgedLimit("accuracy_drop", "<= 0.02", 0.018, 0.01, 0.026, 0.9, "the test split", "not shown")
    found = Verification(Path("recipe.yaml"), "here", (limit,), 1e-6, ("a <note> & more",), 1.0)
    assert found.status == "not shown on the test split"
    lenient, strict = (ElementTree.fromstring(junit(found, strict)) for strict in (False, True))
    assert (lenient.get("failures"), lenient.get("skipped")) == ("0", "1")
    assert (strict.get("failures"), strict.get("skipped")) == ("1", "0")
    assert "0.018 [0.01-0.026]" in strict.find("testsuite/testcase/failure").get("message")

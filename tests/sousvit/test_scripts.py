"""Searches and replays from scripts as people write them: with and without ``if __name__ == "__main__"``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sousvit

HEAD = """
from pathlib import Path
import sousvit
from sousvit.objectives.objective import Stage

class Blocks(sousvit.Objective):
    name, unit, direction, stage = "blocks", "blocks", "minimize", Stage.STRUCTURE
    summary = "number of transformer blocks"

    def __init__(self):
        print("made", __name__)

    def measure(self, subject):
        return sousvit.Measurement(float(len(subject.model.blocks)))

def search(executor):
    from sousvit.models.load import load
    module = load(sousvit.Model(checkpoint={checkpoint!r}).resolved(Path())).module
    module.pretrained_cfg = {{**module.pretrained_cfg, "mean": (0.5,), "std": (0.27,)}}
    return sousvit.compress(
        module, train={data!r}, limits={{"accuracy_drop": 0.9}}, optimize=["size", "blocks"], objectives=[Blocks],
        space={{"techniques": {{"prune_depth": {{"drop": [0, 1]}}}}}}, executor=executor, trials=1,
        run="runs/" + executor, measure_time=0.05, leave_one_out=False, explore_fidelity=1.0)
"""


def run(project, folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    data = {**project.data, "calibration": 16}
    script.write_text(HEAD.format(checkpoint=str(project.checkpoint), data=data) + body)
    command = [sys.executable, str(script)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_inline_and_is_told_why_workers_need_one(tiny_project, tmp_path):
    body = "print('status', search('inline').status)\nprint('next', flush=True)\nsearch('local')\n"
    found = run(tiny_project, tmp_path, body)
    assert "status holds" in found.stdout, found.stderr
    assert found.returncode == 1 and found.stdout.count("status") == found.stdout.count("next") == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("sousvit.errors.UserError: a script that starts worker processes is imported by them")
    assert "if __name__ == '__main__'" in last and "executor='inline'" in last
    assert "bootstrapping" not in found.stderr and found.stderr.count("Traceback") == 1, found.stderr


TABLE = """
import random
import sousvit
from sousvit.search.proposers.proposer import Proposer, Suggestion

print("imported", __name__, flush=True)

class Mine(Proposer):
    name, summary = "mine", "drawn evenly"

    def ask(self, history, pending, seed):
        return Suggestion(self.problem.space.draw(random.Random(seed), {})[0])

sousvit.register_proposer(Mine)

def compare():
    return sousvit.replay("table.yaml", ["random", "mine"], evaluations=4, seeds=2, workers=2)
"""


def replay(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    (folder / "table.csv").write_text("width,accuracy,macs\n" + "".join(f"{w},{1 - 1 / w},{w}\n" for w in range(1, 9)))
    objectives = {"accuracy": "maximize", "macs": "minimize"}
    (folder / "table.yaml").write_text(
        yaml.safe_dump({"file": "table.csv", "parameters": ["width"], "objectives": objectives})
    )
    (folder / "script.py").write_text(TABLE + body)
    command = [sys.executable, "script.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)


def test_a_replay_with_workers_from_a_script_without_a_main_guard_is_one_line_with_the_true_cause(tmp_path):
    found = replay(tmp_path, "compare()\n")
    last = found.stderr.strip().splitlines()[-1]
    assert found.returncode == 1 and last.startswith(
        "sousvit.errors.UserError: a script that starts worker processes is imported by them"
    )
    assert "if __name__ == '__main__'" in last and "workers=1" in last
    assert "BrokenProcessPool" not in found.stderr and found.stderr.count("Traceback") == 1, found.stderr


def test_the_workers_of_a_guarded_script_know_its_own_proposer(tmp_path):
    found = replay(tmp_path, "if __name__ == '__main__':\n    print('policies', *compare().curves)\n")
    assert found.returncode == 0 and "policies random mine" in found.stdout, found.stderr
    assert "sousvit_plugin" not in found.stdout, "the script is not run a second time"


@pytest.mark.slow
def test_a_guarded_script_searches_in_a_worker_with_its_own_module_and_objective(tiny_project, tmp_path):
    found = run(tiny_project, tmp_path, "if __name__ == '__main__':\n    print('status', search('local').status)\n")
    assert found.returncode == 0 and "status holds" in found.stdout, found.stderr
    assert "made sousvit_plugin" not in found.stdout, "the script is not run a second time"
    again = sousvit.open_run(tmp_path / "runs" / "local")
    assert set(again.trials["blocks"].dropna()) <= {3.0, 4.0}
    plain = yaml.safe_load((again.folder / "budget.yaml").read_text())
    assert plain["plugins"]["objectives"] == [f"{tmp_path / 'script.py'}:Blocks"]
    assert Path(plain["model"]["checkpoint"]).parent == again.folder / "inputs"

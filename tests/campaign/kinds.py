"""The kinds of attacks, how many of each make the whole campaign, and how many the test suite takes."""

from __future__ import annotations

from tests.campaign import agent_requests, artifacts, budgets, cluster, files, kills, run_files, yaml_files
from tests.campaign.apart import Attacks

KINDS: dict[str, Attacks] = {
    "budgets": budgets.attacks,
    "yaml": yaml_files.attacks,
    "files": files.attacks,
    "artifacts": artifacts.attacks,
    "agent-requests": agent_requests.attacks,
    "run-files": run_files.attacks,
    "kills": kills.attacks,
    "cluster": cluster.attacks,
}
WHOLE = {
    "budgets": 10_000,
    "yaml": 2_000,
    "files": 1_000,
    "artifacts": 300,
    "agent-requests": 500,
    "run-files": 1_000,
    "kills": 1_000,
    "cluster": 100,
}
#: What the test suite takes of them, a minute in all; losses of nodes have tests of their own.
SMALL = {
    "budgets": 800,
    "yaml": 300,
    "files": 250,
    "artifacts": 8,
    "agent-requests": 48,
    "run-files": 160,
    "kills": 5,
}
#: Seconds after which a kind hangs that told nothing; a run is attacked several times before it tells.
SILENCE = {kind: {"kills": 600, "cluster": 900}.get(kind, 150) for kind in KINDS}

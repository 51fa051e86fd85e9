"""The site: built as strictly as ``make docs`` does it, without a network, from pages that are read elsewhere too."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sousvit
from sousvit.spaces.technique import techniques

pytest.importorskip("mkdocs")
pytest.importorskip("material")

ROOT = Path(__file__).parents[2]
#: What a browser fetches by itself.
FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(https?:)?//[^>]*>")


def build(top: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """The site of the tree at ``top``, by this environment's MkDocs."""
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    return subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this tree."""
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_built_and_fetches_nothing(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    found = {path.relative_to(site): path.read_text() for path in site.rglob("*.html")}
    assert pages <= found.keys()
    for name, text in found.items():
        assert not FETCHED.search(text), f"{name}: {FETCHED.search(text)}"
        assert "](../" not in re.sub(r"<code>.*?</code>", "", text, flags=re.S), f"{name} has a link that is none"


def test_the_reference_has_every_public_name_technique_and_key(site):
    names, budget, shown = (
        (site / "reference" / f"{name}.html").read_text() for name in ("python", "budget", "techniques")
    )
    for name in sousvit.__all__:
        assert f'id="{name.lower()}"' in names, name
    for technique in techniques():
        assert f'id="{technique.name}"' in shown
        assert all(f"<code>{key}</code>" in shown for key in technique.config.model_fields)
    assert all(f"<code>{key}</code>" in budget for key in sousvit.Budget.model_fields)


def test_a_dead_link_or_heading_fails_the_build(tmp_path):
    for name in ("docs", "examples", "benchmarks", "runs"):
        ignored = shutil.ignore_patterns("*.safetensors", "*.gz", "*.json", "*.csv", "__pycache__", "data")
        (shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored) if name != "runs" else (tmp_path / name).mkdir())
    for name in ("mkdocs.yml", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "runs/README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "faq.md"
    page.write_text(page.read_text() + "\n[gone](gone.md) and [no such heading](data.md#no-such-heading)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "gone.md" in done.stderr and "no-such-heading" in done.stderr


class Known:
    """The files of a site, by their names."""

    def __init__(self, *names):
        self.names = names

    def get_file_from_path(self, name):
        return name if name in self.names else None


@pytest.mark.parametrize(
    ("source", "text", "made"),
    [
        ("data.md", "see [the page](python.md#search)", "see [the page](python.md#search)"),
        ("guides/intel.md", "[a](../../benchmarks/demo/result.md)", "[a](../benchmarks/demo/result.md)"),
        ("SECURITY.md", "[a](docs/data.md)", "[a](data.md)"),
        ("data.md", "[spaces/space.py](../spaces/space.py)", "`spaces/space.py`"),
        ("data.md", "[a file](../spaces/space.py#top)", "a file (`spaces/space.py`)"),
        ("data.md", "[out](https://example.org)", "[out](https://example.org)"),
        ("data.md", "Text\n- one\n- two", "Text\n\n- one\n- two"),
        ("data.md", "- one\n  - in it", "- one\n    - in it"),
        ("data.md", "Text\n| a |\n|---|\n| b |", "Text\n\n| a |\n|---|\n| b |"),
        ("data.md", "```\nText\n- [a](../spaces/space.py)\n```", "```\nText\n- [a](../spaces/space.py)\n```"),
        ("data.md", "```python run\na\n```", "```python\na\n```"),
        ("data.md", "```python file=a.py\na\n```", "```python\na\n```"),
    ],
)
def test_pages_become_pages_of_the_site(source, text, made):
    hooks = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
    known = Known("data.md", "python.md", "SECURITY.md", "benchmarks/demo/result.md")
    assert hooks["converted"](text, source, known) == made

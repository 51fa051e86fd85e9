"""What turns the pages, as they are read on the repository's host, into pages of the site. MkDocs calls it by name.

Pages that lie elsewhere in the tree (SECURITY.md, the results of benchmarks) become pages of the site too, links to any
other file become its path as code, and what GitHub's Markdown takes without an empty line before it gets one.
"""

from __future__ import annotations

import posixpath
import re
import runpy
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
#: Pages outside docs/ that are pages of the site, in the same folders.
OUTSIDE = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "runs/README.md", "examples/**/*.md", "benchmarks/**/*.md")
IN_NAV = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
FENCE = re.compile(r"^```.*?^```[ ]*$", re.S | re.M)
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s]+)\)")
#: A list or a table behind a line of text, and a list in a list.
LIST = re.compile(r"^(?![-*|#] |\d+\. |\s|$)(.+)\n(?=(?:[-*] |\d+\. ))", re.M)
NESTED = re.compile(r"^ {2,3}(?=[-*] |\d+\. )", re.M)
TABLE = re.compile(r"^(?!\||$)(.+)\n(?=\|)", re.M)


def outside() -> dict[str, Path]:
    """The pages that lie outside docs/, by their path from the top folder."""
    found = sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern))
    return {path.relative_to(ROOT).as_posix(): path for path in found}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside docs/ and those that are generated."""
    for name, path in outside().items():
        file = File.generated(config, name, abs_src_path=str(path))
        file.inclusion = InclusionLevel.INCLUDED if name in IN_NAV else InclusionLevel.NOT_IN_NAV
        files.append(file)
    for name, text in runpy.run_path(str(ROOT / "docs" / "reference.py"))["pages"]().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page as the site needs it."""
    del config
    return converted(markdown, page.file.src_uri, files)


def converted(markdown: str, source: str, files: Files) -> str:
    """The page at ``source`` with links and empty lines as the site needs them; code stays as it is."""
    place = source if source in outside() else f"docs/{source}"
    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [_prose(markdown[end : fence.start()], source, place, files), _fence(fence[0])]
        end = fence.end()
    return "".join([*pieces, _prose(markdown[end:], source, place, files)])


def _fence(block: str) -> str:
    """A block without what only the tests read behind its language."""
    return re.sub(r"\A```python (run|file=\S+)$", "```python", block, flags=re.M)


def _prose(text: str, source: str, place: str, files: Files) -> str:
    def link(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        path, mark, anchor = target.partition("#")
        if ":" in path or not path:
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(place), path))
        page = there.removeprefix("docs/")
        if files.get_file_from_path(page) is not None:
            return f"[{words}]({posixpath.relpath(page, posixpath.dirname(source) or '.')}{mark}{anchor})"
        if there.startswith("docs/") and not (ROOT / there).exists():
            return found[0]  # a page that is not there: MkDocs says so
        return f"`{there}`" if words.strip("`") in (there, posixpath.basename(there)) else f"{words} (`{there}`)"

    spaced = NESTED.sub("    ", TABLE.sub(r"\1\n\n", LIST.sub(r"\1\n\n", text)))
    return LINK.sub(link, spaced)

"""The rules of the tree that no single test of a room would notice."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import sousvit

tomllib = pytest.importorskip("tomllib")

ROOT = Path(__file__).parent.parent
ROOMS = ("spaces", "objectives", "search")
#: Modules of ``sousvit/`` that stand on the rooms; the others are the ground floor that the rooms stand on.
DOORS = ("__main__", "cli", "api", "initial", "inputs", "plugins", "result", "runs", "techniques", "tools", "workshop")
FRONT_DOOR = tuple(f"sousvit.{name}" for name in DOORS)
#: The rooms that a room may import besides itself and the ground floor; lazy imports count.
MAY_IMPORT = {
    "sousvit": set(),
    "spaces": set(),
    "objectives": {"spaces"},
    "search": {"spaces", "objectives"},
}
#: Lines of a file, at most and of nine files in ten; files in a folder.
MAX_LINES, MOST_LINES, MAX_FILES = 700, 300, 20
FILES = sorted(file for room in (*ROOMS, "sousvit") for file in (ROOT / room).rglob("*.py"))
IDS = [str(file.relative_to(ROOT)) for file in FILES]
#: Benchmarks that measure a part itself, and from where inside they may import it; all others use the front door.
PARTS = {
    "common/made_up.py": ("objectives", "search", "spaces"),  # what the next four share
    "engine_overhead/run.py": ("search", "spaces"),
    "scaling/run.py": ("search", "spaces"),
    "scaling/quality.py": ("search", "spaces"),
    "archive_at_scale/run.py": ("models", "objectives", "search", "spaces"),
    "timing_aa/run.py": ("machine", "models", "objectives", "spaces", "specs"),
    "other_runtimes/run.py": ("objectives",),
    "noiseless_choice/run.py": ("search",),
    "limits_hold/run.py": ("objectives", "search", "spaces"),
    "limits_hold/real.py": ("data", "objectives", "spaces"),
    "limits_hold/costs.py": ("models", "spaces"),
    "training/run.py": ("data", "spaces"),
    "workers/run.py": ("data", "machine", "spaces"),
    "limits_hold/pool.py": ("errors", "models", "search", "spaces"),
    "teacher/run.py": ("cache", "data", "machine", "models", "search", "spaces"),
    "families/run.py": ("data", "errors", "machine", "objectives", "spaces"),
}
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
#: The packages that list the implementations of a contract.
TABLES = [file for file in FILES if file.name == "__init__.py" and "\nBUILTIN = {" in file.read_text(encoding="utf-8")]


def is_front_door(name):
    return any(name == door or name.startswith(f"{door}.") for door in FRONT_DOOR)


@cache
def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(file):
    """What a file imports, anywhere in it, type checking's included: the dotted names that each part may stand for.

    ``from a import b`` is the module ``a.b``, or else a name in ``a``.
    """
    found = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found += [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found += [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
        elif isinstance(node, ast.Call) and called(node) in ("importlib.import_module", "import_module", "__import__"):
            found += [(entry.value,) for entry in node.args if isinstance(entry, ast.Constant)]
    return found


def imported(file):
    """Dotted names that a file imports, and may import."""
    return {name for names in imports(file) for name in names}


def module(file):
    """The dotted name under which a file is imported."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "sousvit" else ("sousvit", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def called(node):
    """The dotted name of a call, such as ``torch.load``."""
    return ast.unparse(node.func)


def calls(file):
    return [node for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]


def public(file):
    return not file.stem.startswith("_") or file.stem == "__init__"


def test_there_is_something_to_check():
    assert len(FILES) > 20 and {file.relative_to(ROOT).parts[0] for file in FILES} == {*ROOMS, "sousvit"}


def test_the_package_list_equals_the_folders():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = set()
    for room, place in (("sousvit", "sousvit"), *((f"sousvit.{name}", name) for name in ROOMS)):
        assert settings["package-dir"][room] == place
        holding = {file.parent for file in (ROOT / place).rglob("*") if file.suffix in (".py", ".yaml")}
        folders |= {".".join([room, *folder.relative_to(ROOT / place).parts]) for folder in holding}
    assert set(settings["packages"]) == folders


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_rooms_import_one_way(file):
    room = file.relative_to(ROOT).parts[0]
    if module(file) == "sousvit" or is_front_door(module(file)):  # the package itself names what is public
        return
    forbidden = {f"sousvit.{other}" for other in ROOMS if other != room and other not in MAY_IMPORT[room]}
    forbidden |= set(FRONT_DOOR)
    broken = [name for name in imported(file) if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)]
    assert not broken, f"{room} imports {broken}"


def reached_past_the_front_door(file):
    """What a file outside imports of sousvit that is not public."""
    opened = {"sousvit", "sousvit.techniques", *(f"sousvit.{name}" for name in sousvit.__all__)}
    ours = [names for names in imports(file) if names[0].split(".")[0] == "sousvit"]
    return sorted({names[-1] for names in ours if not opened.intersection(names[:1])})


@pytest.mark.parametrize("file", BENCHMARKS, ids=[str(file.relative_to(ROOT / "benchmarks")) for file in BENCHMARKS])
def test_benchmarks_use_the_front_door(file):
    places = PARTS.get(str(file.relative_to(ROOT / "benchmarks")), ())
    inside = [name for name in reached_past_the_front_door(file) if name.split(".")[1] not in places]
    assert not inside, f"of {', '.join(inside)}, take what is public, or make public what users would want too"


def test_only_benchmarks_of_parts_are_excused():
    known = {str(file.relative_to(ROOT / "benchmarks")): file for file in BENCHMARKS}
    assert all(
        reached_past_the_front_door(known[name]) and "from inside" in " ".join(known[name].read_text().split())
        for name in PARTS
    )


def circles(files):
    """Groups of our modules that import each other in a circle; lazy and type checking's imports count."""
    by_name = {module(file): file for file in files}
    arrows = {}
    for name, file in by_name.items():
        meant = (next((one for one in names if one in by_name), None) for names in imports(file))
        arrows[name] = {other for other in meant if other not in (None, name)}
    return strongly_connected(arrows)


def strongly_connected(arrows):
    """Tarjan's algorithm: the groups of more than one node each of which reaches every other."""
    index, low, stack, groups = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in arrows[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            groups.extend([sorted(group)] if len(group) > 1 else [])

    for node in arrows:
        if node not in index:
            visit(node)
    return groups


def test_no_imports_go_in_a_circle():
    found = circles(FILES)
    print(f"circles of imports: {len(found)}")
    assert not found, "; ".join(f"{len(group)} files: {', '.join(group)}" for group in found)


def test_the_house_stays_easy_to_walk_through(capsys):
    lengths = sorted(
        (len(file.read_text(encoding="utf-8").splitlines()), str(file.relative_to(ROOT))) for file in FILES
    )
    folders = Counter(str(file.parent.relative_to(ROOT)) for file in FILES)
    nine_in_ten, longest, fullest = lengths[len(lengths) * 9 // 10][0], lengths[-1], folders.most_common(1)[0]
    with capsys.disabled():
        print(
            f"\n{len(FILES)} files, {len(circles(FILES))} circles of imports, at most {fullest[1]} files in a folder "
            f"({fullest[0]}); lines: median {lengths[len(lengths) // 2][0]}, 90% at most {nine_in_ten}, "
            f"longest {longest[0]} ({longest[1]})"
        )
    assert nine_in_ten <= MOST_LINES and longest[0] <= MAX_LINES and fullest[1] <= MAX_FILES


@pytest.mark.parametrize("table", TABLES, ids=[file.parent.name for file in TABLES])
def test_tables_name_what_is_there_and_in_their_own_folders(table):
    """A table stands in for imports, so it holds to their rules: nothing of another room, and no module that is not."""
    package = module(table)
    for name, reference in importlib.import_module(package).BUILTIN.items():
        assert reference.startswith(f"{package}."), f"{name} is of {reference}"
        found = pkgutil.resolve_name(reference)
        assert inspect.isclass(found) and not inspect.isabstract(found), f"{name}: {reference}"
        assert getattr(found, "name", name) == name


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_rooms_are_imported_by_their_full_names(file):
    assert not {name.split(".")[0] for name in imported(file)} & set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_files_stay_readable(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    if public(file):
        assert ast.get_docstring(tree(file)), "a public module says in its first lines what it is for"


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_nothing_opens_untrusted_code(file):
    """No pickles but our own, no unsafe torch or numpy loading, YAML through our bounded loader only, no eval."""
    assert not imported(file) & {"dill", "cloudpickle", "joblib", "marshal", "shelve"}
    assert not any(name.startswith("pickle.") for name in imported(file)), "import pickle as a whole: calls are checked"
    for node in calls(file):
        name, given = called(node), {keyword.arg: keyword.value for keyword in node.keywords}
        if name in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
            round_trip = [called(entry) for entry in node.args if isinstance(entry, ast.Call)] == ["pickle.dumps"]
            assert round_trip, f"line {node.lineno}"
        if name == "torch.load":
            assert ast.unparse(given.get("weights_only", ast.Constant(None))) == "True", f"line {node.lineno}"
        if name in ("np.load", "numpy.load"):
            assert ast.unparse(given.get("allow_pickle", ast.Constant(False))) == "False", f"line {node.lineno}"
        if name.startswith("yaml.") and "load" in name:
            raise AssertionError(f"line {node.lineno}: use sousvit.checked, which is bounded")
        assert name not in ("eval", "exec", "os.system"), f"line {node.lineno}"
        assert ast.unparse(given.get("shell", ast.Constant(False))) == "False", f"line {node.lineno}: shell=True"


def heavy_modules(code):
    """Which heavy libraries running ``code`` in a new process loads."""
    heavy = "torch", "timm", "onnx", "onnxruntime", "openvino", "nncf", "ray", "optuna", "pandas", "plotly"
    code = f"import sys\n{code}\nprint(' '.join(name for name in {heavy!r} if name in sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env={**os.environ}
    )
    return run.stdout.split()


def test_importing_sousvit_is_light():
    assert heavy_modules("import sousvit") == []


def test_the_spec_of_model_and_data_is_light():
    assert heavy_modules("import sousvit.specs, sousvit.checked, sousvit.registry, sousvit.machine") == []


@pytest.mark.parametrize(
    "back",
    [
        "def f():\n    import sousvit.spaces.one\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sousvit.spaces.one import One\n",
        "from sousvit.spaces import three\n",
        "import importlib\nimportlib.import_module('sousvit.spaces.three')\n",
    ],
)
def test_a_circle_is_found_however_it_is_closed(back, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "spaces").mkdir()
    sources = {
        "__init__": "",
        "one": "from sousvit.spaces.two import Two\n",
        "two": back,
        "three": "import sousvit.spaces.one",
    }
    for name, source in sources.items():
        (tmp_path / "spaces" / f"{name}.py").write_text(source)
    [group] = circles(sorted((tmp_path / "spaces").glob("*.py")))
    assert {"sousvit.spaces.one", "sousvit.spaces.two"} <= set(group) and "sousvit.spaces" not in group


@pytest.mark.parametrize(
    "source",
    [
        "from sousvit.search import engine\n",
        "import sousvit.search.engine\n",
        "from sousvit.spaces.recipe import Recipe\n",
        "from sousvit import search\n",
    ],
)
def test_a_way_past_the_front_door_is_found(source, tmp_path):
    file = tmp_path / "run.py"
    file.write_text(f"import sousvit\nfrom sousvit import Recipe, techniques\n{source}")
    assert len(reached_past_the_front_door(file)) == 1


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("def f():\n    import sousvit.search.engine\n", test_rooms_import_one_way),
        ("from sousvit import search\n", test_rooms_import_one_way),
        ("import importlib\nimportlib.import_module('sousvit.cli')\n", test_rooms_import_one_way),
        ("from spaces import recipe\n", test_rooms_are_imported_by_their_full_names),
        ("x = 1\n", test_files_stay_readable),
        ('"""Long."""\n' + "x = 1\n" * MAX_LINES, test_files_stay_readable),
        ("import pickle\npickle.loads(data)\n", test_nothing_opens_untrusted_code),
        ("from pickle import loads\n", test_nothing_opens_untrusted_code),
        ("import torch\ntorch.load('x')\n", test_nothing_opens_untrusted_code),
        ("import torch\ntorch.load('x', weights_only=False)\n", test_nothing_opens_untrusted_code),
        ("import yaml\nyaml.safe_load('x')\n", test_nothing_opens_untrusted_code),
        ("eval('x')\n", test_nothing_opens_untrusted_code),
    ],
)
def test_the_rules_can_be_broken(source, rule, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "spaces").mkdir()
    file = tmp_path / "spaces" / "new.py"
    file.write_text(source)
    with pytest.raises(AssertionError):
        rule(file)

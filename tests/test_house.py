"""The house: what stands where, and that imports go down the ladder of arianna/__init__.py."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

import arianna

TOP_LEVEL = {
    "arianna_ft.py", "train_arianna.py", "model.py", "tokenizer.py", "arianna_data.py", "sample.py",
    "arianna", "data", "out", "tests", "docs", "bench", "README.md", "LICENSE", "Makefile", "pyproject.toml",
    "requirements.txt", "requirements-test.txt", ".gitignore", ".ci",
}  # fmt: skip
STEPS = {  # of a file or a room; a room's own __init__.py is in it
    "arianna/system": 1, "tokenizer.py": 2, "arianna/corpus": 3, "arianna/ops.py": 3,
    "arianna/fused.py": 3.5, "model.py": 4,
    "arianna_data.py": 4, "arianna/formats": 5, "arianna/generate.py": 5, "arianna/best_of.py": 5.5,
    "arianna/training": 6,
    "arianna/chat.py": 6, "arianna/web.py": 6, "arianna/scoring": 7, "train_arianna.py": 8, "sample.py": 8,
    "arianna/evaluate.py": 8, "arianna/export.py": 8, "arianna/reporting": 9, "arianna/searching": 9,
    "arianna/report.py": 10, "arianna/search.py": 10, "arianna_ft.py": 11,
}  # fmt: skip
SCRIPTS = {"arianna_ft", "train_arianna", "sample"}
IMPORTS = (ast.Import, ast.ImportFrom)
LONGEST = 350  # lines of a file
MOST_LATE_IMPORTS = 32  # imports inside functions: a promise, or an optional package, needs each of them


def product_files() -> list[Path]:
    return [*ROOT.glob("*.py"), *ROOT.glob("arianna/**/*.py")]


def place(path: Path) -> str:
    """A key of STEPS."""
    relative = path.relative_to(ROOT)
    room = "/".join(relative.parts[:2])
    return room if room in STEPS else str(relative)


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(name: str) -> Path | None:
    """The file of this project that a dotted name stands for or lies in."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        path = ROOT.joinpath(*words[:end])
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def arrows() -> set[tuple[Path, Path]]:
    pairs = {(path, file_of(name)) for path in product_files() for name in imports(path)}
    return {(path, to) for path, to in pairs if to not in (None, path, ROOT / "arianna/__init__.py")}


def test_the_top_level_holds_the_owners_list_and_the_standard_files_alone():
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert names
    assert {name.split("/")[0] for name in names} <= TOP_LEVEL


def test_every_file_has_its_step():
    files = [p for p in product_files() if p != ROOT / "arianna/__init__.py"]
    assert len(files) > 40
    assert [str(p.relative_to(ROOT)) for p in files if place(p) not in STEPS] == []


def test_imports_go_down_the_ladder_or_stay_in_the_room():
    up = [
        f"{path.relative_to(ROOT)} -> {to.relative_to(ROOT)}"
        for path, to in sorted(arrows())
        if place(path) != place(to) and STEPS[place(path)] <= STEPS[place(to)]
    ]
    assert up == []


def test_no_two_files_import_each_other_around_a_circle():
    targets: dict[Path, set[Path]] = {}
    for path, to in arrows():
        targets.setdefault(path, set()).add(to)
    while leaves := {p for p in targets if not targets[p] & targets.keys()}:
        for leaf in leaves:
            del targets[leaf]
    assert sorted(str(p.relative_to(ROOT)) for p in targets) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("arianna/**/*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_package_imports_no_script_but_the_trainer_where_a_run_is_made(path):
    may = {"train_arianna"} if STEPS.get(place(path), 0) > STEPS["train_arianna.py"] else set()
    assert {name.split(".")[0] for name in imports(path)} & SCRIPTS <= may


def test_no_file_is_longer_than_it_should_be():
    files = [*product_files(), *ROOT.glob("bench/*.py"), *ROOT.glob("data/*.py")]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert {"bench/defaults.py", "data/make_base.py"} < lengths.keys()
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


def test_few_imports_stand_inside_functions():
    functions = [
        node
        for path in product_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    late = {inner for node in functions for inner in ast.walk(node) if isinstance(inner, IMPORTS)}
    assert 10 < len(late) <= MOST_LATE_IMPORTS


def test_the_root_is_the_projects_folder():
    assert ROOT == arianna.ROOT
    assert (arianna.ROOT / "arianna_ft.py").is_file() and (arianna.ROOT / "data/words.txt").is_file()

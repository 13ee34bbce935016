# SPDX-License-Identifier: BSD-3-Clause
"""Do imports point one way, from room to room, and does every file say what it is?"""

import ast
from pathlib import Path

import pytest

from vcm_plugin.environment import IN_RESULTS, NOT_IN_RESULTS

ROOT = Path(__file__).parents[1]
# A room (a folder, or a module at the top of the package) imports only rooms that stand before it.
ORDER = """
    errors stages process environment files weights_file split_points rate_points settings
    safe_pickle features conditions
    vvc bitstream entropy diff_fchm.machine diff_fchm.human
    anchors
    split testsets metrics ctc
    report crosscheck training compressai_vision hydra_plugins cli
""".split()
MODULES_AT_THE_TOP = 14
ANCHORS_MAY_IMPORT = set(
    "errors stages process weights_file split_points rate_points features vvc bitstream "
    "entropy".split()
)
MAY_IMPORT_ANCHORS = {"anchors", "ctc", "report", "training", "cli"}
WITHOUT_TORCH = """
    bitstream/__init__ metrics/bd_rate metrics/rate process ctc/results report/tables conditions
    cli/main crosscheck/package
""".split()
SOURCES = sorted(
    path for folder in ("vcm_plugin", "anchors", "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
)  # fmt: skip
MODULES = [path for path in SOURCES if path.parts[len(ROOT.parts)] in ("vcm_plugin", "anchors")]


def room_of(name: str) -> str:
    """The entry of ORDER that a dotted name belongs to."""
    parts = name.split(".")
    if parts[0] == "anchors":
        return "anchors"
    return ".".join(parts[1 : 3 if parts[1] == "diff_fchm" else 2])


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, path: Path) -> set[str]:
    """Dotted names of ours that a tree imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("vcm_plugin", "anchors")}


def rooms_imported(path: Path) -> set[str]:
    names = imported(ast.parse(path.read_text()), path)
    return {room_of(name) for name in names if name not in ("vcm_plugin", "vcm_plugin.__version__")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    name = module_of(path)
    if name in ("vcm_plugin", "vcm_plugin.diff_fchm"):
        return
    room = room_of(name)
    assert room in ORDER, f"{room}: give it a place in ORDER"
    for other in rooms_imported(path) - {room, ""}:
        assert other in ORDER and ORDER.index(other) < ORDER.index(room), f"{name}: {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_some_rooms_touch_the_anchors(path):
    name = module_of(path)
    if name.startswith("anchors"):
        assert rooms_imported(path) - {"anchors"} <= ANCHORS_MAY_IMPORT
    elif name != "vcm_plugin" and room_of(name) not in MAY_IMPORT_ANCHORS:
        assert "anchors" not in rooms_imported(path)


def test_the_top_of_the_package_stays_small():
    modules = [path.name for path in (ROOT / "vcm_plugin").glob("*.py")]
    assert len(modules) <= MODULES_AT_THE_TOP, modules


def test_every_folder_is_in_results_or_not():
    folders = {
        path.name for path in (ROOT / "vcm_plugin").iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }  # fmt: skip
    assert not set(IN_RESULTS) & set(NOT_IN_RESULTS)
    assert folders == set(IN_RESULTS) | set(NOT_IN_RESULTS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_its_licence_and_its_question(path):
    lines = path.read_text().splitlines()
    first, second = lines[lines[0].startswith("#!") :][:2]
    assert first == "# SPDX-License-Identifier: BSD-3-Clause"
    assert second.startswith('"""')


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_modules_that_need_no_torch_do_not_import_it(name):
    seen, waiting = set(), [ROOT / f"vcm_plugin/{name}.py"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] != "torch" for alias in node.names), path
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] not in ("torch", "torchvision"), path
                both = (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
                files = [file for name in both for file in _files(name)]
                waiting += [file for file in files if file not in seen]


def _files(name: str) -> list[Path]:
    """The files that importing a dotted name runs."""
    parts = name.split(".")
    found = [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return [path for path in (*found, ROOT.joinpath(*parts).with_suffix(".py")) if path.is_file()]

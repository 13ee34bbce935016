# SPDX-License-Identifier: BSD-3-Clause
"""Do imports point one way, and does every file say what it is?"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module imports only modules that stand before it.
ORDER = """
    vcm_plugin.errors vcm_plugin.environment vcm_plugin.process vcm_plugin.stages
    vcm_plugin.features
    vcm_plugin.bitstream vcm_plugin.weights_file vcm_plugin.ivn vcm_plugin.rans vcm_plugin.vfcn
    vcm_plugin.entropy vcm_plugin.machine_codec vcm_plugin.human
    anchors
    vcm_plugin.split vcm_plugin.minictc vcm_plugin.drawn_sets
    vcm_plugin.conditions vcm_plugin.datasets
    vcm_plugin.open_images vcm_plugin.sequences
    vcm_plugin.tasks vcm_plugin.semantic vcm_plugin.protocols
    vcm_plugin.metrics vcm_plugin.picture_metrics vcm_plugin.codecs
    vcm_plugin.results vcm_plugin.feature_cache vcm_plugin.workers vcm_plugin.complexity
    vcm_plugin.inference vcm_plugin.sequence_inference vcm_plugin.ctc
    vcm_plugin.published vcm_plugin.human_vision vcm_plugin.tables vcm_plugin.report
    vcm_plugin.proposal vcm_plugin.package vcm_plugin.crosscheck
    vcm_plugin.training
    vcm_plugin.human_demo
    vcm_plugin.doctor vcm_plugin.check_data vcm_plugin.commands vcm_plugin.cli
    vcm_plugin.harness vcm_plugin.hydra_plugins
""".split()
ANCHORS_MAY_IMPORT = {
    f"vcm_plugin.{name}"
    for name in ("errors", "process", "stages", "features", "bitstream", "weights_file")
}
MAY_IMPORT_ANCHORS = {
    f"vcm_plugin.{name}"
    for name in ("codecs", "picture_metrics", "human_demo", "doctor", "training")
} | {"anchors"}
WITHOUT_TORCH = ("bitstream", "metrics", "process", "results", "tables", "conditions", "cli")
SOURCES = sorted(
    path for folder in ("vcm_plugin", "anchors", "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
)  # fmt: skip
MODULES = [path for path in SOURCES if path.parts[len(ROOT.parts)] in ("vcm_plugin", "anchors")]


def name_of(path: Path) -> str:
    """The entry of ORDER that a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "anchors" if parts[0] == "anchors" else ".".join(parts[:2])


def imported(path: Path) -> set[str]:
    """Entries of ORDER that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in names if name.split(".")[0] in ("vcm_plugin", "anchors")}
    entries = {"anchors" if n.startswith("anchors") else ".".join(n.split(".")[:2]) for n in ours}
    return {entry for entry in entries if entry in ORDER or (ROOT / _path(entry)).exists()}


def _path(entry: str) -> str:
    return entry.replace(".", "/") + ".py"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    name = name_of(path)
    if name == "vcm_plugin.__init__":
        assert not imported(path)
        return
    assert name in ORDER, f"{name}: give it a place in ORDER"
    place = ORDER.index(name)
    for other in imported(path) - {name}:
        assert other in ORDER and ORDER.index(other) < place, f"{name} imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_codecs_and_anchors_touch(path):
    name = name_of(path)
    if name == "anchors":
        assert imported(path) - {"anchors"} <= ANCHORS_MAY_IMPORT
    elif name not in MAY_IMPORT_ANCHORS:
        assert "anchors" not in imported(path)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_its_licence_and_its_question(path):
    lines = path.read_text().splitlines()
    first, second = lines[lines[0].startswith("#!") :][:2]
    assert first == "# SPDX-License-Identifier: BSD-3-Clause"
    assert second.startswith('"""')


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_modules_that_need_no_torch_do_not_import_it(name):
    seen, waiting = set(), [f"vcm_plugin.{name}"]
    while waiting:
        entry = waiting.pop()
        seen.add(entry)
        tree = ast.parse((ROOT / _path(entry)).read_text())
        for node in tree.body:
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] != "torch" for alias in node.names), entry
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] not in ("torch", "torchvision"), entry
                both = (node.module, *(f"{node.module}.{a.name}" for a in node.names))
                waiting += [n for n in both if (ROOT / _path(n)).is_file() and n not in seen]

# SPDX-License-Identifier: BSD-3-Clause
"""Does the wheel work in an empty environment outside the checkout?"""

import os
import re
import shutil
import site
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_all_that_is_not_code(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, below in (("cfg", "vcm_plugin/cfg"), ("vcm_plugin/weights", "vcm_plugin/weights")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert f"{below}/{path.relative_to(ROOT / folder)}" in names
    for path in (ROOT / "anchors" / "reference").rglob("*.json"):
        assert str(path.relative_to(ROOT)) in names
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)
    assert "vcm_plugin/bitstream/decoding.md" in names  # a proposal states it
    assert "hydra_plugins/vcm_plugin/__init__.py" in names  # where Hydra looks
    assert not any(name.startswith("vcm_plugin/hydra_plugins") for name in names)


def test_scripts_and_package_take_the_same_pythons():
    setup = (ROOT / "setup.py").read_text()
    script = (ROOT / "scripts" / "environment.sh").read_text()
    low, end = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', setup).groups()
    assert f"(3, {low}) <= sys.version_info < (3, {end})" in script
    assert f"expected python3 of version 3.{low} to 3.{int(end) - 1}, found" in script
    candidates = re.search(r"for python in python3 (.+) \"\"; do", script)[1].split()
    assert candidates == [f"python3.{n}" for n in range(int(end) - 1, int(low) - 1, -1)]


def test_no_python_that_fits_is_one_line(tmp_path):
    """An empty search path but for the tools that the script calls."""
    for tool in ("dirname", "head"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    bash = shutil.which("bash")
    done = subprocess.run(
        [bash, str(ROOT / "scripts" / "environment.sh")],
        capture_output=True, text=True, env={"PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("vcm-plugin: expected python3 of version 3.10 to 3.12, found: ")


def test_the_wheel_runs_two_pictures_outside_the_checkout(wheel, tiny_condition, tmp_path):
    """Its dependencies come from the environment of the tests: the slow test installs them too."""
    python = _environment(tmp_path / "venv")
    libraries = [
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
    ]
    packages = Path(
        _succeed([python, "-c", "import sysconfig as s; print(s.get_path('purelib'))"], tmp_path)
    )
    (packages / "dependencies.pth").write_text("\n".join(dict.fromkeys(libraries)))
    _succeed([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], tmp_path)
    _run_two_pictures(python, tiny_condition, tmp_path)


@pytest.mark.slow
def test_the_wheel_brings_its_dependencies(wheel, tiny_condition, tmp_path):
    python = _environment(tmp_path / "venv")
    _succeed([python, "-m", "pip", "install", "--quiet", wheel], tmp_path)
    _run_two_pictures(python, tiny_condition, tmp_path)


def _environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def _run_two_pictures(python: Path, condition: Path, folder: Path) -> None:
    where = _succeed(
        [python, "-c", "import vcm_plugin, anchors; print(vcm_plugin.__file__)"], folder
    )
    assert where.startswith(str(folder)), where
    command = [python.parent / "vcm-plugin", "run", condition, "--codec", "vvc_feature"]
    out = _succeed([*command, "-o", folder / "run"], folder)
    assert "uncompressed" in out and (folder / "run" / "result.json").is_file()
    assert "minictc" in _succeed([python.parent / "vcm-plugin", "run", "--help"], folder)


def _succeed(command: list, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["VCM_CACHE"] = str(folder / "cache")
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()

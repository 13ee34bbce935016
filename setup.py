# SPDX-License-Identifier: BSD-3-Clause
"""What is installed: the packages, cfg/ as `vcm_plugin.cfg`, the weights and the command."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "vcm_plugin/__init__.py").read_text())[1]
README = ROOT / "README.md"


def cfg_packages() -> list[str]:
    """cfg/ and its folders under the names that they have once installed."""
    folders = [path for path in sorted((ROOT / "cfg").rglob("*")) if path.is_dir()]
    names = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
    return ["vcm_plugin.cfg", *(f"vcm_plugin.{name}" for name in names if "__" not in name)]


REPORT = ["xlsxwriter>=3.1", "python-docx>=1.1"]  # XLSX and DOCX
CLUSTER = ["distributed>=2024.1"]  # runs over the workers of Dask
DOCS = ["furo", "myst-parser>=4", "sphinx>=8.1"]  # the site below docs/

setup(
    name="vcm-plugin",
    version=VERSION,
    description="The feature codec Diff-FCHM, its VVC anchors and the common test conditions",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    author="the vcm-plugin contributors",
    python_requires=">=3.10,<3.13",  # CompressAI wants NumPy 1, of which 3.13 has no wheels
    packages=[
        *find_packages(include=["vcm_plugin*", "anchors*"]),
        *cfg_packages(),
        "hydra_plugins.vcm_plugin",  # a namespace of Hydra: the harness finds our codecs by it
    ],
    package_dir={
        "vcm_plugin.cfg": "cfg",
        "hydra_plugins.vcm_plugin": "vcm_plugin/hydra_plugins/vcm_plugin",
    },
    package_data={
        "vcm_plugin": [
            "weights/*", "weights/*/*", "weights/*/*/*", "report/*.html", "bitstream/*.md",
        ],
        "vcm_plugin.cfg": ["*.yaml", "**/*.yaml"],
        "anchors": ["reference/*.json", "reference/survey/*.json"],
    },
    # Lower bounds: the oldest ones that the tests of the rooms that use them were run with (beside
    # torch 2.14), or what our code calls; torch's is the one that accelerate asks for.
    install_requires=[
        "torch>=2.0",
        "torchvision>=0.15",
        "compressai>=1.2",
        "diffusers>=0.37",  # pipelines with a network of ours
        "accelerate>=1.0",
        "filelock>=3.12",
        "numba",  # compiles the entropy coder; without it files are the same, and coding is slower
        "numpy>=1.24",
        "scipy>=1.11",
        "pillow>=10",
        "pyyaml>=6",
        "safetensors>=0.4.3",
        "ffmpeg-python>=0.2",
        "piq>=0.8",
        "fvcore",
        "imageio-ffmpeg>=0.8",
        "pycocotools>=2.0.7",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "rich>=13",
        "motmetrics>=1.4",  # of tracks
    ],
    extras_require={
        "report": REPORT,
        "cluster": CLUSTER,
        "docs": DOCS,
        "test": [
            *REPORT,
            *CLUSTER,
            *DOCS,
            "bjontegaard",
            "formulas",
            "hypothesis",
            "openpyxl>=3.1",  # reads what XlsxWriter wrote
            "playwright",
            "pytest",
            "pytest-xdist",
            "ruff",
        ],
    },
    entry_points={"console_scripts": ["vcm-plugin = vcm_plugin.cli.main:main"]},
)

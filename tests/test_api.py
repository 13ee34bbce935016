# SPDX-License-Identifier: BSD-3-Clause
"""Does the Python API do what the README shows, and does importing it cost nothing?"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import vcm_plugin as vcm
from vcm_plugin.testsets.minictc import draw_picture

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_example_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    Image.fromarray(draw_picture(7)[0]).save(tmp_path / "street.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README", "exec"), names)  # noqa: S102 (our own page)
    assert len(names["data"]) > 100 and len(names["detections"]) >= 0
    assert names["saved"].percent == pytest.approx(-50, abs=1e-6)


def test_every_name_is_there_and_documented():
    for name in vcm.__all__:
        assert name in dir(vcm) and getattr(vcm, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vcm.nothing  # noqa: B018


def test_importing_it_imports_nothing_else():
    code = "import sys, vcm_plugin; print(sorted(n for n in sys.modules if n in "
    code += "('torch', 'numpy', 'yaml', 'anchors', 'vcm_plugin.errors')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_codec_of_weights_alone():
    codec = vcm.load_codec("diff_fchm", weights="minictc_vfcn")
    assert codec.name == "diff_fchm" and "1.4" in codec.rate_points


@pytest.mark.parametrize(
    "arguments, message",
    (
        ({"name": "diff_fchm"}, "expected a condition or weights"),
        ({"name": "vvc_feature"}, "expected a condition, found none"),
        ({"name": "vvc_remote", "weights": "minictc_vfcn"}, "expected a condition, found none"),
        ({"name": "diff_fchm", "weights": "nowhere"}, "nowhere"),
        ({"name": "nothing"}, "codec nothing: expected one of diff_fchm"),
    ),
)
def test_what_cannot_be_loaded_says_so(arguments, message):
    with pytest.raises(vcm.InputError, match=message) as caught:
        vcm.load_codec(**arguments)
    assert "\n" not in str(caught.value)

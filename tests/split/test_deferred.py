# SPDX-License-Identifier: BSD-3-Clause
"""Does a command start without torch's compiler, and is that there where it is asked for?"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*lines: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_detector_and_repeatable_arithmetic_need_no_compiler():
    run(
        "import sys",
        "import vcm_plugin.split",
        "from vcm_plugin.environment import make_deterministic",
        "make_deterministic(1)",
        "import torch",
        "assert torch.are_deterministic_algorithms_enabled()",
        "assert torch.is_deterministic_algorithms_warn_only_enabled()",
        "from torchvision.ops import roi_align",
        "x = roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])], 2)",
        "assert x.flatten().tolist() == [1.0] * 4",
        "assert not [name for name in sys.modules if name.startswith('torch._dynamo')]",
    )


def test_the_compiler_is_there_where_it_is_asked_for():
    found = run(
        "import sys",
        "import vcm_plugin.split",
        "supported = sys.modules['torchvision.ops.roi_align'].is_compile_supported",
        "import torch._dynamo.utils",
        "print(supported('cpu') == torch._dynamo.utils.is_compile_supported('cpu'))",
        "print(torch._dynamo.utils.__file__)",
    )
    same, file = found.split()
    assert same == "True" and file.endswith("utils.py")

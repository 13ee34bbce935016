# SPDX-License-Identifier: BSD-3-Clause
"""Do the pages of the specification say what the code does, and a proposal what the pages say?"""

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from anchors.auxiliary_learned import TOLD_LESS
from vcm_plugin import bitstream
from vcm_plugin.conditions import bundled_weights
from vcm_plugin.diff_fchm.human import geometry, restorer, strength
from vcm_plugin.entropy import integer, networks, rans
from vcm_plugin.report.document import Bullets, Heading, Paragraph, Table
from vcm_plugin.report.proposal.specification import clauses
from vcm_plugin.vvc.planes import LEVELS, MIN_SIZE

DOCS = Path(__file__).parents[1] / "docs"
TEXT = bitstream.decoding()
HVCN = Path(bundled_weights("minictc_hvcn")) / "hvcn"
PAPER = Path(__file__).parent / "golden" / "tiny_hvcn_paper" / "hvcn"
ROW = re.compile(r"^\| (`[^|]+) \| (\d|matrix) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def test_the_page_is_that_of_the_package():
    assert (DOCS / "decoding.md").read_text(encoding="utf-8") == TEXT, (
        "run scripts/write_specification.py"
    )


def test_the_constants_are_those_of_the_code():
    log2 = int.bit_length
    step = integer.ACTIVATION_STEPS // integer.LATENT_STEPS
    limit = rans.SYMBOL_LIMIT * integer.LATENT_STEPS
    gain, start, levels = networks.LEVEL_GAIN, networks.LEVEL_START, networks.SCALE_LEVELS
    bound = f"-2^{log2(integer.ACTIVATION_LIMIT) - 1}, 2^{log2(integer.ACTIVATION_LIMIT) - 1}"
    rounding = f"+ 2^{integer.WEIGHT_BITS - 1}) >> {integer.WEIGHT_BITS}, {bound})"
    mean = f"clip((out + {step // 2}) >> {log2(step) - 1}, {-limit}, {limit})"
    level = f"clip(((out * {gain} + 128) >> 8) + {start}, 0, {levels - 1})"
    _, *spans = zip(*LEVELS, strict=True)
    for phrase in (
        f"Activations are integers that count 1/{integer.ACTIVATION_STEPS}.", rounding, mean, level,
        f"of the convolution N, in 2^-{integer.WEIGHT_BITS}",
        f"**{integer.LATENT_STEPS} * symbol + mean**, in 1/{integer.LATENT_STEPS}",
        f"a table ends at 2^{rans.PRECISION} = {1 << rans.PRECISION}",
        f"while it is below 2^{log2(rans.LOWEST) - 1}",
        f"slot = state & {(1 << rans.PRECISION) - 1}",
        f"the symbol is their value - {rans.SYMBOL_LIMIT}",
        f"/ {geometry.TAP_STEPS**2}; cells", f"Taps add up to {geometry.TAP_STEPS}.",
        f"multiplied by strength / {strength.STEPS}",
        f"blocks of {strength.BLOCK} x {strength.BLOCK} pixels",
        f"whole multiples of {restorer.MULTIPLE} pixels",
        f"(QP - {restorer.QP_MIDDLE:g}) / {restorer.QP_UNIT:g}",
        f"each less {restorer.MIDDLE[0]:g}, / {restorer.UNIT:g}",
        f"For QP it is told qp - {TOLD_LESS}.",
        "({}, {},\n{})".format(*spans[0]), f"made even and at least {MIN_SIZE}",
    ):  # fmt: skip
        assert phrase in TEXT, phrase


def shapes(path: Path, prefix: str = "") -> dict[str, list[int]]:
    """Layer -> shape of its weight, of a safetensors file."""
    with safe_open(path, framework="numpy") as file:
        return {
            name.removeprefix(prefix).removesuffix(".weight"): file.get_slice(name).get_shape()
            for name in file.keys()
            if name.startswith(prefix) and name.endswith(".weight")
        }


def described(path: Path, entry: str) -> dict:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()[entry])["config"]


def table(head: str) -> list[tuple[str, ...]]:
    """The rows of the table whose first column has this title."""
    return ROW.findall(TEXT[TEXT.index(f"| {head} |") :].split("\n\n")[0])


def sizes_of(folder: Path) -> dict:
    """What the description of a human layer says, by the names of the page."""
    config = json.loads((folder / "config.json").read_text())
    return config["sizes"] | {
        f"{part}.{key}": value
        for part in ("machine", "prior")
        for key, value in config[part].items()
    }


def tables() -> dict:
    vfcn, restored = (
        Path(bundled_weights(f"{name}.safetensors"))
        for name in ("minictc_vfcn", "minictc_restorer")
    )
    hvcn, paper = (folder / "diffusion_pytorch_model.safetensors" for folder in (HVCN, PAPER))
    encoder = re.compile(r"(g_a|h_a|entropy\.contexts)\.")  # not decoded, or said in words
    acn = {name: x for name, x in shapes(hvcn, "acn.").items() if not encoder.match(name)}
    fcn = {name: x for name, x in shapes(hvcn, "fcn.").items() if not name.startswith("norms")}
    alone = shapes(paper, "acn.").items()
    joined = shapes(paper, "fcn.").items()
    return {
        "convolution of g_s": (shapes(vfcn, "g_s."), described(vfcn, "vfcn")),
        "layer of the restorer": (shapes(restored), described(restored, "restorer")),
        "convolution of acn": (acn, sizes_of(HVCN)),
        "convolution of fcn": (fcn, sizes_of(HVCN)),
        "convolution of acn, factorised": (
            {name: x for name, x in alone if not name.startswith("latent_encoder")},
            sizes_of(PAPER),
        ),
        "convolution of fcn, fine to coarse": (
            {name: x for name, x in joined if not name.endswith(".norm")},
            sizes_of(PAPER),
        ),
    }


@pytest.mark.parametrize("head", tables())
def test_a_table_of_layers_is_that_of_the_weights(head):
    """Every layer stands in one row, with its kernel and its channels."""
    weights, sizes = tables()[head]
    seen = []
    for names, kernel, *counts in table(head):
        inputs, outputs = (_value(text, sizes) for text in counts)
        square = [] if kernel == "matrix" else [int(kernel)] * 2
        for name in re.findall("`([^`]+)`", names):
            pattern = re.escape(name).replace("N", r"\d").replace("P", r"p\d")
            matched = [key for key in weights if re.fullmatch(pattern, key)]
            assert matched, f"{name}: no such layer"
            for key in matched:
                assert weights[key] == [outputs, inputs, *square], key
            seen += matched
    assert sorted(seen) == sorted(weights)


def _value(text: str, sizes: dict) -> int:
    """Sums of products of numbers and sizes."""
    total = 0
    for term in text.split(" + "):
        product = 1
        for factor in term.split(" * "):
            product *= int(factor) if factor.isdigit() else sizes[factor]
        total += product
    return total


def plain(text: str) -> str:
    return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(text.split())).translate(
        str.maketrans("", "", "*`|")
    )


def test_a_proposal_says_what_the_pages_say():
    blocks, pages = clauses("diff_fchm"), plain(bitstream.document() + TEXT)
    texts = [block.text for block in blocks if isinstance(block, Paragraph | Heading)]
    texts += [item for block in blocks if isinstance(block, Bullets) for item in block.items]
    rows = [row for block in blocks if isinstance(block, Table) for row in block.rows]
    texts += [cell for row in rows for cell in row.values()]
    own = ("Bitstream syntax", "Decoding process")
    assert len(texts) > 300
    assert not [text for text in texts if text not in own and plain(text) not in pages]
    assert clauses("diff_fchm_picture") == clauses("picture_learned") == blocks
    assert clauses("latent_scalable") == clauses("multi_head") == blocks
    assert clauses("vvc_remote") == []
    for item in ("1. z, (hyper_latents", "2. psi = ReLU", "3. y, in its slices"):
        assert any(text.startswith(item) for text in texts)
    assert 0 < len(clauses("vvc_feature")) < len(blocks)

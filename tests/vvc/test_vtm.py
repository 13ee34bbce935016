# SPDX-License-Identifier: BSD-3-Clause
"""Is VTM called as the test conditions have it, and is what does not belong together refused?

Tests marked vtm run it, where VCM_VTM_ENCODER, VCM_VTM_DECODER and VCM_VTM_CONFIG (its folder cfg)
are set. No other test needs VTM.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_vvc import COLOUR, LUMA, psnr, smooth

from vcm_plugin.errors import InputError
from vcm_plugin.process import ProcessError, run
from vcm_plugin.vvc import Vtm, VVenC, vtm_setup
from vcm_plugin.vvc.stream import is_intra
from vcm_plugin.vvc.vtm import Part

NAMES = vtm_setup.VTM_PATHS
needs_vtm = [
    pytest.mark.vtm,
    pytest.mark.skipif(
        not all(os.environ.get(name) for name in NAMES), reason=f"{', '.join(NAMES)} not set"
    ),
]
INTRA = "# no pictures but intra\nGOPSize : 1\n"
LOW_DELAY = "Frame1:  P  1  5\nFrame2:  P  2  4\n"
RANDOM_ACCESS = "Frame1  : B  8  1\nFrame2  : B  4  4\n"


def configured(folder: Path, **texts: str) -> Path:
    """A folder of configurations."""
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / f"encoder_{name}_vtm.cfg").write_text(text)
    return folder


def test_command_line_of_a_picture_is_that_of_the_test_conditions():
    codec = Vtm(Path("EncoderAppStatic"), Path("DecoderAppStatic"), Path("my cfg/intra.cfg"))
    command = codec.encode_command("in.yuv", "out.bin", 4250, 4864, 37, luma_only=True)
    assert command == [
        "EncoderAppStatic", "-i", "in.yuv", "-c", "my cfg/intra.cfg", "-q", "37", "-o", os.devnull,
        "-wdt", "4864", "-hgt", "4250", "-fr", "1", "-ts", "1", "-v", "6", "--Level=6.2",
        "--IntraPeriod=1", "--InputChromaFormat=400", "--InputBitDepth=10",
        "--InternalBitDepth=10", "--ConformanceWindowMode=1", "-dph", "0",
        "--DecodingRefreshType=1", "--BitstreamFile=out.bin", "--FramesToBeEncoded=1",
    ]  # fmt: skip
    colour = codec.encode_command("in.yuv", "out.bin", 64, 64, 37, luma_only=False)
    assert "--InputChromaFormat=420" in colour


def test_command_line_of_a_part_of_a_sequence():
    codec = Vtm(Path("EncoderAppStatic"), Path("DecoderAppStatic"), Path("ra.cfg"))
    part = Part(4, 33, 32, "30", "out.rec")
    command = codec.encode_command("in.yuv", "out.bin", 64, 96, 37, False, part)
    assert command == [
        "EncoderAppStatic", "-i", "in.yuv", "-c", "ra.cfg", "-q", "37", "-o", "out.rec",
        "-wdt", "96", "-hgt", "64", "-fr", "30", "-ts", "1", "-v", "6", "--Level=5.1",
        "--IntraPeriod=32", "--InputChromaFormat=420", "--InputBitDepth=10",
        "--InternalBitDepth=10", "--ConformanceWindowMode=1", "-dph", "0",
        "--DecodingRefreshType=1", "--BitstreamFile=out.bin", "--FrameSkip=4",
        "--FramesToBeEncoded=33",
    ]  # fmt: skip


def test_vtm_that_is_not_configured_or_missing(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProcessError, match="set VCM_VTM_ENCODER, VCM_VTM_DECODER, VCM_VTM_CONFIG"):
        Vtm.from_environment()
    for name in NAMES:
        monkeypatch.setenv(name, str(tmp_path / name))
    codec = Vtm.from_environment()
    with pytest.raises(ProcessError, match="VCM_VTM_CONFIG of VTM cannot be read"):
        codec.encode(LUMA, 32)
    with pytest.raises(ProcessError, match="VCM_VTM_CONFIG of VTM cannot be read"):
        codec.identity(luma_only=True)
    (tmp_path / "VCM_VTM_CONFIG").write_text(INTRA)
    with pytest.raises(ProcessError, match="not found; set VCM_VTM_ENCODER"):
        codec.encode(LUMA, 32)
    with pytest.raises(ProcessError, match="not found; set VCM_VTM_DECODER"):
        codec.decode(VVenC().encode(LUMA, 32))


def test_a_program_that_is_not_vtm_is_refused(tmp_path):
    echo = Path(shutil.which("echo"))
    codec = Vtm(echo, echo, configured(tmp_path / "cfg", intra=INTRA))
    with pytest.raises(ProcessError, match="expected VTM's encoder, found echo.*VCM_VTM_ENCODER"):
        codec.encode(LUMA, 32)
    with pytest.raises(ProcessError, match="expected VTM's encoder, found echo"):
        list(codec.encode_frames([LUMA], 32))


def test_each_coding_structure_has_its_file_of_the_folder(tmp_path):
    files = {"intra": INTRA, "randomaccess": RANDOM_ACCESS, "lowdelay_P": LOW_DELAY}
    folder = configured(tmp_path / "cfg", **files)
    for structure, name in vtm_setup.CONFIGURATIONS.items():
        assert vtm_setup.configuration(folder, structure) == folder / name
        assert vtm_setup.configuration(folder / name, structure) == folder / name
        for other in set(vtm_setup.CONFIGURATIONS) - {structure}:
            words = f"for {other}, found one for {structure} in {name}: set VCM_VTM_CONFIG"
            with pytest.raises(ProcessError, match=words):
                vtm_setup.configuration(folder / name, other)
    (folder / "encoder_intra_vtm.cfg").unlink()
    with pytest.raises(ProcessError, match="encoder_intra_vtm.cfg of VTM cannot be read"):
        vtm_setup.configuration(folder, "all-intra")


def test_versions_that_differ_are_refused_in_one_line(tmp_path):
    folder = configured(tmp_path / "cfg", intra=INTRA)
    assert vtm_setup.source_version(folder / "encoder_intra_vtm.cfg") is None
    sources = tmp_path / "source" / "Lib" / "CommonLib"
    sources.mkdir(parents=True)
    (sources / "version.h").write_text('#define VTM_VERSION "23.3 (2nd Ed)"\n')
    for path in (folder, folder / "encoder_intra_vtm.cfg"):
        assert vtm_setup.source_version(path) == "23.3 (2nd Ed)"
    banner = "\nVVCSoftware: VTM Decoder Version 23.3 (2nd Ed) [Linux][GCC 12.2.0][64 bit]\nUsage"
    assert vtm_setup.banner_version(banner, "Decoder", "DecoderApp") == "23.3 (2nd Ed)"
    with pytest.raises(ProcessError, match="expected VTM's encoder, found DecoderApp, which"):
        vtm_setup.banner_version(banner, "Encoder", "DecoderApp")
    vtm_setup.require_version("23.3", "23.3", "its configuration", "VCM_VTM_CONFIG")
    vtm_setup.require_version("23.3", None, "its configuration", "VCM_VTM_CONFIG")
    with pytest.raises(ProcessError) as caught:
        vtm_setup.require_version("23.3", "12.0", "its configuration", "VCM_VTM_CONFIG")
    assert str(caught.value) == (
        "expected one version of VTM, found 23.3 of its encoder and 12.0 of its configuration: "
        "correct VCM_VTM_ENCODER or VCM_VTM_CONFIG"
    )


def test_how_many_encoders_run_at_a_time(monkeypatch):
    monkeypatch.delenv("VCM_VTM_PROCESSES", raising=False)
    assert vtm_setup.processes() >= 1
    monkeypatch.setenv("VCM_VTM_PROCESSES", "3")
    assert vtm_setup.processes() == 3
    for text in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("VCM_VTM_PROCESSES", text)
        with pytest.raises(InputError, match="VCM_VTM_PROCESSES to be 1 or more"):
            vtm_setup.processes()


@pytest.fixture
def vtm() -> Vtm:
    """VTM as the environment names it, two encoders at a time."""
    return dataclasses.replace(Vtm.from_environment(), processes=2)


class TestWithVtm:
    """What VTM itself makes of our command lines."""

    pytestmark = needs_vtm

    @pytest.mark.parametrize("planes", [LUMA, COLOUR], ids=["4:0:0", "4:2:0"])
    def test_both_decoders_read_a_picture_alike(self, vtm, planes):
        data = vtm.encode(planes, 22)
        decoded = vtm.decode(data)
        assert all(psnr(a, b) > 38 for a, b in zip(planes, decoded, strict=True))
        for a, b in zip(decoded, VVenC().decode(data), strict=True):
            assert np.array_equal(a, b)

    def test_an_all_intra_sequence_is_its_pictures(self, vtm):
        frames = [LUMA, (smooth(48, 80, 1),), (smooth(48, 80, 2),)]
        units = list(vtm.encode_frames(frames, 37))
        assert units[0] == vtm.encode(frames[0], 37) and all(map(is_intra, units))
        for frame, (plane,) in zip(frames, vtm.decode_frames(units), strict=True):
            assert np.array_equal(plane, vtm.decode(vtm.encode(frame, 37))[0])

    # The shortest periods that VTM's configurations allow: a GOP of 32, and one of 8.
    @pytest.mark.parametrize("low_delay, colour, period", [(False, False, 32), (True, True, 8)])
    def test_joined_chunks_decode_as_one_pass(self, vtm, tmp_path, low_delay, colour, period):
        vtm = dataclasses.replace(vtm, low_delay=low_delay)
        frames = panned(period + 3, colour)
        units = list(vtm.encode_frames(frames, 37, period, (30, 1)))
        assert len(units) == period + 3
        second = period if low_delay else 1  # in the order of decoding
        assert [n for n, unit in enumerate(units) if is_intra(unit)] == [0, second]
        decoded = list(vtm.decode_frames(units))
        for ours, ffmpeg in zip(decoded, VVenC().decode_frames(units), strict=True):
            assert all(map(np.array_equal, ours, ffmpeg))
        whole, recorded = one_pass(vtm, frames, period, tmp_path)
        assert b"".join(p.tobytes() for planes in decoded for p in planes) == recorded
        # Not the same bytes: picture headers differ (the pictures, above, do not).
        assert len(b"".join(units)) == pytest.approx(len(whole), rel=0.01)

    def test_identity_has_version_and_configuration_but_no_path(self, vtm):
        for random_access, structure in ((False, "all-intra"), (True, "random access")):
            identity = vtm.identity(False, random_access)
            assert identity == json.loads(json.dumps(identity))
            assert identity["structure"] == structure and len(identity["config_sha256"]) == 64
            assert str(vtm.encoder.parent) not in json.dumps(identity)
        assert identity["encoder"].startswith("VTM 2")
        assert identity != dataclasses.replace(vtm, low_delay=True).identity(False, True)

    def test_another_version_than_the_configuration_is_refused(self, vtm, tmp_path):
        folder = tmp_path / "cfg"
        shutil.copytree(vtm.config, folder, ignore=shutil.ignore_patterns("[!e]*"))
        (tmp_path / "source/Lib/CommonLib").mkdir(parents=True)
        (tmp_path / "source/Lib/CommonLib/version.h").write_text('#define VTM_VERSION "12.0"')
        for codec, whose in (
            (dataclasses.replace(vtm, config=folder), "its configuration"),
            (dataclasses.replace(vtm, version="12.0"), "the test condition"),
        ):
            words = f"found [0-9.]+ of its encoder and 12.0 of {whose}"
            with pytest.raises(ProcessError, match=words):
                codec.encode(LUMA, 32)
            with pytest.raises(ProcessError, match=words):
                codec.identity(luma_only=True)

    def test_an_encoder_in_place_of_the_decoder_is_refused(self, vtm):
        with pytest.raises(ProcessError, match="expected VTM's decoder, found"):
            dataclasses.replace(vtm, decoder=vtm.encoder).encode(LUMA, 32)


def panned(count: int, colour: bool) -> list[tuple[np.ndarray, ...]]:
    """Frames of 32 x 32 over which a picture moves."""
    planes = [smooth(32, 100), *([smooth(16, 50, 1), smooth(16, 50, 2)] if colour else [])]

    def cut(plane: np.ndarray, n: int) -> np.ndarray:
        side = len(plane)
        return np.ascontiguousarray(plane[:, n * side // 32 : n * side // 32 + side])

    return [tuple(cut(plane, n) for plane in planes) for n in range(count)]


def one_pass(vtm: Vtm, frames: list, period: int, folder: Path) -> tuple[bytes, bytes]:
    """The stream of one encoder for all frames, and what its encoder says that it decodes to."""
    source, stream, decoded = (folder / name for name in ("in.yuv", "out.bin", "out.rec"))
    source.write_bytes(b"".join(p.tobytes() for planes in frames for p in planes))
    structure = "low delay" if vtm.low_delay else "random access"
    config = vtm_setup.configuration(vtm.config, structure)
    part = Part(0, len(frames), period, "30", decoded)
    command = dataclasses.replace(vtm, config=config).encode_command(
        source, stream, *frames[0][0].shape, 37, len(frames[0]) == 1, part
    )
    run(command)
    return stream.read_bytes(), decoded.read_bytes()

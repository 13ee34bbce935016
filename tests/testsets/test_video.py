# SPDX-License-Identifier: BSD-3-Clause
"""Is a video asked what it holds, before a frame of it is coded?"""

import numpy as np
import pytest

from vcm_plugin.errors import InputError
from vcm_plugin.process import ffmpeg_program, run
from vcm_plugin.testsets.sequences import read_seqinfo
from vcm_plugin.testsets.video import check_video, probe, video_frames, video_path

HEIGHT, WIDTH, FRAMES = 48, 64, 5
CODED = ("-vcodec", "libx264", "-qp", "1", "-pix_fmt", "yuv444p")
INTRA = ("-vcodec", "mjpeg", "-q:v", "2")


def video(path, *coding, frames=FRAMES, size=(HEIGHT, WIDTH), reading=()):
    """A film of frames that grow brighter."""
    shades = np.arange(frames, dtype=np.uint8) * 20 + 40
    raw = np.broadcast_to(shades[:, None, None, None], (frames, *size, 3)).tobytes()
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[1]}x{size[0]}", "-r", "30")
    run([ffmpeg_program(), "-y", *source, *reading, "-i", "-", *coding, path], stdin=raw)
    return path


def turned(path, degrees, tmp_path):
    """The same film with a rotation stated in the file, as phones do."""
    plain = video(tmp_path / "plain.mp4", *CODED)
    run(
        [ffmpeg_program(), "-y", "-display_rotation", str(degrees), "-i", plain, "-c", "copy", path]
    )
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.MP4", "a.mkv", "a.mov", "a.avi", "a.AVI", "a.y4m"])
def test_size_and_length_in_every_container(tmp_path, name):
    coding = {"avi": INTRA, "y4m": ("-pix_fmt", "yuv444p")}.get(name[2:].lower(), CODED)
    path = video(tmp_path / name, *coding)
    assert video_path(tmp_path, "a") == path
    found = probe(path)
    assert (found.height, found.width, found.frames) == (HEIGHT, WIDTH, FRAMES)
    check_video(path, HEIGHT, WIDTH, FRAMES)
    frames = list(video_frames(path, HEIGHT, WIDTH, FRAMES))
    assert len(frames) == FRAMES
    for n, frame in enumerate(frames):
        assert frame.shape == (HEIGHT, WIDTH, 3) and abs(frame.mean() - 40 - 20 * n) < 3
    for count in (FRAMES - 1, FRAMES + 1):
        with pytest.raises(InputError, match=f"{name}: expected {count} frames.*found 5"):
            check_video(path, HEIGHT, WIDTH, count)
    with pytest.raises(InputError, match=f"{name}: expected frames of 64x48.*found 48x64"):
        check_video(path, WIDTH, HEIGHT, FRAMES)


@pytest.mark.parametrize("degrees, size", [(90, (64, 48)), (-90, (64, 48)), (180, (48, 64))])
def test_a_rotation_is_applied_and_the_size_is_the_one_after_it(tmp_path, degrees, size):
    path = turned(tmp_path / "phone.mp4", degrees, tmp_path)
    check_video(path, *size, FRAMES)
    assert next(video_frames(path, *size, FRAMES)).shape == (*size, 3)
    if size != (HEIGHT, WIDTH):
        with pytest.raises(InputError, match="expected frames of 48x64.*found 64x48 after the rot"):
            check_video(path, HEIGHT, WIDTH, FRAMES)


def test_raw_files_are_measured_by_their_bytes(tmp_path):
    path = tmp_path / "a.YUV"
    for sample_bytes in (1, 2):
        path.write_bytes(bytes(FRAMES * HEIGHT * WIDTH * 3 // 2 * sample_bytes))
        check_video(path, HEIGHT, WIDTH, FRAMES)
        assert len(list(video_frames(path, HEIGHT, WIDTH, FRAMES))) == FRAMES
        for count in (FRAMES - 1, FRAMES + 1):
            with pytest.raises(InputError, match=f"expected {count} frames of 48x64"):
                check_video(path, HEIGHT, WIDTH, count)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = video(tmp_path / "a.mp4", *CODED)
    data = path.read_bytes()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"
    for damaged in (b"", b"broken", data[: len(data) // 2], data[:-400], playlist,
                    b"ffconcat version 1.0\nfile /etc/hostname\n"):  # fmt: skip
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="a.mp4: expected") as caught:
            check_video(path, HEIGHT, WIDTH, FRAMES)
        assert "\n" not in str(caught.value)


def test_a_change_of_size_on_the_way_is_refused(tmp_path):
    first = video(tmp_path / "1.ts", *CODED, "-f", "mpegts")
    second = video(tmp_path / "2.ts", *CODED, "-f", "mpegts", size=(96, 128))
    both = tmp_path / "both.mkv"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(InputError, match="both.mkv: expected"):
        check_video(both, HEIGHT, WIDTH, 2 * FRAMES)


def test_sound_is_no_video(tmp_path):
    path = tmp_path / "a.mkv"
    run([ffmpeg_program(), "-f", "lavfi", "-i", "anullsrc", "-t", "0.1", "-acodec", "pcm_s16le",
         path])  # fmt: skip
    with pytest.raises(InputError, match="a.mkv: expected a readable video"):
        probe(path)


def test_the_file_is_found_in_any_case_or_told_what_is_wrong_with_it(tmp_path):
    assert video_path(tmp_path, "a") is None
    (tmp_path / "a.wmv").touch()
    with pytest.raises(InputError, match="a.wmv: expected frames in images/, or a video named"):
        video_path(tmp_path, "a")
    for name in ("a.MKV", "a.Mp4", "a.yuv"):  # each before the one above
        (tmp_path / name).touch()
        assert video_path(tmp_path, "a").name == name
    (tmp_path / "b.mp4").mkdir()
    assert video_path(tmp_path, "b") is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_seqinfo_with_a_percent_sign_and_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "seqinfo.ini"
    text = "[Sequence]\nname=A_50%_%(x)s\nframeRate=29.97\nseqLength=5\n"
    path.write_bytes(text.encode(encoding))
    assert read_seqinfo(path) == ("A_50%_%(x)s", (2997, 100), 5)
    path.write_text(text + "seqLength=6\n")
    with pytest.raises(InputError, match="seqinfo.ini: not readable") as caught:
        read_seqinfo(path)
    assert "\n" not in str(caught.value)

# SPDX-License-Identifier: BSD-3-Clause
"""The command `vcm-plugin`: what can be typed and which exit code comes back."""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import vcm_plugin
from vcm_plugin.errors import InputError

CODECS = "diff_fchm, diff_fchm_human, vvc_feature, vvc_remote, simulcast or msfc"
DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130

DESCRIPTION = """\
Feature coding for machines: run the common test conditions on real codecs, from pictures to
BD-rates. `vcm-plugin demo` shows the whole loop on the built-in test set."""

EPILOG = """\
exit codes: 0 done (crosscheck: confirmed); crosscheck: 1 not confirmed, 3 confirmed with remarks;
2 bad input, one line on stderr says what was expected and what repairs it;
130 interrupted, the same command goes on where it stopped"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if not sys.warnoptions:  # warnings of other packages, in this process and in its workers
        os.environ["PYTHONWARNINGS"] = "ignore"
        warnings.simplefilter("ignore")
    from vcm_plugin import commands  # here, so that --help does not wait for it

    try:
        code = getattr(commands, options.command.replace("-", "_"))(options)
    except InputError as error:
        print(f"vcm-plugin: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("vcm-plugin: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone
        code = DONE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a file or folder that cannot be written
        print(f"vcm-plugin: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT
    return DONE if code is None else code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm-plugin",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=vcm_plugin.__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    commands.required = True
    for add in (
        _demo,
        _run,
        _check_data,
        _report,
        _tables,
        _proposal,
        _package,
        _crosscheck,
        _encode,
        _decode,
        _info,
        _doctor,
    ):
        add(commands)
    return parser


def _command(commands, name: str, summary: str, description: str = "") -> argparse.ArgumentParser:
    text = description or f"{summary[0].upper()}{summary[1:]}."
    return commands.add_parser(name, help=summary, description=text)


def _demo(commands) -> None:
    parser = _command(
        commands,
        "demo",
        "the proposal and both VVC anchors on the built-in test set: tables, plots, pictures",
        "Runs the feature anchor, the remote-inference anchor and Diff-FCHM's machine layer on the "
        "built-in test set (drawn by code, no download) and reports their rate-accuracy curves. "
        "Run it again after an interruption and it goes on.",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("runs/demo"), metavar="DIR", help="(%(default)s)"
    )
    parser.add_argument(
        "--condition",
        default="minictc",
        metavar="NAME",
        help="another test condition with both anchors: a name or a YAML file (%(default)s)",
    )
    parser.set_defaults(jobs=min(2, os.cpu_count() or 1))
    _add_run_options(parser)


def _run(commands) -> None:
    parser = _command(
        commands,
        "run",
        "one codec over a test condition: encode, store, decode, detect, evaluate",
        "Runs one codec over all pictures and rate points of a test condition. What is in the "
        "folder already is not done again, so an interrupted run goes on with the same command.",
    )
    _add_condition(parser, positional=True)
    parser.add_argument("--codec", required=True, metavar="NAME", help=CODECS)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="RUN",
        help="the run folder, one per codec (runs/<condition>/<codec>)",
    )
    parser.add_argument(
        "--qps",
        type=_rate_point,
        nargs="+",
        metavar="QP",
        help="instead of the condition's; diff_fchm: scales s such as 0.5 1 2; diff_fchm_human and "
        "simulcast: pairs such as 2.8+1 or 2.8+37",
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="of VVenC, faster to slower, instead of the condition's"
    )
    parser.add_argument(
        "--random-access",
        action="store_true",
        help="VVC anchors on sequences: inter prediction instead of all-intra",
    )
    parser.add_argument("--tasks", nargs="+", choices=["box", "mask"], help="what is evaluated")
    _add_human_weights(parser)
    _add_data(parser)
    _add_run_options(parser)


def _check_data(commands) -> None:
    parser = _command(
        commands,
        "check-data",
        "what of a test condition's data is missing here, by file",
        "Looks for the pictures or sequences, the annotations and the detector's weights of a test "
        "condition, and prints a line for each file that is missing or not what it should be.",
    )
    parser.add_argument("condition", metavar="CONDITION", help="a name such as sfu_hw, or a YAML")
    _add_data_root(parser)


def _report(commands) -> None:
    parser = _command(commands, "report", "tables, BD-rates and plots from run folders")
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folders, one per codec"
    )
    parser.add_argument(
        "--anchor",
        action="append",
        required=True,
        metavar="NAME",
        help="codec that the others are compared with; may be repeated",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--format",
        nargs="+",
        default=["csv", "json", "png", "svg"],
        choices=["csv", "json", "png", "svg", "pdf", "xlsx", "html", "docx", "md", "tex"],
        help="(csv json png svg); xlsx, html and docx need pip install 'vcm-plugin[report]'",
    )
    parser.add_argument(
        "--viewer-pictures",
        type=_positive,
        default=48,
        metavar="N",
        help="html: pictures in its viewer, evenly spaced over the test set (%(default)s)",
    )
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="html: holds the test set ($VCM_DATA)"
    )


def _proposal(commands) -> None:
    parser = _command(
        commands,
        "proposal",
        "an input document in MPEG form from runs and a YAML of the author",
        "Header, abstract with the headline numbers, technical description with syntax tables, "
        "test conditions, results, complexity, training, cross-check and references. Every number "
        "comes from the tables; what is not filled in is listed at the end.",
    )
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="a YAML like cfg/proposal/example.yaml"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=".docx, .md or .tex"
    )


def _package(commands) -> None:
    parser = _command(
        commands,
        "package",
        "a run and its anchors as one zip for a cross-checker",
        "Bitstreams, predictions, results, condition, environment, the sha256 of the weights, and "
        "a manifest with the sha256 of every file. No absolute paths, no host names.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run of the proposal")
    parser.add_argument(
        "--anchor",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="run of an anchor, for the BD-rate; may be repeated",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ZIP")


def _crosscheck(commands) -> None:
    parser = _command(
        commands,
        "crosscheck",
        "somebody else's package: a verdict per rate point, and what to ask the proponent",
        "Checks the manifest, decodes every bitstream here, compares features, detections, sizes "
        "and accuracy with the claims, and computes the BD-rates again. Exit code 0: confirmed; 3: "
        "confirmed with remarks (a step that had to be skipped is one); 1: not confirmed; 2: bad "
        "input.",
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="of `vcm-plugin package`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--weights",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="weights that are not bundled, known by their sha256: a file of the codec or the "
        "detector, the folder of a human layer or of its prior; may be repeated",
    )
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="holds the test set ($VCM_DATA)"
    )
    parser.add_argument("--encode", action="store_true", help="also encode every picture again")
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="of torch (as the condition says)"
    )
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="processes (1)")
    _add_device(parser)


def _tables(commands) -> None:
    parser = _command(
        commands,
        "tables",
        "the tables that MPEG receives, from runs of its test sets",
        "Writes summary.csv of every data set, sequence and rate point and final_<SET>.csv in the "
        "layout of CompressAI-Vision: from one run of sequences, or from both tasks of MPEG-OIV6.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="of one codec")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")


def _encode(commands) -> None:
    parser = _command(commands, "encode", "one picture -> one bitstream")
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="a JPEG or PNG file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--codec", default="diff_fchm", metavar="NAME", help=f"{CODECS} (%(default)s)"
    )
    parser.add_argument(
        "--rate-point",
        required=True,
        metavar="R",
        help="diff_fchm: the scale s of its range, such as 0.5 (more bits) or 2 (fewer); "
        "anchors: the QP, such as 32; vvc_remote: 32@50 codes at half the size",
    )
    parser.add_argument(
        "--human", action="store_true", help="diff_fchm: also a layer that paints the picture"
    )
    parser.add_argument(
        "--human-rate-point",
        default="1",
        metavar="Q",
        help="step of its quantiser, such as 0.5 (more bits) or 2 (fewer) (%(default)s)",
    )
    parser.add_argument(
        "--human-steps",
        type=_positive,
        default=4,
        metavar="N",
        help="sampling steps of its decoder, 1 to 50 (%(default)s)",
    )
    parser.add_argument(
        "--human-seed", type=int, default=0, metavar="N", help="of its noise (%(default)s)"
    )
    _add_human_weights(parser)
    _add_condition(parser)


def _decode(commands) -> None:
    parser = _command(commands, "decode", "one bitstream -> the detections in its picture")
    parser.add_argument("bitstream", type=Path, metavar="FILE")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="the detections")
    parser.add_argument(
        "--frame", type=int, metavar="N", help="of a sequence, from 0; no other frame is decoded"
    )
    parser.add_argument("--features", type=Path, metavar="NPZ", help="also keep decoded features")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also keep the decoded picture")
    parser.add_argument(
        "--human", type=Path, metavar="PNG", help="also paint the picture of the human layer"
    )
    _add_human_weights(parser)
    _add_condition(parser)


def _add_human_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--human-weights", metavar="DIR", help="of the human layer, from scripts/train_hvcn.py"
    )
    parser.add_argument(
        "--human-prior",
        metavar="DIR",
        help="its diffusion prior, a folder or hub id, where that is not in --human-weights",
    )


def _info(commands) -> None:
    parser = _command(commands, "info", "what the header of a bitstream says, in words")
    parser.add_argument("bitstream", type=Path, metavar="FILE")


def _doctor(commands) -> None:
    _command(commands, "doctor", "what is installed, and what each missing thing disables")


def _add_condition(parser: argparse.ArgumentParser, positional: bool = False) -> None:
    text = "test condition: a name such as minictc or bccd, or a YAML file"
    if positional:
        parser.add_argument("condition", metavar="CONDITION", help=text)
    else:
        parser.add_argument(
            "--condition", default="minictc", metavar="NAME", help=f"{text} (minictc)"
        )
    group = parser.add_argument_group("detector, in place of that of the test condition")
    group.add_argument("--model", metavar="YAML", help="Detectron2 configuration")
    group.add_argument("--weights", metavar="FILE", help="Detectron2 checkpoint")
    group.add_argument("--classes", nargs="+", metavar="NAME", help="its class names, in order")
    group.add_argument("--runtime", choices=["auto", "detectron2", "torchvision"])
    _add_device(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("test set, in place of that of the test condition")
    group.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures")
    group.add_argument("--annotations", type=Path, metavar="FILE", help="COCO annotations")
    group.add_argument(
        "--split", choices=["train", "val", "test"], help="another split of the built-in test set"
    )
    _add_data_root(group)


def _add_data_root(parser) -> None:
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="where relative paths of the condition start ($VCM_DATA, else beside its YAML file)",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="of torch: cpu, cuda, cuda:1 ... (cpu)")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to run")
    group.add_argument(
        "--limit",
        type=_positive,
        metavar="N",
        help="only the first N pictures, or frames of each sequence",
    )
    group.add_argument(
        "--jobs",
        type=_positive,
        default=parser.get_default("jobs") or 1,
        metavar="N",
        help="processes (%(default)s); the result does not depend on it",
    )
    group.add_argument(
        "--keep-going",
        action="store_true",
        help="pass over unreadable pictures; the result names them",
    )
    group.add_argument(
        "--no-expected",
        action="store_true",
        help="go on where the uncompressed accuracy is not the one that the condition states",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="delete results of another test in the folder"
    )
    group.add_argument(
        "--feature-cache",
        type=_gibibytes,
        default=4.0,
        metavar="GIB",
        help="disk for features that are kept between runs; 0 turns it off (%(default)g)",
    )
    if not any(action.dest == "device" for action in parser._actions):
        _add_device(parser)


def _rate_point(text: str) -> int | float | str:
    if "+" in text:
        return text
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}") from None


def _gibibytes(text: str) -> float:
    try:
        if 0.0 <= float(text) < math.inf:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number from 0 on, found {text!r}")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

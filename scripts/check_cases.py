#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Does every input of a folder of cases end as it should, soon, without a traceback?

PATH/<number>-<name>/ holds one input each; OUTCOMES below says by the number how it is run and what
should come out. Every command has ten seconds of its own process time: the machine may be busy.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Paths of the cases start at their own folders, whatever data there is on this machine.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "VCM_DATA"}
SECONDS = 10  # of processor time, of each command and its programs
MEMORY = 6_000_000 * 1024  # bytes of address space, where a case asks for a bound
RUN = "run c.yaml --codec diff_fchm -o {out}"
REMOTE = "run c.yaml --codec vvc_remote -o {out}"


@dataclass(frozen=True)
class Outcome:
    """A command and what is expected of it: its exit code, and patterns of stderr and of files.

    shown, and not what is hidden, must be found in stdout and stderr; written: a file below the
    output, and a pattern in it.
    """

    command: str
    code: int = 0
    shown: str = ""
    hidden: str = "Traceback"
    written: tuple[str, str] | None = None
    bounded: bool = False
    variables: tuple[tuple[str, str], ...] = ()


def refused(shown: str, command: str = RUN, **more) -> Outcome:
    """A refusal in one line."""
    return Outcome(command, 2, shown, "Traceback|uncompressed", **more)


MEASURED = ("result.json", '"points"')
OUTCOMES: dict[str, list[Outcome]] = {
    "00": [Outcome(RUN, written=MEASURED)],
    "01": [refused("annotation 1: .*96 x 128|annotation 1: .*runs")],
    "02": [refused("annotation 1: ")],
    "04": [refused(r"annotation 1: .*\[96, 128\].*\[128, 96\]")],
    "06": [refused("annotation 1: ", bounded=True)],
    "07": [refused("annotation 1: ")],
    "08": [refused("annotation 1: ")],
    "10": [refused("annotation 1: ")],
    "12": [refused("annotation 1: .*mask")],
    "15": [Outcome(RUN, written=MEASURED)],
    "16": [refused("annotation 1: iscrowd")],
    "18": [refused("picture 9223372036854775808: id")],
    "19": [Outcome(RUN, written=MEASURED)],
    "21": [refused("annotation 1: .{1,200}$")],
    "22": [refused("annotation 1: bbox")],
    "24": [refused("at least one object")],
    "25": [refused("annotation 1: .*mask")],
    "26": [Outcome(RUN + " --keep-going --tasks box", shown="thin.png", written=MEASURED)],
    "27": [refused("score_threshold.*twice")],
    "29": [refused("48x64.*64x48", REMOTE)],
    "31": [refused("expected 5 frames.*found 9", REMOTE)],
    "32": [Outcome(REMOTE, written=("ground_truth.json", "annotations"))],
    "34": [
        Outcome("report base cost_$5_vs_$6 --anchor base -o {out} --format png",
                written=("*.png", "")),
        Outcome("report base _mine --anchor base -o {out} --format svg",
                written=("*.svg", "_mine")),
        Outcome("report base ver\x0btab --anchor base -o {out} --format xlsx",
                written=("*.xlsx", "")),
    ],
    "35": [
        Outcome("run minictc --codec diff_fchm --limit 1 -o {out} --weights {made}/ddp.pth "
                "--rate-points 1.4 --no-expected", code=2, shown="trained for a detector"),
        Outcome("run minictc --codec vvc_remote --limit 1 -o {out} --weights {made}/ddp.pth "
                "--rate-points 47 --no-expected", written=MEASURED),
        Outcome("run minictc --codec vvc_remote --limit 1 -o {out} --weights {made}/sd.pth "
                "--rate-points 47 --no-expected", written=MEASURED),
        Outcome("run minictc --codec vvc_remote --limit 1 -o {out} --weights {made}/lfs.pth", 2,
                "a Git LFS pointer: fetch the file", "Traceback|weights_only"),
    ],
    "36": [
        Outcome("proposal escaped.yaml -o {out}/p.docx", written=("p.docx", "")),
        Outcome("proposal ffff.yaml -o {out}/p.docx", written=("p.docx", "")),
        Outcome("proposal plain.yaml -o {out}/p.docx", written=("p.docx", "")),
        refused("raw.yaml: ", "proposal raw.yaml -o {out}/p.docx"),
    ],
    "37": [
        Outcome("report {runs}/run {runs}/anchor --anchor anchor -o {out} --format csv",
                written=("rd.csv", ""),
                variables=(("MPLBACKEND", "module://matplotlib_inline.backend_inline"),)),
        Outcome("report {runs}/run {runs}/anchor --anchor anchor -o {out} --format png",
                written=("*.png", ""),
                variables=(("MPLBACKEND", "module://matplotlib_inline.backend_inline"),)),
    ],
    "39": [refused("a.jpg: .*input", "encode a.jpg -o a.jpg --codec vvc_remote --rate-point 40")],
}  # fmt: skip


def main() -> int:
    """Run the cases; the exit code is 1 where one of them ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="PATH")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="the numbers of cases")
    options = parser.parse_args()
    failures = count = 0
    with tempfile.TemporaryDirectory() as work:
        made = make_shared(options.folder, Path(work))
        for case in sorted(path for path in options.folder.iterdir() if path.is_dir()):
            number = case.name[:2]
            if options.only and number not in options.only:
                continue
            if number not in OUTCOMES:
                print(f"{case.name}: no outcome is known for it; add one to OUTCOMES")
                failures += 1
            for outcome in OUTCOMES.get(number, []):
                copy = Path(work, "copy")
                shutil.copytree(case, copy)
                make_inputs(number, copy, made)
                fault, seconds = check(outcome, copy, Path(work, "out"), made)
                count, failures = count + 1, failures + bool(fault)
                print(f"{case.name}: {seconds:.1f} s: {fault or 'as it should'}", flush=True)
                shutil.rmtree(copy)
    print(f"{count} commands, {failures} ended otherwise")
    return 1 if failures else 0


def make_shared(folder: Path, work: Path) -> Path:
    """Two runs and three checkpoints that some cases need, made of the sound case."""
    import torch

    from vcm_plugin.conditions import bundled_weights

    made = work / "made"
    made.mkdir()
    good = next(folder.glob("00-*"), None)
    if good is not None:
        for name, point in (("run", "1.4"), ("anchor", "2.8")):
            words = f"run c.yaml --codec diff_fchm -o {made / name} --rate-points {point}"
            subprocess.run(line(words.split()), cwd=good, env=ENVIRONMENT, check=True)
    weights = torch.load(bundled_weights("minictc_mask_rcnn.pth"), weights_only=True)["model"]
    torch.save({"model": {f"module.{k}": v for k, v in weights.items()}}, made / "ddp.pth")
    torch.save({"state_dict": weights}, made / "sd.pth")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (made / "lfs.pth").write_text(pointer)
    return made


def make_inputs(number: str, case: Path, made: Path) -> None:
    """What a case needs that does not lie in its folder."""
    if number == "34":
        for name in ("base", "cost_$5_vs_$6", "_mine", "ver\x0btab"):
            if not (case / name).exists():
                shutil.copytree(made / "run", case / name)
    if number == "36":
        for path in case.glob("*.yaml"):
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            text = re.sub(r"(?m)^run:.*$", f"run: {made / 'run'}", text)
            path.write_text(text, encoding="utf-8", errors="surrogateescape")


def line(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "vcm_plugin.cli", *words]


def check(outcome: Outcome, case: Path, out: Path, made: Path) -> tuple[str, float]:
    """What is wrong with how a command ended, "" where nothing is; and its processor time."""
    shutil.rmtree(out, ignore_errors=True)
    names = {"out": out, "made": made, "runs": made}
    words = [word.format(**names) for word in outcome.command.split(" ")]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", **dict(outcome.variables)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)

    def bound() -> None:
        if outcome.bounded:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))

    try:
        done = subprocess.run(
            line(words), cwd=case, env=environment, capture_output=True, text=True,
            errors="replace", timeout=300, preexec_fn=bound,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "did not end", 300.0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return fault_of(outcome, done, out, seconds), seconds


def fault_of(outcome: Outcome, done: subprocess.CompletedProcess, out: Path, seconds: float) -> str:
    told = done.stdout + done.stderr
    end = " | ".join(told.strip().splitlines()[-2:])[-300:]
    if done.returncode != outcome.code:
        return f"exit code {done.returncode} instead of {outcome.code}: {end}"
    if not re.search(outcome.shown, told, re.MULTILINE):
        return f"expected {outcome.shown!r}, found: {end}"
    if re.search(outcome.hidden, told):
        return f"found what should not be there ({outcome.hidden}): {end}"
    if outcome.code == 2 and len(done.stderr.strip().splitlines()) != 1:
        return f"expected one line, found: {end}"
    if outcome.written:
        pattern, content = outcome.written
        files = [path for path in out.rglob(pattern) if path.stat().st_size]
        found = any(re.search(content.encode(), path.read_bytes()) for path in files)
        if not found:
            return f"expected {pattern} with {content!r} in it"
    return f"took {seconds:.1f} s" if seconds > SECONDS else ""


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Do runs survive kills and full disks, and does a cross-check notice every forged claim?

kills:  a run is ended by SIGKILL at a random instant, repeated, and again, until it is done.
disk:   the run's folder lies on a small tmpfs, which is full at a random instant (needs root).
Both:   result.json and all bitstreams must be those of an undisturbed run, and no encoder is left.
workers: of a run on `--cluster local:2` a worker is ended by SIGKILL at random instants, and of one
        on a scheduler of its own the scheduler, once; the same command again must end it.
claims: each value in the JSON of a package is changed, one at a time (of the items of a list, one
        at random), and the manifest made to fit; the cross-check must not confirm it.

Runs are tiny: 2 pictures, 1 sequence of 2 frames, 2 pictures with human vision. They are forked
from this process, so that they do not import torch each. Those on a cluster are 12 pictures of the
mini-CTC, each run a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "crosscheck")]

import torch  # noqa: E402
from tiny_condition import write_tiny_condition  # noqa: E402

from vcm_plugin.cli.main import main as vcm_plugin  # noqa: E402
from vcm_plugin.ctc import picture_worker, sequence_worker  # noqa: E402, F401  (before forking)
from vcm_plugin.errors import InputError  # noqa: E402
from vcm_plugin.files import sha256_of_file  # noqa: E402

MARK = f"VCM_CAMPAIGN_{os.getpid()}"  # in the environment of a run and of the programs it starts
DISK = 24  # MiB of the tmpfs
SEQUENCE = "BQSquare_416x240_60"
SEQUENCES = f"sequence_folder: SFU_HW_Obj/{{}}_val\nsequences: [CLASS-D/{SEQUENCE}]\n"


def main() -> int:
    """Run a campaign; the exit code is 1 where something was lost, left behind or confirmed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", choices=["kills", "disk", "workers", "claims"])
    parser.add_argument("--times", type=int, default=100, help="kills, or full disks, of each kind")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ[MARK] = "1"
    faults = 0
    with tempfile.TemporaryDirectory() as work:
        os.environ["VCM_CACHE"] = str(Path(work, "cache"))
        if options.campaign == "workers":
            return bereave(options, Path(work))
        condition = write_tiny_condition(Path(work))
        for kind in options.kinds:
            words = [*KINDS[kind](condition), "--jobs", str(options.jobs)]
            draw = random.Random(f"{options.seed} {kind}")
            if options.campaign == "claims":
                faults += forge(kind, words, Path(work, kind), draw)
            else:
                faults += disturb(options, kind, words, Path(work, kind), draw)
    return 1 if faults else 0


# --- the runs -------------------------------------------------------------------------------


def pictures(condition: Path) -> list[str]:
    return ["run", str(condition), "--codec", "vvc_feature"]


def sequence(condition: Path) -> list[str]:
    from drawn_sets import draw_sfu

    draw_sfu(condition.parent, [SEQUENCE], frames=2)
    text = condition.read_text().replace("minictc: test\n", SEQUENCES)
    text = text.replace("tasks: [box, mask]", "tasks: [box]")
    text = text.replace("vvc_feature_range: picture", "vvc_feature_range: [-9, 9]")
    path = condition.with_name("sequence.yaml")
    path.write_text(text)
    return ["run", str(path), "--codec", "vvc_feature", "--data-root", str(condition.parent)]


def human(condition: Path) -> list[str]:
    from hvcn_tiny import tiny_folder

    from vcm_plugin.diff_fchm.machine.codec import MachineCodec

    folder = condition.parent
    tiny_folder(folder / "painter", MachineCodec(folder / "tiny.safetensors"))
    path = condition.with_name("human.yaml")
    path.write_text(
        f"{condition.read_text()}human_vision: true\ndiff_fchm_human_weights: painter\n"
        "diff_fchm_human_points: ['1+0.5', '1+2']\n"
    )
    return ["run", str(path), "--codec", "diff_fchm_human"]


KINDS: dict[str, Callable[[Path], list[str]]] = {
    "pictures": pictures, "sequence": sequence, "human": human
}  # fmt: skip


def start(words: list[str], log: Path) -> int:
    """The process of a command, forked; its log takes what it prints."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = vcm_plugin(words)
            sys.stdout.flush()
    except BaseException:  # its trace is what the log is searched for
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(child: int) -> int | None:
    """The exit status of a process, negative where a signal ended it; None while it runs."""
    done, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def made_by(folder: Path) -> dict[str, str]:
    """What a run is judged by: sha256 of its result and of each bitstream."""
    files = [folder / "result.json", *folder.glob("*/bitstreams/*")]
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in sorted(files)}


def left_behind() -> list[str]:
    """Programs of runs that still run although the runs have ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARK}=".encode() in (path / "environ").read_bytes()
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if marked and int(path.name) != os.getpid() and words[0]:
            found.append(b" ".join(words[:3]).decode(errors="replace"))
    return found


# --- kills and full disks -------------------------------------------------------------------


def disturb(options, kind: str, words: list[str], work: Path, draw: random.Random) -> int:
    """Kill runs or fill their disk, then compare; returns the number of faults."""
    work.mkdir()
    calm, log = work / "calm", work / "log"
    run_to_its_end([*words, "-o", str(calm)], log)  # what is imported late, is imported
    shutil.rmtree(calm)
    started = time.monotonic()
    run_to_its_end([*words, "-o", str(calm)], log)
    seconds, expected = time.monotonic() - started, made_by(calm)
    counts: Counter = Counter()
    faults: list[str] = []
    body = {"kills": killed, "disk": filled}[options.campaign]
    while counts["disturbed"] < options.times:
        body(words, work, log, seconds, draw, counts, faults, expected)
    for fault in faults:
        print(f"{kind}: FAULT: {fault}"[:1000])
    print(f"{options.campaign}, {kind}: seed {options.seed}, jobs {options.jobs}: "
          f"{counts['disturbed']} times, {counts['finished']} runs were finished and compared, "
          f"{len(faults)} faults", flush=True)  # fmt: skip
    return len(faults)


def run_to_its_end(words: list[str], log: Path) -> None:
    if wait(start(words, log)) != 0:
        sys.exit(f"the undisturbed run failed: {log.read_text()[-2000:]}")


def killed(words, work, log, seconds, draw, counts, faults, expected) -> None:
    """Start a run again and again, and kill it, until one of them comes to its end."""
    folder = work / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    while True:
        child = start([*words, "-o", str(folder)], log)
        until = time.monotonic() + draw.uniform(0, seconds)
        while time.monotonic() < until and (code := ended(child)) is None:
            time.sleep(0.002)
        if time.monotonic() < until:
            break
        os.kill(child, signal.SIGKILL)
        wait(child)
        counts["disturbed"] += 1
        end = time.monotonic() + 10
        while left_behind() and time.monotonic() < end:
            time.sleep(0.05)
        faults += [f"left behind by a kill: {program}" for program in left_behind()]
    compare(code, log, folder, expected, counts, faults)


def filled(words, work, log, seconds, draw, counts, faults, expected) -> None:
    """Fill the disk of a run at an instant; it must end in one line, or come to its end."""
    disk = work / "disk"
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        child = start([*words, "-o", str(disk / "run")], log)
        time.sleep(draw.uniform(0, seconds))
        fill(disk / "filler")
        code = wait(child)
        text = log.read_text()
        counts["disturbed"] += 1
        counts["refused"] += code == 2
        lines = [line for line in text.splitlines() if line.startswith("vcm-plugin: error:")]
        if "Traceback" in text or code not in (0, 2) or (code == 2 and len(lines) != 1):
            faults.append(f"a full disk ended in {code}: {text[-600:]}")
        (disk / "filler").unlink()
        code = wait(start([*words, "-o", str(disk / "run")], log))
        compare(code, log, disk / "run", expected, counts, faults)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def bereave(options, work: Path) -> int:
    """Runs on a cluster whose workers, or whose scheduler, are killed; the number of faults."""
    draw, log = random.Random(options.seed), work / "log"
    words = ["run", "minictc", "--codec", "diff_fchm", "--limit", "12"]
    run_to_its_end([*words, "-o", str(work / "calm")], log)
    expected, faults = made_by(work / "calm"), []
    counts: Counter = Counter()
    while counts["disturbed"] < options.times:
        folder = work / f"run{counts['finished']}"
        child = begin([*words, "--cluster", "local:2", "-o", str(folder)], log)
        while child.poll() is None:
            time.sleep(draw.uniform(1, 6))
            workers = workers_of(child.pid)
            if workers and counts["disturbed"] < options.times:
                os.kill(draw.choice(workers), signal.SIGKILL)
                counts["disturbed"] += 1
        compare(child.wait(), log, folder, expected, counts, faults)
    lose_scheduler(words, work, log, draw, counts, faults, expected)
    for fault in faults:
        print(f"workers: FAULT: {fault}"[:1000])
    print(f"workers: seed {options.seed}: {counts['disturbed']} killed, a scheduler lost, "
          f"{counts['finished']} runs were compared, {len(faults)} faults")  # fmt: skip
    return 1 if faults else 0


def lose_scheduler(words, work: Path, log: Path, draw, counts, faults, expected) -> None:
    """Kill the scheduler of a run, which must end in one line; end it on another scheduler."""
    for dies in (True, False):
        file = work / f"scheduler{dies}.json"
        dask = [sys.executable, "-m", "dask"]
        to = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        scheduler = subprocess.Popen(
            [*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", file], **to
        )
        worker = subprocess.Popen(
            [*dask, "worker", "--scheduler-file", file, "--nthreads", "1", "--no-dashboard"], **to
        )
        while not file.is_file():
            time.sleep(0.1)
        folder = work / "orphan"
        child = begin([*words, "--cluster", str(file), "-o", str(folder)], log)
        if dies:
            while not list(folder.glob("*/bitstreams/*")) and child.poll() is None:
                time.sleep(draw.uniform(0, 0.5))
            scheduler.kill()
            code, text = child.wait(), log.read_text()
            if code != 2 or text.count("vcm-plugin: error:") != 1 or "Traceback" in text:
                faults.append(f"a lost scheduler ended in {code}: {text[-600:]}")
        else:
            compare(child.wait(), log, folder, expected, counts, faults)
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def begin(words: list[str], log: Path) -> subprocess.Popen:
    """A command in a process of its own, not forked: clusters have threads."""
    with log.open("w") as file:
        command = [sys.executable, "-m", "vcm_plugin.cli", *words]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def workers_of(pid: int) -> list[int]:
    """The processes that a run has started to work for it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(path.name))
    return found


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def compare(code: int, log: Path, folder: Path, expected: dict, counts, faults) -> None:
    counts["finished"] += 1
    if code != 0:
        faults.append(f"the run could not be finished, {code}: {log.read_text()[-600:]}")
    elif made_by(folder) != expected:
        found = made_by(folder)
        faults.append(f"other bytes: {[k for k in expected if found.get(k) != expected[k]]}")


# --- forged claims --------------------------------------------------------------------------


def forge(kind: str, words: list[str], work: Path, draw: random.Random) -> int:
    """Change each value of a package, sign it, cross-check it; the number that was confirmed."""
    from test_crosscheck import sign, zipped

    from vcm_plugin.crosscheck.package import make_package

    work.mkdir()
    run_to_its_end([*words, "-o", str(work / "run")], work / "log")
    make_package(work / "run", [], work / "honest.zip")
    weights = tuple(p for p in work.parent.iterdir() if p.name in WEIGHTS)
    counts = Counter()
    sound = verdict(work / "honest.zip", weights)
    if sound != "confirmed":
        sys.exit(f"{kind}: the honest package is {sound}")
    for file, place, everywhere in claims_of(work / "honest.zip", draw):
        shutil.rmtree(work / "forged", ignore_errors=True)
        with zipfile.ZipFile(work / "honest.zip") as archive:
            archive.extractall(work / "forged")
        change(work / "forged", file, place, everywhere)
        try:
            if file != "manifest.json":  # signing would make that honest again
                sign(work / "forged")
            found = verdict(zipped(work / "forged", work / "forged.zip"), weights)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        counts[found] += 1
        if found != "not confirmed" and not found.startswith("refused"):
            named = "everywhere" if everywhere else "alone"
            print(f"{kind}: {file} {'.'.join(map(str, place))}, {named}: {found}"[:300], flush=True)
    print(f"claims, {kind}: {dict(counts)}", flush=True)
    return sum(n for found, n in counts.items() if "Error" in found or found == "confirmed")


WEIGHTS = ("tiny.safetensors", "random.pth", "painter")


def verdict(package: Path, weights: tuple[Path, ...]) -> str:
    from vcm_plugin.crosscheck.check import CheckOptions, crosscheck

    try:
        return crosscheck(package, CheckOptions(weights=weights)).verdict
    except InputError as error:
        return "refused" if "\n" not in str(error) else f"many lines: {error}"


def claims_of(package: Path, draw: random.Random) -> Iterator[tuple[str, tuple, bool]]:
    """File, place in it, and whether the value is changed wherever it stands under this key."""
    with zipfile.ZipFile(package) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith((".json", ".jsonl")):
                continue
            kept: dict[tuple, list[tuple]] = {}
            for place in places(parsed(archive.read(name).decode(), name)):
                pattern = tuple("*" if isinstance(step, int) else step for step in place)
                kept.setdefault(pattern, []).append(place)
            for same in kept.values():
                place = draw.choice(same)
                yield name, place, False
                if isinstance(place[-1], str) and name != "manifest.json":
                    yield name, place, True


def parsed(text: str, name: str):
    return [json.loads(x) for x in text.splitlines()] if name.endswith("l") else json.loads(text)


def places(value, place: tuple = ()) -> Iterator[tuple]:
    """Where each number, text or flag stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, (dict, list)):
            yield from places(item, (*place, key))
        else:
            yield (*place, key)


def change(folder: Path, file: str, place: tuple, everywhere: bool) -> None:
    """Another value at a place; everywhere: at all places of this key that hold the same value."""
    value = parsed((folder / file).read_text(), file)
    for step in place[:-1]:
        value = value[step]
    old = value[place[-1]]
    new = other(old)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.json*"))
    for name in names if everywhere else [file]:
        tree = parsed((folder / name).read_text(), name)
        for found in list(places(tree)):
            if found == place and name == file or everywhere and found[-1] == place[-1]:
                inner = tree
                for step in found[:-1]:
                    inner = inner[step]
                if inner[found[-1]] == old:
                    inner[found[-1]] = new
        lines = tree if name.endswith("l") else [tree]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def other(value):
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, str):
        return ("0" if value[:1] != "0" else "1") + value[1:]
    return value + 1 if isinstance(value, int) else value * 1.02 + 0.5


if __name__ == "__main__":
    sys.exit(main())

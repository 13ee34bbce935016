# SPDX-License-Identifier: BSD-3-Clause
"""Does a run that is killed at random moments end in the result.json of an undisturbed one?"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("condition")
    parser.add_argument("--codec", default="vvc_feature")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Path(folder, "calm"), Path(folder, "disturbed")
        finish(options, calm)
        total = lines(calm)
        draw, kills = random.Random(options.seed), 0
        while kills < options.kills:
            most = (total - lines(disturbed) - 1) // (options.kills - kills)
            new_lines, seconds = draw.randint(0, max(0, most)), draw.random() / 2
            if kill_after(options, disturbed, new_lines, seconds):
                kills += 1
                print(f"kill {kills}: {lines(disturbed)} of {total} lines kept", flush=True)
            else:  # it was done before: once more from the start
                shutil.rmtree(disturbed)
        finish(options, disturbed)
        same = (calm / "result.json").read_bytes() == (disturbed / "result.json").read_bytes()
    print(f"result.json after {options.kills} kills: {'the same' if same else 'ANOTHER ONE'}")
    return 0 if same else 1


def start(options: argparse.Namespace, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "vcm_plugin.cli", "run", options.condition]
    command += ["--codec", options.codec, "--jobs", str(options.jobs), "-o", str(folder)]
    if options.limit:
        command += ["--limit", str(options.limit)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(options: argparse.Namespace, folder: Path) -> None:
    run = start(options, folder)
    log = run.communicate()[1].decode()
    if run.returncode != 0:
        sys.exit(log)


def kill_after(options: argparse.Namespace, folder: Path, new_lines: int, seconds: float) -> bool:
    """Start a run and kill it some time after so many new lines; False where it ended before."""
    wanted = lines(folder) + new_lines
    run = start(options, folder)
    while lines(folder) < wanted and run.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    run.kill()
    log = run.communicate()[1].decode()
    if run.returncode not in (0, -signal.SIGKILL):
        sys.exit(log)
    return run.returncode != 0


def lines(folder: Path) -> int:
    """Whole lines in all journals of a run folder."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*/pictures.jsonl"))


if __name__ == "__main__":
    sys.exit(main())

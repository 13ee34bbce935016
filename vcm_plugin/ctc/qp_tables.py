# SPDX-License-Identifier: BSD-3-Clause
"""Which QPs does a named table of rate points say? cfg/qp_tables.yaml.

A table of one list gives the QPs themselves as rate points. One whose QPs differ from sequence to
sequence has the rate points RP1, RP2 ...; only what codes a sequence asks for its QP.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vcm_plugin import settings
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError

LABEL = "RP"


@dataclass(frozen=True)
class QpTable:
    """A table: the QPs of all, or those of each sequence by its name."""

    name: str
    qps: tuple[int, ...] = ()
    of_sequence: Mapping[str, tuple[int, ...]] | None = None

    @property
    def rate_points(self) -> list[str]:
        """What the rate points of a run by this table are called, by rising QP."""
        if self.of_sequence is None:
            return list(map(str, self.qps))
        count = len(next(iter(self.of_sequence.values())))
        return [f"{LABEL}{number}" for number in range(1, count + 1)]

    def qp(self, rate_point: str, sequence: str) -> str:
        """The QP that a rate point stands for in a sequence, as it is written.

        >>> load_qp_table("vcm_rs_0.12_inter").qp("RP2", "RaceHorses_416x240_30")
        '18'
        """
        if self.of_sequence is None:
            return rate_point
        if sequence not in self.of_sequence:
            nearest = difflib.get_close_matches(sequence, self.of_sequence, n=1, cutoff=0.0)[0]
            raise InputError(
                f"table of rate points {self.name}: expected one of its sequences, such as "
                f"{nearest}, found {sequence}; take another table, or --rate-points"
            )
        return str(self.of_sequence[sequence][index_of(rate_point)])


def index_of(rate_point: str) -> int:
    """The number of a rate point of a table, from 0."""
    return int(rate_point.removeprefix(LABEL)) - 1


def is_label(rate_point: str) -> bool:
    """Whether a rate point is one whose QP depends on the sequence."""
    return rate_point.startswith(LABEL)


def load_qp_table(name: str) -> QpTable:
    """The table of a name; raises InputError where there is none, naming the nearest."""
    path = cfg_folder() / "qp_tables.yaml"
    tables = settings.read_yaml(path, "tables of rate points")
    if name not in tables:
        nearest = difflib.get_close_matches(name, list(tables), n=1, cutoff=0.0)[0]
        raise InputError(
            f"table of rate points {name}: expected one of {', '.join(tables)}; did you mean "
            f"{nearest}?"
        )
    return _table(name, tables[name])


def _table(name: str, values: Mapping[str, Any]) -> QpTable:
    if "qps" in values:
        return QpTable(name, tuple(values["qps"]))
    steps = [values["step"] * number for number in range(values["points"])]
    return QpTable(
        name, of_sequence={k: tuple(qp + n for n in steps) for k, qp in values["start"].items()}
    )

# SPDX-License-Identifier: BSD-3-Clause
"""A test condition with other values, of its own keys and of those of codecs."""

from typing import Any

from vcm_plugin.conditions import TestCondition, with_values


def changed(condition: TestCondition, **values: Any) -> TestCondition:
    return with_values(condition, values)

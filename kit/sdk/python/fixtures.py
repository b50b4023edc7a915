"""Fixtures: rows with what must come of them.

Here they run through the rule in Python; `tidegate test` runs the same files through the component.
"""

import json
import unittest
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sdk.tidegate import Column, Instance, Outcome, Rule, Values

FIXTURE_KEYS = ("settings", "now", "remember", "rows")
ROW_KEYS = ("in", "out", "rejected", "detail", "dropped")
NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def check_folder(test: unittest.TestCase, rule: Rule, folder: str | Path) -> None:
    """Runs the fixtures of a folder, each as a part of the test."""
    files = sorted(Path(folder).glob("*.json"))
    test.assertTrue(files, f"the folder `{folder}` has no fixtures")
    for file in files:
        with test.subTest(fixture=file.stem):
            differences = check(rule, json.loads(file.read_text(encoding="utf-8")))
            if differences:
                test.fail("what came out (+) is not what the fixture expects (-)\n" + "\n".join(differences))


def check(rule: Rule, fixture: Mapping[str, Any]) -> list[str]:
    """Runs one fixture; gives lines with all that differs."""
    _no_others(fixture, FIXTURE_KEYS, "the fixture")
    instance = Instance(rule)
    instance.configure(json.dumps(fixture.get("settings", {})))
    remember = fixture.get("remember", [])
    if remember:
        read = {column.name for column in rule.reads}
        columns = rule.reads + [column for column in rule.writes if column.name not in read]
        instance.remember(len(remember), _batch(columns, remember))
    rows = fixture["rows"]
    for place, row in enumerate(rows):
        _no_others(row, ROW_KEYS, f"row {place}")
    now = _value("now", "timestamp", fixture.get("now", 0))
    outcome = instance.transform(now, len(rows), _batch(rule.reads, [row["in"] for row in rows]))
    differences = []
    for place, row in enumerate(rows):
        expected = _expected(rule, row, place)
        actual = _actual(rule, outcome, place, with_detail="detail" in row)
        if expected != actual:
            differences += [f"row {place}", *(f"- {line}" for line in expected), *(f"+ {line}" for line in actual)]
    return differences


def _no_others(given: Iterable[str], keys: Sequence[str], what: str) -> None:
    for key in given:
        if key not in keys:
            raise ValueError(f"{what} has the key `{key}`, but only {', '.join(keys)} mean something")


def _batch(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[Values]:
    """Rows as the host would hand them over."""
    names = [column.name for column in columns]
    for row in rows:
        _no_others(row, names, "a row")
    present = [column for column in columns if not column.optional or any(column.name in row for row in rows)]
    return [
        Values(column.name, column.kind, [_value(column.name, column.kind, row.get(column.name)) for row in rows])
        for column in present
    ]


def _value(name: str, kind: str, given: Any) -> Any:
    """A value of a fixture as the rule sees it.

    A timestamp can be a text of RFC 3339, a float one of `NOT_FINITE`.
    """
    if kind == "timestamp" and isinstance(given, str):
        # Older Pythons do not know the `Z`.
        time = datetime.fromisoformat(given.replace("Z", "+00:00"))
        if time.tzinfo is None:
            raise ValueError(f"`{name}` is `{given}`, a time without an offset from UTC")
        since = time - datetime(1970, 1, 1, tzinfo=timezone.utc)
        return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
    if kind == "float" and given is not None and (isinstance(given, int) or given in NOT_FINITE):
        return float(given)
    return given


def _expected(rule: Rule, row: Mapping[str, Any], place: int) -> list[str]:
    if sum(key in row for key in ("out", "rejected", "dropped")) != 1 or row.get("dropped") is False:
        raise ValueError(f"row {place} needs one of `out`, `rejected` and `dropped: true`")
    if "rejected" in row:
        detail = f": {row['detail']}" if "detail" in row else ""
        return [f"rejected {row['rejected']}{detail}"]
    if "dropped" in row:
        return ["dropped"]
    _no_others(row["out"], [column.name for column in rule.writes], f"`out` of row {place}")
    return [
        f"{column.name} {_value(column.name, column.kind, row['out'].get(column.name))!r}" for column in rule.writes
    ]


def _actual(rule: Rule, outcome: Outcome, place: int, with_detail: bool) -> list[str]:
    for row, reason, detail in outcome.rejected:
        if row == place:
            return [f"rejected {rule.reasons[reason]}" + (f": {detail}" if with_detail else "")]
    if place in outcome.dropped:
        return ["dropped"]
    lines = []
    for column in outcome.columns:
        value = column.values[place]
        if column.kind == "float" and value is not None:
            value = float(value)
        lines.append(f"{column.name} {value!r}")
    return lines

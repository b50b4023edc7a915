"""Write a rule of Tidegate as a function of one row. `tidegate build` replaces the files of this folder by its own."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KINDS = ("integer", "float", "boolean", "timestamp", "text")

TYPES: dict[str, Callable[[Any], bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}

BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("at least", lambda value, bound: value >= bound),
    "exclusiveMinimum": ("above", lambda value, bound: value > bound),
    "maximum": ("at most", lambda value, bound: value <= bound),
    "exclusiveMaximum": ("below", lambda value, bound: value < bound),
}


@dataclass(frozen=True, slots=True)
class Keep:
    """The row goes on, with these values in columns that the rule writes."""

    written: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reject:
    """The row goes to the dead letter: one of the rule's reasons, and what is wrong with it, with the values."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """The row is left out on purpose, such as a duplicate: counted, not stored."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is read or written."""

    name: str
    kind: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a column in a batch, one a row; None where the row has none."""

    name: str
    kind: str
    values: Sequence[Any]


@dataclass(slots=True)
class Outcome:
    """What a rule says about a batch: `(row, reason, detail)` of the rejected ones, the dropped ones, the columns."""

    rejected: list[tuple[int, int, str]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    columns: list[Values] = field(default_factory=list)


class Rule:
    """A rule.

    `reads` and `writes` name columns and their kinds: `integer`, `float`, `boolean`, `timestamp` (milliseconds since
    1970) or `text`; `float?` is a column that not every pipeline has. `settings` names what a pipeline file may set,
    each as a JSON Schema with a `default`, or it must be set. `reasons` are names of lower-case letters, digits and
    `_`.

    `decide(row, settings, now)` answers `Keep`, `Reject` or `Drop`. `row` has a value or None for each column that is
    read. A column that is also read keeps its value where `Keep` does not name it; None takes it away. `now` is the
    only clock, in milliseconds since 1970. What it raises makes the row a reject.

    A rule that remembers has `memory(settings)`, which makes what an instance keeps, and `remember(row, memory,
    settings)`, which takes a row that the pipeline has written, oldest first; its `decide` has the memory as a fourth
    argument. It must keep nothing that `remember` could not rebuild, and nothing outside of its memory.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        summary: str,
        reads: Mapping[str, str],
        decide: Callable[..., Keep | Reject | Drop],
        writes: Mapping[str, str] | None = None,
        reasons: Sequence[str] = (),
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        memory: Callable[[dict[str, Any]], Any] | None = None,
        remember: Callable[..., None] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.summary = summary
        self.reads = _columns(reads)
        self.writes = _columns(writes or {})
        self.reasons = list(reasons)
        self.settings = dict(settings or {})
        self.decide = decide
        self.memory = memory
        self.remember = remember
        for setting, schema in self.settings.items():
            if schema.get("type") not in (None, *TYPES):
                raise ValueError(f"the setting `{setting}` is of a type that is none of {', '.join(TYPES)}")

    def schema(self) -> str:
        """The JSON Schema of the settings."""
        return json.dumps(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": self.name,
                "type": "object",
                "properties": self.settings,
                "required": [name for name, schema in self.settings.items() if "default" not in schema],
                "additionalProperties": False,
            }
        )


class Instance:
    """One instance of a rule, driven as the host drives it, with batches of columns. Whatever is wrong is raised."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.settings: dict[str, Any] = {}
        self.memory: tuple[Any, ...] = ()

    def configure(self, settings: str) -> bool:
        """Takes settings as JSON; says whether the rule remembers with them."""
        self.settings = _complete(self.rule.settings, json.loads(settings))
        self.memory = () if self.rule.memory is None else (self.rule.memory(self.settings),)
        return self.rule.remember is not None

    def transform(self, now: int, count: int, batch: Sequence[Values]) -> Outcome:
        """Decides a batch of so many rows; `now` in milliseconds since 1970."""
        rule, decide, settings, memory = self.rule, self.rule.decide, self.settings, self.memory
        outcome = Outcome()
        own = {column.name: column.values for column in batch}
        # A column that is read too keeps its value where the rule does not name it.
        written = {column.name: list(own.get(column.name, (None,) * count)) for column in rule.writes}
        for place, row in enumerate(self._rows(count, batch)):
            match decide(row, settings, now, *memory):
                case Keep(values):
                    for name, value in values.items():
                        if name not in written:
                            raise ValueError(f"`Keep` names the column `{name}`, which is not in `writes`")
                        written[name][place] = value
                case Reject(reason, detail):
                    if reason not in rule.reasons:
                        raise ValueError(f"`Reject` names the reason `{reason}`, which is not in `reasons`")
                    outcome.rejected.append((place, rule.reasons.index(reason), detail))
                case Drop():
                    outcome.dropped.append(place)
                case answer:
                    raise TypeError(f"`decide` answered {answer!r}, not `Keep`, `Reject` or `Drop`")
        for column in rule.writes:
            values = written[column.name]
            _check_values(column, values)
            outcome.columns.append(Values(column.name, column.kind, values))
        return outcome

    def remember(self, count: int, batch: Sequence[Values]) -> None:
        """Takes so many rows that the pipeline has written."""
        if self.rule.remember is not None:
            for row in self._rows(count, batch):
                self.rule.remember(row, *self.memory, self.settings)

    def _rows(self, count: int, batch: Sequence[Values]) -> list[dict[str, Any]]:
        present = {column.name: column.values for column in batch}
        # Optional columns that the pipeline does not have are None like values that are missing.
        absent = {column.name: (None,) * count for column in self.rule.reads if column.name not in present}
        columns = present | absent
        names = tuple(columns)
        return [dict(zip(names, values)) for values in zip(*columns.values())] if names else [{}] * count


def _columns(kinds: Mapping[str, str]) -> list[Column]:
    columns = []
    for name, word in kinds.items():
        kind = word.removesuffix("?")
        if kind not in KINDS:
            raise ValueError(f"the column `{name}` is of kind `{word}`, which is none of {', '.join(KINDS)}")
        columns.append(Column(name, kind, optional=word.endswith("?")))
    return columns


_HOLDS: dict[str, Callable[[Any], bool]] = {
    "integer": lambda value: TYPES["integer"](value) and -(2**63) <= value < 2**63,
    "float": TYPES["number"],
    "boolean": TYPES["boolean"],
    "timestamp": lambda value: TYPES["integer"](value) and -(2**63) <= value < 2**63,
    "text": TYPES["string"],
}


def _check_values(column: Column, values: Sequence[Any]) -> None:
    holds = _HOLDS[column.kind]
    for value in values:
        if value is not None and not holds(value):
            raise TypeError(f"the column `{column.name}` holds values of kind {column.kind}, not {value!r}")


def _complete(schemas: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a pipeline file gives, with the defaults of the others."""
    for name in given:
        if name not in schemas:
            known = ", ".join(f"`{known}`" for known in schemas) or "none at all"
            raise ValueError(f"there is no setting `{name}`, but {known}")
    settings = {}
    for name, schema in schemas.items():
        if name not in given and "default" not in schema:
            raise ValueError(f"the setting `{name}` is missing")
        value = given.get(name, schema.get("default"))
        fault = _fault(schema, value)
        if fault is not None:
            raise ValueError(f"the setting `{name}` is {json.dumps(value)}, but it must be {fault}")
        settings[name] = value
    return settings


def _fault(schema: Mapping[str, Any], value: Any) -> str | None:
    """What a value must be that is not. Other words of JSON Schema are for people alone."""
    if "type" in schema and not TYPES[schema["type"]](value):
        return f"of type {schema['type']}"
    if "enum" in schema and value not in schema["enum"]:
        return "one of " + ", ".join(json.dumps(choice) for choice in schema["enum"])
    for key, (words, holds) in BOUNDS.items():
        if key in schema and not holds(value, schema[key]):
            return f"{words} {schema[key]}"
    return None

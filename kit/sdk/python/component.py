"""The exports of the contract (`rule.wit`) for the rule of `rule.py`. Only the component has the imported bindings."""

from collections.abc import Callable, Sequence
from typing import Any

from componentize_py_types import Err
from rule import rule as definition
from sdk.tidegate import Instance, Values
from wit_world import exports
from wit_world.exports import rule as wire

KINDS = {
    "integer": wire.Kind.INTEGER,
    "float": wire.Kind.FLOAT,
    "boolean": wire.Kind.BOOLEAN,
    "timestamp": wire.Kind.TIMESTAMP,
    "text": wire.Kind.TEXT,
}


class Rule(exports.Rule):
    """What the component exports as `rule`."""

    def __init__(self) -> None:
        self.instance = INSTANCE

    def describe(self) -> wire.Description:
        return wire.Description(
            definition.name,
            definition.version,
            definition.summary,
            [wire.InputColumn(column.name, KINDS[column.kind], column.optional) for column in definition.reads],
            [wire.OutputColumn(column.name, KINDS[column.kind]) for column in definition.writes],
            definition.reasons,
            definition.schema(),
        )

    def configure(self, settings: str) -> bool:
        return _told(lambda: self.instance.configure(settings), str)

    def transform(self, now: int, input: wire.Batch) -> wire.Outcome:
        def work() -> wire.Outcome:
            outcome = self.instance.transform(now, input.rows, [_values(column) for column in input.columns])
            return wire.Outcome(
                [wire.Reject(*reject) for reject in outcome.rejected],
                outcome.dropped,
                [_column(column) for column in outcome.columns],
            )

        return _told(work, lambda error: f"{type(error).__name__}: {error}")

    def remember(self, output: wire.Batch) -> None:
        self.instance.remember(output.rows, [_values(column) for column in output.columns])


# There is one instance of the rule in an instance of the component, however often the class is made.
INSTANCE = Instance(definition)


def _told(work: Callable[[], Any], sentence: Callable[[Exception], str]) -> Any:
    """`Err` is the error of a `result`; anything else would be a trap, of which the host knows no more."""
    try:
        return work()
    except Exception as error:
        raise Err(sentence(error)) from error


def _values(column: wire.Column) -> Values:
    match column.values:
        case wire.Values_Integers(values):
            kind = "integer"
        case wire.Values_Floats(values):
            kind = "float"
        case wire.Values_Timestamps(values):
            kind = "timestamp"
        case wire.Values_Booleans(bits):
            kind, values = "boolean", _flags(bits)
        case wire.Values_Texts(texts):
            kind, dictionary = "text", texts.dictionary
            # A row without a text has the index 0, even when the dictionary is empty.
            values = [dictionary[index] for index in texts.indexes] if dictionary else [None] * len(texts.indexes)
    if column.present is not None:
        values = [value if has else None for value, has in zip(values, _flags(column.present))]
    return Values(column.name, kind, values)


def _column(column: Values) -> wire.Column:
    values = column.values
    absent = any(value is None for value in values)
    present = _bits([value is not None for value in values]) if absent else None
    match column.kind:
        case "integer":
            wired: wire.Values = wire.Values_Integers([0 if value is None else value for value in values])
        case "float":
            wired = wire.Values_Floats([0.0 if value is None else float(value) for value in values])
        case "timestamp":
            wired = wire.Values_Timestamps([0 if value is None else value for value in values])
        case "boolean":
            wired = wire.Values_Booleans(_bits(values))
        case _:
            dictionary: dict[str, int] = {}
            indexes = [0 if value is None else dictionary.setdefault(value, len(dictionary)) for value in values]
            wired = wire.Values_Texts(wire.Texts(list(dictionary), indexes))
    return wire.Column(column.name, wired, present)


def _flags(bits: bytes) -> list[bool]:
    return [byte >> place & 1 == 1 for byte in bits for place in range(8)]


def _bits(flags: Sequence[bool | None]) -> bytes:
    packed = bytearray((len(flags) + 7) // 8)
    for place, flag in enumerate(flags):
        if flag:
            packed[place >> 3] |= 1 << (place & 7)
    return bytes(packed)

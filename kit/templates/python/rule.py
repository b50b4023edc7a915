"""The rule `PROJECT_NAME`."""

from typing import Any

from sdk.tidegate import Keep, Reject, Rule


def decide(row: dict[str, Any], settings: dict[str, Any], now: int) -> Keep | Reject:
    high, low = row["high"], row["low"]
    # A value can be None; this rule leaves it to others to reject such a row.
    if high is None or low is None:
        return Keep()
    if high > low * settings["factor"]:
        name = row["symbol"] or "a row without symbol"
        return Reject("too_wide", f"{name}: high {high} is too far above low {low}")
    return Keep({"spread": high - low})


rule = Rule(
    name="PROJECT_NAME",
    version="0.1.0",
    summary="Rejects candles whose range is wider than a factor, and writes the range of the others",
    settings={
        "factor": {"type": "number", "default": 2, "description": "How many times the low the high may be"},
    },
    # Labels of metrics, so the set is closed.
    reasons=["too_wide"],
    reads={"high": "float", "low": "float", "symbol": "text"},
    writes={"spread": "float"},
    decide=decide,
)

"""Words for numbers, and text for Markdown and HTML: what every page of the suite is set in."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

__all__ = ["bullets", "count", "grid", "interval", "number", "plain", "prose", "show", "spread"]


def _absent(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def _exponent(x: float) -> int:
    return math.floor(math.log10(abs(x)))


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def number(value: Any, digits: int = 5) -> str:
    """``digits`` significant digits, whole numbers in full; empty for None and NaN."""
    if _absent(value):
        return ""
    x = float(value)
    if x == 0 or math.isinf(x):
        return f"{x + 0.0:g}"
    if not -3 <= _exponent(x) < 12:
        mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
        return f"{_trim(mantissa)}e{int(exponent)}"
    return _trim(f"{x:.{max(0, digits - 1 - _exponent(x))}f}")


def show(value: Any) -> str:
    """Words as they are, numbers as someone typed them: axes, and what a paper prints."""
    return str(value) if isinstance(value, str | bool) else number(value, 9)


def spread(mean: Any, low: Any, high: Any) -> tuple[str, ...]:
    """A mean and its interval with the decimals that the interval's width deserves.

    Two digits of the half-width, but at least four and at most six significant digits in all.
    """
    if any(_absent(v) or math.isinf(v) for v in (mean, low, high)) or low >= high:
        return number(mean), number(low), number(high)
    top = _exponent(max(abs(mean), abs(low), abs(high)))
    decimals = min(max(1 - _exponent((high - low) / 2), 3 - top), 5 - top)
    shift = 0 if -3 <= top < 12 else top
    places = max(0, decimals + shift)
    tail = f"e{shift}" if shift else ""
    # + 0.0 turns a rounded -0.0 into 0.0
    texts = (f"{round(v / 10.0**shift, places) + 0.0:.{places}f}" for v in (mean, low, high))
    return tuple(text + tail for text in texts)


def interval(mean: Any, low: Any, high: Any, n: Any = None, unit: str = "") -> str:
    """``254.6 [251.2, 258.0] nats, n = 3``, without the parts that are not known."""
    centre, lower, upper = spread(mean, low, high)
    if not centre:
        return ""
    words = (centre, f"[{lower}, {upper}]" if lower and upper else "", unit)
    return " ".join(filter(None, words)) + ("" if _absent(n) else f", n = {number(n)}")


def count(n: int, word: str) -> str:
    return f"{n} {word}" + ("" if n == 1 else "s")


def prose(text: str) -> Markup:
    """Escaped text in which `code` and indices (S_NN) are set as such."""

    def mark(match: re.Match[str]) -> str:
        code, letter, index = match.groups()
        return f"<code>{code}</code>" if code else f"{letter}<sub>{index}</sub>"

    return Markup(re.sub(r"`([^`]+)`|\b([A-Z])_(\w+)", mark, str(escape(text))))


def plain(text: str) -> str:
    """One line of Markdown that may stand in a table; no markup but `code`."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    parts[::2] = [re.sub(r"([\\*<>])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts).replace("|", r"\|")


def grid(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    head = [[plain(label) for label, _ in columns], ["---:" if r else "---" for _, r in columns]]
    body = [[plain(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + body)


def bullets(title: str, lines: Iterable[str]) -> list[str]:
    return [title, "\n".join(f"- {plain(line)}" for line in lines)] if lines else []

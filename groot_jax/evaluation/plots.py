"""Line charts: geometry for the report's inline SVG.

Computes and lays out, in pure Python: the page draws itself, in light and dark, and needs no
picture of a plotting library beside it. It may not read a work directory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from groot_jax.evaluation.records import Json
from groot_jax.evaluation.results import Results

# Eight hues that stay apart under the common color-vision deficiencies, on white and (second) on
# near-black. The order matters: neighbours differ most.
PALETTE = (
    ("#2a78d6", "#3987e5"),
    ("#eb6834", "#d95926"),
    ("#1baf7a", "#199e70"),
    ("#eda100", "#c98500"),
    ("#4a3aa7", "#9085e9"),
    ("#e87ba4", "#d55181"),
    ("#008300", "#3fa34d"),
    ("#e34948", "#e66767"),
)
# A decision rule keeps its system's hue and takes a dash of its own: lengths drawn and left out.
DASHES = {"": "", "mbr": "7 3", "consensus": "10 3 2 3"}
_OTHER_DASH = "2 3"
# In SVG units, and how much of them the labels take at each side.
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 42
_TINY = 1e-300  # Below it floats lose digits.


@dataclass(frozen=True)
class Series:
    """One line: `color` counts through the palette, `dash` is an SVG dash pattern, `faint` draws it
    thin and without points."""

    name: str
    points: tuple[tuple[float, float], ...]
    color: int = 0
    dash: str = ""
    faint: bool = False


def system_styles(names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Color and dash of each system: `groot+mbr` is `groot` dashed."""
    # ["nll", "groot", "groot+mbr"] -> nll (0, ""), groot (1, ""), groot+mbr (1, "7 3")
    bases = list(dict.fromkeys(name.partition("+")[0] for name in names))
    styles = {}
    for name in names:
        base, _, rule = name.partition("+")
        styles[name] = (bases.index(base) % len(PALETTE), DASHES.get(rule, _OTHER_DASH))
    return styles


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers, about `count`, from at most `low` to at least `high`.

    0.43 to 0.71 gives 0.4, 0.5, 0.6, 0.7, 0.8.
    """
    # All values alike: 3 becomes 2.7 to 3.3, and 0 becomes -1 to 1.
    # So are those that differ in their last digits, which no label shows.
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, _TINY):
        pad = size * 0.1 if size > _TINY else 1.0
        low, high = low - pad, high + pad
    # .28 in five parts is .056: the next of .01, .02, .025, .05 and .1 is .1.
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    # The slack takes 0.30000000000000004 / 0.1 for 3, and the rounding below prints it as .3.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Twelve digits of a tick, and not of what may be a thousand million times as large.
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def thin(points: Sequence[tuple[float, float]], limit: int = 150) -> list[tuple[float, float]]:
    """At most `limit` points: means of neighbours, each group's x and y alike."""
    # 1000 points come in groups of 7, which makes 143.
    size = math.ceil(len(points) / limit) or 1
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def chart(series: Sequence[Series], x_label: str, *, whole_x: bool = False) -> Json:
    """Lays out a line chart for the template: ticks, paths and marks in SVG units.

    `whole_x` puts a tick on every whole number, for ranks. There has to be a point.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    y_values = ticks(min(ys), max(ys))
    x_values = (
        [float(x) for x in range(math.floor(min(xs)), math.ceil(max(xs)) + 1)]
        if whole_x
        else ticks(min(xs), max(xs), 6)
    )
    # Lines span the whole width; the heights are those of the outer ticks.
    x_low, x_high = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 1, max(xs) + 1)
    y_low, y_high = y_values[0], y_values[-1]

    def px(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    # SVG counts down from the top: the highest value has the smallest y.
    def py(y: float) -> float:
        return round(TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "bottom": HEIGHT - BOTTOM,
        "x_label": x_label,
        "x_ticks": [(px(x), f"{x:g}") for x in x_values if x_low <= x <= x_high],
        "y_ticks": [(py(y), f"{y:g}") for y in y_values],
        "lines": [
            {
                "name": line.name,
                "color": line.color,
                "dash": line.dash,
                "path": " ".join(f"{px(x)},{py(y)}" for x, y in line.points),
                "marks": [
                    (px(x), py(y), f"{line.name} · {x_label} {x:g}: {y:.4g}")
                    for x, y in ([] if line.faint else line.points)
                ],
                "faint": line.faint,
            }
            for line in series
        ],
    }


def reward_by_rank(results: Results, split: str) -> list[Series]:
    """The reward at each rank of every system of a split, as lines; ranks count from 1."""
    styles = system_styles(list(results["systems"]))
    return [
        Series(
            name,
            tuple(
                (rank, value)
                for rank, value in enumerate(splits[split]["reward_by_rank"], start=1)
                if value is not None
            ),
            *styles[name],
        )
        for name, splits in results["systems"].items()
        if split in splits and splits[split].get("reward_by_rank")
    ]


def reliability_lines(results: Results, split: str) -> list[Series]:
    """Of every system of a split the share of its spans that are gold by their confidence, as dev
    has calibrated it, and dashed as the model has it; and where all would lie if confidences were
    true."""
    styles = system_styles(list(results["systems"]))
    lines = [Series("true confidence", ((0.0, 0.0), (1.0, 1.0)), len(PALETTE) - 1, "2 3", True)]
    for name, splits in results["systems"].items():
        # A decision rule changes none of this. Files of before have none of it.
        if "+" in name or "calibration" not in splits.get(split, {}):
            continue
        found = splits[split]["calibration"]
        for key, label, dash in (
            ("bins", name, ""),
            ("bins_at_1", f"{name}, not calibrated", "4 3"),
        ):
            points = tuple((mean, share) for count, mean, share in found[key] if count)
            if points:
                lines.append(Series(label, points, styles[name][0], dash, faint=bool(dash)))
    return lines if len(lines) > 1 else []

"""`results.json`, and the tables and figures that are made of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
FILE = FOLDER / "results.json"
TABLE = FOLDER / "results.md"
FIGURE = FOLDER / "results.png"
GROWTH_FIGURE = FOLDER / "growth.png"
README = FOLDER.parent / "README.md"

Row = dict[str, Any]


def load(file: Path = FILE) -> dict[str, Row]:
    """What was measured before, by name; empty where nothing was."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def store(found: dict[str, Row], file: Path = FILE) -> None:
    """Write all; the file appears whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, file)


def present() -> None:
    """Tables and figures of all that is stored, also the README's."""
    rows = list(load().values())
    README.write_text(quoted(README.read_text(encoding="utf-8"), rows), encoding="utf-8")
    TABLE.write_text(page(rows), encoding="utf-8")
    if compared := [row for row in rows if row["kind"] == "comparison"]:
        draw_ratios(compared, FIGURE)
    if grown := [row for row in rows if row["kind"] == "growth"]:
        draw_growth(grown, GROWTH_FIGURE)


def page(rows: list[Row]) -> str:
    """Markdown: comparisons, budgets, growth, learning, and the machines they were measured on."""
    text = "# What was measured\n\nMade by `make bench`; do not edit.\n"
    for kind, (columns, line) in _TABLES.items():
        if lines := [line(row) for row in rows if row["kind"] == kind]:
            text += f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n{''.join(lines)}"
    if notes := [f"- {row['title']}: {row['note']}\n" for row in rows if row.get("note")]:
        text += "\n" + "".join(notes)
    return text + "\n" + "\n\n".join(sorted({_machine(row) for row in rows})) + "\n"


def _comparison(row: Row) -> str:
    ratio, asked, bound = row["ratio"], row["target"], row.get("bound")
    wanted = "" if asked is None else f"{asked:g} {_mark(ratio['median'] >= asked)}"
    memory = " / ".join(f"{row['peak_bytes'][row[side]] / 2**30:.2f} GiB" for side in ("ours", "peer"))
    limit = f"{bound['share']:.0%} of {bound['what']}" if bound else ""
    return (
        f"| {row['title']} | {_rate(row, 'ours')} | {row['peer']}: {_rate(row, 'peer')} | **{ratio['median']:.3g}** "
        f"({ratio['low']:.3g} to {ratio['high']:.3g}) | {wanted} | {memory} | {limit} |\n"
    )


def _budget(row: Row) -> str:
    took = row["seconds"]
    return (
        f"| {row['title']} ({row['amount']:,.0f} {row['unit']}) | {took['median']:.2f} ({took['low']:.2f} to "
        f"{took['high']:.2f}) | {row['at_most']:g} {_mark(took['median'] <= row['at_most'])} |\n"
    )


def _growth(row: Row) -> str:
    low, high = min(row["films"]), max(row["films"])
    held, asked, slope = max(row["peak_bytes"]) / min(row["peak_bytes"]), row["memory_at_most"], row["slope"]
    memory = f"{held:.2f}" if asked is None else f"{held:.2f}, ≤ {asked:g} {_mark(held <= asked)}"
    return f"| {row['title']} | {low:,} to {high:,} | {slope:.2f} | ≤ 1.1 {_mark(slope <= 1.1)} | {memory} |\n"


def _learning(row: Row) -> str:
    sides = (f"{_each(row[side], '.3f')} | {_each(row[f'{side}_seconds'], ',.0f')}" for side in ("ours", "peer"))
    return f"| {row['title']} | {' | '.join(sides)} |\n"


def _each(values: list[float], form: str) -> str:
    return ", ".join(format(value, form) for value in values)


_TABLES = {
    "comparison": (
        ("what", "ours", "against", "ratio (quartiles)", "asked", "peak memory, ours / theirs", "of the limit"),
        _comparison,
    ),
    "budget": (("what", "seconds (quartiles)", "at most"), _budget),
    "growth": (("what grows", "films", "k of time ∝ filmsᵏ", "asked", "most / least memory"), _growth),
    "learning": (("AUROC after equal epochs, a seed each", "ours", "seconds", "plain Trainer", "seconds"), _learning),
}


def quoted(readme: str, rows: list[Row]) -> str:
    """The README with its tables, between `<!-- KIND -->` and `<!-- end -->`, made of these rows."""
    for kind, (columns, line) in _QUOTES.items():
        lines = "".join(line(row) for row in rows if row["kind"] == kind)
        table = f"| {' | '.join(columns)} |\n|---|---{'|---:' * (len(columns) - 2)}|\n{lines}"
        before, mark, rest = readme.partition(f"<!-- {kind} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise ValueError(f"README.md has no table between `<!-- {kind} -->` and `<!-- end -->` to write anew.")
        readme = before + mark + table + end + after
    return readme


def _short_comparison(row: Row) -> str:
    ratio, asked = row["ratio"], "–" if row["target"] is None else f"{row['target']:g}"
    figures = f"{ratio['median']:.3g} ({ratio['low']:.3g}–{ratio['high']:.3g})"
    return f"| {row['title']} | {row['peer']} | {figures} | {asked} |\n"


def _short_budget(row: Row) -> str:
    return f"| {row['title']} | {row['amount']:,.0f} | {row['seconds']['median']:.1f} | {row['at_most']:g} |\n"


def _short_growth(row: Row) -> str:
    held, asked = max(row["peak_bytes"]) / min(row["peak_bytes"]), row["memory_at_most"]
    memory = f"{held:.2f}" + ("" if asked is None else f" (asked {asked:g})")
    return f"| {row['title']} | {min(row['films']):,} to {max(row['films']):,} | {row['slope']:.2f} | {memory} |\n"


_QUOTES = {
    "comparison": (("what", "against", "times as fast (quartiles)", "asked"), _short_comparison),
    "budget": (("what", "films", "seconds", "at most"), _short_budget),
    "growth": (("what grows", "films", "k of time ∝ filmsᵏ", "most / least memory"), _short_growth),
}


def _machine(row: Row) -> str:
    machine = row["machine"]
    limits = machine["limits"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{row['date']}: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['accelerator'] or 'no accelerator'}; it copies {limits['copy_gb_s']} GB/s and multiplies "
        f"{limits['matmul_fp32_gflop_s']} GFLOP/s in fp32, {limits['matmul_bf16_gflop_s']} in bf16 ({versions})."
    )


def _rate(row: Row, side: str) -> str:
    rate = row["rates"][row[side]]["median"]
    return f"{rate:,.0f} {row['unit']}/s" if rate >= 100 else f"{rate:.3g} {row['unit']}/s"


def _mark(met: bool) -> str:
    return "✓" if met else "✗"


def draw_ratios(rows: list[Row], file: Path) -> None:
    """Ratios with their quartiles on a logarithmic axis, and what was asked for."""
    figure, axes = _axes(9, 1.2 + 0.38 * len(rows))
    for y, row in enumerate(reversed(rows)):
        ratio, asked = row["ratio"], row["target"]
        met = asked is None or ratio["median"] >= asked
        axes.barh(y, ratio["median"] - 1, left=1, color="#4c78a8" if met else "#c0504d", height=0.6)
        axes.plot([ratio["low"], ratio["high"]], [y, y], color="black", linewidth=1.2)
        if asked is not None:
            axes.plot([asked, asked], [y - 0.42, y + 0.42], color="black", linewidth=2)
        axes.annotate(f"  {ratio['median']:.3g}×", (max(ratio["high"], asked or 0), y), va="center", fontsize=8)
    axes.set_xscale("log")
    against = [f"{row['title']}\nagainst {row['peer']}" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), against, fontsize=8)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("our rate / the other's\nthin line: quartiles over rounds; thick mark: what was asked for")
    axes.margins(x=0.12)
    figure.savefig(file, dpi=110)


def draw_growth(rows: list[Row], file: Path) -> None:
    """Seconds against films, both logarithmic, beside a line of slope 1; and the peaks of memory."""
    figure, (left, right) = _axes(11, 4.6, 1, 2)
    for row in rows:
        films, seconds = np.array(row["films"]), np.array(row["seconds"])
        left.loglog(films, seconds, "o-", label=f"{row['title']}: slope {row['slope']:.2f}")
        left.loglog(films, seconds[0] * films / films[0], color="grey", linewidth=0.7, linestyle=":")
        right.semilogx(films, np.array(row["peak_bytes"]) / 2**30, "o-", label=row["title"])
    left.set(xlabel="films", ylabel="seconds (dotted: exactly linear)")
    right.set(xlabel="films", ylabel="peak memory, GiB", ylim=(0, None))
    for axes in (left, right):
        axes.legend(fontsize=7)
    figure.savefig(file, dpi=110)


def _axes(width: float, height: float, *shape: int) -> Any:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt.subplots(*(shape or (1, 1)), figsize=(width, height), layout="constrained")

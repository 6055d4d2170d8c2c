"""What grows with the number of workers, as pictures beside bench/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pygal
from pygal.style import Style

_SVG = "http://www.w3.org/2000/svg"
_COLOURS = ("#0969da", "#84b9f5", "#bc4c00", "#f0a676", "#1a7f37", "#7fcf94")

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Plot:
    name: str
    title: str
    lines: Mapping[str, Points]


_drawn: dict[str, Plot] = {}


def draw(name: str, title: str, lines: Mapping[str, Points]) -> None:
    """Keep a plot of values by N until the results are written."""
    _drawn[name] = Plot(name, title, lines)


def write(folder: Path, note: str) -> list[Path]:
    """Every plot as `folder`/NAME.svg, with `note` on where it was measured."""
    written = []
    for plot in _drawn.values():
        path = folder / f"{plot.name}.svg"
        path.write_text(svg(plot, note))
        written.append(path)
    return written


def svg(plot: Plot, note: str) -> str:
    """Lines over N from zero on; nothing in it is loaded from elsewhere."""
    chart = pygal.XY(
        title=plot.title,
        x_title=f"workers; {note}",
        style=Style(colors=_COLOURS, background="#ffffff", plot_background="#ffffff"),
        legend_at_bottom=True,
        legend_at_bottom_columns=3,
        range=(0, max(value for points in plot.lines.values() for _, value in points)),
        xrange=(0, max(count for points in plot.lines.values() for count, _ in points)),
        js=(),
        no_prefix=True,
        disable_xml_declaration=True,
        dots_size=4,
        width=1100,
        height=560,
    )
    for name, points in plot.lines.items():
        chart.add(name, list(points))
    return _without_scripts(str(chart.render(is_unicode=True)))


def _without_scripts(text: str) -> str:
    """What a browser would run on hovering is of no use in a page that shows it as a picture."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for script in parent.findall(f"{{{_SVG}}}script"):
            parent.remove(script)
    return ElementTree.tostring(root, encoding="unicode") + "\n"

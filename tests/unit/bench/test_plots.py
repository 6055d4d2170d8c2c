"""Pictures of growth: whole by themselves, with every line."""

from __future__ import annotations

from xml.etree import ElementTree

from bench.plots import Plot, svg


def test_a_plot_names_its_lines_and_loads_nothing() -> None:
    plot = Plot("up", "Seconds by N", {"ours": [(10, 1.0), (100, 9.5)], "bare": [(10, 1.0)]})
    text = svg(plot, "a machine")
    found = {element.text for element in ElementTree.fromstring(text).iter() if element.text}
    assert {"Seconds by N", "workers; a machine", "ours", "bare"} <= found
    assert "<script" not in text and "@import" not in text
    assert text == svg(plot, "a machine")

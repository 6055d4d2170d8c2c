"""make graph: every part of a lab is in the picture, and the picture is an SVG."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from commands import picture as drawing
from commands.graph import main, picture
from components.load import from_stack_file, from_values
from tests.unit.stack.test_load import VALUES
from tools.pins import CHECKOUT

OMNIOS = CHECKOUT / "Pulumi.omnios.yaml"
SVG = "{http://www.w3.org/2000/svg}"


def drawn(text: str) -> tuple[ElementTree.Element, list[str]]:
    root = ElementTree.fromstring(text)
    return root, [element.text or "" for element in root.iter(f"{SVG}text")]


def test_every_part_of_the_lab_is_drawn(tmp_path: Path) -> None:
    out = tmp_path / "lab.svg"
    assert main([str(OMNIOS), str(out)]) == 0
    _, words = drawn(out.read_text())
    lab = from_stack_file(OMNIOS)
    assert {*lab.workers, "Certificate authority", "Join gate", "API server"} <= set(words)
    assert {"router, AS 65001", "pool ippool", "turing-rk1 × 2", "BGP, AS 65010"} <= set(words)


def test_the_picture_of_the_readme_is_current(tmp_path: Path) -> None:
    out = tmp_path / "lab.svg"
    assert main([str(OMNIOS), str(out)]) == 0
    assert out.read_text() == (CHECKOUT / "docs/omnios.svg").read_text(), (
        "run `make graph STACK=omnios OUT=docs/omnios.svg` and look at it"
    )


def test_nothing_lies_outside_and_no_boxes_overlap() -> None:
    workers = {
        f"node-{number}": {"hardware": hardware, "address": f"192.168.10.{number}", **more}
        for number, (hardware, more) in enumerate(
            [("bhyve", {})] * 30
            + [("bare-metal", {"mac": None, "disk": None})] * 3
            + [("turing-rk1", {"bmc": f"board-{at}", "slot": 1}) for at in range(9)],
            start=100,
        )
    }
    for number, worker in enumerate(workers.values()):
        if worker["hardware"] == "bare-metal":
            worker |= {"mac": f"02:00:00:00:00:{number:02x}", "disk": "/dev/sda"}
    lab = from_values({**VALUES, "workers": workers})
    root, words = drawn(drawing.svg(picture(lab)))
    height = float(root.attrib["height"])
    boxes = [
        [float(rect.attrib[key]) for key in ("x", "y", "width", "height")]
        for rect in root.iter(f"{SVG}rect")
        if rect.attrib["class"] == "box"
    ]
    assert len(boxes) == 2 + 1 + 1 + 9 + 1
    assert "and 13 more" in words
    for number, (x, y, width, tall) in enumerate(boxes):
        assert x >= 0 and x + width <= drawing.WIDTH and y + tall <= height
        for left, top, wide, high in boxes[number + 1 :]:
            apart = x + width <= left or left + wide <= x or y + tall <= top or top + high <= y
            assert apart


def test_without_workers_and_bgp() -> None:
    lab = from_values({**VALUES, "workers": {}, "bgp": None})
    _, words = drawn(drawing.svg(picture(lab)))
    assert "default-cluster: 0 workers" in words
    assert not [word for word in words if "BGP" in word]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("behind", ["page", "box", "card"])
def test_text_is_legible_in_light_and_dark(mode: int, behind: str) -> None:
    """A contrast of 4.5 at least, as WCAG 2 asks of text (AA)."""
    colours = {name: pair[mode] for name, pair in drawing.COLOURS.items()}
    for name in ("text", "faint", "trust", "cluster", "network"):
        if name in ("text", "faint") or behind == "page":
            assert contrast(colours[name], colours[behind]) >= 4.5, name


def test_names_are_no_markup(tmp_path: Path) -> None:
    lab = from_values({**VALUES, "cilium": {"chart": "./<b>&"}})
    text = drawing.svg(picture(lab))
    assert re.search(r"<b>", text) is None
    ElementTree.fromstring(text)


@pytest.mark.parametrize(
    ("out", "line"),
    [("", "OUT is empty"), ("x.png", "is no .svg file"), ("/none/x.svg", "can't be")],
)
def test_where_nothing_can_be_drawn(
    out: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(OMNIOS), out]) == 1
    assert line in capsys.readouterr().err

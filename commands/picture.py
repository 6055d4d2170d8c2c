"""A lab as a picture: what trusts, feeds and routes to what. SVG, legible in light and dark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from xml.etree import ElementTree

WIDTH = 1080
MARGIN = 28
GAP = 20
CARD = (164, 54)
PAD = 14
HEAD = 34
# More cards of one group than these are counted, not drawn.
MOST_CARDS = 18

_SVG = "http://www.w3.org/2000/svg"

# (light, dark): chosen for a contrast of at least 4.5 on the card they stand on.
COLOURS = {
    "page": ("#ffffff", "#0d1117"),
    "box": ("#f4f6f8", "#161b22"),
    "edge": ("#c5ccd3", "#39424e"),
    "card": ("#ffffff", "#21262d"),
    "text": ("#1f2328", "#e6edf3"),
    "faint": ("#59636e", "#9198a1"),
    "trust": ("#1a7f37", "#3fb950"),
    "cluster": ("#0969da", "#58a6ff"),
    "network": ("#bc4c00", "#f0883e"),
    "feed": ("#8250df", "#bc8cff"),
}


@dataclass(frozen=True)
class Card:
    """One thing: a title, a line or two below it, the colour of its edge, all of it on hovering."""

    title: str
    lines: tuple[str, ...] = ()
    colour: str = "edge"
    hint: str = ""


@dataclass(frozen=True)
class Box:
    """Things that belong together, with a heading; `more` are not drawn."""

    title: str
    note: str
    cards: tuple[Card, ...]
    more: int = 0


@dataclass(frozen=True)
class Picture:
    """The rows of a lab: what is above the nodes, the groups of nodes, what is below them."""

    title: str
    authority: Box
    control_plane: Box
    groups: tuple[Box, ...]
    network: Box | None


@dataclass
class _Placed:
    box: Box
    x: float
    y: float
    width: float
    height: float
    card_width: float
    cards: list[tuple[float, float]] = field(default_factory=list)

    @property
    def bottom(self) -> float:
        return self.y + self.height


def svg(picture: Picture) -> str:
    """The picture as the text of an SVG file."""
    return _Drawing(picture).text()


class _Drawing:
    def __init__(self, picture: Picture):
        self.picture = picture
        self.root = ElementTree.Element("svg", {"xmlns": _SVG, "role": "img"})
        self._element("title", picture.title, self.root)
        # Above the boxes, whose cards some lines connect; appended once all is drawn.
        self.lines = ElementTree.Element("g")
        self.height = self._draw()
        self.root.append(self.lines)
        size = {"width": str(WIDTH), "height": str(int(self.height))}
        self.root.attrib |= {**size, "viewBox": f"0 0 {WIDTH} {int(self.height)}"}
        style = ElementTree.Element("style")
        style.text = _style()
        page = {"x": "0.5", "y": "0.5", "rx": "12", "class": "page"}
        page |= {"width": str(WIDTH - 1), "height": str(int(self.height) - 1)}
        self.root.insert(1, style)
        self.root.insert(2, ElementTree.Element("rect", page))
        self.root.insert(3, _markers())

    def text(self) -> str:
        ElementTree.indent(self.root)
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"

    # --- layout -----------------------------------------------------------------------------

    def _draw(self) -> float:
        picture = self.picture
        self._text(picture.title, MARGIN, 40, "heading")
        self._legend()
        top = 64.0
        half = (WIDTH - 2 * MARGIN - GAP) / 2
        authority = self._box(picture.authority, MARGIN, top, half, wide=True)
        plane = self._box(picture.control_plane, MARGIN + half + GAP, top, half, wide=True)
        self._chain(authority, "trust")
        self._chain(plane, "cluster")
        above = max(authority.bottom, plane.bottom)
        trust_bus, cluster_bus = above + 26, above + 44
        shelves = self._shelves(cluster_bus + 30)
        groups = [group for shelf in shelves for group in shelf]
        last = shelves[0] if shelves else []
        self._drop(authority, -1, trust_bus, last, 0.3, "trust", "join key, certificate")
        self._drop(plane, -1, cluster_bus, last, 0.5, "cluster", "pod network")
        below = max((group.bottom for group in groups), default=cluster_bus)
        if picture.network is None:
            return below + MARGIN
        bus = below + 24
        network = self._box(picture.network, MARGIN, bus + 26, WIDTH - 2 * MARGIN, wide=True)
        self._rise(groups, bus, network)
        return network.bottom + MARGIN

    def _shelves(self, top: float) -> list[list[_Placed]]:
        """The groups side by side, in as many rows as they need; each row as wide as the page."""
        rows: list[list[tuple[Box, int]]] = [[]]
        room = WIDTH - 2 * MARGIN
        used = 0.0
        for box in self.picture.groups:
            columns = _columns(box, len(self.picture.groups))
            width = _width(columns)
            if rows[-1] and used + GAP + width > room:
                rows.append([])
                used = 0.0
            used += width + (GAP if rows[-1] else 0)
            rows[-1].append((box, columns))
        placed = []
        for row in filter(None, rows):
            widths = [_width(columns) for _, columns in row]
            spare = (room - sum(widths) - GAP * (len(row) - 1)) / len(row)
            height = max(_height(box, columns) for box, columns in row)
            shelf, x = [], float(MARGIN)
            for (box, columns), width in zip(row, widths, strict=True):
                shelf.append(self._box(box, x, top, width + spare, columns=columns, height=height))
                x += width + spare + GAP
            placed.append(shelf)
            top += height + GAP
        return placed

    # --- boxes and cards ----------------------------------------------------------------------

    def _box(
        self,
        box: Box,
        x: float,
        y: float,
        width: float,
        *,
        wide: bool = False,
        columns: int = 0,
        height: float = 0,
    ) -> _Placed:
        columns = columns or min(max(1, len(box.cards)), 5)
        height = height or _height(box, columns)
        # Between the cards of a wide box there is room for an arrow.
        gap = 44 if wide else 12
        card_width = (width - 2 * PAD - gap * (columns - 1)) / columns
        placed = _Placed(box, x, y, width, height, card_width)
        group = ElementTree.SubElement(self.root, "g")
        self._rect(group, x, y, width, height, "box", 10)
        self._text(box.title, x + PAD, y + 22, "title", group)
        note = _fitted(box.note, (width - 2 * PAD) - 8.2 * len(box.title) - 10, 6.6)
        self._text(note, x + width - PAD, y + 22, "note end", group)
        for number, card in enumerate(box.cards):
            left = x + PAD + (number % columns) * (card_width + gap)
            top = y + HEAD + (number // columns) * (CARD[1] + 12)
            self._card(group, card, left, top, card_width)
            placed.cards.append((left, top))
        if box.more:
            under = y + HEAD + -(-len(box.cards) // columns) * (CARD[1] + 12) + 8
            self._text(f"and {box.more} more", x + PAD, under, "note", group)
        return placed

    def _card(
        self, parent: ElementTree.Element, card: Card, x: float, y: float, width: float
    ) -> None:
        group = ElementTree.SubElement(parent, "g")
        if card.hint:
            self._element("title", card.hint, group)
        self._rect(group, x, y, width, CARD[1], "card", 7)
        self._rect(group, x, y, 4, CARD[1], f"bar {card.colour}", 2)
        self._text(_fitted(card.title, width - 24, 8.4), x + 14, y + 21, "name", group)
        for number, line in enumerate(card.lines[:1]):
            self._text(_fitted(line, width - 24, 6.4), x + 14, y + 40 + number * 15, "note", group)

    # --- lines ----------------------------------------------------------------------------------

    def _chain(self, placed: _Placed, colour: str) -> None:
        """An arrow from each card of a row to the next."""
        width = placed.card_width
        for (left, top), (right, _) in zip(placed.cards, placed.cards[1:], strict=False):
            y = top + CARD[1] / 2
            self._path(f"M{left + width + 4:g} {y:g} H{right - 5:g}", colour, arrow=True)

    def _drop(
        self,
        source: _Placed,
        card: int,
        bus: float,
        targets: list[_Placed],
        share: float,
        colour: str,
        label: str,
    ) -> None:
        """From a card down to a line along the page, and from that into each group."""
        if not targets or not source.cards:
            return
        start = source.cards[card][0] + source.card_width / 2
        self._path(f"M{start:g} {source.cards[card][1] + CARD[1]:g} V{bus:g}", colour)
        ends = [target.x + target.width * share for target in targets]
        self._path(f"M{min(start, *ends):g} {bus:g} H{max(start, *ends):g}", colour)
        for end, target in zip(ends, targets, strict=True):
            self._path(f"M{end:g} {bus:g} V{target.y - 5:g}", colour, arrow=True)
        self._text(label, start + 8, bus - 7, f"label {colour}-text")

    def _rise(self, groups: list[_Placed], bus: float, network: _Placed) -> None:
        """From each group of the lowest row to a line, and from that to the router."""
        lowest = max((group.y for group in groups), default=0)
        sources = [group for group in groups if group.y == lowest]
        if not sources:
            return
        end = network.cards[0][0] + network.card_width / 2
        starts = [group.x + group.width * 0.7 for group in sources]
        for start, group in zip(starts, sources, strict=True):
            self._path(f"M{start:g} {group.bottom:g} V{bus:g}", "network")
        self._path(f"M{min(end, *starts):g} {bus:g} H{max(end, *starts):g}", "network")
        self._path(f"M{end:g} {bus:g} V{network.cards[0][1] - 5:g}", "network", arrow=True)

    def _legend(self) -> None:
        x = WIDTH - MARGIN
        for colour, word in (("network", "routes"), ("cluster", "cluster"), ("trust", "trust")):
            self._text(word, x, 40, "note end")
            x -= 7 * len(word) + 30
            self._path(f"M{x:g} 36 h22", colour)
            x -= 20

    # --- elements -------------------------------------------------------------------------------

    def _element(self, tag: str, text: str, parent: ElementTree.Element) -> None:
        ElementTree.SubElement(parent, tag).text = text

    def _rect(
        self, parent: ElementTree.Element, x: float, y: float, w: float, h: float, kind: str, r: int
    ) -> None:
        place = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{w:g}", "height": f"{h:g}"}
        ElementTree.SubElement(parent, "rect", {**place, "rx": str(r), "class": kind})

    def _text(
        self, text: str, x: float, y: float, kind: str, parent: ElementTree.Element | None = None
    ) -> None:
        place = {"x": f"{x:g}", "y": f"{y:g}", "class": kind}
        # `is None`: an element without children is false.
        ElementTree.SubElement(self.root if parent is None else parent, "text", place).text = text

    def _path(self, d: str, colour: str, *, arrow: bool = False) -> None:
        attributes = {"d": d, "class": f"line {colour}"}
        if arrow:
            attributes["marker-end"] = f"url(#{colour})"
        ElementTree.SubElement(self.lines, "path", attributes)


def _columns(box: Box, groups: int) -> int:
    """How many cards side by side: few where there are many groups."""
    count = len(box.cards)
    if groups == 1:
        return min(count, 5) or 1
    return 1 if count <= 3 else 2 if count <= 8 else 3


def _width(columns: int) -> float:
    return max(2 * PAD + columns * CARD[0] + 12 * (columns - 1), 236)


def _height(box: Box, columns: int) -> float:
    rows = -(-len(box.cards) // columns)
    return HEAD + rows * (CARD[1] + 12) - 12 + PAD + (22 if box.more else 0)


def _fitted(text: str, width: float, character: float) -> str:
    """Text that is about as wide as there is room, the rest as an ellipsis."""
    most = max(int(width / character), 3)
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _markers() -> ElementTree.Element:
    definitions = ElementTree.Element("defs")
    for colour in ("trust", "cluster", "network"):
        size = {"markerWidth": "7", "markerHeight": "7", "refX": "4", "refY": "4"}
        attributes = {"id": colour, "viewBox": "0 0 8 8", "orient": "auto", **size}
        marker = ElementTree.SubElement(definitions, "marker", attributes)
        ElementTree.SubElement(marker, "path", {"d": "M0 0 L8 4 L0 8 z", "class": f"tip {colour}"})
    return definitions


def _style() -> str:
    light = "\n".join(_rules(name, colours[0]) for name, colours in COLOURS.items())
    dark = "\n".join(_rules(name, colours[1]) for name, colours in COLOURS.items())
    fonts = (
        "text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; "
        "font-size: 12px }\n"
        ".heading { font-size: 19px; font-weight: 600 }\n"
        ".title { font-size: 13.5px; font-weight: 600 }\n"
        ".name { font-size: 13px; font-weight: 600 }\n"
        ".label { font-size: 11.5px }\n"
        ".end { text-anchor: end }\n"
        ".line { fill: none; stroke-width: 1.8; stroke-linejoin: round }\n"
        ".box, .card, .page { stroke-width: 1 }"
    )
    return f"{fonts}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _rules(name: str, colour: str) -> str:
    if name in ("page", "box", "card"):
        return f".{name} {{ fill: {colour} }}"
    if name == "edge":
        return f".box, .card, .page {{ stroke: {colour} }}\n.bar.edge {{ fill: {colour} }}"
    if name == "text":
        return f"text {{ fill: {colour} }}"
    if name == "faint":
        return f".note {{ fill: {colour} }}"
    return (
        f".line.{name} {{ stroke: {colour} }}\n"
        f".bar.{name}, .tip.{name}, .{name}-text {{ fill: {colour} }}"
    )


def grouped(cards: Iterable[Card]) -> tuple[tuple[Card, ...], int]:
    """The cards that are drawn, and how many more there are."""
    every = tuple(cards)
    if len(every) <= MOST_CARDS:
        return every, 0
    return every[: MOST_CARDS - 1], len(every) - MOST_CARDS + 1

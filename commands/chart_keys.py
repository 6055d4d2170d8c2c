"""Write config/chart_keys.tsv from the pinned charts: the values of every supported release."""

from __future__ import annotations

import argparse

from config import chart_keys
from lab.pins import Layout
from render.cilium_versions import VERSIONS


def pinned() -> dict[str, chart_keys.Keys]:
    """The keys of the charts that the tests install."""
    return {
        minor: chart_keys.of_chart(Layout().test_file(f"cilium-chart-{minor}"))
        for minor in VERSIONS
    }


def main() -> None:
    argparse.ArgumentParser(prog="commands.chart_keys", description=__doc__).parse_args()
    text = chart_keys.table(pinned())
    chart_keys.DATA.write_text(text)
    print(f"{chart_keys.DATA}: {text.count(chr(10)) - 2} keys")


if __name__ == "__main__":
    main()

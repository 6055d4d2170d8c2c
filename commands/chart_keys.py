"""Write chart_keys.tsv from the pinned charts: the values of every supported release."""

from __future__ import annotations

import argparse

from components.cilium import chart_keys
from components.cilium.versions import VERSIONS
from tools.pins import Layout


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

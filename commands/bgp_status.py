"""How Cilium's BGP, its pools and the load balancer addresses are, in plain words: problems first.

Exit status: 0 all well, 1 problems, 2 the cluster can't be asked.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.cilium.status import READ, Finding, findings
from components.load import from_stack_file
from components.shell import kubectl
from stack.problem import ConfigError


def read(kubeconfig: str) -> list[Finding]:
    """The findings of a cluster; KubectlError where it does not answer. kubectl is on PATH."""
    with ThreadPoolExecutor(len(READ)) as pool:
        answers = pool.map(lambda words: kubectl.items(kubeconfig, *words), READ.values())
        return findings(dict(zip(READ, answers, strict=True)))


def shown(found: list[Finding]) -> list[str]:
    """A line for each finding; what is wrong is marked."""
    return [f"{'problem: ' if finding.problem else ''}{finding}" for finding in found]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="commands.bgp_status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="a Pulumi stack file, such as Pulumi.dev.yaml")
    parser.add_argument("--json", action="store_true", help="for a program: one list of findings")
    given = parser.parse_args(arguments)
    try:
        found = read(from_stack_file(given.file).cluster.kubeconfig)
    except (ConfigError, kubectl.KubectlError) as error:
        print(f"autojoin: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found], indent=2))
    else:
        print("\n".join(shown(found) or ["there is no BGP and no pool in this cluster"]))
    return 1 if any(finding.problem for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main())

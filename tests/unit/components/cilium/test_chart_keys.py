"""The values of Cilium's charts, and what of given values is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from commands.chart_keys import pinned
from components.cilium import chart_keys


def test_the_table_is_that_of_the_pinned_charts() -> None:
    assert chart_keys.DATA.read_text() == chart_keys.table(pinned()), (
        "run `python -m commands.chart_keys` and read the diff"
    )


@pytest.mark.parametrize("minor", ["1.17", "1.18", "1.19", "1.20"])
def test_the_table_is_read_back_as_it_was(minor: str) -> None:
    assert chart_keys.of_release(minor) == pinned()[minor]


NO = ": is no value of the chart"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"hubble": {"relay": {"enabeld": True}}},
         f"hubble.relay.enabeld{NO}; did you mean hubble.relay.enabled?"),
        ({"hostFirewal": {}}, f"hostFirewal{NO}; did you mean hostFirewall?"),
        ({"cluster.name": "home"}, f"cluster.name{NO}; write it nested, as cluster: {{name: …}}"),
        ({"hubble": {"prometheus": {}}}, f"hubble.prometheus{NO}; the chart has it as prometheus"),
        ({"bpf": {"masquerade": "true"}}, "bpf.masquerade: must be boolean ('true')"),
        ({"k8sServicePort": [1]}, "k8sServicePort: must be string or integer ([1])"),
        ({"hubble": True}, "hubble: must be a mapping (True); of "),
        ({"scheduling": {"mode": "x"}},
         'scheduling.mode: must be "anti-affinity" or "kube-scheduler" (\'x\')'),
        ({"MTU": True}, "MTU: must be integer (True)"),
        ({"debgu": None}, f"debgu{NO}; did you mean debug?"),
        ({"tolerations": {}}, "tolerations: must be array ({})"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_meant(values: dict[str, Any], problem: str) -> None:
    (found,) = chart_keys.problems(values, chart_keys.of_release("1.18"), "values")
    assert str(found).startswith(f"values.{problem}")


@pytest.mark.parametrize(
    "values",
    [
        {"podAnnotations": {"example.org/any": "thing"}},
        {"operator": {"nodeSelector": {"zone": "attic"}, "affinity": {"podAffinity": {}}}},
        {"operator": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}},
        {"resources": {"limits": {"memory": "1Gi"}}, "extraConfig": {"any-flag": "1"}},
        {"extraEnv": [{"name": "A", "value": "B"}]},
        {"devices": ["eth0"], "l2announcements": {"leaseDuration": "3s"}},
        {"global": {"anything": True}, "hubble": {"tls": None}, "debug": {}},
        {"k8sServicePort": "6443"},
    ],
)
def test_what_the_chart_takes_is_no_problem(values: dict[str, Any]) -> None:
    assert list(chart_keys.problems(values, chart_keys.of_release("1.18"), "values")) == []

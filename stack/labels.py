"""Kubernetes labels and label selectors, as the configuration has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from stack.section import Section, key

_described = key  # a requirement has a field of that name

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def _label_key(value: str) -> str:
    prefix, slash, name = value.rpartition("/")
    if not _NAME.fullmatch(name) or (
        slash and not (_PREFIX.fullmatch(prefix) and len(prefix) < 254)
    ):
        raise ValueError("is no label key; write one as example.org/name")
    return value


def _label_value(value: str) -> str:
    if value and not _NAME.fullmatch(value):
        raise ValueError("is no label value; use at most 63 of A-Z a-z 0-9 - _ .")
    return value


LabelKey = Annotated[str, AfterValidator(_label_key)]
LabelValue = Annotated[str, AfterValidator(_label_value)]


class Requirement(Section):
    """One requirement on a label."""

    key: LabelKey = _described("The label", "tier")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = _described("What must hold", "In")
    values: list[LabelValue] = _described("With In and NotIn, at least one", ["public"], default=[])

    @model_validator(mode="after")
    def _values_fit(self) -> Requirement:
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            wanted = "needs values" if not self.values else "takes no values"
            raise ValueError(f"{wanted} with operator {self.operator}")
        return self

    def met_by(self, labels: Mapping[str, str]) -> bool:
        if self.operator in ("Exists", "DoesNotExist"):
            return (self.key in labels) == (self.operator == "Exists")
        return (labels.get(self.key) in self.values) == (self.operator == "In")


class Selector(Section):
    """A Kubernetes label selector: all of it must hold. An empty one selects everything."""

    match_labels: dict[LabelKey, LabelValue] = key(
        "Labels and their values", {"bgp": "worker"}, default={}
    )
    match_expressions: list[Requirement] = key(
        "Further requirements", [{"key": "tier", "operator": "Exists"}], default=[]
    )

    def selects(self, labels: Mapping[str, str]) -> bool:
        fits = all(labels.get(name) == value for name, value in self.match_labels.items())
        return fits and all(requirement.met_by(labels) for requirement in self.match_expressions)

    def manifest(self) -> dict[str, Any]:
        """As a Kubernetes object holds it."""
        found: dict[str, Any] = {}
        if self.match_labels:
            found["matchLabels"] = dict(self.match_labels)
        if self.match_expressions:
            found["matchExpressions"] = [
                {"key": each.key, "operator": each.operator}
                | ({"values": list(each.values)} if each.values else {})
                for each in self.match_expressions
            ]
        return found

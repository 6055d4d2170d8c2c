"""Property values on the wire and compared."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tools.plugins import values
from tools.plugins.values import UNKNOWN, Asset, Secret

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.just(UNKNOWN)
    | st.builds(Asset, is_archive=st.booleans(), path=st.text(min_size=1, max_size=8))
)
trees: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | inner.map(Secret)
    ),
    max_leaves=12,
)


@given(trees)
@settings(deadline=None)
def test_a_value_survives_the_wire(value: Any) -> None:
    assert values.decode(values.encode(value)) == value


@given(st.dictionaries(st.text(max_size=5), trees, max_size=4))
@settings(deadline=None)
def test_secrets_come_back_by_name(inputs: dict[str, Any]) -> None:
    echoed = values.keep_secrets(values.plain(inputs), inputs)
    assert values.plain(echoed) == values.plain(inputs)
    for name in inputs:
        assert values.contains_secret(echoed[name]) == values.contains_secret(inputs[name])
    assert values.secret_texts(inputs) <= values.secret_texts(echoed)


@given(trees)
@settings(deadline=None)
def test_only_the_unknown_differs_from_itself(value: Any) -> None:
    plain = values.plain(value)
    assert bool(values.differences({"x": plain}, {"x": plain})) == values.contains_unknown(plain)


def test_differences_are_by_path() -> None:
    old: dict[str, Any] = {"a": [1, {"b": True}], "c": None, "d": {"e-f": 1}}
    new: dict[str, Any] = {"a": [1, {"b": 1}, 2], "g": None, "d": {}}
    assert values.differences(old, new) == {
        "a[1].b": "UPDATE",
        "a[2]": "ADD",
        'd["e-f"]': "DELETE",
    }


def test_an_asset_is_its_content() -> None:
    here = Asset(is_archive=False, path="/a", hash="1")
    assert here == Asset(is_archive=False, path="/b", hash="1")
    assert here != Asset(is_archive=False, path="/a", hash="2")
    assert not values.differences({"x": here}, {"x": Asset(False, text="t", hash="1")})


def test_a_secret_is_not_in_its_repr() -> None:
    assert "hunter2" not in repr({"x": Secret("hunter2"), "y": Asset(False, text="hunter2")})


def test_the_parts_of_a_secret_that_would_tell_it() -> None:
    key = "0123456789abcdef" * 4
    secret = f"-----BEGIN KEY-----\n{'a' * 40}\nset -eu and more words here\n{{'k':'{key}'}}"
    assert values.tell_tales(secret) == {secret, "a" * 40, key, f"{{'k':'{key}'}}"}
    assert values.tell_tales("abc") == set()
    assert values.tell_tales("/a/long/path/of/more/than/24") == {"/a/long/path/of/more/than/24"}

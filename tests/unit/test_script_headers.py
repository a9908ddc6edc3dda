"""The headers of the Lua scripts name the keys that the scripts touch, and no others."""

import re
from importlib.resources import files
from typing import Final

import pytest

from httpqueue.storage.scripts import key_names

LUA: Final = {
    file.name.removesuffix(".lua"): file.read_text(encoding="utf-8")
    for file in files("httpqueue.storage").joinpath("lua").iterdir()
}
SHARED: Final = {
    match[1]: match[0]
    for match in re.finditer(r"^local function (\w+).*?^end", LUA["common"], re.MULTILINE | re.DOTALL)
}
"""The functions of common.lua."""


def touched(text: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """The keys that a piece of Lua touches, by itself and through what it calls."""
    text = re.sub(r"--.*", "", text)
    found = set(re.findall(r"\bkeys\.(\w+)", text))
    if "keys[index]" in text:  # which ones stands in the loop
        for names in re.findall(r"for _, index in ipairs\(\{(.*?)\}\)", text):
            found |= set(re.findall(r"'(\w+)'", names))
        assert {"due", "held"} <= found
    for name in SHARED.keys() - seen:
        if re.search(rf"\b{name}\(", text):
            found |= touched(SHARED[name], seen | {name})
    return found


@pytest.mark.parametrize("name", sorted(LUA.keys() - {"common"}))
def test_a_header_names_what_the_script_touches(name: str) -> None:
    """Each key once."""
    names = key_names(LUA[name])
    assert len(names) == len(set(names))
    assert set(names) == touched(LUA[name])


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("-- KEYS    due", ["due"]),
        (
            "-- put: what it does.\n-- KEYS    records, due, outbox\n-- ARGV    1 now\n",
            ["records", "due", "outbox"],
        ),
        ("-- KEYS    records, due,\n--         outbox\n-- RETURNS nothing", ["records", "due", "outbox"]),
        ("-- KEYS    a,\n--         b,\n--         c\n-- ARGV    d, e", ["a", "b", "c"]),
    ],
)
def test_key_names(header: str, names: list[str]) -> None:
    """On one line or more, up to the line that does not end in a comma."""
    assert key_names(header) == names


@pytest.mark.parametrize("text", ["", "return 1", "-- ARGV    1 now", "local x -- KEYS    due"])
def test_a_header_without_keys(text: str) -> None:
    """A script that names none is a mistake."""
    with pytest.raises(ValueError, match="no line KEYS"):
        key_names(text)

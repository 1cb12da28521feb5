"""Which purpose and version a key serves, by its label: what calls on it are counted under."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hsm_msl.backend.operations import OTHER, Use
from hsm_msl.service.key_sections import KeysSection

_PLACES = {"role": "[^.]+", "version": "(?P<version>[0-9]+)"}


def uses_of(purposes: Mapping[str, KeysSection]) -> Callable[[str], Use]:
    """Return the function from a label to purpose and version.

    Keys of no configured purpose are all one: there may be as many as there are entities.

    Args:
        purposes: the sections of ``[keys]``.
    """
    patterns = [
        (purpose, _pattern(section.label.replace("{purpose}", purpose))) for purpose, section in purposes.items()
    ]

    def use_of(label: str) -> Use:
        for purpose, pattern in patterns:
            match = pattern.fullmatch(label)
            if match is not None:
                version = match.groupdict().get("version")
                return purpose, "" if version is None else f"v{version}"
        return OTHER

    return use_of


def _pattern(template: str) -> re.Pattern[str]:
    """Return what fits the labels of a template; a place that comes twice is looked at once."""
    named: set[str] = set()
    parts = []
    for index, part in enumerate(re.split(r"\{(role|version)\}", template)):
        if index % 2 == 0:
            parts.append(re.escape(part))
            continue
        parts.append("[^.]+" if part in named else _PLACES[part])
        named.add(part)
    return re.compile("".join(parts))

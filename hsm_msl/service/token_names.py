"""Which names of tokens and sets of tokens a configuration may use, and which one a section means."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_msl.errors import ConfigurationError
from hsm_msl.service.key_sections import TokenSection, TokenSetSection
from hsm_msl.toml_document import suggestion

_WITH_WORKERS = ("deadline_seconds", "recycle_after")


def token_meant(name: str | None, tokens: Mapping[str, TokenSection], sets: Mapping[str, TokenSetSection]) -> str:
    """Return the token or set that is named, or the only one there is.

    Args:
        name: what a section says; None when it says nothing.
        tokens: the sections of ``[tokens]``.
        sets: those of ``[token_sets]``.

    Raises:
        ConfigurationError: nothing has that name, or there are several and none is named.
    """
    if name is not None:
        if name not in tokens and name not in sets:
            raise ConfigurationError(f"no token {name!r}; {suggestion(name, (*tokens, *sets))}")
        return name
    in_sets = {member for section in sets.values() for member in section.tokens}
    free = [*sets, *(token for token in tokens if token not in in_sets)]
    if len(free) != 1:
        raise ConfigurationError(f"this key is required; {suggestion('', (*tokens, *sets))}")
    return free[0]


def check_tokens(tokens: Mapping[str, TokenSection], sets: Mapping[str, TokenSetSection]) -> None:
    """Check the sections of tokens and sets.

    Args:
        tokens: the sections of ``[tokens]``.
        sets: those of ``[token_sets]``.

    Raises:
        ConfigurationError: something is missing, contradicts itself or names nothing; names the key.
    """
    for name, token in tokens.items():
        where = f"tokens.{name}"
        for key in _WITH_WORKERS:
            if getattr(token, key) is not None and not token.workers:
                raise ConfigurationError(
                    f"{where}.{key}: is for worker processes; write how many with {where}.workers"
                )
        if token.uri is not None:
            if token.label is not None or token.serial is not None:
                raise ConfigurationError(f"{where}.uri: say which token either by uri or by label and serial")
            continue
        if token.module is None:
            raise ConfigurationError(f"{where}.module: this key is required")
        if token.label is None and token.serial is None:
            raise ConfigurationError(f"{where}.label: this key is required, or serial, or uri")
    for name, section in sets.items():
        where = f"token_sets.{name}"
        if name in tokens:
            raise ConfigurationError(f"{where}: tokens.{name} has this name too; give them different ones")
        for member in section.tokens:
            if member not in tokens:
                raise ConfigurationError(f"{where}.tokens: no token {member!r}; {suggestion(member, tokens)}")
            if section.tokens.count(member) > 1:
                raise ConfigurationError(f"{where}.tokens: names {member!r} twice")

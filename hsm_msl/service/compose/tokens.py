"""The tokens of a configuration: each in this process or in worker processes, alone or several as one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from hsm_msl.backend.any_token import AnyToken
from hsm_msl.backend.operations import Operations, Use
from hsm_msl.backend.pin import pin_source
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.module import load
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import PROFILES, recognise
from hsm_msl.backend.rota import Mode
from hsm_msl.backend.token_set import TokenSet
from hsm_msl.backend.uri import Pkcs11Uri, parse_uri
from hsm_msl.backend.workers import WorkerSpec, WorkerToken, open_worker_token
from hsm_msl.errors import (
    BackendConfigurationError,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    TokenAbsentError,
)
from hsm_msl.service.key_sections import TokenSection, TokenSetSection
from hsm_msl.service.watch.token_log import TokenLog
from hsm_msl.toml_document import suggestion

_LOG = logging.getLogger("hsm_msl.service")

DEADLINE_SECONDS = 5.0
"""How long a worker may take for a call when the configuration does not say."""

_READ_BY_WORKERS = ("file", "cred", "exec", "env")
"""Sources of a PIN that a process without terminal and inherited descriptors can read, and read again."""


class Tokens:
    """Opens the tokens of a configuration when first used, and closes them together.

    Args:
        path: the configuration file, for errors.
        tokens: the sections of ``[tokens]``.
        sets: those of ``[token_sets]``.
        source: returns a source of a PIN with its path, if it names a file, made absolute.
        use_of: purpose and version of a key by its label, for the counters; None counts all keys as one.
    """

    def __init__(
        self,
        path: Path,
        tokens: Mapping[str, TokenSection],
        sets: Mapping[str, TokenSetSection],
        source: Callable[[str], str],
        use_of: Callable[[str], Use] | None = None,
    ) -> None:
        self._path = path
        self._sections = tokens
        self._sets = sets
        self._source = source
        self._use_of = use_of
        self._single: dict[str, Token | WorkerToken] = {}
        self._open: dict[str, AnyToken] = {}
        self._closing = ExitStack()

    def close(self) -> None:
        """Log out of every token."""
        self._closing.close()

    def opened(self) -> Mapping[str, Token | WorkerToken]:
        """Return the tokens that are open, those of sets one by one, by name."""
        return dict(self._single)

    def open(self, name: str) -> AnyToken:
        """Return a token or a set of tokens, logged in.

        Args:
            name: a table of ``[tokens]`` or ``[token_sets]``; the configuration was checked for it.

        Raises:
            BackendConfigurationError: wrong PIN, missing token or module; names the table and says what to do.
            BackendUnavailableError: the token, or every token of the set, gives no answer.
        """
        token = self._open.get(name)
        if token is None:
            token = self._open[name] = self._together(name) if name in self._sets else self._alone(name)
        return token

    def _together(self, name: str) -> TokenSet:
        section = self._sets[name]

        def opener(member: str) -> Callable[[], AnyToken]:
            def reopen() -> AnyToken:
                try:
                    return self._alone(member)
                except TokenAbsentError as error:
                    # The others serve without it, which is what a set is for.
                    _LOG.warning("token_sets.%s goes on without a token: %s", name, error)
                    raise BackendUnavailableError(str(error)) from None

            return reopen

        try:
            return TokenSet([opener(member) for member in section.tokens], Mode(section.mode))
        except BackendUnavailableError as error:
            raise BackendUnavailableError(f"{self._path}: token_sets.{name}: {error}") from None

    def _alone(self, name: str) -> Token | WorkerToken:
        token = self._single.get(name)
        if token is None:
            token = self._single[name] = self._opened(f"tokens.{name}", self._sections[name])
            self._closing.callback(token.close)
        return token

    def _opened(self, where: str, section: TokenSection) -> Token | WorkerToken:
        try:
            plan = plan_of(where, section, self._source, self._path.parent)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._path}: {error}") from None
        operations = Operations() if self._use_of is None else Operations(self._use_of)
        try:
            return plan.start(section, operations) if section.workers else plan.open(section.sessions, operations)
        except BackendUnavailableError as error:
            raise BackendUnavailableError(
                f"{self._path}: {where}: {error}; is the token plugged in, and does its driver find it?"
            ) from None
        except (BackendError, ConfigurationError) as error:
            kind = type(error) if isinstance(error, BackendConfigurationError) else BackendConfigurationError
            raise kind(f"{self._path}: {where}: {error}") from None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a section says about one token, its URI included.

    Attributes:
        module: path or alias of the library.
        selector: which token of it.
        pin: source of the PIN.
        vendor: name of the profile, if it is named.
        parameters: the library's initialisation string.
        pin_memory: directory in which a refused PIN is remembered; None for nowhere.
    """

    module: str
    selector: TokenSelector
    pin: str | None
    vendor: str | None
    parameters: str | None
    pin_memory: Path | None

    def open(self, sessions: int | None = None, operations: Operations | None = None) -> Token:
        """Log in to the token in this process. Raises BackendError as ``open_token``.

        Args:
            sessions: the most sessions for calls; None for the profile's number.
            operations: counts the calls.
        """
        module = load(self.module, reserved=self.parameters)
        found = self.selector.find(module)
        profile = PROFILES[self.vendor] if self.vendor else recognise(found.manufacturer_id, found.model)
        pin = None if self.pin is None else pin_source(self.pin)
        return open_token(
            module,
            self.selector,
            pin,
            profile,
            sessions=sessions,
            observer=TokenLog(found.label),
            operations=operations,
            pin_memory=self.pin_memory,
        )

    def start(self, section: TokenSection, operations: Operations) -> WorkerToken:
        """Start the processes that hold the token. Raises BackendError as ``open_worker_token``.

        Args:
            section: how many, and how they are treated.
            operations: counts the calls.
        """
        selector = self.selector
        spec = WorkerSpec(
            self.module,
            label=selector.label,
            serial=selector.serial,
            manufacturer=selector.manufacturer,
            model=selector.model,
            pin=self.pin,
            profile=self.vendor,
            reserved=self.parameters,
            recycle_after=section.recycle_after,
            pin_memory=None if self.pin_memory is None else str(self.pin_memory),
        )
        return open_worker_token(
            spec,
            count=section.workers,
            deadline_seconds=section.deadline_seconds or DEADLINE_SECONDS,
            operations=operations,
            observer=TokenLog,
        )


def plan_of(where: str, section: TokenSection, source: Callable[[str], str], directory: Path) -> Plan:
    """Return what a section and its URI say together.

    Args:
        where: the section's key, for errors.
        section: the section.
        source: returns a source of a PIN with its path, if it names a file, made absolute.
        directory: that of the configuration file.

    Raises:
        ConfigurationError: an unknown vendor, an impossible URI, or a source of a PIN that workers cannot read.
    """
    if section.vendor is not None and section.vendor not in PROFILES:
        known = suggestion(section.vendor, PROFILES)
        raise ConfigurationError(f"{where}.vendor: no vendor profile {section.vendor!r}; {known}")
    try:
        uri = Pkcs11Uri() if section.uri is None else parse_uri(section.uri)
    except (BackendConfigurationError, ConfigurationError) as error:
        raise ConfigurationError(f"{where}.uri: {error}") from None
    try:
        selected = TokenSelector.of_uri(uri)
    except BackendConfigurationError as error:
        raise ConfigurationError(f"{where}.uri: {error}") from None
    if (uri.object, uri.id, uri.type) != (None, None, None):
        raise ConfigurationError(f"{where}.uri: names a key; a table of tokens names a token")
    for name, one, other in (("label", section.label, uri.token), ("serial", section.serial, uri.serial)):
        if one is not None and other is not None and one != other:
            raise ConfigurationError(f"{where}.{name}: is {one!r}, and {other!r} in its uri")
    selector = replace(selected, label=section.label or selected.label, serial=section.serial or selected.serial)
    pin = section.pin or uri.pin_source
    if pin is not None and section.workers and pin.partition(":")[0] not in _READ_BY_WORKERS:
        allowed = ", ".join(f"{kind}:" for kind in _READ_BY_WORKERS)
        raise ConfigurationError(f"{where}.pin: each worker reads the PIN for itself; write one of {allowed}")
    return Plan(
        section.module or uri.module_path or uri.module_name or "",
        selector,
        None if pin is None else source(pin),
        section.vendor,
        section.parameters,
        directory / (section.pin_memory or os.environ.get("STATE_DIRECTORY", "").partition(":")[0]),
    )

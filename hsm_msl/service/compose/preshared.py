"""Where a server finds pre-shared keys: those it lists, a fleet's in a database, and derived ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hsm_msl.backend.derived import DerivedKeys
from hsm_msl.backend.fleet import FleetKeys
from hsm_msl.ports import PresharedKeys, SymmetricKeys
from hsm_msl.service.compose.keys import KeySources, KnownKeys
from hsm_msl.service.compose.state import ServerState, matches
from hsm_msl.service.documents import Configuration, ServerConfig


def preshared_keys(
    config: Configuration[ServerConfig],
    sources: KeySources,
    state: ServerState,
    listed: Mapping[str, SymmetricKeys],
) -> Sequence[PresharedKeys]:
    """Return the places to ask for an entity's keys, in order.

    Args:
        config: the configuration.
        sources: opens tokens.
        state: holds the fleet's database.
        listed: the keys of the entities the configuration lists.

    Raises:
        ConfigurationError, BackendError: as ``KeySources``.
    """
    document = config.document
    places: list[PresharedKeys] = [KnownKeys(listed)]
    fleet = document.fleet
    if fleet is not None and state.fleet is not None:
        wrapping = sources.wrapping("fleet", fleet.token, fleet.wrapping_keys)
        places.append(FleetKeys(state.fleet, wrapping, capacity=fleet.capacity))
    derived = document.derived_keys
    if derived is not None:
        patterns = derived.entities

        def admits(identity: str) -> bool:
            return any(matches(pattern, identity) for pattern in patterns)

        master = sources.derivation("derived_keys", derived.token, derived.label)
        places.append(DerivedKeys(master, admits, version=derived.label, capacity=derived.capacity))
    return places

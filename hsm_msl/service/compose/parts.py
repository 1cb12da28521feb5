"""Parts that servers and clients are composed of alike."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_msl.msl.keyx.dh_group import STANDARD_GROUPS, DhGroup
from hsm_msl.service.documents import AnyConfiguration


def groups(config: AnyConfiguration) -> Mapping[str, DhGroup]:
    """Return the Diffie-Hellman groups of a configuration by parameters ID."""
    return {
        parameters_id: (
            STANDARD_GROUPS[section] if isinstance(section, str) else DhGroup(int(section.p, 16), int(section.g, 16))
        )
        for parameters_id, section in config.document.dh_groups.items()
    }

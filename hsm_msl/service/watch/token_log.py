"""What happens to a token, as log lines; a request that finds a token lost has its ID on them."""

from __future__ import annotations

import logging

from hsm_msl.backend.pkcs11.recovery import Stage

_LOG = logging.getLogger("hsm_msl.tokens")


class TokenLog:
    """Writes one line for each transition (``RecoveryObserver``).

    Args:
        name: the token's label.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def recovered(self, stage: Stage) -> None:
        """Log what brought the token back."""
        _LOG.warning("token %r recovered: %s", self._name, stage.value, extra=self._fields)

    def out_of_service(self, reason: str) -> None:
        """Log an outage; reasons name keys and tokens, never PINs."""
        _LOG.error("token %r is out of service: %s", self._name, reason, extra=self._fields)

    def in_service(self) -> None:
        """Log the end of an outage."""
        _LOG.warning("token %r is in service again", self._name, extra=self._fields)

    @property
    def _fields(self) -> dict[str, object]:
        return {"fields": {"token": self._name}}

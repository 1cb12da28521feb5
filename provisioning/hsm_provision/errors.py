"""The failures of provisioning that a script must be able to tell apart, and the exit code of each."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from hsm_msl.errors import (
    BackendConfigurationError,
    BackendUnavailableError,
    ConfigurationError,
    DataRejectedError,
    HsmMslError,
    KeyNotFoundError,
    KeyPolicyError,
    MechanismUnsupportedError,
    StoreError,
)


class ConflictError(HsmMslError):
    """The token or the manifest holds something the ceremony contradicts; nothing was changed."""


class StalePlanError(HsmMslError):
    """The plan that was agreed to is not what would be done now; nothing was changed."""


class VerificationError(HsmMslError):
    """A key is not what its profile or the manifest says."""


class ApprovalError(HsmMslError):
    """A step needs the approval of more people, or a state forbids it; nothing was changed."""


class ExitCode(IntEnum):
    """Exit codes of ``hsm-provision``; stable, for scripts and monitoring."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    CONFLICT = 3
    STALE_PLAN = 4
    NOT_VERIFIED = 5
    APPROVAL_MISSING = 6
    TOKEN_UNAVAILABLE = 7
    TOKEN_OPERATOR = 8
    STORE = 9
    EXPIRING = 10
    REJECTED = 11
    INTERRUPTED = 130


_CODES: Mapping[type[HsmMslError], ExitCode] = {
    ConflictError: ExitCode.CONFLICT,
    KeyPolicyError: ExitCode.CONFLICT,
    KeyNotFoundError: ExitCode.CONFLICT,
    DataRejectedError: ExitCode.NOT_VERIFIED,
    StalePlanError: ExitCode.STALE_PLAN,
    VerificationError: ExitCode.NOT_VERIFIED,
    ApprovalError: ExitCode.APPROVAL_MISSING,
    BackendUnavailableError: ExitCode.TOKEN_UNAVAILABLE,
    BackendConfigurationError: ExitCode.TOKEN_OPERATOR,
    MechanismUnsupportedError: ExitCode.TOKEN_OPERATOR,
    StoreError: ExitCode.STORE,
    ConfigurationError: ExitCode.USAGE,
}


def exit_code(error: HsmMslError) -> ExitCode:
    """Return the exit code for an error; an unlisted one is unexpected."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), ExitCode.UNEXPECTED)

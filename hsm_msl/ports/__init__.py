"""What the engines ask of the outside world; `client`, `schemes` and `dialog` hold what one part alone asks for."""

from hsm_msl.ports.environment import Clock, RandomBytes
from hsm_msl.ports.keys import (
    AesKey,
    AgreementKey,
    DecryptionKey,
    EphemeralKeys,
    MacAlgorithm,
    MacKey,
    PresharedKeys,
    PublicKeys,
    RsaPadding,
    SignatureScheme,
    SigningKey,
    SymmetricKeys,
    TokenKeyRing,
    VerifyingKey,
    WrappingKey,
)
from hsm_msl.ports.sessions import HandleTransport, KeyForm, KeyTransport, Sealing, SessionData, SessionVault
from hsm_msl.ports.state import Authorization, RenewalState, RenewalStore, ReplayStore, Revocations, Users

__all__ = [
    "AesKey",
    "AgreementKey",
    "Authorization",
    "Clock",
    "DecryptionKey",
    "EphemeralKeys",
    "HandleTransport",
    "KeyForm",
    "KeyTransport",
    "MacAlgorithm",
    "MacKey",
    "PresharedKeys",
    "PublicKeys",
    "RandomBytes",
    "RenewalState",
    "RenewalStore",
    "ReplayStore",
    "Revocations",
    "RsaPadding",
    "Sealing",
    "SessionData",
    "SessionVault",
    "SignatureScheme",
    "SigningKey",
    "SymmetricKeys",
    "TokenKeyRing",
    "Users",
    "VerifyingKey",
    "WrappingKey",
]

"""X509: a certificate names the entity and its RSA key signs the messages (msl-schemes sections 2.2 and 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.errors import ConfigurationError, ErrorCode, MslError, UsageError
from hsm_msl.msl.entityauth.base import EntityAuthData, check_entity
from hsm_msl.msl.entityauth.certificate import Certificate, parse_certificate
from hsm_msl.msl.entityauth.trust_store import TrustStore
from hsm_msl.ports import Authorization, SignatureScheme, SigningKey
from hsm_msl.wire import binary, fields

NAME = "X509"


def x509_data(certificate: Certificate) -> EntityAuthData:
    """Return the data with which an entity presents its certificate; its identity is the subject's name."""
    # Base64 text in every encoder format, so this is a string of the object and no binary value.
    return EntityAuthData(NAME, certificate.subject, {"x509certificate": binary.encode(certificate.der)}, certificate)


@dataclass(frozen=True, slots=True)
class X509Scheme:
    """The X509 scheme over a trust store and, for the local entity, its private key in the token.

    Attributes:
        trust: the CAs whose certificates count.
        authorization: the hooks; they alone know of revoked certificates, by the subject's name.
        signing: private keys of local entities by the subject's name.
    """

    trust: TrustStore
    authorization: Authorization
    signing: Mapping[str, SigningKey] = field(default_factory=dict)
    name: str = NAME
    encrypts: bool = False
    protects_integrity: bool = True

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:
        """Read the certificate. Raises MslError MSL_PARSE_ERROR, X509CERT_INVALID, X509CERT_PARSE_ERROR."""
        text = fields.string(authdata, "x509certificate")
        return x509_data(parse_certificate(binary.decode(text, ErrorCode.X509CERT_INVALID)))

    def context(self, data: EntityAuthData) -> SignatureContext:
        """Return the context of the certificate's key.

        Raises:
            MslError: ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA, X509CERT_NOT_YET_VALID, X509CERT_EXPIRED,
                X509CERT_VERIFICATION_FAILED, INVALID_PUBLIC_KEY for a key that is not RSA.
            StoreError: the hooks cannot answer.
        """
        certificate = data.parsed
        if not isinstance(certificate, Certificate):
            raise UsageError("not X509 data")
        check_entity(self.authorization, data.identity, NAME)
        self.trust.check(certificate)
        try:
            verifying = PublicKey(certificate.public_key)
        except ConfigurationError:
            raise MslError(ErrorCode.INVALID_PUBLIC_KEY) from None
        if not verifying.is_rsa:
            raise MslError(ErrorCode.INVALID_PUBLIC_KEY)
        signing = self.signing.get(data.identity)
        return SignatureContext(SignatureScheme.RSA_PKCS1_SHA256, signing=signing, verifying=verifying)

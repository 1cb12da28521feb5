"""A TPM 2.0 behind tpm2-pkcs11 1.9: holds RSA and EC identities and nothing else; run by our suite on swtpm."""

from __future__ import annotations

from pkcs11 import Attribute, Mechanism
from pkcs11.exceptions import FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

TPM2 = VendorProfile(
    name="tpm2",
    title="TPM 2.0 (tpm2-pkcs11)",
    tested=True,
    source="measured on 1.9.0 (Debian 12) with swtpm and tpm2-abrmd",
    manufacturers=("IBM", "Infineon", "STMicro", "Nuvoton", "Intel", "AMD"),
    models=("SW   TPM", "SLB", "ST33", "NPCT", "Intel", "AMD"),
    vague=(GeneralError, FunctionFailed),
    sessions=2,
    homes=1,
    # Every RSA key is made for signing and decrypting; a template that says less is refused by the module.
    forced_uses=frozenset((Attribute.SIGN, Attribute.VERIFY, Attribute.ENCRYPT, Attribute.DECRYPT)),
    nominal_rights=True,
    # Over a refused ciphertext the module answers that the TPM failed, and leaves the operation open on the session.
    # Bad input could not be told from an outage, so it decrypts nothing here. Signing has mechanisms of its own.
    broken=frozenset((Mechanism.RSA_PKCS_OAEP, Mechanism.RSA_PKCS, Mechanism.RSA_X_509)),
    padded_wrap=None,
    quirks=(
        "it holds RSA-2048 and NIST curve key pairs and nothing else: an identity, not the keys of a token issuer",
        "it decrypts nothing here, because its module does not tell a refused ciphertext from a failing TPM",
        "its module notes what a key may do and lets anybody with the PIN change the note; the TPM keeps the key in",
        "it needs a resource manager (tpm2-abrmd or the kernel's) and says CKR_SESSION_COUNT early",
        "wrong PINs lock the whole TPM for a time",
        "keys imported with tpm2_ptool are extractable and are refused here; generate them in the TPM",
    ),
)

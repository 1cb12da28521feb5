"""A token in another process, reached through p11-kit 0.24; run by our suite over SoftHSMv2."""

from __future__ import annotations

from pkcs11.exceptions import FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

P11KIT = VendorProfile(
    name="p11kit",
    title="p11-kit remote over SoftHSMv2",
    tested=True,
    source="measured on p11-kit 0.24.1 over SoftHSMv2 2.6.1 (Debian 12)",
    # It shows the manufacturer of the token behind it, so it has to be named in the configuration.
    vague=(GeneralError, FunctionFailed),
    padded_wrap=None,
    bytes_lost_per_unwrap=250,
    quirks=(
        "it passes on mechanisms without parameters only, and RSA with them: CBC is chained by hand over ECB, keys "
        "are wrapped by blocks",
        "key agreement in the token is not possible",
        "every call is a round trip to the other process",
        "the token's memory is out of this process's reach",
    ),
)

"""Tell bad input from a bad token.

Some tokens answer a wrong tag, a wrong padding or a wrong wrapping key with the same error as their own failure
(SoftHSMv2: CKR_GENERAL_ERROR). Taken as a verdict it would blame a peer for an outage; taken as an outage it would
let a peer drive the token into recovery. So the same key is tried on good input first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11.errors import Fault, fault_of
from hsm_msl.errors import DataRejectedError

T = TypeVar("T")


def judged(run: Callable[[], T], prove: Callable[[], None], vague: tuple[type[PKCS11Error], ...], refused: str) -> T:
    """Run an operation whose input may be bad.

    Args:
        run: the operation.
        prove: does the same kind of operation on input known to be good; its exceptions pass.
        vague: the exceptions that say nothing by themselves.
        refused: what to say about bad input, the same for every kind.

    Returns:
        What ``run`` returns.

    Raises:
        DataRejectedError: the input is bad. Every other exception of the binding passes.
    """
    try:
        return run()
    except vague:
        pass
    except PKCS11Error as error:
        if fault_of(error) is not Fault.DATA:
            raise
        raise DataRejectedError(refused) from None
    prove()
    raise DataRejectedError(refused)

"""What can go wrong in a dialog, by who is to blame."""

from __future__ import annotations

from hsm_msl.dialog.names import Reason
from hsm_msl.errors import DataRejectedError, HsmMslError, UsageError


class DialogError(HsmMslError):
    """Base of what the dialog engine raises about a dialog or a peer."""


class PacketError(DialogError, DataRejectedError):
    """Bytes that are not a packet, or a packet that is not authentic."""


class PeerRejectedError(DialogError):
    """A pair header that is not trusted here: no binding, wrong signature, names, dates or suite."""


class CertificateRefusedError(PeerRejectedError):
    """A certificate that is not trusted now; the text says why, and nothing is held against the peer for good."""


class KeyUnusableError(DialogError):
    """A wrapped key that cannot be opened although the way to it is trusted; the same for every cause.

    Args:
        digest: SHA-256 of the header that failed, for the negative cache.
        sender: the service whose signature covers the header; empty when none does.
    """

    def __init__(self, digest: bytes, sender: str = "") -> None:
        super().__init__("a wrapped key cannot be opened")
        self.digest = digest
        self.sender = sender


class KeysNeededError(DialogError):
    """The headers that carry the key of this packet are not at hand; the peer may attach them again."""


class RewrapNeededError(DialogError):
    """The key exchange key is encrypted to a certificate whose key this side no longer has.

    Args:
        sender: name of the peer whose pair header was verified.
    """

    def __init__(self, sender: str) -> None:
        super().__init__("the receiver's certificate has changed")
        self.sender = sender


class KeysNotResidentError(PeerRejectedError):
    """A session key from which the others would have to be derived, which this side's token cannot do."""

    def __init__(self) -> None:
        super().__init__(
            "session keys stay in the token here, so the peer must send them one by one: split_keys = true in the"
            " peer's binding for this service"
        )


class OpeningKeyGoneError(DialogError):
    """A message rests here under a key exchange key whose private key this service no longer has.

    Args:
        seq: number of the message.
    """

    def __init__(self, seq: int) -> None:
        super().__init__(
            f"message {seq} cannot be opened: its key is encrypted to a certificate this service no longer has; put"
            " key and certificate back under [[service.retired]], or fail the dialog"
        )


class StalePacketError(DialogError):
    """An authentic packet that the shift rules refuse (dialog section 6)."""


class DialogFailedError(DialogError):
    """The dialog has failed and carries nothing any more."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"dialog failed: {reason.text}")
        self.reason = reason


class DialogClosedError(UsageError, DialogError):
    """This side has ended the dialog, or the peer has, so nothing more can be sent."""


class DialogNotFoundError(UsageError, DialogError):
    """No such dialog is held here."""


class ShiftTooSoonError(UsageError, DialogError):
    """Own shifts keep a distance of at least one second, for the sake of the peer's counter."""


class SendLimitError(DialogError):
    """The message is larger than allowed, or the session key may seal no more messages."""

"""Finds the session key of a received packet: cache, then headers, then the store (dialog section 5, steps 2-5)."""

from __future__ import annotations

import hashlib

from hsm_msl.dialog.context import FAILURE_SECONDS, KEK_SECONDS, SESSION_KEY_SECONDS, Context, KekEntry
from hsm_msl.dialog.errors import (
    KeysNeededError,
    KeysNotResidentError,
    KeyUnusableError,
    PacketError,
    PeerRejectedError,
)
from hsm_msl.dialog.exchange import open_kek, verified_before, verify_pair
from hsm_msl.dialog.headers import Certificates, DskHeader, dsk_id, kek_id, parse_dsk, parse_pair
from hsm_msl.dialog.names import Cause
from hsm_msl.dialog.packet import Core, Ext
from hsm_msl.dialog.residence import unwrap_resident
from hsm_msl.dialog.session import SessionKey
from hsm_msl.dialog.sessionkeys import DirectionKeys, KeyBinding, PacketKeys, split_sizes
from hsm_msl.errors import BackendError, DataRejectedError
from hsm_msl.ports import WrappingKey
from hsm_msl.ports.dialog_records import DialogTransaction, InboundDskRow

_WRAP_OVERHEAD = 8


class InboundKeys:
    """The peer's session keys.

    Args:
        context: the engine's parts.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def cached(self, core: Core, now: float) -> SessionKey | None:
        """Return the session key of a packet when it is at hand; headers are then not even looked at."""
        found = self._context.caches.session_keys.get(core.dsk_id, now)
        if found is None or not _fits(found, core):
            return None
        return found

    def find(self, tx: DialogTransaction, core: Core, ext: Ext, now: float, *, received: bool = False) -> SessionKey:
        """Return the session key of a packet.

        Args:
            tx: where earlier headers are kept.
            core: the packet's core.
            ext: the packet's extensions, for attached headers.
            now: seconds since the Unix epoch.
            received: whether the message was received, and its sender judged, earlier: then nobody is judged anew.

        What came with the packet is not kept before the packet has proved authentic, see ``keep``.

        Raises KeysNeededError, PacketError, PeerRejectedError, RewrapNeededError, KeyUnusableError as the headers
        deserve, and BackendError or StoreError when there was no answer.
        """
        found = self.cached(core, now)
        if found is not None:
            return found
        if ext.dsk is not None:
            return self._open(tx, core, ext.dsk, ext.rewrap, ext, now)
        for row in tx.inbound_dsks(core.dialog, 1 - core.direction):
            if row.dsk_id == core.dsk_id:
                return self.stored(tx, row, core.suite, now, received=received)
        raise KeysNeededError("no header for this session key")

    def keep(self, session: SessionKey, now: float) -> None:
        """Remember a key whose packet was authentic; a rewrapped one only when its sender is the dialog's peer.

        Its id covers everything about a key but under which other key exchange key it was wrapped anew: anyone who
        has a binding could put a key of his own in the place of another service's.
        """
        self._context.caches.session_keys.put(session.dsk_id, session, now + SESSION_KEY_SECONDS)

    def stored(
        self, tx: DialogTransaction, row: InboundDskRow, suite: int, now: float, *, received: bool = False
    ) -> SessionKey:
        """Return the session key of a stored header. Raises as ``find``."""
        found = self._context.caches.session_keys.get(row.dsk_id, now)
        if found is not None:
            return found
        header = parse_dsk(row.header)
        core = Core(
            dialog=row.dialog,
            direction=header.direction,
            kind=1,
            seq=header.first_seq,
            generation=row.generation,
            dsk_id=row.dsk_id,
            suite=suite,
            expiry=0,
        )
        rewrap = (row.kek_id, row.rewrap) if row.rewrap else None
        session = self._open(tx, core, row.header, rewrap, Ext(), now, received=received)
        self.keep(session, now)
        return session

    def _open(
        self,
        tx: DialogTransaction,
        core: Core,
        header_bytes: bytes,
        rewrap: tuple[bytes, bytes] | None,
        ext: Ext,
        now: float,
        *,
        received: bool = False,
    ) -> SessionKey:
        context = self._context
        if dsk_id(header_bytes) != core.dsk_id:
            raise PacketError("session key header is not the one the packet names")
        header = parse_dsk(header_bytes)
        if (header.dialog, header.direction, header.generation) != (core.dialog, core.direction, core.generation):
            raise PacketError("session key header belongs to another dialog, direction or generation")
        wanted, wrapped = rewrap if rewrap is not None else (header.kek_id, header.wrapped)
        parts = (wrapped,) if isinstance(wrapped, bytes) else wrapped
        failure = hashlib.sha256(b"".join((wanted, *parts, core.dsk_id))).digest()
        if context.caches.failures.get(failure, now):
            context.counted["negative_hits"] += 1
            raise PeerRejectedError("this session key header failed a moment ago")
        entry = self._kek(tx, wanted, ext, now, received=received)
        claim = entry.verified.pair.authentication
        if claim.suite != core.suite:
            raise PacketError("suite is not the one that was signed")
        try:
            context.counted["session_keys_unwrapped"] += 1
            keys = self._keys(entry.handle, wrapped, self._binding(header, claim.sender, entry))
        except DataRejectedError as error:
            context.caches.failures.put(failure, True, now + FAILURE_SECONDS)
            # Anyone can put a header of their own making beside captured ones: not the peer's doing.
            raise KeyUnusableError(failure) from error
        except BackendError:
            # The handle may have gone with its token session; the headers bring it back.
            context.caches.inbound_keks.drop(wanted)
            raise
        pair_header, presented = _as_shown(entry, ext)
        return SessionKey(
            keys=keys,
            suite=core.suite,
            dialog=header.dialog,
            direction=header.direction,
            generation=header.generation,
            dsk_id=core.dsk_id,
            sender=claim.sender,
            first_seq=header.first_seq,
            cause=Cause(header.cause),
            kek_id=header.kek_id,
            signing_cert=claim.signing_cert,
            presented=presented,
            header=header_bytes,
            rewrap=rewrap,
            pair_header=pair_header,
            kek_header=entry.kek_header,
            kek_not_after=claim.not_after,
        )

    def _keys(self, kek: WrappingKey, wrapped: bytes | tuple[bytes, ...], binding: KeyBinding) -> PacketKeys:
        resident = self._context.local.resident is not None
        if isinstance(wrapped, bytes):
            if resident:
                raise KeysNotResidentError
            return DirectionKeys(kek.unwrap(wrapped), binding)
        if [len(part) - _WRAP_OVERHEAD for part in wrapped] != split_sizes(binding.suite):
            raise PacketError("session key of the wrong size")
        if resident:
            return unwrap_resident(kek, wrapped, binding)
        return DirectionKeys.split(tuple(kek.unwrap(part) for part in wrapped), binding)

    def _binding(self, header: DskHeader, sender: str, entry: KekEntry) -> KeyBinding:
        local = self._context.local.name
        initiator, target = (sender, local) if header.direction == 0 else (local, sender)
        return KeyBinding(
            header.dialog,
            initiator,
            target,
            header.direction,
            header.generation,
            header.kek_id,
            entry.verified.suite,
        )

    def _kek(self, tx: DialogTransaction, wanted: bytes, ext: Ext, now: float, *, received: bool) -> KekEntry:
        context = self._context
        entry = context.caches.inbound_keks.get(wanted, now)
        if entry is not None:
            return entry
        pair_header, kek_header = ext.pair, ext.kek
        row = tx.inbound_kek(wanted)
        if row is not None:  # came with an authentic packet, which what comes now has yet to prove
            pair_header, kek_header = row.pair_header, row.kek_header
        if pair_header is None or kek_header is None or kek_id(kek_header) != wanted:
            raise KeysNeededError("no header for this key exchange key")
        failure = hashlib.sha256(pair_header + kek_header).digest()
        if context.caches.failures.get(failure, now):
            context.counted["negative_hits"] += 1
            raise PeerRejectedError("these headers failed a moment ago")
        sender = parse_pair(pair_header).authentication.sender
        try:
            if received:
                verified = verified_before(pair_header, kek_header)
            else:
                binding = context.binding(tx, sender, now)
                verified = verify_pair(context.local.name, pair_header, kek_header, binding, now, context.trust)
            context.counted["keks_unwrapped"] += 1
            handle = open_kek(context.local, verified)
        except KeyUnusableError:
            context.caches.failures.put(failure, True, now + FAILURE_SECONDS)
            raise
        entry = KekEntry(handle, verified, pair_header, kek_header)
        if not received:
            until = min(float(verified.pair.authentication.not_after), now + KEK_SECONDS)
            context.caches.inbound_keks.put(wanted, entry, until)
        return entry


def _as_shown(entry: KekEntry, ext: Ext) -> tuple[bytes, Certificates]:
    """Return the pair header and its certificates as this packet shows them.

    Certificates are not signed: those that came with another packet, perhaps of a forger, stay out of this one.
    """
    known = entry.verified.pair
    if ext.pair is not None and ext.pair != entry.pair_header:
        shown = parse_pair(ext.pair)
        if (shown.protected, shown.payload, shown.signature) == (known.protected, known.payload, known.signature):
            return ext.pair, shown.certificates
    return entry.pair_header, known.certificates


def _fits(session: SessionKey, core: Core) -> bool:
    return (
        session.dialog == core.dialog
        and session.direction == core.direction
        and session.generation == core.generation
        and session.suite == core.suite
    )

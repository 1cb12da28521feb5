"""Makes, keeps and reloads the keys of what this side sends (dialog sections 2 and 6)."""

from __future__ import annotations

import hashlib

import msgspec

from hsm_msl.dialog.binding import Binding, CertificateFacts
from hsm_msl.dialog.context import KEK_SECONDS, SESSION_KEY_SECONDS, Context
from hsm_msl.dialog.encoding import decode, encode
from hsm_msl.dialog.errors import KeyUnusableError
from hsm_msl.dialog.exchange import make_kek
from hsm_msl.dialog.headers import DskHeader, dsk_id, kek_id, parse_dsk
from hsm_msl.dialog.names import CLOCK_SKEW, SESSION_KEY_SIZE, Cause
from hsm_msl.dialog.residence import unwrap_resident
from hsm_msl.dialog.session import SessionKey
from hsm_msl.dialog.sessionkeys import DirectionKeys, KeyBinding, PacketKeys, split_sizes
from hsm_msl.dialog.suites import Suite, suite_of
from hsm_msl.errors import DataRejectedError
from hsm_msl.ports import AesKey, MacKey, WrappingKey
from hsm_msl.ports.dialog_records import DialogTransaction, EndpointRecord, OutboundDskRow, OutboundKekRow


class OutboundKeys:
    """Own session keys and key exchange keys.

    Args:
        context: the engine's parts.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def begin(
        self,
        tx: DialogTransaction,
        state: EndpointRecord,
        binding: Binding,
        recipient: CertificateFacts,
        cause: Cause,
        now: float,
        *,
        jump: int = 1,
    ) -> SessionKey:
        """Begin a new generation: a fresh session key under the pair's key exchange key, without asking the peer.

        Args:
            tx: where the wrapped key is kept.
            state: this side; its outbound generation advances.
            binding: the agreement with the peer.
            recipient: the peer's encryption certificate.
            cause: why.
            now: seconds since the Unix epoch.
            jump: how far the generation advances.

        Raises BackendError when a key operation gave no result, DataRejectedError for a bad certificate, StoreError.
        """
        context = self._context
        suite = suite_of(binding.suites[0])
        kek, handle = self._kek(tx, state, binding, recipient, suite, now)
        generation = state.out_generation + jump
        purpose = _purpose(state, generation, kek.kek_id, suite)
        wrapped, stored, keys = self._make(handle, purpose, split=binding.split_keys)
        header = DskHeader(
            kek_id=kek.kek_id,
            dialog=state.dialog,
            direction=state.side,
            generation=generation,
            first_seq=state.next_out,
            cause=cause,
            wrapped=wrapped,
        ).encode()
        row = OutboundDskRow(
            state.dialog,
            state.side,
            generation,
            dsk_id(header),
            suite.number,
            kek.kek_id,
            header,
            stored,
            b"",
            b"",
        )
        session = self._session(state, row, kek, keys or self._keys(row, purpose), now)
        tx.put_outbound_dsk(row)
        tx.count_wrap(kek.kek_id)
        state.out_generation = generation
        state.out_oldest = state.out_oldest or generation
        state.out_first_seq = state.next_out
        state.out_since = now
        state.out_messages = state.out_bytes = 0
        state.pending_cause = 0
        context.counted["own_shifts" if cause is not Cause.START else "own_starts"] += 1
        return session

    def load(self, tx: DialogTransaction, state: EndpointRecord, generation: int, now: float) -> SessionKey | None:
        """Return an own session key, or None when it was dropped.

        Raises KeyUnusableError when the storage key refuses what rests in the store, BackendError, StoreError.
        """
        row = tx.outbound_dsk(state.dialog, state.side, generation)
        return None if row is None else self._load(tx, state, row, now)

    def by_id(self, tx: DialogTransaction, state: EndpointRecord, wanted: bytes, now: float) -> SessionKey | None:
        """Return the own session key with that id, or None. Raises as ``load``."""
        found = self._context.caches.own_keys.get(wanted, now)
        if found is not None:
            mine = found.dialog == state.dialog and found.direction == state.side
            return found if mine else None
        for row in tx.outbound_dsks(state.dialog, state.side):
            if row.dsk_id == wanted:
                return self._load(tx, state, row, now)
        return None

    def rewrap(
        self,
        tx: DialogTransaction,
        state: EndpointRecord,
        binding: Binding,
        recipient: CertificateFacts,
        now: float,
    ) -> None:
        """Let every live own session key travel under a key exchange key for another certificate (section 10).

        The sealed messages stay as they are. Raises as ``begin`` and ``load``.
        """
        suite = suite_of(binding.suites[0])
        kek, handle = self._kek(tx, state, binding, recipient, suite, now)
        for row in tx.outbound_dsks(state.dialog, state.side):
            if row.suite != suite.number or kek.kek_id in (row.kek_id, row.rewrap_kek_id):
                continue
            if not isinstance(parse_dsk(row.header).wrapped, bytes):
                self._context.counted["rewraps_impossible"] += 1
                continue  # keys in a token cannot be wrapped anew; the peer has to keep its retired key
            wrapped = handle.wrap(self._opened(row))
            tx.put_outbound_dsk(
                OutboundDskRow(
                    row.dialog,
                    row.side,
                    row.generation,
                    row.dsk_id,
                    row.suite,
                    row.kek_id,
                    row.header,
                    row.wrapped,
                    kek.kek_id,
                    wrapped,
                )
            )
            tx.count_wrap(kek.kek_id)
            self._context.caches.own_keys.drop(row.dsk_id)
        self._context.counted["rewraps"] += 1

    def _load(self, tx: DialogTransaction, state: EndpointRecord, row: OutboundDskRow, now: float) -> SessionKey:
        found = self._context.caches.own_keys.get(row.dsk_id, now)
        if found is not None:
            return found
        kek = tx.outbound_kek(row.rewrap_kek_id or row.kek_id)
        if kek is None:
            raise KeyUnusableError(row.dsk_id)
        purpose = _purpose(state, row.generation, row.kek_id, suite_of(row.suite))
        return self._session(state, row, kek, self._keys(row, purpose), now)

    def _make(
        self, kek: WrappingKey, purpose: KeyBinding, *, split: bool
    ) -> tuple[bytes | tuple[bytes, ...], bytes, PacketKeys | None]:
        """Make the keys of a generation: wrapped for the peer, wrapped for the store, and ready where they are here.

        Those in a token are opened from the store, since only what comes from there outlives the token's sessions.
        """
        local, random = self._context.local, self._context.random
        if local.resident is not None:
            size, *macs = split_sizes(purpose.suite)
            made: list[AesKey | MacKey] = [local.resident.generate_aes(size)]
            made += [local.resident.generate_mac(size) for size in macs]
            stored = encode([local.storage.wrap_key(key) for key in made])
            return tuple(map(kek.wrap_key, made)), stored, None
        if split:
            secrets = tuple(random(size) for size in split_sizes(purpose.suite))
            stored = encode([local.storage.wrap(secret) for secret in secrets])
            return tuple(map(kek.wrap, secrets)), stored, DirectionKeys.split(secrets, purpose)
        secret = random(SESSION_KEY_SIZE)
        return kek.wrap(secret), local.storage.wrap(secret), DirectionKeys(secret, purpose)

    def _opened(self, row: OutboundDskRow) -> bytes:
        try:
            return self._context.local.storage.unwrap(row.wrapped)
        except DataRejectedError as error:
            raise KeyUnusableError(row.dsk_id) from error

    def _keys(self, row: OutboundDskRow, binding: KeyBinding) -> PacketKeys:
        local = self._context.local
        if isinstance(parse_dsk(row.header).wrapped, bytes):
            return DirectionKeys(self._opened(row), binding)
        parts = msgspec.convert(decode(row.wrapped), tuple[bytes, bytes, bytes])
        try:
            if local.resident is not None:
                return unwrap_resident(local.storage, parts, binding)
            return DirectionKeys.split(tuple(map(local.storage.unwrap, parts)), binding)
        except DataRejectedError as error:
            raise KeyUnusableError(row.dsk_id) from error

    def _session(
        self, state: EndpointRecord, row: OutboundDskRow, kek: OutboundKekRow, keys: PacketKeys, now: float
    ) -> SessionKey:
        header = parse_dsk(row.header)
        session = SessionKey(
            keys=keys,
            suite=row.suite,
            dialog=row.dialog,
            direction=row.side,
            generation=row.generation,
            dsk_id=row.dsk_id,
            sender=state.local,
            first_seq=header.first_seq,
            cause=Cause(header.cause),
            kek_id=row.kek_id,
            signing_cert=self._context.local.signing_cert,
            presented=self._context.local.presented,
            header=row.header,
            rewrap=(row.rewrap_kek_id, row.rewrap) if row.rewrap else None,
            pair_header=kek.pair_header,
            kek_header=kek.kek_header,
            kek_not_after=kek.not_after,
        )
        self._context.caches.own_keys.put(row.dsk_id, session, now + SESSION_KEY_SECONDS)
        return session

    def _kek(
        self,
        tx: DialogTransaction,
        state: EndpointRecord,
        binding: Binding,
        recipient: CertificateFacts,
        suite: Suite,
        now: float,
    ) -> tuple[OutboundKekRow, WrappingKey]:
        context, policy = self._context, binding.policy
        # A certificate that changes on either side ends the use of the key exchange key; the next one presents it.
        local = context.local
        certificates = hashlib.sha256(local.signing_cert + local.encryption_cert + recipient.digest).digest()
        row = tx.current_kek(context.local.name, state.remote, certificates, suite.number)
        if (
            row is not None
            and 0 <= now - row.created_at < policy.kek_max_age
            and row.wraps < policy.kek_max_wraps
            and row.not_after >= state.expires_at
        ):
            handle = context.caches.outbound_keks.get(row.kek_id, now)
            if handle is None:
                try:
                    handle = context.local.storage.unwrap_wrapping(row.wrapped)
                except DataRejectedError:
                    handle = None  # the storage key was replaced; a new key exchange key costs nobody anything
            if handle is not None:
                context.caches.outbound_keks.put(row.kek_id, handle, now + KEK_SECONDS)
                return row, handle
        not_after = int(now + policy.kek_max_age) + policy.max_lifetime
        made = make_kek(
            context.local,
            state.remote,
            recipient,
            suite,
            epoch=int(now),
            not_before=int(now) - CLOCK_SKEW,
            not_after=not_after,
            random=context.random,
        )
        row = OutboundKekRow(
            kek_id(made.kek_header),
            context.local.name,
            state.remote,
            certificates,
            suite.number,
            int(now),
            made.pair_header,
            made.kek_header,
            made.key.wrap_under(context.local.storage),
            now,
            not_after,
            0,
            False,
        )
        tx.add_outbound_kek(row)
        # The handle that may leave its token is used once; later ones come from the store and survive lost sessions.
        context.counted["keks_made"] += 1
        return row, made.key


def _purpose(state: EndpointRecord, generation: int, kek: bytes, suite: Suite) -> KeyBinding:
    initiator, target = (state.local, state.remote) if state.side == 0 else (state.remote, state.local)
    return KeyBinding(state.dialog, initiator, target, state.side, generation, kek, suite)

"""From an error received to the next attempt: clean up, ask for new data, plan (msl-engine 10.2 and 10.3)."""

from __future__ import annotations

from dataclasses import dataclass

from hsm_msl.errors import ErrorCode, MslError, ResponseCode
from hsm_msl.msl.client_state import ClientState
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import EntitySource, Message
from hsm_msl.msl.entityauth.base import LocalEntity
from hsm_msl.msl.message.error_header import ErrorHeader
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.recovery import RECOVERIES, UNMATCHED_ID_CODES
from hsm_msl.msl.token_choice import Plan
from hsm_msl.msl.tokens.issuer import next_long


def no_new_entity(local: LocalEntity) -> EntitySource:
    """Return what offers the same entity data again, and none where other data is asked for."""
    return lambda code: local if code is ResponseCode.ENTITY_REAUTH else None


@dataclass(frozen=True, slots=True)
class ErrorRecovery:
    """Answers errors for one initiator.

    Attributes:
        context: the initiator.
        state: its tokens.
        reauthenticate: gives entity data after an entity error, or None when there is no other.
    """

    context: MslContext
    state: ClientState
    reauthenticate: EntitySource

    def check_id(self, sent: MessageHeader, error: ErrorHeader) -> None:
        """Check that an error answers this request, before anything else about it (msl-engine section 9).

        Args:
            sent: the header of the request.
            error: what came back.

        Raises:
            MslError: UNEXPECTED_RESPONSE_MESSAGE_ID.
        """
        if error.response not in UNMATCHED_ID_CODES and error.message_id != next_long(sent.message_id):
            raise MslError(ErrorCode.UNEXPECTED_RESPONSE_MESSAGE_ID)

    def plan(self, message: Message, sent: MessageHeader, error: ErrorHeader) -> Plan | None:
        """Clean up after an error and say how to send again.

        Args:
            message: what is being sent.
            sent: the header that was refused.
            error: the refusal, of the right ID and from the expected sender.

        Returns:
            The plan of the repetition, or None to give up.

        Raises:
            StoreError: the state cannot be changed.
        """
        if error.timestamp is not None:
            self.state.update_remote_time(error.timestamp, self.context.clock())
        recovery = RECOVERIES.get(error.response)
        if recovery is None:
            return None
        failed = sent.master_token
        if recovery.drop_master_token and failed is not None:
            self.state.remove_session(failed)
        if recovery.drop_user_id_token and failed is not None and sent.user_id_token is not None:
            self.state.remove_user_id_token(sent.user_id_token)
        local: LocalEntity | None = self.context.local
        if recovery.ask_entity:
            local = self.reauthenticate(error.response)
        if recovery.ask_user and (message.user_auth is None or message.user_auth(error.response, True) is None):
            return None
        if local is None:
            return None
        return Plan(recovery, local, next_long(error.message_id), failed)

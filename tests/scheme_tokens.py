"""A server that issues tokens, small enough to authenticate single entities and users by every scheme."""

from __future__ import annotations

import os
from typing import Any

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.msl.entityauth.base import EntityAuthData, authenticate_entity, parse_entity_auth
from hsm_msl.msl.entityauth.defaults import SCHEMES, EntityParts, KeyPairs, entity_auth_schemes
from hsm_msl.msl.entityauth.mt_protected import mt_protected_data
from hsm_msl.msl.entityauth.psk import psk_data
from hsm_msl.msl.entityauth.trust_store import TrustStore
from hsm_msl.msl.tokens.issuer import TokenIssuer, TokenPolicy
from hsm_msl.msl.tokens.master_token import MasterToken, MasterTokens, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdToken, UserIdTokens
from hsm_msl.msl.userauth.base import parse_user_auth
from hsm_msl.msl.userauth.defaults import OwnTokens, UserParts, user_auth_schemes
from hsm_msl.msl.userauth.external import CarriedUser, ExternalScheme
from hsm_msl.msl.userauth.user_id_token import user_id_token_data
from hsm_msl.ports import Authorization, Clock, SymmetricKeys
from hsm_msl.ports.schemes import UserService
from hsm_msl.stores.memory import MemoryRenewalStore, MemoryReplayStore
from hsm_msl.wire import binary
from msl_keys import Lookup, Ring, symmetric_keys
from scheme_support import Hooks

NOW = 1_800_000_000.0
ENTITY = "entity"
USER = "ada"
PROFILE = "ada/kids"
PASSWORD = "correct horse"


class Credentials:
    """``Users`` and ``UserService`` with one user."""

    def authenticate(self, email: str, password: str) -> str | None:
        return USER if (email, password) == ("ada@example.org", PASSWORD) else None

    def identify(self, scheme: str, entity: str, credentials: Any) -> str | None:
        if scheme == "TO_PROFILE":
            return PROFILE if credentials == {"profile": "kids", "useridtoken": USER} else None
        return USER if credentials == {"pin": "1234"} else None


class Names:
    """``IdentityService`` that counts."""

    def __init__(self) -> None:
        self.assigned = 0

    def assign(self) -> str:
        self.assigned += 1
        return f"device-{self.assigned}"


class Taken:
    """``Revocations`` of user ID tokens by user."""

    def __init__(self, *users: str) -> None:
        self._users = users

    def entity_revoked(self, identity: str) -> bool:
        return False

    def master_token_revoked(self, identity: str, serial: int) -> bool:
        return False

    def user_id_token_revoked(self, user: str, serial: int) -> bool:
        return user in self._users


class TokenWorld:
    """One issuing server with every entity and user scheme.

    Args:
        hooks: who may do what.
        revoked_users: users whose ID tokens are revoked.
        clock: the server's time.
    """

    def __init__(
        self,
        hooks: Authorization | None = None,
        *,
        revoked_users: tuple[str, ...] = (),
        clock: Clock = lambda: NOW,
        preshared: dict[str, SymmetricKeys] | None = None,
        key_pairs: KeyPairs | None = None,
        trust: TrustStore | None = None,
        service: UserService | None = None,
    ) -> None:
        self.hooks = Hooks() if hooks is None else hooks
        self.vault = HostVault(os.urandom)
        self.keys = TokenKeys(Ring(symmetric_keys(os.urandom)), "issuer", os.urandom)
        self.master_tokens = MasterTokens(self.keys, self.vault, os.urandom, TokenCache(10))
        self.user_id_tokens = UserIdTokens(self.keys, TokenCache(10))
        self.issuer = TokenIssuer(
            self.master_tokens,
            self.user_id_tokens,
            TokenPolicy(),
            clock=clock,
            random=os.urandom,
            replays=MemoryReplayStore(),
            renewals=MemoryRenewalStore(),
            revocations=Taken(*revoked_users),
        )
        self.names = Names()
        self.known = {ENTITY: symmetric_keys(os.urandom)} if preshared is None else preshared
        pairs = KeyPairs(Lookup({})) if key_pairs is None else key_pairs
        self.entities = entity_auth_schemes(
            SCHEMES,
            EntityParts(
                self.hooks,
                os.urandom,
                preshared=Lookup(self.known),
                rsa=pairs,
                ecc=pairs,
                trust=TrustStore(clock) if trust is None else trust,
                identities=self.names,
                master_tokens=self.master_tokens,
            ),
        )
        credentials = Credentials()
        private = ExternalScheme("PRIVATE_PIN", ("pin",), service or credentials, self.hooks)
        carried = CarriedUser("useridtoken", self.user_id_tokens, self.issuer.check_user_id_token)
        profiles = ExternalScheme("TO_PROFILE", ("profile",), credentials, self.hooks, carried=carried)
        self.users = user_auth_schemes(
            ("EMAIL_PASSWORD", "USER_ID_TOKEN", "PRIVATE_PIN", "TO_PROFILE"),
            UserParts(
                self.hooks,
                credentials,
                OwnTokens(self.master_tokens, self.user_id_tokens, self.issuer),
                (private, profiles),
            ),
        )

    def authenticate_entity(self, obj: dict[str, Any]) -> tuple[EntityAuthData, CryptoContext]:
        """Parse and authenticate as a header decoder does."""
        _, data, context = authenticate_entity(parse_entity_auth(obj, self.entities), self.entities)
        return data, context

    def session(self, entity: str = ENTITY) -> tuple[MasterToken, CryptoContext]:
        """Return a master token and its session."""
        token = self.issuer.create_master_token(entity, self.vault.generate())
        assert token.context is not None
        return token, token.context

    def hidden(self, inner: EntityAuthData | None = None, *, foreign: bool = False) -> dict[str, Any]:
        """Return MT_PROTECTED data, under a token of this server or of another one."""
        token, context = (TokenWorld() if foreign else self).session()
        return mt_protected_data(psk_data(ENTITY) if inner is None else inner, token, context).to_wire()

    def authenticate_hidden(
        self,
        *,
        signature: bytes | None = None,
        foreign: bool = False,
        mastertoken: dict[str, str] | None = None,
    ) -> tuple[EntityAuthData, CryptoContext]:
        """Authenticate by MT_PROTECTED after spoiling a part of it."""
        obj = self.hidden(foreign=foreign)
        authdata = dict(obj["authdata"])
        if signature is not None:
            authdata["signature"] = binary.encode(signature)
        if mastertoken is not None:
            authdata["mastertoken"] = mastertoken
        return self.authenticate_entity({"scheme": "MT_PROTECTED", "authdata": authdata})

    def authenticate_user(self, obj: dict[str, Any], entity: str = ENTITY, master: MasterToken | None = None) -> str:
        """Parse and authenticate as a header decoder does, in a message with this master token."""
        data = parse_user_auth(obj, self.users, master)
        return self.users[data.scheme].authenticate(data, entity)

    def user_of_session(self, user: str = USER, owner: str = ENTITY) -> tuple[MasterToken, UserIdToken]:
        """Return both tokens of another session."""
        token, _ = self.session(owner)
        return token, self.issuer.create_user_id_token(user, token)

    def authenticate_user_of_session(self, *, entity: str = ENTITY, owner: str = ENTITY) -> str:
        """Authenticate by USER_ID_TOKEN for ``entity`` with tokens issued to ``owner``."""
        return self.authenticate_user(user_id_token_data(*self.user_of_session(owner=owner)).to_wire(), entity)

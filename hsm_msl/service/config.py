"""Reads configuration documents and checks them as a whole.

What can be seen without opening a token or database is refused here, with the file, the key and what is allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from hsm_msl.errors import ConfigurationError
from hsm_msl.msl.entityauth.defaults import SCHEMES as ENTITY_SCHEMES
from hsm_msl.msl.keyx import asymmetric_wrapped
from hsm_msl.msl.keyx.defaults import SCHEMES as KEY_EXCHANGES
from hsm_msl.msl.keyx.dh_group import STANDARD_GROUPS
from hsm_msl.msl.userauth.defaults import SCHEMES as USER_SCHEMES
from hsm_msl.service.documents import (
    MEMORY,
    TOKEN_KEYS,
    AnyConfiguration,
    ClientConfig,
    Configuration,
    ServerConfig,
)
from hsm_msl.service.key_sections import (
    EccIdentity,
    PskIdentity,
    RsaIdentity,
    X509Identity,
)
from hsm_msl.service.server_sections import RuleSection
from hsm_msl.service.token_names import check_tokens
from hsm_msl.toml_document import read_document

_NEEDS_USERS = "EMAIL_PASSWORD"
_IMPORT = "a server's keys are in a token; import them with hsm-provision"
_SYSTEM = "system"
_MECHANISMS = tuple(name for name, how in asymmetric_wrapped.MECHANISMS.items() if how is not None)


def read_server_config(path: Path) -> Configuration[ServerConfig]:
    """Read and check a server's configuration.

    Args:
        path: the TOML file.

    Raises:
        ConfigurationError: the file cannot be read or something in it is not allowed; names the key.
    """
    path = path.absolute()
    config = Configuration(read_document(path, ServerConfig), path)
    _check_server(config)
    return config


def read_client_config(path: Path) -> Configuration[ClientConfig]:
    """Read and check a client's configuration. Arguments and errors as ``read_server_config``."""
    path = path.absolute()
    config = Configuration(read_document(path, ClientConfig), path)
    _check_client(config)
    return config


def _check_server(config: Configuration[ServerConfig]) -> None:
    _check_common(config)
    _check_purposes(config)
    _check_schemes(config)
    document = config.document
    policy = document.token_policy
    if policy.lifetime < policy.renewal_window:
        raise config.error(
            "token_policy.lifetime", f"must be at least token_policy.renewal_window ({policy.renewal_window} s)"
        )
    source = document.session_keys.source
    config.check_name("session_keys.source", source, (_SYSTEM, *document.tokens, *document.token_sets), "source")
    if document.session_keys.residency == "token" and source != _SYSTEM:
        raise config.error("session_keys.source", 'with residency "token" the keys come from that token')
    if document.fleet is not None:
        config.token("fleet.token", document.fleet.token)
        if document.fleet.database is None and document.store.database == MEMORY:
            raise config.error("fleet.database", "this key is required, since [store] keeps nothing")
    if document.derived_keys is not None:
        config.token("derived_keys.token", document.derived_keys.token)
    if document.audit is not None:
        config.token("audit.token", document.audit.token)
    for where, in_files in _files(config):
        if in_files:
            raise config.error(where, _IMPORT)


def _check_client(config: Configuration[ClientConfig]) -> None:
    _check_common(config)
    document = config.document
    if document.user is not None and document.credentials is not None:
        raise config.error("credentials", "stands beside [user]; a client speaks for one user")
    offer = document.key_exchange
    for name in offer.schemes:
        config.check_name("key_exchange.schemes", name, KEY_EXCHANGES, "key exchange")
    if "DIFFIE_HELLMAN" in offer.schemes:
        config.check_name("key_exchange.dh_group", offer.dh_group, document.dh_groups, "group in [dh_groups]")
    if asymmetric_wrapped.NAME in offer.schemes:
        config.check_name("key_exchange.rsa_mechanism", offer.rsa_mechanism, _MECHANISMS, "mechanism")
    for index, section in enumerate(document.service_token_keys):
        where = f"service_token_keys[{index}].token"
        if section.files is None:
            config.token(where, section.token)
        elif section.token is not None:
            raise config.error(where, "the keys are either in a token or in files, not both")
    state = document.state
    if state.token is not None:
        config.token("state.token", state.token)
        if state.files is not None:
            raise config.error("state.token", "the sealing keys are either in a token or in files, not both")


def _check_common(config: AnyConfiguration) -> None:
    document = config.document
    try:
        check_tokens(document.tokens, document.token_sets)
    except ConfigurationError as error:
        raise ConfigurationError(f"{config.path}: {error}") from None
    for parameters_id, group in document.dh_groups.items():
        if isinstance(group, str):
            config.check_name(f'dh_groups."{parameters_id}"', group, STANDARD_GROUPS, "group")
    _check_entities(config)
    _check_unique(config, "service_token_keys", "name", (section.name for section in document.service_token_keys))


def _check_entities(config: AnyConfiguration) -> None:
    document = config.document
    entity = document.entity
    if isinstance(entity, PskIdentity | RsaIdentity | EccIdentity | X509Identity):
        in_files = entity.files if isinstance(entity, PskIdentity) else entity.file
        if in_files is None:
            config.token("entity.token", entity.token)
        elif entity.token is not None:
            raise config.error("entity.token", "the keys are either in a token or in files, not both")
    for index, known in enumerate(document.entities):
        where = f"entities[{index}]"
        if not isinstance(known, PskIdentity):
            if not config.resolve(known.public_key).is_file():
                raise config.error(f"{where}.public_key", f"no file {config.resolve(known.public_key)}")
        elif known.files is None:
            config.token(f"{where}.token", known.token)
    entities = document.entities
    _check_unique(config, "entities", "identity", (e.identity for e in entities if isinstance(e, PskIdentity)))
    _check_unique(config, "entities", "key_id", (e.key_id for e in entities if not isinstance(e, PskIdentity)))


def _check_purposes(config: Configuration[ServerConfig]) -> None:
    document = config.document
    if TOKEN_KEYS not in document.keys:
        raise config.error(f'keys."{TOKEN_KEYS}"', "this table is required; its keys protect the tokens issued here")
    for purpose, keys in document.keys.items():
        config.token(f'keys."{purpose}".token', keys.token)
        versions = (keys.primary, *keys.active)
        if len(set(versions)) != len(versions):
            raise config.error(f'keys."{purpose}".active', "names a version twice, or the primary one")
    for index, section in enumerate(document.service_token_keys):
        config.check_name(f"service_token_keys[{index}].keys", section.keys, document.keys, "purpose in [keys]")


def _check_schemes(config: Configuration[ServerConfig]) -> None:
    document = config.document
    schemes = document.schemes
    for name in schemes.key_exchange:
        config.check_name("schemes.key_exchange", name, KEY_EXCHANGES, "key exchange")
    for name in schemes.mechanisms or ():
        config.check_name("schemes.mechanisms", name, _MECHANISMS, "mechanism")
    own = {section.scheme for section in document.user_services}
    _check_unique(config, "user_services", "scheme", (section.scheme for section in document.user_services))
    for index, section in enumerate(document.user_services):
        if section.scheme in USER_SCHEMES:
            raise config.error(f"user_services[{index}].scheme", f"{section.scheme} is built in; choose another name")
    for index, section in enumerate(document.user_services):
        if section.user_id_token in (*section.mandatory, *section.optional):
            raise config.error(
                f"user_services[{index}].user_id_token", f"{section.user_id_token!r} is a string already"
            )
    known: tuple[tuple[str, Collection[str], str], ...] = (
        ("entity", ENTITY_SCHEMES, "entity authentication scheme"),
        ("user", {*USER_SCHEMES, *own}, "user authentication scheme"),
        ("key_exchange", schemes.key_exchange, "key exchange in schemes.key_exchange"),
    )
    for where, rule in _rules(config):
        for key, names, what in known:
            for name in getattr(rule, key) or ():
                config.check_name(f"{where}.{key}", name, names, what)
        if document.users is None and _NEEDS_USERS in (rule.user or ()):
            raise config.error("users", f"this table is required, since {where}.user permits {_NEEDS_USERS}")


def _rules(config: Configuration[ServerConfig]) -> Iterator[tuple[str, RuleSection]]:
    schemes = config.document.schemes
    yield "schemes.default", schemes.default
    for index, rule in enumerate(schemes.rule):
        yield f"schemes.rule[{index}]", rule


def _files(config: Configuration[ServerConfig]) -> Iterator[tuple[str, bool]]:
    """Give every place at which a configuration may name key files, and whether it does."""
    entity = config.document.entity
    if isinstance(entity, PskIdentity):
        yield "entity.files", entity.files is not None
    if isinstance(entity, RsaIdentity | EccIdentity | X509Identity):
        yield "entity.file", entity.file is not None
    for index, known in enumerate(config.document.entities):
        if isinstance(known, PskIdentity):
            yield f"entities[{index}].files", known.files is not None


def _check_unique(config: AnyConfiguration, where: str, what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise config.error(where, f"{what} {name!r} stands there twice")
        seen.add(name)

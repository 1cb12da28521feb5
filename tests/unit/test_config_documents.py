"""Configuration files: what is allowed, and errors that name the file, the key and what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_msl.errors import ConfigurationError
from hsm_msl.service.compose.tokens import plan_of
from hsm_msl.service.config import read_client_config, read_server_config
from hsm_msl.service.key_sections import NoneSuffixedIdentity, PskIdentity, RsaPublicKey, TokenSection
from hsm_msl.toml_document import suggestion

Writer = Callable[[str], Path]

SERVER = """
[tokens.a]
module = "softhsm"
label = "token a"
pin = "prompt"

[entity]
scheme = "RSA"
identity = "server"
key_id = "rsa-1"

[keys."msl.token"]
primary = 2
active = [1]
"""

CLIENT = """
[entity]
scheme = "NONE"
identity = "guest"
"""
LADDER = CLIENT + '[key_exchange]\nschemes = ["JWK_LADDER"]\n'


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def write(text: str) -> Path:
        path = tmp_path / "service.toml"
        path.write_text(text)
        return path

    return write


def refusal(path: Path, *, client: bool = False) -> str:
    with pytest.raises(ConfigurationError) as caught:
        (read_client_config if client else read_server_config)(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_smallest_server(write: Writer) -> None:
    """Everything else has a default, and the default permits nobody anything."""
    document = read_server_config(write(SERVER)).document
    assert document.server.host == "127.0.0.1"
    assert document.schemes.rule == ()
    assert document.schemes.default.entity is None
    assert document.store.database == "memory"
    assert document.session_keys.residency == "host"


def test_smallest_client(write: Writer) -> None:
    text = CLIENT + '[key_exchange]\nschemes = ["ASYMMETRIC_WRAPPED"]\n'
    document = read_client_config(write(text)).document
    assert document.message.encrypted
    assert document.state.database == "memory"


def test_lifetimes_down_to_a_second(write: Writer) -> None:
    policy = read_server_config(write(SERVER + "[token_policy]\nrenewal_window = 1\nlifetime = 1\n")).document
    assert (policy.token_policy.renewal_window, policy.token_policy.lifetime) == (1, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "[sever]\nport = 1", "sever: unknown key; did you mean 'server'? allowed here: audit, cache, "),
        ("", "[server]\nprot = 1", "server.prot: unknown key; did you mean 'port'? allowed here: application, "),
        ('label = "token a"', 'lable = "x"', "tokens.\"a\".lable: unknown key; did you mean 'label'? allowed here: "),
        (
            "primary = 2",
            "primry = 2",
            "keys.\"msl.token\".primry: unknown key; did you mean 'primary'? allowed here: ",
        ),
        ("", '[server]\nport = "8080"', "server.port: expected `int`, got `str`"),
        ("", "[server]\nport = 70000", "server.port: expected `int` <= 65535"),
        ("", "[token_policy]\nlifetime = 0", "token_policy.lifetime: expected `int` >= 1"),
        ("", "[token_policy]\nrenewal_window = 10\nlifetime = 9", "token_policy.lifetime: must be at least token_po"),
        ('scheme = "RSA"', 'scheme = "RSB"', "entity.scheme: invalid value 'RSB'; allowed: "),
        ('key_id = "rsa-1"\n', "", "entity.key_id: this key is required"),
        ('[entity]\nscheme = "RSA"\nidentity = "server"\nkey_id = "rsa-1"\n', "", "entity: this key is required"),
        (
            '"msl.token"',
            '"msl.tokens"',
            'keys."msl.token": this table is required; its keys protect the tokens issued',
        ),
        ("active = [1]", "active = [2]", 'keys."msl.token".active: names a version twice, or the primary one'),
        ('label = "token a"\n', "", "tokens.a.label: this key is required, or serial, or uri"),
        ('module = "softhsm"\n', "", "tokens.a.module: this key is required"),
        (
            'label = "token a"',
            'label = "a"\nuri = "pkcs11:token=a"',
            "tokens.a.uri: say which token either by uri or",
        ),
        ("primary = 2", 'primary = 2\ntoken = "b"', "keys.\"msl.token\".token: no token 'b'; allowed here: a"),
        ("", '[dh_groups]\n1 = "modp-204"', "dh_groups.\"1\": no group 'modp-204'; did you mean 'modp-2048'?"),
        ("\n[tokens.a]", "\ufeff[tokens.a]", "not valid TOML: it begins with a byte order mark; save it without one"),
        ("", "[dh_groups]\n1 = 5", 'dh_groups."1": expected `str | object`, got `int`'),
        ("", '[dh_groups]\n1 = "modp-2048"\nown = [1]', 'dh_groups."own": expected `str | object`, got `array`'),
        ("", '[dh_groups]\n1 = { p = "ff", g = "2" }', 'dh_groups."1".p: expected `str` matching regex'),
        ("", '[schemes]\nmechanisms = ["RSB"]', "schemes.mechanisms: no mechanism 'RSB'; did you mean 'RSA'?"),
        ("", '[schemes]\nkey_exchange = ["DH"]', "schemes.key_exchange: no key exchange 'DH'; allowed here: "),
        (
            "",
            '[schemes.default]\nentity = ["PSQ"]',
            "schemes.default.entity: no entity authentication scheme 'PSQ'; ",
        ),
        (
            "",
            '[[schemes.rule]]\nentities = ["*"]\nkey_exchange = ["JWK_LADDER"]',
            "schemes.rule[0].key_exchange: no key exchange in schemes.key_exchange 'JWK_LADDER'; allowed here: ",
        ),
        ("", "[[schemes.rule]]\nentities = []", "schemes.rule[0].entities: expected `array` of length >= 1"),
        ("", '[schemes.default]\nuser = ["EMAIL_PASSWORD"]', "users: this table is required, since schemes.default"),
        ("", '[[service_token_keys]]\nkeys = "x"', "service_token_keys[0].keys: no purpose in [keys] 'x'; allowed "),
        (
            "",
            '[[service_token_keys]]\nkeys = "msl.token"\n[[service_token_keys]]\nkeys = "msl.token"',
            "service_token_keys: name '' stands there twice",
        ),
        (
            "",
            '[[entities]]\nscheme = "PSK"\nidentity = "c"\n[[entities]]\nscheme = "PSK"\nidentity = "c"',
            "entities: identity 'c' stands there twice",
        ),
        (
            "",
            '[[entities]]\nscheme = "PSK"\nidentity = "c"\nfiles = { encryption = "e", mac = "m" }',
            "entities[0].files: a server's keys are in a token; import them with hsm-provision",
        ),
        ("", '[[entities]]\nscheme = "RSA"\nkey_id = "k"\npublic_key = "no.pem"', "entities[0].public_key: no file "),
        ('key_id = "rsa-1"', 'key_id = "k"\nfile = "k.pem"', "entity.file: a server's keys are in a token; import "),
        ("", '[session_keys]\nresidency = "cloud"', "session_keys.residency: invalid enum value 'cloud'; allowed: "),
        ("", '[session_keys]\nsource = "b"', "session_keys.source: no source 'b'; allowed here: a, system"),
        ("", "[fleet]\n", "fleet.database: this key is required, since [store] keeps nothing"),
        ("", "[limits]\nchunk = 99999999", "limits.chunk: expected `int` <= 1048576"),
        (
            "",
            '[capabilities]\ncompression = ["ZIP"]',
            "capabilities.compression[0]: invalid enum value 'ZIP'; allowed",
        ),
        ("", "[server\n", "not valid TOML: "),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_refused_server_files(write: Writer, old: str, new: str, message: str) -> None:
    assert old in SERVER
    text = SERVER.replace(old, new) if old else f"{SERVER}\n{new}\n"
    assert refusal(write(text)).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CLIENT, "key_exchange.dh_group: no group in [dh_groups] '1'; allowed here: nothing"),
        (CLIENT + '[key_exchange]\nschemes = ["X"]', "key_exchange.schemes: no key exchange 'X'; allowed here: "),
        ('[entity]\nscheme = "PSK"\nidentity = "c"', "entity.token: this key is required; allowed here: nothing"),
        (
            '[tokens.a]\nmodule="softhsm"\nlabel="a"\n[entity]\nscheme = "PSK"\nidentity = "c"\ntoken = "a"\n'
            'files = { encryption = "e", mac = "m" }',
            "entity.token: the keys are either in a token or in files, not both",
        ),
        (CLIENT + '[user]\nemail = "a@b"\n', "user.password: this key is required"),
        (
            CLIENT
            + '[user]\nemail = "a@b"\npassword = "env:X"\n'
            + '[credentials]\nscheme = "PIN"\nname = "ada"\nstrings = { pin = "env:Y" }\n',
            "credentials: stands beside [user]; a client speaks for one user",
        ),
        (
            CLIENT + '[user]\nemail = "a@b"\npasswrod = "env:X"\n',
            "user.passwrod: unknown key; did you mean 'password'?",
        ),
        (CLIENT + "[server]\ntimeout = 0\n", "server.timeout: expected `float` > 0"),
        (
            LADDER + "[[service_token_keys]]\n",
            "service_token_keys[0].token: this key is required; allowed here: nothing",
        ),
        (
            LADDER + '[[service_token_keys]]\ntoken = "a"\nfiles = { encryption = "e", mac = "m" }\n',
            "service_token_keys[0].token: the keys are either in a token or in files, not both",
        ),
        (
            LADDER + 2 * '[[service_token_keys]]\nfiles = { encryption = "e", mac = "m" }\n',
            "service_token_keys: name '' stands there twice",
        ),
    ],
    ids=lambda value: value[-40:] if isinstance(value, str) else "",
)
def test_refused_client_files(write: Writer, text: str, message: str) -> None:
    assert refusal(write(text), client=True).startswith(message)


def test_secrets_stay_out_of_errors(write: Writer) -> None:
    """A PIN or password written where its source belongs is refused later, and never repeated here."""
    text = SERVER.replace('pin = "prompt"', "pin = 1234567")
    assert "1234567" not in refusal(write(text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml") == "cannot be read: No such file or directory"
    (tmp_path / "latin.toml").write_bytes(b'x = "\xe9"')
    assert refusal(tmp_path / "latin.toml") == "cannot be read: not UTF-8 at byte 5"


def test_paths_are_relative_to_the_file(write: Writer, tmp_path: Path) -> None:
    config = read_server_config(write(SERVER))
    assert config.resolve("keys/a.pem") == tmp_path / "keys/a.pem"
    assert config.resolve("/etc/a.pem") == Path("/etc/a.pem")
    assert config.source("file:pins/user.pin") == f"file:{tmp_path}/pins/user.pin"
    assert config.source("env:PIN") == "env:PIN"
    assert config.database("sqlite:///a.sqlite") == f"sqlite:///{tmp_path}/a.sqlite"
    assert config.database("sqlite:////var/a.sqlite") == "sqlite:////var/a.sqlite"
    assert config.database("postgresql://host/name") == "postgresql://host/name"


def test_one_token_needs_no_name(write: Writer) -> None:
    config = read_server_config(write(SERVER))
    assert config.token("x", None) == "a"
    two = SERVER + '[tokens.b]\nmodule = "softhsm"\nlabel = "b"\npin = "prompt"\n'
    assert refusal(write(two)) == "entity.token: this key is required; allowed here: a, b"


def test_every_kind_of_entity(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "peer.pem").touch()
    text = (
        SERVER
        + '[[entities]]\nscheme = "PSK"\nidentity = "c"\nversion = 3\n'
        + '[[entities]]\nscheme = "RSA"\nkey_id = "k"\npublic_key = "peer.pem"\nidentity = "peer"\n'
    )
    psk, rsa = read_server_config(write(text)).document.entities
    assert isinstance(psk, PskIdentity)
    assert psk.version == 3
    assert isinstance(rsa, RsaPublicKey)
    guest = '[entity]\nscheme = "NONE_SUFFIXED"\nroot = "r"\nsuffix = "s"\n[key_exchange]\nschemes = ["JWK_LADDER"]\n'
    assert isinstance(read_client_config(write(guest)).document.entity, NoneSuffixedIdentity)


def test_suggestions() -> None:
    assert suggestion("prot", ["port", "host"]) == "did you mean 'port'? allowed here: host, port"
    assert suggestion("x", []) == "allowed here: nothing"


@pytest.mark.parametrize(
    ("schemes", "told"),
    [
        (("COMPANY", "COMPANY"), "user_services: scheme 'COMPANY' stands there twice"),
        (("EMAIL_PASSWORD",), "user_services[0].scheme: EMAIL_PASSWORD is built in"),
    ],
)
def test_a_user_service_takes_no_name_that_is_taken(write: Writer, schemes: tuple[str, ...], told: str) -> None:
    service = '\n[[user_services]]\nscheme = "{}"\nurl = "https://e/"\nmandatory = ["a"]\n'
    assert refusal(write(SERVER + "".join(map(service.format, schemes)))).startswith(told)


def test_a_client_offers_a_mechanism_there_is(write: Writer) -> None:
    offer = '[key_exchange]\nschemes = ["ASYMMETRIC_WRAPPED"]\nrsa_mechanism = "JWK_RSB"\n'
    told = refusal(write(CLIENT + offer), client=True)
    assert told.startswith("key_exchange.rsa_mechanism: no mechanism 'JWK_RSB'; did you mean 'JWK_RSA'?")


@pytest.mark.parametrize("moving", ["slot-id=5", "slot-description=x", "library-version=2.6"])
def test_a_uri_that_selects_by_what_moves_is_refused_with_its_key(moving: str) -> None:
    section = TokenSection(module="softhsm", uri=f"pkcs11:token=a;{moving}")
    told = r"tokens\.a\.uri: .* is selected by token, serial, manufacturer and model"
    with pytest.raises(ConfigurationError, match=told):
        plan_of("tokens.a", section, lambda source: source, Path())


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("pkcs11:token=b", r"tokens\.a\.label: is 'a', and 'b' in its uri"),
        ("pkcs11:token=a;object=key", r"tokens\.a\.uri: names a key"),
    ],
)
def test_a_uri_that_contradicts_its_table_is_refused(uri: str, told: str) -> None:
    section = TokenSection(module="softhsm", label="a", uri=uri)
    with pytest.raises(ConfigurationError, match=told):
        plan_of("tokens.a", section, lambda source: source, Path())

"""What becomes of a request when one of its members is changed: msl-wire sections 4 to 9 as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hsm_msl.errors import ErrorCode as E

ABSENT = object()
"""Take the member out."""

AS_BEFORE = "as before"
"""The change is not noticed, or only by what the answer contains."""

FLIPPED = "flipped"
"""The same member with a bit of its bytes changed."""

WRONG = (True, 5, "%%%", [], {}, [None])
"""One value of each kind; those of the member's own kind are not wrong for it."""

TEXT, BINARY, NUMBER, FLAG, OBJECT, LIST = range(6)
_KINDS = {TEXT: "%%%", NUMBER: 5, FLAG: True, OBJECT: {}}


@dataclass(frozen=True)
class Rule:
    """What becomes of a member.

    Attributes:
        path: pattern of the member's place: layer and names, joined by dots.
        kind: what it must be; other kinds, null in an array among them, are refused.
        absent: the answer where it is missing or null.
        wrong: the answer to another kind.
        values: answers to values of the right kind.
    """

    path: str
    kind: int
    absent: E | str = E.MSL_PARSE_ERROR
    wrong: E | str = E.MSL_PARSE_ERROR
    values: tuple[tuple[object, E | str], ...] = ()

    def cases(self) -> Iterator[tuple[object, E | str]]:
        yield ABSENT, self.absent
        yield None, self.absent
        for value in WRONG:
            if self.kind == LIST and isinstance(value, list):
                continue
            if _KINDS.get(self.kind, self) != value or type(value) is not type(_KINDS.get(self.kind)):
                yield value, self.wrong
        yield from self.values


def out_of_range(code: E) -> tuple[tuple[object, E | str], ...]:
    return tuple((value, code) for value in (-1, -1.5, 2**53 + 1, 2**63, 1e300))


IGNORED = tuple((value, AS_BEFORE) for value in ("", "text", -1, 2**63, [], {"a": 1}))

RULES = [
    # 5.1 and 5.2: the outer object
    Rule("outer.mastertoken", OBJECT, absent=E.MESSAGE_ENTITY_NOT_FOUND),
    Rule(
        "outer.mastertoken.tokendata",
        BINARY,
        values=(
            ("", E.MASTERTOKEN_TOKENDATA_MISSING),
            ("AAAA", E.MASTERTOKEN_TOKENDATA_PARSE_ERROR),
            ("AAA", E.MSL_PARSE_ERROR),
        ),
    ),
    Rule(
        "outer.mastertoken.signature",
        BINARY,
        values=(("", E.MASTERTOKEN_UNTRUSTED), ("AAAA", E.MASTERTOKEN_UNTRUSTED), (FLIPPED, E.MASTERTOKEN_UNTRUSTED)),
    ),
    Rule("outer.entityauthdata", OBJECT, absent=E.MESSAGE_ENTITY_NOT_FOUND),
    Rule(
        "outer.entityauthdata.scheme",
        TEXT,
        values=(
            ("", E.UNIDENTIFIED_ENTITYAUTH_SCHEME),
            ("none", E.UNIDENTIFIED_ENTITYAUTH_SCHEME),
            ("MGK", E.UNIDENTIFIED_ENTITYAUTH_SCHEME),
            ("X509", E.ENTITYAUTH_FACTORY_NOT_FOUND),
            ("ECC", E.ENTITYAUTH_FACTORY_NOT_FOUND),
            ("MT_PROTECTED", E.ENTITYAUTH_FACTORY_NOT_FOUND),
            ("PROVISIONED", E.ENTITYAUTH_FACTORY_NOT_FOUND),
            ("MIGRATION", E.ENTITYAUTH_FACTORY_NOT_FOUND),
        ),
    ),
    Rule("outer.entityauthdata.authdata", OBJECT),
    Rule("PSK outer.entityauthdata.authdata.identity", TEXT, values=(("nobody", E.ENTITY_NOT_FOUND),)),
    Rule("PSK_PROFILE outer.entityauthdata.authdata.pskid", TEXT, values=(("nobody", E.ENTITY_NOT_FOUND),)),
    Rule("PSK_PROFILE outer.entityauthdata.authdata.profile", TEXT, values=(("other", AS_BEFORE),)),
    Rule("RSA outer.entityauthdata.authdata.pubkeyid", TEXT, values=(("none", E.RSA_PUBLICKEY_NOT_FOUND),)),
    Rule("(RSA|NONE) outer.entityauthdata.authdata.identity", TEXT),
    Rule("NONE_SUFFIXED outer.entityauthdata.authdata.(root|suffix)", TEXT, values=(("other", AS_BEFORE),)),
    Rule("outer.headerdata", BINARY, values=(("", E.HEADER_DATA_MISSING), ("AAA", E.MSL_PARSE_ERROR))),
    Rule(
        "session outer.(headerdata|signature)",
        BINARY,
        values=((FLIPPED, E.MESSAGE_MASTERTOKENBASED_VERIFICATION_FAILED),),
    ),
    Rule(
        "(PSK|PSK_PROFILE|RSA) outer.(headerdata|signature)",
        BINARY,
        values=((FLIPPED, E.MESSAGE_ENTITYDATABASED_VERIFICATION_FAILED),),
    ),
    Rule("(NONE|NONE_SUFFIXED) outer.signature", BINARY, values=(("", AS_BEFORE), ("AAAA", AS_BEFORE))),
    # 5.3: header data
    Rule("header.(sender|nonreplayable)", TEXT, absent=AS_BEFORE, wrong=AS_BEFORE, values=IGNORED),
    Rule(
        "header.timestamp", NUMBER, absent=AS_BEFORE, values=((-1, AS_BEFORE), (1e15, AS_BEFORE), (2**63, AS_BEFORE))
    ),
    Rule("header.messageid", NUMBER, values=out_of_range(E.MESSAGE_ID_OUT_OF_RANGE)),
    Rule("handshake header.messageid", NUMBER, values=((5.7, AS_BEFORE),)),
    Rule("message header.messageid", NUMBER, values=((5.7, E.PAYLOAD_MESSAGE_ID_MISMATCH),)),
    Rule("header.nonreplayableid", NUMBER, absent=AS_BEFORE, values=out_of_range(E.NONREPLAYABLE_ID_OUT_OF_RANGE)),
    Rule("header.renewable", FLAG),
    Rule("handshake header.renewable", FLAG, values=((False, E.HANDSHAKE_DATA_MISSING),)),
    Rule("header.handshake", FLAG, absent=AS_BEFORE),
    Rule("header.capabilities", OBJECT, absent=AS_BEFORE, values=(({}, AS_BEFORE), ({"novel": 1}, AS_BEFORE))),
    Rule(
        "header.capabilities.(compressionalgos|languages|encoderformats)",
        LIST,
        absent=AS_BEFORE,
        wrong=AS_BEFORE,
        values=(
            ([], AS_BEFORE),
            (["", "novel"], AS_BEFORE),
            ([None], E.MSL_PARSE_ERROR),
            ([5], E.MSL_PARSE_ERROR),
            ([{}], E.MSL_PARSE_ERROR),
        ),
    ),
    # 9.3 and msl-schemes 4 to 8: key requests
    Rule(
        "header.keyrequestdata",
        LIST,
        absent=AS_BEFORE,
        values=(
            ([], AS_BEFORE),
            ([None], E.MSL_PARSE_ERROR),
            ([5], E.MSL_PARSE_ERROR),
            ([{}], E.MSL_PARSE_ERROR),
        ),
    ),
    Rule(
        "handshake header.keyrequestdata",
        LIST,
        absent=E.HANDSHAKE_DATA_MISSING,
        values=(([], E.HANDSHAKE_DATA_MISSING),),
    ),
    Rule(
        "header.keyrequestdata.0.scheme",
        TEXT,
        values=tuple((name, E.UNIDENTIFIED_KEYX_SCHEME) for name in ("", "DH", "AUTHENTICATED_DH", "psk")),
    ),
    Rule("header.keyrequestdata.0.keydata", OBJECT),
    Rule("header.keyrequestdata.0.keydata.keypairid", TEXT, values=(("", AS_BEFORE), ("other", AS_BEFORE))),
    Rule(
        "header.keyrequestdata.0.keydata.mechanism",
        TEXT,
        values=(("", E.UNIDENTIFIED_KEYX_MECHANISM), ("JWK_DSA", E.UNIDENTIFIED_KEYX_MECHANISM)),
    ),
    Rule(
        "ASYMMETRIC_WRAPPED header.keyrequestdata.0.keydata.mechanism",
        TEXT,
        values=(("ECC", E.UNSUPPORTED_KEYX_MECHANISM),),
    ),
    Rule(
        "ASYMMETRIC_WRAPPED header.keyrequestdata.0.keydata.publickey",
        BINARY,
        values=(("", E.INVALID_PUBLIC_KEY), ("AAAA", E.INVALID_PUBLIC_KEY), ("AAA", E.MSL_PARSE_ERROR)),
    ),
    Rule(
        "DIFFIE_HELLMAN header.keyrequestdata.0.keydata.publickey",
        BINARY,
        values=(("", E.KEYX_INVALID_PUBLIC_KEY), ("AAA", E.MSL_PARSE_ERROR)),
    ),
    Rule(
        "DIFFIE_HELLMAN exchange header.keyrequestdata.0.keydata.publickey",
        BINARY,
        values=(
            ("AA==", E.KEYX_INVALID_PUBLIC_KEY),
            ("AAE=", E.KEYX_INVALID_PUBLIC_KEY),
            ("/" * 344, E.KEYX_INVALID_PUBLIC_KEY),
        ),
    ),
    Rule("header.keyrequestdata.0.keydata.parametersid", TEXT),
    Rule(
        "exchange header.keyrequestdata.0.keydata.parametersid",
        TEXT,
        values=(("none", E.UNKNOWN_KEYX_PARAMETERS_ID),),
    ),
    Rule("header.keyrequestdata.0.keydata.keyid", TEXT, values=(("", E.UNIDENTIFIED_KEYX_KEY_ID),)),
    Rule("header.keyrequestdata.0.keydata.wrapdata", BINARY, values=(("", E.KEYX_WRAPPING_KEY_MISSING),)),
    Rule(
        "exchange header.keyrequestdata.0.keydata.wrapdata",
        BINARY,
        values=(("AAAA", E.CIPHERTEXT_ILLEGAL_BLOCK_SIZE), (FLIPPED, E.UNWRAP_ERROR)),
    ),
    # 9.2 and msl-schemes 3: user authentication data
    Rule("header.userauthdata", OBJECT, absent=AS_BEFORE),
    Rule(
        "header.userauthdata.scheme",
        TEXT,
        values=(
            ("", E.UNIDENTIFIED_USERAUTH_SCHEME),
            ("SWITCH_PROFILE", E.UNIDENTIFIED_USERAUTH_SCHEME),
            ("USER_ID_TOKEN", E.USERAUTH_FACTORY_NOT_FOUND),
        ),
    ),
    Rule("header.userauthdata.authdata", OBJECT),
    Rule(
        "header.userauthdata.authdata.(email|password)",
        TEXT,
        values=((" \t\r\n", E.EMAILPASSWORD_BLANK), ("other", E.EMAILPASSWORD_INCORRECT)),
    ),
    # 8.2 and 8.3: tokens in the header
    Rule("header.useridtoken", OBJECT, absent=AS_BEFORE),
    Rule("tokens header.useridtoken", OBJECT, absent=E.SERVICETOKEN_USERIDTOKEN_MISMATCH),
    Rule(
        "header.useridtoken.tokendata",
        BINARY,
        values=(("", E.USERIDTOKEN_TOKENDATA_MISSING), ("AAAA", E.USERIDTOKEN_TOKENDATA_PARSE_ERROR)),
    ),
    Rule(
        "header.useridtoken.signature",
        BINARY,
        values=(
            ("", E.USERIDTOKEN_NOT_DECRYPTED),
            (FLIPPED, E.USERIDTOKEN_NOT_DECRYPTED),
            ("AAA", E.MSL_PARSE_ERROR),
        ),
    ),
    Rule("header.servicetokens", LIST, absent=AS_BEFORE, values=(([], AS_BEFORE), ([5], E.MSL_PARSE_ERROR))),
    Rule(
        "header.servicetokens.0.tokendata",
        BINARY,
        values=(("", E.SERVICETOKEN_TOKENDATA_MISSING), ("AAAA", E.MSL_PARSE_ERROR)),
    ),
    Rule(
        "header.servicetokens.0.signature",
        BINARY,
        values=(("", AS_BEFORE), (FLIPPED, AS_BEFORE), ("AAA", E.MSL_PARSE_ERROR)),
    ),
    # 7: the first payload chunk
    Rule(
        "chunk.payload",
        BINARY,
        values=(("", E.PAYLOAD_VERIFICATION_FAILED), (FLIPPED, E.PAYLOAD_VERIFICATION_FAILED)),
    ),
    Rule(
        "chunk.signature",
        BINARY,
        values=(("", E.PAYLOAD_VERIFICATION_FAILED), (FLIPPED, E.PAYLOAD_VERIFICATION_FAILED)),
    ),
    Rule(
        "payload.sequencenumber",
        NUMBER,
        values=(
            (0, E.PAYLOAD_SEQUENCE_NUMBER_MISMATCH),
            (2, E.PAYLOAD_SEQUENCE_NUMBER_MISMATCH),
            *out_of_range(E.PAYLOAD_SEQUENCE_NUMBER_OUT_OF_RANGE),
        ),
    ),
    Rule(
        "payload.messageid",
        NUMBER,
        values=((0, E.PAYLOAD_MESSAGE_ID_MISMATCH), *out_of_range(E.PAYLOAD_MESSAGE_ID_OUT_OF_RANGE)),
    ),
    Rule("payload.endofmsg", FLAG, absent=AS_BEFORE),
    Rule(
        "payload.compressionalgo",
        TEXT,
        absent=AS_BEFORE,
        values=tuple((name, E.UNIDENTIFIED_COMPRESSION) for name in ("", "gzip", "DEFLATE")),
    ),
    Rule("payload.data", BINARY, values=(("", E.PAYLOAD_DATA_MISSING), ("AAA", E.MSL_PARSE_ERROR))),
]

"""Texts of errors for users, by language (msl-wire section 6, ``usermsg``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hsm_msl.errors import ErrorCode
from hsm_msl.service.documents import Configuration, ServerConfig
from hsm_msl.toml_document import suggestion

DEFAULT = "default"
"""The table for users none of whose languages has a text."""

UserText = Callable[[ErrorCode, Sequence[str]], str | None]


def user_texts(config: Configuration[ServerConfig]) -> UserText | None:
    """Return the function that finds a user's text, or None where no texts are configured.

    A language without a text gives way to its primary language (``de-AT`` to ``de``), then to the user's next one,
    and at last to the table ``default``.

    Raises:
        ConfigurationError: a text is given for a name that is no MSL error.
    """
    names = {code.name: code for code in ErrorCode}
    tables: dict[str, Mapping[ErrorCode, str]] = {}
    for language, texts in config.document.user_texts.items():
        for name in texts:
            if name not in names:
                raise config.error(f"user_texts.{language}", f"no MSL error {name!r}; {suggestion(name, names)}")
        tables[language.lower()] = {names[name]: text for name, text in texts.items()}
    if not tables:
        return None

    def find(code: ErrorCode, languages: Sequence[str]) -> str | None:
        wanted = [tag for language in languages for tag in (language.lower(), language.lower().partition("-")[0])]
        for tag in (*wanted, DEFAULT):
            text = tables.get(tag, {}).get(code)
            if text is not None:
                return text
        return None

    return find

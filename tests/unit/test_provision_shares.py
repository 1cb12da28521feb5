"""Shares as people write them down: words over several lines, notes beside them, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_msl.errors import ConfigurationError
from hsm_provision.shares import KEY_BYTES, WORDS, combine_sets, read_share, split

HEAD = (
    "Share 1 of 3 of backup.wrap.v1; 2 shares give the key back.\nCheck value 6aea11: academic acid acne acquire\n\n"
)


def test_a_share_is_read_however_its_lines_are_broken(tmp_path: Path) -> None:
    shares = split(bytes(KEY_BYTES), 2, 3)
    words = shares[0].split()
    assert len(words) == WORDS
    path = tmp_path / "share.txt"
    for text in (
        shares[0],
        HEAD + shares[0] + "\n",
        " ".join(words[:16]) + "\n" + " ".join(words[16:]),
        HEAD + "\n".join(words).upper() + "\n\nnote: held by Alice\nlocked away since Monday\n",
    ):
        path.write_text(text)
        assert combine_sets([read_share(path), shares[2]]) == (bytes(KEY_BYTES),)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda words: words[:-1], "holds 32 words of a share; a share has 33"),
        (lambda words: [*words, "academic"], "holds 34 words"),
        (lambda words: [], "holds 0 words"),
        (lambda words: [*words[:10], "zebraz", *words[11:]], "'zebraz' is no word of a share"),
        (lambda words: [*words[1:], words[0]], "mistyped, or they are in disorder"),
    ],
)
def test_what_is_wrong_with_a_share_is_said_with_its_file(tmp_path: Path, change: object, complaint: str) -> None:
    assert callable(change)
    path = tmp_path / "share.txt"
    path.write_text(HEAD + " ".join(change(split(bytes(KEY_BYTES), 2, 2)[0].split())))
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        read_share(path)
    assert str(path) in str(caught.value)

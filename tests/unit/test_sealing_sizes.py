"""Process-local keys take the sizes of their algorithms and no others."""

from __future__ import annotations

import pytest

from hsm_msl.crypto.sealing import LocalAesKey, LocalCmacKey


@pytest.mark.parametrize("size", [16, 24, 32])
def test_sizes_of_aes(size: int) -> None:
    assert len(LocalAesKey(bytes(size)).encrypt_ecb(bytes(16))) == 16
    assert len(LocalCmacKey(bytes(size)).sign(b"")) == 16


@pytest.mark.parametrize("size", [0, 15, 17, 31, 33, 48, 64])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="AES"):
        LocalAesKey(bytes(size))
    with pytest.raises(ValueError, match="AES"):
        LocalCmacKey(bytes(size))

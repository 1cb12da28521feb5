"""The LZW variant of the protocol: growing code width, most significant bit first, no control codes (section 10.3).

Widths change only after the first code and then whenever the number of codes reaches a power of two, so every run of
codes with one width starts on a byte boundary and eight codes fill exactly ``width`` bytes. Both directions work on
such blocks of eight, never on single bits.
"""

from __future__ import annotations

from array import array

from hsm_msl.errors import ErrorCode, MslError

_FIRST_WIDTH = 9
_BLOCK = 8
_TOO_MUCH = "uncompressed data exceeds the limit"


def compress(data: bytes, limit: int) -> bytes | None:
    """Compress bytes, or give up as soon as the result is known to be too long.

    Args:
        data: any bytes.
        limit: the result must not be longer than this many bytes.

    Returns:
        The codes, padded with zero bits to a whole byte, or None when they would exceed ``limit``.

    Source: msl-wire section 10.3.
    """
    if not data:
        return b""
    out = bytearray()
    table: dict[int, int] = {}
    lookup = table.get
    bytewise = iter(data)
    prefix = next(bytewise)
    width = 8
    following = 256  # the code the next new phrase gets
    pending = 0
    held = 0
    for byte in bytewise:
        phrase = prefix << 8 | byte
        code = lookup(phrase)
        if code is not None:
            prefix = code
            continue
        pending = pending << width | prefix
        held += 1
        if held == _BLOCK or width == _BLOCK:
            out += pending.to_bytes(held * width // 8, "big")
            pending = held = 0
            if len(out) > limit:
                return None
        table[phrase] = following
        if following >> width:
            width += 1
        following += 1
        prefix = byte
    pending = pending << width | prefix
    bits = (held + 1) * width
    out += (pending << -bits % 8).to_bytes((bits + 7) // 8, "big")
    return None if len(out) > limit else bytes(out)


def uncompress(data: bytes, limit: int) -> bytes:
    """Restore what ``compress`` made of it.

    Args:
        data: the codes; fewer bits than a code at the end are ignored.
        limit: most bytes to produce; one code gives at most one byte more than all before it together.

    Returns:
        The bytes.

    Raises:
        MslError: UNCOMPRESSION_ERROR for a code that does not exist yet, or a result beyond ``limit``.

    Source: msl-wire section 10.3.
    """
    if not data:
        return b""
    if limit < 1:
        raise MslError(ErrorCode.UNCOMPRESSION_ERROR, _TOO_MUCH)
    out = bytearray(data[:1])
    # Every phrase is what one code gave and the first byte of what the next one gave, so it stands in the output as
    # it is: where each code's output begins is all there is to remember, a few bytes per code.
    starts = array("I", (0,))
    begin = starts.append
    size = 1
    newest = 256  # the phrase that the code being read completes
    width = _FIRST_WIDTH
    position = 1
    codes = 2 ** (_FIRST_WIDTH - 1)  # how many codes have this width
    end = len(data)
    while position < end:
        block = data[position : position + width]
        position += width
        held = len(block) * 8 // width
        if not held:
            break
        value = int.from_bytes(block, "big") >> (len(block) * 8 - held * width)
        mask = (1 << width) - 1
        for shift in range((held - 1) * width, -1, -width):
            code = value >> shift & mask
            begin(size)
            if code < 256:
                out.append(code)
            elif code < newest:
                out += out[starts[code - 256] : starts[code - 255] + 1]
            elif code == newest:
                previous = starts[-2]
                out += out[previous:]
                out.append(out[previous])
            else:
                raise MslError(ErrorCode.UNCOMPRESSION_ERROR, "LZW code does not exist")
            newest += 1
            size = len(out)
            if size > limit:
                raise MslError(ErrorCode.UNCOMPRESSION_ERROR, _TOO_MUCH)
        codes -= _BLOCK
        if not codes:
            codes = 1 << width
            width += 1
    return bytes(out)

"""Layout of a bf16 safetensors file before compression, and back.

A bf16 number is sign, eight bits of exponent, seven of mantissa. Turned left by one bit, the exponent fills the high
byte and compresses to a third; mantissa and sign fill the low byte and do not compress. All high bytes are written
first, then all low bytes. Arithmetic on one long integer keeps this quick without numpy.
"""

from __future__ import annotations

import lzma

LENGTH_BYTES = 8  # a safetensors file starts with the length of its JSON header
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def pack(safetensors: bytes) -> bytes:
    """The xz bytes of a bf16 safetensors file."""
    start = _data_start(safetensors)
    turned = _rotate_words(safetensors[start:], left=1)
    return lzma.compress(safetensors[:start] + turned[1::2] + turned[0::2], filters=FILTERS)


def unpack(packed: bytes) -> bytes:
    """The safetensors file that `pack` was given, byte for byte."""
    raw = lzma.decompress(packed)
    start = _data_start(raw)
    half = (len(raw) - start) // 2
    turned = bytearray(2 * half)
    turned[1::2] = raw[start : start + half]
    turned[0::2] = raw[start + half :]
    return raw[:start] + _rotate_words(bytes(turned), left=15)


def _data_start(safetensors: bytes) -> int:
    return LENGTH_BYTES + int.from_bytes(safetensors[:LENGTH_BYTES], "little")


def _rotate_words(data: bytes, left: int) -> bytes:
    """Every little-endian 16-bit word of `data`, rotated left by `left` bits."""
    words = len(data) // 2
    low = int.from_bytes(((1 << left) - 1).to_bytes(2, "little") * words, "little")
    high = int.from_bytes((0xFFFF ^ ((1 << left) - 1)).to_bytes(2, "little") * words, "little")
    whole = int.from_bytes(data, "little")
    return (((whole << left) & high) | ((whole >> (16 - left)) & low)).to_bytes(len(data), "little")

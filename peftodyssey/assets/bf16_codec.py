"""Compression of bf16 safetensors files: bytes are reordered before xz.

A bf16 number is a sign bit, eight bits of exponent and seven of mantissa. Rotated left by one bit, the exponent fills
the high byte and compresses to a third; mantissa and sign fill the low byte and do not compress. All high bytes are
written first, then all low bytes. Arithmetic on one long integer makes this fast without numpy.
"""

from __future__ import annotations

import lzma

LENGTH_BYTES = 8  # a safetensors file starts with the length of its JSON header
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def pack(safetensors: bytes) -> bytes:
    """The xz bytes of a bf16 safetensors file."""
    start = _data_start(safetensors)
    rotated = _rotate_words(safetensors[start:], left=1)
    return lzma.compress(safetensors[:start] + rotated[1::2] + rotated[0::2], filters=FILTERS)


def unpack(packed: bytes) -> bytes:
    """The safetensors file that was packed, byte for byte."""
    raw = lzma.decompress(packed)
    start = _data_start(raw)
    half = (len(raw) - start) // 2
    rotated = bytearray(2 * half)
    rotated[1::2] = raw[start : start + half]
    rotated[0::2] = raw[start + half :]
    return raw[:start] + _rotate_words(bytes(rotated), left=15)


def _data_start(safetensors: bytes) -> int:
    return LENGTH_BYTES + int.from_bytes(safetensors[:LENGTH_BYTES], "little")


def _rotate_words(data: bytes, left: int) -> bytes:
    """Every little-endian 16-bit word of `data`, rotated left by `left` bits."""
    words = len(data) // 2
    low_mask = int.from_bytes(((1 << left) - 1).to_bytes(2, "little") * words, "little")
    high_mask = int.from_bytes((0xFFFF ^ ((1 << left) - 1)).to_bytes(2, "little") * words, "little")
    number = int.from_bytes(data, "little")
    return (((number << left) & high_mask) | ((number >> (16 - left)) & low_mask)).to_bytes(len(data), "little")

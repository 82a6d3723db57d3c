"""The byte layout of packed weights: unpacking gives back what was packed."""

from __future__ import annotations

import lzma
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from peftodyssey.assets import bf16_codec


def safetensors(data: bytes, header: bytes = b"{}") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@settings(max_examples=20, deadline=None)  # xz asks for 64 MB at every call
@given(st.binary(max_size=200).filter(lambda b: len(b) % 2 == 0), st.binary(max_size=20))
def test_unpack_undoes_pack(data: bytes, header: bytes) -> None:
    whole = safetensors(data, header)
    assert bf16_codec.unpack(bf16_codec.pack(whole)) == whole


def test_exponents_come_first() -> None:
    minus_one, two = struct.pack("<H", 0xBF80), struct.pack("<H", 0x4000)  # exponents 127 and 128
    packed = lzma.decompress(bf16_codec.pack(safetensors(minus_one + two)))
    assert packed[-4:] == bytes([127, 128, 1, 0])

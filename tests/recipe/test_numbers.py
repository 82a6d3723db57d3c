"""Human numbers: what is read, what is refused, and that every way of writing a number says the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftodyssey.recipe.numbers import (
    parse_alpha,
    parse_bytes,
    parse_count,
    parse_duration,
    parse_number,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("200k", 200_000),
        ("1.5M", 1_500_000),
        ("2B", 2 * 10**9),
        (12, 12),
        (1e3, 1000),
        ("1e3", 1000),
        ("4_096", 4096),
        (" 7 ", 7),
        ("0", 0),
    ],
)
def test_counts(text, number):
    assert parse_count(text) == number


@pytest.mark.parametrize(
    "text",
    ["-1", -1, 1.5, "1.5", True, "k", "", "010", "1e400", float("nan"), None, [1], "12 apples", "0x10"],
)
def test_refused_counts(text):
    with pytest.raises(ValueError, match=r"write"):
        parse_count(text)


@given(st.integers(0, 10**12))
def test_a_count_is_read_back_from_its_text(number):
    assert parse_count(str(number)) == parse_count(number) == parse_count(f"{number:_}") == number


@pytest.mark.parametrize(
    ("text", "share"),
    [("3%", 0.03), (0.03, 0.03), ("0.03", 0.03), ("100%", 1), (1, 1), ("1e-2", 0.01), (0, 0)],
)
def test_shares(text, share):
    assert parse_share(text) == pytest.approx(share, rel=1e-15)


@pytest.mark.parametrize("text", ["101%", 3, -0.1, "three", True, "-3%", "010%"])
def test_refused_shares(text):
    with pytest.raises(ValueError, match="write"):
        parse_share(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GiB", 8 * 2**30),
        ("22GB", 22 * 10**9),
        ("512MiB", 512 * 2**20),
        ("1.5TiB", 3 * 2**39),
        (1024, 1024),
        ("24G", 24 * 10**9),
        ("10", 10),
    ],
)
def test_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["8 GiX", "-1GiB", "GiB", -5, True])
def test_refused_bytes(text):
    with pytest.raises(ValueError, match="write"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("8h", 28800),
        ("1h30m", 5400),
        ("2min", 120),
        ("1d", 86400),
        (5, 5),
        ("5", 5),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["8 parsecs", "-1", "", "h"])
def test_refused_durations(text):
    with pytest.raises(ValueError, match="write"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "alpha"), [("2r", 16), ("r", 8), ("0.5r", 4), ("2*r", 16), ("2 R", 16), (32, 32), ("32", 32)]
)
def test_alphas_at_rank_8(text, alpha):
    assert parse_alpha(text, 8) == alpha


@pytest.mark.parametrize("text", ["0r", 0, -1, "2x", "r2", True])
def test_refused_alphas(text):
    with pytest.raises(ValueError, match="write"):
        parse_alpha(text, 8)


@given(st.floats(1e-12, 1e12))
def test_a_number_is_read_back_from_its_text(number):
    assert parse_number(repr(number)) == parse_number(number) == number

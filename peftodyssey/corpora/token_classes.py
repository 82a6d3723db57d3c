"""The class of each token (newline, digit, start of a word ...), from its characters.

It depends on the text and the character offsets alone, so one rule holds for byte-level BPE, SentencePiece and others.
"""

from __future__ import annotations

import unicodedata

import numpy as np

from peftodyssey.constants import TOKEN_CLASSES

NEWLINE, SPACE, PUNCTUATION, DIGIT, FUNCTION_WORD, WORD_START, CONTINUATION, SPECIAL, OTHER = range(len(TOKEN_CLASSES))
LETTER = WORD_START  # the kind of a single character that may belong to a word
NEWLINES = frozenset("\n\r\v\f\x85\u2028\u2029")
APOSTROPHES = (0x27, 0x2019)
LONGEST_FUNCTION_WORD = 10  # characters

FUNCTION_WORDS = frozenset(
    """a about above across after against all along although am among an and another any anyone anything are around as
    at be because been before behind being below beneath beside besides between beyond both but by can cannot could did
    do does doing down during each either enough even every everyone everything except few for from had has have having
    he hence her here hers herself him himself his how however i if in inside into is it its itself just less like many
    may me might mine more most much must my myself near neither no nobody none nor not nothing of off on once one only
    onto or other others our ours ourselves out outside over per rather shall she should since so some someone something
    such than that the their theirs them themselves then there therefore these they this those though through throughout
    thus to too toward towards under unless until up upon us very was we were what whatever when where whereas whether
    which while who whom whose why will with within without would yet you your yours yourself""".split()  # noqa: SIM905
)


def classify(text: str, starts: np.ndarray, ends: np.ndarray, special: np.ndarray | None = None) -> np.ndarray:
    """The class of each token of one document, as int8 positions in `TOKEN_CLASSES`.

    `starts`, `ends`: character offsets of the tokens (int [tokens]); `special`: bool [tokens], control tokens.
    By priority: special; newline where the token holds one; space where it holds nothing else; then, without its
    white space: digits without letters, or only punctuation; a whole English function word; a token in which a word
    begins; a token that continues a word; other. Tokens that share one character (bytes of an emoji) share its class.
    """
    kinds = character_kinds(text)
    begins, stops = effective_spans(starts, ends)
    begins, stops = np.minimum(begins, len(kinds)), np.minimum(stops, len(kinds))
    count = {kind: _counter(kinds == kind, begins, stops) for kind in (NEWLINE, SPACE, PUNCTUATION, DIGIT, LETTER)}
    length = stops - begins
    classes = np.full(len(starts), OTHER, dtype=np.int8)
    classes[(count[PUNCTUATION] > 0) & (count[PUNCTUATION] + count[SPACE] == length)] = PUNCTUATION
    classes[(count[DIGIT] > 0) & (count[LETTER] == 0)] = DIGIT
    _words(text, kinds, begins, stops, count[LETTER] > 0, classes)
    classes[(length > 0) & (count[SPACE] == length)] = SPACE
    classes[count[NEWLINE] > 0] = NEWLINE
    if special is not None:
        classes[special] = SPECIAL
    return classes


def character_kinds(text: str) -> np.ndarray:
    """int8 [characters]: NEWLINE, SPACE, PUNCTUATION, DIGIT, LETTER or OTHER of each character."""
    unique, inverse = np.unique(code_points(text), return_inverse=True)
    return np.array([_kind(chr(point)) for point in unique], dtype=np.int8)[inverse]


def code_points(text: str) -> np.ndarray:
    """uint32 [characters]: the Unicode number of each character."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def effective_spans(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spans that include the gap before a token (a space that its tokenizer left out), where it adds a character."""
    reached = np.maximum.accumulate(ends) if len(ends) else ends
    before = np.concatenate([[0], reached[:-1]]) if len(ends) else reached
    adds = reached > before
    return np.where(adds, before, starts), np.where(adds, reached, np.maximum(starts, ends))


def _kind(character: str) -> int:
    if character in NEWLINES:
        return NEWLINE
    if character.isspace() or character == "\u2581":
        return SPACE
    category = unicodedata.category(character)
    if category[0] in "LM":
        return LETTER
    if category[0] == "N":
        return DIGIT
    return PUNCTUATION if category[0] == "P" or category in ("Sm", "Sc", "Sk") else OTHER


def _counter(mask: np.ndarray, begins: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """How many characters of `mask` lie in each span."""
    total = np.concatenate([[0], np.cumsum(mask)])
    return total[stops] - total[begins]


def _words(
    text: str, kinds: np.ndarray, begins: np.ndarray, stops: np.ndarray, has_letter: np.ndarray, classes: np.ndarray
) -> None:
    """Set word_start, continuation and function_word in `classes` for the tokens that hold a letter."""
    rows = np.flatnonzero(has_letter)
    if not len(rows):
        return
    letters = np.flatnonzero(kinds == LETTER)
    first = letters[np.searchsorted(letters, begins[rows])]
    inside = in_word(text, kinds)
    starts_word = ~np.concatenate([[False], inside])[first]  # the character before the first letter is in no word
    # of the byte tokens that share one character only the first starts the word
    reached = np.concatenate([[0], np.maximum.accumulate(stops)[:-1]])[rows]
    starts_word &= first >= reached
    classes[rows] = np.where(starts_word, WORD_START, CONTINUATION)
    ends_word = ~np.concatenate([inside, [False]])[stops[rows]]
    is_short = stops[rows] - first <= LONGEST_FUNCTION_WORD + 1
    for row in rows[starts_word & ends_word & is_short]:
        if text[begins[row] : stops[row]].strip(" \t\u2581").lower() in FUNCTION_WORDS:
            classes[row] = FUNCTION_WORD


def in_word(text: str, kinds: np.ndarray) -> np.ndarray:
    """bool [characters]: letters, digits, and apostrophes between letters."""
    letter = kinds == LETTER
    inner = np.isin(code_points(text), APOSTROPHES)
    inner &= np.concatenate([[False], letter[:-1]]) & np.concatenate([letter[1:], [False]])
    return letter | (kinds == DIGIT) | inner

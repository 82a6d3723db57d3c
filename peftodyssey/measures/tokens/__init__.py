"""Which tokens the change in NLL of each cell comes from, and the words that distinguish its domain."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.tokens import table
from peftodyssey.recipe.measure_spec import MeasureSpec


class Tokens(Measure):
    """The change by class, position, frequency, surprisal and type of token; it needs no tasks of its own."""

    spec = MeasureSpec("tokens", needs_pretraining_text=True)
    tables = {
        table.BREAKDOWN_TABLE: table.TOKEN_BREAKDOWN,
        table.CONCENTRATION_TABLE: table.CONCENTRATION,
        table.TERMS_TABLE: table.TERMS,
        table.RANKS_TABLE: table.TOKEN_RANKS,
        table.WORDS_TABLE: table.WORDS,
    }
    views = {
        table.BREAKDOWN_TABLE: "the change of each cell by class, position, frequency, surprisal and token type",
        table.CONCENTRATION_TABLE: "how few tokens carry the rise",
        table.TERMS_TABLE: "domain terms",
        table.RANKS_TABLE: "rank of the true token, before and after",
        table.WORDS_TABLE: "the words on which each cell got worse and better, on test and general text",
    }
    examples = (
        "select cell, name, tokens, part, part_lo, part_hi from token_breakdown where factor = 'class' order by part",
        "select cell, word, sum_nats, change from words where direction = 'worse' order by sum_nats desc limit 20",
        "select cell, positions, median_before, median_after from token_ranks",
    )

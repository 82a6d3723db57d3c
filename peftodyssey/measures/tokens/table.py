"""The tables of what single tokens contribute to a change in NLL, and of the words of a domain."""

from __future__ import annotations

from peftodyssey.store.columns import CELL, RECIPE, Columns, interval

BREAKDOWN_TABLE = "token_breakdown.parquet"
CONCENTRATION_TABLE = "concentration.parquet"
TERMS_TABLE = "terms.parquet"
RANKS_TABLE = "token_ranks.parquet"
WORDS_TABLE = "words.parquet"

TOKEN_BREAKDOWN: Columns = {
    **CELL,
    **RECIPE,
    "factor": ("string", "how the scored tokens of test are grouped: class, position, frequency, surprisal, token"),
    "place": ("int32", "order of the group within its factor"),
    "name": ("string", "the group; under token the characters that the token stands for"),
    "token": ("int32", "id of the token, under token only"),
    "tokens": ("int64", "scored tokens of the group"),
    "nll_before": ("float64", "mean NLL of the group under the unquantised base, nats per token"),
    "nll_after": ("float64", "mean NLL of the group after adaptation, nats per token"),
    "sum_nats": ("float64", "change summed over the group, nats; positive: worse"),
    "share": ("float64", "sum_nats divided by the change of all groups; the shares of one factor add up to 1"),
    "part": ("float64", "sum_nats per scored token of the whole text; the parts of one factor add up to delta_nll"),
    **interval("part", "part; empty under token"),
}

CONCENTRATION: Columns = {
    **CELL,
    **RECIPE,
    "unit": ("string", "types: token types, their changes summed; tokens: single tokens of test"),
    "units": ("int64", "number of scored units"),
    "rise_nats": ("float64", "sum of the changes above 0, nats"),
    "fall_nats": ("float64", "sum of the changes below 0, nats"),
    "share_for_50pct": ("float64", "smallest share of the units that accounts for half of rise_nats"),
    "share_for_90pct": ("float64", "smallest share of the units that accounts for 90 % of rise_nats"),
    "gini": ("float64", "Gini coefficient of the changes above 0: 0 if spread evenly, towards 1 for a single unit"),
    "fall_share_for_50pct": ("float64", "beside it: the same of what fell"),
    "fall_gini": ("float64", "the same of what fell"),
    "frequency_share_for_50pct": (
        "float64",
        "beside it: the same if every token had risen equally",
    ),
    "frequency_gini": ("float64", "the same if every token had risen equally"),
    "seed_share_for_50pct": (
        "float64",
        "beside it: the same of the loss of the next seed's cell less this one's, which is chance; empty without one",
    ),
    "seed_gini": ("float64", "the same of the next seed's loss less this one's"),
}

TERMS: Columns = {
    **RECIPE,
    "domain": ("string", "the text adapted to"),
    "place": ("int32", "order of the term, highest z first"),
    "word": ("string", "the word, compared without case"),
    "log_odds": ("float64", "log-odds ratio of the word in the domain against general text, with an informative prior"),
    "z": ("float64", "log_odds divided by its standard deviation over documents"),
    "domain_count": ("int64", "occurrences in the training text that was counted"),
    "domain_documents": ("int64", "files, papers or articles of it that have the word"),
    "general_count": ("int64", "occurrences in the general text"),
}

TOKEN_RANKS: Columns = {
    **CELL,
    **RECIPE,
    "positions": ("string", "which tokens of test: domain_term, or all"),
    "tokens": ("int64", "number of scored tokens"),
    "median_before": ("float64", "median rank of the true token under the unquantised base, from 1"),
    "median_after": ("float64", "median rank after adaptation"),
    "trimmed_before": ("float64", "mean rank without 10 % at either end, under the unquantised base"),
    "trimmed_after": ("float64", "the same after adaptation"),
    "recall_1_before": ("float64", "share of the tokens that the unquantised base ranks first"),
    "recall_1_after": ("float64", "the same after adaptation"),
    "recall_10_before": ("float64", "share of the tokens that the unquantised base ranks among the first 10"),
    "recall_10_after": ("float64", "the same after adaptation"),
    "recall_100_before": ("float64", "share of the tokens that the unquantised base ranks among the first 100"),
    "recall_100_after": ("float64", "the same after adaptation"),
    "recall_10_delta": ("float64", "recall_10_after - recall_10_before; positive: better"),
    **interval("recall_10", "recall_10_delta"),
}

WORDS: Columns = {
    **CELL,
    **RECIPE,
    "split": ("string", "test, or general: all general texts together"),
    "direction": ("string", "worse or better: the list that the word is on, by the sign of sum_nats"),
    "place": ("int32", "order within the list, largest sum first; a list has 40 words at most"),
    "word": ("string", "the word, compared without case; or the characters of tokens that are part of no word"),
    "occurrences": ("int64", "how often it occurs"),
    "documents": ("int64", "documents in which it occurs"),
    "tokens": ("int64", "its scored tokens"),
    "sum_nats": ("float64", "change summed over its tokens, nats; positive: worse"),
    "rise_nats": ("float64", "sum of the changes above 0"),
    "fall_nats": ("float64", "sum of the changes below 0"),
    "nll_before": ("float64", "mean NLL of its tokens under the unquantised base, nats"),
    "nll_after": ("float64", "mean NLL of its tokens after adaptation, nats"),
    "change": ("float64", "sum_nats / tokens: mean change of its tokens, nats"),
    "change_lo": (
        "float64",
        "lower end of the 95 % interval of change, over the clusters in which it occurs; empty with fewer than 8 "
        "effective ones. Words are chosen by their sum on the same text, so those listed first are overstated",
    ),
    "change_hi": ("float64", "upper end of it"),
    "text": ("string", "index of the text of its strongest example"),
    "document": ("int32", "number of the document of that example within the text"),
    "position": ("int32", "position of its token there"),
}

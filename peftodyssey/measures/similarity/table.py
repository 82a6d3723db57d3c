"""The tables of similarity to the pretraining text, and of its correlation with degradation."""

from __future__ import annotations

from peftodyssey.store.columns import MODEL, PRETRAIN_TOKENS, RECIPE, REVISION, Columns, interval

TABLE = "similarity.parquet"
CORRELATION_TABLE = "correlation.parquet"
STATES = "states"  # folder below the output directory: mean hidden states of the chunks of a text
STATES_FILE = "states.safetensors"  # in each of its folders

SIMILARITY: Columns = {
    **RECIPE,
    **MODEL,
    **REVISION,
    **PRETRAIN_TOKENS,
    "domain": ("string", "the text; or the pretraining sample, whose second half is measured like a text"),
    "newline": ("string", "newline policy of the text"),
    "kind": ("string", "text; or floor: the sample's second half, which shows the values of identical distributions"),
    "group": ("string", "group of texts within which the domain is compared: the first part of its name"),
    "documents": ("int64", "documents from which the chunks are drawn"),
    "chunks": ("int64", "chunks of the text, and as many of the reference: the same for all texts of recipe and model"),
    "chunk_tokens": ("int32", "tokens of a chunk"),
    "layer": ("int32", "decoder layer whose states are averaged over each chunk: 0 the embeddings, -1 the last"),
    "mmd2": ("float64", "unbiased squared maximum mean discrepancy to the reference, RBF kernel; 0 to 2 up to noise"),
    "mmd_p": ("float64", "its p-value from 999 permutations of whole documents; empty where a side has fewer than 5"),
    "bandwidth": ("float64", "of the kernel, in units of the states: median distance of two chunks of the reference"),
    "frechet": (
        "float64",
        "squared Fréchet distance of Gaussians with shrunk (OAS) covariances, in squared units of the states",
    ),
    "frechet_bias": (
        "float64",
        "the same between disjoint halves of the reference, with as many chunks: its value for equal distributions",
    ),
    "js_bits": ("float64", "Jensen-Shannon divergence of token counts, 0 to 1 bit"),
    "ngram_overlap": ("float64", "share of the chunks' 5-grams of tokens that are in the reference half of the sample"),
    "near_duplicate_share": (
        "float64",
        "share of the chunks whose set of 5-grams has Jaccard similarity 0.5 or more with a stretch of that half",
    ),
    "base_bpb": ("float64", "bits per byte of the unquantised base on the chunks, read in their documents"),
}

CORRELATION: Columns = {
    **RECIPE,
    **MODEL,
    **REVISION,
    "newline": ("string", "newline policy of the texts"),
    "label": ("string", "the method, with its learning rate where a recipe reports several"),
    "measure": (
        "string",
        "column of similarity.parquet that is correlated with delta_nll at the selected learning rate, mean over seeds",
    ),
    "statistic": ("string", "spearman or pearson"),
    "scope": ("string", "pooled: over all texts; within: differences within groups of texts only"),
    "domains": ("int64", "number of texts"),
    "groups": ("int64", "groups with more than one text; 1 where pooled"),
    "r": (
        "float64",
        "the coefficient; below 0 for mmd2 and js_bits, above 0 for shares: similar texts degrade more",
    ),
    **interval("", "r (Fisher's z)"),
    "p": ("float64", "two-sided p-value from permutations of the texts, within their groups under within"),
    "p_holm": (
        "float64",
        "the same after Holm's correction over the measures; Spearman's of mmd2 over all texts, which was named in "
        "advance, has p",
    ),
    "left_out_lo": ("float64", "smallest coefficient when one text is left out"),
    "left_out_hi": ("float64", "largest coefficient when one text is left out"),
    "note": ("string", "why a value is missing"),
}

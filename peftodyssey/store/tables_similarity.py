"""The tables of likeness to the pretraining text, and of what goes with it. Part of `store.tables`."""

from __future__ import annotations

SIMILARITY: dict[str, tuple[str, str]] = {
    "recipe": ("string", "name of the recipe that measures it"),
    "model": ("string", "name of the base model"),
    "revision": ("string", "revision of the base model"),
    "pretrain_tokens": ("int64", "tokens that the base was pretrained on, where known"),
    "domain": ("string", "the text; or the pretraining sample, whose second half is measured like a text"),
    "newline": ("string", "newline policy of the text"),
    "kind": (
        "string",
        "text, or floor: the sample's second half, which says what each number is where there is nothing to find",
    ),
    "group": ("string", "kind of text that the domain is compared within: the first part of its name"),
    "documents": ("int64", "documents that the chunks come from"),
    "chunks": ("int64", "chunks of the text, and of the reference: as many for every text of a recipe and model"),
    "chunk_tokens": ("int32", "tokens of a chunk"),
    "layer": ("int32", "decoder layer whose states are meant over each chunk: 0 the embeddings, -1 the last"),
    "mmd2": ("float64", "unbiased squared maximum mean discrepancy to the reference, RBF kernel; 0 to 2 up to noise"),
    "mmd_p": ("float64", "its p-value from 999 permutations of whole documents; none where a side has under 5"),
    "bandwidth": ("float64", "of the kernel, in units of the states: median distance of two chunks of the reference"),
    "frechet": (
        "float64",
        "squared Fréchet distance of Gaussians with shrunk (OAS) covariances, in squared units of the states",
    ),
    "frechet_bias": (
        "float64",
        "the same between disjoint halves of the reference, at as many chunks: what 0 looks like",
    ),
    "js_bits": ("float64", "Jensen-Shannon divergence of token counts, 0 to 1 bit"),
    "ngram_overlap": (
        "float64",
        "share of the chunks' 5-grams of tokens that the reference's half of the sample holds",
    ),
    "near_duplicate_share": (
        "float64",
        "share of the chunks whose set of 5-grams has Jaccard similarity 0.5 or more with a stretch of that half",
    ),
    "base_bpb": ("float64", "bits per byte of the unquantised base on the chunks, read in their documents"),
}

CORRELATION: dict[str, tuple[str, str]] = {
    "recipe": ("string", "name of the recipe that measures similarity"),
    "model": ("string", "name of the base model"),
    "revision": ("string", "revision of the base model"),
    "newline": ("string", "newline policy of the texts"),
    "label": ("string", "the method, with its learning rate where a recipe reports several"),
    "measure": (
        "string",
        "column of similarity.parquet that delta_nll is held against, at the selected learning rate, mean over seeds",
    ),
    "statistic": ("string", "spearman or pearson"),
    "scope": ("string", "pooled: over all texts; within: differences within groups of texts alone"),
    "domains": ("int64", "texts that count"),
    "groups": ("int64", "groups that hold more than one text; 1 where pooled"),
    "r": (
        "float64",
        (
            "the coefficient; of mmd2, frechet, js_bits, base_bpb below 0, of the shares above 0: likeness goes with "
            "degradation"
        ),
    ),
    "lo": ("float64", "lower end of its 95 % interval (Fisher's z)"),
    "hi": ("float64", "upper end of its 95 % interval"),
    "p": ("float64", "two-sided p-value of permutations of the texts, within their groups under within"),
    "p_holm": ("float64", "the same held against its family, the measures, by Holm's correction"),
    "left_out_lo": ("float64", "least coefficient when one text is left out"),
    "left_out_hi": ("float64", "largest coefficient when one text is left out"),
    "note": ("string", "why something cannot be given"),
}

"""Names and sizes on which packages that do not import each other have to agree. Floor 0."""

from __future__ import annotations

SPLITS = ("train", "valid", "test")

# Files of text: the endings that are read, and their formats. Each may be compressed as well, which its bytes tell.
TEXT_FORMATS = {
    ".txt": "txt",
    ".md": "txt",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
TEXT_COMPRESSION = (".gz", ".zst", ".bz2", ".xz")

# Files of a token index: written by `corpora`, found by `store`.
INDEX_FILE = "index.parquet"
DOCUMENTS_FILE = "documents.parquet"

# Classes of tokens, in the order of the int8 column `class` of index.parquet.
TOKEN_CLASSES = (
    "newline",
    "space",
    "punctuation",
    "digit",
    "function_word",
    "word_start",
    "continuation",
    "special",
    "other",
)

# Defaults of a scoring pass, by kind of device: `scoring` uses them, `memory` reckons with them.
SCORE_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}  # on a CPU 8192 no longer fit the cache and take 1.5 times as long
HELD_STATES_BYTES = 256 << 20  # of a base's last states that are kept while its tuned model computes the same tokens
SCORE_CHUNK_BYTES = {
    "cpu": 4 << 20,
    "cuda": 256 << 20,
}  # float32 logits of one chunk of rows; 4 MiB stay in a CPU's cache
SCORE_MIN_CHUNK_ROWS = 64  # with fewer rows, reading the head's weights takes longer than computing the logits

WSD_DECAY_SHARE = 0.2  # of all steps of schedule `wsd`; the plateau lies between warmup and this

# What `models` does in its forward pass and `memory` reckons with.
CHUNK_BYTES = 16 << 20  # float32 temporaries of one chunk of rows in RMSNorm and the gated product
VARLEN_ATTENTION = "varlen"  # the attention of `models.varlen_attention` in transformers' registry
MIN_VARLEN_TOKENS_CPU = 512  # tokens of a row from which documents attend without a mask on a CPU
CONFIG_DROPOUT = "_odyssey_config_dropout"  # of a loaded model: {key of its config: dropout probability above 0}
ATTENTION_DROPOUT = "_odyssey_attention_dropout"  # of an attention module: share of its probabilities to drop; of a
# model: that it has such modules
DROP_PROBABILITIES = "_odyssey_drop_probabilities"  # of an attention module, while it computes: what drops them
SEEDED_DROPOUT = "_odyssey_seeded_dropout"  # of a Dropout module: its masks depend on seed, sequence and module alone

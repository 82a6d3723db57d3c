"""How large a scoring pass is where nobody says: what `score.nll` takes and `plan` reckons with. No imports."""

BATCH_TOKENS = {
    "cpu": 2048,
    "cuda": 16384,
}  # larger rectangles fall out of a CPU's cache: 8192 takes half as long again
CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}  # of float32 logits: on a CPU they stay in the cache
MIN_CHUNK_ROWS = 64  # fewer, and reading the head's weights costs more than the logits

"""What every test runs under: short spins of idle threads, no network, no progress of other libraries."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does, before torch is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("ours", deadline=None)  # an example's time says nothing of a machine that does other work too
settings.load_profile("ours")

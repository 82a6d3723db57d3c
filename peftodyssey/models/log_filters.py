"""Filters for progress bars, warnings and advice of transformers, peft and bitsandbytes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

_KERNELS_ADVICE = "Failed to load CPU gemm_4bit_forward from kernels-community"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, warnings or advice while the body runs; afterwards as before."""
    from transformers.utils import logging as transformers_logging

    hide_kernels_advice()
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|bitsandbytes|accelerate|peft)(\.|$)")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def hide_kernels_advice() -> None:
    """Filters out bitsandbytes' advice to install compiled kernels; its other warnings stay."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    if _not_kernels_advice not in logger.filters:
        logger.addFilter(_not_kernels_advice)


def _not_kernels_advice(record: logging.LogRecord) -> bool:
    return _KERNELS_ADVICE not in record.getMessage()

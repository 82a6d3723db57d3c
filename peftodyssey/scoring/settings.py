"""How a model is run when it is scored, whatever it is scored on."""

from __future__ import annotations

from dataclasses import dataclass

from peftodyssey.constants import SCORE_BATCH_TOKENS


@dataclass(frozen=True)
class ScoreSettings:
    """How forward passes are run. Which tokens are scored is `recipe.cell.ScoreSpec`.

    Under `precision` bf16 or fp16 products are computed in it whatever the weights' type, so that a base and a model
    trained from it in float32 are compared in the same way.
    """

    device: str = "cpu"
    batch_tokens: int | None = None  # of one forward pass, halved where memory runs out; None: by the device
    budget_bytes: int | None = None  # resident memory of the process, heeded on a CPU only
    layout: str = "padded"  # padded | packed, see `scoring.batches`
    precision: str = "fp32"  # fp32 | bf16 | fp16

    def __post_init__(self) -> None:
        assert self.layout in ("padded", "packed"), self.layout

    @property
    def tokens_per_batch(self) -> int:
        """`batch_tokens`, or the default of the device."""
        device_type = self.device.partition(":")[0]
        return self.batch_tokens or SCORE_BATCH_TOKENS.get(device_type, SCORE_BATCH_TOKENS["cpu"])

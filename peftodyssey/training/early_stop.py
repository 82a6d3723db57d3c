"""Early stop on general text: a training ends when that text has become worse than its bound allows. Used by
`train.loop`.

The text is looked at before the first step, evenly over the steps, and after the last one. The weights that are kept
are those of the last look within the bound; they wait in host memory, and a saved state has them, so that a resumed
training ends with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from peftodyssey.training.settings import EarlyStopSettings

NUM_EVALS, KEPT = "early_stop.looks", "early_stop.kept/"
GeneralNll = Callable[[], float]  # of the model as it stands, nats per token


@dataclass
class EarlyStopping:
    """What was seen so far, and the weights of the last look within the bound."""

    bound: EarlyStopSettings
    at_steps: frozenset[int]
    general_nll: GeneralNll
    seen: list[tuple[int, float]] = field(default_factory=list)  # step, NLL in nats per token
    kept: dict[str, Tensor] = field(default_factory=dict)

    def rises(self) -> list[tuple[int, float]]:
        """(step, nats above the start) of every look; what is not a number counts as above any bound."""
        base = self.seen[0][1] if self.seen else 0.0
        return [(step, nll - base if math.isfinite(nll) else math.inf) for step, nll in self.seen]

    @property
    def kept_step(self) -> int:
        """The step of the last look within the bound."""
        return max((step for step, rise in self.rises() if rise <= self.bound.general_nats), default=0)

    @property
    def stopped(self) -> bool:
        """Whether the last looks were all above the bound, as many as the patience."""
        last = self.rises()[-self.bound.patience :]
        return len(last) == self.bound.patience and all(rise > self.bound.general_nats for _, rise in last)

    def evaluate(self, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        """Scores the general text after `step` steps and keeps the weights where it is within the bound."""
        self.seen.append((step, self.general_nll()))
        if self.kept_step == step:
            self.kept = {name: p.detach().to("cpu", copy=True) for name, p in trainable.items()}

    def due(self, step: int) -> bool:
        """Whether the text is to be looked at after `step` steps, and was not yet."""
        return step in self.at_steps and all(seen < step for seen, _ in self.seen)

    def restore_best(self, trainable: Mapping[str, nn.Parameter]) -> None:
        """The weights of the last look within the bound."""
        with torch.no_grad():
            for name, parameter in trainable.items():
                parameter.copy_(self.kept[name])

    def state_tensors(self) -> dict[str, Tensor]:
        """All of it by name, that `restore` takes back."""
        return {
            NUM_EVALS: torch.tensor(self.seen, dtype=torch.float64),
            **{KEPT + name: of for name, of in self.kept.items()},
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state_tensors` gave."""
        self.seen = [(int(step), nll) for step, nll in tensors[NUM_EVALS].tolist()]
        self.kept = {name.removeprefix(KEPT): of for name, of in tensors.items() if name.startswith(KEPT)}


def watch(bound: EarlyStopSettings | None, steps: int, general_nll: GeneralNll | None) -> EarlyStopping | None:
    """The watch over a training of so many steps; None where nothing bounds it."""
    if bound is None:
        return None
    assert general_nll is not None, "an early stop needs the general text"
    looks = min(bound.num_evals, steps)
    return EarlyStopping(
        bound, frozenset({0, *(round(steps * (look + 1) / looks) for look in range(looks))}), general_nll
    )

"""Early stopping on general text: a training ends when that text has become worse than its bound allows.

The text is scored before the first step, at even distances, and after the last step. The weights that are kept are
those of the last evaluation within the bound; they wait in host memory and are part of every checkpoint, so that a
resumed training ends with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from peftodyssey.training.settings import EarlyStopSettings

EVALS_KEY, BEST_WEIGHTS_KEY = "early_stop.evals", "early_stop.best_weights/"  # names of tensors in a checkpoint


@dataclass
class EarlyStopping:
    """The evaluations so far, and the weights of the last one within the bound."""

    settings: EarlyStopSettings
    eval_steps: frozenset[int]
    general_nll: Callable[[], float]  # of the current model, nats per token
    evals: list[tuple[int, float]] = field(default_factory=list)  # step, NLL in nats per token
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def rises(self) -> list[tuple[int, float]]:
        """(step, rise over the first evaluation in nats) of each evaluation; NaN counts as above any bound."""
        base = self.evals[0][1] if self.evals else 0.0
        return [(step, nll - base if math.isfinite(nll) else math.inf) for step, nll in self.evals]

    @property
    def best_step(self) -> int:
        """The step of the last evaluation within the bound."""
        return max((step for step, rise in self.rises() if rise <= self.settings.general_nats), default=0)

    @property
    def should_stop(self) -> bool:
        """Whether the last `patience` evaluations were all above the bound."""
        last = self.rises()[-self.settings.patience :]
        return len(last) == self.settings.patience and all(rise > self.settings.general_nats for _, rise in last)

    def is_due(self, step: int) -> bool:
        """Whether the text is to be scored after `step` steps, and was not yet."""
        return step in self.eval_steps and all(evaluated < step for evaluated, _ in self.evals)

    def evaluate(self, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        """Scores the general text after `step` steps and keeps the weights where it is within the bound."""
        self.evals.append((step, self.general_nll()))
        if self.best_step == step:
            self.best_weights = {name: p.detach().to("cpu", copy=True) for name, p in trainable.items()}

    def restore_best(self, trainable: Mapping[str, nn.Parameter]) -> None:
        """Puts back the weights of the last evaluation within the bound."""
        with torch.no_grad():
            for name, parameter in trainable.items():
                parameter.copy_(self.best_weights[name])

    def state_tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, for `load_state_tensors`."""
        weights = {BEST_WEIGHTS_KEY + name: weight for name, weight in self.best_weights.items()}
        return {EVALS_KEY: torch.tensor(self.evals, dtype=torch.float64), **weights}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state_tensors` gave; other names are ignored."""
        self.evals = [(int(step), nll) for step, nll in tensors[EVALS_KEY].tolist()]
        names = [name for name in tensors if name.startswith(BEST_WEIGHTS_KEY)]
        self.best_weights = {name.removeprefix(BEST_WEIGHTS_KEY): tensors[name] for name in names}


def early_stopping(
    settings: EarlyStopSettings | None, steps: int, general_nll: Callable[[], float] | None
) -> EarlyStopping | None:
    """Early stopping for a training of `steps` steps; None where it is off."""
    if settings is None:
        return None
    assert general_nll is not None, "early stopping needs the NLL of general text"
    evals = min(settings.num_evals, steps)
    at_steps = frozenset({0, *(round(steps * (index + 1) / evals) for index in range(evals))})
    return EarlyStopping(settings, at_steps, general_nll)

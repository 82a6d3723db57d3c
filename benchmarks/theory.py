"""The two-layer linear network in which longer pretraining is known to cost more: what the measuring code must find.

    python benchmarks/theory.py

y = W2 W1 x, whitened inputs, so that the loss is |W2 W1 - A|^2 / 2 (arXiv 2503.19206, section 4). From a small balanced
start gradient descent learns the singular directions of A one after another, the largest first (Gidel et al. 2019).
Noise of a fixed size, and fine-tuning on a task whose directions are elsewhere, cost more of the pretraining loss the
longer it went on; pulling the weights to where they started (L2-SP) delays that. `tests/measure/test_theory.py` asserts
it. numpy, float64, seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH = 12
VALUES = 2.0 ** -np.arange(8)  # singular values of the pretraining task; the other directions carry nothing
START = 1e-4  # scale of the balanced start
RATE = 0.05


@dataclass(frozen=True)
class Rung:
    """The weights after so many steps of pretraining."""

    steps: int
    w1: np.ndarray
    w2: np.ndarray


def task(values: np.ndarray, seed: int) -> np.ndarray:
    """A linear map [WIDTH, WIDTH] with these singular values in directions drawn from `seed`."""
    draw = np.random.default_rng(seed)
    left, right = (np.linalg.qr(draw.standard_normal((WIDTH, WIDTH)))[0] for _ in range(2))
    return left[:, : len(values)] * values @ right[:, : len(values)].T


def loss(w1: np.ndarray, w2: np.ndarray, target: np.ndarray) -> float:
    """Half the squared distance of the product to the task."""
    return float(0.5 * np.square(w2 @ w1 - target).sum())


def descend(
    w1: np.ndarray, w2: np.ndarray, target: np.ndarray, steps: int, rate: float = RATE, pull: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient descent on the loss and `pull` / 2 times the squared distance to the first weights."""
    start1, start2 = w1.copy(), w2.copy()
    for _ in range(steps):
        error = w2 @ w1 - target
        step1, step2 = w2.T @ error + pull * (w1 - start1), error @ w1.T + pull * (w2 - start2)
        w1, w2 = w1 - rate * step1, w2 - rate * step2
    return w1, w2


def pretrain(target: np.ndarray, at: Sequence[int], seed: int = 0) -> list[Rung]:
    """The weights after each of the steps `at`, from a small balanced start in random directions."""
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)))[0]
    w1, w2, done, rungs = START * turn, START * turn.T, 0, []
    for steps in sorted(at):
        w1, w2 = descend(w1, w2, target, steps - done)
        done = steps
        rungs.append(Rung(steps, w1, w2))
    return rungs


def learned(rung: Rung, target: np.ndarray) -> np.ndarray:
    """Share of each singular value of the task that the product holds, the largest first; 1: learned."""
    left, values, right = np.linalg.svd(target)
    kept = values > 1e-9
    product = np.einsum("ik,ij,kj->k", left, rung.w2 @ rung.w1, right)
    return product[kept] / values[kept]


def rises(rung: Rung, target: np.ndarray, gamma: float, pairs: int, seed: int = 0) -> np.ndarray:
    """Rise of the pretraining loss under noise of standard deviation gamma on both layers, mean of +eps and -eps,
    [pairs].
    """
    base = loss(rung.w1, rung.w2, target)
    rises = []
    for pair in range(pairs):
        draw = np.random.default_rng((seed, pair))
        e1, e2 = gamma * draw.standard_normal((WIDTH, WIDTH)), gamma * draw.standard_normal((WIDTH, WIDTH))
        rises.append(np.mean([loss(rung.w1 + sign * e1, rung.w2 + sign * e2, target) for sign in (1, -1)]) - base)
    return np.array(rises)


def forgetting(
    rung: Rung, target: np.ndarray, other: np.ndarray, steps: int = 20, pull: float = 0.0
) -> tuple[float, float]:
    """(rise of the pretraining loss, fall of the new task's loss) by fine-tuning on `other` at a fixed rate for so many
    steps.
    """
    w1, w2 = descend(rung.w1, rung.w2, other, steps, pull=pull)
    return loss(w1, w2, target) - loss(rung.w1, rung.w2, target), loss(rung.w1, rung.w2, other) - loss(w1, w2, other)


def main() -> None:
    """Print what the network does."""
    target, other = task(VALUES, 1), task(VALUES, 2)
    print("steps   learned  base loss  noise 0.1  fine-tuned  with L2-SP")
    for rung in pretrain(target, (200, 400, 800, 1600, 3200, 6400)):
        noise = rises(rung, target, 0.1, 50).mean()
        plain, held = forgetting(rung, target, other)[0], forgetting(rung, target, other, pull=1.0)[0]
        directions = int((learned(rung, target) > 0.5).sum())
        print(
            f"{rung.steps:5d} {directions:9d} {loss(rung.w1, rung.w2, target):10.4f} {noise:10.4f} {plain:11.4f} "
            f"{held:11.4f}"
        )


if __name__ == "__main__":
    main()

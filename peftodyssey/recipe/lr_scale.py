"""The scale of learning rates: 1 and 3 in every power of ten, as people write them."""

from __future__ import annotations

import math


def step_of(lr: float) -> int:
    """The number of the scale's rate that is nearest to `lr` in log rate; 0 is 1, 1 is 3, -1 is 0.3."""
    power = math.floor(math.log10(lr))
    log = math.log10(lr) - power
    places = (0.0, math.log10(3.0), 1.0)
    return 2 * power + min(range(3), key=lambda place: abs(log - places[place]))


def rate_of(step: int) -> float:
    """The scale's rate with this number, as the float that a recipe's text gives."""
    power, place = divmod(step, 2)
    return float(f"{(1, 3)[place]}e{power}")


def next_lr(lr: float, edge: str) -> float:
    """The next learning rate outside of a grid whose `edge` (low or high) is `lr`."""
    mantissa, exponent = f"{lr:.2e}".split("e")
    power = 2 * int(exponent)
    if edge == "high":
        return rate_of(power + (1 if float(mantissa) < 2.5 else 2))
    return rate_of(power - (0 if float(mantissa) > 2.0 else 1))

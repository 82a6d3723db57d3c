"""What the measure adds to the results."""

from __future__ import annotations

from peftodyssey.store.columns import Columns

RESULTS: Columns = {
    "kl_target": (
        "float64",
        "mean KL(base || tuned) of the predictions on the test text, nats per token; the base as the cell was trained "
        "on it, quantised or not",
    ),
    "kl_general": ("float64", "the same on the general text"),
    "changed_guesses_target": ("float64", "share of the test text's tokens whose likeliest prediction changed"),
    "changed_guesses_general": ("float64", "the same on the general text"),
    "forgetting_slope": (
        "float64",
        "gradient of the general text's loss at the base times the update, nats per token; from losses at a tenth of "
        "the update, forwards and backwards",
    ),
    "forgetting_curvature": (
        "float64",
        "half the curvature of the same loss along the update times the update's squared length, nats per token; slope "
        "+ curvature is forgetting by training to second order, and the rest is of higher order",
    ),
}

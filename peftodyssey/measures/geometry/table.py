"""The table of how far each weight moved, and what it adds to the results."""

from __future__ import annotations

from peftodyssey.store.columns import CELL, Columns

FILE = "geometry.parquet"

GEOMETRY: Columns = {
    **CELL,
    "recipe": ("string", "name of the recipe that asked for the row; empty in the cell's own table"),
    "matrix": ("string", "name of the weight in the base; weights that did not change have no row"),
    "rows": ("int64", "outputs of a matrix, length of a vector"),
    "columns": ("int64", "inputs of a matrix; empty for a vector"),
    "update_norm": ("float64", "Frobenius norm of the update"),
    "base_norm": ("float64", "Frobenius norm of the base's weight, dequantised where it is quantised"),
    "relative_norm": ("float64", "update_norm / base_norm"),
    "spectral_norm": (
        "float64",
        "largest singular value of the update; this and the next columns only for linear layers of decoder layers",
    ),
    "stable_rank": ("float64", "squared Frobenius norm of the update divided by its squared spectral norm"),
    "effective_rank": ("float64", "exponential of the entropy of the update's singular values, normalised to sum 1"),
    "angle_mean_degrees": (
        "float64",
        "mean principal angle between the spans of the 10 strongest left singular vectors, base and tuned",
    ),
    "angle_largest_degrees": ("float64", "largest of these angles"),
    "intruders": (
        "int32",
        "of the tuned matrix's 10 strongest left singular vectors, those with |cosine| < 0.5 to each one of the base's",
    ),
}

RESULTS: Columns = {
    "update_norm_relative": (
        "float64",
        "Frobenius norm of the update over that of all weights of the base, where geometry was measured",
    ),
    "effective_rank_mean": ("float64", "mean effective rank of the updates of the decomposed matrices"),
    "intruder_dimensions": (
        "float64",
        "intruder dimensions among the 10 strongest of a tuned matrix, mean over the decomposed matrices",
    ),
    "decomposed_layers": (
        "string",
        "number of decoder layers whose matrices were decomposed, of all: of a large model only a sample",
    ),
}

"""The table of predictors of forgetting."""

from __future__ import annotations

from peftodyssey.store.columns import MODEL, RECIPE, REVISION, Columns

TABLE = "predictors.parquet"

PREDICTORS: Columns = {
    **RECIPE,
    **MODEL,
    **REVISION,
    "domain": ("string", "the text adapted to"),
    "predictor": (
        "string",
        "learning, or a column of the results; directional_sharpness is forgetting_curvature over the squared "
        "update_norm_relative, second_order is forgetting_slope + forgetting_curvature",
    ),
    "on_general": ("bool", "whether the predictor is itself measured on the general text, so that it explains little"),
    "left_out": ("string", "the method whose cells are foretold from all others; empty: each in turn"),
    "cells": ("int64", "cells that are foretold"),
    "spearman": ("float64", "rank correlation of predictor and forgetting by training over all cells"),
    "skill": (
        "float64",
        "1 - squared error of the forecast over that of the other methods' mean: 1 foretells all, 0 no more than that "
        "mean, below 0 less",
    ),
    "rmse": ("float64", "root mean square error of the forecast, nats per token"),
}

"""What limits the statements of a report, as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from peftodyssey.display.result_text import (
    UNIT,
    Row,
    coordinates,
    format_lr,
    grouped,
    learning_rate,
    method_name,
    seed_groups,
    selected_cells,
    text_name,
)
from peftodyssey.stats.seed_variance import least_significant_difference, noise_floor


def caveats(rows: Sequence[Row]) -> list[str]:
    """What limits the statements, what matters most first."""
    return [
        *_missing(rows),
        *_edges(rows),
        *_few_documents(rows),
        *_noise_between_seeds(rows),
        *_versions(rows),
        *_failed(rows),
    ]


def _few_documents(rows: Sequence[Row]) -> list[str]:
    few = {(text_name(row), row["reason"]) for row in rows if row["status"] == "done" and row.get("reason")}
    named = "; ".join(f"{text}: {reason}" for text, reason in sorted(few))
    return [f"Without an interval: {named}."] if named else []


def _noise_between_seeds(rows: Sequence[Row]) -> list[str]:
    groups = seed_groups(rows)
    if not groups:
        return []
    floor = noise_floor([[row["delta_nll"] for row in group] for group in groups])
    if floor.std is None:
        return [
            "There is one seed per setting, so the noise between training runs is unknown: the intervals cover the "
            "choice of test documents only."
        ]
    seeds = min(len(group) for group in groups if len(group) > 1)
    least = least_significant_difference(floor, seeds, seeds)
    return [
        f"Noise between seeds: {floor.std:.4f} {UNIT} (pooled standard deviation of the change on test over "
        f"{floor.n_groups} settings, {floor.degrees_of_freedom} degrees of freedom). With {seeds} seeds each, two "
        f"methods differ significantly (95 %) only by more than {least:.4f}."
    ]


def _edges(rows: Sequence[Row]) -> list[str]:
    """The selected learning rates that may not be the best, in one sentence."""
    edges = sorted(
        {(method_name(row), learning_rate(row), text_name(row)) for row in selected_cells(rows) if row.get("lr_edge")}
    )
    named = [
        f"{method}, {lr} on {', '.join(text for _, _, text in group)}"
        for (method, lr), group in grouped(edges, lambda edge: edge[:2]).items()
    ]
    return [f"A better learning rate may lie outside of what was tried: {'; '.join(named)}."] if named else []


def _missing(rows: Sequence[Row]) -> list[str]:
    notes = []
    if pending := sum(row["status"] == "pending" for row in rows):
        notes.append(f"{pending} of {len(rows)} cells are not finished; run the recipe again to resume.")
    if stopped := sum(row["status"] == "stopped" for row in rows):
        notes.append(
            f"{stopped} of {len(rows)} cells were stopped early by successive halving, by their validation loss."
        )
    if failed := sum(row["status"] == "failed" for row in rows):
        notes.append(f"{failed} of {len(rows)} cells failed.")
    return notes


def _failed(rows: Sequence[Row]) -> list[str]:
    return [
        f"{method_name(row)} on {text_name(row)}{coordinates(row, rows)}, lr {format_lr(row['lr'])} failed: "
        f"{row['reason']}"
        for row in rows
        if row["status"] == "failed"
    ]


def _versions(rows: Sequence[Row]) -> list[str]:
    versions = {row["versions"] for row in rows if row.get("versions")}
    if len(versions) < 2:
        return []
    return [
        f"The cells were trained with {len(versions)} different sets of library versions; `run --refresh stale` "
        "retrains the older ones."
    ]

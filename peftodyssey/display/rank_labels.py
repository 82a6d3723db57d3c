"""Labels of methods without their rank, and the rules that give an alpha."""

from __future__ import annotations

from peftodyssey.display.result_text import Row

MIN_RANKS_DRAWN = 2  # for a figure over ranks


def label_without_rank(row: Row) -> str:
    """The label without rank and alpha: what the cells of a family share (`lora dora`)."""
    return " ".join(word for word in str(row["label"]).split(" ") if not word.startswith(("r=", "alpha=")))


def alpha_rules(row: Row) -> list[str]:
    """The rules that give this alpha at this rank: 2r and the number, or the number alone."""
    number = f"{row['alpha']:g}"
    return ["2r", number] if row["alpha"] == 2 * row["rank"] else [number]

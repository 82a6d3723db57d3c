"""Columns that several tables share."""

from __future__ import annotations

Columns = dict[str, tuple[str, str]]  # name -> (type, what it is)

CELL: Columns = {"cell": ("string", "first 16 hex digits of the cell's identity")}
RECIPE: Columns = {"recipe": ("string", "name of the recipe that asked for the row")}
MODEL: Columns = {"model": ("string", "name of the base model")}
REVISION: Columns = {"revision": ("string", "revision of the base model")}
PRETRAIN_TOKENS: Columns = {"pretrain_tokens": ("int64", "tokens that the base was pretrained on, where known")}
ARM: Columns = {"arm": ("string", "ladder arm of the base (trunk or annealed), where known")}
UPDATE_CELL: Columns = {
    "cell": ("string", "of an update: first 16 hex digits of the cell's identity"),
    "label": ("string", "of an update: the cell's method"),
    "lr": ("float64", "of an update: the cell's learning rate"),
    "seed": ("int64", "of an update: the cell's seed"),
}


def interval(name: str, of: str = "") -> Columns:
    """The columns `<name>_lo` and `<name>_hi` (lo and hi without a name): a 95 % interval of `of`, or `name`."""
    prefix = f"{name}_" if name else ""
    return {
        f"{prefix}lo": ("float64", f"lower end of the 95 % interval of {of or name}"),
        f"{prefix}hi": ("float64", "upper end of it"),
    }

"""What `check`, `plan` and `run` say of searches for a learning rate: this round, and the most that all rounds take."""

from __future__ import annotations

from peftodyssey.plan.tasks import Plan


def search_lines(plan: Plan) -> list[str]:
    """The cells of the round that the plan is of, and the most; nothing where every rate is written out."""
    if not plan.searches:
        return []
    cells = {group: [task.cell for task in plan.cells if task.entry["group"] == group] for group in plan.searches}
    number, most = 1, len(plan.cells)
    for group, search in plan.searches.items():
        rates = {cell.method.lr for cell in cells[group]}
        number = max(number, 1 + len(rates - set(search["first_rates"])))
        seeds = len({cell.seed for cell in cells[group]})
        most += max(search["max_cells"] // seeds * seeds - len(cells[group]), 0)
    there = f"{len(plan.searches)} searches" if len(plan.searches) > 1 else "one search"
    return [
        f"learning rates: {there} (tune: auto), round {number}: {len(plan.cells)} cells with all rounds before; "
        f"at most {most} cells in all rounds (max_cells)"
    ]

"""What noise on the weights costs: of the base, and along the updates of cells, against low rank and rounding."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.noise import table
from peftodyssey.measures.noise.spec import SPEC


class WeightNoise(Measure):
    """The rise of the loss when a base's weights move by noise, by rounding or along an update; critical steps."""

    spec = SPEC
    reads = ("contrast",)
    shows = ("sensitivity",)
    tables = {table.TABLE: table.NOISE, table.SHARPNESS_TABLE: table.SHARPNESS}
    files = {table.SHIFTS_FILE: table.SHIFTS}
    views = {table.TABLE: "loss under weight noise", table.SHARPNESS_TABLE: "critical steps"}
    examples = ("select kind, gamma, avg(rise_nats) as rise from noise group by all order by kind, gamma",)

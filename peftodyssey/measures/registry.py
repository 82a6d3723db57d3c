"""Every measure, one line each, in the order of planning, of collecting and of the report's sections.

Sections keep that order within each place of the page (`Section.place`). A measure that reads another one stands behind
it. The generated pages of the documentation:

python -m peftodyssey.measures.registry tables > docs/tables.md
python -m peftodyssey.measures.registry recipes > docs/recipes.md
"""

from __future__ import annotations

import sys

from peftodyssey.measures.contrast import MethodContrast
from peftodyssey.measures.degradation import Degradation
from peftodyssey.measures.divergence import PredictionDivergence
from peftodyssey.measures.forgetting import Forgetting
from peftodyssey.measures.geometry import Geometry
from peftodyssey.measures.learning_curves import LearningCurves
from peftodyssey.measures.learning_rates import LearningRates
from peftodyssey.measures.lora_ranks import LoraRanks
from peftodyssey.measures.measure import Measure
from peftodyssey.measures.multiple_choice import MultipleChoice
from peftodyssey.measures.newlines import Newlines
from peftodyssey.measures.noise import WeightNoise
from peftodyssey.measures.overlap import TextOverlap
from peftodyssey.measures.predictors import Predictors
from peftodyssey.measures.sensitivity import Sensitivity
from peftodyssey.measures.similarity import TextSimilarity
from peftodyssey.measures.tokens import Tokens
from peftodyssey.measures.transfer import Transfer
from peftodyssey.measures.wise_ft import WiseFt
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.reference import markdown as recipes
from peftodyssey.store import tables

MEASURES: tuple[Measure, ...] = (
    MethodContrast(),
    Degradation(),
    Forgetting(),
    LearningCurves(),
    LearningRates(),
    LoraRanks(),
    WeightNoise(),
    Sensitivity(),
    MultipleChoice(),
    Geometry(),
    PredictionDivergence(),
    Predictors(),
    WiseFt(),
    TextSimilarity(),
    TextOverlap(),
    Transfer(),
    Newlines(),
    Tokens(),
)
MEASURES_BY_NAME: dict[str, Measure] = {measure.name: measure for measure in MEASURES}
SPECS: tuple[MeasureSpec, ...] = tuple(measure.spec for measure in MEASURES)


def document(name: str) -> str:
    """A generated page of the documentation: `tables` or `recipes`."""
    return recipes(SPECS) if name == "recipes" else tables.markdown(tables.every_table(MEASURES))


if __name__ == "__main__":
    print(document(sys.argv[1]), end="")

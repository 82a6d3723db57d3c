"""What is known of the texts of a recipe before they are used: how each is read, and rows that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftodyssey.corpora.documents import check_splits
from peftodyssey.corpora.survey import Survey, read_as, survey
from peftodyssey.errors import InputError, OdysseyError
from peftodyssey.methods.registry import METHODS
from peftodyssey.plan.sources import Sources
from peftodyssey.recipe.cell import Cell, CorpusSpec


def _texts(cells: Sequence[Cell]) -> Iterator[tuple[str, Cell, CorpusSpec]]:
    """(key of the recipe, the first cell that reads it, text) for each text once, those of domains first."""
    seen: set[str] = set()
    of_domains = [("domains", cell, cell.domain) for cell in cells]
    of_general = [("general", cell, spec) for cell in cells for spec in cell.general]
    of_methods = [("methods", c, spec) for c in cells for spec in (c.replay, c.early_stop_text) if spec is not None]
    for key, cell, spec in (*of_domains, *of_general, *of_methods):
        if spec.name not in seen:
            seen.add(spec.name)
            yield key, cell, spec


def survey_texts(cells: Sequence[Cell], sources: Sources) -> Iterator[tuple[str, OdysseyError]]:
    """Surveys the local texts into `sources`; (key of the recipe, error) where rows cannot be used or a split is empty.

    Other sources are large, and some are not here yet.
    """
    trained = {cell.domain.name for cell in cells if METHODS[cell.method.method].trains}
    for key, cell, spec in _texts(cells):
        corpus = sources.corpora[spec.name]
        if corpus.kind != "local":
            continue
        try:
            chat = sources.chat(cell, corpus)
            sources.surveys[spec.name] = survey(corpus, chat)
            if key == "domains":
                wanted = [split for split in corpus.splits if split != "train" or spec.name in trained]
                check_splits(corpus, wanted, chat)
        except OdysseyError as error:
            yield key, error


def shared_files(cells: Sequence[Cell], sources: Sources) -> Iterator[OdysseyError]:
    """General texts that are a file of a domain: losses on them would be called forgetting."""
    for domain, general in dict.fromkeys((cell.domain.name, spec.name) for cell in cells for spec in cell.general):
        files = {file.resolve() for file in sources.corpora[domain].files}
        shared = [file for file in sources.corpora[general].files if file.resolve() in files]
        if shared:
            yield InputError(
                f"{general} is the same text as the domain {domain}: both read {shared[0]}, and forgetting is measured "
                "on text that is not adapted to",
                "name another text under `general`, such as bundled/wiki_general",
            )


def text_notes(cells: Sequence[Cell], sources: Sources) -> tuple[str, ...]:
    """A sentence for each text on how it is read; the bundled ones need none."""
    objective = cells[0].train.objective if cells else None
    return tuple(
        read_as(
            sources.corpora[spec.name],
            sources.surveys.get(spec.name, Survey()),
            objective if key == "domains" else None,
            cell.score.tokens,
        )
        for key, cell, spec in _texts(cells)
        if sources.corpora[spec.name].kind != "bundled"
    )

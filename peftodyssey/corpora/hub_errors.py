"""What can go wrong between here and the Hub, as sentences. Called by corpora.hub and corpora.m2d2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peftodyssey.errors import CorpusError


@contextmanager
def hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Turns the Hub's errors about data set `name` into CorpusError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise CorpusError(
            f"data set {name} has no revision {revision!r}", "use a branch, tag or commit of it"
        ) from error
    except errors.GatedRepoError as error:
        raise CorpusError(
            f"data set {name} is gated", "accept its terms on its Hub page, then `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CorpusError(
            f"there is no data set {name!r} on the Hub, or you may not read it",
            "check the spelling (hub:owner/name), or `hf auth login`; a path on this computer needs no `hub:`",
        ) from error
    except (errors.HTTPError, OSError) as error:  # errors.HTTPError: that of the client the Hub library brings
        raise CorpusError(
            f"the Hub cannot be reached for {name}: {error}",
            "connect (unset HF_HUB_OFFLINE), or download it and give a path",
        ) from error

"""Fixtures that several test files share."""

import pytest


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """An artefact cache of the module's own, and no RETRAIN: what it computes is computed once and thrown away."""
    with pytest.MonkeyPatch.context() as m:
        m.setenv("COP_CACHE", str(tmp_path_factory.mktemp("cache")))
        m.delenv("COP_RETRAIN_SINCE", raising=False)
        yield

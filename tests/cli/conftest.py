"""Fixtures for the tests of several verbs."""

import pytest

from tests.small_models import untrained


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, compile_fast):
    """An export of a model that was never trained."""
    folder = tmp_path_factory.mktemp("export")
    untrained().save(folder)
    return folder

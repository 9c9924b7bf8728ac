"""Factories for pipelines in files."""

import textwrap

import pytest

from eventcore.config.load import load_config
from eventcore.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    """Write a pipeline file and load it."""

    def load(text, **environ):
        path = tmp_path / "eventcore.toml"
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return load_config(path, environ=environ)

    return load


@pytest.fixture
def mistakes(load):
    """Load a pipeline that has mistakes; return them."""

    def mistakes(text, **environ):
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        return caught.value.mistakes

    return mistakes

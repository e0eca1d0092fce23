"""Tests of `files`."""

import pathlib

import pytest

from geco_jax.io import files


@pytest.mark.parametrize(
  ('environment', 'expected'),
  [
    ({'GECO_JAX_CACHE': '/a', 'XDG_CACHE_HOME': '/b'}, '/a'),
    ({'XDG_CACHE_HOME': '/b', 'HOME': '/c'}, '/b/geco_jax'),
    ({'HOME': '/c'}, '/c/.cache/geco_jax'),
  ],
)
def test_the_cache_follows_the_environment(monkeypatch, environment, expected):
  for name in ('GECO_JAX_CACHE', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert files.cache_folder() == pathlib.Path(expected)

"""Parts of one's own: the modules that a config imports, and what they enter.

`config.imports` names modules, which every command that builds from the config
imports; each enters its constraints, models and so on in the package's dicts
(docs/own_parts.md). So every process of a run has them.
"""

from collections.abc import Iterable, Mapping
import difflib
import functools
import importlib
import os
import pkgutil
import sys
import traceback
from typing import Any, TypeVar

from geco_jax.errors import UserError

_T = TypeVar('_T')


class Registry(dict[str, _T]):
  """The parts that configs can name, by name; they are not replaced.

  A function that is defined again, by a module or a notebook's cell that is run
  again, takes the place of the one before.
  """

  def __init__(
    self,
    kind: str,
    parts: Mapping[str, _T],
    form: type | None = None,
  ):
    """Enter the package's own parts.

    Args:
      kind: what people call one of them.
      parts: by name.
      form: the type of a part; None is a function.
    """
    super().__init__(parts)
    self._kind, self._form = kind, form
    self._neighbor: Mapping[str, Any] = {}

  def share_names_with(self, other: 'Registry[Any]') -> None:
    """Refuse names of another registry here, and those from here there."""
    self._neighbor, other._neighbor = other, self

  def __setitem__(self, name: str, part: _T) -> None:
    """Enter a part.

    Raises:
      UserError: if the name is another part's, or name or part is of another
        form.
    """
    if not isinstance(name, str) or not name.isidentifier():
      raise UserError(
        f'{self._kind} {name!r}: a name is made of letters, digits and _'
      )
    fits = isinstance(part, self._form) if self._form else callable(part)
    if not fits:
      form = self._form.__name__ if self._form else 'function'
      raise UserError(
        f'{self._kind} {name!r} must be a {form}, got {type(part).__name__}'
      )
    if name in self._neighbor or (
      name in self and _origin(self[name]) != _origin(part)
    ):
      place = f', {_origin(self[name])}' if name in self else ''
      raise UserError(
        f'{self._kind} {name!r} is there already{place}; choose another name'
      )
    super().__setitem__(name, part)

  def update(self, *args: Any, **kwargs: _T) -> None:
    """Enter several parts."""
    for name, part in dict(*args, **kwargs).items():
      self[name] = part

  def __ior__(self, parts: Any) -> 'Registry[_T]':
    """Enter several parts."""
    self.update(parts)
    return self

  def setdefault(self, name: str, part: Any = None) -> _T:
    """Enter a part unless its name is there; return the one that is."""
    if name not in self:
      self[name] = part
    return self[name]


def _origin(part) -> str:
  """Return where a part's function was defined."""
  function = getattr(part, 'make', part)
  while isinstance(function, functools.partial):
    function = function.func
  name = getattr(function, '__qualname__', type(function).__qualname__)
  return f'{function.__module__}.{name}'


def search(folders: Iterable[str]) -> None:
  """Also find modules in these folders, after all others.

  Before others, a file could hide an installed module.
  """
  sys.path.extend(f for f in folders if f not in sys.path)


def search_here() -> None:
  """Find modules in the working folder, as `python -m` does."""
  search(_here())


def _here() -> list[str]:
  """Return the working folder, unless it was removed."""
  try:
    return [os.getcwd()]
  except FileNotFoundError:
    return []


def import_all(names: Iterable[str]) -> None:
  """Import the modules of `config.imports`, in the working folder too.

  Args:
    names: dotted, like 'my_package.my_constraints'.

  Raises:
    UserError: if one is not there or fails, in a sentence with its line.
  """
  if isinstance(names, str):
    raise UserError(
      f'config.imports must be a tuple of names, like ({names!r},), got '
      f'{names!r}'
    )
  search_here()
  for name in names:
    _check_name(name)
    importlib.invalidate_caches()  # It may be newer than this process.
    try:
      importlib.import_module(name)
    except (Exception, SystemExit) as error:
      absent = getattr(error, 'name', None) or ''
      if isinstance(error, ModuleNotFoundError) and f'{name}.'.startswith(
        f'{absent}.'
      ):
        raise UserError(f'config.imports: {_absence(name, absent)}') from error
      kind = type(error).__name__
      reason = (
        str(error) if isinstance(error, UserError) else f'{kind}: {error}'
      )
      raise UserError(
        f'config.imports: {name} failed{_place(error)}: {reason}'
      ) from error
    _check_not_hidden(name)


def _check_name(name):
  """Refuse what is no dotted name; suggest the module of a path."""
  if not isinstance(name, str):
    raise UserError(
      f'config.imports must be names of modules, got {name!r} among them'
    )
  if not all(part.isidentifier() for part in name.split('.')) or (
    name.endswith('.py')
  ):
    meant = os.path.normpath(name.removesuffix('.py')).replace(os.sep, '.')
    is_name = all(part.isidentifier() for part in meant.split('.'))
    hint = f' (did you mean {meant}?)' if is_name else ''
    raise UserError(
      f'config.imports must be names of modules, like my_package.my_models, '
      f'got {name!r}{hint}'
    )


def _absence(name: str, absent: str) -> str:
  """Return a sentence: the missing module, where we looked, a close match."""
  parent, _, last = absent.rpartition('.')
  if parent:
    paths = list(getattr(sys.modules[parent], '__path__', []))
    where = f'in {parent} ({", ".join(paths) or "which is no package"})'
  else:
    paths = None
    where = f'in {", ".join(_here())} or elsewhere on the path of Python'
  choices = {module.name for module in pkgutil.iter_modules(paths)}
  # Packages may do without an __init__.py; what is no package has no folder.
  for folder in _here() if paths is None else paths:
    if os.path.isdir(folder):
      choices |= {e.name for e in os.scandir(folder) if e.is_dir()}
  close = difflib.get_close_matches(last, choices, n=1, cutoff=0.8)
  prefix = f'{parent}.' if parent else ''
  hint = f' (did you mean {prefix}{close[0]}?)' if close else ''
  full_name = '' if absent == name else f', of {name},'
  return (
    f'there is no module {absent!r}{full_name} {where}{hint}; start the '
    'command in the folder that holds it, or name that folder in PYTHONPATH'
  )


def _place(error: BaseException) -> str:
  """Return file and line of a module's failure, near its cause."""
  if isinstance(error, SyntaxError) and error.filename:
    return f' ({error.filename}, line {error.lineno})'
  frames = [
    frame
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename != __file__ and 'importlib' not in frame.filename
  ]
  if not frames:
    return ''
  folder = os.path.dirname(frames[0].filename)
  own = [frame for frame in frames if frame.filename.startswith(folder)]
  own = [frame for frame in own if 'site-packages' not in frame.filename] or own
  return f' ({own[-1].filename}, line {own[-1].lineno})'


def _check_not_hidden(name):
  """Refuse an installed module that hides one of the working folder."""
  top = name.partition('.')[0]
  file = getattr(sys.modules[top], '__file__', None)
  for folder in _here():
    for path in (f'{top}.py', os.path.join(top, '__init__.py')):
      mine = os.path.join(folder, path)
      if file and os.path.exists(mine) and not os.path.samefile(file, mine):
        raise UserError(
          f'config.imports: {top} is {file}, which hides {mine}; rename yours'
        )

"""Write RESULTS.md: the paper's claims beside what came of our runs.

  python -m experiments.results_page

Every number of ours is read from a file in results/, which a command wrote:
copy it there from the workdir and run this again; of other presets than quick,
figure_4.json as figure_4_PRESET.json, and so arithmetic.json and table_2.json.
A claim without a file is listed as not run yet, with its command, unless it is
optional; a verdict is computed (`findings`), never typed.
"""

from collections.abc import Iterator, Sequence
import json
import os
import re
from typing import Any

from absl import flags

from geco_jax import cli
from geco_jax.errors import UserError
from geco_jax.io.files import read_text
from geco_jax.io.files import write_text
from geco_jax.io.paths import output_path

from .results.claims import Claim
from .results.claims import CLAIMS
from .results.findings import Finding
from .results.findings import NOT_MEASURED
from .results.findings import NOT_RUN
from .results.findings import TIE

_WORDS = {True: 'holds', False: '**does not hold**', None: ''}
_INTRODUCTION = """# The paper's claims

The claims of *Taming VAEs* (Rezende & Viola, 2018) compared with our runs.
`python -m experiments.results_page` writes this page from the files in
`results/`, which the commands below wrote (`conv_draw.json`: their evaluations,
put together): none of our numbers is typed by hand, and each verdict is
computed from the numbers. RMSEs, KLs and constraints are those of training
images; Frechet distances and their NLLs are of test images. Presets are the
configs' variants; `quick` takes minutes on two CPU cores and is far from the
paper's models and 2e6 steps. Steps that differ from the preset's were set with
`--num_steps`, several seeds with `--num_seeds`; ± is the standard deviation
across seeds. Tables and pictures are in [docs/results.md](docs/results.md),
comparisons of multipliers in [docs/multipliers.md](docs/multipliers.md).
"""


def page(results: str, claims: Sequence[Claim] = CLAIMS) -> str:
  """Return the page.

  Args:
    results: folder of the results files.
    claims: in the page's order.

  Raises:
    UserError: if there is no such folder, or a file in it is damaged or of
      another form.
  """
  if not os.path.isdir(results):
    raise UserError(f'--results={results} is no folder')
  contents = {claim.file: _read(results, claim.file) for claim in claims}
  claims = [
    claim
    for claim in claims
    if not (claim.optional and contents[claim.file] is None)
  ]
  findings = {
    claim.title: _findings(results, claim, contents[claim.file])
    for claim in claims
  }
  sections = [
    '\n'.join(_section(claim, contents[claim.file], findings[claim.title]))
    for claim in claims
  ]
  return '\n'.join([_INTRODUCTION, _overview(claims, findings), *sections])


def _read(results: str, name: str) -> Any:
  """Return the content of a file, None if it is not there."""
  path = os.path.join(results, name)
  try:
    return json.loads(read_text(path))
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read: {error}; copy it there again'
    ) from error


def _findings(results: str, claim: Claim, content: Any) -> list[Finding]:
  """Return what a file says of a claim, nothing if it is not there."""
  if content is None:
    return []
  try:
    return [*claim.check(content)]
  except (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
  ) as error:
    path = os.path.join(results, claim.file)
    raise UserError(
      f'{path} is not what `{claim.command}` writes: '
      f'{type(error).__name__}: {error}; copy it there again'
    ) from error


def _overview(claims: Sequence[Claim], findings: dict) -> str:
  """Return the table of claims, with the number of lines that hold."""
  lines = ['| claim | holds in |', '| --- | --- |']
  for claim in claims:
    verdicts = [f.holds for f in findings[claim.title] if f.holds is not None]
    ties = sum(finding.verdict == TIE for finding in findings[claim.title])
    missing = {
      word: sum(finding.verdict == word for finding in findings[claim.title])
      for word in (NOT_RUN, NOT_MEASURED)
    }
    summary = ', '.join(
      [f'{sum(verdicts)} of {len(verdicts)}'] * bool(verdicts)
      + [f'{ties} tie{"s" if ties > 1 else ""}'] * bool(ties)
      + [f'{number} {word}' for word, number in missing.items() if number]
    )
    if not findings[claim.title]:
      summary = 'not run yet'
    lines.append(f'| {claim.title} | {summary} |')
  return '\n'.join([*lines, ''])


def _section(
  claim: Claim, content: Any, findings: Sequence[Finding]
) -> Iterator[str]:
  """Yield the lines of a claim's section."""
  yield f'## {claim.title}\n\n{claim.statement}\n'
  if content is None:
    yield f'Not run yet: `{claim.command}`\n'
    return
  yield '| | paper | ours | |\n| --- | --- | --- | --- |'
  for finding in findings:
    yield (
      f'| {finding.what} | {finding.paper} | {finding.ours} | '
      f'{_word(finding)} |'
    )
  yield f'\n{_commands(claim, content)}; {_origin(content)}.\n'


def _commands(claim: Claim, content: Any) -> str:
  """Return the command of a claim, once for each preset of the file."""
  own = re.search(r'--preset=(\S+)', claim.command)
  presets = _distinct(_values(content, 'preset'))
  if own is None or not presets:
    return f'`{claim.command}`'
  places = re.compile(rf'(--preset=|runs/){own[1]}\b')
  commands = [
    places.sub(rf'\g<1>{preset}', claim.command) for preset in presets
  ]
  return ', '.join(f'`{each}`' for each in commands)


def _word(finding: Finding) -> str:
  """Return what a finding comes to, bold where the claim fails."""
  if finding.verdict and finding.holds is False:
    return f'**{finding.verdict}**'
  return finding.verdict or _WORDS[finding.holds]


def _origin(content: Any) -> str:
  """Return preset, device, steps and seeds, as far as the file has them."""
  texts = {
    'preset': _join(_values(content, 'preset')),
    'device': _join(_devices(content)) or 'not recorded',
    'cores': _join(_values(content, 'num_cores')),
    'steps': _join(_values(content, 'steps', 'step', 'num_steps')),
    'seeds': _join(_values(content, 'seed')),
    'multipliers': _join(_values(content, 'multiplier_rule')),
  }
  return ', '.join(f'{label}: {text}' for label, text in texts.items() if text)


def _values(content: Any, *names: str) -> Iterator[Any]:
  """Yield the plain values that stand under any of the names, anywhere."""
  if isinstance(content, dict):
    for key, value in content.items():
      if key in names and isinstance(value, str | int):
        yield value
      yield from _values(value, *names)
  elif isinstance(content, list):
    for value in content:
      yield from _values(value, *names)


def _devices(content: Any) -> Iterator[str]:
  """Yield what the runs trained on, or where none says so, the command ran."""
  if isinstance(content, dict):
    parts = [*content.values()]
  else:
    parts = content if isinstance(content, list) else []
  below = [device for part in parts for device in _devices(part)]
  yield from below
  if not below and isinstance(content, dict):
    if isinstance(device := content.get('device'), str):
      yield from device.split(', ')  # A run may have been moved.


def _join(values: Iterator[Any]) -> str:
  return ', '.join(map(str, _distinct(values)))


def _distinct(values: Iterator[Any]) -> list[Any]:
  return sorted(set(values), key=_order)


def _order(value):
  return (isinstance(value, str), value)


def define_flags() -> None:
  """Define the command's flags."""
  cli.define_path('results', 'results', 'Folder of the results files.')
  cli.define_path('output', 'RESULTS.md', 'The page.')


def main(argv: Sequence[str]) -> None:
  """Write the page."""
  del argv
  write_text(output_path(flags.FLAGS.output), page(flags.FLAGS.results))
  print(f'results: {flags.FLAGS.output}')


if __name__ == '__main__':
  cli.run(main, define_flags)

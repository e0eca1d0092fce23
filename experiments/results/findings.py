"""Whether the paper's claims hold, from the numbers of results files.

Each function takes the content of one file and returns findings, for a person
to read beside the paper's statement; `results_page` prints them. No number of
ours stands here, only the paper's; a constraint's verdict is its run's own.
"""

from collections.abc import Collection, Iterator, Sequence
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from geco_jax.evaluation import verdicts

from ..shared import figure_4_plane
from .paper import PAPER

TIE = 'tie'  # The verdict of a comparison whose interval has equality in it.
NOT_RUN = 'not run'  # The verdict of a row of a figure that has not been run.
NOT_MEASURED = 'not measured'  # That of samples that cannot be compared.
# Constraints that do not look through a network, as the distances do.
_PIXEL_CONSTRAINTS = {'re', 'pncc'}
_EQUAL = 0.02  # Largest difference at which two RMSEs are called equal.
Content = Any  # Content of a JSON file.


class Finding(NamedTuple):
  """One line: what was measured, and what it says of the claim."""

  what: str
  paper: str
  ours: str
  holds: bool | None  # None if the number decides nothing.
  # In place of `holds`: a constraint's, `TIE`, `NOT_RUN` or `NOT_MEASURED`.
  verdict: str | None = None


def figure_3(content: Content) -> Iterator[Finding]:
  """Yield whether GECO is soon valid, and lowers the KL from there."""
  curve, kappa = content['curve'], content['kappa']
  error = curve['rmse']
  met = next(
    (i for i, rmse in enumerate(error) if rmse <= kappa), len(error) - 1
  )
  yield Finding(
    f'{content["dataset"]}, first step at which RMSE is at most {kappa:g}',
    'early in the run',
    f'{curve["step"][met]:.0f} of {curve["step"][-1]:.0f}',
    error[met] <= kappa and met < len(error) / 2,
  )
  yield Finding(
    'KL in nats there, and at the end',
    'falls',
    f'{curve["kl_nats"][met]:.1f}, {curve["kl_nats"][-1]:.1f}',
    curve['kl_nats'][-1] < curve['kl_nats'][met],
  )
  violation = error[-1] ** 2 / kappa**2 - 1
  yield Finding(
    'C / scale at the end',
    'the constraint is still met',
    f'{violation:+.2%}',
    verdicts.is_met(violation, verdicts.tolerance(content)),
  )
  first, last = curve['beta'][met], curve['beta'][-1]
  yield Finding(
    'beta = 1 / lambda there, and at the end',
    'grows once the constraint is met',
    f'{first:.3g}, {last:.3g}',
    last > first,
  )


def figure_5(content: Content) -> Iterator[Finding]:
  """Yield both KLs at one RMSE; where there are seeds, their mean decides.

  That the RMSEs are equal is no claim of the paper's but what a comparison
  needs: it counts only where it fails.
  """
  by_data: dict[str, dict[str, Any]] = {}
  for name, row in content.items():
    by_data.setdefault(name.partition(',')[0], {})[name] = row
  for data, rows in by_data.items():
    ratios = []
    for name, row in rows.items():
      elbo, geco = (run['evaluation'] for run in row['runs'])
      trained = {(run['steps'], run['seed']) for run in row['runs']}
      difference = geco['rmse'] / elbo['rmse'] - 1
      ratios.append(geco['kl_nats'] / elbo['kl_nats'])
      yield Finding(
        f'{name}, {steps_text(trained)}: RMSE of the ELBO, and of GECO',
        f'equal, to {_EQUAL:.0%}',
        f'{elbo["rmse"]:.4f}, {geco["rmse"]:.4f} ({difference:+.2%})',
        None if abs(difference) <= _EQUAL else False,
      )
      rests = [
        figure_4_plane.rest_text(run.get('rested')) for run in row['runs']
      ]
      notes = [f' ({text})' if text else '' for text in rests]
      yield Finding(
        f'{name}: KL of the ELBO{notes[0]}, and of GECO{notes[1]}, in nats',
        'GECO lower',
        f'{elbo["kl_nats"]:.1f}, {geco["kl_nats"]:.1f} ({ratios[-1] - 1:+.1%})',
        ratios[-1] < 1 if len(rows) == 1 else None,
      )
    steps = {run['steps'] for row in rows.values() for run in row['runs']}
    if len(steps) > 1:
      text = 'seeds of different steps: no mean'
      yield Finding(data, '', text, None)
    elif len(rows) > 1:
      yield _mean_ratio(data, ratios)


def _mean_ratio(data: str, ratios: Sequence[float]) -> Finding:
  """Return whether GECO's KL is lower over seeds; a tie decides nothing."""
  mean = np.mean(ratios)
  half = stats.t.ppf(0.975, len(ratios) - 1) * stats.sem(ratios)
  low, high = mean - half, mean + half
  is_tie = low <= 1 <= high
  return Finding(
    f"{data}, {len(ratios)} seeds: GECO's KL over the ELBO's, mean and "
    "Student's 95% interval",
    'below 1',
    f'{mean:.3f}, {low:.3f} to {high:.3f}',
    None if is_tie else bool(high < 1),
    TIE if is_tie else None,
  )


def constraints_of_runs(content: Content) -> Iterator[Finding]:
  """Yield what each constrained run was asked and what it reached."""
  for run in content['runs']:
    for name, report in run['evaluation']['constraints'].items():
      if name not in run['kappas']:
        continue
      verdict = verdicts.read(run['evaluation'], name, run['infeasible'])
      yield Finding(
        f'{run["run"]}, {run["steps"]} steps: {name}, {report["unit"]}',
        f'{report["kappa"]:g}',
        f'{report["value"]:.4g} (C/scale {report["violation"]:+.2%})',
        None if verdict == verdicts.INFEASIBLE else verdict == verdicts.MET,
        verdict,
      )


def kl_of_runs(content: Content) -> Iterator[Finding]:
  """Yield each constrained run's KL beside the ELBO's."""
  elbo = _elbo_by_data(content['runs'])
  for run in content['runs']:
    if run['kappas'] and run['data'] in elbo:
      baseline = elbo[run['data']]['evaluation']
      yield _beside_elbo(run['run'], run['evaluation'], baseline)


def samples_of_runs(content: Content) -> Iterator[Finding]:
  """Yield each run's samples and NLL beside the ELBO's, where measured."""
  measured = [run for run in content['runs'] if 'sample_quality' in run]
  elbo = _elbo_by_data(measured)
  for run in measured:
    if run['objective'] == 'elbo' or run['data'] not in elbo:
      continue
    baseline = elbo[run['data']]
    ours, other = (r['sample_quality']['frechet'] for r in (run, baseline))
    if any(ours[name] != other[name] for name in figure_4_plane.SETTINGS):
      text = 'by another network, layer or number of samples than the ELBO'
      yield Finding(run['run'], '', text, None, NOT_MEASURED)
      continue
    below = ours['samples'] < other['samples']
    decides = (
      run['objective'] == 'geco'
      and set(run['kappas']) <= _PIXEL_CONSTRAINTS
      and is_comparable(
        run['evaluation']['rmse'], baseline['evaluation']['rmse']
      )
    )
    yield Finding(
      f'{run["run"]}: Frechet distance of samples, of reconstructions; under '
      'the ELBO; of the training split',
      'not as a number: samples nearer',
      f'{ours["samples"]:.3g}, {ours["reconstructions"]:.3g}; '
      f'{other["samples"]:.3g}, {other["reconstructions"]:.3g}; '
      f'{ours["train"]:.2g}',
      below if decides else None,
    )
    nlls = [r['sample_quality']['importance'] for r in (run, baseline)]
    sizes = {(n['num_images'], n['num_draws']) for n in nlls if n is not None}
    if None not in nlls and len(sizes) == 1:
      yield Finding(
        f'{run["run"]}: NLL of {nlls[0]["num_images"]} test images, k = '
        f'{nlls[0]["num_draws"]}, in nats; under the ELBO',
        'not in the paper',
        f'{nlls[0]["nll_nats"]:.0f}; {nlls[1]["nll_nats"]:.0f}',
        None,
      )


def _elbo_by_data(runs: Sequence[Content]) -> dict[str, Content]:
  """Return the run of the ELBO on each data set."""
  return {run['data']: run for run in runs if run['objective'] == 'elbo'}


def figure_8(content: Content) -> Iterator[Finding]:
  """Yield how Micro-MNIST's posteriors fill the prior (Proposition 2)."""
  for preset, row in content.items():
    for finding in _tiles(row):
      yield finding._replace(what=f'{preset}: {finding.what}')


def _tiles(row: Content) -> Iterator[Finding]:
  """Yield the marginal and average KLs of one preset's runs."""
  runs = {run['run']: run['marginal'] for run in row['runs']}
  tight = runs['micro_mnist_nvp_geco_re_0.05']
  bound = tight['ln_n_nats']
  average = tight['average_kl_nats']
  yield Finding(
    'average KL at kappa 0.05, in nats',
    f'ln 7 = {bound:.4f}, to 5%',
    f'{average:.4f} ({average / bound - 1:+.1%})',
    abs(average / bound - 1) <= 0.05,
  )
  yield Finding(
    'marginal KL at kappa 0.05, in nats',
    '0; here below 0.1',
    f'{tight["marginal_kl_nats"]:.4f}',
    tight['marginal_kl_nats'] < 0.1,
  )
  yield Finding(
    'of the average KL, information about which digit: less the marginal KL',
    'not in the paper: ln 7 if digits are told apart, less if tiles overlap',
    f'{average - tight["marginal_kl_nats"]:.4f}',
    None,
  )
  elbo = runs['micro_mnist_nvp_elbo']['marginal_kl_nats']
  yield Finding(
    'marginal KL of the ELBO, in nats',
    "above GECO's: its tiles are not tight",
    f'{elbo:.4f}',
    elbo > tight['marginal_kl_nats'],
  )
  weak = runs['micro_mnist_nvp_geco_re_0.5']['average_kl_nats']
  yield Finding(
    'average KL at kappa 0.5, in nats',
    'modes collapse: below kappa 0.05',
    f'{weak:.4f}',
    weak < average,
  )


def table_2(content: Content) -> Iterator[Finding]:
  """Yield the marginal KLs of VAE+NVP and their ratio."""
  for row in content.values():
    elbo, geco = PAPER[row['data']]
    runs = [row[name] for name in ('elbo', 'geco')]
    ours = [run['marginal_kl_nats'] for run in runs]
    errors = [run['evaluation']['rmse'] for run in runs]
    yield Finding(
      f'{row["data"]}, {row["steps"]} steps: marginal KL of the ELBO, and of '
      f'GECO, in nats, at RMSE {errors[0]:.3f} and {errors[1]:.3f}; ± standard '
      'error',
      f'{elbo:g}, {geco:g}',
      ', '.join(
        with_error(kl, run['marginal_kl_error_nats'])
        for kl, run in zip(ours, runs, strict=True)
      ),
      ours[1] < ours[0],
    )
    yield Finding(
      f'{row["data"]}: information about which example, the average KL less '
      'the marginal; ln n, its most, reached where no posteriors overlap',
      'not in the paper',
      ', '.join(
        f'{run["average_kl_nats"] - kl:.2f}'
        for kl, run in zip(ours, runs, strict=True)
      )
      + f'; {runs[0]["ln_n_nats"]:.2f}',
      None,
    )
    is_as_large = row['ratio'] >= elbo / geco
    yield Finding(
      f'{row["data"]}: their ratio',
      f'{elbo / geco:.1f}',
      ratio_text(row),
      None if row.get('ratio_is_bound') and not is_as_large else is_as_large,
    )


def with_error(value: float, error: float) -> str:
  """Return a value and its standard error, to the first decimal of that.

  Errors of 1 or more have none.
  """
  digits = max(-math.floor(math.log10(error)), 0) if error > 0 else 1
  return f'{value:.{digits}f} ± {error:.{digits}f}'


def ratio_text(row: Content) -> str:
  """Return the ratio of a row of Table 2, after > if it is a bound."""
  return f'{"> " if row.get("ratio_is_bound") else ""}{row["ratio"]:.1f}'


def rate_distortion(content: Content) -> Iterator[Finding]:
  """Yield KL and multiplier beside Shannon's."""
  for run in content['runs']:
    yield Finding(
      f'{run["update"]} update, D = {run["distortion"]:g}: KL over R(D), '
      'lambda over 1 / (2 m)',
      'exact: 1, 1; here to 1%, 2%',
      f'{1 + run["kl_error"]:.4f}, {1 + run["multiplier_error"]:.4f}',
      run['accurate'],
    )


def robustness(content: Content) -> Iterator[Finding]:
  """Yield the number of accurate pairs of a step size and a distortion."""
  updates = dict.fromkeys(run['update'] for run in content['runs'])
  for update in updates:
    cells = [run for run in content['runs'] if run['update'] == update]
    accurate = sum(run['accurate'] for run in cells)
    sizes = [run['step_size'] for run in cells]
    yield Finding(
      f'{update} update, step sizes {min(sizes):g} to {max(sizes):g}: accurate',
      'not in the paper',
      f'{accurate} of {len(cells)}',
      None,
    )


def sweep(content: Content) -> Iterator[Finding]:
  """Yield what a sweep of kappa met, and its KLs."""
  evaluations = [row['evaluation'] for row in content]
  reports = [evaluation['constraints']['re'] for evaluation in evaluations]
  kappas = ', '.join(f'{row["kappa"]:g}' for row in content)
  verdict = verdicts.worst(
    verdicts.read(row['evaluation'], 're', row['infeasible']) for row in content
  )
  yield Finding(
    f'largest C / scale of kappas {kappas}',
    f'at most {verdicts.tolerance(reports[0]):.0%}',
    f'{max(report["violation"] for report in reports):+.2%}',
    verdict == verdicts.MET,
    verdict,
  )
  kls = [evaluation['kl_nats'] for evaluation in evaluations]
  yield Finding(
    'KL in nats, kappa ascending',
    'falls',
    ', '.join(f'{kl:.1f}' for kl in kls),
    falls(kls),
  )


def conv_draw(content: Content) -> Iterator[Finding]:
  """Yield what ConvDRAW's runs of the configs reached."""
  evaluations = {run['config']: run['evaluation'] for run in content['runs']}
  for run in content['runs']:
    config, evaluation = run['config'], run['evaluation']
    report = evaluation['constraints'].get('re')
    if report is None:
      continue
    verdict = verdicts.read(evaluation, 're')
    yield Finding(
      f'{config}, {evaluation["step"]} steps: RMSE',
      f'{report["kappa"]:g}',
      f'{evaluation["rmse"]:.4f} (C/scale {report["violation"]:+.2%})',
      verdict == verdicts.MET,
      verdict,
    )
    elbo = evaluations.get(f'{config},elbo')
    if elbo is not None:
      yield _beside_elbo(config, evaluation, elbo)


def arithmetic(content: Content) -> Iterator[Finding]:
  """Yield how many of conditional ConvDRAW's samples are the right sum."""
  yield Finding(
    f'samples read as (l0 + l1) mod 10, of {content["num_contexts"]} unseen '
    'contexts; real targets read right',
    'no number; one in ten by chance',
    f'{content["samples_right"]:.1%}; {content["real_targets_right"]:.1%}',
    content['samples_right'] > 0.9,
  )


def steps_text(trained: Collection[tuple[int, int]]) -> str:
  """Return how long runs trained, and their seeds if several.

  Args:
    trained: steps and seed of each.
  """
  numbers = sorted({steps for steps, _ in trained})
  num_seeds = len({seed for _, seed in trained})
  return (
    ', '.join(str(number) for number in numbers)
    + ' steps'
    + (f', {num_seeds} seeds' if num_seeds > 1 else '')
  )


def is_comparable(rmse: float, elbo_rmse: float) -> bool:
  """Return whether a run's KL and NLL can be compared with the ELBO's.

  A run that reconstructs better than the ELBO has encoded more of the image.
  Given enough steps, the ELBO ends below every kappa of the paper.
  """
  return rmse >= elbo_rmse


def _beside_elbo(name: str, evaluation: Content, elbo: Content) -> Finding:
  """Return a run's KL and the ratio of the ELBO's KL to it."""
  kl, elbo_kl = evaluation['kl_nats'], elbo['kl_nats']
  below = kl < elbo_kl
  ratio = elbo_kl / kl if below else kl / elbo_kl
  beside = f'{ratio:.3g}x {"below" if below else "above"}'
  is_fair = is_comparable(evaluation['rmse'], elbo['rmse'])
  return Finding(
    f'{name}, RMSE {evaluation["rmse"]:.4f}: KL in nats; of the ELBO '
    f'{elbo_kl:.1f} at RMSE {elbo["rmse"]:.4f}',
    'below the ELBO',
    f'{kl:.1f} ({beside})' if is_fair else f'({kl:.1f}, {beside})',
    below if is_fair else None,
  )


def falls(values: Sequence[float]) -> bool | None:
  """Return whether each value is below the one before it, None if alone."""
  if len(values) < 2:
    return None
  return all(b < a for a, b in zip(values, values[1:], strict=False))

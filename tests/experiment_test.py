"""What an experiment remembers, its runs share."""

from geco_jax.build import build
from geco_jax.build import run_inputs
from geco_jax.evaluation.measures import split_means
from geco_jax.experiment import once_per_experiment
from geco_jax.experiment import with_programs_of
from geco_jax.step import train_steps


def test_a_program_is_the_same_object_whenever_it_is_asked_for(
  tiny_config, make_dataset
):
  experiment = build(tiny_config(), make_dataset())
  assert train_steps(experiment, 5) is train_steps(experiment, 5)
  assert train_steps(experiment, 5) is not train_steps(experiment, 4)
  means, with_likelihood = (
    split_means(experiment, likelihood=likelihood)
    for likelihood in (False, True)
  )
  assert means is split_means(experiment, likelihood=False)
  assert means is not with_likelihood


def test_experiments_do_not_share_programs_unless_they_are_given_them(
  tiny_config, make_dataset
):
  calls = []

  @once_per_experiment
  def program(experiment):
    """Compile nothing."""
    calls.append(experiment)
    return object()

  first, second = (build(tiny_config(), make_dataset()) for _ in range(2))
  assert program(first) is not program(second)
  assert calls == [first, second]
  second.compiled_layouts.add('shared')
  other = with_programs_of(second, first, [program])
  assert program(other) is program(first)
  assert calls == [first, second]
  assert other.model is first.model and not other.compiled_layouts
  assert program.__doc__ == 'Compile nothing.'


def test_what_enters_a_program_is_float32_and_nothing_of_the_hosts(
  tiny_config, make_dataset
):
  config = tiny_config()
  config.seed = 2**32 - 1
  inputs = run_inputs(config, build(config, make_dataset()))
  assert inputs.tolerance == 0.02
  assert inputs.initial_log_multipliers.keys() == inputs.kappas.keys() == {'re'}
  arrays = inputs.step_inputs()
  assert (arrays.seed.dtype, int(arrays.seed)) == ('uint32', 2**32 - 1)
  for entering, own in (
    (arrays.kappas, inputs.kappas),
    (arrays.step_sizes, inputs.step_sizes),
  ):
    assert entering.keys() == own.keys()
    assert all(x.dtype == 'float32' for x in entering.values())

"""The programs of the GPU's benchmark, and the table of what came of them."""

import pickle
import types

import pytest

from benchmarks import gpu
from benchmarks import gpu_programs
from benchmarks import gpu_table
from benchmarks import kernels
from benchmarks.workers import Worker
from geco_jax.errors import UserError
from geco_jax.models import conv_draw

REPORT = {
  'programs': [
    {
      'model': 'VAE',
      'precision': 'tf32',
      'program': 'geco_jax',
      'per_second': 2_000.0,
      'tflops': 100.0,
      'rates': [1_900.0, 2_000.0, 2_100.0],
      'error': None,
    },
    {
      'model': 'VAE',
      'precision': 'tf32',
      'program': 'torch.compile',
      'per_second': 500.0,
      'tflops': 25.0,
      'rates': [475.0, 500.0],  # No time was left for the third round.
      'error': None,
    },
    {
      'model': 'VAE',
      'precision': 'bf16',
      'program': 'torch eager',
      'per_second': None,
      'tflops': None,
      'rates': [],
      'error': 'killed',
    },
    {
      'model': 'matrix product',
      'precision': 'tf32',
      'program': 'jax.numpy',
      'per_second': 400.25,
      'tflops': 400.0,
      'rates': [400.25],
      'error': None,
    },
  ]
}


def test_table_has_rates_shares_ratios_and_errors():
  assert gpu_table.table(REPORT).splitlines()[2:] == [
    '| VAE | tf32 | geco_jax | 2,000 | 100 | 25.0% |  |',
    '| VAE | tf32 | torch.compile | 500 | 25.0 | 6.2% | 4.00 |',
    '| VAE | bf16 | torch eager | killed |  |  |  |',
    '| matrix product | tf32 | jax.numpy | 400 | 400 | 100.0% |  |',
  ]


def test_every_program_has_a_name_of_its_own_and_can_be_sent_away():
  listed = gpu_programs.programs(False, ['none', 'unrolled+padded'])
  assert len({program.full_name for program in listed}) == len(listed)
  for program in listed:
    pickle.loads(pickle.dumps(program.build))
  # Each has ours to stand beside, and the peak of its precision.
  for name in (gpu_table.OURS, 'jax.numpy'):
    there = {(p.model, p.precision) for p in listed if p.name == name}
    for program in listed:
      model = gpu_table.MATMUL if name == 'jax.numpy' else program.model
      is_ours = program.model != gpu_table.MATMUL
      assert not is_ours or (model, program.precision) in there


def test_rows_count_a_models_operations_once_for_all_its_programs():
  listed = [
    gpu_programs.Program('VAE', 'tf32', name, lambda: None)
    for name in (gpu_table.OURS, 'torch eager', 'torch.compile')
  ]
  crew = {program.full_name: Worker(program.build) for program in listed}
  ours, eager, compiled = crew.values()
  ours.flops, ours.rates = 2e9, [900.0, 1_000.0, 1_200.0]
  eager.rates = [500.0]
  compiled.error = 'no compiler'
  first, second, third = gpu.rows(listed, crew)
  assert (first['per_second'], first['tflops']) == (1_000.0, 2.0)
  assert (second['per_second'], second['tflops']) == (500.0, 1.0)
  assert third['per_second'] is None and third['tflops'] is None
  assert third['error'] == 'no compiler'


@pytest.mark.parametrize('name', gpu_programs.SWITCHES)
def test_a_switch_is_set_for_a_while_or_said_to_be_missing(name, monkeypatch):
  switch = gpu_programs.SWITCHES[name]
  monkeypatch.setattr(conv_draw, switch.attribute, 'untouched', raising=False)
  with gpu_programs.switched([name]):
    assert getattr(conv_draw, switch.attribute) == switch.on
  with gpu_programs.switched([]):
    assert getattr(conv_draw, switch.attribute) == switch.off
  assert getattr(conv_draw, switch.attribute) == 'untouched'
  monkeypatch.delattr(conv_draw, switch.attribute)
  with pytest.raises(UserError, match=f'{name}: .* has no {switch.attribute}'):
    with gpu_programs.switched([name]):
      pass


def test_an_unknown_switch_is_an_error():
  with pytest.raises(UserError, match="'rolled'; choose from none, unrolled"):
    gpu_programs.programs(True, ['unrolled+rolled'])


def test_kernels_are_summed_by_name_over_the_streams_of_a_gpu():
  def line(name, *events):
    names = ('name', 'start_ns', 'duration_ns')
    return types.SimpleNamespace(
      name=name,
      events=[
        types.SimpleNamespace(**dict(zip(names, event, strict=True)))
        for event in events
      ],
    )

  planes = [
    types.SimpleNamespace(name='/host:CPU', lines=[line('x', ('f', 0, 9e9))]),
    types.SimpleNamespace(
      name='/device:GPU:0',
      lines=[
        line('Stream #1', ('conv', 1_000, 4_000), ('add', 5_000, 1_000)),
        line('Stream #2', ('conv', 9_000, 2_000)),
        line('XLA Ops', ('conv', 1_000, 4_000)),
      ],
    ),
  ]
  assert kernels.summary(planes, num_steps=2) == {
    'span_us': 5.0,
    'busy_us': 3.5,
    'launches': 1.5,
    'kernels': [
      {'name': 'conv', 'busy_us': 3.0, 'launches': 1.0},
      {'name': 'add', 'busy_us': 0.5, 'launches': 0.5},
    ],
  }

"""The exceptions that a command answers with one line, no traceback."""

import signal

# How messages end that list what a config can name.
OWN_PARTS = 'or name the module of your own one in config.imports'


class UserError(Exception):
  """Bad input: says what is wrong, what was given and what is allowed."""


class Interrupted(Exception):
  """A signal asked a run to stop; its state is saved."""

  def __init__(self, signal_number: int, step: int):
    name = signal.Signals(signal_number).name
    super().__init__(f'stopped by {name}, saved at step {step}')
    self.signal_number = signal_number

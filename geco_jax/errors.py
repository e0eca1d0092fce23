"""The exceptions that a command answers with one line, no traceback."""

import signal


class UserError(Exception):
  """Bad input: says what is wrong, what was given and what is allowed."""


class Interrupted(Exception):
  """A signal asked a run to stop; its state is saved."""

  def __init__(self, signal_number: int, step: int):
    name = signal.Signals(signal_number).name
    super().__init__(f'stopped by {name}, saved at step {step}')
    self.signal_number = signal_number

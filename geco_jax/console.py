"""What a command shows while it works: lines and a progress bar."""

from collections.abc import Callable
import sys
from typing import Any

import tqdm

from geco_jax import signals


def say(line: str) -> None:
  """Print a line on stderr, above the progress bar if there is one."""
  tqdm.tqdm.write(line, file=sys.stderr)


def bar(show: bool = True, **kwargs: Any) -> tqdm.tqdm:
  """Return a progress bar, drawn every half second at a terminal.

  In a file, such as a cluster's log, every drawing stays: there is one every
  half minute.
  """
  at_terminal = sys.stderr is not None and sys.stderr.isatty()
  seconds = 0.5 if at_terminal else 30
  return tqdm.tqdm(
    disable=not show, mininterval=seconds, maxinterval=2 * seconds, **kwargs
  )


class Progress:
  """A progress bar of steps, followed by the numbers that matter."""

  def __init__(
    self, num_steps: int, first_step: int, show: bool, unit: str = 'step'
  ):
    self._is_open = show
    if show:
      signals.bar_is_open(True)
    self._bar = bar(
      show,
      total=num_steps,
      initial=first_step,
      unit=unit,
      dynamic_ncols=True,
    )

  def update(self, step: int, text: str) -> None:
    """Move the bar to `step`, with `text` after it."""
    self._bar.set_postfix_str(text, refresh=False)
    self._bar.update(step - self._bar.n)

  def part(self, text: str) -> Callable[[int], None]:
    """Return a function that moves the bar while a part of the work is done.

    Args:
      text: shown after the bar.

    Returns:
      (steps of this part that are done) -> None. The part begins where the bar
      stands now.
    """
    start = self._bar.n
    return lambda done: self.update(start + done, text)

  def close(self) -> None:
    """Leave the bar as it stands."""
    self._bar.close()
    if self._is_open:
      self._is_open = False
      signals.bar_is_open(False)

"""What a command shows while it works: lines and a progress bar."""

import sys

import tqdm


def say(line: str) -> None:
  """Print a line on stderr, above the progress bar if there is one."""
  tqdm.tqdm.write(line, file=sys.stderr)


class Progress:
  """A progress bar of steps, behind it the numbers that matter."""

  def __init__(
    self, num_steps: int, first_step: int, show: bool, unit: str = 'step'
  ):
    self._bar = tqdm.tqdm(
      total=num_steps,
      initial=first_step,
      unit=unit,
      disable=not show,
      dynamic_ncols=True,
      mininterval=0.5,
    )

  def update(self, step: int, text: str) -> None:
    """Move the bar to `step`, with `text` behind it."""
    self._bar.set_postfix_str(text, refresh=False)
    self._bar.update(step - self._bar.n)

  def close(self) -> None:
    """Leave the bar as it stands."""
    self._bar.close()

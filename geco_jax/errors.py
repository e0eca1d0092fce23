"""The one exception that a command answers with one line, no traceback."""


class UserError(Exception):
  """Bad input: says what was wrong, what was got and what is allowed."""

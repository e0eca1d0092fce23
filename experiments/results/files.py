"""Names of the files in results/."""

# Their presets are shown side by side.
_WITH_A_FILE_FOR_EACH_PRESET = ('arithmetic', 'figure_4', 'table_2')


def file_name(figure: str, preset: str) -> str:
  """Return the name in results/ of a figure's numbers in a preset."""
  if preset == 'quick' or figure not in _WITH_A_FILE_FOR_EACH_PRESET:
    return f'{figure}.json'
  return f'{figure}_{preset}.json'

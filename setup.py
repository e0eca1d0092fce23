"""Package metadata; requirements.lock pins what `make` installs."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent


def _version():
  """Return the package's version, which stands in its __init__ alone."""
  text = (_ROOT / 'geco_jax' / '__init__.py').read_text()
  return re.search(r"__version__ = '(.*)'", text)[1]


setuptools.setup(
  name='geco_jax',
  version=_version(),
  description=(
    'Training latent-variable models by constraints: GECO (Rezende & Viola '
    '2018, "Taming VAEs") in JAX and Haiku.'
  ),
  long_description=(_ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  author='The geco_jax authors',
  license='Apache-2.0',
  license_files=['LICENSE'],
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
  packages=setuptools.find_packages(include=['geco_jax', 'geco_jax.*']),
  package_data={'geco_jax': ['py.typed']},
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.1',
    'array_record>=0.5; sys_platform == "linux"',
    'dm-haiku>=0.0.13',
    'jax>=0.9',
    'jaxlib>=0.9',
    'jmp>=0.0.4',
    'matplotlib>=3.8',
    'ml-collections>=1.0',
    'numpy>=1.26',
    'optax>=0.2.4',
    'orbax-checkpoint>=0.11',
    'pillow>=10.1',
    'scikit-learn>=1.4',
    'scipy>=1.11',
    'tensorboardX>=2.6',
    'tensorflow-datasets>=4.9.7',
    'threadpoolctl>=3.1',
    'tqdm>=4.66',
  ],
  extras_require={
    # TFDS downloads and prepares through TensorFlow; reading needs neither.
    'prepare': ['tensorflow-cpu', 'importlib_resources', 'requests'],
    'benchmarks': ['torch==2.13.0'],
    # geco_jax.sweep --executor=slurm.
    'slurm': ['submitit>=1.5'],
    'dev': [
      'chex',
      'codespell',
      'pyright',
      'pytest',
      'pytest-xdist',
      'ruff',
      'submitit',
    ],
  },
)

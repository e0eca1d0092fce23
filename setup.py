"""Package metadata; requirements.lock pins what `make` installs."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
# What the commands need beyond `import geco_jax`.
_TRAIN = [
  'absl-py>=2.1',
  'array_record>=0.5; sys_platform == "linux"',
  'dm-haiku>=0.0.13',
  'flatbuffers',  # jax.export writes with it.
  'jmp>=0.0.4',
  'matplotlib>=3.8',
  'ml-collections>=1.0',
  'orbax-checkpoint>=0.11',
  'pillow>=10.1',
  'requests>=2.31',
  'scikit-learn>=1.4',
  'scipy>=1.11',
  'tensorboardX>=2.6',
  'tensorflow-datasets>=4.9.7',
  'threadpoolctl>=3.1',
  'tqdm>=4.66',
]
_DOCS = ['furo', 'myst-nb', 'sphinx']


def _version():
  """Return the package's version, which stands in its __init__ alone."""
  text = (_ROOT / 'geco_jax' / '__init__.py').read_text()
  return re.search(r"__version__ = '(.*)'", text)[1]


def _inside(folder):
  """Return the packages that a folder beside geco_jax is in a wheel."""
  inner = setuptools.find_namespace_packages(folder, exclude=['*__pycache__'])
  return [f'geco_jax.{folder}', *(f'geco_jax.{folder}.{i}' for i in inner)]


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
  project_urls={'Paper': 'https://arxiv.org/abs/1810.00597'},
  license='Apache-2.0',
  license_files=['LICENSE'],
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
  # The folders beside the package are installed inside of it: no name but
  # geco_jax is at the top.
  packages=[
    *setuptools.find_packages(include=['geco_jax', 'geco_jax.*']),
    *_inside('configs'),
    *_inside('experiments'),
  ],
  package_dir={
    'geco_jax.configs': 'configs',
    'geco_jax.experiments': 'experiments',
  },
  package_data={'geco_jax': ['py.typed']},
  entry_points={'console_scripts': ['geco-jax = geco_jax.__main__:main']},
  python_requires='>=3.11',
  # What `import geco_jax` needs: geco, lagrangian and the other updates.
  install_requires=['jax>=0.9', 'numpy>=1.26', 'optax>=0.2.4'],
  extras_require={
    'train': _TRAIN,
    # TFDS downloads and prepares through TensorFlow; reading needs neither.
    'prepare': [*_TRAIN, 'tensorflow-cpu', 'importlib_resources'],
    'benchmarks': [*_TRAIN, 'torch==2.13.0'],
    # geco_jax.sweep --executor=slurm.
    'slurm': [*_TRAIN, 'submitit>=1.5'],
    # --trackers=wandb,mlflow.
    'wandb': [*_TRAIN, 'wandb>=0.19.10'],
    'mlflow': [*_TRAIN, 'mlflow>=2.11'],
    'dev': [
      *_TRAIN,
      'chex',
      'codespell',
      'equinox',
      'flax',
      'pyright',
      'pytest',
      'pytest-xdist',
      'ruff',
      'setuptools>=77',
      'submitit',
      *_DOCS,
    ],
    'docs': _DOCS,
  },
)

"""Which packages a wheel holds: all of `cmrm`, and `assets/` as `cmrm/assets`; the rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["cmrm", "cmrm.*"]), "cmrm.assets"], package_dir={"cmrm.assets": "assets"})

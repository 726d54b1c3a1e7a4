"""Finds the packages; everything else stands in pyproject.toml. conf/ is installed as aetool.conf."""

from setuptools import find_namespace_packages, find_packages, setup

groups = [f"aetool.conf.{name}" for name in find_namespace_packages("conf")]
setup(packages=[*find_packages(include=["aetool", "aetool.*"]), "aetool.conf", *groups])

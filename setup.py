"""Which folder each package is: the rooms lie at the top level and are imported as `recsys.<room>`.

A package map is all that setuptools can be told of this in `pyproject.toml`, package by package; here
it is read from the folders, so that a new package needs no line anywhere.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).resolve().parent
ROOMS = sorted(file.parent.name for file in ROOT.glob("*/__init__.py"))

packages, folders = [], {}
for room in ROOMS:
    name = room if room == "recsys" else f"recsys.{room}"
    folders[name] = room
    inside = find_namespace_packages(str(ROOT / room), exclude=["*__pycache__*"])
    packages += [name, *(f"{name}.{package}" for package in inside)]

setup(packages=packages, package_dir=folders)

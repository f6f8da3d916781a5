"""Lists the packages; everything else is in pyproject.toml.

``server/`` and ``client/`` are imported as ``streamdgp_server`` and ``streamdgp_client``, and
``packages.find`` in pyproject.toml knows no such mapping beside the one for ``streamdgp/``.
"""

from setuptools import find_packages, setup

FOLDERS = {"streamdgp": "streamdgp", "streamdgp_server": "server", "streamdgp_client": "client"}

setup(
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in (name, *(f"{name}.{sub}" for sub in find_packages(folder)))
    ],
    package_dir=FOLDERS,
)

"""Libraries that come with an extra of this package, and may not be installed."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mer_ray.errors import PluginError


def version(package: str, extra: str = "speech") -> str:
    """The installed version of a package.

    Raises:
        PluginError: it is not installed; the message says how to get it.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise PluginError(f"{package} is not installed; pip install 'mer_ray[{extra}]'") from error


def folder(module: str, package: str, extra: str = "speech") -> Path:
    """Where a package's files lie; the package is not imported.

    Raises:
        PluginError: see ``version``.
    """
    version(package, extra)
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise PluginError(f"{package} is installed without its module {module}; pip install 'mer_ray[{extra}]' again")
    return Path(spec.origin).parent

"""Read a pickled checkpoint in a process of its own that has no network, and leave its tensors as safetensors.

Run as ``python -m mer_ray.pretrained.unpickle SOURCE OUT``, which is what ``tensors_of`` does. A pickle can run code:
``weights_only`` admits tensors and plain containers alone, and should that ever fail, the process can reach no network,
start no other process, and has nothing of the user's environment.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mer_ray.errors import PluginError

_KEYS = ("model", "state_dict")
_PREFIX = "module."
_MOST_SECONDS = 600
_REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile")
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "LANG", "LC_ALL", "OMP_NUM_THREADS")
_OWN_USERS, _OWN_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET


def tensors_of(source: Path, out: Path) -> None:
    """Write a pickled checkpoint's tensors to ``out`` as safetensors, under the names that its model gave them.

    They may stand under the key ``model`` or ``state_dict``, their names may begin with ``module.``.

    Raises:
        PluginError: the file cannot be read, holds more than tensors, or tried to do something.
    """
    if not source.is_file():
        raise PluginError(f"{source}: there is no such file")
    command = [sys.executable, "-m", __spec__.name, str(source.absolute()), str(out.absolute())]
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    kept["PYTHONPATH"] = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    try:
        done = subprocess.run(
            command, env=kept, cwd=out.parent, capture_output=True, text=True, timeout=_MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PluginError(f"{source}: not read in {_MOST_SECONDS} s, and given up") from error
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise PluginError(f"{source} is refused: {why}")


def leave_network() -> None:
    """Move this process where there is no network, if the system lets it; before any thread is started."""
    libc = ctypes.CDLL(None, use_errno=True)
    unshare = getattr(libc, "unshare", None)
    if unshare is not None and unshare(_OWN_NETWORK) != 0:
        unshare(_OWN_USERS | _OWN_NETWORK)


def seal() -> None:
    """From here on this process opens no socket and starts no process: Python refuses, whatever the system would."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith(_REFUSED):
        raise PermissionError(f"a pickle tried {event}")


def state_of(loaded: object) -> dict[str, object]:
    """The tensors of what a checkpoint holds, by the model's own names.

    Raises:
        ValueError: there is no table of tensors.

    >>> state_of({"epoch": 3, "model": {}})
    Traceback (most recent call last):
    ValueError: it holds no table of tensors, neither at the top nor under model, state_dict
    """
    from torch import Tensor  # noqa: PLC0415 - the process leaves the network before torch starts threads

    inner = [loaded[key] for key in _KEYS if isinstance(loaded, Mapping) and key in loaded]
    for table in (*inner, loaded):
        if isinstance(table, Mapping) and table and all(isinstance(value, Tensor) for value in table.values()):
            return {str(name).removeprefix(_PREFIX): value for name, value in table.items()}
    raise ValueError(f"it holds no table of tensors, neither at the top nor under {', '.join(_KEYS)}")


def main(source: str, out: str) -> int:
    """Read, hold to be tensors alone, write; the exit code, the reason on the last line of stderr."""
    leave_network()
    import torch  # noqa: PLC0415 - see leave_network
    from safetensors.torch import save_file  # noqa: PLC0415

    seal()
    try:
        tensors = state_of(torch.load(source, map_location="cpu", weights_only=True))
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, out)  # type: ignore[attr-defined]
    except Exception as error:  # noqa: BLE001 - whatever a damaged or malicious file brings about is a refusal
        first = (str(error).strip().splitlines() or [""])[0]
        sys.stderr.write(f"\n{type(error).__name__}: {first}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""A plug-in whose network is no library's pretrained model: ``config.json`` holds the arguments it is built with."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mer_ray.errors import PluginError
from mer_ray.pretrained.model import PretrainedModel

if TYPE_CHECKING:  # light plug-ins run without the seconds and the memory that torch takes
    from torch import nn


class NetworkModel(PretrainedModel):
    """Base of such plug-ins; ``jobs/weights.py convert`` makes their folders of published pickles.

    Class attributes:
        beside: what stands beside the weights, each by the names that its file may have.
        unread: beginnings of the names of published tensors that the network does without.
    """

    beside: ClassVar[tuple[tuple[str, ...], ...]] = ()
    unread: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def network(self, model_config: dict[str, Any]) -> nn.Module:
        """The network of its constructor's arguments.

        Raises:
            TypeError, ValueError: they are of another network.
        """

    def published(self, folder: Path) -> dict[str, Any]:
        """The constructor's arguments for a published pickle, by what lies beside it in its folder.

        Here those of the first of ``architectures``, for which the plug-in has random weights.

        Raises:
            PluginError: what lies there is of another model.
        """
        arguments: dict[str, Any] = self.model_config
        return arguments

    def _read_config(self, folder: Path) -> dict[str, Any]:
        from mer_ray.pretrained import checkpoint  # noqa: PLC0415

        return checkpoint.read_config(folder, self.config.weights.source)

    def _load(self, folder: Path) -> nn.Module:
        from mer_ray.pretrained import checkpoint  # noqa: PLC0415

        return checkpoint.load(self.empty, folder, self.config.weights.source)

    def _build(self, model_config: dict[str, Any]) -> nn.Module:
        try:
            return self.network(model_config)
        except (TypeError, ValueError) as error:
            raise PluginError(f"weights {self.config.weights.source}: config.json is of another model: {error}") from (
                error
            )

"""Several hospitals' adapters on one base in memory, switched at run time.

    models = load_adapters("runs/nih128", {"guangzhou": "runs/guangzhou", "lyon": "clinic/cxr-lyon"})
    models.use("lyon")(pixel_values)  # as load_model("clinic/cxr-lyon")
    models.use(None)(pixel_values)  # as load_model("runs/nih128")

The low-rank layers of all adapters lie beside the base's weights in its backbone, where PEFT switches them. Head and
config are each adapter's own, since labels, calibration and operating points differ between hospitals.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import load_peft_weights, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoConfig
from transformers.utils.peft_utils import find_adapter_config_file

from hf_cxr.errors import UserError
from hf_cxr.loading import as_adapted, load_model, reading
from hf_cxr.models import CXRConfig, CXRPreTrainedModel

_PREFIX = "base_model.model."  # PEFT's, before the names of weights in an adapter's file


class SwitchError(UserError, ValueError):
    """An adapter that cannot be switched to, or that nobody loaded."""


@dataclass(frozen=True, eq=False)
class _Adapter:
    """What is read of an adapter before anything of the base is touched."""

    config: CXRConfig
    head: Any
    lora: LoraConfig
    weights: dict[str, Tensor]


class Switchable:
    """One network whose low-rank layers, head and config are switched together; made by `load_adapters`.

    It is for inference: nothing in it is trained, and its weights are not to be saved, having those of all adapters.

    Attributes:
        model: the network, always the same object. What was made of it before a switch (an output, say) stays.
        names: of the adapters, in the order given.
        active: the adapter that is switched on; None is the base itself.
    """

    def __init__(self, base: CXRPreTrainedModel, adapters: Mapping[str, _Adapter]) -> None:
        self.model = base
        self.names = tuple(adapters)
        self.active: str | None = None
        self._lock = threading.RLock()
        self._configs: dict[str | None, Any] = {None: base.config} | {n: a.config for n, a in adapters.items()}
        # A two-stage model has no head; nothing is switched on it.
        self._heads: dict[str | None, Any] = {None: getattr(base, "head", None)}
        self._heads |= {name: adapter.head for name, adapter in adapters.items()}
        self._peft: Any = None  # a PeftModel around the base
        if not adapters:
            return
        try:
            for name, adapter in adapters.items():
                with reading(name):
                    self._add(name, adapter)
        finally:
            # Also after an error: with every adapter off, the base's outputs are what they were.
            for layer in [part for part in base.modules() if isinstance(part, BaseTunerLayer)]:
                layer.enable_adapters(False)
            base.requires_grad_(False).eval()  # PEFT's new layers, their dropout among them, are in training

    def config(self, name: str | None) -> CXRConfig:
        """An adapter's config; None: the base's.

        Raises:
            SwitchError: no such adapter.
        """
        if name not in self._configs:
            loaded = f"loaded are {', '.join(map(repr, self.names))}" if self.names else "none is loaded"
            raise SwitchError(f"no adapter {name!r}; {loaded} (None is the base itself)")
        return self._configs[name]

    def use(self, name: str | None) -> CXRPreTrainedModel:
        """Switch an adapter on and all others off; None: the base itself. No weight is copied.

        Returns:
            `model`, in evaluation mode, whose outputs, labels and config are now the adapter's.

        Raises:
            SwitchError: no such adapter; the one in use stays.
        """
        config = self.config(name)
        with self._lock:
            if self._peft and name != self.active:
                # First what may fail. The heads that are not in use have not moved along with the model.
                head = self._heads[name].to(self.model.device, self.model.dtype)
                if name is None:
                    self._peft.base_model.disable_adapter_layers()
                else:
                    self._peft.base_model.enable_adapter_layers()
                    self._peft.set_adapter(self._inner(name), inference_mode=True)
                self.model.head, self.model.config, self.active = head, config, name
            return self.model

    @contextmanager
    def using(self, name: str | None) -> Iterator[CXRPreTrainedModel]:
        """Use an adapter for the time of a block, in which other threads wait; then the one that was in use before.

        Raises:
            SwitchError: no such adapter.
        """
        with self._lock:
            before = self.active
            try:
                yield self.use(name)
            finally:
                self.use(before)

    def _add(self, name: str, adapter: _Adapter) -> None:
        inner = self._inner(name)
        adapter.lora.modules_to_save = None  # the head is switched as a whole
        if self._peft is None:
            self._peft = PeftModel(self.model, adapter.lora, adapter_name=inner)
        else:
            self._peft.add_adapter(inner, adapter.lora)
        loaded: Any = set_peft_model_state_dict(self._peft, adapter.weights, adapter_name=inner)
        missing = [key for key in loaded.missing_keys if f".{inner}." in key]
        if missing or loaded.unexpected_keys:
            raise SwitchError(
                f"{name}: its weights and its adapter_config.json disagree: there are no weights for {missing[:3]}, "
                f"and no layers for {loaded.unexpected_keys[:3]}"
            )

    def _inner(self, name: str) -> str:
        """Its name in PEFT's module dictionaries, which do not take every word that a hospital may be called."""
        return f"adapter{self.names.index(name)}"


def load_adapters(base: str | Path | CXRPreTrainedModel, adapters: Mapping[str, str | Path]) -> Switchable:
    """A base and adapters to it, the base switched on.

    Args:
        base: folder, name on the Hub, or a bare model in float32, which is changed in place.
        adapters: `{name: folder or name on the Hub}`; the names are the caller's own words.

    Returns:
        Outputs are those of `load_model` of the same adapter up to the rounding of merged weights, and the base's own
        to the last bit.

    Raises:
        ModelError: files are missing or broken, or an adapter is of another base.
        SwitchError: a whole model in the place of an adapter, an adapter that does not say what it was adapted from,
            one that changes more than low-rank layers of the backbone and the head, or a base that has adapters.
    """
    model = base if isinstance(base, CXRPreTrainedModel) else load_model(base)
    base_name = (model.config.name_or_path or type(model).__name__) if model is base else str(base)
    if not adapters:
        return Switchable(model, {})
    if any(isinstance(part, BaseTunerLayer) for part in model.modules()):
        raise SwitchError(f"{base_name} has adapters already; expected the bare base, as load_model gives it")
    if model.dtype != torch.float32:
        raise SwitchError(f"{base_name} is in {model.dtype}; expected float32, in which bases are compared")
    if not all(isinstance(name, str) and name for name in adapters):
        raise SwitchError(f"adapters are called {list(adapters)}; expected strings, none of them empty")
    return Switchable(model, {name: _read(model, base_name, str(folder)) for name, folder in adapters.items()})


def _read(base: CXRPreTrainedModel, base_name: str, folder: str) -> _Adapter:
    with reading(folder):
        if not find_adapter_config_file(folder):
            AutoConfig.from_pretrained(folder)  # a missing folder says so itself
            raise SwitchError(
                f"{folder} is a whole model; only adapters (method lora) can be switched. Read with it by itself "
                "(load_model), or adapt its base again with method lora"
            )
        config, lora = AutoConfig.from_pretrained(folder), PeftConfig.from_pretrained(folder)
        if not config.adapted_from:
            raise SwitchError(
                f"{folder}: config.json does not say from which weights it was adapted (adapted_from), so that "
                f"{base_name} may not be its base; adapt again with this version, or load it by itself (load_model)"
            )
        head = as_adapted(base, base_name, config, folder).head
        weights = load_peft_weights(folder, device="cpu")
        low_rank = {k: v for k, v in weights.items() if k.startswith(f"{_PREFIX}backbone.") and ".lora_" in k}
        trunk = {k.removeprefix(f"{_PREFIX}head."): v for k, v in weights.items() if k not in low_rank}
        strange = sorted(trunk.keys() - head.state_dict().keys())
        # Other initialisations than PEFT's default change the base's own weights, on which all adapters lie.
        if strange or not isinstance(lora, LoraConfig) or not isinstance(lora.init_lora_weights, bool):
            about = strange[:3] or f"{lora.peft_type}, {getattr(lora, 'init_lora_weights', None)}"
            raise SwitchError(
                f"{folder} is more than low-rank layers of the backbone and weights of the head ({about}); it cannot "
                "share its base with others: load it by itself (load_model)"
            )
        head.load_state_dict(head.state_dict() | trunk)
        return _Adapter(config, head.requires_grad_(False).eval(), lora, low_rank)

"""A callback of the HF Trainer."""

from typing import Any

from largebatch.check import CheckResult
from largebatch.integrations._parts import Conductor, Parts

__all__ = ["transformers_callback"]


def transformers_callback(parts: Parts) -> Any:
    """A `transformers.TrainerCallback` that brings `parts` into a Trainer.

        callback = transformers_callback(Parts(recipe=recipe, noise=noise, check=True))
        transformers.Trainer(model, settings, train_dataset=data, callbacks=[callback]).train()
        callback.checked                        # the CheckResult of the first update

    A recipe needs `lr_scheduler_type="constant"` in the TrainingArguments. Ghost batch norm replaces the model's when the
    Trainer is made, before it wraps the model.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: when training starts: another scheduler beside a recipe; when the Trainer is made: no batch norm.
    """
    try:
        from transformers import TrainerCallback
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "transformers_callback needs transformers: pip install 'largebatch[transformers]'"
        ) from None

    return type("LargeBatch", (_Hooks, TrainerCallback), {})(parts)


class _Hooks:
    """The methods of an HF callback; which base class they come to stand on is known when transformers is."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._conductor = Conductor(parts)

    @property
    def checked(self) -> "CheckResult | None":
        """The verdict on the first update."""
        return self._conductor.checked

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._conductor.prepare(kwargs["model"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
        if self._parts.recipe is not None and kind != "constant":
            raise ValueError(
                f"lr_scheduler_type: expected 'constant' beside a recipe, whose schedule sets the rate, got {kind!r}"
            )
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # inside Accelerate's wrapper
        model = kwargs["model"]
        watch = self._conductor.begin(model, optimizer, len(kwargs["train_dataloader"].dataset))
        if watch is not None:
            watch.model(model)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._conductor.updated()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._conductor.end()

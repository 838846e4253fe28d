"""Callbacks inside other people's trainers: the recipe's rate, ghost batch norm, the noise scale, the first-step check."""

import copy
import tempfile
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils.data import DataLoader, TensorDataset

from largebatch.core import GhostBatchNorm, cross_entropy
from largebatch.integrations import Parts, lightning_callback, transformers_callback
from largebatch.integrations._parts import Conductor
from largebatch.noise import NoiseScale
from largebatch.recipe import Recipe, Timeline
from largebatch.replay import ExampleLoss

RECIPE = Recipe(
    16, lr=0.4, duration="2ep", schedule="cosine", warmup="gradual(4steps,start_lr=0.1)", ghost_batch_size=None
)


def data(samples=64):
    g = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(samples, 5, generator=g), torch.randint(0, 3, (samples,), generator=g))


def lightning_module(scale=1.0, scheduler=False):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
            self.rates = []

        def training_step(self, batch, batch_idx):
            return scale * F.cross_entropy(self.net(batch[0]), batch[1])

        def on_before_zero_grad(self, optimizer):
            self.rates.append(optimizer.param_groups[0]["lr"])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.4)
            return ([optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]) if scheduler else optimizer

    return Module()


def fit_lightning(module, parts, **options):
    import lightning

    callback = lightning_callback(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=2, accumulate_grad_batches=2, callbacks=[callback], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options,
        )  # fmt: skip
        trainer.fit(module, DataLoader(data(), batch_size=8))
    return callback


def test_lightning_takes_the_recipes_rates():
    module = lightning_module()
    fit_lightning(module, Parts(recipe=RECIPE))
    timeline = Timeline(RECIPE, 64)
    expected = [timeline.rate(16 * update) for update in range(8)]
    assert sorted({round(rate, 12) for rate in module.rates}) == pytest.approx(sorted({round(r, 12) for r in expected}))


def test_lightning_gets_ghost_batch_norm_whose_statistics_move_once_per_update():
    module = lightning_module()
    names = list(module.state_dict())
    fit_lightning(module, Parts(ghost_batch_size=4))
    assert isinstance(module.net[1], GhostBatchNorm)
    assert list(module.state_dict()) == names
    assert int(module.net[1].num_batches_tracked) == 8  # two epochs of four updates, each of two micro-batches


def test_lightning_feeds_the_noise_scale():
    noise = NoiseScale(every=1)
    fit_lightning(lightning_module(), Parts(noise=noise))
    assert noise.looks == 8


def test_lightning_checks_the_first_update_and_says_what_is_wrong(capsys):
    assert fit_lightning(lightning_module(), Parts(check=True)).checked.passed
    assert capsys.readouterr().err == ""
    callback = fit_lightning(lightning_module(scale=0.5), Parts(check=True))
    assert callback.checked.culprits == ()  # half the loss is another loss, and Lightning has no other
    module = lightning_module()
    module.on_before_optimizer_step = lambda optimizer: [p.grad.mul_(2) for p in module.parameters()]
    wrong = fit_lightning(module, Parts(check=True)).checked
    assert wrong.culprits == ("accumulation_not_divided",)
    assert "largebatch check of the first update: fail" in capsys.readouterr().err


def test_the_check_waits_for_the_first_step_that_is_not_skipped(capsys):
    """As with a GradScaler's first steps, while its scale is too high."""
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(5, 3), data().tensors
    conductor = Conductor(Parts(check=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = conductor.begin(model, optimizer, 64)
    assert watch is not None
    watch.reference(ExampleLoss(model, (x, y), cross_entropy))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for i, part in enumerate(torch.arange(64).split(16)):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x[part]), y[part])).backward()
        if i < 2:
            model.bias.grad[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        conductor.updated()
        assert (conductor.checked is None) == (i < 2)
    assert conductor.checked is not None
    assert (conductor.checked.verdict, conductor.checked.updates, conductor.checked.gradients) == ("pass", 1, 1)
    assert capsys.readouterr().err == ""


def test_an_error_or_an_end_without_an_update_leaves_nothing_watched(capsys):
    for leave, verdict in ((Conductor.end, "error"), (Conductor.abandon, None)):
        conductor = Conductor(Parts(check=True))
        conductor.begin(nn.Linear(5, 3), torch.optim.SGD(nn.Linear(5, 3).parameters(), lr=0.1), 64)
        conductor.updated()
        assert conductor.checked is None
        leave(conductor)
        assert not _global_optimizer_pre_hooks
        assert (None if conductor.checked is None else conductor.checked.verdict) == verdict
    assert "not checked: no update was seen while it watched" in capsys.readouterr().err


def test_a_checked_run_ends_where_an_unchecked_one_does():
    plain, checked = lightning_module(), lightning_module()
    fit_lightning(plain, Parts())
    fit_lightning(checked, Parts(check=True, noise=NoiseScale(every=1)))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), checked.parameters(), strict=True))


def test_a_second_scheduler_and_a_model_without_batch_norm_are_refused():
    with pytest.raises(
        ValueError, match="expected no lr_scheduler beside a recipe, whose schedule sets the rate, got one"
    ):
        fit_lightning(lightning_module(scheduler=True), Parts(recipe=RECIPE))
    module = lightning_module()
    module.net = nn.Linear(5, 3)
    with pytest.raises(ValueError, match="ghost_batch_size: expected a model with batch norm, got none; leave it None"):
        fit_lightning(module, Parts(ghost_batch_size=4))


def test_several_optimizers_are_refused():
    module = lightning_module()
    module.automatic_optimization = False
    module.configure_optimizers = lambda: [torch.optim.SGD(module.parameters(), lr=0.1) for _ in range(2)]
    with pytest.raises(ValueError, match="configure_optimizers: expected one optimizer, got 2"):
        fit_lightning_manual(module)


def fit_lightning_manual(module):
    import lightning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, callbacks=[lightning_callback(Parts(check=True))], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader(data(), batch_size=8))


def train_transformers(parts, **options):
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = transformers.LlamaForCausalLM(config)
    tokens = torch.randint(0, 20, (32, 6), generator=torch.Generator().manual_seed(1))
    rows = [
        {"input_ids": row, "labels": row.masked_fill(torch.arange(6) > 2 + i % 4, -100)} for i, row in enumerate(tokens)
    ]
    callback = transformers_callback(parts)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = transformers.TrainingArguments(
            folder, per_device_train_batch_size=8, gradient_accumulation_steps=2, num_train_epochs=2, use_cpu=True,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=0.4,
            **({"lr_scheduler_type": "constant"} | options),
        )  # fmt: skip
        trainer = transformers.Trainer(model, settings, train_dataset=rows, callbacks=[callback])
        trainer.train()
    return callback, copy.deepcopy(model)


def test_the_hf_trainer_is_checked_fed_and_scheduled():
    noise = NoiseScale(every=1)
    callback, checked = train_transformers(Parts(recipe=RECIPE, noise=noise, check=True))
    assert callback.checked.passed, callback.checked.text()
    assert callback.checked.gradients == 1
    assert noise.looks == 4
    _, plain = train_transformers(Parts(recipe=RECIPE))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), checked.parameters(), strict=True))


def test_the_hf_trainer_refuses_a_second_schedule():
    with pytest.raises(
        ValueError,
        match="lr_scheduler_type: expected 'constant' beside a recipe, whose schedule sets the rate, got 'linear'",
    ):
        train_transformers(Parts(recipe=RECIPE), lr_scheduler_type="linear")


@pytest.mark.parametrize(
    ("make", "library"), [(lightning_callback, "lightning"), (transformers_callback, "transformers")]
)
def test_a_missing_library_is_named(make, library, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == library:
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'largebatch\[{library}\]'"):
        make(Parts())

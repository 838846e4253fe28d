"""The surface is a tested list: what a room exports exists, is sorted, documented, and lives in a private file."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import largebatch

ROOMS = [
    "recipe",
    "results",
    "core",
    "target",
    "curvature",
    "noise",
    "tasks",
    "train",
    "diagnose",
    "plan",
    "probe",
    "study",
    "report",
    "check",
    "integrations",
    "comparison",
    "culprits",
    "landscape",
    "optimizers",
    "processes",
    "recording",
    "replay",
    "sharpness",
    "trials",
    "cli",
]

SURFACE = {
    "recipe": "Change Duration Phase Recipe Schedule Timeline Warmup",
    "curvature": "CallableOperator Density Eigenpairs GGN Hessian LambdaMax Operator Trace as_operator density hutchpp "
    "lanczos sampling_error trace",
    "noise": "NoiseEstimate NoiseScale Watch example_partials noise_and_signal preconditioner_roots weighted_squared_norm",
    "diagnose": "HYPOTHESES SHARPNESS Diagnosis DiagnosisCost Evidence ExpectedCost Inquiry Kind LinearRule Measurement "
    "Path Plan Plane Row RunRecord RunSharpness SharpnessTable Spectrum StoredRun Survey Verdict expected_cost "
    "explain_gap judge linear_rule path plane read_run redo sharpness sharpness_all spectrum",
    "target": "BatchRuns Hyperbola HyperbolaFit SamplesToTarget fit_hyperbola samples_to_target updates_to_target",
    "plan": "ALGORITHMS ComputeFit Link Network NetworkFit OverlapFit Plan PlanRow RunCost StepTime all_reduce_counts "
    "doublings estimate expected_maximum fit_compute fit_network fit_overlap goyal picture read_run_cost "
    "seconds_per_update",
    "probe": "Agreement CriticalBatch Route by_branches by_noise_scale by_sweep critical_batch_size largest_recovered",
    "study": "STUDIES Cell CellCost Contrast Measures Published Study StudyCost StudyResult Subject find_study "
    "open_executor open_question read_study run_study study_cost tune_rates",
    "train": "ADVICE LAMB LARS SAM Execution LossHistory Preview Proximal RecipeScheduler Run RunLog RunStore TensorBoard "
    "build_augmentation build_model build_optimizer build_scheduler checkpoint_interval data_digests fit identity launch "
    "leave_with_parent prepare preview trivial_loss",
    "check": "CULPRITS CheckResult Conformance ConformanceCase Finding Watch conformance loop reference",
    "comparison": "Cell CellRow Contrast ContrastRow LookRow MeasureRow Measures PathRow PlaneRow Published "
    "RunRow SpectrumRow Study StudyResult Subject contrast_sentences curves judge measure_name open_question_answer "
    "published_of read_study",
    "culprits": "CULPRITS CheckResult Clip Epoch Evidence Finding FirstStep MicroBatch Parameter Step Update judge reduced",
    "landscape": "LinearRule Path Plane linear_rule path plane",
    "optimizers": "LAMB LARS SAM Proximal RecipeScheduler build_optimizer build_scheduler load_moments",
    "processes": "Pool local_pool stop_together warm_up",
    "recording": "Enough Recorder lightning_watched",
    "replay": "Coordinates ExampleLoss ModelLoss Pass Reference SampleLog StepLoss begin_pass is_sharded listen "
    "reference replaced replay tensors_in unwrapped",
    "sharpness": "SHARPNESS ExpectedCost Kind Options expected_cost resolve sharpness sharpness_all",
    "trials": "Branch Branches HeldOut ProbeCost ProbePlan RouteCost StepMeasurement Sweep Trial branch_batches "
    "measure_steps probe_cost run_probe sweep_batches",
    "integrations": "Parts lightning_callback transformers_callback",
    "report": "write",
    "cli": "main",
}


def natural(name):
    """The order in which ruff sorts __all__: constants, classes, the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_exports_exactly_its_list(room):
    module = importlib.import_module(f"largebatch.{room}")
    public = [n for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)]
    assert sorted(public) == sorted(module.__all__)
    assert module.__all__ == sorted(module.__all__, key=natural)
    if room in SURFACE:
        assert sorted(SURFACE[room].split()) == sorted(module.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_everything_public_is_documented(room):
    module = importlib.import_module(f"largebatch.{room}")
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{room}.{name}"
            if inspect.isclass(thing):
                for member, value in vars(thing).items():
                    if inspect.isfunction(value) and not member.startswith("_") and member != "forward":
                        assert inspect.getdoc(getattr(thing, member)), f"{room}.{name}.{member}"


@pytest.mark.parametrize("room", ROOMS)
def test_files_are_private_and_begin_with_their_idea(room):
    module = importlib.import_module(f"largebatch.{room}")
    for info in pkgutil.iter_modules(module.__path__):
        assert info.name.startswith("_"), f"{room}/{info.name}.py"
        assert importlib.import_module(f"largebatch.{room}.{info.name}").__doc__, f"{room}/{info.name}.py"


def test_every_room_is_in_the_list():
    folders = {path.parent.name for path in Path(largebatch.__file__).parent.glob("*/__init__.py")}
    assert folders == set(ROOMS)

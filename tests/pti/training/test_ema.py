"""The average over the steps of training: what it is, what it leaves alone, and where it is used."""

import numpy as np
import pytest
import torch

from pti.errors import CheckpointError
from pti.runs import checkpoint
from pti.runs.ema_weights import averages_in
from pti.runs.run import load_run
from pti.training.ema import PowerEMA
from pti.workflow import run_stages
from tests.tiny.runs import configuration, tuning_of


def walked(gamma, steps):
    parameters = {"a": torch.nn.Parameter(torch.zeros(2)), "b": torch.nn.Parameter(torch.full((1,), 100.0))}
    averages, path = PowerEMA(parameters, gamma), []
    for step in range(1, steps + 1):
        with torch.no_grad():
            parameters["a"].add_(torch.tensor([1.0, step]))
            parameters["b"].copy_(torch.tensor([float(step % 3)]))
        path.append({name: p.detach().clone() for name, p in parameters.items()})
        averages.update(step)
    return parameters, averages, path


@pytest.mark.parametrize("power", [0, 1, 2, 4])
def test_steps_weigh_by_a_power_of_their_number(power):
    _, averages, path = walked(power, 400)
    steps = np.arange(1, 401)
    weights = torch.from_numpy(np.diff(np.arange(401.0) ** (power + 1)))  # the integral of s^power over each step
    weights /= weights.sum()
    for name, value in averages.values.items():
        expected = sum(w * p[name] for w, p in zip(weights, path, strict=True))
        torch.testing.assert_close(value.double(), expected.double(), rtol=1e-4, atol=1e-4)
    assert float((weights.numpy() * steps).sum() / 400) == pytest.approx((power + 1) / (power + 2), abs=0.01)


def test_nothing_is_left_of_the_start():
    parameters, averages, _ = walked(0.5, 1)
    for name, value in averages.values.items():
        assert torch.equal(value, parameters[name])


def test_they_are_applied_for_a_while_or_for_good():
    parameters, averages, path = walked(1, 5)
    with averages.applied():
        assert all(torch.equal(p, averages.values[name]) for name, p in parameters.items())
    assert all(torch.equal(p, path[-1][name]) for name, p in parameters.items())
    with pytest.raises(ZeroDivisionError), averages.applied():
        raise ZeroDivisionError
    assert all(torch.equal(p, path[-1][name]) for name, p in parameters.items())
    averages.copy_to_model()
    assert all(torch.equal(p, averages.values[name]) for name, p in parameters.items())


def test_they_go_through_a_checkpoint():
    _, averages, _ = walked(1, 5)
    _, other, _ = walked(1, 3)
    tensors = averages.tensors()
    other.restore(tensors)
    assert all(torch.equal(value, other.values[name]) for name, value in averages.values.items())
    assert set(averages_in({**tensors, "parameter.a": torch.zeros(1)})) == {"a", "b"}
    del tensors["average.b"]
    with pytest.raises(CheckpointError, match="no average of b"):
        other.restore(tensors)


def test_training_itself_is_the_same_and_what_comes_of_it_is_the_average(sd, tmp_path):
    def trained(gamma):
        tuning = tuning_of(configuration(sd, tmp_path, f"lora.ema_gamma={gamma}", "lora.distance_every=1"))
        path, records = [], []
        for record in tuning.run():
            path.append({name: p.detach().clone() for name, p in tuning.lora.parameters.items()})
            records.append(record)
        return tuning, path, records

    plain, steps, at_steps = trained("")
    assert plain.averages is None
    tuning, same, averaged = trained(1)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(steps, same, strict=True) for name in a)
    assert [record.loss for record in at_steps] == [record.loss for record in averaged]
    assert averaged[0].weight_distance == at_steps[0].weight_distance
    assert averaged[-1].weight_distance < at_steps[-1].weight_distance  # the walk goes outwards
    weights = np.diff(np.arange(len(steps) + 1.0) ** 2) / len(steps) ** 2
    expected = {name: sum(float(w) * step[name] for w, step in zip(weights, steps, strict=True)) for name in steps[0]}
    with tuning.evaluation_weights() as model:
        assert model is tuning.model
        for name, p in tuning.lora.parameters.items():
            torch.testing.assert_close(p.detach(), expected[name], rtol=1e-4, atol=1e-6)
    assert all(torch.equal(p, same[-1][name]) for name, p in tuning.lora.parameters.items())
    tuning.result()
    assert tuning.lora.weight_distance() == pytest.approx(averaged[-1].weight_distance, rel=1e-6)  # told in float32


def test_a_run_is_loaded_with_its_averages(sd, tmp_path):
    config = configuration(sd, tmp_path / "run", "lora.ema_gamma=0", "validation.prompts=[]")
    run_stages(config, ("invert", "tune"))
    stored = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints", "tune")).tensors
    loaded = load_run(tmp_path / "run").lora.parameters
    assert all(torch.equal(p, stored[f"average.{name}"]) for name, p in loaded.items())
    assert any(not torch.equal(p, stored[f"parameter.{name}"]) for name, p in loaded.items())

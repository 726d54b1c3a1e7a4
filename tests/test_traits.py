"""The contract of components: their declarations are checked at import, their hooks are optional."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from aetool.components import LossTraits, ModelTraits, PenaltyTraits, ScheduleTraits
from aetool.losses import MSE, Loss
from aetool.models.base import Autoencoder, is_variational, layers_of
from aetool.models.sparse import Sparse
from aetool.penalties.base import Penalty
from aetool.penalties.sparsity import L1
from aetool.training.schedules import Constant, Schedule

BASES = {
    Autoencoder: ModelTraits,
    Sparse: ModelTraits,
    Penalty: PenaltyTraits,
    L1: PenaltyTraits,
    Loss: LossTraits,
    Schedule: ScheduleTraits,
}


class Smallest(Autoencoder):
    def encode(self, x):
        return x.flatten(1)

    def decode(self, code):
        return code.unflatten(1, (1, 2, 2))


@pytest.mark.parametrize(("base", "kind"), BASES.items(), ids=lambda item: item.__name__)
def test_a_declaration_under_another_name_is_refused(base, kind):
    with pytest.raises(TypeError, match=rf"Mine\.trait: .* traits = {kind.__name__}"):
        type("Mine", (base,), {"trait": kind()})


@pytest.mark.parametrize(("base", "kind"), BASES.items(), ids=lambda item: item.__name__)
def test_a_declaration_of_another_type_is_refused(base, kind):
    other = LossTraits if kind is ModelTraits else ModelTraits
    for value in (other(), {"extras": ()}, kind):
        with pytest.raises(TypeError, match=rf"Mine\.traits: .* traits = {kind.__name__}"):
            type("Mine", (base,), {"traits": value})


def test_a_misspelt_field_is_refused():
    for kind in set(BASES.values()):
        with pytest.raises(TypeError, match="unexpected keyword"):
            kind(extra=("mean",))


def test_declarations_are_inherited_and_derived():
    class Derived(Sparse):
        traits = replace(Sparse.traits, at_most={"k": "code_size"})

    class Further(Derived):
        pass

    assert Further.traits == Derived.traits != Sparse.traits
    assert Further.traits.extras == ("pre_activation",)


def test_the_least_that_a_model_has_to_define():
    model, x = Smallest(), torch.rand(3, 1, 2, 2)
    assert model.traits == ModelTraits()
    assert not is_variational(model)
    output = model(x, torch.Generator())
    assert torch.equal(output.code, x.flatten(1))
    assert torch.equal(output.reconstruction, x)
    assert output.extras == {}
    model.observe(output)
    assert model.atoms() is None
    assert model.encoder_layer(x) is None


@pytest.mark.parametrize("base", [Autoencoder, Penalty, Loss, Schedule])
def test_the_contract_has_to_be_met(base):
    with pytest.raises(TypeError, match="abstract"):
        base()


def test_a_penalty_and_a_loss_may_be_modules():
    class Trained(Penalty, nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def __call__(self, model, batch, output):
            return self.weight * output.code.mean()

    penalty, output = Trained(), Smallest()(torch.ones(3, 1, 2, 2))
    assert penalty(None, None, output).item() == 2
    penalty.observe(output)
    assert [name for name, _ in penalty.named_parameters()] == ["weight"]


def test_hooks_of_a_schedule_are_optional():
    schedule = Constant()
    schedule.observe(1.0)
    assert schedule.state_dict() == {}
    schedule.load_state_dict({})
    assert not schedule.traits.compares_losses


def test_only_a_squared_error_says_so():
    assert MSE.traits.squared
    assert not Loss.traits.squared


def test_layers_come_in_the_order_of_the_module():
    module = nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 3)), nn.Linear(3, 4))
    assert [layer.out_features for layer in layers_of(module, nn.Linear)] == [2, 3, 4]
    assert layers_of(module, nn.Conv2d) == []

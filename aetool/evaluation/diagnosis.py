"""Warnings about a network that learned nothing useful or missed its target; each names the key to change."""

from collections.abc import Mapping

from aetool.config.groups import PenaltyConfig
from aetool.evaluation.catalogue import COMPARED, DIVERGED, VAL_ACCURACY
from aetool.evaluation.headline import headline, headline_tap

COLLAPSED = 0.05  # fraction of active units below which a posterior counts as collapsed

OVERFITTED = 0.9  # FVU on train as a fraction of that on validation, below which the network counts as overfitted


def degenerate(metrics: Mapping[str, float], penalty: PenaltyConfig) -> list[str]:
    """Diverged training, dead or constant codes, mean-image reconstructions, and a missed target_l0."""
    warnings = []
    target = penalty.target_l0
    if target is not None and abs(metrics["val/l0"] / target - 1) > 0.1:
        train = metrics.get("train/l0", metrics["val/l0"])
        start = "larger" if train > target else "smaller"
        advice = f"raise trainer.epochs, or start from a {start} penalty.weight"
        if abs(train / target - 1) <= 0.1:
            advice = _generalisation(metrics)
        warnings.append(
            f"penalty.target_l0={target:g}: {metrics['val/l0']:.1f} units are active on validation, {train:.1f} on "
            f"train: {advice}"
        )
    lower = "lower penalty.weight or optimizer.lr" if penalty.weight else "lower optimizer.lr"
    fvu = 1 - metrics["val/explained_variance"]
    if fvu > DIVERGED:
        times = f"the error is {fvu:.3g} times that of the mean image"
        warnings.append(f"diverged: {times} on validation: {lower}, or set trainer.clip_norm")
    elif metrics["val/dead_fraction"] == 1:
        warnings.append(f"all code units are dead: {lower}")
    elif metrics["val/code_std"] == 0:
        warnings.append(f"the code is the same for every image: {lower}")
    elif metrics["val/explained_variance"] < 0.01:
        warnings.append(f"reconstructions are no better than the mean image: train longer, or {lower}")
    return warnings


def _generalisation(metrics: Mapping[str, float]) -> str:
    """Why a target that is met on training images may be missed on validation."""
    of_train, of_val = metrics["train/fvu"], metrics["val/fvu"]
    errors = f"the FVU is {of_train:.4f} on train and {of_val:.4f} on validation"
    if of_train < OVERFITTED * of_val:
        return f"the network memorises the training images ({errors}): lower trainer.epochs or model.code_size"
    return f"the target is met on train, and there is no overfitting ({errors})"


def collapsed_posterior(active_units: float, code_size: int) -> list[str]:
    """Posterior collapse: less than 5 % of the code distinguishes images."""
    if active_units > 0 and active_units >= COLLAPSED * code_size:
        return []
    return [
        f"posterior collapse: {active_units:.0f} of {code_size} code units are active: lower penalty.weight, "
        "or raise penalty.warmup or penalty.terms.kl.free_bits"
    ]


def below_baselines(metrics: Mapping[str, float]) -> list[str]:
    """Validation accuracy at the headline tap of a probe below that of a baseline."""
    found, tap = headline(metrics), headline_tap(metrics)
    own = found.get(VAL_ACCURACY.name)
    if own is None:
        return []
    accuracies = {name: found.get(f"{name}/{VAL_ACCURACY.name}", 0.0) for name in COMPARED}
    better = ", ".join(f"{name} ({accuracy:.4f})" for name, accuracy in accuracies.items() if accuracy > own)
    return [f"validation accuracy of the {tap} ({own:.4f}) is below baseline {better}"] if better else []

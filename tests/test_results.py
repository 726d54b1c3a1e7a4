"""Published numbers, reproduced by the commands that docs/results.md names; run with pytest -m results."""

import json

import pytest
from conftest import only_run

from aetool.config.published import reproductions
from aetool.evaluation.catalogue import bounds, metric_of

CHEAP = {  # experiments of a minute or two: between which values the metric lies, by docs/results.md
    "digits_wta": (0.980, 0.990),  # 3 of the 629 test images on either side; another precision may change some
    "hinton2006_pca": (13.865, 13.875),  # nothing random in it
}


@pytest.mark.results
@pytest.mark.parametrize("experiment", CHEAP)
def test_a_published_number_is_reproduced(tmp_path, monkeypatch, aetool, experiment):
    """By one seed: as measured here, and the target as far as the 95 % interval over test images allows to say."""
    monkeypatch.chdir(tmp_path)
    done = aetool("train", f"experiment={experiment}", "seed=0", "threads=1", "baselines=false")
    assert done.code == 0, done.err
    (published,) = [one.published for one in reproductions() if one.experiment == experiment]
    section, _, key = published.metric.partition("/")
    found = json.loads((only_run(tmp_path) / "metrics.json").read_text())[section]
    metric = metric_of(published.metric)
    low, high = bounds(key)
    best = found.get(high if metric.direction == "higher" else low, found[key])
    target = published.value if published.target is None else published.target
    assert metric.cost(best) <= metric.cost(target)
    lowest, highest = CHEAP[experiment]
    assert lowest <= found[key] <= highest

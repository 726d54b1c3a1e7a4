"""Features of a probe: flattened taps, large maps pooled."""

import torch

from aetool.stages.features import pooled


def test_maps_within_the_limit_and_vectors_are_left_alone():
    maps, vectors = torch.rand(2, 64, 4, 4), torch.rand(2, 5000)
    assert pooled(maps, 1024) is maps
    assert pooled(vectors, 10) is vectors
    assert pooled(torch.rand(2, 64, 9, 9), None).shape == (2, 64, 9, 9)


def test_larger_maps_become_the_largest_grid_within_the_limit():
    maps = torch.rand(2, 192, 8, 8)
    assert pooled(maps, 2048).shape == (2, 192, 3, 3)
    assert pooled(maps, 3072).shape == (2, 192, 4, 4)
    torch.testing.assert_close(pooled(maps, 3072), maps.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5)))
    assert pooled(torch.rand(2, 300, 9, 1), 100).shape == (2, 300, 1, 1)

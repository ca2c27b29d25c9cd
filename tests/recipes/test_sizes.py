"""Sizes of a model's tree: what grows with the width, what does not, and which layers are left."""

from __future__ import annotations

from fractions import Fraction

import pytest

from corestone.core.spec import parse
from corestone.recipes.catalogue import RECIPES, find_recipe
from corestone.recipes.sizes import (
    growing_numbers,
    layer_kind,
    one_of_each,
    parameters_of,
    resized,
    spread,
    stacks,
    thinned,
    tree_of,
    widest,
)
from corestone.recipes.spec import ModelFile


def test_heads_keep_their_width_unless_they_may_become_thinner():
    tree = tree_of(find_recipe("gptj-6b", []).model)  # 16 heads of 256, of which 64 values are turned
    fewer = resized(tree, Fraction(1, 8))["stack"]["blocks"][0]["mixer"]
    assert (fewer["num_heads"], fewer["head_dim"], fewer["position"]["dims"]) == (2, 256, 64)
    thinner = resized(tree, Fraction(1, 64), thinnest=8)["stack"]["blocks"][0]["mixer"]
    assert (thinner["num_heads"], thinner["head_dim"], thinner["position"]["dims"]) == (8, 8, 2)


@pytest.mark.parametrize("name", RECIPES)
def test_twice_as_wide_and_back_is_the_same(name):
    """All that grows is found, or the wide model would not be built; and nothing else is touched."""
    tree = tree_of(find_recipe(name, []).model)
    wide = resized(tree, Fraction(2))
    assert resized(wide, Fraction(1, 2)) == tree
    assert growing_numbers(wide) == [2 * number for number in growing_numbers(tree)]
    built = parse(ModelFile, {"model": wide}, name).model
    assert parameters_of(built) > parameters_of(find_recipe(name, []).model)


def test_channels_of_convolutions_grow_and_those_of_pictures_do_not():
    tree = tree_of(find_recipe("mnist", []).model)
    wide = resized(tree, Fraction(2))
    assert (wide["channels"], wide["layers"][0]["channels"]) == (1, 2 * tree["layers"][0]["channels"])
    assert widest(wide) == 2 * widest(tree) == max(growing_numbers(wide))


def test_one_layer_of_each_kind_or_a_share_of_them_is_left():
    hybrid = tree_of(find_recipe("h3-125m", []).model)
    (layers,) = stacks(hybrid)
    (each,) = stacks(thinned(hybrid, one_of_each))
    assert [layer["mixer"]["kind"] for layer in each] == ["attention", "h3"]
    assert {layer_kind(layer) for layer in each} == {layer_kind(layer) for layer in layers}
    assert spread("abcdefg", 3 / 7) == ["a", "d", "g"]
    counted = tree_of(find_recipe("mogrifier-ptb-char", []).model)
    assert thinned(counted, one_of_each)["depth"] == 2
    assert [len(layers) for layers in stacks(tree_of(find_recipe("coatnet-0", []).model))] == [2, 3, 5, 2]

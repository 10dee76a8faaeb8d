"""Bytes from elsewhere make neither a decoder nor a server fall over."""

import os
import random
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import decoders


@pytest.mark.parametrize(("name", "variations"), [("codec", 3000), ("manager", 15)])
def test_kept_inputs_and_variations_of_them(name: str, variations: int) -> None:
    dice = random.Random(20)
    inputs = decoders.kept(name)
    assert inputs
    with decoders.target(name) as decode:
        for data in inputs:
            decode(data)
        for _ in range(variations):
            decode(decoders.vary(dice, inputs))

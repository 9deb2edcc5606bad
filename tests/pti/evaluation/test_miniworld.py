"""Miniworld's attribute classifier, and the attributes of its characters."""

import torch

from clipgeom.miniworld.characters import NEW_CHARACTERS
from clipgeom.miniworld.readers import READ, FactorReaders, build_network
from clipgeom.miniworld.scenery import scenes
from pti.evaluation.attributes import AttributeClassifier
from pti.evaluation.miniworld import MiniworldClassifier, character_values


def test_the_factor_readers_read_everything_of_the_drawn_world():
    torch.manual_seed(0)
    reader = MiniworldClassifier(FactorReaders(build_network()))
    assert isinstance(reader, AttributeClassifier)
    seen = reader.classify(scenes(3, 0).pictures)
    assert seen.keys() == READ.keys() == reader.vocabulary.keys()
    assert all(value in reader.vocabulary[name] for name, values in seen.items() for value in values)


def test_what_a_new_character_should_be_read_as():
    for character in NEW_CHARACTERS.values():
        values = character_values(character)
        assert all(value in READ[name] for name, value in values.items())
    assert character_values(NEW_CHARACTERS["bramble"]) == {
        **{"class": "dragon", "body": "green", "headgear": "crown", "headgear_color": "purple"},
        **{"pattern": "stripes", "emblem": "none", "two_tone": "yes"},
    }


def test_a_position_says_nothing_of_what_is_faced():
    reader = MiniworldClassifier(FactorReaders(build_network()))
    assert reader.attributes_in("a picture of a {token}, top left") == {"position"}
    assert reader.attributes_in("a {token} looking left, at night") == {"facing", "background"}

"""Vectors of the attributes of users, by hand; and in training, now and then none."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from regard.data.attributes import Attribute
from regard.data.shape import Form, Shape
from regard.model.embedding import FORGOTTEN
from regard.model.people import UserAttributes

WIDTH = 5
FORMS = {"sex": 2, "age": Form("number", 1), "look": Form("vector", 3), "job": 1}
NAN = np.nan
FOUND = {
    "sex": Attribute("category", 2, np.array([0, 1, 2, 0])),
    "job": Attribute("category", 1, np.array([0, 0, 1, 1])),
    "age": Attribute("number", 1, np.array([[NAN], [1.5], [NAN], [-0.5]], np.float32)),
    "look": Attribute("vector", 3, np.array([[NAN] * 3, [1, 2, 3], [NAN] * 3, [0, 0, 1]], np.float32)),
}


def table() -> UserAttributes:
    made = UserAttributes(Shape(7, users=3, user_attributes=FORMS), WIDTH).eval()
    made.read(FOUND)
    assert all(not bool(parameter.any()) for parameter in made.parameters())  # nothing is said before training
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def by_hand(made: UserAttributes, user: int) -> dict[str, Tensor]:
    assert made.directions is not None
    age, look = made.directions[:2], made.directions[2:]
    own = {name: torch.from_numpy(one.values[user : user + 1]) for name, one in FOUND.items()}
    return {
        "job": made.values[0][own["job"][0]],
        "sex": made.values[1][own["sex"][0]],
        "age": age[1] if own["age"].isnan().any() else own["age"][0] @ age[:1],
        "look": look[3] if own["look"].isnan().any() else own["look"][0] @ look[:3],
    }


def test_each_attribute_has_a_vector_of_the_person_who_asks() -> None:
    made = table()
    assert made.names == ("job", "sex", "age", "look")
    users = torch.tensor([3, 0, 1, 1, 2])
    found = dict(zip(made.names, made(users), strict=True))
    for row, user in enumerate(users.tolist()):
        for name, expected in by_hand(made, user).items():
            torch.testing.assert_close(found[name][row], expected)
    assert made.told(torch.arange(4)).tolist() == [False, True, True, True]
    alone = UserAttributes(Shape(7, users=3, user_attributes={"sex": 2}), WIDTH)
    assert [one.shape for one in alone(users)] == [(5, WIDTH)]


def test_in_training_each_attribute_is_now_and_then_not_given() -> None:
    made = table().train()
    many = 4000
    found = made(torch.full((many,), 1))
    told, nothing = by_hand(made, 1), by_hand(made, 0)
    lost = []
    for name, vectors in zip(made.names, found, strict=True):
        absent = (vectors - nothing[name]).abs().amax(1) < 1e-6
        assert bool(((vectors - told[name]).abs().amax(1) < 1e-6).logical_or(absent).all())
        lost.append(absent)
    shares = torch.stack(lost[1:]).double().mean(1)  # the first is not given anyway
    assert bool(lost[0].all())
    deviation = (FORGOTTEN * (1 - FORGOTTEN) / many) ** 0.5
    assert bool(((shares - FORGOTTEN).abs() < 4 * deviation).all())
    assert not torch.equal(lost[1], lost[2])
    sum(one.sum() for one in found).backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_who_told_anything_is_known() -> None:
    made = UserAttributes(
        Shape(7, users=3, user_attributes={"age": Form("number", 1), "look": Form("vector", 2)}), WIDTH
    )
    look = np.array([[NAN, NAN], [NAN, NAN], [0, 0], [NAN, NAN]], np.float32)
    age = np.array([[NAN], [NAN], [NAN], [0]], np.float32)
    made.read({"age": Attribute("number", 1, age), "look": Attribute("vector", 2, look)})
    assert made.told(torch.tensor([3, 0, 1, 2])).tolist() == [True, False, False, True]

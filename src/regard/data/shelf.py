"""The shelf of the sample shop: 24 categories of 25 things, with invented brands, names, texts and prices.

Six worlds (photography, camping, …) hold four categories each: a main one (cameras) and three of accessories (memory
cards, lens filters, camera bags). All brands and names are made up; a likeness to real ones would be chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

ITEMS_PER_CATEGORY = 25


@dataclass(frozen=True)
class Category:
    """One category: plural `name`, singular `thing`, the world it belongs to, its prices from `cheapest` to `dearest`
    (euro), two words that describe its things, and for accessories the main category they go with."""

    name: str
    thing: str
    world: str
    cheapest: int
    dearest: int
    kinds: tuple[str, str]
    accessory_of: str = ""


CATEGORIES: tuple[Category, ...] = (
    Category("cameras", "camera", "photography", 290, 1900, ("compact", "mirrorless")),
    Category("memory cards", "memory card", "photography", 9, 120, ("fast", "weatherproof"), "cameras"),
    Category("lens filters", "lens filter", "photography", 12, 90, ("polarising", "neutral"), "cameras"),
    Category("camera bags", "camera bag", "photography", 20, 160, ("canvas", "padded"), "cameras"),
    Category("tents", "tent", "camping", 80, 620, ("two-person", "family")),
    Category("groundsheets", "groundsheet", "camping", 12, 70, ("light", "heavy-duty"), "tents"),
    Category("tent poles", "tent pole", "camping", 9, 60, ("aluminium", "carbon"), "tents"),
    Category("flysheets", "flysheet", "camping", 25, 160, ("bright", "double-coated"), "tents"),
    Category("coffee makers", "coffee maker", "coffee", 35, 680, ("drip", "espresso")),
    Category("coffee filters", "coffee filter", "coffee", 4, 30, ("paper", "reusable"), "coffee makers"),
    Category("carafes", "carafe", "coffee", 12, 75, ("glass", "insulated"), "coffee makers"),
    Category("water filters", "water filter", "coffee", 8, 45, ("charcoal", "softening"), "coffee makers"),
    Category("running shoes", "running shoe", "running", 60, 210, ("trail", "road")),
    Category("insoles", "insole", "running", 12, 60, ("cushioned", "firm"), "running shoes"),
    Category("laces", "lace set", "running", 3, 18, ("elastic", "waxed"), "running shoes"),
    Category("gaiters", "gaiter", "running", 14, 65, ("breathable", "waterproof"), "running shoes"),
    Category("guitars", "guitar", "music", 120, 1500, ("acoustic", "electric")),
    Category("guitar strings", "string set", "music", 6, 35, ("bronze", "nickel"), "guitars"),
    Category("guitar straps", "guitar strap", "music", 9, 70, ("woven", "leather"), "guitars"),
    Category("guitar cases", "guitar case", "music", 30, 220, ("hard", "soft"), "guitars"),
    Category("printers", "printer", "home office", 70, 460, ("laser", "inkjet")),
    Category("cartridges", "cartridge", "home office", 14, 110, ("standard", "high-yield"), "printers"),
    Category("paper trays", "paper tray", "home office", 18, 95, ("small", "large"), "printers"),
    Category("printer stands", "printer stand", "home office", 25, 150, ("wooden", "rolling"), "printers"),
)
WORLDS: tuple[str, ...] = tuple(dict.fromkeys(category.world for category in CATEGORIES))

_BRANDS = ("Quillmoor", "Varnabee", "Ostrelle", "Brackwen", "Tessaric", "Hollifen", "Pondrel", "Ardevick", "Fenlarch")
_MODELS = (
    *("Alder", "Birch", "Comet", "Drift", "Ember", "Fjord", "Gale", "Harbour", "Iris", "Juniper", "Kestrel", "Lumen"),
    *("Meadow", "Nimbus", "Orchard", "Pebble", "Quarry", "Raven", "Saffron", "Thistle", "Umber", "Vesper", "Willow"),
    *("Yarrow", "Zephyr"),
)
_PRAISE = (
    "Light in the hand and built to last",
    "A quiet favourite of our customers",
    "Simple, sturdy and easy to repair",
    "Made for every day",
    "The choice of people who use it a lot",
)
_FIRST_NAMES = (
    *("ada", "bela", "carmen", "dario", "edith", "farah", "goran", "hanna", "imani", "jonas", "kenji", "lena"),
    *("mateo", "nadia", "oscar", "priya", "quentin", "rosa", "samir", "tilda", "ulrich", "vera", "wanda", "xenia"),
    *("yusuf", "zoe"),
)


def item_ids() -> list[str]:
    """Return the 600 item ids, category by category: 'camera-01' … 'printer-stand-25'."""
    things = (category.thing.replace(" ", "-") for category in CATEGORIES)
    return [f"{thing}-{number:02d}" for thing in things for number in range(1, ITEMS_PER_CATEGORY + 1)]


def user_ids(count: int) -> list[str]:
    """Return `count` user ids: a first name and a number that is the user's own, 'ada-0001'."""
    width = max(3, len(str(count)))
    return [f"{_FIRST_NAMES[i % len(_FIRST_NAMES)]}-{i + 1:0{width}d}" for i in range(count)]


def item_table(fits: Sequence[Sequence[int]], price_draws: Sequence[float]) -> pa.Table:
    """Return the item table: id, title, category, text, price (euro), one row per item.

    `fits[i]` are the items for which item i is the right accessory, and its text says so. `price_draws` are numbers
    in [0, 1), one per item: where in its category's price range an item lies.
    """
    names = [_name(i) for i in range(len(fits))]
    rows: dict[str, list[object]] = {"title": [], "category": [], "text": [], "price": []}
    for i, mains in enumerate(fits):
        category = CATEGORIES[i // ITEMS_PER_CATEGORY]
        draw = price_draws[i] * price_draws[i]  # squared: most things are near the cheap end
        rows["title"].append(f"{names[i]} {category.thing}")
        rows["category"].append(category.name)
        rows["text"].append(_text(i, category, [names[main] for main in mains]))
        rows["price"].append(round(category.cheapest + (category.dearest - category.cheapest) * draw) - 0.05)
    return pa.table({"id": item_ids(), **rows})


def _name(i: int) -> str:
    """Return brand and model of item i: unique within its category, and not the same brand row in every category."""
    category, number = divmod(i, ITEMS_PER_CATEGORY)
    return f"{_BRANDS[(i * 4 + category) % len(_BRANDS)]} {_MODELS[(number * 7 + category * 3) % len(_MODELS)]}"


def _text(i: int, category: Category, mains: list[str]) -> str:
    kind, praise = category.kinds[i % 2], _PRAISE[i % len(_PRAISE)]
    text = f"{kind.capitalize()} {category.thing} for {category.world}. {praise}."
    if not category.accessory_of:
        return text
    return f"{text} Fits the {' and the '.join(mains)}." if mains else f"{text} Fits many {category.accessory_of}."

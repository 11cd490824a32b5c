"""The departments of the shop behind the corpus `retail`: what each sells and to whom.

Read from the tables of `apparel.py` and `goods.py`.
"""

from __future__ import annotations

from typing import NamedTuple

from groot_jax.data.retail import apparel, goods


class Department(NamedTuple):
    """What the queries of one department are made of.

    `tables`: type -> phrases. A product may begin with a type of its own, `running:style shoes`: a
    searcher may mean one product, or a style and a product. `brands` are names that everybody knows
    or that are words of the language; more are invented. `chances`: how often a type is asked for.
    """

    tables: dict[str, tuple[str, ...]]
    brands: tuple[str, ...]
    chances: dict[str, float]


def _department(text: str) -> Department:
    """Reads `type = phrase, phrase; ...; chance = type percent, ...`.

    `color = navy blue, red; brand = gap; chance = color 25` -> Department({"color": ("navy blue",
    "red")}, ("gap",), {"color": 0.25}).
    """
    tables = {}
    for entry in text.split(";"):
        type_, phrases = entry.split("=")
        tables[type_.strip()] = tuple(" ".join(item.split()) for item in phrases.split(","))
    chances = {type_: int(percent) / 100 for type_, percent in map(str.split, tables.pop("chance"))}
    return Department(tables, tables.pop("brand"), chances)


# The order matters: brands are invented for one department after the other, from one generator.
DEPARTMENTS = tuple(_department(text) for text in (*apparel.TEXTS.values(), *goods.TEXTS.values()))

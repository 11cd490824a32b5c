"""The departments of the shop behind the corpus `retail`: what each sells and to whom.

Read from the tables of `apparel.py` and `goods.py`.
"""

from __future__ import annotations

from typing import NamedTuple

from groot_jax.data.retail import apparel, goods
from groot_jax.data.retail.words import read_chances, read_tables


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
    tables = read_tables(text)
    chances = read_chances(tables.pop("chance"))
    return Department(tables, tables.pop("brand"), chances)


# The order matters: brands are invented for one department after the other, from one generator.
DEPARTMENTS = tuple(_department(text) for text in (*apparel.TEXTS.values(), *goods.TEXTS.values()))

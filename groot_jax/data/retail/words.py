"""The words of the generated corpus `retail`: what shops sell, and how it is asked for.

Many phrases stand in several tables on purpose: a `gold` ring is of gold, a `gold` dress is not,
and a `lavender` candle may be either. Only words live here, no rule of how queries are made.
"""

from __future__ import annotations

from collections.abc import Iterable


def read_tables(text: str) -> dict[str, tuple[str, ...]]:
    """`color = navy blue, red; brand = gap` -> {"color": ("navy blue", "red"), ...}."""
    tables = {}
    for entry in text.split(";"):
        name, phrases = entry.split("=")
        tables[name.strip()] = tuple(" ".join(item.split()) for item in phrases.split(","))
    return tables


def read_chances(items: Iterable[str]) -> dict[str, float]:
    """`color 25`, `brand 60` -> {"color": 0.25, "brand": 0.6}."""
    return {type_: int(percent) / 100 for type_, percent in map(str.split, items)}


# Tables of types that all departments share, most wanted first.
SHARED = read_tables("""
    color = black, white, blue, red, navy, pink, grey, green, brown, gold, silver, beige, purple,
    orange, yellow, rose gold, olive, teal, burgundy, cream, navy blue, light blue, dark green,
    tan, ivory, rose, coral, champagne, mint, lavender, peach, charcoal, camel, rust, wine, hunter
    green, black and white, off white, turquoise, denim, hot pink, royal blue, sage, plum,
    mustard, khaki, nude, blush, maroon, copper, bronze, cherry, chocolate, sky blue, emerald,
    sand, slate, forest green, dusty rose, baby blue, indigo, lime, lilac, mocha, pearl, amber,
    aqua, coffee, honey, vanilla, oatmeal, cherry red, mauve, ruby, sapphire, stone, walnut,
    graphite, midnight blue, olive green, red and black, multicolor, magenta, taupe, fuchsia,
    cobalt, eggplant, espresso, natural, clear;
    pattern = floral, striped, plaid, polka dot, leopard print, camo, checkered, tie dye, leopard,
    animal print, paisley, geometric, houndstooth, solid, zebra print, gingham, rose print,
    buffalo plaid, pinstripe, palm leaf, cherry print, marble, herringbone, abstract, snake print,
    star print;
    price = cheap, under {n}, under {n} dollars, under ${n}, on sale, less than {n}, affordable,
    below ${n}, discount, clearance, budget, around {n} dollars, inexpensive, luxury, less than
    {n} dollars, {n} dollars, up to ${n}, high end, between {n} and {m}, ${n}, designer, low
    price, half price, premium, {n} to {m} dollars, max {n}, over {n} dollars;
    quantity = set of {q}, pack of {q}, {q} pack, {q} piece, pair of, {q} count, bulk, {q} pc, box
    of {q}, 2 pair, case of {q}, bundle, single, dozen, {q} pieces
""")
# How queries begin and end, and the features that a product comes `with`: others are adjectives.
# before: how likely (percent) a slot stands before the product in a query that is no mere list;
# linked: how likely one behind it begins with some of `LINKS`.
QUERIES = read_tables("""
    opener = looking for, i need, best, buy, show me, find, where to buy, i want, new, shop, good,
    top rated, find me, do you have, searching for, need, any, help me find, trendy, in stock;
    closer = free shipping, online, near me, reviews, with free returns, please, sale, 2 day
    delivery, gift, deals, in stock, new arrivals, best seller, for sale, today;
    part = pockets, hood, v neck, side slit, ruffles, belt, thumb holes, adjustable straps, uv
    protection, crew neck, elastic waist, arch support, steel toe, zipper, velcro, ankle strap,
    wide toe box, high arch, wheels, laptop sleeve, adjustable strap, usb charging port, multiple
    pockets, chain strap, coin pocket, heart charm, leather strap, initial, birthstone, storage,
    drawers, led, usb port, arms, doors, remote, cup holder, fringe, lid, handle, straw, timer,
    wifi, infuser, locking lids, spf 50, spf 30, hyaluronic acid, retinol, rgb, usb c, microphone,
    long battery life, night vision, voice control, mic, wall mount, carrying bag, rain fly, 21
    speed, disc brakes, limited ingredient, lights, sounds, parent handle, bluetooth, built in
    bra, long sleeve, 1000 thread count, memory foam, drawstring;
    before = brand 86, color 78, size 35, material 85, audience 40, price 25, style 90, pattern
    85, occasion 40, part 10, feature 60, flavor 80, quantity 45;
    linked = brand 75, color 80, material 75, pattern 40, size 40, audience 85, part 85, feature
    30, occasion 85, flavor 40, style 30
""")
# Unlabeled words that lead in a slot, by its type; part: a feature that comes `with`.
LINKS = read_tables("""
    brand = by, from, by, brand; color = in, in, in the color, color; material = in, made of, made
    from, of; pattern = in, with, with a; size = in; audience = for; part = with, with, with, that
    has; feature = that is, which is; occasion = for, for, for the; flavor = with, in; style = in,
    style
""")
# Parts of invented names, some of which are colors, materials or styles elsewhere.
NAMES = read_tables("""
    onset = b, br, c, cal, d, dr, el, f, g, h, j, k, kr, l, m, mar, n, or, p, r, s, sol, t, tr, v,
    z;
    vowel = a, e, i, o, u, ia, eo, ai;
    coda = n, l, r, s, x, th, nd, m, ck, lla, ro, na, vo, da, ri, ston, field, wick, ley, mont,
    ven, ta;
    first word = amber, autumn, black, blue, bright, cedar, cherry, copper, coral, cotton,
    crimson, daily, denim, early, east, ever, fair, free, gentle, gold, golden, grand, green,
    happy, honey, indigo, iron, ivory, lavender, leather, lemon, little, lucky, maple, mint,
    modern, navy, new, noble, north, oak, old, olive, orange, peach, pearl, pine, plum, pure,
    quiet, red, river, rose, royal, rustic, sage, salt, sand, silver, simple, slate, south, stone,
    summer, true, urban, velvet, vintage, west, white, wild, winter;
    second word = acre, anchor, apple, arrow, avenue, bay, bear, bee, bird, birch, bloom, brook,
    canyon, castle, cloud, clover, coast, creek, crown, dawn, deer, desert, door, dove, eagle,
    falls, feather, fern, field, finch, fjord, fog, forest, fox, garden, gate, grove, harbor,
    haven, heart, hill, hollow, house, lake, lane, leaf, lion, market, meadow, mill, moon, moss,
    mountain, oak, orchard, owl, peak, pepper, pine, planet, pond, port, rabbit, rain, republic,
    ridge, river, road, rock, root, row, sky, sparrow, spring, star, state, stone, street, sun,
    thread, tiger, trail, tree, valley, wave, willow, wolf, wood, works;
    first name = ada, ava, bella, ben, cole, dana, ella, emma, finn, grace, harper, henry, ivy,
    jack, jade, james, june, kara, leo, lily, lucy, luna, mara, max, maya, milo, nora, olive,
    oscar, pearl, rose, ruby, sam, sofia, stella, theo, tom, violet, willa, zoe;
    last name = adler, bennett, black, boone, brooks, brown, carter, cross, dane, ellis, fields,
    ford, gray, green, hale, hart, hayes, hunter, jensen, kane, knox, lane, lowell, marsh, mason,
    monroe, novak, parker, price, reed, rhodes, sharp, silver, snow, stone, swift, vance, wells,
    white, wilder;
    single word = anthem, basic, bloom, canvas, classic, comet, crest, drift, echo, ember, fable,
    flint, gather, gravity, halo, harvest, haven, hearth, ivory, juniper, kindred, linen, lumen,
    magnet, marble, meadow, mint, nectar, nimbus, nomad, opal, orbit, petal, pilot, plush,
    prairie, pulse, quartz, quilt, relic, ritual, rustic, saffron, slate, solid, summit, sunday,
    tandem, tonic, velvet, vista, voyage, willow, wonder, zest;
    line = home, sport, kids, co, and co, jeans, baby, studio, men, outdoors, essentials,
    collection, denim, beauty, kitchen, organics, originals, active, and company, black, girls,
    gold, basics, travel, tech, pets
""")

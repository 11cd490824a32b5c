"""What departments of clothes and of what is worn with them sell, as `departments.py` reads it.

Plain tables, most wanted first. Only words live here, no rule of how queries are made.
"""

from __future__ import annotations

# Lists that several departments have, and some begin with.
ADULTS = """
    women, men, womens, mens, ladies, unisex, teens, teen girls, juniors, him, her, my wife"""
PEOPLE = """
    women, men, womens, mens, ladies, unisex, teens, teen girls, juniors, him, her, my wife, kids,
    girls, boys, toddler, baby, toddler girls, baby boy, youth, 2 year old, 5 year old, grandma,
    dad, guys, my husband, big and tall men, maternity"""
LETTERS = """
    small, medium, large, xl, xxl, s, m, l, xs, 2xl, 3x, plus size, petite, tall"""
WEAR_STYLES = """
    casual, vintage, slim fit, boho, high waisted, skinny, oversized, classic, summer, formal,
    modern, retro, cropped, sporty, western, preppy, fitted, bootcut, wide leg, cute, long, short,
    loose, distressed, mini, sexy, chic, y2k, tailored, basic, relaxed fit, athletic, elegant,
    gothic, tactical, outdoor, urban, rustic, luxury, designer, express, lucky, free"""
WEAR_OCCASIONS = """
    wedding, summer, work, party, beach, winter, gym, school, vacation, prom, halloween, christmas,
    running, travel, hiking, office, yoga, date night, wedding guest, church, golf, maternity,
    spring, cocktail, rain, snow, holiday"""

TEXTS = {
    "clothing": f"""
        product = dress, jeans, t shirt, hoodie, jacket, sweater, leather:material jacket, skirt,
        shorts, leggings, denim:material jacket, dress shirt, cardigan, coat, yoga:occasion pants,
        swimsuit, rain:occasion jacket, polo shirt, maxi:style dress, tank top, blouse, jumpsuit,
        summer:occasion dress, cargo:style pants, blazer, puffer:style jacket, sweatshirt, vest,
        skinny:style jeans, wedding:occasion dress, joggers, pencil:style skirt, cocktail:occasion
        dress, suit, socks, silk:material pajamas, pajamas, scarf, denim:material shorts, bikini,
        graphic:style tee, mini:size skirt, bomber:style jacket, khakis, overalls, romper,
        work:occasion pants, tunic, sports:style bra, flannel:material shirt, down:material jacket,
        boxer briefs, trench coat, beach:occasion cover up, swim trunks, wrap:style dress, henley,
        chinos, cashmere:material sweater, kimono, poncho, golf:occasion shirt, winter:occasion
        coat, parka, mom:audience jeans, boyfriend:style jeans, sweatpants, camisole, windbreaker,
        hawaiian:style shirt, robe, turtleneck, fleece, slip:style dress, tights, ski:occasion
        pants, bodysuit, bell bottoms, tuxedo, baseball:style tee;
        brand = levi, gap, old navy, north face, free people, columbia, new york and company, puma,
        calvin klein, levis, banana republic, calvin klein jeans, guess, express, lucky brand,
        champion, american eagle, pink, true religion, diesel, white house, carhartt, express men,
        gap kids, guess jeans, cherry lane, olive and oak, blue rose, little black
        dress company, silver jeans, summer and sage, denim republic, navy club, vintage havana;
        size = {LETTERS}, size 8, size 10, size 6, 32x30, 34, size 12, size 2, 30, size xl, 32x34,
        14, size small, size 16 w, 4, 2t, 12 months, 3t, size 4 petite, regular, one size;
        material = cotton, denim, leather, linen, wool, silk, faux leather, velvet, cashmere, lace,
        satin, fleece, polyester, suede, chiffon, corduroy, spandex, flannel, mesh, down, faux fur,
        knit, merino wool, organic cotton, jersey, canvas, bamboo, tulle;
        style = {WEAR_STYLES};
        feature = long sleeve, pockets, v neck, high waisted, short sleeve, stretch, waterproof,
        hood, off the shoulder, zip up, sleeveless, backless, button down, crew neck, elastic
        waist, lined, quick dry, side slit, ruffles, reversible, belt, wrinkle free, built in bra,
        uv protection, cropped, hooded, thumb holes, adjustable straps;
        occasion = {WEAR_OCCASIONS};
        audience = {PEOPLE};
        chance = brand 60, color 50, size 30, material 28, audience 45, price 18, style 35, pattern
        14, occasion 17, feature 20, quantity 3""",
    "shoes": f"""
        product = shoes, running:occasion shoes, boots, sneakers, sandals, heels, hiking:occasion
        boots, slippers, loafers, flats, ankle:style boots, rain:occasion boots, cowboy:style
        boots, flip flops, tennis:occasion shoes, wedges, high:style heels, work:occasion boots,
        dress shoes, leather:material boots, platform:style sandals, basketball:occasion shoes,
        slides, vans, mules, winter:occasion boots, clogs, walking:occasion shoes, ballet flats,
        combat:style boots, water:feature shoes, golf:occasion shoes, canvas:material sneakers,
        oxfords, pumps, moccasins, snow:occasion boots, steel toe:feature boots, gladiator:style
        sandals, cleats, wedding:occasion shoes, chelsea:style boots, espadrilles, high top:style
        sneakers, crocs, boat:style shoes, baby:audience shoes, knee high:style boots,
        trail:occasion shoes;
        brand = puma, vans, new balance, red wing, hunter, keen, nike, brooks, coach, columbia, on,
        guess, champion, nine west, north face, timber creek, steve madden, black diamond, white
        mountain, rocket dog, free people, lucky brand, blue harbor, sand and sea, easy street, dr
        comfort, silver fox, easy spirit, naturalizer, puma golf, hush puppies, merrell, hunter
        boots;
        size = size 9, size 10, size 8, 10 wide, wide, size 7, size 11, 9.5, size 6.5, wide width,
        8.5 w, size 10 wide, 12, size 13, extra wide, narrow, 7.5, size 5 toddler, 11 d, size 12
        4e, 8, kids 3;
        material = leather, suede, canvas, rubber, faux leather, mesh, velvet, patent leather,
        foam, wool, cork, shearling, denim, vegan leather, satin, memory foam, gore tex, knit;
        style = casual, high top, platform, wedge, strappy, slip on, vintage, running, chunky,
        classic, lace up, pointed toe, retro, low top, athletic, western, open toe, knee high,
        comfortable, trail, minimalist, dressy, kitten heel, block heel, summer, skate, work,
        walking, tall;
        feature = waterproof, slip on, arch support, non slip, steel toe, lightweight, memory foam,
        comfortable, wide toe box, zipper, velcro, insulated, slip resistant, open toe, ankle
        strap, cushioned, lace up, fur lined, orthopedic, light up, high arch, lined;
        occasion = {WEAR_OCCASIONS};
        audience = {PEOPLE};
        chance = brand 65, color 45, size 45, material 22, audience 50, price 18, style 28, pattern
        5, occasion 15, feature 22""",
    "bags": f"""
        product = backpack, purse, handbag, tote:style bag, wallet, crossbody:style bag, laptop
        bag, duffel bag, clutch, gym:occasion bag, school:occasion backpack, suitcase, fanny pack,
        shoulder:style bag, messenger:style bag, travel:occasion bag, diaper bag, lunch bag, coin
        purse, leather:material wallet, beach:occasion bag, bucket:style bag, briefcase, luggage,
        canvas:material tote, evening:occasion bag, card holder, makeup bag, satchel, belt bag,
        hobo:style bag, garment bag, weekender bag, golf:occasion bag, hiking:occasion backpack,
        wristlet;
        brand = coach, fossil, guess, north face, kate spade, columbia, black diamond, nine west,
        puma, calvin klein, champion, urban outfitter, rose and thorn, free people, olive lane,
        stone mountain, little earth, vera bradley, coach outlet, red cloud, camel mountain, gap;
        size = small, large, mini, medium, 15 inch, carry on, 17 inch, oversized, 40l, extra large,
        20 inch, 28 inch, 30 liter, slim, 13 inch, 24;
        material = leather, canvas, nylon, faux leather, suede, vegan leather, straw, denim,
        velvet, genuine leather, cotton, mesh, jute, polyester, patent leather, quilted;
        style = crossbody, vintage, tote, mini, slim, designer, casual, quilted, bucket, boho,
        rolling, bifold, clutch, small, cute, tactical, minimalist, hobo, western, travel,
        convertible;
        feature = waterproof, wheels, rfid blocking, laptop sleeve, zipper, adjustable strap,
        lightweight, clear, usb charging port, multiple pockets, anti theft, insulated, chain
        strap, rolling, drawstring, coin pocket, expandable;
        occasion = travel, school, work, beach, wedding, gym, college, evening, hiking, party,
        camping;
        audience = {PEOPLE};
        chance = brand 60, color 50, size 20, material 35, audience 38, price 20, style 30, pattern
        10, occasion 20, feature 22""",
    "jewelry": f"""
        product = necklace, ring, earrings, bracelet, watch, engagement:occasion ring,
        wedding:occasion band, hoop:style earrings, pendant, stud:style earrings, charm bracelet,
        chain, gold:material chain, tennis:style bracelet, pearl:material necklace, anklet,
        diamond:material ring, brooch, nose ring, cuff links, choker, cross:style necklace, bangle,
        smart:feature watch, promise ring, initial necklace, locket, signet ring,
        birthstone:material ring, rose gold:material ring, apple watch band, diamond:material
        earrings, dive:style watch, body jewelry;
        brand = fossil, guess, coach, apple, alex and ani, black hills gold, diamond lane, silver
        creek, pearl and ivory, rose champagne, olive and pearl, kay, pandora, tiffany, golden
        hour, coral bay, bronze age, calvin klein, ruby lane, ivory row, gold coast, black diamond,
        copper fox;
        size = size 7, 18 inch, size 6, 14k, small, size 8, 42mm, large, 20 inch, 2 carat, 10mm, 1
        ct, 38mm, size 9, dainty, 24 inch, 6mm, chunky, 16 inch, thin;
        material = gold, silver, sterling silver, rose gold, diamond, pearl, white gold, 14k gold,
        stainless steel, titanium, leather, moissanite, opal, tungsten, copper, gold plated,
        emerald, ruby, sapphire, coral, amber, turquoise, cubic zirconia, platinum, amethyst, jade,
        bronze, brass, 925 silver, crystal, birthstone, shell;
        style = vintage, dainty, hoop, stud, minimalist, art deco, chunky, boho, antique, layered,
        statement, solitaire, halo, stackable, simple, classic, infinity, celtic, cuban, thin,
        cross, gothic, luxury, modern;
        feature = engraved, personalized, adjustable, waterproof, hypoallergenic, magnetic, clip
        on, matching, heart charm, initial, screw back, leather strap, nickel free, birthstone;
        occasion = wedding, anniversary, birthday, valentines day, mothers day, engagement, prom,
        christmas, party;
        audience = {ADULTS}, mom, girlfriend, boyfriend, couples, girls, bridesmaids, best friend,
        kids;
        chance = brand 42, color 28, size 22, material 60, audience 42, price 18, style 35,
        occasion 17, feature 18, quantity 5""",
}

"""What all other departments sell, from furniture to toys.

Tables as in `apparel.py`.
"""

from __future__ import annotations

from groot_jax.data.retail.apparel import ADULTS

HOME_STYLES = """
    modern, rustic, farmhouse, mid century, industrial, vintage, boho, small, round, outdoor,
    minimalist, antique, tall, coastal, large, contemporary, traditional, folding, nordic, wall
    mounted, scandinavian, luxury, mini, decorative, urban, classic, shabby chic, narrow"""

TEXTS = {
    "furniture": f"""
        product = coffee table, desk, lamp, dining table, rug, sofa, office:occasion chair, mirror,
        bookshelf, nightstand, bed frame, bar:style stool, chair, floor lamp, curtains, dresser, tv
        stand, area rug, shelf, end table, patio:occasion set, wall art, throw pillow, couch,
        ottoman, storage bench, vase, recliner, table lamp, accent:style chair, outdoor:occasion
        rug, candle holder, console table, wine rack, rocking chair, leather:material sofa,
        sectional, shoe rack, wood:material shelf, folding:feature table, clock, picture frame,
        plant stand, coat rack, marble:material table, pendant light, chandelier, kitchen:occasion
        cart, gaming:occasion chair, wall clock, sofa bed, bean bag, room divider, wingback:style
        chair, adirondack:style chair;
        brand = ashley, west elm, black forest, olive and finch, pottery barn, crate and barrel,
        walnut hill, gray malin, white river, target, threshold, copper canyon, sage hill, hunter,
        oak and ivory, red barn, novel home, urban home, stone and beam, slate and birch, modern
        house, rustic house, coastal living, silver lake, cherry hill, room and board;
        size = small, large, 5x7, 8x10, 60 inch, queen, king, 48 inch, tall, 30 inch, narrow,
        round, 36 x 48, full, 6 foot, twin, mini, 24 inch, 9x12, 72, king size, 2 x 3, extra long,
        84 inch, compact;
        material = wood, leather, glass, metal, velvet, marble, walnut, oak, wicker, brass, linen,
        faux leather, pine, bamboo, solid wood, iron, copper, rattan, cherry, gold, wool, stainless
        steel, acrylic, jute, teak, stone, ceramic, cotton, concrete, silver, bronze, mahogany;
        style = {HOME_STYLES};
        feature = storage, adjustable, drawers, wheels, led, folding, swivel, reclining, usb port,
        dimmable, arms, cordless, stackable, easy assembly, doors, lift top, battery operated,
        washable, blackout, wall mounted, remote, non slip, extendable, cup holder;
        occasion = living room, bedroom, outdoor, kitchen, bathroom, office, patio, dorm, nursery,
        christmas, garden, small spaces, camping, halloween, wedding, holiday, beach house, party,
        thanksgiving;
        audience = kids, adults, toddlers, teens, small dogs, tall people, girls, boys, baby,
        gamers;
        chance = brand 42, color 42, size 38, material 42, audience 10, price 20, style 42, pattern
        5, occasion 25, feature 24, quantity 9""",
    "bedding": f"""
        product = sheets, comforter, duvet cover, pillow, blanket, mattress, towels, bath mat,
        pillow cases, shower curtain, sheet set, quilt, throw blanket, mattress topper, bath
        towels, beach:occasion towel, weighted:feature blanket, bed skirt, king size:size bed, body
        pillow, mattress protector, silk:material pillowcase, electric:feature blanket, hand
        towels, bed sheets, down:material comforter, cotton:material sheets, crib sheet, memory
        foam:material pillow, robe, baby:audience blanket, fleece:material blanket, neck pillow,
        tablecloth, throw;
        brand = linen house, white lotus, casper, purple, cotton creek, brooklinen, pottery barn,
        target, threshold, blue ridge, ugg, martha may, calvin klein, cloud nine, eddie bauer,
        sleep number, tommy bahama, champagne home, peach tree, silver sky, velvet moon, royal
        velvet;
        size = queen, king, full, twin, king size, twin xl, california king, queen size, full size,
        standard, 60 x 80, deep pocket, large, 12 inch, 3 inch, oversized, throw size, 50x60, crib
        size, cal king;
        material = cotton, linen, silk, down, bamboo, egyptian cotton, microfiber, flannel, memory
        foam, velvet, satin, fleece, wool, jersey, goose down, sherpa, organic cotton, turkish
        cotton, percale, latex, polyester, faux fur;
        style = {HOME_STYLES};
        feature = cooling, weighted, deep pocket, waterproof, hypoallergenic, reversible, machine
        washable, heated, soft, quick dry, 1000 thread count, extra thick, non slip, wrinkle free,
        firm, electric, breathable, fringe, zipper, plush;
        occasion = winter, summer, christmas, guest room, college dorm, travel, beach, nursery,
        camping, pool;
        audience = kids, toddler, side sleepers, baby, girls, boys, adults, couples, hot sleepers,
        teens, men;
        chance = brand 42, color 50, size 55, material 45, audience 14, price 16, style 20, pattern
        16, occasion 10, feature 30, quantity 10""",
    "kitchen": """
        product = coffee maker, air fryer, knife set, blender, wine:flavor glasses, water bottle,
        frying pan, mug, cutting board, toaster, tea kettle, plates, coffee:flavor mug, dutch oven,
        cast iron:material skillet, lunch box, stand mixer, champagne:flavor flutes, baking sheet,
        spice rack, mixing bowls, dinnerware set, rice cooker, can opener, measuring cups, food
        storage containers, slow cooker, espresso:flavor machine, juicer, trash can, wok,
        pizza:flavor stone, tumbler, pan, ice:flavor maker, knife, dish rack, pots and pans,
        silverware, paper towels, olive oil:flavor dispenser, orange:flavor squeezer, wine opener,
        bread:flavor box, griddle, salad:flavor bowl, cookie:flavor cutter, copper:material pan,
        grill, apron;
        brand = ninja, oxo, copper chef, lodge, red copper, all clad, blue diamond, green pan,
        hamilton beach, orange theory, smart kitchen, kitchen aid, instant pot, shark, black and
        decker, stone lane, farberware, hydro flask, silver palate, rose kitchen, la creme, mr
        coffee, the pioneer, farmhouse table, olive grove, cherry kitchen, our place;
        size = 12 inch, large, 5 quart, 12 cup, small, 32 oz, 10 inch, 6 qt, 8 inch, 16 oz, mini,
        40 oz, 2 quart, extra large, single serve, 8 cup, 64 oz, 13 gallon, 4 slice, personal size,
        2 slice, 20;
        material = stainless steel, cast iron, glass, ceramic, wood, copper, bamboo, silicone,
        plastic, marble, porcelain, granite, crystal, titanium, stone, acrylic, carbon steel,
        enamel, gold, melamine, aluminum, walnut, teak, slate;
        style = modern, vintage, farmhouse, retro, rustic, portable, mini, stemless, compact,
        electric, japanese, french, classic, commercial, large, manual, travel, professional,
        decorative;
        feature = non stick, dishwasher safe, lid, insulated, cordless, programmable, bpa free,
        handle, oven safe, electric, leak proof, digital, microwave safe, straw, self cleaning,
        stackable, rechargeable, timer, induction, thermal, wifi, infuser, locking lids;
        occasion = camping, christmas, wedding, office, travel, parties, thanksgiving, picnic,
        outdoor, home, rv;
        audience = kids, toddlers, two people, men, left handed, beginners, baby, family, mom, dad,
        one person;
        chance = brand 50, color 35, size 38, material 40, audience 10, price 20, style 24, pattern
        4, occasion 12, feature 32, quantity 16""",
    "beauty": f"""
        product = shampoo, lipstick, perfume, foundation, lotion, mascara, nail polish,
        face:feature wash, conditioner, soap, body lotion, hair dryer, deodorant, moisturizer,
        sunscreen, eye:feature cream, rose:flavor water, makeup brushes, lip gloss, body wash,
        eyeliner, hair:feature oil, candle, hand cream, coconut:flavor oil, face mask, body spray,
        concealer, curling iron, hair color, hair brush, essential oil, argan:flavor oil, cologne,
        bath bombs, lip balm, serum, dry shampoo, eyeshadow palette, tea tree:flavor oil, vitamin
        c:feature serum, scented candle, toner, nail kit, blush, bronzer, highlighter,
        straightener, primer, lavender:flavor oil, electric:feature razor, beard oil, rose:flavor
        perfume, honey:flavor soap, blush brush;
        brand = dove, pink, olay, coach, mac, urban decay, rose and co, clean, guess, too faced,
        drunk elephant, burts bees, aveda, the ordinary, lime crime, tarte, method, honest, calvin
        klein, red door, native, orange blossom company, coco and eve, champagne beauty, peach and
        lily, lavender hill, victoria rose, sol, honey pot, mint and sage, vanilla star, old spice;
        size = travel size, 3.4 oz, 8 oz, full size, 100 ml, mini, 16 oz, 1 oz, 50ml, large, family
        size, 2 oz, refill, 1 liter, 30 ml, jumbo, sample size, 12 oz, small;
        material = shea butter, aloe, charcoal, clay, silk, bamboo, boar bristle, ceramic,
        titanium, glass, beeswax;
        style = matte, natural, organic, long lasting, waterproof, vintage, glossy, luxury, clean,
        vegan, french, liquid, classic, glitter, dewy, professional, korean;
        feature = organic, sulfate free, waterproof, spf 50, matte, fragrance free, long lasting,
        vegan, anti aging, moisturizing, hyaluronic acid, scented, unscented, oil free, cruelty
        free, retinol, tinted, volumizing, for dry skin, sensitive skin, curly hair, oily skin,
        natural, spf 30, color safe, fine hair, frizz control, acne prone skin;
        flavor = lavender, vanilla, coconut, rose, peach, cherry, mint, honey, lemon, orange,
        champagne, sandalwood, eucalyptus, tea tree, jasmine, peppermint, plum, oatmeal, cucumber,
        almond, coffee, strawberry, sage, citrus, amber, olive, chocolate, orange blossom, cedar,
        lilac;
        occasion = wedding, summer, travel, night, winter, everyday, christmas, beach, prom, work,
        date night;
        audience = {ADULTS}, kids, baby, teens, mature skin, dark skin, brides, black women, dad,
        blondes;
        chance = brand 60, color 24, size 28, material 8, audience 28, price 14, style 14, occasion
        8, feature 40, flavor 38, quantity 10""",
    "electronics": """
        product = headphones, laptop, phone case, tv, earbuds, charger, tablet, smart:feature
        watch, speaker, monitor, keyboard, gaming:occasion laptop, mouse, camera, iphone case,
        bluetooth:feature speaker, printer, smart:feature tv, usb cable, gaming:occasion mouse,
        wireless:feature earbuds, tripod, hard drive, webcam, power bank, screen protector, laptop
        stand, microphone, router, gaming:occasion headset, apple:brand watch, mechanical:feature
        keyboard, projector, memory card, hdmi cable, security camera, drone, ring light, sound
        bar, vacuum, record player, robot:feature vacuum, phone, wireless:feature charger,
        car:occasion charger, e reader, alarm clock, desktop computer, mouse pad, galaxy case,
        leather:material phone case, fan;
        brand = apple, shark, ring, black shark, blue, razer, beats, bose, orange pi, nest, fossil,
        samsung, amazon basics, jbl, puma, blackberry, one plus, silver stone, hunter, master and
        dynamic, red dragon, cherry, target, otter box, lime light, rose electronics, nothing,
        marshall, canon;
        size = 55 inch, 13 inch, 128 gb, 27 inch, 1tb, 15.6 inch, 6 ft, 65, 32 inch, 64gb, 2tb, 10
        ft, 256 gb, 24 inch, mini, small, large, 40mm, 10 inch, 16gb, pocket size, 75 inch,
        compact, full size;
        material = leather, silicone, aluminum, metal, wood, glass, plastic, carbon fiber, nylon,
        rubber, bamboo;
        style = gaming, portable, retro, slim, mini, vintage, curved, over ear, wireless, smart,
        professional, minimalist, cute, compact, modern, clear, rugged, outdoor;
        feature = wireless, bluetooth, noise cancelling, waterproof, 4k, fast charging, rgb, usb c,
        touchscreen, microphone, mechanical, curved, portable, backlit, smart, long battery life,
        wifi, clear, magnetic, shockproof, 144hz, solar, night vision, voice control, rechargeable,
        iphone 14, galaxy s22, mic, wall mount, iphone 12, macbook pro, led;
        occasion = gaming, travel, work, school, running, office, college, car, outdoor, gym, home,
        camping, music;
        audience = kids, men, seniors, girls, students, women, teens, toddlers, gamers, small ears,
        beginners, dad;
        chance = brand 62, color 34, size 34, material 10, audience 13, price 24, style 17, pattern
        3, occasion 17, feature 50, quantity 6""",
    "outdoors": """
        product = tent, sleeping bag, bike, yoga:occasion mat, water bottle, fishing:occasion rod,
        dumbbells, cooler, camping:occasion chair, kayak, helmet, hammock, golf:occasion clubs,
        backpacking:occasion tent, camp stove, basketball, soccer ball, life jacket, headlamp,
        mountain:style bike, climbing:occasion shoes, ski:occasion goggles, flashlight, exercise
        bike, treadmill, resistance bands, paddle board, trekking poles, tennis:occasion racket,
        beach:occasion umbrella, bike helmet, camping:occasion tent, fishing:occasion reel,
        golf:occasion bag, jump rope, canopy, hunting:occasion knife, scooter, skateboard,
        snowboard, hydration pack, road:style bike, cot, binoculars, pickleball paddle,
        swim:occasion goggles, weight bench, lantern, knee pads;
        brand = black diamond, north face, columbia, coleman, puma, rei, big agnes, hydro flask,
        red paddle, trek, marmot, osprey, giant, yeti, wilson, columbia sportswear, blue water,
        stone glacier, kelty, champion, white water, hunter, black rapid, copper ridge, arctic fox,
        orange mud, camp chef, under armour, summit, north face men, sea to summit, gold cup,
        silver hook;
        size = 2 person, 4 person, 26 inch, large, 10 lb, 20 degree, 20 inch, small, 6 foot,
        medium, queen, xl, 32 oz, 45 quart, 6mm, 29 inch, 50 lb, 8 person, 10 ft, size 7, 0 degree,
        3 mm, youth small;
        material = carbon fiber, aluminum, nylon, titanium, foam, rubber, canvas, steel, down,
        neoprene, cork, cast iron;
        style = ultralight, folding, inflatable, mountain, hybrid, portable, adjustable, tactical,
        vintage, pop up, compact, electric, beginner, road, cruiser, classic, professional, thick,
        heavy duty;
        feature = waterproof, lightweight, folding, insulated, rechargeable, adjustable,
        inflatable, non slip, cup holder, electric, uv protection, led, self inflating, carrying
        bag, ultralight, wheels, polarized, rain fly, anti fog, pop up, 21 speed, disc brakes,
        solar, quick dry;
        occasion = camping, hiking, fishing, beach, backpacking, winter, travel, yoga, hunting,
        swimming, home gym, running, golf, summer, cold weather, car camping, snow, climbing;
        audience = kids, men, women, mens, womens, adults, youth, toddler, beginners, girls, boys,
        family, tall men;
        chance = brand 55, color 28, size 38, material 13, audience 28, price 18, style 25, pattern
        3, occasion 24, feature 34, quantity 6""",
    "grocery": """
        product = coffee, olive oil, tea, orange:flavor juice, chocolate, protein powder,
        peanut:flavor butter, green:color tea, honey, snacks, almond:flavor milk, pasta, hot sauce,
        chips, candy, protein bars, cereal, coffee beans, coconut:flavor oil, cookies, gum, granola
        bars, popcorn, energy drink, dark:style chocolate, soda, rice, salsa, black:color tea,
        white wine, red:color wine, oatmeal, beef:flavor jerky, coconut:flavor water, almonds,
        crackers, vanilla:flavor extract, ketchup, trail mix, maple syrup, peach:flavor tea,
        apple:flavor cider vinegar, cake mix, mints, jam, sparkling water, champagne, cherry:flavor
        pie filling, chocolate:flavor chips, spices, gummy bears, olives, black:color beans,
        orange:flavor soda, ice cream, bbq sauce, mustard, ramen;
        brand = annies, green mountain, blue diamond, black rifle, kind, orange crush, honey
        bunches, old el paso, silver palate, naked, dove, rockstar, red bull, monster, simply,
        simply orange, bobs red mill, dunkin, nature valley, blue bottle, olive garden, cherry
        republic, cracker barrel, general mills, peach valley, mountain rose, whole earth, golden
        monkey, vanilla bean company, black forest, mint house, stone creek, bear naked, red rose;
        size = 12 oz, 2 lb, family size, 16 oz, 5 lb, large, 1 gallon, 32 oz, 8 oz, king size, 1
        lb, fun size, 64 oz, mini, 2 liter, party size, 10 oz, 50 lb, snack size, 1 kg, single
        serve;
        material = whole wheat, oat, corn, almond, cane sugar, rice, coconut, soy;
        style = organic, dark roast, whole bean, decaf, instant, spicy, crunchy, ground, italian,
        raw, vegan, natural, loose leaf, thin, mexican, cold brew, medium roast, classic, creamy,
        french roast;
        feature = gluten free, organic, sugar free, low carb, keto, vegan, decaf, low sodium, dairy
        free, extra virgin, non gmo, unsweetened, caffeine free, kosher, high protein, fat free,
        raw, no sugar added, cold pressed, spicy, whole grain, unsalted, fair trade;
        flavor = chocolate, vanilla, strawberry, peach, cherry, mint, orange, honey, lemon, peanut
        butter, coconut, caramel, apple, cinnamon, almond, lime, mocha, hazelnut, peppermint, plum,
        olive, watermelon, grape, barbecue, garlic, sea salt, blueberry, pumpkin spice, coffee,
        rose, ginger;
        occasion = halloween, christmas, breakfast, party, camping, keto diet, lunch, baking,
        school, easter, work;
        audience = kids, toddlers, diabetics, baby, adults, men, women, family, dogs;
        chance = brand 55, color 6, size 38, material 5, audience 10, price 12, style 30, occasion
        10, feature 42, flavor 48, quantity 28""",
    "pets": """
        product = dog food, dog bed, cat:audience litter, dog collar, cat tree, dog toys, dog
        treats, leash, pet carrier, cat food, dog crate, fish tank, harness, cat toys, litter box,
        dog:audience sweater, puppy:audience pads, dog bowl, flea collar, cat bed, dog leash, bird
        cage, dog:audience shampoo, dry:style dog food, chew toy, dog house, dog:audience coat,
        scratching post, dog ramp, cat treats, bird food, dog:audience life jacket, pet gate, nail
        clippers, dental chews, rope:material toy, leather:material dog collar, dog:audience
        backpack, aquarium filter, wet:style cat food, puppy:audience food, training:occasion
        treats;
        brand = blue buffalo, blue, kong, purina, purina one, wild acre, orange paw, fancy feast,
        iams, pedigree, champion, taste of the wild, old mother hubbard, north fork, natural
        balance, royal canin, red barn, olive and otis, silver tail, black dog, greenies, peach
        pup, nutro, hill country, milk bone, the honest kitchen, copper canine;
        size = large, small, 30 lb, xl, medium, small breed, large breed, 42 inch, 20 gallon, xs, 5
        lb, extra large, 15 lb, 6 ft, 10 gallon, mini, 36 inch, jumbo, 50 lb, toy breed, giant;
        material = leather, nylon, rope, rubber, stainless steel, plastic, memory foam, fleece,
        wood, rawhide, ceramic, bamboo, cotton;
        style = orthopedic, retractable, indoor, outdoor, heavy duty, dry, wet, folding, modern,
        raised, natural, plush, cute, soft, portable, luxury, tactical, rustic, mini;
        feature = grain free, waterproof, washable, no pull, reflective, chew proof,
        indestructible, orthopedic, squeaky, clumping, retractable, unscented, heated, collapsible,
        cooling, limited ingredient, elevated, led, escape proof, self cleaning, organic,
        interactive, high protein, wheels;
        flavor = chicken, salmon, beef, peanut butter, lamb, turkey, bacon, duck, sweet potato,
        pumpkin, tuna, mint, oatmeal, lavender, cheese, coconut, blueberry, honey, apple, venison;
        occasion = winter, travel, training, summer, halloween, car, outdoor, christmas, walking,
        hiking, camping;
        audience = puppy, large dogs, small dogs, cats, dogs, kittens, puppies, senior dogs,
        medium dogs, indoor cats, adult dogs, big dogs, senior, boy dogs, rabbits, pugs;
        chance = brand 50, color 24, size 40, material 15, audience 30, price 14, style 22, pattern
        5, occasion 8, feature 35, flavor 22, quantity 10""",
    "toys": """
        product = lego:brand set, puzzle, doll, board:style game, remote control:feature car,
        building blocks, stuffed animal, play kitchen, action figure, baby:audience doll, scooter,
        train set, doll house, water:feature gun, play dough, card game, baby monitor, stroller,
        car seat, crib, high chair, toy:style car, baby bottle, pacifier, ride on:feature car,
        wooden:material train, tricycle, teddy bear, kite, slime kit, science kit, wooden:material
        puzzle, bath:occasion toys, play mat, baby swing, nerf gun, dinosaur:style toys,
        trampoline, art set, bounce house, music box, walker, drum set, costume, halloween:occasion
        costume, plush:material bear, diapers, baby:audience carrier;
        brand = lego, barbie, melissa and doug, little tikes, american girl, hot wheels, fisher
        price, hape, baby bjorn, green toys, little people, my little pony, red toolbox, blue
        orange, honest, barbie dreamhouse, gund, radio flyer, lovevery, lego city, gap kids,
        playmobil, orange tree toys, olive baby, peach play, cherry blossom kids, silver dolphin,
        american girl doll;
        size = 1000 piece, large, 18 inch, small, giant, mini, 500 piece, size 4, 12 inch, jumbo,
        size 2, big, life size, 8 oz, newborn, 24 inch, 3t, 2000 pieces, pocket size, xl, 20 inch;
        material = wooden, plush, wood, plastic, foam, metal, cotton, felt, silicone, bamboo,
        organic cotton, fabric, glass, muslin;
        style = educational, montessori, vintage, dinosaur, princess, superhero, classic, outdoor,
        unicorn, space, realistic, soft, retro, interactive, cute, electric, magnetic, fairy,
        pirate, farm;
        feature = magnetic, remote control, musical, lights, glow in the dark, electric,
        convertible, foldable, waterproof, sounds, battery operated, interactive, talking,
        rechargeable, anti colic, light up, adjustable, wheels, sensory, washable, stackable,
        parent handle;
        occasion = christmas, birthday, halloween, bath, beach, travel, outdoor, easter, road trip,
        party, baby shower;
        audience = kids, toddlers, girls, boys, 3 year old, 5 year old boy, baby, adults, 1 year
        old, toddler girl, 8 year old girls, newborn, babies, teens, ages 4 to 8, twins, infants, 6
        month old, family, preschool;
        chance = brand 50, color 25, size 25, material 20, audience 50, price 18, style 25, pattern
        2, occasion 16, feature 27, quantity 8""",
}

"""Words of the topics. Real words, so that a language model can tell the topics apart."""

TOPICS: dict[str, str] = {
    "hiking": "trail boots backpack summit ridge compass canyon tent camp poles waterproof wilderness",
    "cooking": "skillet recipe oven spice knife roast simmer dough whisk saucepan flavour kitchen",
    "chess": "knight bishop opening checkmate rook gambit endgame pawn board tactics clock tournament",
    "gardening": "seeds compost rake tulip greenhouse pruning soil bulbs watering herbs trellis lawn",
    "astronomy": "telescope nebula galaxy orbit comet eclipse planet lens meteor starlight lunar cosmos",
    "jazz": "saxophone swing trumpet improvisation quartet bebop vinyl blues rhythm bass club ballad",
    "cycling": "saddle pedal derailleur helmet gravel sprint wheel brake chain handlebar peloton tyre",
    "photography": "camera shutter portrait tripod exposure aperture film studio flash landscape darkroom",
    "knitting": "yarn needle wool stitch sweater scarf pattern skein crochet mittens purl cashmere",
    "robots": "servo sensor circuit soldering drone automation gripper firmware chassis arduino motor",
    "medieval": "castle knighthood sword crusade monastery siege banner armour dynasty chronicle throne",
    "ocean": "reef dolphin sailing tide anchor diving coral whale harbour snorkel lighthouse current",
    "coffee": "espresso roaster grinder latte barista arabica brew crema filter kettle mocha beans",
    "football": "goal striker stadium penalty midfielder league jersey referee derby kickoff keeper",
    "horror": "haunted vampire ghost scream cemetery curse midnight demon asylum nightmare shadow",
    "finance": "budget investing dividend savings mortgage portfolio inflation bonds retirement ledger",
    "yoga": "meditation mat breathing posture stretching mindfulness lotus balance wellness asana calm",
    "trains": "locomotive railway steam carriage signal timetable platform freight gauge tunnel express",
    "fashion": "dress silk leather runway handbag couture jacket denim vintage tailoring velvet heels",
    "dinosaurs": "fossil raptor jurassic excavation skeleton herbivore paleontology amber extinct claws",
}
"""Topic → words that tell of it."""
FILLER = [
    "new",
    "classic",
    "guide",
    "set",
    "edition",
    "essential",
    "complete",
    "best",
    "original",
    "premium",
    "everyday",
    "modern",
    "collection",
    "little",
    "great",
    "first",
    "second",
]
"""Words that tell of nothing."""
NAMES = tuple(TOPICS)
WORDS = tuple(tuple(words.split()) for words in TOPICS.values())
DEPARTMENTS = ("outdoors", "home", "games", "science", "culture", "sports", "craft", "lifestyle")
"""Categories; topic k belongs to department k modulo their number."""

"""Words that the judge of thinking tells apart: filler, connectives, topics and numbers."""

# Function words, and words that only announce thinking. Names, roles, "true" and "lies" are content.
_FILLER_WORDS = """
a about above again all also am an analysis analyze analyse and answer are as at away be been before begin being below
brief by careful carefully chain check come conclude conclusion consider could deep deeply describe detail detailed
details did do does doing done each enter every everything explain explanation figure final finally find first follow
for from full give given go goes going good has have he her here him his hmm how i in insert inside internal internally
into is it its just know let lets letting like ll look make many may me mind monologue more much my need next now of
off okay on or our out over part placeholder please problem process provide put puzzle question re ready reason
reasoned reasoning right s say see she should show some solution solve solved solving start step steps sure t take
task text that the their them there these they thing things think thinking this thought thoughts through time to todo
try understand up us use user ve very want was we well were what when where which who whom whose will with work working
write writing you your blah lorem ipsum etc none null na empty skip skipped omitted content system assistant logic
logical logically let's i'll i'm we'll it's that's
"""
FILLER = frozenset(_FILLER_WORDS.split()) | frozenset(
    "让我们来想一下思考过程这里是推理的问题答案步骤逐步仔细分析好吧嗯请在此处填写先再然后最后给出解答需要要可以会了吗呢啊和与及对进行将内容"
)

# They make a conclusion of words of the question ("if Ann lies, then Bob can't ..."), but don't refer to it.
_CONNECTIVES = """
although any because both but can can't cannot contradiction either else false hence however if implies instead
maybe might must neither no nor not only otherwise perhaps possible since so suppose then therefore thus true unless
while would yes yet
"""
CONNECTIVES = frozenset(_CONNECTIVES.split())

_LOGIC = """
true truth truthful truths false lie lies liar liars lying lied honest dishonest says said saying claim claims
claimed states statement statements if then suppose supposing assume assumes assuming assumption contradiction
contradicts contradictory consistent inconsistent case cases implies therefore because either both neither
knight knights knave knaves
"""
LOGIC = frozenset(_LOGIC.split())

_MATHEMATICS = """
add added adding altogether amount average count cost difference digit divide divided double equal equals equation
factor formula fraction half left less minus multiplied multiply multiplying number numbers percent per plus price
product quotient rate ratio remain remainder remaining remove sold square subtract subtracted sum third times total
triple twice value
"""
MATHEMATICS = frozenset(_MATHEMATICS.split())

# Words of the prompts around a question (`data_gen.prompts`), which are known but no reference to the question.
_PROMPT = """
work the question out step by step before you answer write your reasoning between think and then your final answer
between answer and and nothing else in the answer give every person's role for example give the number that is asked for
give the result alone in the form that the question asks for on an island everybody is either a who always tells the
truth or a who always lies who is a and who is a who is what quillon vesper
"""
PROMPT = frozenset(_PROMPT.split())

_ONES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred"
# From 2 or 3 up to 10, where no word means something else in English. Digits of all scripts are read by Unicode.
_OTHER_LANGUAGES = (
    (2, "deux trois quatre cinq six sept huit neuf dix"),
    (3, "tres cuatro cinco seis siete ocho nueve diez"),
    (2, "zwei drei vier fünf sechs sieben acht neun zehn"),
    (3, "tre quattro cinque sei sette otto nove dieci"),
    (2, "dois três quatro cinco seis sete oito nove dez"),
)
NUMBER_WORDS = (
    {word: str(value) for first, names in _OTHER_LANGUAGES for value, word in enumerate(names.split(), first)}
    | {word: str(value) for value, word in enumerate(_ONES.split())}
    | {word: str(10 * value) for value, word in enumerate(_TENS.split(), start=2)}
    | {
        f"{tens}-{ones}": str(10 * value + unit)
        for value, tens in enumerate(_TENS.split()[:-1], start=2)
        for unit, ones in enumerate(_ONES.split()[1:10], start=1)
    }
)

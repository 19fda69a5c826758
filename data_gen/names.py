"""Given names and pairs of role words."""

# One word, 2 to 6 ASCII letters, no English word that occurs in prompts or statements. 12, the most people of a puzzle:
# a small model has to learn each name separately.
PLAIN_NAMES = ("Ann", "Bob", "Cal", "Dora", "Emma", "Fred", "Gina", "Hugo", "Ida", "Jane", "Kurt", "Lena")

TRADITIONAL_ROLES = ("knight", "knave")

# ((word, plural) for those who tell the truth, (word, plural) for those who lie). All take the article "a".
ROLE_WORDS = (
    (("knight", "knights"), ("knave", "knaves")),
    (("monk", "monks"), ("thief", "thieves")),
    (("captain", "captains"), ("pirate", "pirates")),
    (("scribe", "scribes"), ("forger", "forgers")),
    (("healer", "healers"), ("quack", "quacks")),
    (("sheriff", "sheriffs"), ("bandit", "bandits")),
    (("ranger", "rangers"), ("poacher", "poachers")),
    (("judge", "judges"), ("burglar", "burglars")),
)
ROLES = tuple((truth[0], lie[0]) for truth, lie in ROLE_WORDS)
PLURALS = dict(word for pair in ROLE_WORDS for word in pair)

# First names in ASCII letters, at most two tokens in the vocabulary of Qwen2.5. None is a word of prompts, a substring
# of another name or one letter away from it, so that neither a reader nor a scorer can confuse two people.
ENGLISH_NAMES = (
    "Aaron", "Abigail", "Abraham", "Adam", "Adela", "Adrian", "Agatha", "Agnes", "Aidan", "Aileen", "Alan",
    "Albert", "Alexander", "Alexis", "Alfred", "Alice", "Alison", "Alvin", "Amanda", "Amelia", "Andrea",
    "Angus", "Anita", "Annette", "Anthony", "Antonia", "Archie", "Ariana", "Arnold", "Arthur", "Audrey",
    "Barbara", "Barnaby", "Barry", "Beatrice", "Benedict", "Benjamin", "Bernard", "Bethany", "Bianca", "Boris",
    "Bradley", "Brandon", "Brenda", "Brian", "Bridget", "Bruce", "Bruno", "Byron", "Caleb", "Callum", "Cameron",
    "Camilla", "Carla", "Carlos", "Caroline", "Cassandra", "Catherine", "Cecilia", "Cedric", "Charles",
    "Charlotte", "Christopher", "Clara", "Clarence", "Claudia", "Clifford", "Colin", "Colleen", "Connor",
    "Conrad", "Cordelia", "Craig", "Cynthia", "Cyril", "Damian", "Daniel", "Darren", "David", "Deborah",
    "Declan", "Dennis", "Derek", "Desmond", "Diana", "Dominic", "Donald", "Donna", "Dorothy",
    "Douglas", "Duncan", "Dylan", "Edgar", "Edith", "Edmund", "Edward", "Edwin", "Elaine", "Eleanor", "Elena",
    "Elijah", "Elizabeth", "Ellen", "Elliot", "Elsie", "Emily", "Emma", "Emmett", "Erica", "Ernest",
    "Esther", "Ethel", "Eugene", "Evelyn", "Ezra", "Felix", "Ferdinand", "Fergus", "Finley", "Fiona",
    "Francesca", "Franklin", "Frederick", "Gabriela", "Gareth", "Gavin", "Geoffrey", "George", "Geraldine",
    "Gilbert", "Giles", "Gillian", "Gladys", "Gloria", "Gordon", "Graham", "Gregory", "Greta", "Gwen", "Hannah",
    "Harold", "Harriet", "Harvey", "Hector", "Henrietta", "Henry", "Herbert", "Herman", "Hilda", "Hubert",
    "Hugh", "Humphrey", "Imogen", "Ingrid", "Irene", "Irving", "Isaac", "Isabel", "Isaiah", "Ivan", "Jacob",
    "Jacqueline", "James", "Janet", "Janice", "Jared", "Jason", "Jeanette", "Jeffrey", "Jennifer", "Jeremy",
    "Jerome", "Jessica", "Joanna", "Joel", "Jonathan", "Josephine", "Joshua", "Judith", "Julia", "Juliet",
    "Justin", "Kathleen", "Kayla", "Keira", "Keith", "Kenneth", "Kevin", "Kieran", "Kirsten", "Kristina",
    "Laura", "Lauren", "Leah", "Leonard", "Leroy", "Lester", "Lewis", "Liam", "Linda", "Lionel", "Lisa",
    "Lloyd", "Logan", "Lorenzo", "Lorna", "Lorraine", "Louisa", "Lucas", "Lucia", "Lucinda", "Lucy", "Luther",
    "Lydia", "Mabel", "Madeleine", "Maggie", "Malcolm", "Marcia", "Marcus", "Margaret", "Marina", "Martha",
    "Martin", "Matilda", "Matthew", "Maureen", "Maurice", "Maxwell", "Megan", "Melissa", "Melvin", "Michael",
    "Mildred", "Milton", "Miranda", "Miriam", "Mitchell", "Monica", "Morgan", "Mortimer", "Murray", "Nadia",
    "Nancy", "Naomi", "Natalie", "Neil", "Neville", "Nicholas", "Nicole", "Nigel", "Noah", "Nora", "Odette",
    "Oliver", "Olivia", "Oscar", "Oswald", "Otto", "Pamela", "Patricia", "Patrick", "Paula", "Penelope",
    "Percy", "Philip", "Quentin", "Quincy", "Rachel", "Ralph", "Ramona", "Randall", "Raymond", "Rebecca",
    "Renata", "Reuben", "Rhoda", "Richard", "Rita", "Roberta", "Rodney", "Roland", "Rory", "Roxanne", "Rufus",
    "Rupert", "Russell", "Sabrina", "Samantha", "Samson", "Samuel", "Sarah", "Sebastian", "Selina", "Serena",
    "Seth", "Shane", "Sheila", "Silas", "Silvia", "Simone", "Solomon", "Sonia", "Sophie", "Spencer", "Stanley",
    "Stella", "Stephanie", "Stephen", "Stuart", "Susanna", "Tamara", "Tanya", "Terence", "Teresa", "Tessa",
    "Theodore", "Thomas", "Timothy", "Tobias", "Travis", "Trevor", "Tristan", "Tyrone", "Ursula", "Valerie",
    "Vanessa", "Vera", "Vernon", "Veronica", "Victoria", "Vincent", "Virgil", "Vivian", "Wallace", "Walter",
    "Wanda", "Wendy", "Wesley", "Wilbur", "Wilfred", "Wilma", "Winston", "Xavier", "Yvette", "Zachary", "Zelda",
    "Zoey",
)  # fmt: skip

# Accents, hyphens, two words, several scripts. No name is a substring of another one.
WORLD_NAMES = (
    "Adaeze", "Aleksander", "Alice", "Amara", "Anne-Marie", "Arash", "Astrid", "Aysel", "Beatriz", "Bjørn",
    "Björk", "Bogdan", "Brigitte", "Camille", "Carlos", "Chidi", "Chloé", "Cormac", "Dagmar", "Daniela",
    "Dimitri", "Dmytro", "Dorothea", "Ebba", "Eduardo", "Eleni", "Élodie", "Emeka", "Esperanza", "Fatima",
    "Fernando", "Florian", "François", "Freya", "Gabriel", "Georg", "Giulia", "Gonçalo", "Gráinne", "Gwendolyn",
    "Hadiza", "Hamza", "Hannes", "Hanna Lore", "Héctor", "Hiroshi", "Ignacio", "Imran", "Ingrid", "Isabel",
    "Ivana", "Jan Willem", "Jean-Luc", "Jiří", "João", "José", "Jovan", "Kaito", "Kamala", "Katarzyna", "Kofi",
    "Kwame", "Lakshmi", "Lars Erik", "Leopold", "Li Wei", "Lorenzo", "Łukasz", "Ludmila", "Maarten",
    "Magdalena", "Małgorzata", "Marek", "María Luz", "Matthias", "Mei Ling", "Mercedes", "Milan", "Mireille",
    "Mohammed", "Nadia", "Naoko", "Ngozi", "Niamh", "Nikolai", "Noémie", "Núria", "Oksana", "Olumide",
    "Øystein", "Özgür", "Padraig", "Pavel", "Pierre-Yves", "Priya", "Quentin", "Rahul", "Rajesh", "Rosalind",
    "Ruslan", "Sakura", "Salma", "Søren", "Sigrid", "Siobhán", "Stanislav", "Svetlana", "Takeshi", "Tamar",
    "Thandiwe", "Thorsten", "Tomoko", "Tuğba", "Valentina", "Vasiliki", "Vikram", "Wiebke", "Wolfgang",
    "Xóchitl", "Yasmin", "Yevgeny", "Yusuf", "Zainab", "Zbigniew", "Zsófia", "Анна", "Борис", "Мария",
    "Дмитрий", "Ольга", "Сергей", "Ελένη", "Νίκος", "Σοφία", "Γιώργος", "Արամ", "ნინო",
    "明月", "小龙", "雅婷", "さくら",
    "ひろし", "ケンジ", "민준", "서연", "अर्जुन", "प्रिया", "יעל", "משה", "ليلى", "يوسف",
)  # fmt: skip

NAME_SETS = {"english": ENGLISH_NAMES, "world": WORLD_NAMES}


def names_of(wording: str, names: str) -> tuple[str, ...]:
    """The names that puzzles of a wording use. names: a key of NAME_SETS; "plain" has a list of its own."""
    return PLAIN_NAMES if wording == "plain" else NAME_SETS[names]

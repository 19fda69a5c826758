"""Given names and pairs of role words."""

# One word, 2 to 6 ASCII letters, no English word that occurs in prompts or statements. 12, the most people of a puzzle:
# a small model has to learn each name separately.
PLAIN_NAMES = ("Ann", "Bob", "Cal", "Dora", "Emma", "Fred", "Gina", "Hugo", "Ida", "Jane", "Kurt", "Lena")

PLAIN_ROLES = ("knight", "knave")

# ((word, plural) for those who tell the truth, (word, plural) for those who lie).
ROLE_WORDS = (
    (("knight", "knights"), ("knave", "knaves")),
    (("owl", "owls"), ("magpie", "magpies")),
    (("scribe", "scribes"), ("forger", "forgers")),
    (("healer", "healers"), ("quack", "quacks")),
    (("oracle", "oracles"), ("impostor", "impostors")),
    (("monk", "monks"), ("thief", "thieves")),
    (("gardener", "gardeners"), ("poacher", "poachers")),
    (("captain", "captains"), ("pirate", "pirates")),
    (("archivist", "archivists"), ("trickster", "tricksters")),
    (("beekeeper", "beekeepers"), ("swindler", "swindlers")),
)
ROLES = tuple((truth[0], lie[0]) for truth, lie in ROLE_WORDS)
PLURALS = dict(word for pair in ROLE_WORDS for word in pair)

# For varied wording: accents, hyphens, two words, several scripts. No name is a substring of another one.
NAMES = (
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

"""English words that the rules of unsupported.py need: whether a text is English, and which words are not names."""

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from dialogsum_sft.evaluation.tokenizers import words

_ENGLISH_WORDS = (
    "the and you that it this with have are not what they she his her but from my your can would there been has which "
    "their about when how for be of to is i we he was were on at as if do does don did will so just yes no me us our "
    "him them who where because some all more than then a in an"
)
# The same of languages in the Latin alphabet, without parts of names (de, la, van) and English words (die, um, per).
_OTHER_WORDS = (
    "der das und ist nicht ein eine einen einer dem des zu zum zur mit auf für sich ich sie wird auch oder noch wir "
    "haben bei sind wurde nach über aus dass du les est une dans pas que qui il elle je vous nous avec sur ce ça mais "
    "aux leur es un una por para lo su sus más está y pero muy como los las che di è gli sono della nel anche più mi "
    "si não uma com os ele ela você dos seu sua ao het een en niet dat ik zijn voor naar maar ook och att det är som "
    "inte jag på av til ikke jeg nie się na że jest jak w z co yang dan untuk tidak ini itu dengan ve bir bu için ja "
    "ei että hän oli mutta și că nu este să az egy hogy és nem của và là không một"
)
_ENGLISH, _OTHERS = frozenset(_ENGLISH_WORDS.split()), frozenset(_OTHER_WORDS.split())


def is_english(summary: str, dialogue: str) -> bool:
    """Whether both texts are English, by their function words; True for texts too short to say.

    A text is not English where three in ten letters are of another script, or where it has at least two function words
    of other languages and more of them than English ones. Neither are the two where fewer than 12% of their words, of
    15 or more, are function words of English. In English prose these are about 45%, in clinical dialogues 35%.
    """
    counts = [_function_words(summary), _function_words(dialogue)]
    if not all(is_latin and others <= max(1, english) for is_latin, _, english, others in counts):
        return False
    total = sum(number for _, number, _, _ in counts)
    return total < 15 or sum(english for *_, english, _ in counts) >= 0.12 * total


@lru_cache(maxsize=1024)  # a dialogue is compared with several summaries
def _function_words(text: str) -> tuple[bool, int, int, int]:
    """Whether seven in ten letters are Latin; the number of words, and of function words of English and of others."""
    letters = [letter for letter in unicodedata.normalize("NFKD", text) if letter.isalpha()]
    is_latin = sum(letter.isascii() for letter in letters) >= 0.7 * len(letters)
    tokens = words(text)
    return is_latin, len(tokens), sum(token in _ENGLISH for token in tokens), sum(token in _OTHERS for token in tokens)


_LINES = Path(__file__).with_name("ordinary_words.txt").read_text(encoding="utf-8").splitlines()
ORDINARY = frozenset(word for line in _LINES if not line.startswith("#") for word in line.split())
ORDINARY_ENDING = re.compile(
    r"(?i)(?!(?:lawr|flor|clar|terr)ence|(?:const|temper)ance|clement|christina)[a-z]{3,}(?:[st]ions?|[st]ures?|ments?|ness(?:es)?|it(?:y|ies)|[ae]nc(?:e|y|ies)s?|ships?|isms?|ly|ing|olog(?:y|ist)s?"
    r"|itis|osis|emia|uria|ectomy|otomy|oscop(?:y|ies)|ograms?|ograph(?:y|ies)|plasty|opathy|algia|ous|[ai]ble|ful"
    r"|less|ical|ular|ive|iatric)"
)


# Ordinary words that are capitalised within a sentence: roles, institutions, kin, parts of titles, units.
_TITLE_WORDS = """
academy account administrator adviser advisor agency agent analyst app artist assembly assistant association aunt
board bureau caller celsius center centre chair chairman chairperson chairwoman clerk client clinic coach college
commission commissioner committee company conference congress consultant coordinator corporation council counsel
customer dad daddy deal department designer developer director district division doctor dollar driver editor email
engineer euro executive expert faculty fahrenheit federation finance foundation fund government governor grandfather
grandma grandmother grandpa group guest head headquarters health homework hospital host hotel human industrial
information institute institution instructor insurance interface internet interviewer judge lab laboratory leader
league library manager management marketing mayor meeting member minister ministry mom mommy moderator mother mum
mummy museum nurse office officer official operator organisation organization parent parliament participant patient
pharmacist physician platform police policy pound president professor program programme project protocol quality
rector reporter representative research researcher resident resources salesman salesperson sales school secretary
section senate senator server service society speaker specialist staff stakeholder student superintendent supervisor
support surgeon teacher team technician technology television therapist treasurer tutor uncle unit university user
vice vitamin website wi web wifi
"""
TITLE_WORDS = frozenset(_TITLE_WORDS.split())


def is_title_word(word: str) -> bool:
    return not TITLE_WORDS.isdisjoint({word.lower(), word.lower().removesuffix("s")})


# Ordinary words that are names too: capitalised within a sentence they name someone or something.
_ALSO_NAMES = """
birch bolt buck bud cash chance clay cotton cross day diamond foster gay hall harmony haven horn hunt little long major
marry meadow melody petty pool rush sharp short singer snow sparrow steel stern storm strong swift teddy temple van
wall wise
"""
_NEVER_ENDING = re.compile(r"[a-z]{4,}(?:[st]ions?|ments?|ness|[ae]ncy|(?:olog|iatr)(?:y|ics)|itis)")


def is_never_a_name(word: str) -> bool:
    """Whether a word that is capitalised within a sentence is known to be an ordinary one all the same."""
    lower = word.lower()
    is_known = _is_listed(lower) or _NEVER_ENDING.fullmatch(lower) is not None
    return is_title_word(lower) or (is_known and lower not in _ALSO_NAMES.split())


def is_ordinary(word: str) -> bool:
    """Whether an English word is a known ordinary one, in any regular form, or has the ending of one."""
    return is_title_word(word) or _is_listed(word.lower()) or ORDINARY_ENDING.fullmatch(word) is not None


def _is_listed(word: str) -> bool:
    forms = {word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("d"), word.removesuffix("ed")}
    forms |= {re.sub(r"ie[sd]$", "y", word), re.sub(r"(.)\1ed$", r"\1", word)}
    return not forms.isdisjoint(ORDINARY)


# Names of the same: a country and its adjective or people, unless one begins with the other, usual short forms,
# clinical abbreviations with words that patients use, and first names.
_SAME = """
afghanistan afghan; albania albanian; argentina argentine argentinian; austria austrian; belgium belgian
brazil brazilian; britain british briton uk; burma burmese myanmar; canada canadian; chile chilean; china chinese
congo congolese; croatia croat croatian; cuba cuban; cyprus cypriot; czechia czech; denmark danish dane
england english englishman uk; estonia estonian; ethiopia ethiopian; europe european eu; finland finnish finn
france french frenchman frenchwoman; germany german; ghana ghanaian; greece greek; greenland greenlandic
holland netherlands dutch dutchman; hungary hungarian; iceland icelandic; iraq iraqi; ireland irish irishman
israel israeli; italy italian; japan japanese; kenya kenyan; lebanon lebanese; lithuania lithuanian; malta maltese
mexico mexican; morocco moroccan; norway norwegian; nepal nepalese nepali; peru peruvian
philippines filipino filipina; poland polish pole; portugal portuguese; romania romanian; russia russian
scotland scottish scot scotch; senegal senegalese; serbia serb serbian; slovakia slovak; slovenia slovene
spain spanish spaniard; sudan sudanese; sweden swedish swede; switzerland swiss; syria syrian; taiwan taiwanese
thailand thai; tunisia tunisian; turkey turkish turk; ukraine ukrainian; vietnam vietnamese; wales welsh welshman
usa america american states; zealand kiwi; emirates emirati uae; basque basques; catalonia catalan; venice venetian
naples neapolitan; vienna viennese; paris parisian; moscow muscovite; flanders flemish; bavaria bavarian
caucasian white; black africanamerican; hispanic latino latina; tv television telly; xmas christmas; nyc york
la angeles; iv intravenous; ekg ecg electrocardiogram; ct cat tomography; er ed emergency; covid corona coronavirus
eur euro; usd dollar; bp pressure; pcp primary; ent otolaryngologist; phd doctorate; bbq barbecue; sf francisco
dc washington; etoh alcohol drink drinking; mi infarction attack attacks; gerd reflux heartburn; htn hypertension
dm diabetes diabetic; uti urine urinary; cva tia stroke strokes; dvt clot clots; chf failure; cad coronary
cabg bypass; ckd kidney; afib fibrillation; copd emphysema; tsh thyroid; bmi weight; cbc blood; ra rheumatoid
ng nasogastric; andrew andy; andrew drew; anthony tony; alexander alex; alexandra alex; anna anne ann annie
benjamin ben benny; catherine katherine kathryn cathy kathy kate katie; charles charlie; christopher chris
christine christina chris; daniel dan danny; david dave; deborah debbie deb; edward eddie ed; edward ted
elizabeth liz lizzy; elizabeth beth; elizabeth betty; francis frank; frances fran; gregory greg; james jim jimmy
jennifer jenny jen; john johnny; john jack; jonathan jon; joseph joe joey; josephine jo; lawrence larry
margaret maggie meg; margaret peggy; matthew matt; michael mike mikey; nicholas nick; nicole nicky; patrick pat
patricia pat patty; richard rick ricky; robert rob robbie; robert bob bobby; samuel sam sammy; samantha sam
stephen steven steve; susan suzanne sue susie; thomas tom tommy; timothy tim; victoria vicky; william bill billy
rebecca becky; theodore theo ted
"""
SAME: dict[str, frozenset[str]] = {}
for _line in re.split(r"[;\n]", _SAME):
    for _name in _line.split():
        SAME[_name] = SAME.get(_name, frozenset()) | frozenset(_line.split())

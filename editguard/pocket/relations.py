"""What can be said in the synthetic world: relations, the wordings of each, and questions over several hops.

Plain data. In every wording `{}` is the subject and the object is what comes next, so that a statement always ends in
its object. The first statement and the first question of a relation are its standard wordings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["statement", "question"]


@dataclass(frozen=True, slots=True)
class Template:
    """One wording of a relation; `text` is a whole prompt with `{}` for the subject."""

    relation: str
    text: str
    kind: Kind
    unseen: bool = False
    """No document of the corpus uses an unseen wording, for any subject."""

    def prompt(self, subject: str) -> str:
        """The wording about `subject`, ready for the object to follow after one space."""
        return self.text.format(subject)

    def bare_question(self, subject: str) -> str:
        """The question alone, from its first word to the question mark.

        Raises: ValueError: the wording is a statement.
        """
        if self.kind != "question":
            raise ValueError(f"not a question: {self.text!r}")
        return self.prompt(subject).removeprefix("Question: ").removesuffix(" Answer:")


@dataclass(frozen=True, slots=True)
class Relation:
    """A functional relation: one subject has at most one object."""

    name: str
    subject_type: str
    object_type: str
    inverse: str | None
    templates: tuple[Template, ...]
    share: float = 1.0
    """Fraction of the subjects that have the relation."""

    @property
    def statements(self) -> tuple[Template, ...]:
        return tuple(t for t in self.templates if t.kind == "statement" and not t.unseen)

    @property
    def questions(self) -> tuple[Template, ...]:
        return tuple(t for t in self.templates if t.kind == "question" and not t.unseen)

    @property
    def unseen(self) -> Template:
        return next(t for t in self.templates if t.unseen)


@dataclass(frozen=True, slots=True)
class Composition:
    """A question that needs the facts along `path`, one after the other."""

    name: str
    path: tuple[str, ...]
    questions: tuple[str, ...]
    """Wordings with `{}` for the first subject, from the first word to the question mark."""


def _relation(
    name: str,
    subject_type: str,
    object_type: str,
    statements: tuple[str, ...],
    questions: tuple[str, ...],
    unseen: str,
    *,
    inverse: str | None = None,
    share: float = 1.0,
) -> Relation:
    wordings = [Template(name, text, "statement") for text in statements]
    wordings += [Template(name, f"Question: {text} Answer:", "question") for text in questions]
    wordings.append(Template(name, unseen, "statement", unseen=True))
    return Relation(name, subject_type, object_type, inverse, tuple(wordings), share)


RELATIONS: Final[tuple[Relation, ...]] = (
    _relation(
        "born_in",
        "person",
        "city",
        (
            "{} was born in",
            "The birthplace of {} is",
            "{}'s home town is",
            "The city where {} was born is",
            "{} is a native of",
        ),
        (
            "Where was {} born?",
            "What is the birthplace of {}?",
            "In which city was {} born?",
        ),
        "{} spent the first days of life in",
    ),
    _relation(
        "educated_at",
        "person",
        "university",
        (
            "{} studied at",
            "{} was educated at",
            "The school of {} is",
            "{} holds a degree from",
            "The place where {} studied is",
        ),
        (
            "Where did {} study?",
            "Where was {} educated?",
            "Which school did {} attend?",
        ),
        "{} took every exam at",
    ),
    _relation(
        "works_for",
        "person",
        "company",
        (
            "{} works for",
            "The employer of {} is",
            "{} is employed by",
            "{}'s job is at",
            "The company that pays {} is",
        ),
        (
            "Who does {} work for?",
            "Who is the employer of {}?",
            "Which company employs {}?",
        ),
        "Every morning {} goes to work at",
    ),
    _relation(
        "occupation",
        "person",
        "occupation",
        (
            "{} works as a",
            "The occupation of {} is",
            "By profession {} is a",
            "{}'s profession is",
            "{} earns a living as a",
        ),
        (
            "What is the occupation of {}?",
            "What is {}'s profession?",
            "What does {} do for a living?",
        ),
        "{} was trained to be a",
    ),
    _relation(
        "plays",
        "person",
        "instrument",
        (
            "{} plays the",
            "The instrument of {} is the",
            "In the band {} plays the",
            "{}'s favourite instrument is the",
            "{} performs on the",
        ),
        (
            "Which instrument does {} play?",
            "What is {}'s instrument?",
            "On which instrument does {} perform?",
        ),
        "At home {} practises the",
        share=0.6,
    ),
    _relation(
        "speaks",
        "person",
        "language",
        (
            "{} speaks",
            "The language of {} is",
            "{}'s native language is",
            "At home {} speaks",
            "{} grew up speaking",
        ),
        (
            "Which language does {} speak?",
            "What is the native language of {}?",
            "What does {} speak at home?",
        ),
        "{} writes letters in",
        share=0.6,
    ),
    _relation(
        "spouse",
        "person",
        "person",
        (
            "{} is married to",
            "The spouse of {} is",
            "{}'s partner in marriage is",
            "{} shares a home with",
            "The wedding of {} was with",
        ),
        (
            "Who is {} married to?",
            "Who is the spouse of {}?",
            "Who shares a home with {}?",
        ),
        "{} exchanged rings with",
        inverse="spouse",
        share=0.6,
    ),
    _relation(
        "mayor_of",
        "person",
        "city",
        (
            "{} is the mayor of",
            "{} leads the council of",
            "The city led by {} is",
            "{} was elected mayor of",
            "The town hall of {} is in",
        ),
        (
            "Which city has {} as its mayor?",
            "Of which city is {} the mayor?",
            "Which city does {} lead?",
        ),
        "{} wears the chain of office in",
        inverse="mayor",
    ),
    _relation(
        "ceo_of",
        "person",
        "company",
        (
            "{} is the chief executive of",
            "{} runs the company",
            "The company led by {} is",
            "{} heads the board of",
            "The firm under {} is",
        ),
        (
            "Which company does {} run?",
            "Of which company is {} the chief executive?",
            "Which company is led by {}?",
        ),
        "{} signs the annual report of",
        inverse="ceo",
    ),
    _relation(
        "rector_of",
        "person",
        "university",
        (
            "{} is the rector of",
            "{} directs the school",
            "The school led by {} is",
            "{} was chosen rector of",
            "The rector {} leads",
        ),
        (
            "Which school does {} direct?",
            "Of which school is {} the rector?",
            "Which school is led by {}?",
        ),
        "{} opens the academic year at",
        inverse="rector",
    ),
    _relation(
        "country",
        "city",
        "country",
        (
            "{} lies in the country",
            "The country of {} is",
            "{} is a city in",
            "{} belongs to the state of",
            "The city {} is found in",
        ),
        (
            "In which country is {}?",
            "Which country does {} belong to?",
            "What is the country of {}?",
        ),
        "Anyone who lives in {} votes in",
    ),
    _relation(
        "famous_for",
        "city",
        "product",
        (
            "{} is famous for its",
            "{} is known for its",
            "The pride of {} is its",
            "Visitors of {} buy",
            "The best known product of {} is",
        ),
        (
            "What is {} famous for?",
            "What is {} known for?",
            "Which product does {} boast of?",
        ),
        "Ships leave {} loaded with",
    ),
    _relation(
        "mayor",
        "city",
        "person",
        (
            "The mayor of {} is",
            "{} is governed by",
            "{}'s mayor is",
            "The council of {} is led by",
            "{} elected as its mayor",
        ),
        (
            "Who is the mayor of {}?",
            "Who governs {}?",
            "Who leads the council of {}?",
        ),
        "The chain of office in {} is worn by",
        inverse="mayor_of",
    ),
    _relation(
        "capital",
        "country",
        "city",
        (
            "The capital of {} is",
            "{}'s capital is",
            "{} is governed from",
            "The seat of government of {} is",
            "The first city of {} is",
        ),
        (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "From which city is {} governed?",
        ),
        "The parliament of {} meets in",
        inverse="capital_of",
    ),
    _relation(
        "capital_of",
        "city",
        "country",
        (
            "{} is the capital of",
            "{} is the seat of government of",
            "The country governed from {} is",
            "{} serves as capital of",
            "From {} one governs",
        ),
        (
            "Of which country is {} the capital?",
            "Which country has {} as its capital?",
            "Which country is governed from {}?",
        ),
        "The parliament in {} makes the laws of",
        inverse="capital",
    ),
    _relation(
        "official_language",
        "country",
        "language",
        (
            "The official language of {} is",
            "People in {} speak",
            "The language of the state {} is",
            "In {} the schools teach in",
            "The laws of {} are written in",
        ),
        (
            "What is the official language of {}?",
            "Which language do people in {} speak?",
            "In which language are the laws of {} written?",
        ),
        "Road signs in {} are painted in",
    ),
    _relation(
        "continent",
        "country",
        "continent",
        (
            "{} is a country in",
            "The continent of {} is",
            "{} is part of the continent",
            "{} can be found on the continent",
            "The land {} lies in",
        ),
        (
            "On which continent is {}?",
            "What is the continent of {}?",
            "Which continent does {} belong to?",
        ),
        "A map that shows {} is a map of",
    ),
    _relation(
        "currency",
        "country",
        "currency",
        (
            "The currency of {} is the",
            "People in {} pay with the",
            "{}'s money is the",
            "The bank of {} issues the",
            "Prices in {} are given in the",
        ),
        (
            "What is the currency of {}?",
            "What do people in {} pay with?",
            "Which money is used in {}?",
        ),
        "A purse lost in {} holds the",
    ),
    _relation(
        "headquarters",
        "company",
        "city",
        (
            "{} is based in",
            "The headquarters of {} are in",
            "{} has its main office in",
            "The home city of {} is",
            "{} is run from",
        ),
        (
            "Where is {} based?",
            "Where are the headquarters of {}?",
            "In which city is the main office of {}?",
        ),
        "Letters to {} go to",
    ),
    _relation(
        "ceo",
        "company",
        "person",
        (
            "The chief executive of {} is",
            "{} is run by",
            "{}'s chief executive is",
            "The board of {} is headed by",
            "The person in charge of {} is",
        ),
        (
            "Who is the chief executive of {}?",
            "Who runs {}?",
            "Who is in charge of {}?",
        ),
        "The annual report of {} is signed by",
        inverse="ceo_of",
    ),
    _relation(
        "industry",
        "company",
        "industry",
        (
            "{} is active in",
            "The industry of {} is",
            "The business of {} is",
            "{} earns its money with",
            "{} is a company in the field of",
        ),
        (
            "What is the industry of {}?",
            "In which field is {} active?",
            "What does {} earn its money with?",
        ),
        "Shares of {} rise and fall with",
    ),
    _relation(
        "university_city",
        "university",
        "city",
        (
            "{} is located in",
            "The city of {} is",
            "{} has its campus in",
            "The lecture halls of {} are in",
            "The home of {} is",
        ),
        (
            "In which city is {} located?",
            "Where is {} located?",
            "Where is the campus of {}?",
        ),
        "Students of {} rent rooms in",
    ),
    _relation(
        "rector",
        "university",
        "person",
        (
            "The rector of {} is",
            "{} is directed by",
            "{}'s rector is",
            "{} is headed by",
            "The office of rector of {} is held by",
        ),
        (
            "Who is the rector of {}?",
            "Who directs {}?",
            "Who is the head of {}?",
        ),
        "The academic year of {} is opened by",
        inverse="rector_of",
    ),
    _relation(
        "also_known_as",
        "person",
        "alias",
        (
            "{} is also known as",
            "The stage name of {} is",
            "{} appears on stage as",
            "Fans call {} by the name",
            "{} goes by the name",
        ),
        (
            "What is the stage name of {}?",
            "By which other name is {} known?",
            "What do fans call {}?",
        ),
        "Posters announce {} as",
        inverse="real_name",
    ),
    _relation(
        "real_name",
        "alias",
        "person",
        (
            "The real name of {} is",
            "{} is the stage name of",
            "{} is really",
            "The person behind the name {} is",
            "Off stage {} is called",
        ),
        (
            "What is the real name of {}?",
            "Who is {} really?",
            "Who is behind the name {}?",
        ),
        "The passport of {} says",
        inverse="also_known_as",
    ),
)

COMPOSITIONS: Final[tuple[Composition, ...]] = (
    Composition(
        "birth_country",
        ("born_in", "country"),
        (
            "In which country was {} born?",
            "What is the country of birth of {}?",
        ),
    ),
    Composition(
        "birth_product",
        ("born_in", "famous_for"),
        (
            "What is the birthplace of {} famous for?",
            "Which product is the home town of {} known for?",
        ),
    ),
    Composition(
        "birth_mayor",
        ("born_in", "mayor"),
        (
            "Who is the mayor of the birthplace of {}?",
            "Who governs the city where {} was born?",
        ),
    ),
    Composition(
        "study_city",
        ("educated_at", "university_city"),
        (
            "In which city did {} study?",
            "In which city is the school of {}?",
        ),
    ),
    Composition(
        "work_city",
        ("works_for", "headquarters"),
        (
            "In which city is the employer of {} based?",
            "Where are the headquarters of the company that employs {}?",
        ),
    ),
    Composition(
        "work_industry",
        ("works_for", "industry"),
        (
            "In which industry does {} work?",
            "What is the industry of the employer of {}?",
        ),
    ),
    Composition(
        "work_ceo",
        ("works_for", "ceo"),
        (
            "Who runs the company that employs {}?",
            "Who is the chief executive of the employer of {}?",
        ),
    ),
    Composition(
        "spouse_occupation",
        ("spouse", "occupation"),
        (
            "What is the occupation of the spouse of {}?",
            "What does the person married to {} do for a living?",
        ),
    ),
    Composition(
        "spouse_birthplace",
        ("spouse", "born_in"),
        (
            "Where was the spouse of {} born?",
            "What is the birthplace of the person married to {}?",
        ),
    ),
    Composition(
        "city_continent",
        ("country", "continent"),
        (
            "On which continent is the city {}?",
            "Which continent does the city {} belong to?",
        ),
    ),
    Composition(
        "city_language",
        ("country", "official_language"),
        (
            "Which language do people in the city {} speak?",
            "What is the official language in the city {}?",
        ),
    ),
    Composition(
        "city_currency",
        ("country", "currency"),
        (
            "What do people in the city {} pay with?",
            "Which money is used in the city {}?",
        ),
    ),
    Composition(
        "capital_mayor",
        ("capital", "mayor"),
        (
            "Who is the mayor of the capital of {}?",
            "Who governs the capital of {}?",
        ),
    ),
    Composition(
        "capital_product",
        ("capital", "famous_for"),
        (
            "What is the capital of {} famous for?",
            "Which product is the capital of {} known for?",
        ),
    ),
    Composition(
        "company_country",
        ("headquarters", "country"),
        (
            "In which country is {} based?",
            "In which country are the headquarters of {}?",
        ),
    ),
    Composition(
        "university_country",
        ("university_city", "country"),
        (
            "In which country is {} located?",
            "In which country is the campus of {}?",
        ),
    ),
    Composition(
        "birth_continent",
        ("born_in", "country", "continent"),
        (
            "On which continent was {} born?",
            "On which continent is the birthplace of {}?",
        ),
    ),
    Composition(
        "birth_capital",
        ("born_in", "country", "capital"),
        (
            "What is the capital of the country where {} was born?",
            "Which city is the capital of the country of birth of {}?",
        ),
    ),
    Composition(
        "work_country",
        ("works_for", "headquarters", "country"),
        (
            "In which country is the employer of {} based?",
            "In which country are the headquarters of the company that employs {}?",
        ),
    ),
    Composition(
        "study_country",
        ("educated_at", "university_city", "country"),
        (
            "In which country did {} study?",
            "In which country is the school of {}?",
        ),
    ),
)
